"""Which data sets a probe can't measure anything on, told before a run begins; its records then say so too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressbench.data.dataset import Dataset

BY_TOKEN = "it is of examples with one answer, and these are said token by token"
NO_PICTURES = "corruptions are of pictures, and the examples are none"


def no_surface(dataset: Dataset) -> str:
    """Why an attack may change nothing of the examples; empty where it may."""
    from compressbench.tasks.images.classification import Classification
    from compressbench.tasks.task import NoSurface

    if isinstance(dataset.task, Classification):  # whose surface would import torch
        return ""
    surface = dataset.task.surface()
    return surface.why if isinstance(surface, NoSurface) else ""


def no_pictures(dataset: Dataset, why: str = NO_PICTURES) -> str:
    """``why``, of corruptions unless said; empty where the examples are pictures of one label each."""
    from compressbench.tasks.images.classification import Classification

    return "" if isinstance(dataset.task, Classification) else why


def by_token(dataset: Dataset) -> str:
    """Why nothing is told of examples that are right or wrong as a whole; empty where there are such."""
    return BY_TOKEN if getattr(dataset.task, "streams", False) else ""
