"""Shifted: accuracy where the test images are not quite like those of the training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.views import View

KNOWN = ("gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur", "contrast")


@dataclass(frozen=True)
class Shifted:
    """Top-1 on the test split, corrupted; the corrupted images are the same for all states and seeds.

    Attributes:
        corruptions: which, see ``compressbench.tasks.images.corruptions``.
        severity: 1 … 5, with the strengths of CIFAR-10-C.
        examples: of the test split, from its beginning; null for all.
    """

    VERSION: ClassVar[int] = 2  # 2: answers that are no numbers are said
    corruptions: tuple[str, ...] = KNOWN
    severity: int = 3
    examples: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "corruptions", tuple(self.corruptions))
        for name in self.corruptions:
            if name not in KNOWN:
                raise UserError(f"shifted: unknown corruption {name!r}; {nearest(name, KNOWN)}")
        if not self.corruptions:
            raise UserError(f"shifted: no corruption is named; known: {', '.join(KNOWN)}")
        if self.severity not in range(1, 6):
            raise UserError(f"shifted: severity is {self.severity}, must be 1 to 5")
        if self.examples is not None and self.examples < 1:
            raise UserError(f"shifted: examples is {self.examples}, must be at least 1, or null for all")

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import no_pictures

        return no_pictures(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject: the mean over the corruptions, and each of them."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics
        from compressbench.probes.spoilt import log_probs, pictures
        from compressbench.probes.unfit import NO_PICTURES
        from compressbench.tasks.images.classification import Classification

        examples = bench.feed("test").head(self.examples)
        if not isinstance(bench.task, Classification):
            yield Metric("shifted_top1", None, "%", note=NO_PICTURES)
            return
        labels = examples.labels.cpu()
        found = {}
        for kind in self.corruptions:
            spoilt = pictures(bench, kind, self.severity, self.examples)
            found[kind] = metrics.percent(metrics.hits(log_probs(subject, examples, spoilt), labels))
        note = f"severity {self.severity} of 5"
        mean = sum(found.values()) / len(found)
        yield Metric("shifted_top1", mean, "%", n=len(labels), note=f"mean over {', '.join(found)}; {note}")
        for kind, value in found.items():
            yield Metric("shifted_top1", value, "%", n=len(labels), group=kind, note=note)
