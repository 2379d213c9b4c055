"""A measured state with its figures, as limits and advice judge it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from compressbench.declared import METRICS, Declared

FIGURES: Mapping[str, Declared] = {
    "accuracy": METRICS["top1"],
    "loyalty": METRICS["label_loyalty"],
    "latency": METRICS["latency_b#"],
    "bytes": METRICS["dense_bytes"],
    "drop": Declared("Below dense", "points", -1),
    "class drop": Declared("Below dense, of the class that loses most", "points", -1),
}
ENCODED = {
    "dense_bytes": "dense, as safetensors",
    "sparse_bytes": "zeros left out",
    "quantized_bytes": "integers at their bits",
    "huffman_bytes": "Huffman-coded",
}
OWN = tuple(words for metric, words in ENCODED.items() if metric != "dense_bytes")
"""Encodings of compressbench's own, of which no exporter writes a file."""


@dataclass(frozen=True)
class Figure:
    """One figure of one state, a value a seed.

    Attributes:
        by_seed: seed -> value.
        within: seed -> the ends of its 95 % interval, where one is known; of what is exact, the value twice.
        bases: seed -> (what its latency may be compared with: those of the same name; that one's latency).
        why: seed -> why it has no value.
        words: what its bytes are of.
        bare: seeds whose latency is a point, no interval of it being known.
        own: seed -> the latency that was timed itself, undisturbed, where the value is derived from another's.
        elsewhere: whether it was measured elsewhere: seeds that nobody timed there are then no gap.
    """

    by_seed: Mapping[int, float]
    within: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    bases: Mapping[int, tuple[str, float]] = field(default_factory=dict)
    why: Mapping[int, str] = field(default_factory=dict)
    words: str = ""
    bare: frozenset[int] = frozenset()
    own: Mapping[int, float] = field(default_factory=dict)
    elsewhere: bool = False

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than three, which say little of it."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 2 else None

    @property
    def span(self) -> tuple[float, float] | None:
        """From the lowest to the highest of all seeds and their intervals; None where one value is all that is known."""
        ends = [self.within.get(seed, (value, value)) for seed, value in self.by_seed.items()]
        if not ends or (len(ends) == 1 and not self.within):
            return None
        return min(low for low, _ in ends), max(high for _, high in ends)


NONE = Figure({})


@dataclass(frozen=True)
class Choice:
    """One state of one series, with its figures.

    Attributes:
        name: series, and the state where a series has several.
        state: its name in the recipe.
        figures: of ``FIGURES`` those that there are.
        seeds: that its setting was run with; a figure is wanted for each.
        basis: of the latency, ``measured`` or ``modelled``.
        series: that the state is of.
        keys: seed -> content address of the state.
    """

    name: str
    recipe: str
    state: str
    figures: Mapping[str, Figure]
    seeds: tuple[int, ...]
    basis: str = ""
    series: str = ""
    keys: Mapping[int, str] = field(default_factory=dict)

    def figure(self, name: str) -> Figure:
        return self.figures.get(name, NONE)

    @property
    def known(self) -> tuple[str, ...]:
        """Figures of which there is a value."""
        return tuple(name for name, figure in self.figures.items() if figure.by_seed)
