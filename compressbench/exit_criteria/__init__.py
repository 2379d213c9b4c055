"""Exit criteria: how sure a net is at an early exit, one file each; a row leaves where that reaches the threshold."""
