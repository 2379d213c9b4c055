"""Impact: which classes and sub-groups pay more than the others, over populations (Hooker et al. 2019)?"""

from __future__ import annotations

import math
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
    from compressbench.probes.families import Family

WHOLE = ("impacted_classes", "impacted_down", "impacted_up", "impacted_holm", "impacted_bh", "impacted_null")


@dataclass(frozen=True)
class Impact:
    """Welch's test by class after each population's mean accuracy was taken off, raw and corrected, beside chance.

    Chance is measured: halves of the reference population against each other.

    Attributes:
        by: ``classes`` and names of attributes; None for all there are. Tests are corrected within each.
        alpha: a p up to it counts.
        splits: into halves, at most.
    """

    VERSION: ClassVar[int] = 2  # 2: a group of one recall everywhere has not moved
    by: Sequence[str] | None = None
    alpha: float = 0.05
    splits: int = 50

    def __post_init__(self) -> None:
        checked(self.by, "impact")
        if not 0 < self.alpha < 1:
            raise UserError(f"impact: alpha is {self.alpha}, must be between 0 and 1")
        if self.splits < 1:
            raise UserError(f"impact: splits is {self.splits}, must be 1 or more")

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: a data set without such an attribute is refused.

        Raises:
            UserError: see above.
        """
        known(dataset, self.by or (), "impact")

    def measure_many(self, subjects: Population, references: Population, bench: Bench) -> Iterable[Metric]:
        """On the whole test split; ``n`` of a group is its examples, of a count the groups tested."""
        from compressbench.comparing import many

        for family in families(bench, self.by, "impact"):
            try:
                many.enough(subjects.labels.numpy(), references.labels.numpy())
            except UserError as error:
                yield from (Metric(name, None, "1", group=family.place, note=str(error)) for name in WHOLE)
                yield Metric("detectable_impact", None, "points", group=family.place, note=str(error))
                continue
            yield from self._of(family, subjects, references, bench)

    def _of(
        self, family: Family, subjects: Population, references: Population, bench: Bench
    ) -> Iterable[Metric]:
        import numpy as np

        from compressbench.comparing import many

        truth = bench.feed("test").to("cpu").labels.numpy()
        counts = np.bincount(family.ids[family.ids >= 0], minlength=len(family.groups))
        there = np.flatnonzero(counts)
        if not len(there):
            note = f"no test example has a value of {family.name}"
            yield from (Metric(name, None, "1", group=family.place, note=note) for name in WHOLE)
            return
        right = [population.labels.numpy() == truth for population in (subjects, references)]
        found = [many.recalls(r, family.ids, len(family.groups))[:, there] for r in right]
        top1 = [r.mean(axis=1) for r in right]
        result = many.impact(found[0], top1[0].mean(), found[1], top1[1].mean(), self.alpha)
        still = many.unmoved(*found)
        for place, k in enumerate(there):
            of: dict[str, Any] = {"n": int(counts[k]), "group": family.groups[k]}
            if still[place]:
                of["note"] = f"recall {100 * found[0][0, place]:.1f} % in all nets of both: it has not moved"
            yield Metric("impact", float(result.change[place]), "points", **of)
            yield Metric("impact_p", float(result.p[place]), "1", **of)
            yield Metric("impact_p_holm", float(result.holm[place]), "1", **of)
            yield Metric("impact_p_bh", float(result.bh[place]), "1", **of)
        yield from self._counts(family, result, len(there))
        yield _null(family, many.null_hits(found[1], top1[1], self.alpha, self.splits), self, len(references),
                    len(there))  # fmt: skip
        yield _detectable(family, result.detectable, len(subjects), len(references))

    def _counts(self, family: Family, result: Any, tested: int) -> Iterable[Metric]:
        hit = result.p <= self.alpha
        for name, count in (
            ("impacted_classes", hit),
            ("impacted_down", hit & (result.change < 0)),
            ("impacted_up", hit & (result.change > 0)),
            ("impacted_holm", result.holm <= self.alpha),
            ("impacted_bh", result.bh <= self.alpha),
        ):
            yield Metric(name, int(count.sum()), "1", n=tested, group=family.place)


def _null(family: Family, hits: Sequence[int], how: Impact, nets: int, tested: int) -> Metric:
    if not hits:
        note = f"halves of {nets} nets have no spread; four or more are needed"
        return Metric("impacted_null", None, "1", n=tested, group=family.place, note=note)
    mean = statistics.fmean(hits)
    ways = f"{len(hits)} splits of the {nets} reference nets into halves" if len(hits) > 1 else "one split"
    note = f"{min(hits)} to {max(hits)} in {ways}; {100 * mean / tested:.1f} % of tests, alpha {100 * how.alpha:g} %"
    return Metric("impacted_null", mean, "1", n=tested, group=family.place, note=note)


def _detectable(family: Family, points: float, subjects: int, references: int) -> Metric:
    from compressbench.comparing.many import FEW

    note = "4 times of 5, p uncorrected, in a group of the median spread"
    if min(subjects, references) < FEW:
        note += f"; with fewer than {FEW} nets the test sees little"
    if math.isnan(points):
        return Metric(
            "detectable_impact", None, "points", group=family.place, note="the nets of each population agree"
        )
    return Metric("detectable_impact", points, "points", n=subjects, group=family.place, note=note)
