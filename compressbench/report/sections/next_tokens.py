"""What perplexity hides: distance to the dense language model token by token, and where continuations part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressbench.report.drawing import Chart, Lines, bands, line_chart, log_axis, when
from compressbench.report.numbers import Spread
from compressbench.report.panels import Panel, Point
from compressbench.report.section import Section, both, kept
from compressbench.report.states import Key, Pick, metric_table, of
from compressbench.report.styles import MUTED
from compressbench.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBE = "next_tokens"
TOLD = of(
    PROBE,
    "perplexity",
    "flipped",
    "kl",
    "kl_50",
    "kl_90",
    "kl_99",
    "kl_99_9",
    "kl_max",
    "first_divergence",
    "first_divergence_median",
    "never_diverges",
    "bits_per_byte",
)
BITS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0)
LEAD = (
    "Perplexity is a mean over the tokens that came next: what gets likelier there and what gets less likely cancel. KL "
    "(nats a token, from the dense model) and the share of places at which another token is the likeliest don’t. A token "
    "that flips early changes all that follows: counted from 1 where both go on greedily from the same beginnings, those "
    "that never part as one more than were said."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in TOLD}


def section(panel: Panel, suffix: str) -> Section:
    def build(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Distance to dense, token by token", TOLD, pick)

    plain = both(panel, "Token by token", "tokens", build)
    moment = panel.moments[0]
    charts = [
        against_bits(
            panel, moment, "flipped", "another token is the likeliest, %", f"flipped_vs_bits{suffix}"
        ),
        against_bits(panel, moment, "kl", "KL from dense, nats a token", f"kl_vs_bits{suffix}"),
    ]
    return Section(plain.title, plain.anchor, kept(charts), plain.tables, plain.more, LEAD)


def against_bits(panel: Panel, moment: str, metric: str, label: str, name: str) -> Chart | None:
    """A distance against the mean bits of a weight, dashed that of a dense model of another seed.

    None where no weight was rounded.
    """

    def figure(point: Point, probe: str, of: str) -> Spread | None:
        reading = point.reading(probe, of)
        return reading.spread if reading else None

    lines = []
    for series in panel.series:
        points = [
            (bits.mean, found)
            for p in series.at(moment)
            if (bits := figure(p, "structure", "weight_bits")) and (found := figure(p, PROBE, metric))
        ]
        if points:
            lines.append((series, points))
    places = {round(x, 3) for _, points in lines for x, _ in points}
    if not lines or places == {32.0}:
        return None
    floors = [f for s in panel.floors for p in s.at(moment) if (f := figure(p, PROBE, metric))]

    def dress(axes: Axes, _: Lines) -> None:
        for floor in floors:
            axes.axhline(floor.mean, color=MUTED, linestyle="--", linewidth=1.2, zorder=2)
        log_axis(axes, sorted(places), "mean bits of a weight (log scale, fewer →)", BITS)
        axes.set_ylabel(label)

    told = "Dashed: two dense models of different seeds. " if floors else ""
    counts = {s.n for _, points in lines for _, s in points}
    title = f"{'Flipped tokens' if metric == 'flipped' else 'KL'} against bits{when(moment)}"
    return line_chart(panel, name, title, lines, dress, f"{told}{bands(counts)}")
