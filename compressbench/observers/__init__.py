"""Observers: from the values that a layer sees, or from its weights, to the range that its integers cover.

One file, one function each: ``(Observed, **settings) -> (low, high)``; a file beside it in ``conf/observer``.
"""
