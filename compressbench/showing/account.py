"""Account: everything that is shown of one reference and the models compared with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compressbench.comparing.answers import NONE
from compressbench.comparing.comparison import Asked, Comparison
from compressbench.comparing.gate import Verdict
from compressbench.comparing.intervals import Estimate

Thumbnail = Callable[[int], "np.ndarray | None"]
"""A row of the data -> its picture, uint8 (h, w) or (h, w, c) of one channel or three; None where there is none."""
SAME, PAYS, WHICH, FRAGILE, SURE, FASTER, WHERE, ODD = (
    "The same answers?",
    "Who pays?",
    "Which examples?",
    "More fragile?",
    "How sure?",
    "Smaller, faster?",
    "Where did it come from?",
    "Anything odd?",
)
QUESTIONS = (SAME, PAYS, WHICH, FRAGILE, SURE, FASTER, WHERE, ODD)
"""In the order in which they are answered."""


@dataclass(frozen=True)
class Timing:
    """One artefact at one batch size.

    Attributes:
        batch: examples at a time.
        latency: of one batch in ms, the median of the turns with its interval; ``n`` is how many turns.
        throughput: examples a second, likewise.
        speedup: how many times as fast as the reference, in turns with it; None for the reference itself, and where it
            could not be told.
        note: why, or what disturbed it.
    """

    batch: int
    latency: Estimate
    throughput: Estimate
    speedup: Estimate | None = None
    note: str = ""


@dataclass(frozen=True)
class Expense:
    """What one artefact costs.

    Attributes:
        runtime: what ran it, in a word, e.g. ``onnxruntime``.
        bytes: on disk; None where it is no file.
        peak_memory: bytes while it ran, above what the process held before; None where it wasn't measured.
        timings: by batch size.
        executed: what really ran, in words, e.g. ``20 of 21 convolutions in int8, 1 in float``.
        note: why something is missing.
    """

    runtime: str
    bytes: int | None
    peak_memory: int | None = None
    timings: tuple[Timing, ...] = ()
    executed: str = ""
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """Smaller, faster? Expenses in the order of the account's artefacts, the reference's first.

    Attributes:
        machine: that all were measured on, with threads.
        words: sentences of the answer.
    """

    expenses: tuple[Expense, ...]
    machine: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attack:
    """One attack or corruption; figures in the order of the account's artefacts, None where one wasn't tried.

    Attributes:
        name: e.g. ``Square, 8/255`` or ``gaussian noise, severity 3``.
        accuracy: in percent, under it; empty where nothing has a label.
        loyalty: same answers as the reference's under it, in percent; None for the reference.
        verdicts: in words, one an artefact; empty for none.
        note: how it was made.
    """

    name: str
    accuracy: tuple[Estimate | None, ...] = ()
    loyalty: tuple[Estimate | None, ...] = ()
    verdicts: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Fragility:
    """More fragile?

    Attributes:
        attacks: the clean examples first, if they are among them.
        words: sentences of the answer, the verdict over all attacks first; that it wasn't tested here, and why, is one.
    """

    attacks: tuple[Attack, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One layer's output against the reference's, in dB of signal to noise; infinite where there is no noise,
    NaN where it could not be told.

    Attributes:
        name: of the layer.
        made: given the reference's input: the error made here.
        arrived: given the network's own: the error that arrived here.
        form: what computes it, e.g. ``int8 convolution``.
    """

    name: str
    made: float
    arrived: float
    form: str = ""


@dataclass(frozen=True)
class Restored:
    """What comes back where some layers are left as they are in the reference.

    Attributes:
        layers: which.
        accuracy: in percent, of the network with these restored; None without labels.
        loyalty: in percent.
    """

    layers: tuple[str, ...]
    accuracy: Estimate | None
    loyalty: Estimate


@dataclass(frozen=True)
class Layers:
    """Where did it come from? Of one comparison.

    Attributes:
        layers: in the network's order.
        restored: the worst layer, the worst two, …
        n: examples that ratios are of.
        words: sentences of the answer; that it can't be told, and why, is one.
    """

    layers: tuple[Layer, ...] = ()
    restored: tuple[Restored, ...] = ()
    n: int = 0
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Provenance:
    """With what it was made.

    Attributes:
        versions, machine: as records have them.
        data: where the examples are from, in words.
        preparations: what is done to an example before each artefact gets it, in words, the reference's first.
        command: as a shell would be given it.
        seed: of what was drawn at random.
        seconds: that it took; None where nobody looked.
        keys: content addresses of the artefacts, the reference's first.
    """

    versions: str = ""
    machine: str = ""
    data: str = ""
    preparations: tuple[str, ...] = ()
    command: str = ""
    seed: int = 0
    seconds: float | None = None
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """One reference, one or more others, and what was found of each.

    Attributes:
        comparisons: one for each of the others.
        asked: what all were asked.
        layers: one a comparison, None where it wasn't looked for; empty for none.
        verdicts: of a gate, one tuple a comparison; empty for no gate.
        notes: sentences to read before the figures, e.g. that a file is given twice, or is prepared in another way.

    Raises:
        ValueError: no comparison, those of several references, or something beside them that is of another number.
    """

    comparisons: tuple[Comparison, ...]
    asked: Asked
    provenance: Provenance = field(default_factory=Provenance)
    cost: Cost | None = None
    fragility: Fragility | None = None
    layers: tuple[Layers | None, ...] = ()
    verdicts: tuple[tuple[Verdict, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        many = len(self.comparisons)
        if not many:
            raise ValueError("an account is of one comparison or more")
        if len({(c.reference, c.forms[0], c.n) for c in self.comparisons}) > 1:
            raise ValueError("an account is of one reference and of the same examples")
        if len(self.asked) != self.comparisons[0].n:
            raise ValueError(f"asked are {len(self.asked)} examples, compared {self.comparisons[0].n}")
        for name, held in (("layers", self.layers), ("verdicts", self.verdicts)):
            if held and len(held) != many:
                raise ValueError(f"{name}: {len(held)} for {many} comparisons")
        per_artefact = {
            "cost": self.cost.expenses if self.cost else (),
            "preparations": self.provenance.preparations,
            "keys": self.provenance.keys,
        }
        for attack in self.fragility.attacks if self.fragility else ():
            per_artefact |= {f"accuracy under {attack.name}": attack.accuracy}
            per_artefact |= {f"loyalty under {attack.name}": attack.loyalty}
            per_artefact |= {f"verdicts on {attack.name}": attack.verdicts}
        for name, held_ in per_artefact.items():
            if held_ and len(held_) != many + 1:
                raise ValueError(f"{name}: {len(held_)} for {many + 1} artefacts")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the artefacts, the reference's first; those that are called alike are numbered."""
        given = [self.comparisons[0].reference, *(c.other for c in self.comparisons)]
        found: list[str] = []
        for name in given:
            number, told = 1, name
            while told in found:
                number += 1
                told = f"{name} ({number})"
            found.append(told)
        return tuple(found)

    @property
    def forms(self) -> tuple[str, ...]:
        """What the artefacts are, in words, the reference's first."""
        return (self.comparisons[0].forms[0], *(c.forms[1] for c in self.comparisons))

    def layers_of(self, place: int) -> Layers | None:
        """Of one comparison, None where it wasn't looked for."""
        return self.layers[place] if self.layers else None

    def verdicts_of(self, place: int) -> tuple[Verdict, ...]:
        """Of one comparison; empty for no gate."""
        return self.verdicts[place] if self.verdicts else ()

    def class_name(self, code: int) -> str:
        """What a class is called: by its number where it has no name; ``none`` for no answer."""
        return class_name(code, self.asked.classes)

    def id_of(self, row: int) -> str:
        """What an example is called."""
        return str(self.asked.ids[row])


def class_name(code: int, names: Sequence[str]) -> str:
    """What a class is called: by its number where it has no name; ``none`` for no answer."""
    if code == NONE:
        return "none"
    return names[code] if 0 <= code < len(names) else str(code)


def finite(value: float | None) -> float | None:
    """A number, or None for what is none."""
    return None if value is None or not math.isfinite(value) else float(value)


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """The last parts of paths, where they still tell all apart; else the names as they are."""
    ends = tuple(name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name for name in names)
    return ends if len(set(ends)) == len(set(names)) else tuple(names)


def by_question(account: Account, place: int) -> Mapping[str, tuple[str, ...]]:
    """Question -> sentences, of one comparison, in the order of ``QUESTIONS``, but for questions nobody asked."""
    told = dict(account.comparisons[place].in_words())
    layers = account.layers_of(place)
    if account.fragility is not None:
        told[FRAGILE] = account.fragility.words
    if account.cost is not None:
        told[FASTER] = account.cost.words
    if layers is not None:
        told[WHERE] = layers.words
    return {question: told[question] for question in QUESTIONS if question in told}
