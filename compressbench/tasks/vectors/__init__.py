"""Vectors: examples that are points of a space, as the theory of training has them."""
