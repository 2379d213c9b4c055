"""Windows: what a detector finds and takes for a face, and how much of it a window is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric

if TYPE_CHECKING:
    import numpy as np
    import torch

    from compressbench.bench import Bench
    from compressbench.views import View

PICTURE = "picture"
"""The grouping of windows by the picture that they were cut out of."""
FEW = "windows of one picture overlap: the interval, as if each were by itself, is too narrow"


@dataclass(frozen=True)
class Windows:
    """Detection and false positives with Wilson's intervals; features and MACs an average window is asked.

    Of two classes, one of which is looked for. What a window costs is the expectation over the exits (a cascade's stages)
    by which the test windows leave; of a net without exits, or a single stage, all of it. MACs are those of
    ``models.counting``, of a rectangle feature its look-ups: sums of the integral image aren't counted.

    Attributes:
        face: the class that is looked for, by name or number.
    """

    face: str = "face"
    VERSION: ClassVar[int] = 2

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject, on the whole test split."""
        from compressbench.data.coarse import place_of
        from compressbench.errors import UserError

        classes = bench.task.classes
        try:
            face = place_of(self.face, classes, "") if len(classes) == 2 else -1
        except UserError:
            face = -1
        if face < 0:
            note = f"there is no class {self.face!r} among two"
            yield Metric("detection_rate", None, "%", note=note)
            return
        labels, said = subject.labels.numpy(), subject.answers.numpy()
        faces, found = labels == face, said == face
        yield from _rates(faces, found)
        yield from _of_pictures(bench, faces, found)
        yield from _cost(subject, bench, faces)


def _rates(faces: np.ndarray, found: np.ndarray) -> Iterable[Metric]:
    from compressbench.proportions import wilson

    shares: list[tuple[float, float, float]] = []
    for name, among, note in (("detection_rate", faces, ""), ("false_positive_rate", ~faces, FEW)):
        hits, n = int(found[among].sum()), int(among.sum())
        if not n:
            yield Metric(name, None, "%", note="there are no such windows in the test split")
            continue
        low, high = wilson(hits, n)
        yield Metric(name, 100 * hits / n, "%", n=n, note=note)
        yield Metric(f"{name}_low", 100 * float(low), "%", "computed", n=n, note="Wilson, 95 %")
        yield Metric(f"{name}_high", 100 * float(high), "%", "computed", n=n, note="Wilson, 95 %")
        shares.append((hits / n, float(low), float(high)))
    if len(shares) == 2:
        (right, right_low, right_high), (wrong, wrong_low, wrong_high) = shares
        middle, n = (right + 1 - wrong) / 2, int(faces.sum())
        note = f"mean of the shares of {n} faces found and of {len(faces) - n} other windows passed over; n: faces"
        yield Metric("balanced_top1", 100 * middle, "%", n=n, note=note)
        both = "Wilson's of both shares, 95 %, put together as of independent ones"
        least = middle - math.hypot(right - right_low, wrong_high - wrong) / 2
        most = middle + math.hypot(right_high - right, wrong - wrong_low) / 2
        yield Metric("balanced_top1_low", 100 * least, "%", "computed", n=n, note=both)
        yield Metric("balanced_top1_high", 100 * most, "%", "computed", n=n, note=both)


def _of_pictures(bench: Bench, faces: np.ndarray, found: np.ndarray) -> Iterable[Metric]:
    names = bench.dataset.groups.get(PICTURE)
    if not names:
        return
    codes = bench.feed("test").groupings[PICTURE].cpu().numpy()
    for place, name in enumerate(names):
        among = (codes == place) & ~faces
        if among.any():
            share = 100 * float(found[among].mean())
            yield Metric("picture_false_positives", share, "%", n=int(among.sum()), group=str(name))


def _cost(subject: View, bench: Bench, faces: np.ndarray) -> Iterable[Metric]:
    import torch

    from compressbench.models.counting import count, of_exits
    from compressbench.models.exits import exit_names, parts_of

    n, note = len(faces), "shares of the exits times their cost"
    if not hasattr(subject.module, "parts"):
        macs = count(subject.module, bench.task.blank(1)).macs
        yield Metric("window_macs", macs, "MACs", "theoretical", n=n)
        yield Metric("window_share", 100.0, "%", "theoretical", n=n)
        return
    parts = parts_of(subject.module)
    where = _left(subject, bench, len(parts))
    costs = torch.tensor(of_exits(parts, bench.task.blank(1)), dtype=torch.float64)
    share = torch.bincount(where, minlength=len(parts)).double() / n
    spent = float(share @ costs)
    yield Metric("window_macs", spent, "MACs", "computed", n=n, note=note)
    yield Metric("window_share", 100 * spent / float(costs[-1]), "%", "computed", n=n, note="of all MACs")
    features = [getattr(part, "features", None) for part in parts]
    if None in features:
        return
    asked = torch.tensor(features, dtype=torch.float64).cumsum(0)
    yield Metric("window_features", float(share @ asked), "1", "computed", n=n, note=note)
    yield Metric("all_features", float(asked[-1]), "1", "theoretical")
    kinds = torch.from_numpy(faces)
    for name, own in (("faces", kinds), ("other windows", ~kinds)):
        if bool(own.any()):
            mean = float(asked[where[own]].mean())
            yield Metric("kind_features", mean, "1", "computed", n=int(own.sum()), group=name)
    for place, name in enumerate(exit_names(subject.module)):
        reached = 100 * float((where >= place).double().mean())
        yield Metric("reaching", reached, "%", n=n, group=name, note="of the test windows")


def _left(subject: View, bench: Bench, exits: int) -> torch.Tensor:
    """(n,) int64, the exit by which each test window leaves."""
    import torch

    from compressbench.exit_criteria.policy import assigned, policy_of
    from compressbench.models.exit_policies import answers

    policy = policy_of(subject.state.policies)
    logits, _ = answers(subject.parts, bench, "test")
    return assigned(policy, logits) if policy else torch.full((len(logits[0]),), exits - 1)
