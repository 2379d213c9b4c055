"""Published figures that a recipe sets beside its own: labelled records, never drawn on our axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from compressbench.errors import UserError, nearest
from compressbench.records import Record

if TYPE_CHECKING:
    from compressbench.runs.execute import RunColumns

BASIS = "published"
KEYS = ("source", "of", "metric", "unit", "note", "points")


def published(block: Mapping[str, Any] | None, columns: RunColumns) -> tuple[Record, ...]:
    """Records of ``recipe.compare.published``, a mapping of series' names to figures.

    A label's figures are ``source`` (who measured it), ``of`` (which net on which data), ``metric`` (``top1``), ``unit``
    (``%``), ``note``, and ``points``, pairs of density in percent and value; without points only the note is told.

    Raises:
        UserError: an unknown key, no source, or a point that is no pair of numbers.
    """
    rows = []
    if block is not None and not isinstance(block, Mapping):
        raise UserError("recipe.compare.published: a mapping of labels to figures is wanted")
    for label, figures in (block or {}).items():
        where = f"recipe.compare.published.{label}"
        if not isinstance(figures, Mapping):
            raise UserError(f"{where}: a mapping with {', '.join(KEYS)} is wanted")
        for key in figures:
            if key not in KEYS:
                raise UserError(f"{where}: unknown key {key!r}; {nearest(str(key), KEYS)}")
        if not figures.get("source"):
            raise UserError(f"{where}.source: who published these figures is needed")
        points = [_point(p, f"{where}.points") for p in figures.get("points") or ()]
        told = "; ".join(str(figures[k]) for k in ("source", "note") if figures.get(k))
        of = str(figures.get("of") or "another net on other data")
        metric, unit = str(figures.get("metric") or "top1"), str(figures.get("unit") or "%")
        for order, (density, value) in enumerate(points or [(100.0, None)], 1):
            rows.append(_row(columns, str(label), order, density, value, of, metric, unit, told))
    return tuple(rows)


def _point(pair: Any, where: str) -> tuple[float, float]:
    good = isinstance(pair, list | tuple) and len(pair) == 2
    if not good or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in pair
    ):
        raise UserError(f"{where}: {pair!r} is no pair of density in % and value, e.g. [10, 73.9]")
    if not 0 < pair[0] <= 100:
        raise UserError(f"{where}: density {pair[0]} is not in (0, 100] %")
    return float(pair[0]), float(pair[1])


def _row(
    columns: RunColumns,
    label: str,
    order: int,
    density: float,
    value: float | None,
    of: str,
    metric: str,
    unit: str,
    note: str,
) -> Record:
    return Record(
        **asdict(columns),
        series=label,
        moment="final",
        state="",
        order=order,
        density=density / 100,
        compute=0.0,
        probe=BASIS,
        metric=metric,
        group=of,
        value=value,
        unit=unit,
        basis=BASIS,
        n=0,
        note=note,
        key="",
        reference="",
        dtype="",
        versions="",
        machine="",
    )
