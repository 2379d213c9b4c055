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
FLOAT = 32


@dataclass(frozen=True)
class Structure:
    """Parameters, density by both denominators in use, density per layer, emptied layers.

    Prunable weights are those of convolutions and linear layers. ``density`` is the share of them, and of all other
    parameters of two or more dimensions (``models.build.left_alone``: recurrent layers, embeddings, a user's own), that
    is not zero, ``density_all`` the share of all parameters: papers quote either. All densities count against the
    net as it was drawn, so that a removed channel counts like one at zero. ``weight_bits`` are the bits of the
    integers (or floats) that such a weight computes as, or of the index of one that shares its value, on average;
    32 in a net of float32 that is neither quantized nor shared. What is left dense and in float is named in the notes.
    """

    VERSION: ClassVar[int] = (
        5  # 2: removed channels count; 3: bits; 4: bits of shared weights; 5: layers in float
    )

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject's own module."""
        from compressbench.models.build import left_alone, prunable

        weights, other = prunable(subject.module), left_alone(subject.module)
        total, left = parameters(subject)
        sizes = {name: w.numel() for name, w in weights.items()}
        kept = {name: int(w.count_nonzero()) for name, w in weights.items()}
        size, nonzero = sum(sizes.values()), sum(kept.values())
        facts = subject.state.facts
        yield Metric("parameters", total, "1", "theoretical")
        yield Metric("prunable", size, "1", "theoretical")
        yield Metric("nonzero", nonzero, "1", "theoretical", note="of the prunable weights")
        yield _density(nonzero, facts.get("whole", size), other, facts.get("left_alone"))
        yield _share("density_all", left, facts.get("whole_parameters", total), "of all parameters")
        yield from _bits(subject.module, weights, other)
        for name, count in facts.get("drawn", sizes).items():
            yield _share(
                "layer_density", kept.get(name, 0), count, "" if name in kept else "removed", group=name
            )
        empty = [name for name in sizes if not kept[name]]
        note = f"flagged: {', '.join(empty)}" if empty else ""
        yield Metric("empty_layers", len(empty), "1", "theoretical", note=note)


def _density(
    nonzero: int, whole: int, other: Mapping[str, Tensor], drawn: Mapping[str, int] | None
) -> Metric:
    """Of the prunable weights and those that no layer owns; ``drawn``: the sizes of these in the net as it was drawn."""
    from compressbench.models.build import shortened

    if not other:
        return _share("density", nonzero, whole, "of the prunable weights")
    sizes = {name: w.numel() for name, w in other.items()}
    size = sum((drawn or sizes).values())
    kept = sum(int(w.count_nonzero()) for w in other.values())
    note = f"of the weights of two or more dimensions; left dense: {shortened(other, SHOWN)}, "
    note += f"{100 * size / (whole + size):.3g} % of them"
    return _share("density", nonzero + kept, whole + size, note)


def _bits(module: nn.Module, weights: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterable[Metric]:
    from compressbench.hardware.coding import index_bits
    from compressbench.models.build import shortened
    from compressbench.models.quantized import quantized

    everything = {**weights, **other}
    plain = {name: 8 * w.element_size() for name, w in everything.items()}
    bits = {name: _layer_bits(module, name, plain[name]) for name in weights}
    coded = {} if getattr(module, "rounded_by_none", False) else weights
    shared = {name: index_bits(w) for name, w in coded.items() if bits[name][0] == plain[name]}
    held = {**plain, **{name: shared.get(name) or own for name, (own, _) in bits.items()}}
    rounding = quantized(module)
    tables = [name for name in other if name.removesuffix(".weight") in rounding]
    held |= {name: _layer_bits(module, name, plain[name])[0] for name in tables}
    size = sum(w.numel() for w in everything.values())
    if not size:  # as of a forest
        yield Metric("weight_bits", None, "bits", "theoretical", note="there are none")
        return
    mean = sum(w.numel() * held[name] for name, w in everything.items()) / size
    what = "weights of two or more dimensions" if other else "prunable weights"
    note = f"mean of the {what}, scales not counted"
    left = [name.removesuffix(".weight") for name in held if held[name] == plain[name]]
    if 0 < len(left) < len(held):
        note += f"; in float: {shortened(left, SHOWN)}"
    yield Metric("weight_bits", mean, "bits", "theoretical", note=note)
    inputs = [b for _, b in bits.values()]
    mean_inputs = sum(inputs) / max(1, len(inputs))
    yield Metric("input_bits", mean_inputs, "bits", "theoretical", note="mean of the layers' inputs")


def _layer_bits(module: nn.Module, weight: str, plain: int) -> tuple[int, int]:
    """Bits of a layer's weight and inputs; those of the weight's own type where they are float."""
    from compressbench.models.quantized import bits_of

    own, inputs = bits_of(module, weight.removesuffix("weight").removesuffix("."))
    return plain if own == FLOAT else own, plain if inputs == FLOAT else inputs


def parameters(view: View) -> tuple[int, int]:
    """All parameters of a state's module, and how many of them aren't zero."""
    from compressbench.models.theseus import idle

    beside = idle(view.module)
    own = [p for p in view.module.parameters() if id(p) not in beside]
    return sum(p.numel() for p in own), sum(int(p.count_nonzero()) for p in own)


def _share(name: str, part: int, whole: int, note: str, group: str = "") -> Metric:
    if not whole:
        return Metric(name, None, "%", "theoretical", group=group, note="there are none")
    return Metric(name, 100 * part / whole, "%", "theoretical", group=group, note=note)
