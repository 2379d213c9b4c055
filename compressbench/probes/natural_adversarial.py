"""Natural adversarial: unaltered pictures on which nets fail, in ImageNet-A's layout (Hendrycks et al., CVPR 2021)."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.tasks.images.classification import Classification
    from compressbench.views import View

CHUNK = 256
NO_PICTURES = "pictures of one label alone"


@dataclass(frozen=True)
class NaturalAdversarial:
    """Accuracy on a folder with one folder a class, for some of the data set's classes.

    As published, the answer is the likeliest of the folder's classes alone; accuracy on the test images of these classes,
    restricted alike, is what it is held against.

    Attributes:
        folder: with the class folders; a mere read, nothing is fetched. None measures nothing and says so.
        classes: what class of the data set a folder is, ``{n01498041: stingray}``, where its name is another.
    """

    folder: str | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.folder is not None and (not isinstance(self.folder, str) or not self.folder):
            raise UserError(
                f"natural_adversarial: folder is {self.folder!r}; the folder with a folder of pictures for each class is "
                "wanted, or null for none"
            )
        if not isinstance(self.classes, Mapping):
            raise UserError("natural_adversarial: classes: {folder: class} is wanted")

    def files(self) -> tuple[str, ...]:
        """What is read beside the data set, so that a result is measured anew where that changed."""
        if self.folder is None:
            return ()
        return tuple(str(path) for paths in _listing(self.folder).values() for path in paths)

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: a missing folder, or one in it that is no class, is refused.

        Raises:
            UserError: see above.
        """
        from compressbench.tasks.images.classification import Classification

        if self.folder is not None and isinstance(dataset.task, Classification):
            _files(self.folder, self.classes, dataset.task)

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import no_pictures

        return no_pictures(dataset, NO_PICTURES)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Accuracy there and on clean images of the same classes, and the change of their ratio to the reference's."""
        from compressbench.tasks.images.classification import Classification

        if not isinstance(bench.task, Classification):
            yield Metric("natural_adversarial_top1", None, "%", note=NO_PICTURES)
            return
        if self.folder is None:
            why = "no folder is named: probes.natural_adversarial.folder, with a folder of pictures for each class"
            yield Metric("natural_adversarial_top1", None, "%", note=why)
            return
        files, places = _files(self.folder, self.classes, bench.task)
        known = _asked.setdefault(reference, {})
        key = (self.folder, tuple(sorted(self.classes.items())))
        if key not in known:
            known[key] = _shares(reference, Path(self.folder).expanduser(), files, places)
        theirs = known[key]
        own = (
            theirs
            if subject is reference
            else _shares(subject, Path(self.folder).expanduser(), files, places)
        )
        (hard, n), (clean, of) = own
        note = f"the likeliest of {len(places)} classes"
        yield Metric("natural_adversarial_top1", hard, "%", n=n, note=note)
        if of:
            yield Metric("natural_adversarial_clean_top1", clean, "%", n=of, note=note)
        (before, _), (whole, _) = theirs
        name = "natural_adversarial_relative_change"
        if not of or not clean or not whole or not before:
            why = "a ratio to nothing: no test images of these classes, or none of them right"
            yield Metric(name, None, "%", note=why)
            return
        yield Metric(name, 100 * ((hard / clean) / (before / whole) - 1), "%", n=n)


_Shares = tuple[tuple[float, int], tuple[float, int]]
_asked: weakref.WeakKeyDictionary[View, dict[tuple[str, tuple[tuple[str, str], ...]], _Shares]]
_asked = weakref.WeakKeyDictionary()


def _listing(folder: str) -> dict[str, list[Path]]:
    """Picture files by folder.

    Raises:
        UserError: there is no such folder.
    """
    from compressbench.data.folder import files
    from compressbench.paths import given_path

    base = given_path(folder, "natural_adversarial: folder")
    if not base.is_dir():
        raise UserError(f"natural_adversarial: there is no folder {base}")
    try:
        return files(base)
    except UserError as error:
        raise UserError(str(error).replace("image_folder:", "natural_adversarial:", 1)) from error


def _files(
    folder: str, classes: Mapping[str, str], task: Classification
) -> tuple[dict[int, list[Path]], list[int]]:
    """Picture files by class number, and these numbers, rising.

    Raises:
        UserError: there is no such folder, or one in it is no class.
    """
    listing, base = _listing(folder), Path(folder).expanduser()
    number = {name: k for k, name in enumerate(task.classes)}
    found: dict[int, list[Path]] = {}
    for name, pictures in listing.items():
        called = classes.get(name, name)
        if called not in number:
            raise UserError(
                f"natural_adversarial: {base / name} is class {called!r}, which the data set has not; "
                f"{nearest(str(called), task.classes)}; classes: {{{name}: …}} says which it is"
            )
        found.setdefault(number[called], []).extend(pictures)
    return found, sorted(found)


def _shares(view: View, base: Path, files: Mapping[int, list[Path]], places: list[int]) -> _Shares:
    """(percent right, examples) on the folder and on the clean test images of its classes."""
    import torch

    from compressbench import metrics
    from compressbench.data.folder import read_pictures
    from compressbench.tasks.images.attacks import log_probs

    task = view.bench.task
    channels, height, width = task.facts()["@shape"]
    listed = [(path, label) for label, paths in files.items() for path in paths]
    right = []
    for start in range(0, len(listed), CHUNK):
        chunk = listed[start : start + CHUNK]
        try:
            pixels = read_pictures(base, [path for path, _ in chunk], (height, width), channels)
        except UserError as error:
            raise UserError(str(error).replace("image_folder:", "natural_adversarial:", 1)) from error
        images = task.normalised(torch.from_numpy(pixels).to(view.bench.device))  # type: ignore[attr-defined]
        right.append(_restricted(log_probs(view.fast, images).cpu(), [label for _, label in chunk], places))
    labels = view.labels
    own = torch.isin(labels, torch.tensor(places))
    clean = _restricted(view.log_probs[own], labels[own].tolist(), places)
    hard = torch.cat(right)
    return (metrics.percent(hard), len(hard)), (metrics.percent(clean) if len(clean) else 0.0, len(clean))


def _restricted(said: Tensor, labels: list[int], places: list[int]) -> Tensor:
    """(n,) bool: the label is the likeliest of some classes; what is no number is wrong."""
    import torch

    from compressbench import metrics

    number = {label: k for k, label in enumerate(places)}
    wanted = torch.tensor([number[label] for label in labels], dtype=torch.int64)
    return metrics.hits(said[:, places], wanted)
