"""Share: weights that take one of a few values of their layer, so that an index stands for each of them on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

START = ("linear", "density", "random")
LOWEST, HIGHEST = 1, 16


@dataclass(frozen=True)
class Share:
    """k-means weight sharing (Han, Mao, Dally 2016, section 3): each weight becomes its cluster's centroid.

    Zeros stay zero and take part in no cluster. The weights compute in float as before, so nothing is faster; what is
    saved are bytes. That weights share values is a property of the tensor, as zeros are: training them further needs
    ``reparametrise: {shared: …}``, or they part again.

    Attributes:
        bits: of an index, 1..16: 2**bits centroids a layer.
        start: centroids at first ``linear`` between the smallest and the largest weight, at equal ``density``, or at
            ``random`` weights.
        iterations: of Lloyd's algorithm at most; it stops when nothing changes.
        layers: own bits, ``{pattern: bits}``, or null for a layer that is left alone; patterns as in ``Prune.rates``.
    """

    bits: int = 5
    start: str = "linear"
    iterations: int = 100
    layers: Mapping[str, Any] = field(default_factory=dict)
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check("bits", self.bits)
        if self.start not in START:
            raise UserError(f"start: unknown {self.start!r}; {nearest(str(self.start), START)}")
        if self.iterations < 0:
            raise UserError(f"iterations: {self.iterations} is below 0")
        for pattern, own in self.layers.items():
            if own is not None:
                _check(f"layers.{pattern}", own)

    def describe(self) -> str:
        """The stage in words."""
        own = "".join(f", {p} {'none' if b is None else b}" for p, b in self.layers.items())
        return f"share weights, {self.bits} bits an index{own}, from {self.start} centroids"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with shared weights."""
        from compressbench.quantizing import sharing

        return sharing.share(state, bench, self)


def _check(name: str, bits: Any) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not LOWEST <= bits <= HIGHEST:
        raise UserError(f"{name}: {bits!r} is not in {LOWEST}..{HIGHEST} bits")
