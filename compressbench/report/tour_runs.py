"""A slide's runs in an outputs folder, and what their records say: nothing is run, nothing but records is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressbench.records import Record
from compressbench.report.joint import FILE, gather
from compressbench.report.numbers import counted, percent, plain, spread
from compressbench.report.panels import DENSE, FLOOR
from compressbench.report.tour_rows import Answer, Slide
from compressbench.report.unfinished import command
from compressbench.report.wording import title_of
from compressbench.specs.overrides import key_of, parted

SCALES = ("paper", "laptop", "smoke")
"""Of several scales' runs the first of these speaks."""
PLACES = re.compile(
    r"(recipe|scale|seed|sweep|beside|outputs|data_dir|trust|retime|checkpoint_seconds|log_probs_up_to)$"
    r"|(hardware|hydra|evaluation)\b|.*@evaluation\.|model\.build\.folder$"
)
"""Overrides that say where and how often something ran and what was measured, not what it is."""
LONGEST = 1 << 22
TOLD = 6
MAIN = Answer("accuracy", "top1", "", "final", (), None)


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what was asked for, without places."""

    folder: Path
    recipe: str
    scale: str
    own: tuple[str, ...]


def runs_below(outputs: Path) -> tuple[Run, ...]:
    """The finished runs of an outputs folder, sweeps' too, in the order of their folders' names.

    Of each only the first record is read. A folder whose file holds none is passed over: it isn't a run's.
    """
    files = [
        file
        for top in ("runs", "sweeps")
        for file in sorted((outputs / top).rglob(FILE))
        if file.is_file() and (file.parent / "config.yaml").is_file()  # a joint report has none
    ]
    return tuple(run for file in files if (run := _run(file)))


def _run(file: Path) -> Run | None:
    try:
        with file.open(encoding="utf-8") as lines:
            first = json.loads(lines.readline(LONGEST))
        recipe, scale, overrides = first["recipe"], first["scale"], first.get("overrides", "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not all(isinstance(told, str) for told in (recipe, scale, overrides)):
        return None
    given = command(file.parent)
    return Run(file.parent, recipe, scale, _own(parted(overrides) if given is None else given))


def _own(overrides: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(word for word in overrides if not PLACES.match(key_of(word))))


def runs_of(slide: Slide, runs: Iterable[Run]) -> tuple[tuple[Run, ...], int]:
    """(runs of just the slide's recipe and overrides, all of one scale; how many others of its recipe there are)."""
    mine = [run for run in runs if run.recipe == slide.recipe]
    same = [run for run in mine if run.own == _own(slide.run)]
    scale = min((run.scale for run in same), key=_rank, default="")
    chosen = tuple(run for run in same if run.scale == scale)
    return chosen, len(mine) - len(chosen)


def _rank(scale: str) -> int:
    return SCALES.index(scale) if scale in SCALES else len(SCALES)


def records_of(runs: Sequence[Run]) -> tuple[Record, ...]:
    """Their records, each once, as a joint report of them would draw them.

    Raises:
        UserError: a file holds something else.
    """
    return gather([run.folder / FILE for run in runs]).drawn.rows


def came_out(records: Iterable[Record], answer: Answer | None) -> str:
    """One sentence: the metric of each series at one level, mean ± sample sd over seeds; and how many seeds.

    Says so where the records don't hold it.
    """
    asked = answer or MAIN
    wanted = (asked.probe, asked.metric, asked.group, asked.moment)
    rows = [r for r in records if (r.probe, r.metric, r.group, r.moment) == wanted]
    told = title_of(asked.metric) + (f" of {asked.group}" if asked.group else "")
    known = [r for r in rows if r.value is not None and math.isfinite(r.value) and r.series != FLOOR]
    names = list(dict.fromkeys(r.series for r in known))
    shown = [n for n in (DENSE, *asked.series) if n in names] if asked.series else names
    if not set(shown) - {DENSE} and DENSE not in names:
        at = "" if asked.moment == "final" else f" at “{asked.moment}”"
        return f"{told}{at}: the records hold none"
    sayings = [_series(name, [r for r in known if r.series == name], asked.density) for name in shown]
    more = f"; and {counted(len(shown) - TOLD, 'series', 'series')} more" if len(shown) > TOLD else ""
    many = len({r.seed for r in known if r.series in shown})
    seeds = "one seed: no spread" if many == 1 else counted(many, "seed")
    return f"{told}: {'; '.join(sayings[:TOLD])}{more}; {seeds}"


def _series(name: str, rows: Sequence[Record], density: float | None) -> str:
    levels: dict[int, list[Record]] = {}
    for row in rows:
        levels.setdefault(row.order, []).append(row)

    def share(order: int) -> float:
        return math.fsum(r.density for r in levels[order]) / len(levels[order])

    def away(order: int) -> tuple[float, int]:
        at = share(order)
        apart = at if density is None else abs(math.log(at / (density / 100))) if at > 0 else math.inf
        return apart, -order

    place = min(levels, key=away)
    by_seed: dict[int, list[float]] = {}
    for row in levels[place]:
        by_seed.setdefault(row.seed, []).append(float(row.value or 0.0))
    found = spread(math.fsum(values) / len(values) for values in by_seed.values())
    unit = rows[0].unit
    value = plain(found, unit) + ("" if unit == "1" else f" {unit}")
    return f"{name} {value}" + (f" ({percent(share(place))} of the weights)" if len(levels) > 1 else "")
