"""Shifted sets: accuracy and loyalty on another test set of the same classes that the user has, CIFAR-10.1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.paths import given_path
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.views import View

NO_PICTURES = "the sets are of pictures, and the examples are none"

KNOWN = ("v4", "v6")


@dataclass(frozen=True)
class ShiftedSets:
    """Top-1 and loyalty on CIFAR-10.1 (Recht et al., 2018), whose arrays lie in a folder; nothing is downloaded.

    Attributes:
        folder: with ``cifar10.1_VERSION_data.npy`` and ``cifar10.1_VERSION_labels.npy``; null measures nothing and
            says so.
        versions: ``v6``, which is balanced, or ``v4``, which is larger.
    """

    VERSION: ClassVar[int] = 1
    folder: str | None = None
    versions: tuple[str, ...] = ("v6",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "versions", tuple(self.versions))
        for version in self.versions:
            if version not in KNOWN:
                raise UserError(
                    f"shifted_sets: unknown version {version!r} of CIFAR-10.1; {nearest(str(version), KNOWN)}"
                )
        if not self.versions:
            raise UserError(f"shifted_sets: no version is named; known: {', '.join(KNOWN)}")

    def files(self) -> tuple[str, ...]:
        """What is read beside the data set, so that a result is measured anew where that changed."""
        parts = [f"cifar10.1_{v}_{what}.npy" for v in self.versions for what in ("data", "labels")]
        return () if self.folder is None else tuple(str(_place(self.folder) / part) for part in parts)

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: arrays that are missing or of other pictures than the data set's are refused.

        Raises:
            UserError: see above.
        """
        from compressbench.tasks.images.classification import Classification
        from compressbench.tasks.images.published_sets import cifar10_1

        if self.folder is None or not isinstance(dataset.task, Classification):
            return
        for version in self.versions:
            cifar10_1(_place(self.folder), version, dataset.task.shape, len(dataset.classes))

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import no_pictures

        return no_pictures(dataset, NO_PICTURES)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterator[Metric]:
        """Of the subject, and how far it agrees with the reference there."""
        import numpy as np
        import torch

        from compressbench import metrics
        from compressbench.data.examples import Examples
        from compressbench.probes.spoilt import log_probs
        from compressbench.tasks.images.classification import IMAGES, Classification
        from compressbench.tasks.images.published_sets import cifar10_1

        task = bench.task
        if not isinstance(task, Classification):
            yield Metric("shifted_top1", None, "%", note=NO_PICTURES)
            return
        if self.folder is None:
            why = "no folder is named: probes.shifted_sets.folder, with the arrays of CIFAR-10.1"
            yield Metric("shifted_top1", None, "%", note=why)
            return
        for version in self.versions:
            found = cifar10_1(_place(self.folder), version, task.shape, len(task.classes))
            examples = Examples({IMAGES: found.pictures()}, found.labels, np.arange(len(found.labels)))
            images, labels = torch.from_numpy(examples[IMAGES]), torch.from_numpy(examples.labels)
            there = examples.to(bench.device)
            own = log_probs(subject, there, images)
            other = own if subject is reference else log_probs(reference, there, images)
            yield from _figures(
                f"cifar10.1 {version}", metrics.percent(metrics.hits(own, labels)), own, other
            )


def _place(folder: str) -> Path:
    return given_path(folder, "shifted_sets: folder")


def _figures(group: str, right: float, own: Tensor, other: Tensor) -> Iterable[Metric]:
    from compressbench import metrics

    n = len(own)
    agreed = metrics.label_loyalty(metrics.named(own), metrics.named(other))
    yield Metric("shifted_top1", right, "%", n=n, group=group)
    yield Metric("shifted_label_loyalty", agreed, "%", n=n, group=group)
    close = metrics.probability_loyalty(own, other)
    yield Metric("shifted_probability_loyalty", close, "%", n=n, group=group, note="natural logarithm")
