"""Loyalty: does the compressed model answer as the reference does, right or wrong (Xu et al., EMNLP 2021)?"""

from __future__ import annotations

import itertools
import statistics
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.populations import Member, Population
    from compressbench.views import View

QUANTILES = (50.0, 99.0)
CHUNK = 256
HALF = "log-probabilities are kept in 16 bits, which moves it by less than 0.01 points"
SHARED = "pairs share nets: their spread is none of independent repeats"


@dataclass(frozen=True)
class Loyalty:
    """Label loyalty, and probability loyalty with the natural logarithm (as published) and with base 2.

    On the test split as a whole, per class and per sub-group of each of the data set's attributes, and on pictures that
    have no label; KL divergence from the reference beside it. Of populations the floor: how loyal dense nets are to each
    other.

    Attributes:
        unlabelled: a folder of pictures that nobody need have labelled, on which loyalty is measured as well; null for
            none. They are scaled to what the nets take.
    """

    VERSION: ClassVar[int] = (
        3  # 2: answers that are no numbers agree with nothing; 3: groups, KL, populations
    )
    unlabelled: str | None = None

    def __post_init__(self) -> None:
        if self.unlabelled is not None and (not isinstance(self.unlabelled, str) or not self.unlabelled):
            raise UserError("loyalty: unlabelled is a folder of pictures, or null for none")

    def files(self) -> tuple[str, ...]:
        """What is read beside the data set, so that a result is measured anew where that changed."""
        return () if self.unlabelled is None else tuple(map(str, _pictures(self.unlabelled)))

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: a folder without pictures is refused.

        Raises:
            UserError: see above.
        """
        if self.unlabelled is not None:
            _pictures(self.unlabelled)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the whole test split, against the reference."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)
        if self.unlabelled is not None:
            yield from _unlabelled(subject, reference, bench, self.unlabelled)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics

        if subject.streams:
            yield from _streamed(subject, reference, bench)
            return
        own, other = subject.log_probs, reference.log_probs
        n = len(own)
        same = _same(own, other)
        far = metrics.js_distance(own.double().exp(), other.double().exp())
        yield Metric("label_loyalty", metrics.percent(same), "%", n=n)
        natural = 100 * float((1 - far).mean())
        yield Metric("probability_loyalty", natural, "%", n=n, note="natural logarithm")
        binary = metrics.probability_loyalty(own, other, base=2)
        yield Metric("probability_loyalty_base2", binary, "%", n=n, note="base 2")
        yield from _divergence(own, other)
        for name, rows in _groups(subject, other, bench):
            of = int(rows.sum())
            if of:
                yield Metric("label_loyalty", metrics.percent(same[rows]), "%", n=of, group=name)
                close = 100 * float((1 - far[rows]).mean())
                yield Metric("probability_loyalty", close, "%", n=of, group=name, note="natural logarithm")

    def measure_many(self, subjects: Population, references: Population, bench: Bench) -> Iterable[Metric]:
        """How loyal each net is to the dense net of its own seed, and dense nets of two seeds to each other.

        ``n`` is the number of nets, and for the floor that of dense nets, of all pairs of which it is.
        """
        from compressbench.data.examples import one_class

        one_class(bench.feed("test").labels, "loyalty")
        seeds = {m.seed: m for m in references.members}
        own = [(m, seeds[m.seed]) for m in subjects.members if m.seed in seeds]
        lost = len(subjects) - len(own)
        without = f"{lost} of {len(subjects)} nets have no dense net of their seed" if lost else ""
        pairs = [*own, *itertools.combinations(references.members, 2)]
        for what, of in (("label", _label_loyalties), ("probability", _probability_loyalties)):
            half = HALF if what == "probability" else ""
            try:
                found = of(pairs)
            except UserError as error:  # of too many classes log-probabilities aren't kept
                for name in ("population", "floor"):
                    yield Metric(f"{name}_{what}_loyalty", None, "%", note=str(error))
                continue
            yield from _over_nets(f"population_{what}_loyalty", found[: len(own)], (without, half))
            yield from _floor(f"floor_{what}_loyalty", found[len(own) :], len(references), half)


def _label_loyalties(pairs: Sequence[tuple[Member, Member]]) -> list[float]:
    from compressbench.metrics import label_loyalty

    known = {m: m.labels() for pair in pairs for m in pair}
    return [label_loyalty(known[one], known[other]) for one, other in pairs]


def _probability_loyalties(pairs: Sequence[tuple[Member, Member]]) -> list[float]:
    """In percent, by the natural logarithm."""
    from compressbench.comparing.probabilities import loyalties

    nets = list(dict.fromkeys(m for pair in pairs for m in pair))
    scores = [m.log_probs().numpy() for m in nets]
    return loyalties(scores, [(nets.index(one), nets.index(other)) for one, other in pairs])


def _divergence(own: Tensor, other: Tensor) -> Iterable[Metric]:
    """KL(reference || subject): mean and quantiles, in nats; rows that hold no numbers are left out."""
    import numpy as np

    from compressbench.comparing.arrays import pieces
    from compressbench.comparing.probabilities import LOGITS, probabilities, quantiles, relative_entropy

    p, q = other.numpy(), own.numpy()
    found = np.concatenate(
        [
            relative_entropy(probabilities(p[rows], LOGITS), probabilities(q[rows], LOGITS))
            for rows in pieces(*p.shape)
        ]
    )
    known = found[~np.isnan(found)]
    if not len(known):
        return
    yield Metric("kl", float(known.mean()), "nats", n=len(known))
    for at, value in quantiles(known, QUANTILES).items():
        if value is not None:
            yield Metric(f"kl_{at:g}", value, "nats", n=len(known))


def _streamed(subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
    """Over all tokens, and those of each sub-group's examples; no row of log-probabilities is kept."""
    import math

    from compressbench.comparing.probabilities import quantiles
    from compressbench.metrics import percent
    from compressbench.probes.side_by_side import apart, different

    if why := different(subject, reference):
        for name in ("label_loyalty", "probability_loyalty", "probability_loyalty_base2"):
            yield Metric(name, None, "%", note=why)
        return
    found = apart(subject, reference)
    n = len(found.same)
    yield Metric("label_loyalty", percent(found.same), "%", n=n, note="tokens")
    yield Metric(
        "probability_loyalty", 100 * float((1 - found.js).mean()), "%", n=n, note="natural logarithm"
    )
    binary = 100 * float((1 - found.js / math.sqrt(math.log(2))).mean())
    yield Metric("probability_loyalty_base2", binary, "%", n=n, note="base 2")
    kl = found.kl[~found.kl.isnan()].numpy()
    if len(kl):
        yield Metric("kl", float(kl.mean()), "nats", n=len(kl))
        for at, value in quantiles(kl, QUANTILES).items():
            if value is not None:
                yield Metric(f"kl_{at:g}", value, "nats", n=len(kl))
    feed = bench.feed("test")
    for by, names in bench.dataset.groups.items():
        codes = feed.groupings[by].cpu()[found.owners]
        for k, value in enumerate(names):
            rows = codes == k
            of, group = int(rows.sum()), f"{by}={value}"
            if of:
                yield Metric("label_loyalty", percent(found.same[rows]), "%", n=of, group=group)
                close = 100 * float((1 - found.js[rows]).mean())
                yield Metric("probability_loyalty", close, "%", n=of, group=group, note="natural logarithm")


def _groups(subject: View, other: Tensor, bench: Bench) -> Iterable[tuple[str, Tensor]]:
    """(name, which rows of its answers) of each class and each sub-group; none where a row is not an example.

    An example without label is of the class that the reference names.
    """
    import torch

    from compressbench.metrics import named

    labels, feed = subject.labels, bench.feed("test")
    if len(other) != len(labels):
        return
    if labels.ndim == 1 and not labels.is_floating_point():
        of = torch.where(labels >= 0, labels, named(other))
        for k, name in enumerate(bench.task.classes):
            yield name, of == k
    for by, names in bench.dataset.groups.items():
        codes = feed.groupings[by].cpu()
        for k, value in enumerate(names):
            yield f"{by}={value}", codes == k


def _same(one: Tensor, other: Tensor) -> Tensor:
    """(n,) bool, both name one class; what is no number agrees with nothing."""
    from compressbench.metrics import named

    first, second = named(one), named(other)
    return (first == second) & (first >= 0)


def _unlabelled(subject: View, reference: View, bench: Bench, folder: str) -> Iterable[Metric]:
    from compressbench import metrics
    from compressbench.tasks.images.classification import Classification

    names = ("unlabelled_label_loyalty", "unlabelled_probability_loyalty")
    if not isinstance(bench.task, Classification):
        for name in names:
            yield Metric(name, None, "%", note="a folder of pictures is for nets that classify pictures")
        return
    theirs = _asked.setdefault(reference, {})
    if folder not in theirs:
        theirs[folder] = _told_of(reference, folder)
    other = theirs[folder]
    own = other if subject is reference else _told_of(subject, folder)
    n = len(own)
    yield Metric(names[0], metrics.percent(_same(own, other)), "%", n=n, note="pictures without label")
    close = metrics.probability_loyalty(own, other)
    yield Metric(names[1], close, "%", n=n, note="pictures without label; natural logarithm")


_asked: weakref.WeakKeyDictionary[View, dict[str, Tensor]]
_asked = weakref.WeakKeyDictionary()


def _pictures(folder: str) -> list[Path]:
    """The pictures right in a folder, by name.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    from compressbench.data.folder import SUFFIXES
    from compressbench.paths import given_path

    base = given_path(folder, "loyalty: unlabelled")
    if not base.is_dir():
        raise UserError(f"loyalty: unlabelled: there is no folder {base}")
    found = sorted(
        p
        for p in base.iterdir()
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    if not found:
        raise UserError(f"loyalty: unlabelled: {base} holds no picture ({', '.join(sorted(SUFFIXES))})")
    return found


def _told_of(view: View, folder: str) -> Tensor:
    """(n, classes) log-probabilities of the folder's pictures, read some at a time."""
    import torch

    from compressbench.data.dataset import Split
    from compressbench.data.folder import read_pictures
    from compressbench.outputs import forward
    from compressbench.paths import given_path
    from compressbench.views import BATCH

    task, base, paths = view.bench.task, given_path(folder, "loyalty: unlabelled"), _pictures(folder)
    channels, height, width = task.facts()["@shape"]
    found = []
    for start in range(0, len(paths), CHUNK):
        part = paths[start : start + CHUNK]
        try:
            pixels = read_pictures(base, part, (height, width), channels)
        except UserError as error:
            raise UserError(str(error).replace("image_folder:", "loyalty: unlabelled:", 1)) from error
        nobody = torch.full((len(part),), -1).numpy()
        for batch in Split.of(pixels, nobody).to(view.bench.device).batches(BATCH):
            with torch.inference_mode():
                said = task.log_probs(forward(view.fast, *task.encode(batch)), batch.labels)
            found.append(said.log_probs.cpu())
    return torch.cat(found)


def _over_nets(name: str, found: Sequence[float], notes: Sequence[str]) -> Iterable[Metric]:
    note = "; ".join(x for x in notes if x)
    if not found:
        yield Metric(name, None, "%", note=note or "no net")
        return
    yield Metric(name, statistics.fmean(found), "%", n=len(found), note=note)


def _floor(name: str, found: Sequence[float], nets: int, half: str) -> Iterable[Metric]:
    """Mean, spread, lowest and highest over all pairs of dense nets."""
    if not found:
        yield Metric(name, None, "%", n=nets, note="one dense net has no other to agree with")
        return
    note = "; ".join(x for x in (f"{len(found)} pairs of {nets} dense nets", SHARED, half) if x)
    yield Metric(name, statistics.fmean(found), "%", n=nets, note=note)
    if len(found) > 1:
        yield Metric(f"{name}_sd", statistics.stdev(found), "points", n=nets, note=SHARED)
    yield Metric(f"{name}_low", min(found), "%", n=nets)
    yield Metric(f"{name}_high", max(found), "%", n=nets)
