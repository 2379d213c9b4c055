"""Accuracy and loyalty under attack, in the worst case, and where gradients mislead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compressbench.report import exchanged as words
from compressbench.report.numbers import counted
from compressbench.report.panels import Panel, Point, Series
from compressbench.report.section import Section, both, kept
from compressbench.report.states import (
    Column,
    Key,
    Line,
    Pick,
    add,
    columns_of,
    lines,
    metric_table,
    of,
    table_of,
    unit_shown,
)
from compressbench.report.tables import EMPTY, Cell, Table, cell
from compressbench.report.wording import examples, moment_name, title_of

PROBE, ON_TARGETS = "robustness", "robustness_deployed"
WARNING = "gradient_warning"
KINDS = ("zero", "shattered", "masked", "no effect of eps")
BY_GRADIENT = of(PROBE, "fgsm_accuracy", "pgd_accuracy", "pgd_margin_accuracy")
BEFORE = of(PROBE, "clean_accuracy", "noise_accuracy")
AFTER = (
    *of(PROBE, "pgd_transfer_accuracy", "square_accuracy"),
    Column(PROBE, "square_queries", notes=False),
)
ENSEMBLES = (
    (Column(PROBE, "worst_case_accuracy"), "worst_case"),
    (Column("autoattack", "autoattack_accuracy"), "autoattack"),
)
"""What stands several attacks, and the stem of the ends of its interval."""
LOYAL = of(
    PROBE,
    "fgsm_label_loyalty",
    "pgd_label_loyalty",
    "fgsm_probability_loyalty",
    "pgd_probability_loyalty",
)
NATURAL = of(
    "natural_adversarial",
    "natural_adversarial_top1",
    "natural_adversarial_clean_top1",
    "natural_adversarial_relative_change",
)
EXECUTED = (
    "clean_accuracy",
    "pgd_accuracy",
    "pgd_margin_accuracy",
    "square_accuracy",
    "worst_case_accuracy",
)
UNSHOWN = (
    (PROBE, "noise_accuracy", True),
    *((c.probe, f"{stem}_{end}", False) for c, stem in ENSEMBLES for end in ("low", "high")),
    (PROBE, WARNING, True),
    *(
        (ON_TARGETS, metric, True)
        for metric in (
            "noise_accuracy",
            "fgsm_accuracy",
            "pgd_transfer_accuracy",
            "square_queries",
            "worst_case_low",
            "worst_case_high",
            WARNING,
        )
    ),
)
"""What the tables' figures and notes contain already."""
READ = (
    "Worst case: right under every attack in the row; 95 %: how sure so many examples make it (Wilson). Marked: "
    "an attack by gradients that were seen to mislead: what it leaves right isn’t robust, see its note and the columns "
    "that need no gradient."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    columns = (*BEFORE, *BY_GRADIENT, *AFTER, *(c for c, _ in ENSEMBLES), *LOYAL, *NATURAL)
    return (
        {c.key for c in columns}
        | {(ON_TARGETS, m, True) for m in EXECUTED}
        | set(UNSHOWN)
        | words.shown(panel, moment)
    )


def section(panel: Panel, suffix: str) -> Section:
    """Tables by attack, of loyalty, on targets, on natural pictures; how far dense nets lie apart is said first."""

    def by_attack(moment: str, pick: Pick) -> Table | None:
        found = lines(panel, moment, pick)
        columns = columns_of(found)
        add(columns, found, BEFORE)
        for column in BY_GRADIENT:
            readings = column.readings(found)
            columns.add(title_of(column.metric), unit_shown(readings), flagged(column, found))
        add(columns, found, AFTER)
        for column, stem in ENSEMBLES:
            add(columns, found, [column])
            columns.add("95 % of examples", "%", _intervals(found, column.probe, stem))
        count = examples(r for c in (*BEFORE, *BY_GRADIENT) for r in c.readings(found))
        notes = [f"{count} examples."] if count else []
        title = f"Accuracy under attack, {moment_name(moment)}"
        return table_of(panel, title, found, columns, notes)

    def loyal(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Loyalty under attack", LOYAL, pick)

    def executed(moment: str, pick: Pick) -> Table | None:
        return _on_targets(panel, moment, pick)

    def natural(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Natural adversarial pictures", NATURAL, pick)

    def exchanged(moment: str, pick: Pick) -> Table | None:
        return words.exchanged(panel, moment, pick)

    builds = (by_attack, loyal, executed, natural, exchanged)
    halves = [both(panel, "Under attack", PROBE, build) for build in builds]
    tables, more = ([t for s in halves for t in part(s)] for part in (lambda s: s.tables, lambda s: s.more))
    told = [*_apart(panel), READ, *_misled(panel)] if halves[0].tables else []
    galleries = tuple(words.galleries(panel, panel.moments[0]))
    return Section("Under attack", PROBE, (), kept(tables), kept(more), " ".join(told), galleries=galleries)


def warnings_of(point: Point) -> dict[str, tuple[str, ...]]:
    """What a state's gradients were warned of in any seed, by kind: the probe's sentences."""
    found = {}
    for kind in KINDS:
        reading = point.reading(PROBE, WARNING, kind)
        if reading and any(value > 0 for value in reading.by_seed.values()):
            found[kind] = tuple(n for n in reading.notes if n)
    return found


def flagged(column: Column, found: Sequence[Line]) -> list[Cell]:
    """A column's cells, marked and noted where gradients were seen to mislead; the margin has a gradient of its own."""
    cells = []
    for line, reading in zip(found, column.readings(found), strict=True):
        warned = warnings_of(line.point)
        if column.metric == "pgd_margin_accuracy":
            warned = {kind: notes for kind, notes in warned.items() if kind == "masked"}
        own = cell(reading)
        if warned and reading is not None and reading.spread:
            notes = (*own.notes, *(n for notes in warned.values() for n in notes))
            own = Cell(own.text, own.sd, own.n, notes, flag=True)
        cells.append(own)
    return cells


def _intervals(found: Sequence[Line], probe: str, stem: str) -> list[Cell]:
    """The ends of Wilson's interval over images, each the mean over seeds."""
    cells = []
    for line in found:
        ends = [line.point.reading(probe, f"{stem}_{end}") for end in ("low", "high")]
        means = [r.spread.mean for r in ends if r and r.spread]
        cells.append(Cell(f"{means[0]:.1f}–{means[1]:.1f}") if len(means) == 2 else EMPTY)
    return cells


def _on_targets(panel: Panel, moment: str, pick: Pick) -> Table | None:
    """What runtimes execute, under attack: columns spanned by the runtime's name."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    targets = dict.fromkeys(
        group
        for line in found
        for (probe, metric, group) in line.point.readings
        if (probe, metric) == (ON_TARGETS, "worst_case_accuracy")
    )
    wanted = [Column(ON_TARGETS, m, over=target, group=target) for target in targets for m in EXECUTED]
    add(columns, found, wanted)
    count = examples(r for column in wanted for r in column.readings(found))
    notes = [
        f"{count} examples. Bad examples are made on the simulation in torch; Square asks the runtime itself."
    ]
    title = f"Accuracy under attack of what a runtime executes, {moment_name(moment)}"
    return table_of(panel, title, found, columns, notes, spanning=True)


def _apart(panel: Panel) -> list[str]:
    """How far the worst cases of dense nets lie apart, which training alone does: said before states are compared."""
    values = _worst_cases(panel.dense.values(), panel.moments[0])
    if len(values) < 2:  # of several seeds a floor is one of the others' dense nets
        values += _worst_cases(panel.floors, panel.moments[0])
    if not values:
        return []
    different = sorted(set(values))
    if len(values) < 2:
        return [
            "One dense net alone was attacked: between seeds the robust accuracy of dense nets differs by many points "
            "(15 were seen), so that differences of some points here say nothing of the method."
        ]
    low, high = different[0], different[-1]
    return [
        f"The worst cases of {counted(len(values), 'dense net')}, which differ in their seed alone, lie "
        f"{high - low:.1f} points apart ({low:.1f} to {high:.1f} %): differences between states that are smaller say "
        "nothing of the method."
    ]


def _worst_cases(series: Iterable[Series], moment: str) -> list[float]:
    """Worst-case accuracies of the first states of series, one a seed, in percent."""
    points = [point for one in series for point in one.at(moment)[:1]]
    readings = [point.reading(PROBE, "worst_case_accuracy") for point in points]
    return [value for reading in readings if reading for value in reading.by_seed.values()]


def _misled(panel: Panel) -> Iterable[str]:
    """Which series hold states whose gradients mislead."""
    told: dict[str, int] = {}
    for series in panel.everything():
        marked = sum(bool(warnings_of(point)) for point in series.at(panel.moments[0]))
        if marked:
            told[series.label] = marked
    if told:
        states = counted(sum(told.values()), "state")
        yield f"Gradients mislead in {states}: {', '.join(told)}."
