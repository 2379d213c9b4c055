"""What a call leaves behind: whether it can be repeated, prints, changes what it was given, or takes too long."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import math
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from compressbench.bench import Bench, Silent
from compressbench.errors import UserError

if TYPE_CHECKING:
    from compressbench.data.examples import Examples

T = TypeVar("T")
TEST = "test"


class Unfit(UserError):
    """A part breaks the rule; the message says how, and what would be right."""

    code = 1


class Late(BaseException):
    """A part took longer than it may; no ``except Exception`` of its own catches it."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises ``Late`` after so many seconds, in the main thread; a call into C returns first."""

    def ring(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def quietly(call: Callable[[], T]) -> T:
    """A call's value.

    Raises:
        Unfit: it prints.
    """
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        value = call()
    if text := out.getvalue().strip():
        raise Unfit(f"prints {text.splitlines()[0][:60]!r}; what a user should know is said by bench.say(…)")
    return value


def twice(call: Callable[[], T], wanted: str, difference: Callable[[Any, Any], str] | None = None) -> T:
    """The value of a call that is made twice, under other seeds of every global generator.

    Args:
        wanted: what to draw from instead, for the message.
        difference: where two values differ, in words; empty where they don't.

    Raises:
        Unfit: it prints, or the second value is another.
    """
    first, moved = _once(call, 1)
    again, _ = _once(call, 2)
    found = (difference or differs)(first, again)
    if found:
        cause = (
            f"it draws from the global generator of {' and '.join(moved)}; draw from {wanted}"
            if moved
            else "no global generator was used: it reads a clock, the order of a set, or what an earlier call left"
        )
        raise Unfit(f"two calls differ in {found}: {cause}")
    return first


def _once(call: Callable[[], T], seed: int) -> tuple[T, list[str]]:
    with seeded(seed):
        before = _generators()
        value = quietly(call)
        after = _generators()
    return value, [name for name in before if differs(before[name], after[name])]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds every global generator, which nothing here may draw from; afterwards they are as they were."""
    held = _generators()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(held["random"])
        np.random.set_state(held["numpy.random"])
        torch.default_generator.set_state(held["torch"])


def _generators() -> dict[str, Any]:
    return {
        "torch": torch.default_generator.get_state(),
        "numpy.random": np.random.get_state(),
        "random": random.getstate(),
    }


def differs(one: Any, other: Any, where: str = "") -> str:
    """Where two values differ first, such as ``weights.fc.weight``; empty where they are equal to the bit (NaN is NaN).

    Tensors, arrays, mappings, sequences and dataclasses are gone through; whatever else by ``==``.
    """
    place = where or "what it gives"
    if isinstance(one, Tensor | np.ndarray) and isinstance(other, Tensor | np.ndarray):
        return "" if _same(torch.as_tensor(one), torch.as_tensor(other)) else place
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if list(one) != list(other):
            return f"the names of {place}"
        parts: Any = ((name, one[name], other[name]) for name in one)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return f"the length of {place}"
        parts = zip(range(len(one)), one, other, strict=True)
    elif dataclasses.is_dataclass(one) and not isinstance(one, type) and type(one) is type(other):
        parts = ((f.name, getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    elif isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return ""
    else:
        return "" if one == other else place
    inner = (differs(a, b, f"{where}.{name}" if where else str(name)) for name, a, b in parts)
    return next(filter(None, inner), "")


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    equal = one == other
    return bool((equal | ((one != one) & (other != other))).all())


@contextlib.contextmanager
def unchanged(**given: Any) -> Iterator[None]:
    """Keeps copies of what a part is given, by what it is called, and compares when it is done.

    Raises:
        Unfit: something was changed in place.
    """
    kept = {name: copy.deepcopy(value) for name, value in given.items()}
    yield
    for name, value in given.items():
        if found := differs(kept[name], value):
            raise Unfit(
                f"changes what it is given in place ({name}: {found}); others read the same tensors: make new ones, "
                "w.abs() and not w.abs_()"
            )


@dataclass(frozen=True)
class Watched(Mapping[str, "Examples"]):
    """Splits that note in ``read`` which of them was asked for."""

    splits: Mapping[str, Examples]
    read: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Examples:
        found = self.splits[name]
        self.read.append(name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.splits

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)


@contextlib.contextmanager
def blind(bench: Bench) -> Iterator[Bench]:
    """A copy of a bench for what must not look at test examples.

    Raises:
        Unfit: it did.
    """
    splits = Watched(bench.dataset.splits)
    yield replace(alone(bench), dataset=replace(bench.dataset, splits=splits))
    if TEST in splits.read:
        raise Unfit(
            "reads the test split, by which nothing may be chosen; bench.feed('train') or bench.feed('validation')"
        )


def alone(bench: Bench) -> Bench:
    """A copy of a bench that has read nothing yet and says nothing."""
    return replace(bench, feeds={}, progress=Silent(), say=lambda text: None)
