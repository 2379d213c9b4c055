"""Corruptions: what is left on pictures that get worse, by kind and severity, and beside the reference."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from compressbench.errors import UserError, nearest
from compressbench.paths import given_path
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.data.examples import Examples
    from compressbench.probes.spoilt import Kept
    from compressbench.tasks.images.classification import Classification
    from compressbench.views import View

T = TypeVar("T")
MAIN = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
KNOWN = (*MAIN, "speckle_noise", "gaussian_blur", "spatter", "saturate")
LEVELS = (1, 2, 3, 4, 5)
ANSWERS = 2**28
"""Bytes of the reference's answers that are kept; it is asked for those beyond again beside each state."""
LARGE = 64
"""Pixels of a side from which on a note says that lengths are meant for 32."""


@dataclass(frozen=True)
class Corruptions:
    """Accuracy, corruption error beside the reference, and loyalty on corrupted test images.

    The images are the same for all states, seeds and runs; each is shown to each state once.

    Attributes:
        kinds: of CIFAR-10-C, see ``compressbench.tasks.images.corruptions``. The mean corruption error is taken over
            the 15 of the paper among them, or over all where there are none of these.
        severities: 1 … 5.
        examples: of the test split, from its beginning; null for all.
        folder: with the published arrays ``KIND.npy`` and ``labels.npy`` of the test split's images; null to make
            corrupted ones here.
    """

    VERSION: ClassVar[int] = 1
    kinds: tuple[str, ...] = MAIN
    severities: tuple[int, ...] = LEVELS
    examples: int | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", _several("kinds", self.kinds))
        object.__setattr__(self, "severities", _several("severities", self.severities))
        for kind in self.kinds:
            if kind not in KNOWN:
                raise UserError(f"corruptions: unknown kind {kind!r}; {nearest(str(kind), KNOWN)}")
        for severity in self.severities:
            if isinstance(severity, bool) or severity not in LEVELS:
                raise UserError(f"corruptions: severity {severity!r}, must be a whole number from 1 to 5")
        if self.examples is not None and self.examples < 1:
            raise UserError(f"corruptions: examples is {self.examples}, must be at least 1, or null for all")

    def files(self) -> tuple[str, ...]:
        """What is read beside the data set, so that a result is measured anew where that changed."""
        parts = ["labels.npy", *(f"{kind}.npy" for kind in self.kinds)]
        return () if self.folder is None else tuple(str(_place(self.folder) / part) for part in parts)

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: arrays that are missing or of other pictures than the data set's are refused.

        Raises:
            UserError: see above.
        """
        from compressbench.tasks.images.classification import Classification
        from compressbench.tasks.images.published_sets import corrupted_set

        if self.folder is None or not isinstance(dataset.task, Classification):
            return
        for kind in self.kinds:
            corrupted_set(_place(self.folder), kind, 1, dataset.task.shape, len(dataset.classes))

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import no_pictures

        return no_pictures(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject, beside the reference on the same images."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterator[Metric]:
        import torch

        from compressbench import metrics
        from compressbench.probes.unfit import NO_PICTURES
        from compressbench.tasks.images.classification import Classification

        task = bench.task
        if not isinstance(task, Classification):
            yield Metric("corrupted_top1", None, "%", note=NO_PICTURES)
            return
        kinds = [k for k in self.kinds if not (k == "saturate" and task.shape[0] != 3)]
        if not kinds:
            why = "saturate is of colours, and the pictures have none"
            yield Metric("corrupted_top1", None, "%", note=why)
            return
        examples = bench.feed("test").head(self.examples)
        labels = examples.labels.cpu()
        same = subject.is_of_the_state_of(reference)
        grid = (len(kinds), len(self.severities))
        right, other, agreed, close = torch.zeros(4, *grid, dtype=torch.float64)
        for row, kind in enumerate(kinds):
            for column, severity in enumerate(self.severities):
                theirs = self._of_reference(reference, examples, kind, severity)
                own = theirs if same else self._said(subject, examples, kind, severity)
                place = row, column
                right[place] = metrics.percent(metrics.hits(own, labels))
                other[place] = metrics.percent(metrics.hits(theirs, labels))
                agreed[place] = metrics.label_loyalty(metrics.named(own), metrics.named(theirs))
                close[place] = metrics.probability_loyalty(own, theirs)
                bench.progress.step(row * grid[1] + column + 1, grid[0] * grid[1])
        clean = [
            metrics.percent(metrics.hits(v.log_probs[: len(labels)], labels)) for v in (subject, reference)
        ]
        found = _Found(kinds, self.severities, len(labels), self._notes(task, kinds), (clean[0], clean[1]))
        yield from _accuracies(found, right)
        yield from _errors(found, 100 - right, 100 - other)
        yield from _changes(found, right.mean(dim=1), other.mean(dim=1))
        for name, values, note in (
            ("corrupted_label_loyalty", agreed, ""),
            ("corrupted_probability_loyalty", close, "natural logarithm"),
        ):
            yield Metric(name, float(values.mean()), "%", n=found.n, note=note)
            for kind, value in zip(kinds, values.mean(dim=1).tolist(), strict=True):
                yield Metric(name, value, "%", n=found.n, group=kind, note=note)

    def _notes(self, task: Classification, kinds: Sequence[str]) -> str:
        told = [f"mean over {len(kinds)} kinds, {_levels(self.severities)}"]
        told += ["published files"] if self.folder else []
        told += ["without saturate: the pictures have no colours"] if len(kinds) < len(self.kinds) else []
        _, height, width = task.shape
        if not self.folder and max(height, width) > LARGE:
            told.append(
                f"strengths of 32 x 32 pictures: blurs, snow and spatter are milder on {height} x {width}"
            )
        return "; ".join(told)

    def _said(self, view: View, examples: Examples, kind: str, severity: int) -> Tensor:
        from compressbench.probes.spoilt import log_probs, pictures

        if self.folder is None:
            images = pictures(view.bench, kind, severity, self.examples)
        else:
            images = _published(_place(self.folder), view.bench, examples, kind, severity)
        return log_probs(view, examples, images)

    def _of_reference(self, view: View, examples: Examples, kind: str, severity: int) -> Tensor:
        from compressbench.probes.spoilt import Kept

        if view not in _of_references:
            _of_references[view] = Kept(ANSWERS)
        key = (kind, severity, self.examples, self.folder)
        return _of_references[view].get(key, lambda: self._said(view, examples, kind, severity))


def _place(folder: str) -> Path:
    return given_path(folder, "corruptions: folder")


_of_references: weakref.WeakKeyDictionary[View, Kept] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class _Found:
    """What all metrics of a measurement share; ``clean`` is the accuracy of subject and reference as the images are."""

    kinds: Sequence[str]
    severities: Sequence[int]
    n: int
    note: str
    clean: tuple[float, float]


def _accuracies(found: _Found, right: Tensor) -> Iterator[Metric]:
    note = f"{found.note}; {found.clean[0]:.2f} % on the same images as they are"
    yield Metric("corrupted_top1", float(right.mean()), "%", n=found.n, note=note)
    for kind, row in zip(found.kinds, right.tolist(), strict=True):
        for severity, value in zip(found.severities, row, strict=True):
            yield Metric("corrupted_top1", value, "%", n=found.n, group=f"{kind}, severity {severity}")


def _errors(found: _Found, errors: Tensor, reference: Tensor) -> Iterator[Metric]:
    from compressbench import metrics

    ratios = metrics.corruption_errors(errors, reference)
    relative = metrics.relative_corruption_errors(
        errors, 100 - found.clean[0], reference, 100 - found.clean[1]
    )
    for name, values, why in (
        ("corruption_error_ratio", ratios, "the reference errs on none of it"),
        ("relative_corruption_error", relative, "the reference loses nothing by it"),
    ):
        yield _mean(found, name, values, why)
        if name == "corruption_error_ratio":
            for kind, value in zip(found.kinds, values.tolist(), strict=True):
                yield _figure(name, value, found.n, kind, "", why)


def _mean(found: _Found, name: str, values: Tensor, why: str) -> Metric:
    taken = [k for k in found.kinds if k in MAIN] or list(found.kinds)
    known = {k: v for k, v in zip(found.kinds, values.tolist(), strict=True) if k in taken and v == v}
    note = f"mean over {len(known)} of the paper’s {len(MAIN)} kinds, {_levels(found.severities)}"
    if not set(taken) & set(MAIN):
        note = f"mean over {', '.join(known)}, none of the paper’s {len(MAIN)}; {_levels(found.severities)}"
    left = [k for k in taken if k not in known]
    note += f"; without {', '.join(left)}: {why}" if left else ""
    if not known:
        return Metric(name, None, "%", n=found.n, note=why)
    return Metric(name, sum(known.values()) / len(known), "%", n=found.n, note=note)


def _changes(found: _Found, right: Tensor, other: Tensor) -> Iterator[Metric]:
    from compressbench.metrics import relative_change

    name, why = "corruption_relative_change", "a model has nothing right"
    clean, reference = found.clean
    whole = relative_change(float(right.mean()), clean, float(other.mean()), reference)
    yield _figure(name, whole, found.n, "", found.note, why)
    for kind, one, two in zip(found.kinds, right.tolist(), other.tolist(), strict=True):
        yield _figure(name, relative_change(one, clean, two, reference), found.n, kind, "", why)


def _figure(name: str, value: float, n: int, group: str, note: str, why: str) -> Metric:
    """A metric; one that is no number has no value and says why."""
    if value != value:
        return Metric(name, None, "%", n=n, group=group, note=why)
    return Metric(name, value, "%", n=n, group=group, note=note)


def _published(folder: Path, bench: Bench, examples: Examples, kind: str, severity: int) -> Tensor:
    """uint8 (n, c, h, w) of the published arrays, at the examples' places in their source.

    Raises:
        UserError: the arrays can't be read, or aren't of these examples.
    """
    import torch

    from compressbench.tasks.images.classification import Classification
    from compressbench.tasks.images.published_sets import corrupted_set

    task = bench.task
    assert isinstance(task, Classification)
    found = corrupted_set(folder, kind, severity, task.shape, len(task.classes))
    rows = examples.rows.cpu().numpy()
    if len(rows) and int(rows.max()) >= len(found.labels):
        raise UserError(
            f"{folder / f'{kind}.npy'}: {len(found.labels)} pictures a severity, and the test split has a row "
            f"{int(rows.max())}; are these of the same test set?"
        )
    if (found.labels[rows] != examples.labels.cpu().numpy()).any():
        raise UserError(
            f"{folder / 'labels.npy'}: these aren't the test split's labels, so the pictures aren't its own corrupted"
        )
    return torch.from_numpy(found.pictures(rows))


def _several(name: str, given: Iterable[T]) -> tuple[T, ...]:
    """A setting that lists things, each once.

    Raises:
        UserError: it is no list, is empty, or says something twice.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UserError(f"corruptions: {name} is {given!r}, must be a list")
    found = tuple(given)
    if not found or len(set(map(str, found))) < len(found):
        raise UserError(f"corruptions: {name} is {list(found)}, must name at least one, each once")
    return found


def _levels(severities: Sequence[int]) -> str:
    if len(severities) == 1:
        return f"severity {severities[0]} of 5"
    return f"severities {', '.join(map(str, severities))} of 5"
