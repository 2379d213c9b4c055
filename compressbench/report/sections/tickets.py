"""Winning tickets: of how many masks the training reaches its dense net, against the width of the net they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressbench.records import Record
from compressbench.report.drawing import Chart, canvas, clean, finish, mark, when
from compressbench.report.estimates import apart
from compressbench.report.numbers import FIXED, MISSING, grouped, number, percentage
from compressbench.report.panels import Panel, Point, Series
from compressbench.report.section import Section, kept, moment_suffix
from compressbench.report.states import Key
from compressbench.report.styles import styles
from compressbench.report.tables import EMPTY, Cell, Row, Table
from compressbench.report.wording import moment_name

PROBE = "tickets"
WINS, ACCURATE, IN_TIME = "ticket_wins", "ticket_as_accurate", "ticket_in_time"
METRICS = (
    WINS,
    ACCURATE,
    IN_TIME,
    "ticket_change",
    "ticket_change_low",
    "ticket_reached",
    "ticket_dense_reached",
    "ticket_net_weights",
    "ticket_kept_weights",
)
ALIKE = 1.05
"""Counts of kept weights, or densities, that differ by less are one."""
WHOLE = 0.999
"""Share of the weights from which on nothing was removed: the dense net trained again, no mask."""
CEILING = (
    "What keeps all weights is no mask but the dense net trained again, of another draw: the share that even an equal "
    "net reaches. A kind of mask whose share rises with it, and no faster, shows nothing of masks."
)
MORE, FEWER, CANT = "more", "fewer", "can’t be told"
COUNTED = (
    "Interval: Wilson’s, 95 %, over masks. Each is of a net drawn anew; those of one seed share the data, the order "
    "of the batches and the test examples, so that they are somewhat more alike than the interval supposes."
)


@dataclass(frozen=True)
class Share:
    """Masks of one kind and of nets of one width.

    Attributes:
        weights: of the net, prunable.
        kept: by a mask, mean.
        hits, n: masks of which something holds, and all.
    """

    weights: int
    kept: float
    hits: int
    n: int

    @property
    def ends(self) -> tuple[float, float]:
        """Wilson's interval, in percent."""
        from compressbench.proportions import wilson

        low, high = wilson(self.hits, self.n)
        return 100 * float(low), 100 * float(high)

    @property
    def whole(self) -> bool:
        """Whether nothing was removed."""
        return self.kept >= WHOLE * self.weights

    @property
    def percent(self) -> float:
        return 100 * self.hits / self.n

    @property
    def text(self) -> str:
        """``7 of 12, 58 % [32–81]``."""
        low, high = self.ends
        return f"{self.hits} of {self.n}, {self.percent:.0f}{FIXED}% [{low:.0f}–{high:.0f}]"


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {(PROBE, metric, False) for metric in METRICS}


def section(panel: Panel, suffix: str) -> Section:
    """Of each moment at which tickets were judged; the one beside nets of their own first."""
    moments = sorted((m for m in panel.moments if _verdicts(panel, m)), key=lambda m: not _own(panel, m))
    charts: tuple[Chart, ...] = ticket_charts(panel, moments[0], suffix) if moments else ()
    tables = [kept([ticket_table(panel, m), trend_table(panel, m)]) for m in moments]
    lead = (
        "A winning ticket: a mask whose weights, trained alone, are no worse than the dense net on the test split, by a "
        f"test of non-inferiority ({_rule(panel)}), and come to its validation accuracy, less the margin, no later than "
        "it does."
    )
    if not tables:
        return Section("Winning tickets", "tickets")
    return Section(
        "Winning tickets", "tickets", charts, tables[0], tuple(t for m in tables[1:] for t in m), lead
    )


def shares(series: Series, moment: str, metric: str = WINS) -> list[Share]:
    """A series' masks by the width of their nets, the narrowest first; all seeds and draws of a width together.

    Of nets whose width isn't known, or is none, there is no share.
    """
    found: dict[int, list[tuple[float, float]]] = {}
    for point in series.at(moment):
        reading = point.reading(PROBE, metric)
        weights, left = (_mean(point, f"ticket_{name}_weights") for name in ("net", "kept"))
        width = round(weights or 0)
        for value in reading.by_seed.values() if reading and width > 0 else ():
            found.setdefault(width, []).append((value, left or 0.0))
    return [
        Share(width, sum(k for _, k in own) / len(own), sum(v > 0.5 for v, _ in own), len(own))
        for width, own in sorted(found.items())
    ]


def ticket_table(panel: Panel, moment: str) -> Table | None:
    """A row for each kind of mask and width: how many are as accurate, no later, and both."""
    looks, rows = styles(panel), []
    for series in panel.series:
        found = {metric: shares(series, moment, metric) for metric in (ACCURATE, IN_TIME, WINS)}
        by_width: Mapping[int, dict[str, Share]] = {
            s.weights: {m: x for m, own in found.items() for x in own if x.weights == s.weights}
            for own in found.values()
            for s in own
        }
        for place, (weights, own) in enumerate(sorted(by_width.items())):
            of = next(iter(own.values()))
            cells = [
                Cell(grouped(weights)),
                Cell(grouped(round(of.kept))),
                Cell(percentage(of.kept / weights)),
                *(Cell(own[m].text) if m in own else EMPTY for m in (ACCURATE, IN_TIME, WINS)),
            ]
            rows.append(Row(series.label, tuple(cells), looks[series.label].colour, first=place == 0))
    if not rows:
        return None
    heads = (("net", "weights"), ("kept", "weights"), ("Density", "%"))
    verdicts = (("as accurate", ""), ("no later", ""), ("winning tickets", ""))
    title = f"Winning tickets, {moment_name(moment)}"
    notes = [beside(panel, moment), f"Rule: {_rule(panel)}. {COUNTED}"]
    notes += [CEILING] if any(s.whole for line in panel.series for s in shares(line, moment)) else []
    return Table(title, "Masks", (*heads, *verdicts), tuple(rows), notes=tuple(notes))


def trend_table(panel: Panel, moment: str) -> Table | None:
    """The narrowest net's masks beside the widest's, one row a kind; intervals hold for all rows together."""
    looks, rows = styles(panel), []
    known = [(series, found) for series in panel.series if len(found := shares(series, moment)) > 1]
    level = 1 - 0.05 / max(len(known), 1)
    for series, found in known:
        change, low, high = difference(found[0], found[-1], level)
        ends = f" [{number(low, 'points', True)} to {number(high, 'points', True)}]"
        cells = (
            Cell(found[0].text),
            Cell(found[-1].text),
            Cell(f"{number(change, 'points', True)}{ends}"),
            Cell(MORE if low > 0 else FEWER if high < 0 else CANT),
        )
        rows.append(Row(series.label, cells, looks[series.label].colour, first=True))
    if not rows:
        return None
    heads = (("narrowest", ""), ("widest", ""), ("difference", "points"), ("in the widest", ""))
    together = (
        ""
        if len(known) < 2
        else f" for the {len(known)} rows together, {100 * level:.4g} % each (Bonferroni)"
    )
    note = f"Interval of the difference: Newcombe’s, 95 %{together}; more or fewer where it lies on one side of 0."
    title = f"Do larger nets hold more winning tickets? {moment_name(moment)}"
    return Table(title, "Masks", heads, tuple(rows), notes=(beside(panel, moment), note))


def difference(one: Share, other: Share, level: float = 0.95) -> tuple[float, float, float]:
    """``other - one`` in points, with the ends of Newcombe's interval for shares of different masks."""
    low, high = apart(other.percent, one.percent, other.n, one.n, level)
    return other.percent - one.percent, low, high


def beside(panel: Panel, moment: str) -> str:
    """Which dense net the masks are judged by, from the records' references."""
    if _own(panel, moment):
        return "Each mask is judged by the dense net that it was taken from: of its width, trained from the same draw."
    weights = next(
        (
            r.spread.mean
            for s in panel.dense.values()
            for p in s.at(moment)
            if (r := p.reading("structure", "prunable")) and r.spread
        ),
        None,
    )
    size = f", of {grouped(round(weights))} prunable weights" if weights else ""
    return f"All masks are judged by one dense net{size}: the run’s reference."


def ticket_charts(panel: Panel, moment: str, suffix: str) -> tuple[Chart, ...]:
    """Share of winning tickets against the net's weights: masks of equal size, and of equal density.

    Where the dense net was trained again it is in both, as what even an equal net reaches.
    """
    found = {s.label: (s, shares(s, moment)) for s in panel.series}
    lines = {label: pair for label, pair in found.items() if len(pair[1]) > 1}
    again = {label for label, (_, own) in lines.items() if all(s.whole for s in own)}
    sized = {label for label, (_, own) in lines.items() if _alike([s.kept for s in own])} - again
    dense = {label for label, (_, own) in lines.items() if _alike([s.kept / s.weights for s in own])} - again
    charts = (
        ("equally many weights kept", sized and sized | again, "size"),
        ("equal density", dense - sized and (dense - sized) | again, "density"),
    )
    tail = f"{moment_suffix(panel, moment)}{suffix}"
    return kept(
        _chart(panel, moment, [lines[k] for k in lines if k in own], words, f"tickets_{name}{tail}")
        for words, own, name in charts
    )


def _chart(
    panel: Panel, moment: str, lines: Sequence[tuple[Series, Sequence[Share]]], words: str, name: str
) -> Chart | None:
    if not lines:
        return None
    figure, axes = canvas(f"Winning tickets against width, {words}{when(moment)}")
    looks = styles(panel)
    for place, (series, own) in enumerate(lines):
        look = looks[series.label]
        xs = [s.weights * (1 + 0.03 * (place - (len(lines) - 1) / 2)) for s in own]  # bars beside each other
        ys = [s.percent for s in own]
        below, above = ([abs(y - s.ends[k]) for s, y in zip(own, ys, strict=True)] for k in (0, 1))
        drawn = axes.errorbar(
            xs, ys, [below, above], color=look.colour, fmt=look.marker, linestyle=look.dash, elinewidth=0.9
        )
        mark(drawn.get_children(), series.label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: grouped(round(value)))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xticks([s.weights for s in lines[0][1]])
    axes.set_ylim(-3, 103)
    axes.set_xlabel("prunable weights of the net (log scale)")
    axes.set_ylabel("winning tickets, % of the masks")
    counts = sorted({s.n for _, own in lines for s in own})
    n = grouped(counts[0]) if len(counts) == 1 else f"{grouped(counts[0])}–{grouped(counts[-1])}"
    whole = ", ".join(series.label for series, own in lines if all(s.whole for s in own))
    ceiling = f" Nothing removed, what even an equal net reaches: {clean(whole)}." if whole else ""
    caption = f"Bars: Wilson’s 95 % interval, n = {n} masks a point. {clean(beside(panel, moment))}{ceiling}"
    return finish(figure, axes, panel, name, caption, drawn=[s for s, _ in lines])


def _alike(values: Sequence[float]) -> bool:
    return bool(values) and max(values) <= ALIKE * min(values)


def _mean(point: Point, metric: str) -> float | None:
    reading = point.reading(PROBE, metric)
    return reading.spread.mean if reading and reading.spread else None


def _verdicts(panel: Panel, moment: str) -> list[Record]:
    """Of masks, at a moment."""
    compressed = {s.name for s in panel.series}
    return [
        row
        for row in panel.rows
        if (row.probe, row.metric, row.moment) == (PROBE, WINS, moment)
        and row.value is not None
        and row.series in compressed
    ]


def _own(panel: Panel, moment: str) -> bool:
    """Whether masks of one seed are compared with several dense nets."""
    by_seed: dict[int, set[str]] = {}
    for row in _verdicts(panel, moment):
        by_seed.setdefault(row.seed, set()).add(row.reference)
    return any(len(found) > 1 for found in by_seed.values())


def _rule(panel: Panel) -> str:
    """Margin and level, as the probe has written them; several where records of several settings are read."""
    notes = [r.note for r in panel.rows if r.probe == PROBE and r.metric == ACCURATE and r.note]
    return "; or ".join(dict.fromkeys(note.partition("; ")[0] for note in notes)) or MISSING
