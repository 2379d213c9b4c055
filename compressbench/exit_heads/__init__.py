"""Exit heads: what makes logits of a net's value at an early exit, one file each."""
