"""Tables as data: the page and the terminal draw the same cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from compressbench.report.numbers import MISSING, Spread, seeds, with_spread
from compressbench.report.panels import Reading, letters
from compressbench.report.wording import alike, merged

LOSS = (0xD5, 0x5E, 0x00)
GAIN = (0x00, 0x72, 0xB2)
DENSITY = (0x00, 0x9E, 0x73)


@dataclass(frozen=True)
class Cell:
    """One figure: text, its spread, the seeds behind it (0: not a mean), footnote texts, a heat-map shade."""

    text: str
    sd: str = ""
    n: int = 0
    notes: tuple[str, ...] = ()
    shade: str = ""
    flag: bool = False

    @property
    def plain(self) -> str:
        return self.text + self.sd


@dataclass(frozen=True)
class Row:
    """One line of a table; ``colour`` is its series' swatch, ``first`` opens a new group of rows."""

    label: str
    cells: tuple[Cell, ...]
    colour: str = ""
    first: bool = False
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """A table with one column of row labels (the stub).

    Attributes:
        heads: one per cell column: name and, under it, unit or basis.
        groups: spanning headings over ``heads``: (label, columns).
        notes: sentences under the table.
        colours: swatches of the heads, where columns are series.
        remarks: notes of the heads, those that hold for a whole column.
    """

    title: str
    stub: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    heat: bool = False
    colours: tuple[str, ...] = ()
    remarks: tuple[tuple[str, ...], ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """The distinct numbers of seeds in the cells."""
        return tuple(sorted({c.n for row in self.rows for c in row.cells if c.n}))

    @property
    def spans(self) -> tuple[int, ...]:
        """How many rows the label of each row covers; 0 for a row under the label of one above."""
        grouped = any(row.first for row in self.rows)
        opens = [k for k, row in enumerate(self.rows) if row.first or not grouped]
        ends = [*opens[1:], len(self.rows)]
        covered = dict(zip(opens, (b - a for a, b in zip(opens, ends, strict=True)), strict=True))
        return tuple(covered.get(k, 0) for k in range(len(self.rows)))

    @property
    def n_place(self) -> str:
        """Where n is shown: in the ``caption`` if all share it, else by ``row``, ``column`` or ``cell``."""
        if len(self.counts) < 2:
            return "caption"
        if all(len({c.n for c in row.cells if c.n}) < 2 for row in self.rows):
            return "row"
        if all(len(found) < 2 for found in self._column_counts()):
            return "column"
        return "cell"

    @property
    def row_counts(self) -> tuple[int, ...]:
        """Seeds behind each row, where all its figures have the same."""
        return tuple(max((c.n for c in row.cells), default=0) for row in self.rows)

    @property
    def column_counts(self) -> tuple[int, ...]:
        """Seeds behind each column, where all its figures have the same."""
        return tuple(max(found, default=0) for found in self._column_counts())

    def _column_counts(self) -> list[set[int]]:
        return [{row.cells[k].n for row in self.rows if row.cells[k].n} for k in range(len(self.heads))]

    @property
    def basis(self) -> str:
        """What the ± and the n of this table are, in a sentence; empty for a table without means."""
        counts = self.counts
        if not counts:
            return ""
        if counts == (1,):
            return "One seed: no spread."
        if len(counts) == 1:
            return f"Mean ± sample standard deviation over {seeds(counts[0])}."
        where = "" if self.n_place in ("row", "column") else " in brackets"
        return f"Mean ± sample standard deviation over n seeds; n{where} says how many."

    @property
    def footnotes(self) -> Mapping[str, tuple[str, str]]:
        """Note -> (mark, text to print), in order of appearance; notes alike but for numbers share both."""
        order = [n for column in self.remarks for n in column]
        order += [n for row in self.rows for c in row.cells for n in c.notes]
        texts = merged(order)
        marks = {text: letters(place).lower() for place, text in enumerate(dict.fromkeys(texts.values()))}
        return {note: (marks[text], text) for note, text in texts.items()}


@dataclass
class Columns:
    """Collects the columns that at least one row can fill; the others are left out.

    ``reference`` says of each row whether it is what others are compared with; empty for none.
    """

    heads: list[tuple[str, str]] = field(default_factory=list)
    groups: list[tuple[str, int]] = field(default_factory=list)
    cells: list[list[Cell]] = field(default_factory=list)
    remarks: list[tuple[str, ...]] = field(default_factory=list)
    naming: int = 0
    reference: tuple[bool, ...] = ()
    told: list[list[bool]] = field(default_factory=list)

    def add(self, name: str, unit: str, cells: Sequence[Cell], group: str = "", always: bool = False) -> None:
        """Adds a column, one cell a row, unless all of them are empty; ``always`` for those that name the row."""
        if not always and all(c.text == MISSING and not c.notes for c in cells):
            return
        self.naming += always
        self.heads.append((name, unit))
        if not always:
            self.told.append([c.text != MISSING or bool(c.notes) for c in cells])
        common = self._common(cells)
        of_column = dict.fromkeys(n for c in cells for n in c.notes if alike(n) in common)
        self.remarks.append(tuple(of_column))
        self.cells.append([replace(c, notes=tuple(n for n in c.notes if n not in of_column)) for c in cells])
        if self.groups and self.groups[-1][0] == group:
            self.groups[-1] = (group, self.groups[-1][1] + 1)
        else:
            self.groups.append((group, 1))

    def _common(self, cells: Sequence[Cell]) -> set[str]:
        """Notes, but for their numbers, of all cells that say anything, the reference's rows aside: the column's."""
        flags = self.reference or (False,) * len(cells)
        own = [c for c, aside in zip(cells, flags, strict=True) if not aside]
        told = [{alike(n) for n in c.notes} for c in own if c.text != MISSING or c.notes]
        return set.intersection(*told) if len(told) > 1 else set()

    def row(self, place: int) -> tuple[Cell, ...]:
        return tuple(column[place] for column in self.cells)

    def filled(self, place: int) -> bool:
        """True if a row has anything beside what names it."""
        return any(column[place] for column in self.told)

    @property
    def spanning(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.groups) if any(label for label, _ in self.groups) else ()


EMPTY = Cell(MISSING)


def cell(reading: Reading | None, signed: bool = False, notes: bool = True) -> Cell:
    """A reading's mean and spread; what a probe could not measure keeps its note."""
    if reading is None:
        return EMPTY
    told = reading.notes if notes else ()
    figure = reading.spread
    if figure is None:
        return Cell(MISSING, notes=told)
    text, sd = with_spread(figure, reading.unit, signed)
    return Cell(text, sd, figure.n, told)


def spread_cell(figure: Spread | None, unit: str, signed: bool = False, notes: Iterable[str] = ()) -> Cell:
    """A mean and spread that was computed here (a difference)."""
    if figure is None:
        return EMPTY
    text, sd = with_spread(figure, unit, signed)
    return Cell(text, sd, figure.n, tuple(notes))


def shade(share: float, colour: tuple[int, int, int]) -> str:
    """A background between white (0) and the colour (1), light enough for dark text."""
    strength = 0.72 * max(0.0, min(1.0, share))
    return "#" + "".join(f"{round(255 + (c - 255) * strength):02x}" for c in colour)


def diverging(value: float, limit: float) -> str:
    """Orange for a loss, blue for a gain; the root of the share, so that small changes stay visible."""
    share = (abs(value) / limit) ** 0.5 if limit else 0.0
    return shade(share, LOSS if value < 0 else GAIN)
