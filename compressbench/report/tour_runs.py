"""A slide's runs in an outputs folder, and what their records say: nothing is run, nothing but records is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressbench.records import Record
from compressbench.report.joint import FILE, drawn
from compressbench.report.numbers import counted, percent, plain, seeds, spread
from compressbench.report.panels import DENSE, FLOOR, POPULATIONS
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
BEGAN = re.compile(r"\d{8}-\d{6}")
LONGEST = 1 << 22
TOLD = 7
WHOLE = percent(1.0)
VALIDATION, LOST, ALLOWED = "validation", "validation_lost", "validation_allowed"
MAIN = Answer("accuracy", "top1", "", "final", (), None)


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what was asked for, without places."""

    folder: Path
    recipe: str
    scale: str
    own: tuple[str, ...]


@dataclass(frozen=True)
class _Level:
    """A series at one level: its density, its figure in words, and its state's name where the density doesn't tell it."""

    share: float
    value: str
    name: str


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

    A recipe may have changed between two runs of one seed: of states that are others by their keys the newest counts.

    Raises:
        UserError: a file holds something else.
    """
    rows = drawn([run.folder / FILE for run in runs]).rows
    if len(runs) == 1:  # none is read twice where nothing can differ
        return rows
    newest: dict[tuple[int, str, str], str] = {}
    for run in sorted(runs, key=_began):
        newest |= {(r.seed, r.series, r.state): r.key for r in drawn([run.folder / FILE]).rows}
    return tuple(r for r in rows if newest.get((r.seed, r.series, r.state), r.key) == r.key)


def _began(run: Run) -> tuple[str, str]:
    """When a run's folder, or its sweep's, was begun, by its name."""
    times = BEGAN.findall(str(run.folder))
    return (times[-1] if times else "", str(run.folder))


def came_out(records: Iterable[Record], answer: Answer | None) -> str:
    """One sentence: the metric of each series at one level, mean ± sample sd over seeds; and how many seeds.

    Says so where the records don't hold it.
    """
    records, asked = tuple(records), answer or MAIN
    wanted = (asked.probe, asked.metric, asked.group, asked.moment)
    rows = [r for r in records if (r.probe, r.metric, r.group, r.moment) == wanted]
    at_moment = "" if asked.moment == "final" else f" at “{asked.moment}”"
    told = title_of(asked.metric) + (f" of {asked.group}" if asked.group else "")
    known = [r for r in rows if r.value is not None and math.isfinite(r.value) and r.series != FLOOR]
    names = list(dict.fromkeys(r.series for r in known))
    shown = [n for n in (DENSE, *asked.series) if n in names] if asked.series else names
    if not shown:
        return f"{told}{at_moment}: the records hold none"
    none = []
    if asked.validated:
        fit = _validated(records, asked.moment)
        known = [r for r in known if r.series == DENSE or (r.series, r.order) in fit]
        left = {r.series for r in known}
        none = [f"{n} no state that validation allows" for n in shown if n not in left]
        shown = [n for n in shown if n in left]
    many = seeds(len({r.seed for r in known if r.series in shown}))
    if asked.mean:
        figures = "; ".join(x for n in shown for x in _means([r for r in known if r.series == n], asked.mean))
        return f"{told}{at_moment}, means over draws: {figures}; {many}{_said(asked)}"
    levels = {name: _level([r for r in known if r.series == name], asked) for name in shown}
    shares = {percent(level.share) for name, level in levels.items() if name != DENSE}
    at = f" at {min(shares)} of the weights" if len(shares) == 1 and shares != {WHOLE} else ""
    if len(shares) > 1:
        at = ", in brackets the share of the weights"
    sayings = [
        f"{_called(name)} {level.value}{_beside(level, len(shares) > 1 and name != DENSE)}"
        for name, level in levels.items()
    ] + none
    more = f"; and {counted(len(shown) - TOLD, 'more series', 'more series')}" if len(shown) > TOLD else ""
    of = "of many nets together" if asked.moment == POPULATIONS else many
    return f"{told}{at}: {'; '.join(sayings[:TOLD])}{more}; {of}{_said(asked)}"


def _validated(records: Sequence[Record], moment: str) -> set[tuple[str, int]]:
    """Series and order of the states that lose no more on the validation split, on average, than is allowed."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for r in records:
        if r.probe == VALIDATION and r.moment == moment and not r.group and r.value is not None:
            found.setdefault((r.series, r.order), {}).setdefault(r.metric, []).append(r.value)
    return {
        place
        for place, of in found.items()
        if LOST in of and ALLOWED in of and math.fsum(of[LOST]) / len(of[LOST]) <= min(of[ALLOWED])
    }


def _said(asked: Answer) -> str:
    return f"; {asked.says}" if asked.says else ""


def _called(series: str) -> str:
    return "reference" if series == DENSE else series


def _by_seed(rows: Iterable[Record]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row.seed, []).append(float(row.value or 0.0))
    return found


def _figure(by_seed: Mapping[int, Sequence[float]], unit: str) -> str:
    """The mean of each seed's values, over seeds, with its unit."""
    found = spread(math.fsum(values) / len(values) for values in by_seed.values())
    return plain(found, unit) + ("" if unit == "1" else f" {unit}")


def _means(rows: Sequence[Record], draw: str) -> list[str]:
    """A series' figures by what its states' names hold beside the draw, each over draws, then over seeds."""
    groups: dict[str, list[Record]] = {}
    for row in rows:
        parts = [part for part in row.state.partition("@")[0].split(".") if not part.startswith(draw)]
        groups.setdefault(".".join(parts[:-1]), []).append(row)
    sayings = []
    for group, own in groups.items():
        by_seed = _by_seed(own)
        most = max(map(len, by_seed.values()))
        beside = [group] if group and len(groups) > 1 else []
        beside += [f"of {most}"] if most > 1 else []
        told = f"{_called(own[0].series)} {_figure(by_seed, own[0].unit)}"
        sayings.append(told + (f" ({', '.join(beside)})" if beside else ""))
    return sayings


def _beside(level: _Level, with_share: bool) -> str:
    share = percent(level.share)
    told = [level.name] if level.name else []
    told += [share] if with_share and share != WHOLE else []
    return f" ({', '.join(told)})" if told else ""


def _level(rows: Sequence[Record], asked: Answer) -> _Level:
    """The level of a series that is told of."""
    levels: dict[int, list[Record]] = {}
    for row in rows:
        levels.setdefault(row.order, []).append(row)
    shares = {order: round(math.fsum(r.density for r in own) / len(own), 5) for order, own in levels.items()}
    states = {order: own[0].state for order, own in levels.items()}
    alike = len(levels) > 1 and len({percent(share) for share in shares.values()}) == 1

    def away(order: int) -> tuple[bool, float, int]:
        other = alike and bool(asked.level) and asked.level not in states[order]
        at = shares[order]
        if asked.density is None or alike:
            return other, at, -order
        return other, abs(math.log(100 * at / asked.density)) if at > 0 else math.inf, -order

    place = min(levels, key=away)
    value = _figure(_by_seed(levels[place]), rows[0].unit)
    return _Level(shares[place], value, (states[place].rpartition(".")[0] or states[place]) if alike else "")
