"""Stages that make a data set on the way: few labels, unlabelled pictures, MUNGE, a teacher's translations.

``train`` names one as ``data:``.

The net passes through unchanged; the state carries examples and labels, -1 where there is none, until a training ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.specs import Ref

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State


@dataclass(frozen=True)
class Few:
    """Some of the training examples keep their labels, as many of each class as its share; the others lose them.

    Attributes:
        labels: how many examples keep theirs; fewer are a part of more.
        draw: name that, with the seed, draws which; stages of one name hide the same labels.
        unlabelled: whether the others stay, without a label; false leaves them out.
        data: a state whose data set is meant instead of the train split.
    """

    labels: int
    unlabelled: bool = False
    draw: str = "few"
    data: Ref | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.labels < 0 or (self.labels == 0 and not self.unlabelled):
            raise UserError(f"labels: {self.labels} leaves nothing to train on")

    def describe(self) -> str:
        """The stage in words."""
        rest = "the others without one" if self.unlabelled else "the others left out"
        return f"{self.labels} examples with a label, {rest}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with the data set."""
        from compressbench.data.transfer import few

        return few(state, bench, self)


@dataclass(frozen=True)
class Munge:
    """MUNGE: synthetic examples whose attributes are mixed with their nearest neighbour's (Bucila et al., KDD 2006).

    Attributes:
        copies: k, synthetic sets of the size of the data set.
        p: probability that an attribute (a pixel) is exchanged.
        s: the larger, the nearer an exchanged value stays to the neighbour's: its spread is |e - e'| / s.
        keep: whether the examples themselves are in the result too, with their labels.
        data: a state whose data set is meant instead of the train split.
    """

    copies: int = 1
    p: float = 0.5
    s: float = 4.0
    keep: bool = True
    data: Ref | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.copies < 0 or (self.copies == 0 and not self.keep):
            raise UserError(f"copies: {self.copies} leaves no example")
        if not 0 <= self.p <= 1:
            raise UserError(f"p: {self.p} is not in [0, 1]")
        if not self.s > 0:
            raise UserError(f"s: {self.s} is not above 0")

    def describe(self) -> str:
        """The stage in words."""
        return f"{self.copies} x as many synthetic examples by MUNGE (p {self.p:g}, s {self.s:g})"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with the data set; synthetic examples have no label."""
        from compressbench.data.transfer import munged

        return munged(state, bench, self)


@dataclass(frozen=True)
class Pictures:
    """Unlabelled pictures of the user's: all below a folder, whatever their names.

    Attributes:
        root: the folder; png, jpg, jpeg, bmp, webp.
        keep: whether the training examples are in the result too, with their labels.
        data: a state whose data set is meant instead of the train split.
    """

    root: str
    keep: bool = True
    data: Ref | None = None
    VERSION: ClassVar[int] = 1

    def files(self) -> tuple[str, ...]:
        """Files whose content is part of the key.

        Raises:
            UserError: there is no such folder, or no picture in it.
        """
        from compressbench.data.folder import SUFFIXES

        base = Path(self.root).expanduser()
        if not base.is_dir():
            raise UserError(f"root: there is no folder {base}")
        found = sorted(
            str(p)
            for p in base.rglob("*")
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
        )
        if not found:
            raise UserError(f"root: there is no picture in {base} ({', '.join(sorted(SUFFIXES))})")
        return tuple(found)

    def describe(self) -> str:
        """The stage in words."""
        return f"unlabelled pictures of {self.root}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with the data set."""
        from compressbench.data.transfer import pictures

        return pictures(state, bench, self)


@dataclass(frozen=True)
class Translated:
    """The training set with a teacher's translations as targets: sequence-level distillation (Kim & Rush 2016).

    Attributes:
        teacher: the state that translates every source, as its task decodes.
        beam: of beam search; 1 is greedy.
        data: a state whose data set is meant instead of the train split.
    """

    teacher: Ref
    beam: int = 1
    data: Ref | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if type(self.beam) is not int or self.beam < 1:
            raise UserError(f"beam: {self.beam!r} must be a whole number of 1 or more")

    def describe(self) -> str:
        """The stage in words."""
        how = "greedily" if self.beam == 1 else f"by beam search of {self.beam}"
        return f"{self.teacher} translates the training set {how}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with the data set."""
        from compressbench.training.translating import translated

        return translated(state, bench, self)
