"""What a student may learn from soft labels: relations between the classes, and weights of the examples."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressbench.report.drawing import LABEL, WIDTH, Chart, clean, saved, short, when
from compressbench.report.numbers import between, counted
from compressbench.report.panels import Panel, Point, beside_lead
from compressbench.report.section import Section, both, kept
from compressbench.report.states import Key, Pick, metric_table, of
from compressbench.report.students import branch
from compressbench.report.tables import GAIN, LOSS, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch
RELATING = (
    "Entropy: of a net’s own answers, softened: 0 for one class alone, high for dense answers. Relation: how close two "
    "classes lie in what the last layer reads. Agreement: correlation of a net’s relations with the dense net’s, its "
    "teacher’s. Confusion: rank correlation of its relations with how likely the dense net, softened, thinks the one "
    "class on examples of the other."
)
RESCALING = (
    "Rescaling: the gradient of the true class’s logit under the teacher’s soft labels over that under the label "
    "alone; hard and easy: the quarters of examples whose true class the teacher, softened, thinks least and most likely."
)
RELATED = of("relations", "entropy", "entropy_share", "relation_agreement", "relation_confusion")
RESCALED = of(
    "rescaling",
    *(f"rescaling_{part}" for part in ("mean", "median", "hard", "easy", "rank_correlation")),
)
RELATION = ("relations", "relation")
SEPARATOR = " · "
MATRICES, OF_MANY_CLASSES, MANY_CLASSES = 16, 8, 12
CLASSES_NAMED, MANY = 20, 10
SHADES = 41  # matplotlib makes a picture of a colour bar of 50 or more
TITLE_WIDTH = 26
NOTHING = "#dfe1e4"


@dataclass(frozen=True)
class Matrix:
    """Relations of one state, the mean over seeds.

    Attributes:
        title: the series, and the state where the series has several.
        classes: names, in label order.
        values: rows of cosines; None where it could not be had.
        counts: the distinct numbers of seeds behind them.
        notes: what the probe had to say.
    """

    title: str
    classes: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    counts: tuple[int, ...]
    notes: tuple[str, ...]


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in (*RELATED, *RESCALED)} | {(*RELATION, True)}


def section(panel: Panel, suffix: str) -> Section:
    """What a student may learn from soft labels: relations between the classes, and weights of the examples."""

    def relations(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Answers and relations between classes", RELATED, pick)

    def rescaled(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Rescaling of each example’s gradient", RESCALED, pick)

    title, anchor = "Relations between classes", "relations"
    halves = [both(panel, title, anchor, build) for build in (relations, rescaled)]
    chart = class_relations(panel, panel.moments[0], f"class_relations{suffix}")
    tables, more = ([t for s in halves for t in part(s)] for part in (lambda s: s.tables, lambda s: s.more))
    lead = " ".join(
        words for section, words in zip(halves, (RELATING, RESCALING), strict=True) if section.tables
    )
    return Section(title, anchor, kept([chart]), tuple(tables), tuple(more), lead)


def matrices(panel: Panel, moment: str) -> list[Matrix]:
    """Dense first, then each series, of several states the one beside the lead's lowest density."""
    found = []
    for series in (*panel.dense.values(), *panel.series):
        point = beside_lead(panel, series, moment)
        if point and any(key[:2] == RELATION for key in point.readings):
            several = len(series.at(moment)) > 1
            found.append(_averaged(point, f"{series.label}, {branch(point)}" if several else series.label))
    return found


def _averaged(point: Point, title: str) -> Matrix:
    readings = {group: r for (*key, group), r in point.readings.items() if tuple(key) == RELATION}
    classes = tuple(name for group in readings if (name := _diagonal(group)) is not None)
    spreads = {group: r.spread for group, r in readings.items()}
    cells = [[spreads.get(f"{a}{SEPARATOR}{b}") for b in classes] for a in classes]
    return Matrix(
        title=title,
        classes=classes,
        values=tuple(tuple(c.mean if c else None for c in row) for row in cells),
        counts=tuple(sorted({c.n for row in cells for c in row if c})),
        notes=tuple(dict.fromkeys(n for r in readings.values() if r.by_seed for n in r.notes)),
    )


def _diagonal(group: str) -> str | None:
    """The class of a group like ``a · a``, whatever its name holds; None for two different classes."""
    half = (len(group) - len(SEPARATOR)) // 2
    name = group[: max(half, 0)]
    return name if group == f"{name}{SEPARATOR}{name}" else None


def class_relations(panel: Panel, moment: str, name: str) -> Chart | None:
    """Relations between classes in the representation: a small matrix each of dense and the series."""
    found = matrices(panel, moment)
    if not found:
        return None
    most = OF_MANY_CLASSES if max(len(m.classes) for m in found) > MANY_CLASSES else MATRICES
    shown, left = found[:most], len(found) - most
    counts = {n for matrix in shown for n in matrix.counts}
    told = [
        "Cosine between the means of two classes in what the last layer reads, about the mean of all classes. "
        "Blue: the net takes them for alike; orange: for opposites.",
        "One seed." if counts <= {1} else f"Mean over {between(counts)} seeds.",
        *(f"Shown are {note}." for note in dict.fromkeys(n for matrix in shown for n in matrix.notes)),
        *([f"{counted(left, 'more series', 'more series')} in the records."] if left > 0 else []),
    ]
    title = f"Relations between classes{when(moment)}"
    return saved(_matrices(shown, title), name, title, " ".join(told), [])


def _matrices(shown: Sequence[Matrix], title: str) -> Figure:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    most = max(len(matrix.classes) for matrix in shown)
    across = min(len(shown), 3 if most <= MANY else 2)
    rows = -(-len(shown) // across)
    figure = Figure(figsize=(WIDTH, 1.0 + rows * (WIDTH - 0.2) / max(across, 2)), layout="constrained")
    figure.suptitle(clean(title), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    ends = [tuple(part / 255 for part in colour) for colour in (LOSS, (255, 255, 255), GAIN)]
    colours = LinearSegmentedColormap.from_list("relations", ends, N=SHADES)
    scale = Normalize(-1, 1)
    grid = figure.subplots(rows, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        below = place + across >= len(shown)
        _matrix(axes, shown[place], colours, scale, named=(place % across == 0, below))
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=grid, location="bottom", fraction=0.03, aspect=45, ticks=[-1, 0, 1]
    )
    bar.outline.set_visible(False)
    bar.set_label("cosine")
    return figure


def _matrix(axes: Axes, matrix: Matrix, colours: Any, scale: Any, named: tuple[bool, bool]) -> None:
    """One matrix; ``named``: whether the classes stand at its left, and whether below it."""
    from matplotlib.colors import to_hex

    k = len(matrix.classes)
    cells: dict[str, list[tuple[int, int]]] = {}
    for y, row in enumerate(matrix.values):
        for x, value in enumerate(row):
            cells.setdefault(NOTHING if value is None else to_hex(colours(scale(value))), []).append((x, y))
    for colour, places in cells.items():
        axes.add_patch(_squares(places, colour))
    axes.set_aspect("equal")
    axes.set_xlim(0, k)
    axes.set_ylim(k, 0)
    axes.grid(visible=False)
    lines = textwrap.wrap(short(clean(matrix.title), LABEL), TITLE_WIDTH, break_on_hyphens=False) or [""]
    axes.set_title("\n".join(lines), fontsize=7.5, fontweight="normal", pad=4)
    axes.tick_params(length=0, labelsize=5.5, pad=1.5)
    axes.spines[:].set_visible(False)
    names = [short(clean(c), 12) for c in matrix.classes] if k <= CLASSES_NAMED else []
    for named_here, ticks in zip(named, (axes.set_yticks, axes.set_xticks), strict=True):
        kept = names if named_here else []
        ticks([place + 0.5 for place in range(len(kept))], kept)
    axes.tick_params(axis="x", rotation=90)


def _squares(places: Sequence[tuple[int, int]], colour: str) -> PathPatch:
    """Unit squares of one colour, as one path: a third of the bytes of a path each."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = [(x + a, y + b) for x, y in places for a, b in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(places)
    return PathPatch(Path(corners, codes), facecolor=colour, linewidth=0, clip_on=False)
