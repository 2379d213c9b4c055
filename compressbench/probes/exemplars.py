"""Exemplars: examples that compressed nets answer otherwise than dense ones, run after run (Hooker et al. 2019, 2020)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.probes.families import checked, families, known
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.populations import Population

NONE = "there are no exemplars"


@dataclass(frozen=True)
class Exemplars:
    """Examples whose modal label differs from the reference population's: how many, of whom, how hard, and which.

    Of equally frequent labels the highest is the modal one, as in the authors' code.

    Attributes:
        by: ``classes`` and names of attributes; None for all there are.
        shown: so many are kept with their pictures, the highest taxicab score first; 0 for none.
        splits: of the reference population into halves, at most.
    """

    VERSION: ClassVar[int] = 2  # equal taxicab scores are equal: then by row, not by rounding
    by: Sequence[str] | None = None
    shown: int = 24
    splits: int = 10

    def __post_init__(self) -> None:
        checked(self.by, "exemplars")
        if self.shown < 0:
            raise UserError(f"exemplars: shown is {self.shown}, must be 0 or more")
        if self.splits < 1:
            raise UserError(f"exemplars: splits is {self.splits}, must be 1 or more")

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: a data set without such an attribute is refused.

        Raises:
            UserError: see above.
        """
        known(dataset, self.by or (), "exemplars")

    def measure_many(self, subjects: Population, references: Population, bench: Bench) -> Iterable[Metric]:
        """On the whole test split. A group's share is that of the exemplars which come from it."""
        from compressbench.comparing import many
        from compressbench.data.examples import one_class

        examples = bench.feed("test").to("cpu")
        one_class(examples.labels, "exemplars")
        truth, classes = examples.labels.numpy(), len(bench.task.classes)
        own, other = subjects.labels.numpy(), references.labels.numpy()
        try:
            many.enough(own, other)
        except UserError as error:
            yield Metric("exemplar_share", None, "%", note=str(error))
            return
        found = many.exemplars(many.votes(own, classes), many.votes(other, classes))
        n, count = int(found.known.sum()), int(found.differ.sum())
        if not n:
            yield Metric("exemplar_share", None, "%", note="no example got an answer that is a number")
            return
        lost = int((~found.known).sum())
        note = f"{lost} of {len(truth)} examples got no answer that is a number" if lost else ""
        yield Metric("exemplar_share", 100 * count / n, "%", n=n, note=note)
        yield Metric("exemplar_count", count, "1", n=n)
        tied = 100 * float(found.tied[found.differ].mean()) if count else None
        yield Metric("exemplar_ties", tied, "%", n=count, note="" if count else NONE)
        null = many.null_exemplars(other, classes, self.splits)
        told = f"{min(null):.1f} to {max(null):.1f} in {len(null)} splits of the {len(other)} reference nets into halves"
        yield Metric("exemplar_null", statistics.fmean(null), "%", n=n, note=told)
        for name, labels in (("reference", other), ("subject", own)):
            right = labels == truth
            for place, where in (("on_exemplars", found.differ), ("elsewhere", found.known & ~found.differ)):
                size = int(where.sum())
                value = 100 * float(right[:, where].mean()) if size else None
                why = "" if size else NONE if place == "on_exemplars" else "every example is an exemplar"
                yield Metric(f"{name}_{place}", value, "%", n=size, note=why)
        yield Metric("taxicab_mean", float(found.score.mean()), "1", n=len(truth))
        yield from self._groups(found, bench)
        yield from self._pictures(found, subjects, bench)

    def _groups(self, found: Any, bench: Bench) -> Iterable[Metric]:
        import numpy as np

        for family in families(bench, self.by, "exemplars"):
            counts, own = (
                np.bincount(family.ids[where & (family.ids >= 0)], minlength=len(family.groups))
                for where in (found.known, found.known & found.differ)
            )
            whole, exemplars = int(counts.sum()), int(own.sum())
            for k in np.flatnonzero(counts):
                share = f"{100 * counts[k] / whole:.1f} % of the test examples are of it"
                yield Metric(
                    "exemplar_share",
                    100 * int(own[k]) / exemplars if exemplars else None,
                    "%",
                    n=exemplars,
                    group=family.groups[k],
                    note=share if exemplars else NONE,
                )

    def _pictures(self, found: Any, subjects: Population, bench: Bench) -> Iterable[Metric]:
        """One record an exemplar: its group is its rank from 1, its value its row in the source."""
        from compressbench.probes.thumbnails import attributes, thumbnails

        rows = found.ranked[: self.shown]
        if not len(rows):
            return
        classes, chosen = bench.task.classes, bench.feed("test").take(rows.tolist()).to("cpu")
        shown, beside = thumbnails(chosen, bench.task), attributes(chosen, bench.dataset)
        for rank, (row, seen) in enumerate(zip(rows.tolist(), shown, strict=True), 1):
            labels = int(chosen.labels[rank - 1]), int(found.reference[row]), int(found.subject[row])
            true, dense, other = (classes[k] for k in labels)
            note = f"true {true} · dense {dense} · compressed {other} · taxicab {found.score[row]:.2f}"
            note += beside[rank - 1]
            yield Metric(
                "exemplar",
                int(chosen.rows[rank - 1]),
                "1",
                n=len(subjects),
                group=str(rank),
                note=note,
                artefact=seen,
            )
