"""Gradual: weights go bit by bit during the training, by a cubic schedule (Zhu & Gupta 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.pruning import unstructured
from compressbench.specs import Criterion, Grain, Scope
from compressbench.specs import length as lengths
from compressbench.state import State
from compressbench.training.reparametrise import Masks, Reparametrisation, Span, check_share, check_span


def cubic(done: float, initial: float, final: float, power: float = 3) -> float:
    """Sparsity after the share ``done`` of the pruning: ``final + (initial - final) (1 - done) ** power``."""
    return final + (initial - final) * (1 - min(1.0, max(0.0, done))) ** power


def gradual(
    module: nn.Module,
    bench: Bench,
    state: State,
    span: Span,
    criterion: Criterion,
    scope: Scope,
    grain: Grain,
    final: float = 0.9,
    initial: float = 0.0,
    start: float = 0.1,
    stop: float = 0.7,
    every: str = "100it",
    power: float = 3,
    rates: Mapping[str, float] | None = None,
) -> Reparametrisation:
    """Prunes at ``start``, then every ``every`` and at ``stop``; what is pruned stays pruned.

    Args:
        criterion, scope, grain: as in a prune stage; the criterion sees the state as it is at that moment.
        initial, final: shares of all weights that are removed at the start and at the stop.
        start, stop: shares of the training's length.
        every: the time between two prunings, ``100it`` or ``1ep``.
        power: 3 is cubic, 1 linear.
        rates: own final shares, ``{pattern: fraction}``.

    Raises:
        UserError: a share out of range.
    """
    for name, value in (
        ("initial", initial), ("final", final), *((f"rates.{k}", v) for k, v in (rates or {}).items())
    ):  # fmt: skip
        check_share(name, value)
        if value == 1:
            raise UserError(f"{name}: 1 would leave nothing; 0.9 removes 90 %")
    check_span(start, stop)
    if initial > final or power <= 0:
        raise UserError(
            f"initial {initial:g}, final {final:g}, power {power:g}: initial <= final and power > 0 wanted"
        )
    interval = max(1, lengths.steps(every, span.per_epoch))
    first, last = round(start * span.total), round(stop * span.total)
    parts: Any = grain() if callable(grain) else grain

    def remask(step: int, current: Callable[[], State]) -> tuple[Masks, Masks | None] | None:
        if not first <= step <= last or ((step - first) % interval and step != last):
            return None
        done = (step - first) / (last - first) if last > first else 1.0
        decision = unstructured.decide(
            current(),
            bench,
            cast(Any, criterion),
            cast(Any, scope),
            parts,
            cubic(done, initial, final, power),
            "whole",
            {k: cubic(done, min(initial, v), v, power) for k, v in (rates or {}).items()},
        )
        return decision.masks, decision.weights

    return Reparametrisation(remask=remask)
