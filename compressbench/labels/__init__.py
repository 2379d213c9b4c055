"""Labels: what of a teacher's answer the student is to learn, soft, hard, or with a part of its knowledge destroyed.

One file, one function each: ``(Lesson, **settings) -> Tensor``, logits (n, classes) whose softmax at the lesson's
temperature is the label. Named by a word: ``labels: hard``. Tang et al. 2020 ask by them why distillation works.
"""
