"""From scores to a pruned state: masks (``unstructured``), and channels and blocks removed (``structured``).

Own stages apply masks of their own by ``compressbench.pruning.masked(state, masks)``.
"""

from compressbench.masks import masked

__all__ = ["masked"]
