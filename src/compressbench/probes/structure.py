"""Structure: how many weights are left, of which, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.bench import Bench
    from compressbench.views import View


SHOWN = 6


@dataclass(frozen=True)
class Structure:
    """Parameters, density by both denominators in use, density per layer, emptied layers.

    Prunable weights are those of convolutions and linear layers. ``density`` is the share of them that is not
    zero, ``density_all`` the share of all parameters: papers quote either. All densities count against the
    net as it was drawn, so that a removed channel counts like one at zero. ``weight_bits`` are the bits of the
    integers (or floats) that a prunable weight computes as, or of the index of one that shares its value, on average;
    32 in a net that is neither quantized nor shared.
    """

    VERSION: ClassVar[int] = (
        5  # 2: removed channels count; 3: bits; 4: bits of shared weights; 5: layers in float
    )

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject's own module."""
        from compressbench.models.build import prunable

        weights = prunable(subject.module)
        total, left = parameters(subject)
        sizes = {name: w.numel() for name, w in weights.items()}
        kept = {name: int(w.count_nonzero()) for name, w in weights.items()}
        size, nonzero = sum(sizes.values()), sum(kept.values())
        facts = subject.state.facts
        yield Metric("parameters", total, "1", "theoretical")
        yield Metric("prunable", size, "1", "theoretical")
        yield Metric("nonzero", nonzero, "1", "theoretical", note="of the prunable weights")
        yield _share("density", nonzero, facts.get("whole", size), "of the prunable weights")
        yield _share("density_all", left, facts.get("whole_parameters", total), "of all parameters")
        yield from _bits(subject.module, weights)
        for name, count in facts.get("drawn", sizes).items():
            yield _share(
                "layer_density", kept.get(name, 0), count, "" if name in kept else "removed", group=name
            )
        empty = [name for name in sizes if not kept[name]]
        note = f"flagged: {', '.join(empty)}" if empty else ""
        yield Metric("empty_layers", len(empty), "1", "theoretical", note=note)


def _bits(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterable[Metric]:
    from compressbench.hardware.coding import index_bits
    from compressbench.models.quantized import bits_of

    sizes = {name: w.numel() for name, w in weights.items()}
    bits = {name: bits_of(module, name.removesuffix("weight").removesuffix(".")) for name in sizes}
    held = {n: (index_bits(weights[n]) or 32) if own == 32 else own for n, (own, _) in bits.items()}
    mean = sum(count * held[name] for name, count in sizes.items()) / max(1, sum(sizes.values()))
    note = "mean of the prunable weights, scales not counted"
    left = [name.removesuffix(".weight") for name, own in held.items() if own == 32]
    if 0 < len(left) < len(held):
        note += f"; in float: {', '.join(left[:SHOWN])}{f' and {len(left) - SHOWN} more' if len(left) > SHOWN else ''}"
    yield Metric("weight_bits", mean, "bits", "theoretical", note=note)
    inputs = [b for _, b in bits.values()]
    mean_inputs = sum(inputs) / max(1, len(inputs))
    yield Metric("input_bits", mean_inputs, "bits", "theoretical", note="mean of the layers' inputs")


def parameters(view: View) -> tuple[int, int]:
    """All parameters of a state's module, and how many of them aren't zero."""
    own = list(view.module.parameters())
    return sum(p.numel() for p in own), sum(int(p.count_nonzero()) for p in own)


def _share(name: str, part: int, whole: int, note: str, group: str = "") -> Metric:
    if not whole:
        return Metric(name, None, "%", "theoretical", group=group, note="there are none")
    return Metric(name, 100 * part / whole, "%", "theoretical", group=group, note=note)
