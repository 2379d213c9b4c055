"""Comparing anybody's artefacts from end to end: who is asked what, in which order, and what becomes of it."""
