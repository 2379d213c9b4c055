"""The first page's answers: six questions, each with its sentences and one figure, computed from records.

They speak of one state, the smallest file that is on average no more than a point below dense, and claim no more than
seeds, examples and intervals carry: "can't be told" is an answer.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compressbench.records import Record
from compressbench.report.chance import at_chance_in_words, unseen
from compressbench.report.estimates import SEEDS, ClassChange, Estimate, change, class_changes, level
from compressbench.report.judged import judged
from compressbench.report.numbers import FIXED, MISSING, counted, grouped, number
from compressbench.report.panels import Panel, Point, Reading
from compressbench.report.picks import (
    State,
    chosen,
    encoded,
    fastest,
    first_speed,
    picks,
    states_of,
    unbeaten,
)
from compressbench.report.speed import FASTER, figure_in_words, in_words
from compressbench.report.wording import title_of

ACCURATE, AGREES, PAYS, FRAGILE, SMALLER, TAKE = (
    "Is it as accurate?",
    "Does it agree with the original?",
    "Who pays?",
    "Is it more fragile?",
    "Is it smaller and faster?",
    "What would I take?",
)
ANCHORS = {
    ACCURATE: "as-accurate",
    AGREES: "agrees",
    PAYS: "who-pays",
    FRAGILE: "more-fragile",
    SMALLER: "smaller-faster",
    TAKE: "take",
}
DETAILS = {
    ACCURATE: "accuracy",
    AGREES: "methods",
    PAYS: "forgetting",
    FRAGILE: "robustness",
    SMALLER: "cost",
    TAKE: "methods",
}
"""The section that holds what an answer rests on."""
NAMED = 4
POPULATIONS_TOLD = 2
FEW_NETS = 8
"""Below this many nets a population's test by class sees little."""
SAME_SIZE = 0.01
"""Files whose sizes differ by a hundredth count as equally large."""
CANT = "Can’t be told"
LOYALTY = ("loyalty", "label_loyalty")
ATTACKS = (
    ("robustness", "worst_case_accuracy", "under the worst of the attacks tried"),
    ("robustness", "pgd_accuracy", "under attack (PGD)"),
    ("square", "square_accuracy", "under the Square attack"),
    ("robustness", "fgsm_accuracy", "under attack (FGSM)"),
    ("substitution", "substitution_accuracy", "where words are exchanged for synonyms"),
)
SHIFTS = (
    ("corruptions", "corrupted_top1", "on corrupted images"),
    ("shifted", "shifted_top1", "on the shifted test set"),
)
BYTES = {
    "dense_bytes": "as plain float",
    "sparse_bytes": "zeros left out",
    "quantized_bytes": "as codes",
    "huffman_bytes": "Huffman-coded",
}


@dataclass(frozen=True)
class Answer:
    """One question with what the records say.

    Attributes:
        verdict: in one to six words.
        figure: the number that it comes down to, and what that is; empty for none.
        detail: anchor of the section that it rests on.
        asked_as: the question as it is asked here, where it is asked in other words.
    """

    question: str
    verdict: str
    sentences: tuple[str, ...]
    figure: tuple[str, str] = ("", "")
    detail: str = ""
    asked_as: str = ""

    @property
    def anchor(self) -> str:
        return ANCHORS[self.question]

    @property
    def heading(self) -> str:
        return self.asked_as or self.question


@dataclass(frozen=True)
class Floor:
    """How far two dense nets are apart that nobody compressed.

    Attributes:
        mean, most: over pairs.
        pairs: of nets.
    """

    mean: float
    most: float
    pairs: int


@dataclass(frozen=True)
class Asked:
    """What the questions are asked of: a panel's first moment, all states of it, and the one that is spoken of."""

    panel: Panel
    moment: str
    states: tuple[State, ...]
    taken: State

    @property
    def dense(self) -> Point | None:
        """The net that the state spoken of is compared with."""
        return self.panel.dense_of(self.taken.series, self.moment)


def asked(panel: Panel) -> Asked | None:
    """None where no state can be compared with a dense one."""
    if not panel.rows:
        return None
    moment = panel.moments[0]
    states = states_of(panel, moment)
    taken = chosen(states)
    return Asked(panel, moment, tuple(states), taken) if taken else None


def answers(of: Asked) -> list[Answer]:
    """The questions that the records say anything of, in their order."""
    builders: tuple[Callable[[Asked], Answer | None], ...] = (
        accurate,
        agrees,
        pays,
        fragile,
        smaller,
        take,
    )
    return [answer for build in builders if (answer := build(of))]


def spoken_of(of: Asked) -> str:
    """Which state the answers are about, and how it came to be that one."""
    many = counted(len(of.states), "state")
    by = judged(of.panel)
    if of.taken.near:
        return (
            f"The answers speak of {of.taken.name}: of {many} the smallest file that is on average {by.near}. It was "
            f"chosen after looking at the test {by.name}, which flatters it a little."
        )
    if not by.share:
        return f"The answers speak of {of.taken.name}: of {many} the nearest to dense; none is on average {by.near}."
    return f"No state of {many} is on average within a point of dense; the answers speak of the nearest, {of.taken.name}."


# is it as accurate? ---------------------------------------------------------------------------------------------------


def accurate(of: Asked) -> Answer | None:
    """The change of accuracy of the state spoken of, and how many series reach such a one."""
    found = of.taken.change
    if found is None:
        return None
    figure = (found.figure(), f"{_metric(of)} against dense, {of.taken.name}")
    asked = judged(of.panel).question
    if unseen(of.panel, of.taken.series, of.moment):
        return Answer(
            ACCURATE, CANT, tuple(at_chance_in_words(of.panel, of.moment)), figure, DETAILS[ACCURATE], asked
        )
    by, whole = judged(of.panel), level(of.panel.main_reading(of.dense))
    told = [
        f"{of.taken.name}: {found.words()} against its dense net’s {whole.figure(False) if whole else MISSING}."
    ]
    told += _others(of)
    if by.better < 0:
        told.append(f"Less {by.name} is better.")
    return Answer(ACCURATE, _near(found), tuple(told), figure, DETAILS[ACCURATE], asked)


def _near(found: Estimate) -> str:
    """What an interval of a change in points shows."""
    if not found.known:
        return f"{CANT}: one seed" if found.seeds < 2 else CANT
    if found.unit != "points":
        return "Not shown to differ" if found.low <= 0 <= found.high else "It differs"
    alone = "" if found.over == SEEDS else ", this one net"
    if found.low >= -1:
        return f"Yes, within one point{alone}"
    if found.high < -1:
        return f"No, more than a point is lost{alone}"
    return "Something is lost; how much can’t be told" if found.high < 0 else f"{CANT}: the interval is wide"


def _others(of: Asked) -> list[str]:
    """How the best states of all series stand, where there are several."""
    found = [p for p in picks(of.states) if p.change and p.change.unit == "points"]
    if len(found) < 2:
        return []
    known = [p for p in found if p.change and p.change.known]
    sure = [p for p in known if p.change and p.change.low >= -1]
    below = [p for p in known if p.change and p.change.high < -1]
    rest = len(found) - len(sure) - len(below)
    parts = [f"of {len(sure) or 'none'} the interval stays above −1 point"]
    parts += [f"of {len(below)} it lies below"] if below else []
    parts += [f"of {rest} it can’t be told"] if rest else []
    return [
        f"Of {len(found)} series, each by its own smallest state near dense or else its best: {', '.join(parts)}."
    ]


# does it agree with the original? -------------------------------------------------------------------------------------


def agrees(of: Asked) -> Answer | None:
    """Label loyalty of the state spoken of beside that of dense nets that nobody compressed."""
    own = of.taken.point.reading(*LOYALTY)
    found = level(own)
    if own is None or found is None:
        return None
    figure = (found.figure(False), f"of answers as the dense net’s, {of.taken.name}")
    floor = floor_reading(of.panel, of.moment)
    told = [
        f"{of.taken.name} answers as its dense net does on {found.figure(False)} of examples ({found.ends(False)})."
    ]
    population = floor_of_populations(of.panel)
    if floor is not None and (least := level(floor)):
        gap = change(own, floor)
        told.append(
            f"Two dense nets of different seeds agree on {least.words(signed=False)}"
            + (f": {gap.figure()} beside them ({gap.ends()})." if gap else ".")
        )
        return Answer(AGREES, _beside_floor(gap), tuple(told), figure, DETAILS[AGREES])
    if population is not None:
        mean, low, high, n = population
        told.append(
            f"Pairs of dense nets agree on {number(mean, '%')}{FIXED}% on average, {number(low, '%')} to "
            f"{number(high, '%')}{FIXED}% ({n})."
        )
        verdict = (
            "Less than any pair of dense nets"
            if found.value < low
            else "More than any pair of dense nets"
            if found.value > high
            else "As pairs of dense nets do"
        )
        return Answer(AGREES, verdict, tuple(told), figure, DETAILS[AGREES])
    told.append(
        "How much two dense nets agree was not measured, so it can’t be told whether this is much or little."
    )
    return Answer(AGREES, CANT, tuple(told), figure, DETAILS[AGREES])


def _beside_floor(gap: Estimate | None) -> str:
    if gap is None or not gap.known:
        return f"{CANT} from one seed"
    if gap.low > 0:
        return "More than a net trained again would"
    return "Less than a net trained again would" if gap.high < 0 else f"{CANT} from training again"


def floor_reading(panel: Panel, moment: str) -> Reading | None:
    """Label loyalty of a dense net of another seed."""
    for series in panel.floors:
        for point in series.at(moment):
            found = point.reading(*LOYALTY)
            if found and found.by_seed:
                return found
    return None


def floor_of_populations(panel: Panel) -> tuple[float, float, float, str] | None:
    """Mean, lowest and highest label loyalty of pairs of dense nets, and how many; None where it wasn't measured."""
    rows = {
        r.metric: r
        for r in panel.populations
        if r.metric.startswith("floor_label_loyalty") and r.value is not None
    }
    mean = rows.get("floor_label_loyalty")
    if mean is None or mean.value is None:
        return None
    ends = [
        r.value
        for end in ("low", "high")
        if (r := rows.get(f"floor_label_loyalty_{end}")) and r.value is not None
    ]
    low, high = ends if len(ends) == 2 else (mean.value, mean.value)
    return mean.value, low, high, mean.note or f"n = {grouped(mean.n)}"


# who pays? ------------------------------------------------------------------------------------------------------------


def pays(of: Asked) -> Answer | None:
    """Which classes are shown to have lost, by tests corrected for their number; what populations say."""
    found = class_changes(of.taken.point)
    many = _populations(of.panel, of.taken.series.label)
    if not found:
        return Answer(PAYS, many[0], (many[1],), detail="populations") if many else None
    worst = found[0]
    figure = (worst.change.figure(), f"worst class, “{worst.name}”, {of.taken.name}")
    if unseen(of.panel, of.taken.series, of.moment):
        return Answer(PAYS, CANT, tuple(at_chance_in_words(of.panel, of.moment)), figure, DETAILS[PAYS])
    return Answer(
        PAYS, many[0] if many else _paying(found), (_classes(found, of), *many[1:]), figure, DETAILS[PAYS]
    )


def _paying(found: Sequence[ClassChange]) -> str:
    tested = [c for c in found if not math.isnan(c.p_holm)]
    lost = [c for c in tested if c.lost]
    if not tested:
        return f"{CANT} from one seed"
    return (
        f"{counted(len(lost), 'class', 'classes')} of {len(tested)}" if lost else "No class is shown to lose"
    )


def _classes(found: Sequence[ClassChange], of: Asked) -> str:
    tested, worst = [c for c in found if not math.isnan(c.p_holm)], found[0]
    last = (
        f"worst is “{worst.name}”, recall {worst.change.words()}; it was picked after looking, so what it lost is "
        "likely less than it seems"
    )
    if not tested:
        return f"{of.taken.name}: no test of single classes can be made of this; {last}."
    how = "Student’s test over seeds" if tested[0].change.seeds > 1 else "McNemar’s exact test"
    rule = f"{counted(len(tested), 'class', 'classes')} tested, {how}, Holm’s correction"
    lost = [c for c in tested if c.lost]
    if not lost:
        return f"{of.taken.name}: no class is shown to have lost recall ({rule}); {last}."
    listed = ", ".join(f"“{c.name}” {c.change.words()}" for c in lost[:NAMED])
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    are = "is" if len(lost) == 1 else "are"
    return f"{of.taken.name}: {len(lost)} {are} shown to have lost recall ({rule}): {listed}{more}."


def _populations(panel: Panel, first: str) -> tuple[str, str] | tuple[()]:
    """The verdict and some sentences on what populations forget; nothing where that wasn't measured.

    Args:
        first: the series whose population is spoken of first; then those of which most groups changed.
    """
    by_series: dict[str, dict[tuple[str, str], Record]] = {}
    for row in panel.populations:
        if row.value is not None and not (row.key and row.key == row.reference):
            by_series.setdefault(row.series, {})[row.metric, row.group] = row
    told = {series: text for series, rows in by_series.items() if (text := _population(rows))}
    if not told:
        return ()
    changed = {
        series: sum(
            int(r.value or 0) for (metric, _), r in by_series[series].items() if metric == "impacted_holm"
        )
        for series in told
        if any(metric == "impacted_holm" for metric, _ in by_series[series])
    }
    order = sorted(told, key=lambda series: (series != first, -changed.get(series, 0)))
    sentences = [f"{series}: {told[series]}." for series in order[:POPULATIONS_TOLD]]
    some = [series for series in changed if changed[series]]
    if len(told) > POPULATIONS_TOLD and changed:
        sentences.append(f"A group is shown to change in {len(some)} of {len(changed)} populations.")
    nets = [
        row.n
        for row in panel.populations
        if row.probe == "agreement" and row.metric.startswith("population_")
    ]
    if changed and nets and min(nets) < FEW_NETS:
        sentences.append(f"With {min(nets)} nets each, fewer than {FEW_NETS}, this test sees little.")
    most = max(changed.values(), default=0)
    verdict = f"{counted(most, 'group')} at most, over populations" if most else "No group is shown to change"
    return verdict if changed else "Some answers differ", f"Populations. {' '.join(sentences)}"


def _population(rows: Mapping[tuple[str, str], Record]) -> str:
    """What one population forgets beside the dense one; empty where that wasn't measured.

    Args:
        rows: by (metric, group); counts of an attribute's values have the attribute as their group.
    """
    parts = []
    for (metric, family), holm in rows.items():
        raw, null = rows.get(("impacted_classes", family)), rows.get(("impacted_null", family))
        if metric == "impacted_holm" and raw is not None:
            what = f"values of {family}" if family else "classes" if holm.n != 1 else "class"
            chance = f", {number(null.value or 0, '1')} between halves of the dense nets" if null else ""
            parts.append(
                f"{number(holm.value or 0, '1')} of {grouped(holm.n)} {what} changed beyond the common shift after "
                f"Holm’s correction ({number(raw.value or 0, '1')} at p ≤ 0.05{chance})"
            )
    share, halves = rows.get(("exemplar_share", "")), rows.get(("exemplar_null", ""))
    if share is not None:
        floor = (
            f" against {number(halves.value or 0, '%')}{FIXED}% between halves of the dense nets"
            if halves
            else ""
        )
        parts.append(
            f"the modal answer is another on {number(share.value or 0, '%')}{FIXED}% of {grouped(share.n)} "
            f"examples{floor}"
        )
    return "; ".join(parts)


# is it more fragile? --------------------------------------------------------------------------------------------------


def fragile(of: Asked) -> Answer | None:
    """Accuracy under attack and on shifted data against dense, how far two dense nets are apart said first."""
    told: list[str] = []
    verdicts: list[str] = []
    figure = ("", "")
    for kinds in (ATTACKS, SHIFTS):
        for probe, metric, where in kinds:
            reading, dense = (p.reading(probe, metric) if p else None for p in (of.taken.point, of.dense))
            found = change(reading, dense)
            whole = level(dense)
            if found is None or whole is None:
                continue
            floor = apart(of, probe, metric)
            told.append(_floor_first(floor, where))
            told.append(
                f"{of.taken.name}: {found.words()} {where} against its dense net’s {whole.figure(signed=False)}: "
                f"{_fragile(found, floor)}."
            )
            verdicts.append(_fragile(found, floor))
            figure = figure if figure[0] else (found.figure(), f"accuracy {where}, {of.taken.name}")
            break
    if not told:
        return None
    told += _warnings(of.panel)
    worst = min(verdicts, key=lambda v: FRAGILITY.index(v))
    return Answer(FRAGILE, worst[:1].upper() + worst[1:], tuple(told), figure, DETAILS[FRAGILE])


MORE, NO_MORE, LESS = (
    "more fragile than dense, by more than dense nets differ",
    "can’t be told from how dense nets differ",
    "less fragile than dense, by more than dense nets differ",
)
UNSURE, MORE_ALONE, LESS_ALONE = (
    "can’t be told: the interval holds 0",
    "lower than its dense net; whether another training would be too can’t be told",
    "higher than its dense net; whether another training would be too can’t be told",
)
NO_INTERVAL = "can’t be told from one seed"
FRAGILITY = (MORE, MORE_ALONE, UNSURE, NO_MORE, NO_INTERVAL, LESS_ALONE, LESS)


def _fragile(found: Estimate, floor: Floor | None) -> str:
    if not found.known:
        return NO_INTERVAL
    if found.low <= 0 <= found.high:
        return UNSURE
    if floor is None or floor.pairs < 2:
        return MORE_ALONE if found.high < 0 else LESS_ALONE
    if abs(found.value) <= floor.most:
        return NO_MORE
    return MORE if found.high < 0 else LESS


def _floor_first(floor: Floor | None, where: str) -> str:
    if floor is None:
        return f"How far two dense nets are apart {where} isn’t known: there is only one."
    most = f", at most {number(floor.most, 'points')}" if floor.pairs > 1 else ""
    pairs = counted(floor.pairs, "pair")
    return f"Two dense nets are {number(floor.mean, 'points')}{FIXED}points apart {where} on average{most} ({pairs})."


def apart(of: Asked, probe: str, metric: str) -> Floor | None:
    """How far dense nets are apart in a metric: all pairs of seeds, the floor's nets too; None of fewer than two."""
    values = []
    nets = (of.dense, *(point for series in of.panel.floors for point in series.at(of.moment)[:1]))
    for point in nets:
        reading = point.reading(probe, metric) if point else None
        values += [reading.by_seed[s] for s in sorted(reading.by_seed)] if reading else []
    gaps = [abs(a - b) for a, b in itertools.combinations(values, 2)]
    return Floor(statistics.fmean(gaps), max(gaps), len(gaps)) if gaps else None


def _warnings(panel: Panel) -> list[str]:
    """What the attacks' own checks say, each once."""
    found = dict.fromkeys(
        f"{row.series}: {row.note or row.group}."
        for row in panel.rows
        if row.metric == "gradient_warning" and row.value
    )
    told = list(found)
    return [
        *told[:NAMED],
        *([f"{len(told) - NAMED} more warnings of this kind."] if len(told) > NAMED else []),
    ]


# is it smaller and faster? --------------------------------------------------------------------------------------------


def smaller(of: Asked) -> Answer | None:
    """Bytes of the shortest encoding against dense, and what a clock said."""
    told, verdicts = [], []
    figure = ("", "")
    (size, form), (whole, _) = encoded(of.taken.point), encoded(of.dense)
    if math.isfinite(size) and math.isfinite(whole):
        times = whole / size
        same = abs(math.log(times)) <= SAME_SIZE
        gain = (
            f"{number(times, 'x')} times smaller" if times >= 1 else f"{number(1 / times, 'x')} times larger"
        )
        told.append(
            f"{of.taken.name} takes {_bytes(size)} ({BYTES.get(form, title_of(form))}), its dense net {_bytes(whole)}: "
            f"{'as large' if same else gain} on disk ({_seeds(len(of.taken.point.seeds))})."
        )
        verdicts.append("no smaller" if same else "smaller" if times > 1 else "larger")
        what = "dense net’s bytes to its own" if same or times < 1 else "smaller on disk"
        figure = (f"{number(times, 'x')}×", f"{what}, {of.taken.name}")
    speed, batch, _ = first_speed(of.panel, of.taken.point)
    if speed is not None:
        told.append(f"Measured at batch {batch} on {runtime(of.panel, of.taken)}: {in_words(speed)}.")
        verdicts.append(
            {"": "speed not measured", "not shown": "not shown to be faster"}.get(
                speed.verdict, speed.verdict
            )
        )
    if not told:
        return None
    verdict = ", ".join(verdicts)
    return Answer(SMALLER, verdict[:1].upper() + verdict[1:], tuple(told), figure, DETAILS[SMALLER])


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"n = {count} seeds"


def runtime(panel: Panel, state: State) -> str:
    """What the clock ran: the hardware target of the state's timings, and the environment where there are several."""
    environment = first_speed(panel, state.point)[2]
    if environment:
        return environment
    found = dict.fromkeys(r.hardware for r in panel.rows if r.is_timing and r.probe == "cost")
    return ", ".join(found) or MISSING


def _bytes(size: float) -> str:
    return f"{number(size, 'bytes')}B" if size >= 1000 else f"{number(size, 'bytes')}{FIXED}bytes"


# what would I take? ---------------------------------------------------------------------------------------------------


def take(of: Asked) -> Answer | None:
    """The choice by accuracy, bytes and shown speed, with its reason."""
    if of.taken.change is None or unseen(of.panel, of.taken.series, of.moment):
        return None
    by = judged(of.panel)
    if not of.taken.near:
        told = [
            f"Nothing here is on average {by.within} of dense; nearest is {of.taken.name}, "
            f"{of.taken.change.words()}."
        ]
        return Answer(TAKE, "The dense net", (*told, *_unbeaten(of)), detail=DETAILS[TAKE])
    gains = _gains(of.taken, of)
    quick = fastest(of.states)
    told = [
        f"{of.taken.name}, the smallest file of {counted(sum(s.near for s in of.states), 'state')} on average "
        f"{by.near}: {', '.join(gains) if gains else 'nothing about it is shown to be better'}."
    ]
    if quick is None:
        told.append("None of these is shown to be faster than dense.")
    elif quick is not of.taken and quick.speed:
        told.append(f"Where time counts: {quick.name}, {figure_in_words(quick.speed)} at {_change(quick)}.")
    if not gains and quick is None:
        return Answer(
            TAKE, "Nothing here is shown to be better", (*told, *_unbeaten(of)), detail=DETAILS[TAKE]
        )
    sure = by.share and of.taken.change.known and of.taken.change.low >= -1
    if not sure:
        told.append(f"Whether it really is {by.within} can’t be told.")
    return Answer(
        TAKE,
        of.taken.name if gains else quick.name if quick else of.taken.name,
        (*told, *_unbeaten(of)),
        detail=DETAILS[TAKE],
    )


def _gains(state: State, of: Asked) -> list[str]:
    """What is shown to be better than dense, bytes and speed; accuracy isn't, of a state that was picked by it."""
    found = []
    whole = encoded(of.dense)[0]
    if math.isfinite(whole) and math.log(whole / state.size) > SAME_SIZE:
        found.append(f"{number(whole / state.size, 'x')} times smaller")
    if state.speed and state.speed.verdict == FASTER:
        found.append(f"faster, {figure_in_words(state.speed)}")
    return found


def _unbeaten(of: Asked) -> list[str]:
    """States that no other beats in everything that is looked at."""
    near = [s for s in of.states if s.near]
    found = unbeaten(near or of.states)
    if len(near or of.states) < 3:
        return []
    shown = ", ".join(f"{s.name} ({_change(s)})" for s in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    name = judged(of.panel).name
    return [
        f"{'Of these b' if near else 'B'}eaten by none in {name}, bytes and shown speed together: {shown}{more}."
    ]


def _change(state: State) -> str:
    return state.change.figure() if state.change else MISSING


# four figures on top --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """One of the four figures on top: what, the figure, what stands small below it."""

    title: str
    figure: str
    beside: str


def tiles(of: Asked) -> list[Tile]:
    """Accuracy, smallest file within one point, measured speed with its range and runtime, worst class."""
    found = []
    own = level(of.panel.main_reading(of.taken.point))
    if own is not None:
        beside = (
            f"{of.taken.name}; {of.taken.change.figure()} against dense" if of.taken.change else of.taken.name
        )
        found.append(Tile(_metric(of), own.figure(signed=False), f"{beside}; {own.ends(signed=False)}"))
    if math.isfinite(of.taken.size) and of.taken.near:
        whole = encoded(of.dense)[0]
        share = f"; dense {_bytes(whole)}" if math.isfinite(whole) else ""
        found.append(
            Tile(f"Smallest file {judged(of.panel).within}", _bytes(of.taken.size), f"{of.taken.name}{share}")
        )
    speed, batch, _ = first_speed(of.panel, of.taken.point)
    if speed is not None and speed.figure is None:
        found.append(Tile("Measured speed against dense", MISSING, f"{of.taken.name}; {in_words(speed)}"))
    if speed is not None and speed.figure is not None:
        ends = f"{number(speed.ends[0], 'x')} to {number(speed.ends[1], 'x')}" if speed.ends else "no range"
        kind = "runs dense" if speed.dense else f"95{FIXED}% {ends}"
        many = counted(speed.figure.n, "seed")
        where = runtime(of.panel, of.taken)
        found.append(
            Tile(
                "Measured speed against dense",
                f"{number(speed.figure.mean, 'x')}×",
                f"{of.taken.name}; {kind}, {many}, batch {batch}, {where}",
            )
        )
    classes = class_changes(of.taken.point)
    if classes:
        worst = classes[0]
        found.append(
            Tile(
                "Worst class",
                worst.change.figure(),
                f"“{worst.name}”, {of.taken.name}; {worst.change.ends()}",
            )
        )
    return found


def _metric(of: Asked) -> str:
    return title_of(of.panel.main[1]) if of.panel.main else "Accuracy"
