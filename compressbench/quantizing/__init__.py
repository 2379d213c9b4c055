"""Quantization of a state: batch norms folded, ranges observed, scales and the edits ``fold`` and ``quantize`` made."""
