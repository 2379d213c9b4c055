"""The arithmetic of comparing two models by their outputs alone: arrays in, figures and sentences out.

Everything here takes numpy arrays of two models' outputs on the same examples in the same order, the reference's first,
and imports no torch. Shares are in percent and their differences in points, unless a name says otherwise; confidences
and probabilities are in [0, 1].
"""
