"""Mixed precision: the loss that each layer's bits alone cost, and bits of all layers that fit a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.quantizing import apply, calibration, ranges
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.stages.quantize import Mixed

FLOAT_BITS = 32
Losses = Mapping[str, Mapping[int, float]]


def mixed(state: State, bench: Bench, settings: Mixed) -> State:
    """Applies a ``stages.quantize.Mixed``; the losses and the bits are among the facts (``sensitivity``, ``bits``).

    Raises:
        UserError: even the fewest bits everywhere are over the budget.
    """
    base, flags = apply.prepared(state, bench, settings.fold)
    everywhere, unfit = apply.bits_by_layer(module_of(base), settings.choices[0], settings.inputs, {})
    sizes = {name: base.weights[f"{name}.weight"].numel() for name in everywhere}
    before, losses = sensitivity(base, bench, settings, list(everywhere))
    chosen = within_budget(sizes, losses, settings.choices, settings.budget)
    bits = {name: (chosen[name], inputs) for name, (_, inputs) in everywhere.items()}
    result = apply.with_bits(state, base, bits, bench, settings, [*flags, *unfit])
    table = {name: {str(b): loss - before for b, loss in row.items()} for name, row in losses.items()}
    return result.with_facts(sensitivity=table, bits=chosen)


def sensitivity(
    base: State, bench: Bench, settings: Mixed, layers: Sequence[str]
) -> tuple[float, dict[str, dict[int, float]]]:
    """(loss of the float net, its loss with only that layer's weights at that many bits), on calibration examples."""
    data = calibration.drawn(bench, settings.split, settings.examples)
    before = calibration.mean_loss(module_of(base, bench.device), bench, data)
    losses: dict[str, dict[int, float]] = {name: {} for name in layers}
    for done, name in enumerate(layers):
        for bits in settings.choices:
            form = {name: {"weight": ranges.weight_form(bits, settings.symmetric, settings.per)}}
            scales = apply.weight_scales(module_of(base), form, settings)
            alone = module_of(apply.with_forms(base, base, form, scales, []), bench.device)
            losses[name][bits] = calibration.mean_loss(alone, bench, data)
        bench.progress.step(done + 1, len(layers))
    return before, losses


def within_budget(
    sizes: Mapping[str, int], losses: Losses, choices: Sequence[int], budget: float
) -> dict[str, int]:
    """Bits by layer: from the most everywhere, the step down that costs least loss a bit saved, until it fits.

    Args:
        sizes: weights of each layer.
        losses: of each layer alone at each choice.
        choices: bits.
        budget: share of the float weights' bits.

    Raises:
        UserError: the fewest bits everywhere are still more.
    """
    steps = sorted(choices, reverse=True)
    limit = budget * FLOAT_BITS * sum(sizes.values())
    if steps[-1] * sum(sizes.values()) > limit:
        raise UserError(
            f"budget: {budget:g} of the float bytes can't be reached with {steps[-1]} bits everywhere, which are "
            f"{steps[-1] / FLOAT_BITS:.3g}"
        )
    at = dict.fromkeys(sizes, 0)

    def price(name: str) -> float:
        now, after = steps[at[name]], steps[at[name] + 1]
        return max(0.0, losses[name][after] - losses[name][now]) / (sizes[name] * (now - after))

    while sum(n * steps[at[name]] for name, n in sizes.items()) > limit:
        able = [name for name in sizes if at[name] + 1 < len(steps)]
        at[min(able, key=lambda name: (price(name), -sizes[name]))] += 1
    return {name: steps[place] for name, place in at.items()}
