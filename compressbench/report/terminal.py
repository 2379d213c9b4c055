"""The same tables in a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressbench.records import Records
from compressbench.report import deployed
from compressbench.report.findings import warnings
from compressbench.report.numbers import MISSING, Spread, percent, plain, seeds, with_spread
from compressbench.report.panels import Panel, Point, Series, beside_lead, panels
from compressbench.report.sections import cost, methods
from compressbench.report.sections.accuracy import accuracy_table
from compressbench.report.sections.forgetting import worst_classes
from compressbench.report.sections.populations import population_tables
from compressbench.report.sections.subgroups import section as subgroup_section
from compressbench.report.speed import batches, in_words, speed_of
from compressbench.report.states import lines, rounded_to, settings_of, some, thinned
from compressbench.report.tables import Cell, Table, cell
from compressbench.report.varied import axis_of
from compressbench.report.wording import each_once, moment_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

CLASSES = 5
SERIES_ABREAST = 5


def print_tables(records: Records, console: Console) -> None:
    """Prints, for each panel, the lecture's table, accuracy by density, the worst classes and cost."""
    found = panels(records)
    if not found:
        console.print("no records", markup=False)
        return
    for panel in found:
        moment = panel.moments[0]
        over = f": {_over(len(panel.seeds))}" if panel.rows else ""
        console.print(f"\n{panel.name}{over}", style="bold", markup=False)
        if panel.rows:
            console.print(_lecture(panel, moment, console.width))
        if thinned(panel, moment):
            console.print("some levels are left out; the report has all", style="dim", markup=False)
        for each in panel.moments:
            table = accuracy_table(panel, each)
            if table and any(" / " in c.text for row in table.rows for c in row.cells):
                continue  # a cell with several states of one density; the table above shows each in a row
            for part in _abreast(table) if table else ():
                console.print(f"\n{part.title}", style="bold", markup=False)
                console.print(_of(part, console.width))
        for runtime in dict.fromkeys(r.group for r in panel.rows if r.probe == "deployed" and r.group):
            console.print(f"\nDeployed on {runtime}, {moment_name(moment)}", style="bold", markup=False)
            console.print(_deployed(panel, moment, runtime, console.width))
        for table in population_tables(panel)[:1]:
            console.print(f"\n{table.title}", style="bold", markup=False)
            console.print(_of(table, console.width))
            console.print("\n".join(table.notes), style="dim", markup=False)
        _print_worst(panel, moment, console)
        for sentence in _cost(panel, moment):
            console.print(sentence, markup=False, soft_wrap=False)
    for sentence in warnings(found):
        console.print(f"note: {sentence}", style="yellow", markup=False)


def print_populations(records: Records, console: Console) -> None:
    """Prints each panel's populations, and errors by sub-group where there are any."""
    for panel in panels(records):
        tables = [*population_tables(panel)[:1], *subgroup_section(panel, "").tables]
        for table in tables:
            console.print(table.title, markup=False)
            for part in _abreast(table):
                console.print(_of(part, console.width))
            for note in table.notes:
                console.print(note, markup=False)


def _over(count: int) -> str:
    return f"mean ± sd over {seeds(count)}" if count > 1 else seeds(count)


def _lecture(panel: Panel, moment: str, width: int) -> Grid:
    found = lines(panel, moment, some)
    bits = rounded_to(found)
    columns: list[tuple[str, list[Cell]]] = [("Bits", [Cell(text) for text in bits])] if bits else []
    if told := settings_of(found, bits):
        columns.append(("State", [Cell(text) for text in told]))
    shown = [*columns, *methods.for_terminal(panel, found)]
    if len({c.n for _, cells in shown for c in cells if c.n}) > 1:
        shown.append(("n", [Cell(str(max(c[k].n for _, c in shown) or MISSING)) for k in range(len(found))]))
    rows = [
        (
            line.series.label if line.first else "",
            [percent(line.point.density), *(c[k].plain for _, c in shown)],
        )
        for k, line in enumerate(found)
    ]
    return _grid("Method", ["Density", *(name for name, _ in shown)], rows, width)


def _deployed(panel: Panel, moment: str, runtime: str, width: int) -> Grid:
    """What a runtime computed: top-1 beside the simulation's, speed over its own float, layers that stay in float."""
    found = lines(panel, moment, some)
    columns = deployed.for_terminal(panel, found, runtime)
    rows = [
        (line.series.label if line.first else "", [c[k].plain for _, c in columns])
        for k, line in enumerate(found)
    ]
    return _grid("Method", [name for name, _ in columns], rows, width)


def _abreast(table: Table) -> list[Table]:
    """A wide table as several, so that each fits a narrow terminal."""
    from dataclasses import replace

    parts = []
    for start in range(0, len(table.heads), SERIES_ABREAST):
        here = slice(start, start + SERIES_ABREAST)
        rows = tuple(replace(row, cells=row.cells[here]) for row in table.rows)
        parts.append(replace(table, heads=table.heads[here], rows=rows))
    return parts


def _of(table: Table, width: int) -> Grid:
    several = len(table.counts) > 1
    rows = [
        (row.label, [f"{c.plain} ({c.n})" if several and c.n else c.plain for c in row.cells])
        for row in table.rows
    ]
    return _grid(table.stub, [name for name, _ in table.heads], rows, width)


def _grid(stub: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], width: int) -> Grid:
    """A table of the given width. Numbers keep theirs, words wrap; an empty label continues the one above."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    widest = [max((len(cells[k]) for _, cells in rows), default=0) for k in range(len(heads))]
    longest = max((len(label) for label, _ in rows), default=0)
    share = max(8, (width - 10) // max(1, len(heads)) - 2)
    wrapped = [wrap(head, max(share, least)) for head, least in zip(heads, widest, strict=True)]
    used = [max(least, *map(len, parts)) for least, parts in zip(widest, wrapped, strict=True)]
    gap = 2 if min(longest, 14) + sum(used) + 2 * len(used) <= width else 1
    room = max(10, min(longest, width - sum(used) - gap * len(used)))
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    grid.add_column(Text(stub), overflow="fold", min_width=min(room, 10))
    for parts, least in zip(wrapped, widest, strict=True):
        grid.add_column(Text("\n".join(parts)), justify="right", overflow="fold", min_width=least)
    continued = [not label for label, _ in rows]
    waiting: list[str] = []
    for place, (label, cells) in enumerate(rows):
        if label:
            if place and any(continued):
                grid.add_section()
            waiting = wrap(label, room)
        last = place + 1 == len(rows) or not continued[place + 1]
        shown, waiting = (waiting, []) if last else (waiting[:1], waiting[1:])
        grid.add_row(Text("\n".join(shown)), *cells)
    return grid


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most the given width where that can be, broken at spaces and behind underscores."""
    found = [""]
    for token in re.findall(r"[^ _]*_|[^ _]+ *| +", text):
        if found[-1] and len(found[-1]) + len(token.rstrip()) > width:
            found.append("")
        found[-1] += token
    return [line.rstrip() for line in found]


def _print_worst(panel: Panel, moment: str, console: Console) -> None:
    """The classes that any series loses most of; of many series those that lose most are among the columns."""
    worst = worst_classes(panel, moment)[:CLASSES]
    if not worst:
        return
    wanted = dict.fromkeys([s.label for _, s, _ in worst] + [s.label for s in panel.series])
    picked = list(wanted)[:SERIES_ABREAST]
    shown = [s for s in panel.series if s.label in picked]
    title = "Worst classes, by the series that loses most, recall change in points"
    console.print(f"\n{title}, {moment_name(moment)}", style="bold", markup=False)
    rows = [(name, [_lost(panel, series, moment, name) for series in shown]) for name, _, _ in worst]
    console.print(_grid("Class", [_at(panel, s, moment) for s in shown], rows, console.width))


def _lost(panel: Panel, series: Series, moment: str, name: str) -> str:
    point = beside_lead(panel, series, moment)
    reading = point.reading("forgetting", "recall_change", name) if point else None
    return cell(reading, signed=True, notes=False).plain


def _at(panel: Panel, series: Series, moment: str) -> str:
    point = beside_lead(panel, series, moment)
    return f"{series.label} {axis_of(series.at(moment)).name(point)}" if point else series.label


def _cost(panel: Panel, moment: str) -> list[str]:
    """One line each: theory, disk, clock, from dense to the first series' lowest density."""
    lead = panel.lead
    point = lead.lowest(moment) if lead else None
    if lead is None or point is None:
        return []
    dense = panel.dense_of(lead, moment)
    told = []
    for kind, columns in (("theoretical", cost.THEORETICAL), ("on disk", cost.ON_DISK)):
        for c in columns:
            told += _change(kind, c.terminal, dense, point, c.metric, "") if c.terminal else []
    for environment in panel.environments:
        where = f" on {environment}" if environment else ""
        for batch in batches(panel):
            words = f"ms median, batch {batch}{where}"
            speed = speed_of(point, f"speedup_b{batch}", environment)
            if speed and speed.figure:
                words += f"; speed, in turns: {in_words(speed)}"
            told += _change("measured", words, dense, point, f"latency_median_b{batch}", environment)
        for batch in batches(panel)[:1]:
            speed = speed_of(point, f"speedup_b{batch}", environment)
            told += [f"  {note}" for note in each_once(speed.notes if speed else ())[:3]]
    if told:
        told.insert(0, f"\nCost, dense → {lead.label} at {axis_of(lead.at(moment)).name(point)}")
    return told


def _change(
    kind: str, words: str, dense: Point | None, point: Point, metric: str, environment: str
) -> list[str]:
    after = point.reading("cost", metric, "", environment)
    if after is None or after.spread is None:
        return []
    at_first = "dense_bytes" if metric in ("quantized_bytes", "huffman_bytes") else metric
    before = dense.reading("cost", at_first, "", environment) if dense else None
    start = _short(before.spread, before.unit) if before and before.spread else MISSING
    return [f"  {kind:<11}  {start} → {_short(after.spread, after.unit)} {words}"]


def _short(figure: Spread, unit: str) -> str:
    return "".join(with_spread(figure, unit)) if unit == "ms" else plain(figure, unit)
