"""The rule for criteria, probes, stages, targets, tasks, recipes: tests hold shipped ones to it, ``check`` own ones."""
