"""The whole comparison: artefacts and data are read, each is asked, and every question is answered from what was said."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from compressbench.artefacts import told
from compressbench.artefacts.artefact import Artefact, Given
from compressbench.artefacts.function import Function
from compressbench.artefacts.predictions import Predictions
from compressbench.artefacts.preparation import Preparation, fitted
from compressbench.bench import Progress, Silent
from compressbench.comparing import asking, doctor, material
from compressbench.comparing.comparison import Asked, Comparison, Floor, Said, compared, floor
from compressbench.comparing.inside import Held, held, odd_inside
from compressbench.comparing.material import Material
from compressbench.comparing.oddities import Finding, varying
from compressbench.conducting import further
from compressbench.conducting.wishes import Wishes
from compressbench.errors import UserError
from compressbench.paths import given_path
from compressbench.runs import provenance
from compressbench.showing.account import Account, Fragility, Layers, Provenance

Answering = Artefact | Predictions
Named = str | Path | Artefact | Predictions | Callable[..., Any]
FEW = 200
"""Examples that other preparations are tried on, of a quick comparison."""
HALF = 50.0
"""Percent of the weights from which on a file is one of integers."""


class Watcher(Protocol):
    """Told what is done; the terminal's live view is one."""

    def working(self, words: str) -> AbstractContextManager[Progress]:
        """Called around each piece of work."""


class Unseen:
    """Tells nobody."""

    def working(self, words: str) -> AbstractContextManager[Progress]:
        """See ``Watcher``."""
        return nullcontext(Silent())


@dataclass(frozen=True)
class Answered:
    """One artefact and what it said.

    Attributes:
        preparation: of its pictures; None where it wasn't asked, or gets arrays.
        said: of all examples.
        threads: of its runtime.
    """

    artefact: Answering
    preparation: Preparation | None
    said: asking.Said
    threads: int = 1

    @functools.cached_property
    def held(self) -> Held | None:
        """What its file holds; None of predictions. Only what is compared is opened for it, not a floor."""
        if isinstance(self.artefact, Predictions):
            return None
        return held(self.artefact, self.artefact.open(self.threads))

    @property
    def shown(self) -> Said:
        """For the comparison."""
        kind = self.artefact.answers.kind if isinstance(self.artefact, Predictions) else ""
        return Said(self.artefact.name, self.artefact.form, self.said.scores, kind)

    @property
    def precision(self) -> str:
        """In which its outputs may round, for ``oddities.varying``."""
        program = getattr(self.artefact, "program", None)
        if (self.held is not None and self.held.in_bytes >= HALF) or getattr(program, "rounds", False):
            return "int8"
        inputs = getattr(self.artefact, "wants", None)
        kinds = {i.dtype for i in inputs.inputs} if inputs is not None else set()
        return "float16" if "float16" in kinds else "float32"


def conducted(
    reference: Named,
    others: Sequence[Named],
    wishes: Wishes,
    watcher: Watcher | None = None,
    command: str = "",
) -> tuple[Account, Material]:
    """Everything that can be told of others against a reference, and what they were asked.

    Raises:
        UserError: one line: something can't be read, doesn't fit, or isn't known and no flag says it.
    """
    watcher = watcher or Unseen()
    began = time.monotonic()
    if not others:
        raise UserError(
            "compare: a reference and one other at least, e.g. compare original.onnx small.onnx --data photos/"
        )
    asked_of, artefacts = _read(reference, others, wishes)
    _pictures_wanted(asked_of, artefacts, wishes)
    notes = list(_twice(artefacts))
    asked_of = _numbered(asked_of, artefacts[0], wishes)
    if asked_of.texts is not None:
        names = getattr(artefacts[0], "class_names", ())
        asked_of = material.named_as(asked_of, names)
    if wishes.limit is not None:
        asked_of = material.limited(asked_of, wishes.limit, wishes.seed)
    first, asked_of, said = _reference(artefacts[0], asked_of, wishes, watcher)
    notes += said
    answered = [first]
    beside: list[list[Finding]] = []
    for artefact in artefacts[1:]:
        one, found, said_too = _other(artefact, first, asked_of, wishes, watcher)
        notes += said_too
        answered.append(one)
        beside.append(found)
    notes += _of_itself(first, asked_of, wishes, watcher)
    floors = list(_floors(first, asked_of, wishes, watcher))
    comparisons = [
        compared(_asked(asked_of), first.shown, one.shown, wishes.margin, floors, found, wishes.seed)
        for one, found in zip(answered[1:], beside, strict=True)
    ]
    with watcher.working("sizes and times") as progress:
        cost = further.costs(answered, asked_of, wishes, progress)
    fragility: Fragility | None = None
    layers: tuple[Layers, ...] = ()
    if not wishes.quick:
        with watcher.working("spoilt and attacked pictures") as progress:
            fragility, masked = further.fragility(answered, asked_of, wishes, progress)
        comparisons = [_with(c, more) for c, more in zip(comparisons, masked, strict=True)]
        with watcher.working("layer by layer") as progress:
            layers = tuple(further.layers(first, one, asked_of, wishes) for one in answered[1:])
            progress.step(1, 1)
    account = Account(
        comparisons=tuple(comparisons),
        asked=_asked(asked_of),
        provenance=_provenance(answered, asked_of, wishes, command, time.monotonic() - began),
        cost=cost,
        fragility=fragility,
        layers=tuple(layers),
        notes=tuple(notes),
    )
    return account, asked_of


def _read(reference: Named, others: Sequence[Named], wishes: Wishes) -> tuple[Material, list[Answering]]:
    """The data and all artefacts, the reference first."""
    trust = wishes.given.trust

    def data(inputs: Sequence[str] = ()) -> Material:
        assert wishes.data is not None
        found = material.read(wishes.data, inputs, wishes.labelled, trust.prefixes, wishes.config_dir)
        if wishes.attributes is None:
            return found
        words = [wishes.data] if isinstance(wishes.data, str | Path) else wishes.data
        file = given_path(wishes.attributes, "--attributes")
        return material.attributed(found, Path(words[0]).expanduser(), file)

    if wishes.attributes is not None and wishes.data is None:
        raise UserError("--attributes: goes with a folder of pictures, --data FOLDER")
    facts = data() if wishes.data is not None and _is_dataset(wishes.data) else None
    given = wishes.given
    if facts is not None:
        given = dataclasses.replace(
            given, facts={**facts.facts, **given.facts}, preparation=given.preparation or facts.preparation
        )
    artefacts = [_artefact(each, given) for each in (reference, *others)]
    if facts is not None:
        return facts, artefacts
    if wishes.data is not None:
        first = artefacts[0]
        return data([] if isinstance(first, Predictions) else [i.name for i in first.wants.inputs]), artefacts
    own = next((a for a in artefacts if isinstance(a, Predictions) and a.answers.labels is not None), None)
    own = own or next((a for a in artefacts if isinstance(a, Predictions)), None)
    if own is None or any(not isinstance(a, Predictions) for a in artefacts):
        raise UserError(f"--data: what are they asked? {material.KNOWN}")
    found = material.of_predictions(own)
    return found if wishes.labelled else found.unlabelled(), artefacts


def _pictures_wanted(asked_of: Material, artefacts: Sequence[Answering], wishes: Wishes) -> None:
    """Refuses to be told how pictures are prepared where there is none to prepare: it would change nothing."""
    asks = any(not isinstance(a, Predictions) for a in artefacts)
    if wishes.preparation is not None and asks and asked_of.pictures is None:
        raise UserError(
            f"{asked_of.name}: is fed as it is, since it holds no pictures (a folder, or arrays of bytes), "
            "so that --size, --resize, --crop, --mean, --std, --range, --order, --layout and --interpolation "
            "would change nothing; leave them out"
        )


def _is_dataset(data: str | Path | Sequence[str]) -> bool:
    words = [data] if isinstance(data, str | Path) else data
    return any("dataset=" in str(word) for word in words)


def _artefact(named: Named, given: Given) -> Answering:
    if isinstance(named, str | Path):
        return told.read(str(named), given)
    if hasattr(named, "identity") and hasattr(named, "form"):
        return named  # type: ignore[return-value]
    if callable(named):
        name = getattr(named, "__name__", type(named).__name__)
        return Function(named, name)
    raise UserError(f"compare: {named!r:.60} is no path, no artefact and no function of a batch")


def _twice(artefacts: Sequence[Answering]) -> Iterator[str]:
    first = artefacts[0]
    for other in artefacts[1:]:
        if first.identity is not None and other.identity == first.identity:
            yield f"{other.name} and the reference {first.name} are the same, byte by byte; compared all the same."


def _numbered(asked_of: Material, reference: Answering, wishes: Wishes) -> Material:
    """Labels in the numbering of the outputs, where ``--classes`` says how."""
    if wishes.classes is None:
        return asked_of
    outputs = (
        reference.answers.values.shape[1] if isinstance(reference, Predictions) else reference.wants.classes
    )
    if outputs is None:
        raise UserError(
            f"--classes: how many classes {reference.name} answers isn't known before it is asked"
        )
    return material.mapped(asked_of, wishes.classes, outputs)


def _reference(
    artefact: Answering, asked_of: Material, wishes: Wishes, watcher: Watcher
) -> tuple[Answered, Material, list[str]]:
    """What the reference said, doctored where there are labels; what all are asked then; and what is to be noted."""
    preparation = _preparation(artefact, asked_of, wishes)
    notes: list[str] = []
    one = _answered(artefact, asked_of, preparation, wishes, watcher)
    if asked_of.labels is not None:
        with watcher.working(f"{artefact.name}: other ways to prepare pictures") as progress:
            found = doctor.doctored(
                artefact, material.read_by(asked_of, artefact), one.preparation, known=one.said.scores,
                threads=wishes.threads, rows=_looked_at(wishes), seed=wishes.seed, progress=progress,
            )  # fmt: skip
        if found.better:
            notes.append(found.words)
            if wishes.auto:
                asked_of = doctor.renumbered(asked_of, found.best.numbering)
                one = _answered(artefact, asked_of, found.preparation, wishes, watcher)
                notes.append("--preprocess auto takes it.")
    return one, asked_of, notes


def _preparation(
    artefact: Answering, asked_of: Material, wishes: Wishes, otherwise: Preparation | None = None
) -> Preparation | None:
    if isinstance(artefact, Predictions) or asked_of.pictures is None:
        return None
    own = wishes.preparation or artefact.wants.preparation or asked_of.preparation or otherwise
    if own is None and wishes.auto and asked_of.labels is not None:
        own = fitted(Preparation(), artefact.wants)
    return asking.prepared(artefact, own)


def _looked_at(wishes: Wishes) -> int:
    """Examples that other preparations are tried on."""
    return FEW if wishes.quick else doctor.ROWS


def _answered(
    artefact: Answering, asked_of: Material, preparation: Preparation | None, wishes: Wishes, watcher: Watcher
) -> Answered:
    with watcher.working(f"{artefact.name}: {asked_of.n:,} examples") as progress:
        said = asking.asked(
            artefact,
            material.read_by(asked_of, artefact),
            preparation,
            wishes.threads,
            wishes.batch,
            progress,
            wishes.keep,
        )
    return Answered(artefact, preparation, said, wishes.threads)


def _other(
    artefact: Answering, first: Answered, asked_of: Material, wishes: Wishes, watcher: Watcher
) -> tuple[Answered, list[Finding], Sequence[str]]:
    """What another one said, what is odd about it that outputs alone don't show, and what is to be noted."""
    preparation = _preparation(artefact, asked_of, wishes, first.preparation)
    one = _answered(artefact, asked_of, preparation, wishes, watcher)
    found: list[Finding] = []
    if isinstance(artefact, Predictions):
        return one, found, ()
    same = one.said.scores.shape == first.said.scores.shape
    if asked_of.pictures is not None and same:
        with watcher.working(f"{artefact.name}: does it want pictures as the reference does?") as progress:
            other = doctor.doctored_other(
                artefact, asked_of, preparation, first.said.scores, known=one.said.scores, theirs=first.preparation,
                threads=wishes.threads, rows=_looked_at(wishes), seed=wishes.seed, progress=progress,
            )  # fmt: skip
        found += doctor.differing(other, first.preparation, artefact.name)
        if other.better and wishes.auto:
            one = _answered(artefact, asked_of, other.preparation, wishes, watcher)
    if first.held is not None and one.held is not None:
        found += odd_inside(first.held, one.held, artefact.name)
    more, notes = further.hidden(first, one, asked_of, wishes)
    found += [*more, *_varies(one, asked_of, wishes, watcher)]
    return one, found, notes


def _varies(one: Answered, asked_of: Material, wishes: Wishes, watcher: Watcher) -> list[Finding]:
    if isinstance(one.artefact, Predictions):
        return []
    with watcher.working(f"{one.artefact.name}: the same examples again") as progress:
        some = material.read_by(asked_of, one.artefact)
        pairs = asking.varied(one.artefact, some, one.preparation, wishes.threads, seed=wishes.seed)
        progress.step(1, 1)
    return [
        finding
        for by, (once, again) in pairs.items()
        for finding in varying(once, again, one.precision, by, one.artefact.name)
    ]


def _of_itself(first: Answered, asked_of: Material, wishes: Wishes, watcher: Watcher) -> list[str]:
    """What is odd about the reference itself."""
    return [f"The reference: {finding.words}." for finding in _varies(first, asked_of, wishes, watcher)]


def _floors(first: Answered, asked_of: Material, wishes: Wishes, watcher: Watcher) -> Iterator[Floor]:
    """Pairs that nobody compressed."""
    if wishes.floor is not None:
        artefact = _artefact(wishes.floor, wishes.given)
        preparation = _preparation(artefact, asked_of, wishes, first.preparation)
        other = _answered(artefact, asked_of, preparation, wishes, watcher)
        yield floor(
            f"{artefact.name}, which nobody compressed, against the reference", first.shown, other.shown
        )
        return
    if isinstance(first.artefact, Predictions):
        return
    if asked_of.pictures is not None:
        moved = further.shifted(asked_of)
        again = _answered(first.artefact, moved, first.preparation, wishes, watcher)
        yield floor("the reference against itself, pictures moved by one pixel", first.shown, again.shown)
    if wishes.quick:
        return
    with further.in_half(first, wishes.given) as half:
        if half is not None:
            own = material.read_by(asked_of, first.artefact)  # the copy has no tokenizer beside it
            again = _answered(half, own, first.preparation, wishes, watcher)
            yield floor("the reference against itself, weights rounded to fp16", first.shown, again.shown)


def _asked(asked_of: Material) -> Asked:
    return Asked(
        asked_of.name, asked_of.ids.tolist(), asked_of.labels, tuple(asked_of.classes or ()), asked_of.groups,
        asked_of.texts,
    )  # fmt: skip


def _with(comparison: Comparison, more: Sequence[Finding]) -> Comparison:
    from compressbench.comparing.oddities import worst_first

    return dataclasses.replace(comparison, findings=worst_first([*comparison.findings, *more]))


def _provenance(
    answered: Sequence[Answered], asked_of: Material, wishes: Wishes, command: str, seconds: float
) -> Provenance:
    return Provenance(
        versions=", ".join(f"{name} {version}" for name, version in asking.versions().items()),
        machine=provenance.machine("cpu", wishes.threads),
        data=asked_of.name,
        preparations=tuple(one.said.fed for one in answered),
        command=command,
        seed=wishes.seed,
        seconds=seconds,
        keys=tuple(one.artefact.identity or "" for one in answered),
    )
