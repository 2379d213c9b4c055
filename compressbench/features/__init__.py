"""Features: how a student's intermediate tensors are to follow a teacher's.

One file, one function each: ``(student, teacher) -> Tensor``, what two modules gave for the same batch, examples first;
the result is the loss. Named by a word: ``feature: attention``. A regressor in between is ``mimic``'s business.
"""
