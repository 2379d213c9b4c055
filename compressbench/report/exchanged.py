"""Texts under attack: accuracy and queries where words are exchanged, and some of the words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressbench.report.gallery import gallery
from compressbench.report.panels import Panel
from compressbench.report.section import Gallery
from compressbench.report.states import Column, Key, Line, Pick, add, columns_of, lines, of, table_of
from compressbench.report.tables import EMPTY, Cell, Table
from compressbench.report.wording import examples, moment_name

PROBE = "substitution"
BEFORE = Column(PROBE, "substitution_clean_accuracy")
AFTER = Column(PROBE, "substitution_accuracy", "After attack", "words exchanged, %", notes=False)
QUERIES = Column(PROBE, "substitution_queries", "#Q", "queries", notes=False)
REST = of(PROBE, "substitution_changed", "substitution_transfer_accuracy")
ENDS = ("substitution_accuracy", "substitution_queries")
EXAMPLE = "substitution_example"
READ = (
    "Words exchanged for synonyms of WordNet’s until the label flips; meaning isn’t guarded, so read each row against "
    "the dense one, not against published figures. 95 %: how sure so many texts make it."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What the table shows at a moment, ends of intervals too."""
    ends = {(PROBE, f"{stem}_{end}", False) for stem in ENDS for end in ("low", "high")}
    return {c.key for c in (BEFORE, AFTER, QUERIES, *REST)} | ends


def exchanged(panel: Panel, moment: str, pick: Pick) -> Table | None:
    """Accuracy before and after, #Q, the share of words, transfer; with what was allowed in a note."""
    found = lines(panel, moment, pick)
    columns = columns_of(found)
    add(columns, found, [BEFORE, AFTER])
    columns.add("95 % of texts", "%", _interval(found, "substitution_accuracy"))
    add(columns, found, [QUERIES])
    columns.add("95 % of texts", "queries", _interval(found, "substitution_queries"))
    add(columns, found, REST)
    readings = AFTER.readings(found)
    count = examples(readings)
    told = list(dict.fromkeys(note for r in readings if r for note in r.notes if note))
    notes = [
        *([f"{count} texts."] if count else []),
        *(f"{note[:1].upper()}{note[1:]}." for note in told),
        READ,
    ]
    return table_of(panel, f"Words exchanged, {moment_name(moment)}", found, columns, notes)


def galleries(panel: Panel, moment: str) -> list[Gallery]:
    """Found examples in words, a gallery a series, of its first seed; all but the first folded."""
    found: list[Gallery] = []
    for series in panel.everything():
        for point in series.at(moment)[:1]:
            rows = [
                r
                for r in panel.examples
                if (r.probe, r.metric) == (PROBE, EXAMPLE)
                and (r.series, r.moment, r.order) == (series.name, moment, point.order)
            ]
            seed = min((r.seed for r in rows), default=0)
            rows = sorted((r for r in rows if r.seed == seed), key=lambda r: int(r.group or 0))
            made = gallery(f"Words exchanged: {series.label}, seed {seed}", rows, CHOSEN if not found else "")
            if made:
                found.append(replace(made, folded=bool(found)))
    return found


CHOSEN = "The first texts of the attack that fell; what was exchanged, then the text that the model no longer gets right."


def _interval(found: Sequence[Line], metric: str) -> list[Cell]:
    """The ends of the interval over texts, each the mean over seeds."""
    cells = []
    for line in found:
        ends = [line.point.reading(PROBE, f"{metric}_{end}") for end in ("low", "high")]
        means = [r.spread.mean for r in ends if r and r.spread]
        cells.append(Cell(f"{means[0]:.1f}–{means[1]:.1f}") if len(means) == 2 else EMPTY)
    return cells
