"""Early exits in the report: accuracy against time and cost by every policy, who leaves where, easy and hard images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressbench.declared import unit_of
from compressbench.png import PREFIX
from compressbench.report.drawing import (
    Chart,
    Lines,
    accuracy_words,
    band,
    bands,
    canvas,
    clean,
    draw,
    finish,
    main_of,
    saved,
    throughput_axes,
    when,
)
from compressbench.report.naming import point_names
from compressbench.report.numbers import Spread
from compressbench.report.panels import FINAL, Panel, Point, Reading, Series
from compressbench.report.section import Picture, Section, kept
from compressbench.report.speed import batches, speed_cell
from compressbench.report.states import Column, Key, add
from compressbench.report.styles import COLOURS, INK, MARKERS, MUTED, styles
from compressbench.report.tables import Cell, Columns, Row, Table, cell, diverging, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
EARLY = (
    "Examples leave as soon as the net is sure, by thresholds that were chosen on the validation split. Times are of the "
    "real mixture of examples, with finished examples really leaving the batch; MACs are what the exits’ shares promise."
)
PROBE = "exits"
ALL = 99.9
SHADE = (37, 99, 235)
COLUMNS = tuple(
    Column(PROBE, metric, title, notes=False)
    for metric, title in (
        ("exits_top1", "Top-1"),
        ("last_top1", "Last exit, all"),
        ("random_top1", "Exits by chance"),
        ("oracle_top1", "Oracle"),
        ("overthinking", ""),
        ("mean_exit", ""),
        ("expected_cost", ""),
        ("oracle_cost", ""),
    )
)
EACH = (
    ("exit_macs", "MACs"),
    ("exit_top1", "Top-1"),
    ("exit_ece", "Calibration error"),
    ("exit_share", "Taken"),
    ("exit_threshold", "Threshold"),
    ("exit_temperature", "Temperature"),
)
THROUGHPUT = (
    ("exit_throughput", "Rate"),
    ("exit_speedup", "Speed"),
    ("exit_cost", "MACs"),
)
SHOWN = (*(c.metric for c in COLUMNS), "easiest", "hardest")
"""Metrics of the probe that the section shows of every policy, at its moment."""


@dataclass(frozen=True)
class Policy:
    """One state that leaves early, with a name that tells it from its series' others."""

    label: str
    series: Series
    point: Point


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    if moment != moment_of(panel):
        return set()
    batched = {r.metric for r in panel.rows if r.probe == "batching" and r.value is not None}
    return {(PROBE, m, False) for m in SHOWN} | {("batching", m, True) for m in batched}


def section(panel: Panel, suffix: str) -> Section:
    """Early exits: accuracy against time and cost, who leaves where, throughput against batch size."""
    moment = moment_of(panel)
    machines = [(e, f"_{place}" if place else "") for place, e in enumerate(panel.environments)]
    drawn = [
        *(
            accuracy_vs_exit_time(panel, moment, e, f"accuracy_vs_exit_time{suffix}{tail}")
            for e, tail in machines
        ),
        accuracy_vs_exit_macs(panel, moment, f"accuracy_vs_exit_macs{suffix}"),
        *(
            chart
            for e, tail in machines
            for chart in exit_throughput(panel, moment, e, f"exit_throughput{suffix}{tail}")
        ),
    ]
    tables = tuple(exit_tables(panel, moment))
    return Section("Early exits", "exits", kept(drawn), tables, (), EARLY, tuple(pictures(panel, moment)))


def accuracy_vs_exit_time(panel: Panel, moment: str, environment: str, name: str) -> Chart | None:
    """Accuracy of every state against its time at the smallest batch size on one machine; None where no net has exits."""
    batch = min(batches(panel), default=1)
    lines = lines_of(panel, moment, lambda point: time_of(point, environment, batch))
    drawn = _exits_chart(panel, moment, lines, "measured time", lambda _: 100.0)
    if drawn is None:
        return None
    figure, axes, caption = drawn
    caption += f" Measured on {clean(environment)}." if environment else ""
    axes.set_xlabel(f"time at batch {batch}, % of the reference’s, in turns")
    return finish(figure, axes, panel, name, caption, drawn=[s for s, _ in lines])


def accuracy_vs_exit_macs(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy of every state against its MACs, chance beside the first series; None where no net has exits."""
    lines = lines_of(panel, moment, macs_of)
    drawn = _exits_chart(panel, moment, lines, "MACs", macs_of)
    if drawn is None:
        return None
    figure, axes, caption = drawn
    label, chance = controls(panel, moment)
    places, heights = [x for x, _ in chance], [s.mean for _, s in chance]
    axes.plot(places, heights, color=MUTED, linestyle=":", marker="x", markersize=4)
    axes.set_xlabel("MACs an example, millions, test mean")
    caption += f" Grey crosses: {clean(label)} with as many examples at each exit, but any."
    return finish(figure, axes, panel, name, caption, drawn=[s for s, _ in lines])


def _exits_chart(
    panel: Panel, moment: str, lines: Lines, against: str, place: Callable[[Point], float | None]
) -> tuple[Figure, Axes, str] | None:
    if not lines:
        return None
    label, unit = accuracy_words(panel)
    figure, axes = canvas(f"{label} against {against}, early exits{when(moment)}")
    counts = draw(panel, axes, lines)
    for series in panel.dense.values():
        for point in series.at(moment):
            x, y = place(point), main_of(panel, point)
            if x is not None and y:
                axes.plot([x], [y.mean], marker="s", color=INK, markersize=5)
    axes.set_ylabel(f"{label}, {unit}" if unit else label)
    return figure, axes, f"Black square: the reference. {bands(counts)}"


def exit_throughput(panel: Panel, moment: str, environment: str, name: str) -> list[Chart]:
    """Measured throughput of early exits against batch size, a chart a target and policy, a line a way of running."""
    from matplotlib.lines import Line2D

    drawn = []
    for place, ((target, label), ways) in enumerate(batching(panel, moment, environment).items()):
        figure, axes = canvas(f"Throughput on {target}: {label}")
        handles, counts = [], set()
        for k, (way, points) in enumerate(ways.items()):
            look = {
                "color": INK if way == "full depth" else COLOURS[k % len(COLOURS)],
                "marker": MARKERS[k % len(MARKERS)],
            }
            known = sorted(points, key=lambda p: p[0])
            axes.plot([x for x, _ in known], [s.mean for _, s in known], **look)  # type: ignore[arg-type]
            band(axes, known, look["color"])
            counts |= {s.n for _, s in known}
            handles.append((way, Line2D([], [], markersize=4.2, **look)))  # type: ignore[arg-type]
        throughput_axes(axes)
        caption = (
            "Medians, all ways in turns on the same examples; they answer alike. Full depth: the net without its exits. "
            f"{bands(counts)}"
        )
        caption += f" Measured on {clean(environment)}." if environment else ""
        drawn.append(saved(figure, f"{name}_{place}", axes.get_title(loc="left"), caption, handles))
    return drawn


def policies(panel: Panel, moment: str) -> list[Policy]:
    """All states with exits, the reference too, in the order of the records."""
    found = []
    for series in (*panel.dense.values(), *panel.series):
        points = [p for p in series.at(moment) if (PROBE, "expected_cost", "") in p.readings]
        found += [Policy(x, series, p) for x, p in zip(point_names(series, points), points, strict=True)]
    return found


def exit_tables(panel: Panel, moment: str) -> list[Table]:
    """Every policy with its controls; then each class of the one nearest to half of the cost."""
    known = policies(panel, moment)
    if not known:
        return []
    columns = Columns()
    add(columns, known, COLUMNS)
    for environment in panel.environments:
        words = f"Measured, {environment}" if environment else "Measured"
        for batch in batches(panel):
            time = Column("cost", f"latency_median_b{batch}", f"Batch {batch}")
            speed = Column("cost", f"speedup_b{batch}", f"Speed {batch}")
            clock = [replace(c, over=words, notes=False, environment=environment) for c in (time, speed)]
            add(columns, known, clock)
    looks = styles(panel)
    rows = tuple(Row(p.label, columns.row(k), looks[p.series.label].colour) for k, p in enumerate(known))
    note = (
        "MACs: of all at the same net’s last exit, heads included (of a cascade: of all its nets). By chance: as many "
        "examples at each exit, but any. Oracle: the first exit that is right. Overthinking: an early exit is right, the "
        "last one wrong; what no exit gets right costs the oracle all. Times: of a forward, mean over real examples; "
        "of speeds the reference ran the same examples, in turns: compare by them."
    )
    first = Table(
        "Policies and their controls", "Policy", tuple(columns.heads), rows, columns.spanning, (note,),
        remarks=tuple(columns.remarks),
    )  # fmt: skip
    beside = [t for t in (_each(panel, moment), _classes(panel, moment)) if t]
    return [first, *beside, *(t for e in panel.environments for t in _throughputs(panel, moment, e))]


def nearest_half(panel: Panel, moment: str) -> Policy | None:
    """The first series' policy whose cost is nearest to half of the last exit's; none that never leaves early."""
    found = [(policy, cost_of(policy.point)) for policy in policies(panel, moment)]
    known = [(policy, cost) for policy, cost in found if cost is not None]
    own = [(p, cost) for p, cost in known if p.series is known[0][0].series]
    return min(own, key=lambda x: abs(x[1] - 50))[0] if own else None


def _each(panel: Panel, moment: str) -> Table | None:
    """The exits of one net: what each costs, how right and how calibrated it is on all examples, and who takes it."""
    chosen = nearest_half(panel, moment) or policies(panel, moment)[0]
    names = [key[2] for key in chosen.point.readings if key[:2] == (PROBE, "exit_top1")]
    if not names:
        return None
    columns = Columns()
    for metric, title in EACH:
        readings = [chosen.point.reading(PROBE, metric, name) for name in names]
        unit = next((r.unit for r in readings if r), "")
        columns.add(title, unit if unit == "%" else "", [cell(r, notes=False) for r in readings])
    rows = tuple(Row(name, columns.row(k), first=True) for k, name in enumerate(names))
    note = "Top-1 and calibration error on all test examples; taken: the share of them that leaves there."
    notes = (note, *(f"{title}: {told}." for title, told, picture, _ in _ends(chosen) if not picture))
    return Table(f"Each exit: {chosen.label}", "Exit", tuple(columns.heads), rows, notes=notes)


def _classes(panel: Panel, moment: str) -> Table | None:
    chosen = nearest_half(panel, moment)
    if chosen is None:
        return None
    shares = [key[2] for key in chosen.point.readings if key[:2] == (PROBE, "class_exit_share")]
    exits = list(dict.fromkeys(g.split("/", 1)[0] for g in shares))
    classes = list(dict.fromkeys(g.split("/", 1)[1] for g in shares))

    def mean(metric: str, group: str) -> float:
        reading = chosen.point.reading(PROBE, metric, group)
        return reading.spread.mean if reading and reading.spread else 0.0

    classes.sort(key=lambda c: mean("class_cost", c))
    limit = max((abs(mean("class_change", c)) for c in classes), default=0.0)
    rows = []
    for name in classes:
        cells = [_shaded(chosen.point.reading(PROBE, "class_exit_share", f"{e}/{name}")) for e in exits]
        change = cell(chosen.point.reading(PROBE, "class_change", name), signed=True, notes=False)
        tinted = diverging(mean("class_change", name), limit) if limit else ""
        cost = cell(chosen.point.reading(PROBE, "class_cost", name), notes=False)
        rows.append(Row(name, (*cells, cost, Cell(change.text, change.sd, change.n, (), tinted))))
    heads = (*((e, "%") for e in exits), ("MACs", "%"), ("Recall", "points"))
    note = "Recall against the last exit for all. The cheapest class first."
    return Table(f"Who leaves where: {chosen.label}", "Class", heads, tuple(rows), notes=(note,), heat=True)


def _throughputs(panel: Panel, moment: str, environment: str) -> list[Table]:
    """The figures of the charts of throughput, speed over full depth and MACs beside them: one table a target."""
    measured = batching(panel, moment, environment)
    points = {
        x: p for s in panel.series for x, p in zip(point_names(s, s.at(moment)), s.at(moment), strict=True)
    }
    sizes = sorted({int(size) for ways in measured.values() for found in ways.values() for size, _ in found})
    by_target: dict[str, list[tuple[str, str]]] = {}
    for (target, label), ways in measured.items():
        by_target.setdefault(target, []).extend((label, way) for way in ways)
    where = f", {environment}" if environment else ""
    note = "Speed: over the net without its exits, in turns. MACs: what was really computed, of all at the last exit."
    made = []
    for target, arms in by_target.items():
        columns = Columns()
        for size in sizes:
            for metric, title in THROUGHPUT:
                name = f"{metric}_b{size}"
                if metric == "exit_speedup":
                    cells = [
                        speed_cell(points[x], name, environment, "batching", f"{target}/{way}", notes=False)
                        for x, way in arms
                    ]
                else:
                    readings = [
                        points[x].reading("batching", name, f"{target}/{way}", environment) for x, way in arms
                    ]
                    cells = [cell(r, notes=False) for r in readings]
                columns.add(title, unit_of(name), cells, f"Batch {size}")
        rows = tuple(Row(f"{x}: {way}", columns.row(k), first=True) for k, (x, way) in enumerate(arms))
        title = f"Throughput on {target}{where}"
        made.append(Table(title, "Way of running", tuple(columns.heads), rows, columns.spanning, (note,)))
    return made


def _shaded(reading: Reading | None) -> Cell:
    shown = cell(reading, notes=False)
    mean = reading.spread.mean if reading and reading.spread else 0.0
    return Cell(shown.text, shown.sd, shown.n, (), shade(mean / 100, SHADE))


def pictures(panel: Panel, moment: str) -> list[Picture]:
    """The easiest and the hardest images of the policy nearest to half of the cost, its first seed's."""
    chosen = nearest_half(panel, moment)
    if chosen is None:
        return []
    return [
        Picture(f"{title}: {chosen.label}, seed {seed}", picture, note)
        for title, note, picture, seed in _ends(chosen)
        if picture
    ]


def _ends(chosen: Policy) -> list[tuple[str, str, str, int]]:
    """(title, what they are, their picture or empty, seed) of the easiest and of the hardest examples, if any."""
    found = []
    for metric, title in (
        ("easiest", "Left first, the surest"),
        ("hardest", "Went to the end, the least sure"),
    ):
        reading = chosen.point.reading(PROBE, metric)
        if reading and reading.by_seed:
            note = reading.notes[0] if reading.notes else ""
            picture = reading.artefact if reading.artefact.startswith(PREFIX) else ""
            found.append((title, note, picture, min(reading.by_seed)))
    return found


def cost_of(point: Point) -> float | None:
    """Mean cost of a state that some examples leave early, % of its last exit's MACs; None where all go to the end."""
    reading = point.reading(PROBE, "expected_cost")
    early = reading and reading.spread and reading.spread.mean < ALL
    return reading.spread.mean if early and reading and reading.spread else None


def time_of(point: Point, environment: str, batch: int = 1) -> float | None:
    """Time at a batch size on a machine, % of the reference's, timed in turns."""
    speed = point.reading("cost", f"speedup_b{batch}", "", environment)
    return 100 / speed.spread.mean if speed and speed.spread and speed.spread.mean else None


def macs_of(point: Point) -> float | None:
    """Millions of MACs an example: the mean over the test split where some leave early, else those of a forward."""
    reading = point.reading(PROBE, "expected_macs") or point.reading("cost", "macs")
    return reading.spread.mean / 1e6 if reading and reading.spread else None


def lines_of(
    panel: Panel, moment: str, place: Callable[[Point], float | None]
) -> list[tuple[Series, list[tuple[float, Spread]]]]:
    """Each series' states as (place, accuracy), by growing place, nets without exits too; empty where none has any."""
    if not policies(panel, moment):
        return []
    found = []
    for series in panel.series:
        points = [
            (x, reading.spread)
            for point in series.at(moment)
            if (x := place(point)) is not None and (reading := panel.main_reading(point)) and reading.spread
        ]
        if points:
            found.append((series, sorted(points, key=lambda p: p[0])))
    return found


def batching(
    panel: Panel, moment: str, environment: str
) -> dict[tuple[str, str], dict[str, list[tuple[float, Spread]]]]:
    """(target, policy's name) -> way of running -> (batch size, throughput), as measured on one machine."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, Spread]]]] = {}
    for series in panel.series:
        points = series.at(moment)
        for point, label in zip(points, point_names(series, points), strict=True):
            for probe, metric, group in dict.fromkeys((*point.readings, *point.timings.get(environment, {}))):
                if probe != "batching" or not metric.startswith("exit_throughput_b"):
                    continue
                reading = point.reading(probe, metric, group, environment)
                target, _, way = group.partition("/")
                if reading and reading.spread:
                    size = float(metric.removeprefix("exit_throughput_b"))
                    ways = found.setdefault((target, label), {})
                    ways.setdefault(way, []).append((size, reading.spread))
    return found


def moment_of(panel: Panel) -> str:
    """The moment whose policies are shown."""
    return FINAL if FINAL in panel.moments else panel.moments[0]


def controls(panel: Panel, moment: str) -> tuple[str, list[tuple[float, Spread]]]:
    """(the first series with exits, what chance makes of them: (millions of MACs, accuracy))."""
    known = [p for p in policies(panel, moment) if p.series in panel.series]
    own = [p.point for p in known if p.series is known[0].series]
    found = [
        (x, reading.spread)
        for point in own
        if (x := macs_of(point)) is not None
        and (reading := point.reading(PROBE, "random_top1"))
        and reading.spread
    ]
    return known[0].series.label if known else "", sorted(found, key=lambda p: p[0])
