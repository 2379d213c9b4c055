"""Loyalty in full: by class, on unlabelled pictures, KL, and the floor that a population of dense nets gives."""

from __future__ import annotations

from collections.abc import Mapping

from compressbench.records import Record
from compressbench.report.drawing import (
    ROWS_SHOWN,
    Chart,
    bars,
    by_group,
    canvas,
    clean,
    dots,
    finish,
    lowest_at,
    name_rows,
    saved,
    when,
)
from compressbench.report.heat import group_heat
from compressbench.report.numbers import number
from compressbench.report.panels import Panel
from compressbench.report.section import Section, kept
from compressbench.report.states import Key, metric_table, of, some
from compressbench.report.styles import COLOURS, MUTED
from compressbench.report.tables import EMPTY, Cell, Columns, Row, Table, cell
from compressbench.report.wording import moment_name

PROBE = "loyalty"
APART = of(
    PROBE,
    "label_loyalty",
    "probability_loyalty",
    "kl",
    "kl_50",
    "kl_99",
    "unlabelled_label_loyalty",
    "unlabelled_probability_loyalty",
)
GROUPS = ("label_loyalty", "probability_loyalty")
MEANT = (
    "L-L: share of examples of which both nets name one class, right or wrong; P-L: closeness of their probabilities, "
    "16.7 for nothing in common (Xu et al. 2021). KL in nats: median, and what one example in a hundred is above. "
    "Two nets trained alike from other seeds agree on this much only (the floor): loyalty above it is more than "
    "training once more would keep."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in APART if c.metric not in GROUPS} | {(PROBE, m, True) for m in GROUPS}


def section(panel: Panel, suffix: str) -> Section:
    moment, *rest = panel.moments
    by_class = any(r.probe == PROBE and r.metric == GROUPS[0] and r.group for r in panel.rows)
    floor = floor_table(panel)
    if not by_class and floor is None:
        return Section("Loyalty, class by class", "loyalty")
    charts = [
        floor_chart(panel, f"loyalty_floor{suffix}"),
        loyalty_by_class(panel, moment, f"loyalty_by_class{suffix}"),
    ]
    tables = [floor, metric_table(panel, moment, "Loyalty and distance", APART, some)]
    more = [group_table(panel, moment, m) for m in GROUPS]
    more += [metric_table(panel, m, "Loyalty and distance", APART, some) for m in rest]
    more += [group_table(panel, m, GROUPS[0]) for m in rest]
    return Section("Loyalty, class by class", "loyalty", kept(charts), kept(tables), kept(more), MEANT)


def loyalty_by_class(panel: Panel, moment: str, name: str) -> Chart | None:
    """Label loyalty per class beside the lead's smallest state, the least loyal on top."""
    lines = by_group(panel, moment, PROBE, GROUPS[0])
    if not lines:
        return None
    least = {
        group: min(found[group].mean for _, _, found in lines if group in found)
        for _, _, one in lines
        for group in one
    }
    names = sorted(least, key=lambda g: (least[g], g))
    cut = names[:ROWS_SHOWN]
    title = "Label loyalty per class" + (
        "" if len(cut) == len(names) else f", the {len(cut)} lowest of {len(names)}"
    )
    figure, axes = canvas(title + when(moment), rows=len(cut))
    counts = dots(panel, axes, lines, cut)
    axes.set_xlabel("examples on which both nets name one class, %")
    return finish(figure, axes, panel, name, f"{lowest_at(panel, lines)}. {bars(counts)}", lines)


def group_table(panel: Panel, moment: str, metric: str) -> Table | None:
    """Loyalty by class and sub-group, the lowest first."""
    heat = group_heat(panel, moment, PROBE, metric)
    if heat is None:
        return None
    columns, groups, names, states = heat

    def least(name: str) -> float:
        read = [r.spread.mean for p in states if (r := p.reading(PROBE, metric, name)) and r.spread]
        return min(read, default=100.0)

    rows = tuple(
        Row(name, tuple(cell(p.reading(PROBE, metric, name), notes=False) for p in states))
        for name in sorted(names, key=lambda n: (least(n), n))
    )
    words = "Label loyalty" if metric == GROUPS[0] else "Probability loyalty"
    return Table(
        title=f"{words} per class, %, {moment_name(moment)}",
        stub="Class, lowest first",
        heads=columns,
        rows=rows,
        groups=groups,
        notes=("Of the true class; of an example without label, of the class that the dense net names.",),
    )


Told = Mapping[str, Record]


def _populations(panel: Panel) -> list[tuple[str, Told]]:
    """Each population's loyalty, by metric; of one name in several runs, that of each."""
    found: dict[tuple[str, str, int, str], dict[str, Record]] = {}
    for row in panel.populations:
        if row.probe == PROBE and row.value is not None:
            found.setdefault((row.recipe, row.series, row.seed, row.key), {})[row.metric] = row
    many = len({place[:1] + place[2:3] for place in found}) > 1
    return [
        (f"{series}, {recipe}, seed {seed}" if many else series, told)
        for (recipe, series, seed, _), told in found.items()
    ]


def floor_chart(panel: Panel, name: str) -> Chart | None:
    """Loyalty of each population to the dense nets of its seeds, over the range of pairs of dense nets."""
    found = [(label, told) for label, told in _populations(panel) if "population_label_loyalty" in told]

    def value(told: Told, metric: str) -> float:
        known = told[metric].value
        assert known is not None  # others are left out
        return known

    floors = [told for _, told in found if "floor_label_loyalty_low" in told]
    if not floors:
        return None
    figure, axes = canvas("Loyalty beside the floor of dense nets", rows=2 * len(found))
    for row, (_, told) in enumerate(found):
        if "floor_label_loyalty_low" in told:
            low, middle, high = (value(told, f"floor_label_loyalty{e}") for e in ("_low", "", "_high"))
            axes.plot([low, high], [row, row], color=MUTED, linewidth=7, alpha=0.35, solid_capstyle="butt")
            axes.plot([middle], [row], "|", color=MUTED, markersize=9)
        axes.plot([value(told, "population_label_loyalty")], [row], "o", color=COLOURS[0], markersize=5)
    name_rows(axes, [clean(label) for label, _ in found], 34)
    axes.set_xlabel("label loyalty, %")
    nets = floors[0]["floor_label_loyalty"].n
    caption = (
        "Dots: mean over a population’s nets, each beside the dense net of its seed. Grey: lowest to highest of all "
        f"pairs of {nets} dense nets, and their mean."
    )
    return saved(figure, name, axes.get_title(loc="left"), caption, [])


def floor_table(panel: Panel) -> Table | None:
    """Loyalty of populations and of pairs of dense nets."""
    found = _populations(panel)
    if not found:
        return None
    columns = Columns()
    for what, short in (("label", "L-L"), ("probability", "P-L")):
        columns.add(f"{short}, nets", "%", [_figure(t, f"population_{what}_loyalty") for _, t in found])
        columns.add(f"{short}, floor", "%", [_figure(t, f"floor_{what}_loyalty") for _, t in found])
        columns.add(f"{short}, floor’s range", "%", [_range(t, f"floor_{what}_loyalty") for _, t in found])
    rows = tuple(Row(label, columns.row(k)) for k, (label, _) in enumerate(found))
    notes = list(dict.fromkeys(r.note for _, t in found for m, r in t.items() if r.note and m[:5] == "floor"))
    return Table("Loyalty of populations", "Population", tuple(columns.heads), rows, notes=tuple(notes[:2]))


def _figure(told: Told, metric: str) -> Cell:
    row = told.get(metric)
    return EMPTY if row is None or row.value is None else Cell(number(row.value, row.unit))


def _range(told: Told, metric: str) -> Cell:
    ends = [told.get(f"{metric}_{end}") for end in ("low", "high")]
    known = [number(r.value, r.unit) for r in ends if r is not None and r.value is not None]
    return Cell("–".join(known)) if len(known) == len(ends) else EMPTY
