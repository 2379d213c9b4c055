"""The rule for criteria, probes, stages, targets, tasks and recipes: the tests hold shipped ones to it, ``check`` own ones."""
