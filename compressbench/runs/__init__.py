"""A run from its config to its report: plan, keys, estimate, the executor, where and with what it ran."""
