"""The page: one self-contained file without a script, words first, every text of others escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressbench import report
from compressbench.comparing import words
from compressbench.comparing.comparison import Comparison
from compressbench.comparing.gallery import Flip
from compressbench.comparing.intervals import Estimate
from compressbench.comparing.oddities import UNUSABLE, WRONG, Finding
from compressbench.paths import write_named
from compressbench.showing import charts
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
    Attack,
    Thumbnail,
    by_question,
    short_names,
)
from compressbench.showing.charts import Chart
from compressbench.showing.figures import (
    MISSING,
    Figure,
    batches,
    bytes_in_words,
    figures,
    interval_of,
    n_of,
    text_of,
    timing_of,
)
from compressbench.showing.pictures import address
from compressbench.showing.width import cut
from compressbench.wording import counted

THUMBNAILS = 60
TEXT_SHOWN = 600
"""Characters of a text that are shown of it."""
ROWS_SHOWN = 1000
"""Of a table of classes; of more the page would be slow, and the JSON has them all."""
IDS_SHOWN = 12
HEAD = 36
"""Characters of a column's head."""
SEVERITY = {UNUSABLE: "its outputs are no answers", WRONG: "surely not as it was meant", 1: "worth a look"}


@dataclass(frozen=True)
class Table:
    """Texts in rows.

    Attributes:
        heads: of columns, the first one of rows' names.
        rows: each as wide as ``heads``; a cell is a text and what stands small beside it.
        flagged: rows that are marked.
        notes: below it.
        folded: whether it is hidden until it is asked for.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[tuple[str, str], ...], ...]
    flagged: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Card:
    """One example whose answer changed.

    Attributes:
        picture: an address; empty for none.
        text: what a person reads of it; empty where it is no text.
        answers: (whose, class, confidence) of the reference and the other.
        worse: whether it was right and is wrong.
    """

    id: str
    picture: str
    kind: str
    label: str
    answers: tuple[tuple[str, str, str], ...]
    worse: bool
    text: str = ""


@dataclass(frozen=True)
class Told:
    """A finding and the rows that show it."""

    words: str
    severity: str
    severe: bool
    rows: str
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Part:
    """One answer to a question, of one comparison or of all.

    Attributes:
        of: whose; empty where there is but one, or where it is about all.
    """

    of: str = ""
    sentences: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    cards: tuple[Card, ...] = ()
    findings: tuple[Told, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.sentences or self.charts or self.cards or self.findings or self.tables)


@dataclass(frozen=True)
class Chapter:
    """One question."""

    question: str
    anchor: str
    parts: tuple[Part, ...]


def write_page(
    account: Account, path: Path, thumbnail: Thumbnail | None = None, beside: Sequence[str] = ()
) -> Path:
    """Writes the page.

    Args:
        thumbnail: a row's picture; None where the data are no pictures.
        beside: names of files in the same folder, to be linked.

    Raises:
        UserError: it can't be written.
    """
    return write_named(path, page(account, thumbnail, beside))


def page(account: Account, thumbnail: Thumbnail | None = None, beside: Sequence[str] = ()) -> str:
    """The page as text; the same arguments give the same text. For the arguments see ``write_page``."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    here = Path(__file__).parent
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = lambda text: Markup(
        str(escape(text)).replace("_", "_<wbr>").replace("/", "/<wbr>")
    )
    style = [
        (folder / name).read_text(encoding="utf-8")
        for folder, name in ((Path(report.__file__).parent, "page.css"), (here, "page.css"))
    ]
    names = account.names
    rendered = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8")).render(
        # the style sheets are ours and charts have escaped their texts; all else passes autoescape
        style=Markup("\n".join(style)),
        inline=lambda chart: Markup(chart.svg),
        title=_title(account),
        facts=_facts(account),
        notes=account.notes,
        lead=tuple(_lead(account, place) for place in range(len(account.comparisons))),
        gates=tuple(_gates(account)),
        table=_figures(account, figures(account)),
        names=names,
        forms=account.forms,
        chapters=tuple(chapters(account, thumbnail)),
        provenance=_provenance(account),
        beside=tuple(beside),
    )
    return charts.clean(rendered)


def chapters(account: Account, thumbnail: Thumbnail | None = None) -> Iterator[Chapter]:
    """The questions with their answers; oddities first where there are any."""
    parts: dict[str, list[Part]] = {question: [] for question in QUESTIONS}
    several = len(account.comparisons) > 1
    for place, found in enumerate(account.comparisons):
        said = by_question(account, place)
        of = account.names[place + 1] if several else ""
        parts[SAME].append(_same(found, said[SAME], of))
        parts[PAYS].append(_pays(found, said[PAYS], of))
        parts[WHICH].append(_which(account, place, of, thumbnail))
        parts[SURE].append(_sure(found, said[SURE], of))
        parts[WHERE].append(_where(account, place, said.get(WHERE, ()), of))
        parts[ODD].append(_odd(account, found, said[ODD], of, thumbnail))
    parts[FRAGILE].append(_fragile(account))
    parts[FASTER].append(_faster(account))
    first = [ODD] if any(c.findings for c in account.comparisons) else []
    for question in [*first, *(q for q in QUESTIONS if q not in first)]:
        told = tuple(p for p in parts[question] if not p.empty)
        if told:
            yield Chapter(question, f"q{QUESTIONS.index(question) + 1}", told)


def _title(account: Account) -> str:
    names = short_names(account.names)
    return f"{', '.join(names[1:])} against {names[0]}"


def _facts(account: Account) -> list[tuple[str, str]]:
    first = account.comparisons[0]
    labelled = f"{first.labelled:,} of {first.n:,}" if first.labelled else "none: accuracy can't be told"
    return [
        ("Data", first.data),
        ("Examples", f"{first.n:,}"),
        ("Labelled", labelled),
        ("Classes", f"{len(account.asked.classes):,}" if account.asked.classes else MISSING),
        ("Intervals", f"{100 * first.level:g} %"),
    ]


def _lead(account: Account, place: int) -> tuple[str, ...]:
    """The answer in short: findings if any, the verdict on accuracy, loyalty."""
    found = account.comparisons[place]
    whose = found.other
    told = []
    if found.findings:
        odd = counted(len(found.findings), "oddity", "oddities")
        told.append(f"{odd} in the outputs of {whose}, first: {found.findings[0].words}.")
    if found.accuracy is not None:
        told.append(words.accuracy(found.accuracy, whose))
    told.append(words.loyalty(found.loyalty, whose))
    if found.by_class:
        told.append(words.groups(found.by_class))
    return tuple(told)


def _gates(account: Account) -> Iterator[tuple[str, str, bool]]:
    several = len(account.comparisons) > 1
    for place in range(len(account.comparisons)):
        for verdict in account.verdicts_of(place):
            mark = {True: "kept", False: "broken", None: "can’t tell"}[verdict.kept]
            whose = f"{account.names[place + 1]}: " if several else ""
            yield mark, f"{whose}{verdict.words}", verdict.kept is not True


def _figures(account: Account, rows: Sequence[Figure]) -> Table:
    told = []
    for row in rows:
        cells = [(row.title, row.unit if row.unit != "bytes" else "")]
        for place, value in enumerate(row.values):
            beside = [x for x in (row.notes[place], interval_of(value)) if x]
            cells.append((text_of(value, row.unit), "; ".join(beside)))
        cells.append((n_of(row.values), ""))
        told.append(tuple(cells))
    note = (
        "Small figures are the ends of intervals. The worst class and sub-group were chosen after looking, so what they "
        "lost is likely less than it seems; what is sure is below, with its correction."
    )
    return Table("Side by side", ("", *_heads(account), "n"), tuple(told), notes=(note,))


def _heads(account: Account) -> tuple[str, ...]:
    """Names of artefacts as heads of columns."""
    return tuple(cut(name, HEAD) for name in short_names(account.names))


def _same(found: Comparison, said: tuple[str, ...], of: str) -> Part:
    drawn: list[Chart | None] = []
    if found.floors:
        rows = [("this model", found.loyalty), *((f.name, f.loyalty) for f in found.floors)]
        caption = (
            "Label loyalty beside that of pairs that nobody compressed: at or above these a difference is what chance or "
            "another training makes too."
        )
        drawn.append(charts.estimates("Loyalty and its floor", rows, "%", caption))
    if found.shapes is not None:
        marks = [("mean", found.distances.kl.value)]
        marks += [
            (f"worst of {each}", value)
            for q, each in ((90.0, "10"), (99.0, "100"), (99.9, "1,000"))
            if (value := found.distances.kl_quantiles.get(q)) is not None
        ]
        drawn.append(charts.divergence(found.shapes, marks))
    tables = []
    if found.floors:
        rows_ = [("this model", found.loyalty, found.distances.loyalty)]
        rows_ += [(f.name, f.loyalty, f.probability_loyalty) for f in found.floors]
        tables.append(
            Table(
                "Loyalty beside its floors",
                ("", "label loyalty, %", "probability loyalty, %", "n"),
                tuple(((name, ""), _cell(one), _cell(two), (f"{one.n:,}", "")) for name, one, two in rows_),
                notes=(
                    "A floor is how often two models agree that nobody compressed. Natural logarithm: of models "
                    "that have nothing in common probability loyalty is 16.7 %.",
                ),
            )
        )
    return Part(of, said, _some(drawn), tables=tuple(tables))


def _pays(found: Comparison, said: tuple[str, ...], of: str) -> Part:
    drawn: list[Chart | None] = [charts.paying(found.by_class, "class"), charts.kept(found.by_answer)]
    drawn += [charts.paying(groups, name) for name, groups in found.by_group.items()]
    tables = []
    for name, groups in (("class", found.by_class), *found.by_group.items()):
        if not groups:
            continue
        ordered = sorted(groups, key=lambda g: (g.change.high, g.change.value))[:ROWS_SHOWN]
        rows = tuple(
            (
                (g.name, "too few to test" if g.rare else ""),
                (f"{g.n:,}", ""),
                (f"{g.before:.2f}", ""),
                (f"{g.after:.2f}", ""),
                (words.signed(g.change), interval_of(g.change)),
                (f"{g.lost:,}", ""),
                (f"{g.won:,}", ""),
                (_p(g.p), ""),
                (_p(g.p_holm), ""),
                (_p(g.p_bh), ""),
                (words.signed(g.beyond) if g.beyond.known else MISSING, interval_of(g.beyond)),
            )
            for g in ordered
        )
        heads = (
            name, "n", "before, %", "after, %", "change, points", "lost", "won", "p", "p, Holm",
            "p, Benjamini–Hochberg", "beyond the others, points",
        )  # fmt: skip
        flagged = frozenset(k for k, g in enumerate(ordered) if g.pays)
        left = f"The {ROWS_SHOWN:,} that lost most of {len(groups):,}." if len(groups) > ROWS_SHOWN else ""
        notes = (
            "McNemar’s exact test in each group; Holm’s correction decides who pays, Benjamini’s and Hochberg’s names "
            "more, and may be mistaken in 5 % of those.",
            *((left,) if left else ()),
        )
        tables.append(
            Table(
                f"Each {name if name == 'class' else f'{name} group'}",
                heads,
                rows,
                flagged,
                notes,
                folded=True,
            )
        )
    if found.by_answer:
        shown = found.by_answer[:ROWS_SHOWN]
        tables.append(
            Table(
                "Each class by what the reference answers",
                ("class", "before", "after", "kept, %", "lost", "won", "p", "p, Holm"),
                tuple(
                    (
                        (a.name, "too few to test" if a.rare else ""),
                        (f"{a.before:,}", ""),
                        (f"{a.after:,}", ""),
                        _cell(a.kept),
                        (f"{a.lost:,}", ""),
                        (f"{a.won:,}", ""),
                        (_p(a.p), ""),
                        (_p(a.p_holm), ""),
                    )
                    for a in shown
                ),
                frozenset(k for k, a in enumerate(shown) if a.p_holm <= 0.05),
                folded=True,
            )
        )
    return Part(of, said, _some(drawn), tables=tuple(tables))


def _which(account: Account, place: int, of: str, thumbnail: Thumbnail | None) -> Part:
    found = account.comparisons[place]
    if not found.flips:
        return Part(of)
    shown = found.flips[:THUMBNAILS]
    cards = [_card(account, place, flip, thumbnail) for flip in shown]
    more = len(found.flips) - len(shown)
    many = counted(len(found.flips), "answer")
    told = f"{many} changed; worst first: what was right and is wrong, the surer the higher."
    left = (f"{more:,} more are in the list of flips.",) if more else ()
    if any(card.picture or card.text for card in cards):
        return Part(of, (told,), cards=tuple(cards), notes=left)
    rows = tuple(((c.id, ""), (c.kind, ""), (c.label, ""), *((a[1], a[2]) for a in c.answers)) for c in cards)
    heads = ("example", "what changed", "label", "reference", "other")
    flagged = frozenset(k for k, c in enumerate(cards) if c.worse)
    table = Table("What changed, worst first", heads, rows, flagged, left)
    return Part(of, (told,), tables=(table,))


def _card(account: Account, place: int, flip: Flip, thumbnail: Thumbnail | None) -> Card:
    names = short_names(account.names)
    return Card(
        flip.id,
        _picture(flip.row, thumbnail),
        flip.kind,
        account.class_name(flip.label) if flip.label >= 0 else MISSING,
        (
            (names[0], account.class_name(flip.reference), _confidence(flip.reference_confidence)),
            (names[place + 1], account.class_name(flip.other), _confidence(flip.other_confidence)),
        ),
        flip.kind == "right to wrong",
        _text(account, flip.row),
    )


def _text(account: Account, row: int) -> str:
    text = account.asked.texts(row) if account.asked.texts else ""
    return text if len(text) <= TEXT_SHOWN else f"{text[: TEXT_SHOWN - 1]}…"


def _picture(row: int, thumbnail: Thumbnail | None) -> str:
    image = thumbnail(row) if thumbnail is not None else None
    return "" if image is None else address(image)


def _confidence(value: float) -> str:
    return f"{100 * value:.0f} %" if 0 <= value <= 1 else ""


def _sure(found: Comparison, said: tuple[str, ...], of: str) -> Part:
    drawn: list[Chart | None] = []
    if found.shapes is not None:
        drawn += [charts.reliability(found.shapes, found.other), charts.confidence(found.shapes, found.other)]
    rows = tuple(
        (
            (f"{t.threshold:g}", ""),
            _cell(t.before.coverage),
            _cell(t.after.coverage),
            (words.signed(t.coverage_change), interval_of(t.coverage_change)),
            _cell(t.before.error),
            _cell(t.after.error),
            (f"{t.coverage_change.n:,}", ""),
        )
        for t in found.thresholds
    )
    heads = (
        "threshold", "answered before, %", "answered after, %", "change, points", "wrong of these before, %",
        "wrong of these after, %", "n",
    )  # fmt: skip
    note = "Where answers below a confidence are thrown away: how many are left, and how many of those are wrong."
    return Part(
        of, said, _some(drawn), tables=(Table("Thresholds", heads, rows, notes=(note,)),) if rows else ()
    )


def _fragile(account: Account) -> Part:
    found = account.fragility
    if found is None:
        return Part()
    names = _heads(account)
    tables = []
    for title, pick in (("Accuracy, %", _accuracy), ("Same answer as the reference, %", _loyalty)):
        some = [a for a in found.attacks if any(v is not None for v in pick(a))]
        if not some:
            continue
        verdicts = title.startswith("Accuracy") or not any(a.accuracy for a in found.attacks)
        rows = []
        for attack in some:
            cells = [(attack.name, attack.note)]
            for place, value in enumerate(pick(attack)):
                verdict = attack.verdicts[place] if verdicts and attack.verdicts else ""
                text, ends = _cell(value)
                cells.append((text, "; ".join(x for x in (ends, verdict) if x)))
            cells.append((n_of(pick(attack)), ""))
            rows.append(tuple(cells))
        tables.append(Table(title, ("", *names, "n"), tuple(rows)))
    return Part("", found.words, tables=tuple(tables))


def _accuracy(attack: Attack) -> tuple[Estimate | None, ...]:
    return attack.accuracy


def _loyalty(attack: Attack) -> tuple[Estimate | None, ...]:
    return attack.loyalty


def _faster(account: Account) -> Part:
    cost = account.cost
    if cost is None:
        return Part()
    names = short_names(account.names)
    tables = []
    if cost.expenses:
        rows = tuple(
            (
                (name, e.runtime),
                (bytes_in_words(e.bytes) if e.bytes is not None else MISSING, ""),
                (bytes_in_words(e.peak_memory) if e.peak_memory is not None else MISSING, ""),
                (e.executed or MISSING, e.note),
            )
            for name, e in zip(names, cost.expenses, strict=True)
        )
        tables.append(Table("Sizes, and what really ran", ("", "on disk", "peak memory", "what ran"), rows))
    timed = [
        (
            (name, f"batch {batch}"),
            _cell(t.latency),
            _cell(t.throughput),
            _cell(t.speedup),
            (f"{t.latency.n:,}", t.note),
        )
        for batch in batches(cost.expenses)
        for name, e in zip(names, cost.expenses, strict=True)
        if (t := timing_of(e, batch)) is not None
    ]
    if timed:
        heads = ("", "latency, ms", "examples a second", "times as fast", "turns")
        notes = ("Medians of turns, in which the artefacts were timed one after another.", cost.machine)
        tables.append(Table("Speed", heads, tuple(timed), notes=tuple(n for n in notes if n)))
    return Part("", cost.words, tables=tuple(tables))


def _where(account: Account, place: int, said: tuple[str, ...], of: str) -> Part:
    found = account.layers_of(place)
    if found is None:
        return Part(of)
    tables = []
    if found.restored:
        rows = tuple(
            (
                (", ".join(r.layers), ""),
                _cell(r.accuracy),
                _cell(r.loyalty),
                (f"{r.loyalty.n:,}", ""),
            )
            for r in found.restored
        )
        heads = ("layers left as they were", "accuracy, %", "loyalty, %", "n")
        tables.append(Table("What comes back", heads, rows))
    if found.layers:
        told = tuple(
            ((x.name, x.form), (_decibel(x.made), ""), (_decibel(x.arrived), ""))
            for x in found.layers[:ROWS_SHOWN]
        )
        note = (f"n = {found.n:,}",) if found.n else ()
        of_layers = ("layer", "made here, dB", "arrived here, dB")
        tables.append(Table("Each layer", of_layers, told, notes=note, folded=True))
    return Part(of, said, _some([charts.noise(found.layers)]), tables=tuple(tables))


def _decibel(value: float) -> str:
    if value == math.inf:
        return "no noise"
    return f"{value:.1f}" if math.isfinite(value) else MISSING


def _odd(
    account: Account, found: Comparison, said: tuple[str, ...], of: str, thumbnail: Thumbnail | None
) -> Part:
    if not found.findings:
        return Part(of, said)
    return Part(of, findings=tuple(_told(account, f, thumbnail) for f in found.findings))


def _told(account: Account, finding: Finding, thumbnail: Thumbnail | None) -> Told:
    ids = [account.id_of(r) for r in finding.rows[:IDS_SHOWN]]
    rows = f"Shown by {words.listing(ids, IDS_SHOWN)}" if ids else ""
    more = len(finding.rows) - len(ids)
    if more > 0:
        rows += f" and {more:,} more"
    cards = tuple(
        Card(account.id_of(r), picture, "", "", (), False)
        for r in finding.rows[:6]
        if (picture := _picture(r, thumbnail))
    )
    return Told(
        f"{words.capital(finding.words)}.",
        f"{finding.kind}: {SEVERITY[finding.severity]}; n = {finding.n:,}",
        finding.severity >= WRONG,
        f"{rows}." if rows else "",
        cards,
    )


def _provenance(account: Account) -> list[tuple[str, tuple[str, ...]]]:
    made, first = account.provenance, account.comparisons[0]
    rows: list[tuple[str, tuple[str, ...]]] = []
    keys = made.keys or ("",) * len(account.names)
    prepared = made.preparations or ("",) * len(account.names)
    kinds = (first.kinds[0], *(c.kinds[1] for c in account.comparisons))
    for place, name in enumerate(account.names):
        kind = kinds[place]
        told = [name, account.forms[place], f"its outputs are {kind.name}: {kind.words}"]
        told += [f"examples are prepared: {prepared[place]}"] if prepared[place] else []
        told += [keys[place]] if keys[place] else []
        rows.append(("Reference" if place == 0 else "Compared", tuple(t for t in told if t)))
    rows.append(("Data", tuple(dict.fromkeys(x for x in (first.data, made.data) if x))))
    rows.append(
        ("KL", (f"KL(reference || other) in nats, probabilities below {first.epsilon:g} count as that",))
    )
    rows.append(("Seed", (str(made.seed),)))
    rows += [
        (heading, (text,))
        for heading, text in (
            ("Versions", made.versions),
            ("Machine", made.machine),
            ("Command", made.command),
        )
        if text
    ]
    if made.seconds is not None:
        rows.append(("Took", (f"{made.seconds:.0f} s",)))
    return rows


def _cell(value: Estimate | None) -> tuple[str, str]:
    if value is None or not value.known:
        return MISSING, ""
    return words.figure(value, ""), interval_of(value)


def _p(value: float) -> str:
    text = words.p_value(value)
    return MISSING if "not known" in text else text.removeprefix("p = ").removeprefix("p ")


def _some(drawn: Iterable[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in drawn if chart is not None)
