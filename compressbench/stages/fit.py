"""Stages that fit without a gradient: a read-out and kernel ridge regression in closed form, a forest of trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.specs import Positive, Ref, check_fields
from compressbench.stages import kernels

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State


@dataclass(frozen=True)
class Ridge:
    """The last layer solved for by ridge regression; all before it stays as it is, random where it was never trained.

    Of features f (what the last layer reads) and targets y (1 for the class, 0 for the others) it minimises
    ``mean ||W f + b - y||^2 + penalty v ||W||^2``, where v is the features' mean variance, so that a penalty means the
    same whatever the features' size and number. The penalty is the one of most right answers on the validation split
    (of several the largest). Scores are then multiplied by the one number of the least negative log-likelihood there,
    so that probabilities mean something; no answer changes by it. Test examples choose nothing.

    Attributes:
        penalties: those tried, all above 0.
    """

    penalties: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.penalties:
            raise UserError("penalties: at least one is needed")
        for penalty in self.penalties:
            if not penalty > 0:
                raise UserError(f"penalties: {penalty!r} is not above 0")

    def describe(self) -> str:
        """The stage in words."""
        low, high = min(self.penalties), max(self.penalties)
        tried = f"penalty {low:g}" if low == high else f"penalty of {low:g} to {high:g} by validation"
        return f"last layer by ridge regression, {tried}; all before it stays"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with another last layer."""
        from compressbench.training.readout import fitted

        return fitted(state, bench, self)


@dataclass(frozen=True)
class Forest:
    """A random forest (Breiman 2001), grown by scikit-learn on the train split's encoded inputs, kept as tensors.

    Each tree sees a bootstrap sample, and a random choice of the square root of the inputs at each split. A forest of
    fewer trees is the beginning of one of more, where ``draw`` is the same.

    Attributes:
        trees: how many.
        depth: of a tree at most; null until leaves are pure.
        least: training examples in a leaf at least.
        draw: name that, with the seed, draws samples and splits.
    """

    trees: int
    depth: int | None = None
    least: int = 1
    draw: str = "forest"
    BEGINS: ClassVar[bool] = True
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name, value in (("trees", self.trees), ("least", self.least), ("depth", self.depth)):
            if value is not None and value < 1:
                raise UserError(f"{name}: {value} is below 1")

    def describe(self) -> str:
        """The stage in words."""
        deep = "" if self.depth is None else f" of depth {self.depth} at most"
        return f"random forest, {self.trees} tree{'s' if self.trees > 1 else ''}{deep}"

    def apply(self, state: State | None, bench: Bench) -> State:
        """The new state; what came before is left behind."""
        from compressbench.training.growing import grown

        return grown(bench, self)


@dataclass(frozen=True)
class KernelRidge:
    """Kernel ridge regression on the pictures of a state, solved at once: support points and coefficients as a net.

    Attributes:
        data: the state that carries the pictures, at most 5,000.
        kernel: see ``models.kernels``.
        regulariser: added to the kernel's diagonal, relative to its mean.
    """

    data: Ref
    kernel: Mapping[str, Any]
    regulariser: Positive = 1e-6
    BEGINS: ClassVar[bool] = True
    VERSION: ClassVar[int] = 2  # 2: counts what it costs

    def __post_init__(self) -> None:
        check_fields(self)
        kernels.check(self.kernel)

    def describe(self) -> str:
        """The stage in words."""
        return f"kernel ridge regression ({kernels.in_words(self.kernel)}) on the pictures of {self.data}"

    def apply(self, state: State | None, bench: Bench) -> State:
        """The new state; what came before is left behind."""
        from compressbench.condensing.inducing import ridge

        return ridge(bench, self)
