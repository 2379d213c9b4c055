"""One screen a comparison: oddities first, then the questions, the most important figures as a short table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressbench.comparing import words
from compressbench.comparing.comparison import Asked, Comparison
from compressbench.comparing.confidence import Threshold
from compressbench.comparing.intervals import Estimate
from compressbench.comparing.oddities import UNUSABLE, WRONG
from compressbench.console import clean_line
from compressbench.showing.account import (
    FASTER,
    FRAGILE,
    ODD,
    PAYS,
    QUESTIONS,
    SAME,
    SURE,
    WHERE,
    WHICH,
    Account,
    class_name,
    short_names,
)
from compressbench.showing.figures import Figure, figures, interval_of, text_of
from compressbench.showing.width import cut, wrapped
from compressbench.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
NARROWEST = 24
FINDINGS, FLIPS, THRESHOLD = 4, 2, 0.9
TEXT = 60
"""Characters of a text that are shown."""
"""So many are told on a screen, and what is done at this confidence."""
HEAD_LEAST = 8
"""A column's head is cut to no less."""
MOST_LINES = 3
"""A sentence takes no more of them."""
SEVERE = {UNUSABLE: "unusable", WRONG: "wrong"}
PLAIN, HEAD, ALARM, GOOD, FAINT = "", "bold", "bold red", "green", "dim"


@dataclass(frozen=True)
class Line:
    """One line of a screen, at most as wide as was asked for, and how it looks."""

    text: str
    style: str = PLAIN


def print_account(account: Account, shown: Console, page: str = "") -> None:
    """Prints every screen.

    Args:
        shown: see ``console.console``.
        page: where the rest is written; empty for nowhere.
    """
    from rich.text import Text

    for line in screens(account, min(WIDTH, shown.width), page):
        shown.print(Text(line.text, style=line.style), soft_wrap=True)


def screens(account: Account, width: int = WIDTH, page: str = "") -> list[Line]:
    """All screens one below another; where there are several others, a table of all of them first."""
    width = max(NARROWEST, width)
    rows = figures(account)
    found: list[Line] = [Line(t, ALARM) for note in account.notes for t in wrapped(f"note: {note}", width)]
    many = len(account.comparisons) > 1
    if many:
        title = f"{counted(len(account.comparisons), 'model')} against {account.names[0]}"
        found += [Line(t, HEAD) for t in wrapped(title, width)]
        found += table(account, rows, range(len(account.names)), width)
        found += [*_questions(_of_all(account), width), Line("")]
    for place in range(len(account.comparisons)):
        found += [*screen(account, place, rows, width, with_table=not many), Line("")]
    if page:
        found += [Line(t) for t in wrapped(f"everything else: {page}", width)]
    return found


def screen(
    account: Account, place: int, rows: Sequence[Figure], width: int, with_table: bool = True
) -> list[Line]:
    """One comparison's screen."""
    found = account.comparisons[place]
    names = account.names
    odd = _oddities(found, width)
    said = _sentences(account, place)
    if with_table:
        said |= _of_all(account)
    lines = [Line(t, HEAD) for t in wrapped(f"{names[place + 1]} against {names[0]}", width)]
    lines += [Line(t, FAINT) for t in wrapped(_facts(found), width)]
    if found.findings:
        lines += odd
    if with_table:
        lines += table(account, rows, (0, place + 1), width)
    lines += _questions(said, width)
    if not found.findings:
        lines += odd
    lines += _gate(account, place, width)
    return lines


def _facts(found: Comparison) -> str:
    labelled = (
        "all labelled"
        if found.labelled == found.n
        else f"{found.labelled:,} labelled"
        if found.labelled
        else "no labels"
    )
    forms = "; ".join(dict.fromkeys(f for f in reversed(found.forms) if f))
    return f"{found.data}: {counted(found.n, 'example')}, {labelled}{f'. {forms}' if forms else ''}"


def _oddities(found: Comparison, width: int) -> list[Line]:
    lines = [Line(ODD, ALARM if found.findings else HEAD)]
    for finding in found.findings[:FINDINGS]:
        mark = SEVERE.get(finding.severity, "look")
        style = ALARM if finding.severity in SEVERE else PLAIN
        lines += [Line(t, style) for t in indented(f"{mark}: {finding.words}.", width)]
    more = len(found.findings) - FINDINGS
    if more > 0:
        lines.append(Line(f"  and {more} more"))
    if not found.findings:
        lines += [Line(t) for s in words.oddities((), found.n) for t in indented(s, width)]
    return lines


def _questions(said: Mapping[str, Sequence[str]], width: int) -> Iterator[Line]:
    for question in (q for q in QUESTIONS if q in said):
        yield Line(question, HEAD)
        yield from (Line(t) for s in said[question] for t in indented(s, width))


def _of_all(account: Account) -> dict[str, list[str]]:
    """Answers that are about all artefacts at once."""
    told = {
        FRAGILE: list(account.fragility.words[:2]) if account.fragility else [],
        FASTER: list(account.cost.words[:2]) if account.cost else [],
    }
    return {question: sentences for question, sentences in told.items() if sentences}


def _sentences(account: Account, place: int) -> dict[str, list[str]]:
    """What is about this comparison alone, between the table and the oddities, a few sentences each."""
    found, layers = account.comparisons[place], account.layers_of(place)
    whose = found.other
    same = (
        [words.accuracy(found.accuracy, whose)] if found.accuracy else [words.loyalty(found.loyalty, whose)]
    )
    same.append(words.changed(found.changed, whose))
    same += [
        f"{words.capital(floor.name)}: the same answer on {words.figure(floor.loyalty, '%')} "
        f"({words.within(floor.loyalty, '%')})."
        for floor in found.floors[:2]
    ]
    pays = [words.groups(found.by_class)] if found.by_class else []
    pays += [words.answered(found.by_answer, whose)] if found.by_answer else []
    pays += [
        words.groups(each, f"{name} group", f"{name} groups")
        for name, each in list(found.by_group.items())[:2]
    ]
    sure = [_threshold(t) for t in found.thresholds if t.threshold == THRESHOLD]
    told = {SAME: same, PAYS: pays, WHICH: _flips(found, account.asked)}
    told[SURE] = sure
    told[WHERE] = list(layers.words[:2]) if layers else []
    return {question: sentences for question, sentences in told.items() if sentences}


def _threshold(found: Threshold) -> str:
    """A threshold's coverage and error in short; the page has the sentence."""

    def both(before: Estimate, after: Estimate) -> str:
        told = [f"{text_of(e, '%')} % ({interval_of(e)})" if e.known else "none" for e in (before, after)]
        return f"{told[0]} before, {told[1]} now"

    before, after = found.before, found.after
    text = f"Surer than {found.threshold:g}: {both(before.coverage, after.coverage)}, n = {found.coverage_change.n:,}"
    if before.error is None or after.error is None:
        return f"{text}."
    return f"{text}; wrong of these: {both(before.error, after.error)}."


def _flips(found: Comparison, asked: Asked) -> list[str]:
    if not found.flips:
        return []
    classes = asked.classes

    def text(row: int) -> str:
        told = " ".join(asked.texts(row).split()) if asked.texts else ""
        return f" “{told if len(told) <= TEXT else f'{told[: TEXT - 1]}…'}”" if told else ""

    told = [
        f"{f.id}{text(f.row)} ({f.kind}: {class_name(f.reference, classes)} {f.reference_confidence:.2f} to "
        f"{class_name(f.other, classes)} {f.other_confidence:.2f})"
        for f in found.flips[:FLIPS]
    ]
    return [f"Worst first: {words.listing([*told, *[''] * (len(found.flips) - len(told))], FLIPS)}."]


def _gate(account: Account, place: int, width: int) -> Iterator[Line]:
    for verdict in account.verdicts_of(place):
        mark = {True: "kept", False: "BROKEN", None: "can't tell"}[verdict.kept]
        style = {True: GOOD, False: ALARM, None: ALARM}[verdict.kept]
        yield from (Line(t, style) for t in wrapped(f"{mark}: {verdict.words}", width, "  "))


def table(account: Account, rows: Sequence[Figure], columns: Iterable[int], width: int) -> list[Line]:
    """The brief figures, one column an artefact; those of the reference are dropped, then intervals, for want of room."""
    picked = list(columns)
    brief = [r for r in rows if r.brief and any(_cell(r, c, False) for c in picked)]
    if not brief:
        return []
    heads = [clean_line(name) for name in short_names(account.names)]
    for intervals in (True, False):
        body = [
            [
                clean_line(f"{r.title}{f', {r.unit}' if r.unit and r.unit != 'bytes' else ''}"),
                *(_cell(r, c, intervals) for c in picked),
            ]
            for r in brief
        ]
        lines = _columns([["", *(heads[c] for c in picked)], *body], width)
        if lines is not None:
            return [Line(lines[0], HEAD), *map(Line, lines[1:])]
    found = []
    for row in body:  # too narrow for columns
        told = ", ".join(f"{heads[c]} {cell}" for c, cell in zip(picked, row[1:], strict=True) if cell)
        found += [Line(t) for t in wrapped(f"{row[0]}: {told}", width, "  ")]
    return found


def _cell(row: Figure, column: int, intervals: bool) -> str:
    value = row.values[column]
    if value is None:
        return ""
    ends = f" ({interval_of(value)})" if intervals and interval_of(value) else ""
    note = f" in {row.notes[column]}" if row.notes[column] and value.value else ""
    return clean_line(f"{text_of(value, row.unit)}{ends}{note}")


def _columns(cells: Sequence[Sequence[str]], width: int) -> list[str] | None:
    """Rows in columns two spaces apart; None where they are wider than the terminal, heads shortened."""
    from rich.cells import cell_len

    wide = [max(map(cell_len, column)) for column in zip(*cells[1:], strict=True)]
    spare = width - sum(w + 2 for w in wide)
    if spare < 0:
        return None
    more = spare // max(1, len(wide) - 1)  # that heads may be wider than what is below them
    head = ["", *(cut(n, max(w + more, HEAD_LEAST)) for n, w in zip(cells[0][1:], wide[1:], strict=True))]
    if sum(max(w, cell_len(n)) + 2 for w, n in zip(wide, head, strict=True)) > width:
        return None
    wide = [max(w, cell_len(name)) for w, name in zip(wide, head, strict=True)]
    return [
        ("  " + "  ".join(c + " " * (w - cell_len(c)) for c, w in zip(row, wide, strict=True))).rstrip()
        for row in (head, *cells[1:])
    ]


def indented(text: str, width: int) -> list[str]:
    """A sentence two cells in, ``MOST_LINES`` lines at most where a line has room for one."""
    lines = wrapped(text, width, "    ", "  ")
    if width < WIDTH or len(lines) <= MOST_LINES:
        return lines
    last = lines[MOST_LINES - 1]
    return [*lines[: MOST_LINES - 1], last[: width - 2] + " …"]
