"""Two-layer: what Du et al. (ICLR 2019) measure of a wide two-layer net, and the rate that they prove beside its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.records import Metric
from compressbench.specs import TARGET, Share, check_fields
from compressbench.training.descent import FOLLOWED

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.state import State
    from compressbench.views import View

NAMES = (
    ("width", "1"),
    ("patterns_flipped", "%"),
    ("neuron_move_largest", "1"),
    ("lambda0", "1"),
    ("gram_smallest", "1"),
)
RATES = (("loss_halved_in", "iterations"), ("loss_halved_in_proven", "iterations"))
MODEL = "compressbench.models.shallow.TwoLayer"
OTHER = "of a net of two layers under fixed signs (model=two_layer) on vectors alone"


@dataclass(frozen=True)
class TwoLayer:
    """How far a two-layer net moved from its start (the reference), and how fast its loss fell.

    ``patterns_flipped``: share of (example, neuron) pairs of which w . x > 0 changed; ``neuron_move_largest``: the
    largest distance of a neuron's weights from where they began; ``lambda0``: smallest eigenvalue of H_inf of the
    training examples; ``gram_smallest``: the same of the start's own finite Gram matrix. ``loss_halved_in``: steps in
    which the squared loss halves, from the first to where it is ``until`` of its start; ``loss_halved_in_proven``: by the
    theorem's rate 1 - eta lambda0 / 2 a step. ``loss_proven_at``: that bound at some steps. The theorem asks for eta of
    the order of lambda0 / n^2 and for a width of the order of n^6 / lambda0^4; where one doesn't hold, even with
    constants of 1, the rate is no guarantee here, and a note says so. It has no figure where the training wasn't gradient
    descent on all examples at one rate.

    Attributes:
        until: part of the first loss at which the measured rate's window ends.

    Raises:
        UserError: a setting out of range.
    """

    until: Share = 1e-6
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject beside its start."""
        if not all(_fits(view.state) for view in (subject, reference)):
            yield from (Metric(name, None, unit, note=OTHER) for name, unit in (*NAMES, *RATES))
            return
        x = bench.feed("train")["x"].double().cpu()
        now, then = (view.state.weights["hidden.weight"].double() for view in (subject, reference))
        if now.shape != then.shape:
            why = "its start has another width; the moment wants own_reference"
            yield from (Metric(name, None, unit, note=why) for name, unit in (*NAMES, *RATES))
            return
        n, width = len(x), len(now)
        smallest = smallest_eigenvalue(h_infinity(x))
        yield Metric("width", float(width), "1", "computed")
        yield Metric("patterns_flipped", 100 * flipped(x, then, now), "%", n=n * width)
        yield Metric("neuron_move_largest", largest_move(then, now), "1", n=width)
        yield Metric("lambda0", smallest, "1", "computed", n=n)
        yield Metric("gram_smallest", smallest_eigenvalue(gram(x, then)), "1", "computed", n=n)
        yield from self._rates(subject.state.facts, n, width, smallest)

    def _rates(self, facts: Mapping[str, Any], n: int, width: int, smallest: float) -> Iterable[Metric]:
        from compressbench.probes.fitting import LOSS, NOT_FOLLOWED, SHOWN, followed, thinned

        curve = followed(facts)
        if len(curve) < 2:
            yield from (Metric(name, None, unit, note=NOT_FOLLOWED) for name, unit in RATES)
            return
        window = [(int(point["step"]), point[LOSS]) for point in curve]
        own = halving(window, self.until)
        last, _ = end_of(window, self.until)
        yield Metric(
            RATES[0][0], own, "iterations", n=n,
            note=f"mean over steps 0 to {last}" if own is not None else "the loss didn't fall",
        )  # fmt: skip
        if why := no_descent(facts.get(FOLLOWED), n, [point["lr"] for point in curve]):
            yield Metric(RATES[1][0], None, "iterations", "theoretical", note=why)
            return
        eta = curve[0]["lr"] / n  # the loop's loss is a mean over examples, the theorem's a sum
        factor = 1 - eta * smallest / 2
        note = conditions(eta, n, width, smallest)
        if not 0 < factor < 1:
            yield Metric(
                RATES[1][0], None, "iterations", "theoretical", note=f"the rate is {factor:g}; {note}"
            )
            return
        yield Metric(
            RATES[1][0], math.log(0.5) / math.log(factor), "iterations", "theoretical", n=n, note=note
        )
        for point in thinned(curve, SHOWN):
            step = int(point["step"])
            yield Metric(
                "loss_proven_at", window[0][1] * factor**step, "1", "theoretical", n=n, group=str(step)
            )


def no_descent(of: Mapping[str, Any] | None, n: int, rates: Sequence[float]) -> str:
    """Why the theorem's step isn't the training's learning rate over n; empty where it is.

    Args:
        of: what the training losses are of, as the training wrote it down.
        n: examples of the train split, of which lambda0 is.
        rates: at the steps at which the loss was written down.
    """
    if not of:
        return "whether it was gradient descent on all examples at one rate wasn't written down"
    broken = list(of["beyond_descent"])
    if of["examples"] != n:
        broken.append(
            f"it trained on {of['examples'] or 'several sets of'} examples, not the {n} of the train split"
        )
    if len(set(rates)) > 1:
        broken.append("several rates")
    return (
        f"the theorem is of gradient descent on all examples at one rate; here: {', '.join(broken)}"
        if broken
        else ""
    )


def _fits(state: State) -> bool:
    return state.model.get(TARGET) == MODEL and not state.edits


def h_infinity(x: Tensor) -> Tensor:
    """(n, n) H_ij = E over w ~ N(0, I) of x_i . x_j [w . x_i >= 0, w . x_j >= 0] = x_i . x_j (pi - angle_ij) / (2 pi).

    Args:
        x: (n, d), none of them 0; of any length.
    """
    import torch

    products = x @ x.T
    lengths = x.norm(dim=1)
    angles = torch.arccos((products / lengths[:, None] / lengths).clamp(-1, 1))
    angles.fill_diagonal_(0)  # of a vector with itself, where rounding would say more
    found = products * (math.pi - angles) / (2 * math.pi)
    return (found + found.T) / 2


def gram(x: Tensor, weights: Tensor) -> Tensor:
    """(n, n) the same of the neurons at hand: mean over r of x_i . x_j [w_r . x_i >= 0, w_r . x_j >= 0].

    Args:
        weights: (m, d).
    """
    active = (x @ weights.T >= 0).to(x.dtype)
    return (x @ x.T) * (active @ active.T) / len(weights)


def smallest_eigenvalue(matrix: Tensor) -> float:
    """Of a symmetric matrix."""
    import torch

    return float(torch.linalg.eigvalsh(matrix)[0])


def flipped(x: Tensor, then: Tensor, now: Tensor) -> float:
    """Share in [0, 1] of pairs of an example (n, d) and a neuron (m, d) of which w . x > 0 is not what it was."""
    return float(((x @ then.T > 0) != (x @ now.T > 0)).double().mean())


def largest_move(then: Tensor, now: Tensor) -> float:
    """The largest distance between rows, (m, d) each."""
    return float((now - then).norm(dim=1).max())


def halving(curve: Sequence[tuple[int, float]], until: float) -> float | None:
    """Steps in which a loss halves, mean from the first point to ``end_of``; None where it has not fallen."""
    (first, start), (step, loss) = curve[0], end_of(curve, until)
    if not 0 < loss < start:
        return None
    return math.log(2) * (step - first) / math.log(start / loss)


def end_of(curve: Sequence[tuple[int, float]], until: float) -> tuple[int, float]:
    """The first later point whose loss is at most ``until`` times the first one's, or the last point."""
    return next((point for point in curve[1:] if point[1] <= until * curve[0][1]), curve[-1])


def conditions(eta: float, n: int, width: int, smallest: float) -> str:
    """Whether the theorem's conditions hold with constants of 1, in words."""
    if smallest <= 0:
        return "lambda0 is not above 0: two examples are parallel, and the theorem says nothing"
    step, least = smallest / n**2, n**6 / smallest**4
    broken = [
        f"{name} is {value:.2g}, and the theorem wants {words} {limit:.2g}"
        for name, value, words, limit, wrong in (
            ("eta", eta, "about", step, eta > step),
            ("the width", width, "more than about", least, width < least),
        )
        if wrong
    ]
    if not broken:
        return "the theorem's conditions hold with constants of 1"
    return f"a comparison, no guarantee: {'; '.join(broken)}"
