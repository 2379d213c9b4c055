"""Artefact: what answers, whoever made it, and all that a comparison needs to know of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compressbench.errors import UserError, nearest
from compressbench.runs.finished import NOBODY, Trust

if TYPE_CHECKING:
    from torch import nn

    from compressbench.artefacts.preparation import Preparation

Arrays = Sequence[np.ndarray] | Mapping[str, np.ndarray]
"""What a model is called with, in the order of its inputs or by their names; the first dimension is the example's."""
CHANNELS = (1, 3, 4)
"""How many channels a picture may have, where a shape has to tell which dimension they are."""


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: as the file calls it; where nothing does, ``x``, ``x1`` …
        shape: with the number of examples first; None for a dimension that is free, () where nothing is known.
        dtype: numpy's name of it. A model of integers that says by which scale it rounds takes floats (see ``tflite``).
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Wanted:
    """What an artefact is to be called with, as far as it is known.

    Attributes:
        inputs: in order; empty where nothing is known, as of a plain function.
        classes: how many numbers it says of an example.
        preparation: what pictures become before, where the file itself, or what lies beside it, tells.
    """

    inputs: tuple[Input, ...] = ()
    classes: int | None = None
    preparation: Preparation | None = None

    @property
    def batch(self) -> int | None:
        """The only number of examples that it can be called with; None: any."""
        return next((i.shape[0] for i in self.inputs if i.shape and i.shape[0] is not None), None)

    @property
    def layout(self) -> str | None:
        """``NCHW`` or ``NHWC``, by the first input's shape; None where that doesn't tell."""
        return layout_of(self.inputs[0].shape) if self.inputs else None

    @property
    def picture(self) -> tuple[int | None, int | None, int | None] | None:
        """(channels, height, width) of the first input; None where it is no picture, or the layout isn't told."""
        layout = self.layout
        if layout is None:
            return None
        n = self.inputs[0].shape
        return (n[1], n[2], n[3]) if layout == "NCHW" else (n[3], n[1], n[2])


class Opened(Protocol):
    """An artefact ready to answer.

    Attributes:
        runtime: what runs it: a session, a compiled model, an interpreter, a module; None where that is nobody's to see.
    """

    @property
    def runtime(self) -> Any: ...

    def answers(self, inputs: Arrays) -> np.ndarray:
        """(n, classes) as the file gives them, float32 or float64: logits or probabilities.

        ``Wanted.batch`` examples where that is a number: ``in_batches`` sees to it.

        Raises:
            UserError: the inputs don't fit, or the runtime fails.
        """


class Artefact(Protocol):
    """What can be opened and asked.

    Attributes:
        name: as it is shown.
        form: what it is and what runs it, in words.
        files: what it was read from; empty for a function.
        wants: what it is called with.
        identity: a digest of all that its answers depend on; None where nobody can tell, so that nothing is kept of it.
    """

    @property
    def name(self) -> str: ...
    @property
    def form(self) -> str: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def wants(self) -> Wanted: ...
    @property
    def identity(self) -> str | None: ...

    def open(self, threads: int = 1) -> Opened:
        """Ready to answer on the CPU with so many threads.

        Raises:
            UserError: its runtime isn't installed or can't run it.
        """

    def differentiable(self) -> nn.Module | None:
        """A module of the same answers with gradients to its inputs; None where there is none."""


@dataclass(frozen=True)
class Given:
    """What a user says of an artefact beside its path.

    Attributes:
        output: which of several outputs are the answers, by name.
        answers: ``logits`` or ``probabilities``, of a file of predictions that doesn't tell.
        model: what a checkpoint is loaded into: ``model=resnet20`` and further overrides, or ``mynet:build``.
        facts: what a model config may ask for: ``@classes``, ``@shape`` … (``Task.facts``).
        preparation: beside a checkpoint, from the task whose facts these are.
        trust: the user's own code, and where it is looked for.
    """

    output: str | None = None
    answers: str | None = None
    model: str | Sequence[str] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    preparation: Preparation | None = None
    trust: Trust = NOBODY


NOTHING = Given()


def size_of(artefact: Artefact | Any) -> int | None:
    """Bytes on disk of all files; None of what has none."""
    return sum(path.stat().st_size for path in artefact.files) if artefact.files else None


def layout_of(shape: Sequence[int | None]) -> str | None:
    """``NCHW`` or ``NHWC`` by where the channels (1, 3 or 4 of them) are; None where both or neither could be."""
    if len(shape) != 4:
        return None
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        return None
    return "NCHW" if first else "NHWC"


def in_order(wants: Wanted, inputs: Arrays, name: str) -> tuple[np.ndarray, ...]:
    """The arrays in the order of the artefact's inputs, checked.

    Raises:
        UserError: other inputs, numbers of examples, shapes or types than it takes.
    """
    known = [i.name for i in wants.inputs]
    if isinstance(inputs, Mapping):
        odd = [n for n in inputs if known and n not in known]
        lacking = [n for n in known if n not in inputs]
        if odd:
            raise UserError(f"{name}: there is no input {odd[0]!r}; {nearest(odd[0], known)}")
        if lacking:
            raise UserError(f"{name}: its input {lacking[0]!r} is not given; given: {', '.join(inputs)}")
        arrays = tuple(np.asarray(inputs[n]) for n in (known or inputs))
    else:
        arrays = tuple(np.asarray(a) for a in inputs)
    if not arrays or (known and len(arrays) != len(known)):
        raise UserError(
            f"{name}: takes {len(known) or 'some'} inputs ({', '.join(known)}), not {len(arrays)}"
        )
    if any(not a.ndim for a in arrays) or len({len(a) for a in arrays}) > 1:
        raise UserError(
            f"{name}: inputs of {', '.join(str(a.shape) for a in arrays)} have no number of examples in common"
        )
    for wanted, array in zip(wants.inputs, arrays, strict=False):
        _check_shape(wanted, array, name)
    return arrays


def _check_shape(wanted: Input, array: np.ndarray, name: str) -> None:
    if not wanted.shape:
        return
    fits = len(wanted.shape) == array.ndim and all(
        w is None or w == n for w, n in zip(wanted.shape, array.shape, strict=True)
    )
    if not fits:
        words = f"({', '.join('any' if n is None else str(n) for n in wanted.shape)})"
        raise UserError(f"{name}: its input {wanted.name} is {words}; given {array.shape}")


def fed(wanted: Input, array: np.ndarray, name: str) -> np.ndarray:
    """The array as the input takes it: contiguous, of its type.

    Floats become floats of another size, integers integers that hold all their values, integers floats; never floats
    integers, and never a number another number.

    Raises:
        UserError: it can't be.
    """
    want = np.dtype(wanted.dtype)
    if array.dtype == want:
        return np.ascontiguousarray(array)
    kinds = array.dtype.kind + want.kind
    if "f" in want.kind and array.dtype.kind in "fiu":
        return np.ascontiguousarray(array.astype(want))
    if kinds[0] in "iub" and kinds[1] in "iu":
        info = np.iinfo(want)
        if array.dtype.kind == "b" or not array.size or (info.min <= array.min() and array.max() <= info.max):
            return np.ascontiguousarray(array.astype(want))
    raise UserError(
        f"{name}: its input {wanted.name} takes {want.name}, given {array.dtype.name}"
        + ("; pictures as they are, without mean and range, are wanted" if want == np.uint8 else "")
    )


def table(found: Any, count: int, name: str) -> np.ndarray:
    """What a runtime gave as (n, classes) floats.

    Dimensions of one behind the classes are taken off; floats (n,) are (n, 1); float16 and integers become float32.

    Raises:
        UserError: it is no table with a row for each example, or holds no numbers.
    """
    array = np.asarray(found)
    if array.dtype.kind not in "fiu":
        raise UserError(f"{name}: answers {array.dtype}, no numbers; --output names another output")
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 1 and array.dtype.kind == "f":
        array = array[:, None]
    if array.ndim != 2 or len(array) != count:
        raise UserError(
            f"{name}: answers {np.asarray(found).shape} for {count} examples; (examples, classes) is wanted: "
            "--output names another output"
        )
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def chosen(
    outputs: Sequence[tuple[str, Sequence[int | None] | None, str]],
    given: Given,
    name: str,
    flag: str = "--output",
) -> int:
    """Which of several outputs are the answers.

    The one that is named; else the only one of floats with two dimensions (more, if they are one); of several the only
    one with as many columns as there are classes, or the only one called ``logits``.

    Args:
        outputs: (name, shape; None or () where it isn't known; numpy's name of the type), in order.

    Raises:
        UserError: the one named isn't there, or none or several could be; the flag is named.
    """
    names = [n for n, _, _ in outputs]
    if given.output is not None:
        if given.output not in names:
            raise UserError(f"{flag}: {name} has no output {given.output!r}; {nearest(given.output, names)}")
        return names.index(given.output)
    if len(outputs) == 1:
        return 0
    could = [k for k, (_, shape, dtype) in enumerate(outputs) if "float" in dtype and _is_table(shape)]
    classes = given.facts.get("@classes")
    fits = [k for k in could if classes is not None and list(outputs[k][1] or ())[1:2] == [classes]]
    called = [k for k in could if names[k].lower() == "logits"]
    for found in (could, fits, called):
        if len(found) == 1:
            return found[0]
    told = ", ".join(f"{n} {_words(shape)}" for n, shape, _ in outputs[:8])
    raise UserError(f"{name}: has {len(outputs)} outputs ({told}); {flag} NAME says which are the answers")


def _is_table(shape: Sequence[int | None] | None) -> bool:
    return not shape or len(shape) == 2 or (len(shape) > 2 and all(n == 1 for n in shape[2:]))


def _words(shape: Sequence[int | None] | None) -> str:
    return "(?)" if not shape else f"({', '.join('any' if n is None else str(n) for n in shape)})"


def in_batches(
    artefact: Artefact, opened: Opened, batches: Iterable[Arrays], most: int | None = None
) -> Iterator[np.ndarray]:
    """(n, classes) for each batch, streamed; where the model's batch is fixed, batches are cut, and the last one filled.

    It is filled with its own last example, again and again; those answers are dropped.

    Args:
        batches: of any size.
        most: how many examples a call takes at most, where the model leaves it open; None: a batch is a call.

    Raises:
        UserError: see ``Opened.answers``; or batches differ in how many classes are answered.
    """
    fixed = artefact.wants.batch
    size = fixed if fixed is not None else most
    classes: int | None = None
    for batch in batches:
        count = _count(batch)
        if not count:
            continue
        parts = []
        for at in range(0, count, size or count):
            piece = _taken(batch, at, at + (size or count))
            have = _count(piece)
            short = (fixed or have) - have
            parts.append(opened.answers(_filled(piece, short) if short else piece)[:have])
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if classes is not None and found.shape[1] != classes:
            raise UserError(f"{artefact.name}: answers {found.shape[1]} classes, and {classes} before")
        classes = found.shape[1]
        yield found


def _count(batch: Arrays) -> int:
    return len(next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0])


def _each(batch: Arrays, change: Any) -> Arrays:
    if isinstance(batch, Mapping):
        return {name: change(a) for name, a in batch.items()}
    return tuple(change(a) for a in batch)


def _taken(batch: Arrays, start: int, stop: int) -> Arrays:
    return batch if start == 0 and stop >= _count(batch) else _each(batch, lambda a: a[start:stop])


def _filled(batch: Arrays, short: int) -> Arrays:
    return _each(batch, lambda a: np.concatenate([a, np.repeat(a[-1:], short, axis=0)]))
