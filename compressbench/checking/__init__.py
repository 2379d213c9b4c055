"""The rule that a criterion, probe, stage, target, task and recipe keep to: shipped ones by the tests, own ones by ``check``."""
