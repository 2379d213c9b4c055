"""What compressed nets forget: classes that pay, examples that are answered otherwise, families side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from compressbench.declared import title_of
from compressbench.records import ENCODINGS, Record
from compressbench.report.gallery import gallery
from compressbench.report.numbers import MISSING, between, grouped, number
from compressbench.report.panels import POPULATIONS, Panel
from compressbench.report.section import Gallery, Section
from compressbench.report.sections.populations import (
    Figures,
    Place,
    is_first,
    labels_of,
    mean_of,
    populations,
)
from compressbench.report.tables import EMPTY, Cell, Columns, Row, Table

IMPACT, EXEMPLARS, AGREEMENT = "impact", "exemplars", "agreement"
PROBES = (IMPACT, EXEMPLARS)
"""Whose figures stand here, and not with those of other populations."""
COUNTS = (
    ("impacted_classes", "p ≤ .05"),
    ("impacted_down", "of these down"),
    ("impacted_up", "up"),
    ("impacted_holm", "Holm"),
    ("impacted_bh", "Benjamini-Hochberg"),
    ("impacted_null", "by chance"),
    ("detectable_impact", "seen from"),
)
SHARES = (
    "exemplar_share", "exemplar_null", "exemplar_count", "exemplar_ties", "reference_on_exemplars",
    "reference_elsewhere", "subject_on_exemplars", "subject_elsewhere", "taxicab_mean",
)  # fmt: skip
FEW, TILES, ALPHA = 8, 8, 0.05
SAME_BYTES, SAME_ACCURACY = 1.25, 1.0
"""A ratio of bytes, and points of mean accuracy, up to which two families are set side by side."""
TEST = (
    "Of each net the recall of a class less the mean accuracy of its population; then Welch’s test between the two "
    "populations, so a loss that all classes share is none. Raw p ≤ .05 finds one class of twenty where nothing is true; "
    "Holm’s correction lets one mistake through in 5 % of comparisons at most; of what Benjamini-Hochberg names 5 % may "
    "be mistakes. By chance: the same raw count between halves of the reference’s own nets. Seen from: the smallest "
    "impact found 4 times of 5, uncorrected."
)
MODAL = (
    "Exemplars: test examples whose modal label, the one that most nets give, is not that of the reference population; "
    "of equally frequent labels the highest. By chance: the same between halves of the reference’s own nets, whose modal "
    "labels waver more since they are fewer. On exemplars and elsewhere: mean accuracy of the nets."
)


def section(panel: Panel, suffix: str) -> Section:
    found = {
        place: figures
        for place, figures in populations(panel).items()
        if any(k[0] in PROBES for k in figures)
    }
    if not found:
        return Section("What compressed networks forget", "forgotten")
    own = Known(found, labels_of(list(found)))
    tables = [t for t in (*_affected(own), _exemplars(own)) if t]
    more = [t for t in (*_by_class(own), _origins(own), *_families(panel, own)) if t]
    return Section(
        "What compressed networks forget",
        "forgotten",
        (),
        tuple(tables),
        tuple(more),
        _lead(own),
        galleries=tuple(_galleries(panel, own)),
    )


@dataclass(frozen=True)
class Known:
    """Populations with their figures, and what they are called."""

    found: Mapping[Place, Figures]
    labels: Sequence[str]

    @property
    def figures(self) -> list[Figures]:
        return list(self.found.values())

    @property
    def others(self) -> list[tuple[str, Figures]]:
        """Without those that are compared with."""
        return [(label, f) for label, f in zip(self.labels, self.figures, strict=True) if not is_first(f)]


def _lead(own: Known) -> str:
    """How few nets there are, where they are few."""
    counts = [row.n for f in own.figures if (row := mean_of(f))]
    if not counts or min(counts) >= FEW:
        return ""
    return (
        f"{between(counts)} nets a population: with fewer than {FEW} the test by class sees little, and no affected "
        "class doesn’t mean that none is."
    )


def _affected(own: Known) -> list[Table]:
    """How many classes, and how many values of each attribute, pay more or less than the average."""
    families = list(dict.fromkeys(k[2] for f in own.figures for k in f if k[1] == "impacted_classes"))
    return [_count_table(own, family) for family in families]


def _count_table(own: Known, family: str) -> Table:
    columns = Columns()
    columns.add("nets", "", [_nets(f) for _, f in own.others])
    for metric, head in COUNTS:
        unit = "points" if metric == "detectable_impact" else ""
        columns.add(head, unit, [_cell(f.get((IMPACT, metric, family))) for _, f in own.others])
    tested = between(
        row.n for _, f in own.others if (row := f.get((IMPACT, "impacted_classes", family))) and row.n
    )
    what = f"values of {family}" if family else "classes"
    rows = tuple(Row(label, columns.row(k)) for k, (label, _) in enumerate(own.others))
    notes = (f"{TEST} {tested} {what} tested." if tested else TEST,)
    title = f"Affected {what}"
    return Table(title, "Population", tuple(columns.heads), rows, notes=notes, remarks=tuple(columns.remarks))


def _exemplars(own: Known) -> Table | None:
    columns = Columns()
    for metric in SHARES:
        unit = next((r.unit for _, f in own.others if (r := f.get((EXEMPLARS, metric, "")))), "")
        cells = [_cell(f.get((EXEMPLARS, metric, ""))) for _, f in own.others]
        columns.add(title_of(metric), "" if unit == "1" else unit, cells)
    rows = tuple(Row(label, columns.row(k)) for k, (label, _) in enumerate(own.others))
    if not columns.heads:
        return None
    return Table(
        "Exemplars",
        "Population",
        tuple(columns.heads),
        rows,
        notes=(MODAL,),
        remarks=tuple(columns.remarks),
    )


def _by_class(own: Known) -> list[Table]:
    """The impact on each class and each value of an attribute, one column a population."""
    groups = list(dict.fromkeys(k[2] for f in own.figures for k in f if k[:2] == (IMPACT, "impact")))
    families: dict[str, list[str]] = {}
    attributes = {k[2] for f in own.figures for k in f if k[1] == "impacted_classes"} - {""}
    for group in groups:
        name = group.partition("=")[0]
        families.setdefault(name if name in attributes and "=" in group else "", []).append(group)
    return [t for name, members in families.items() if (t := _impact_table(own, name, members))]


def _impact_table(own: Known, name: str, groups: Sequence[str]) -> Table | None:
    def impact(figures: Figures, group: str) -> Cell:
        row, p = (figures.get((IMPACT, metric, group)) for metric in ("impact", "impact_p_holm"))
        if row is None or row.value is None:
            return EMPTY
        sure = p is not None and p.value is not None and p.value <= ALPHA
        raw = figures.get((IMPACT, "impact_p", group))
        maybe = raw is not None and raw.value is not None and raw.value <= ALPHA
        return Cell(number(row.value, "points", signed=True) + ("**" if sure else "*" if maybe else ""))

    if not own.others:
        return None
    rows = tuple(Row(group, tuple(impact(f, group) for _, f in own.others)) for group in groups)
    heads = tuple((label, "points") for label, _ in own.others)
    return Table(
        f"Impact by {name or 'class'}",
        "Class" if not name else "Group",
        heads,
        rows,
        notes=("Recall less mean accuracy, less the same of the reference. * p ≤ .05, ** also after Holm.",),
    )


def _origins(own: Known) -> Table | None:
    """Which classes and sub-groups the exemplars come from."""
    groups = list(
        dict.fromkeys(k[2] for f in own.figures for k in f if k[:2] == (EXEMPLARS, "exemplar_share") and k[2])
    )
    some = [
        (label, f) for label, f in own.others if (r := f.get((EXEMPLARS, "exemplar_count", ""))) and r.value
    ]
    if not groups or not some:
        return None

    def cell(figures: Figures, group: str) -> Cell:
        row = figures.get((EXEMPLARS, "exemplar_share", group))
        return EMPTY if row is None or row.value is None else Cell(number(row.value, "%"))

    def of_test(group: str) -> Cell:
        row = next((r for _, f in some if (r := f.get((EXEMPLARS, "exemplar_share", group)))), None)
        return Cell(row.note.partition(" %")[0]) if row and " % of the test" in row.note else EMPTY

    rows = tuple(Row(g, (of_test(g), *(cell(f, g) for _, f in some))) for g in groups)
    heads = (("test examples", "%"), *((label, "%") for label, _ in some))
    return Table("Where exemplars come from", "Group", heads, rows, notes=("Shares of the exemplars.",))


@dataclass(frozen=True)
class Family:
    """A population by its size and its accuracy.

    Attributes:
        bytes: shortest encoding of the net of the run's own seed; None where it wasn't measured.
        top1: mean over the nets, in percent.
    """

    label: str
    figures: Figures
    bytes: float | None
    top1: float | None


def _families(panel: Panel, own: Known) -> list[Table]:
    """Populations by size, then pairs of nearly equal bytes and of nearly equal accuracy."""
    sizes: dict[tuple[str, str, int], float] = {}
    for row in panel.rows:
        if row.probe == "cost" and row.metric in ENCODINGS and row.value:
            place = (row.recipe, row.state, row.seed)
            sizes[place] = min(row.value, sizes.get(place, row.value))
    known = []
    for label, figures in zip(own.labels, own.figures, strict=True):
        first, mean = next(iter(figures.values())), mean_of(figures)
        size = sizes.get((first.recipe, first.state, first.seed))
        known.append(Family(label, figures, size, mean.value if mean else None))
    if all(f.bytes is None for f in known) or len(known) < 3:
        return []
    ordered = sorted(known, key=lambda f: -(f.bytes or 0))
    whole = Table(
        "Families side by side",
        "Population",
        HEADS,
        tuple(Row(f.label, _told(f), reference=is_first(f.figures)) for f in ordered),
        notes=("Bytes: the shortest encoding of the net of the run’s own seed. Affected: after Holm.",),
    )
    others = [f for f in ordered if not is_first(f.figures)]
    by_bytes = _pairs(others, lambda a, b: _ratio(a.bytes, b.bytes), SAME_BYTES)
    by_accuracy = _pairs(others, lambda a, b: _gap(a.top1, b.top1), SAME_ACCURACY)
    return [
        t
        for t in (
            whole,
            _pair_table("At equal bytes", by_bytes, f"Each beside the one nearest in bytes, up to {SAME_BYTES:g} times."),
            _pair_table(
                "At equal accuracy",
                by_accuracy,
                f"Each beside the one nearest in mean accuracy, up to {SAME_ACCURACY:g} point away.",
            ),
        )
        if t
    ]  # fmt: skip


HEADS = (("bytes", ""), ("Accuracy", "%"), ("Affected", ""), ("Exemplars", "%"), ("Dense on exemplars", "%"))


def _told(family: Family) -> tuple[Cell, ...]:
    f = family.figures
    return (
        Cell(grouped(round(family.bytes))) if family.bytes else EMPTY,
        Cell(number(family.top1, "%")) if family.top1 is not None else EMPTY,
        _plain(f.get((IMPACT, "impacted_holm", ""))),
        _plain(f.get((EXEMPLARS, "exemplar_share", ""))),
        _plain(f.get((EXEMPLARS, "reference_on_exemplars", ""))),
    )


def _ratio(one: float | None, other: float | None) -> float | None:
    return max(one, other) / min(one, other) if one and other else None


def _gap(one: float | None, other: float | None) -> float | None:
    return abs(one - other) if one is not None and other is not None else None


def _pairs(
    families: Sequence[Family], far: Callable[[Family, Family], float | None], most: float
) -> list[tuple[Family, Family]]:
    """Each family with the nearest other, where that is near enough; every pair once."""
    found: dict[frozenset[str], tuple[Family, Family]] = {}
    for one in families:
        near = [(d, k) for k, f in enumerate(families) if f is not one and (d := far(one, f)) is not None]
        if near and min(near)[0] <= most:
            other = families[min(near)[1]]
            found.setdefault(frozenset((one.label, other.label)), (one, other))
    return list(found.values())


def _pair_table(title: str, pairs: Sequence[tuple[Family, Family]], note: str) -> Table | None:
    rows = [
        Row(f"{one.label}; {other.label}" if place == 0 else "", (Cell(f.label), *_told(f)), first=place == 0)
        for one, other in pairs
        for place, f in enumerate((one, other))
    ]
    return Table(title, "Pair", (("of it", ""), *HEADS), tuple(rows), notes=(note,)) if rows else None


def _galleries(panel: Panel, own: Known) -> list[Gallery]:
    """The pictures of each population's exemplars, the highest taxicab score first; all but the first folded."""
    found: list[Gallery] = []
    for (place, _), label in zip(own.found.items(), own.labels, strict=True):
        rows = [
            r
            for r in panel.examples
            if r.moment == POPULATIONS
            and (r.recipe, r.series, r.seed, r.key) == place
            and r.probe == EXEMPLARS
        ]
        rows.sort(key=lambda r: int(r.group) if r.group.isdigit() else 0)
        lead = (
            "Labels are the modal ones of the dense and of the compressed nets; the highest taxicab scores first "
            "(2: no net of one population says what any of the other does)."
        )
        shown = gallery(f"What is forgotten: {label}", rows, "" if found else lead, TILES)
        if shown:
            found.append(replace(shown, folded=bool(found)))
    return found


def _nets(figures: Figures) -> Cell:
    row = mean_of(figures)
    return Cell(str(row.n)) if row else EMPTY


def _plain(row: Record | None) -> Cell:
    return EMPTY if row is None or row.value is None else Cell(number(row.value, row.unit))


def _cell(row: Record | None) -> Cell:
    if row is None:
        return EMPTY
    notes = (row.note,) if row.note else ()
    return Cell(MISSING if row.value is None else number(row.value, row.unit), notes=notes)
