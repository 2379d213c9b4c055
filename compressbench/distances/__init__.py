"""Distances between two nets' logits: what "the same answer" means to a distillation.

One file, one function each: ``(student, teacher) -> Tensor``, both (n, classes), the mean over examples, zero where they
are the same (but for ``cross_entropy``). Named by a word: ``distance: js``. ``distill`` gives both divided by the
temperature T and multiplies the result by T², so that its gradient keeps its size whatever T is (Hinton et al. 2015).
"""
