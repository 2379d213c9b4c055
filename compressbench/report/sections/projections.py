"""Random separators and projections: chances counted over draws, against the dimension."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressbench.records import Record
from compressbench.report.drawing import Chart, canvas, saved, when
from compressbench.report.numbers import grouped, number, spread
from compressbench.report.panels import DENSE, Panel
from compressbench.report.parts import rising_axis
from compressbench.report.section import Section, kept, moment_suffix
from compressbench.report.states import Key
from compressbench.report.styles import COLOURS, DASHES, INK, MARKERS, MUTED
from compressbench.report.tables import Cell, Row, Table
from compressbench.report.wording import moment_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
SEPARATORS, PAIRS = "random_separators", "projected_pairs"
SEPARATING = {
    "separator_margin": "some combination, margin near the limit’s",
    "separator_all": "some combination separates all",
    "separator_near": "some combination, nearly",
    "separator_best": "the best single feature, nearly",
    "separator_one": "one random direction, nearly",
}
KEPT = {
    "pairs_kept": "distances",
    "squares_kept": "squared distances",
    "all_pairs_kept": "all squared ones at once",
}
COUNTED = (*SEPARATING, "all_pairs_kept")
"""Shares of draws, which are pooled over seeds; the others are means."""
DIGITS = 9
"""Of a dimension at most; a group of more is none."""
EXACT = {
    "separator_by_chance": "labels thrown by a coin (exact)",
    "pairs_expected": "distances, expected (exact)",
}
ENOUGH = {"enough_dimensions": "squared distances", "enough_dimensions_pairs": "distances"}

Rows = Mapping[str, Sequence[Record]]
"""Of one probe at a moment, by metric."""


@dataclass(frozen=True)
class Share:
    """A share in percent at one dimension, over all seeds.

    Attributes:
        low, high: of its 95 % interval: Wilson's of pooled draws; of means over seeds their sample deviation about it.
        n: draws of all seeds; seeds, of means.
    """

    dimension: int
    value: float
    low: float
    high: float
    n: int


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    separators = {(SEPARATORS, name, True) for name in (*SEPARATING, "separator_by_chance")}
    pairs = {(PAIRS, name, True) for name in (*KEPT, "pairs_expected")}
    ends = {
        (SEPARATORS if name in SEPARATING else PAIRS, f"{name}{end}", True)
        for name in COUNTED
        for end in ("_low", "_high")
    }
    return {*separators, *pairs, *ends, *((PAIRS, name, False) for name in ENOUGH)}


def section(panel: Panel, suffix: str) -> Section:
    charts: list[Chart | None] = []
    tables: list[Table | None] = []
    for moment in panel.moments:
        one, other = _rows(panel, moment, SEPARATORS), _rows(panel, moment, PAIRS)
        tail = moment_suffix(panel, moment) + suffix
        charts += [
            separators(one, moment, f"separators{tail}"),
            pairs(other, moment, f"projected_pairs{tail}"),
        ]
        tables += [
            _table(one, moment, SEPARATING, "separator_by_chance", "Random separators"),
            _table(other, moment, KEPT, "pairs_expected", "Projected pairs"),
        ]
    return Section("Random separators and projections", "projections", kept(charts), kept(tables))


def separators(rows: Rows, moment: str, name: str) -> Chart | None:
    """The chance that random features, or one of them, nearly separate two classes, against how many there are."""
    figure, axes = canvas(f"Chance that random features separate{when(moment)}")
    drawn = _draw(rows, axes, SEPARATING, "separator_by_chance")
    if not drawn:
        return None
    rising_axis(axes, [s.dimension for s in drawn], "random features D (log scale, more →)")
    axes.set_ylabel("share of draws, %")
    axes.set_ylim(-3, 103)
    told = _note(rows, "separator_one")
    caption = (
        f"Nearly: {told}. Bands: Wilson’s 95 % interval over {_draws(drawn)} draws of all seeds, as if each were "
        "by itself (they share the data set’s examples). Dashed: what labels without meaning would give (Cover 1965)."
    )
    return _saved(figure, axes, name, caption)


def pairs(rows: Rows, moment: str, name: str) -> Chart | None:
    """The share of pairwise distances that a random projection keeps, against its dimensions, with the lemma's bound."""
    figure, axes = canvas(f"Distances kept by random projections{when(moment)}")
    drawn = _draw(rows, axes, KEPT, "pairs_expected")
    if not drawn:
        return None
    places = [float(s.dimension) for s in drawn]
    for place, (metric, what) in enumerate(ENOUGH.items()):
        found = spread({r.seed: r.value for r in rows.get(metric, ()) if r.value is not None}.values())
        if found:
            places.append(found.mean)
            label = f"lemma’s k, {what}: {number(found.mean, '1')}"
            axes.axvline(found.mean, color=INK, linewidth=1.1, linestyle=DASHES[2 + place], label=label)
    rising_axis(axes, places, "dimensions k of the projection (log scale, more →)")
    axes.set_ylabel("share, %")
    axes.set_ylim(-3, 103)
    caption = (
        f"{_note(rows, 'pairs_kept')}. Bands: of all at once Wilson’s 95 % interval over the draws of "
        "all seeds, as if each were by itself (draws of one seed share their points); else mean ± sample sd over seeds. "
        "Vertical: Johnson and Lindenstrauss’ bound for these examples, above which a projection exists that keeps all "
        "of them."
    )
    return _saved(figure, axes, name, caption)


def _draw(rows: Rows, axes: Axes, names: dict[str, str], exact: str) -> list[Share]:
    every: list[Share] = []
    for place, (metric, label) in enumerate(names.items()):
        found = shares(rows.get(metric, ()), metric in COUNTED)
        if not found:
            continue
        colour, xs = COLOURS[place % len(COLOURS)], [s.dimension for s in found]
        axes.plot(
            xs, [s.value for s in found], color=colour, marker=MARKERS[place % len(MARKERS)], label=label
        )
        axes.fill_between(
            xs, [s.low for s in found], [s.high for s in found], color=colour, alpha=0.16, linewidth=0
        )
        every += found
    known = shares(rows.get(exact, ()), counted=False)
    if known and every:
        xs, ys = [s.dimension for s in known], [s.value for s in known]
        axes.plot(xs, ys, color=MUTED, linestyle=DASHES[1], linewidth=1.2, label=EXACT[exact])
    return every


def shares(rows: Iterable[Record], counted: bool) -> list[Share]:
    """Shares by dimension, rising, over all seeds.

    Args:
        counted: whether values are shares of a record's n draws, whose counts are added up; else they are averaged.
    """
    from compressbench.proportions import wilson

    by_dimension: dict[int, dict[int, Record]] = {}
    for row in rows:
        if row.value is not None and row.group.isdecimal() and len(row.group) <= DIGITS:
            by_dimension.setdefault(int(row.group), {})[row.seed] = row
    found = []
    for dimension, by_seed in sorted(by_dimension.items()):
        values = [(r.value or 0.0, r.n) for r in by_seed.values()]
        if counted:
            draws = sum(n for _, n in values)
            hits = sum(round(value * n / 100) for value, n in values)
            low, high = wilson(hits, draws)
            share = 100 * hits / draws if draws else 0.0
            found.append(Share(dimension, share, 100 * float(low), 100 * float(high), draws))
        elif mean := spread(value for value, _ in values):
            sd = mean.sd or 0.0
            found.append(Share(dimension, mean.mean, mean.mean - sd, mean.mean + sd, mean.n))
    return found


def _rows(panel: Panel, moment: str, probe: str) -> Rows:
    """Of the reference alone: what is measured says nothing of a state."""
    found: dict[str, list[Record]] = {}
    for row in panel.rows:
        if (row.probe, row.moment, row.series) == (probe, moment, DENSE):
            found.setdefault(row.metric, []).append(row)
    return found


def _note(rows: Rows, metric: str) -> str:
    return next((r.note for r in rows.get(metric, ()) if r.note), "")


def _draws(drawn: Iterable[Share]) -> str:
    return grouped(max(s.n for s in drawn))


def _saved(figure: object, axes: Axes, name: str, caption: str) -> Chart:
    handles, labels = axes.get_legend_handles_labels()
    return saved(figure, name, axes.get_title(loc="left"), caption, list(zip(labels, handles, strict=True)))  # type: ignore[arg-type]


def _table(rows: Rows, moment: str, names: dict[str, str], exact: str, title: str) -> Table | None:
    """The figures of a chart: a row a dimension, shares with their intervals where they are counted."""
    columns = {m: {s.dimension: s for s in shares(rows.get(m, ()), m in COUNTED)} for m in (*names, exact)}
    columns = {m: found for m, found in columns.items() if found}
    dimensions = sorted({d for found in columns.values() for d in found})
    if not dimensions or set(columns) == {exact}:
        return None
    words = {**names, **EXACT}
    return Table(
        title=f"{title}, %, {moment_name(moment)}",
        stub="Dimensions",
        heads=tuple((words[m][:1].upper() + words[m][1:], "") for m in columns),
        rows=tuple(
            Row(grouped(d), tuple(_cell(found.get(d), m in COUNTED) for m, found in columns.items()))
            for d in dimensions
        ),
        notes=("In brackets: Wilson’s 95 % interval over the draws of all seeds.",),
    )


def _cell(found: Share | None, counted: bool) -> Cell:
    if found is None:
        return Cell("–")
    text = number(found.value, "%")
    return Cell(f"{text} ({number(found.low, '%')}–{number(found.high, '%')})" if counted else text)
