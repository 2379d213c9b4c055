"""What a stage left behind: a policy, scales or shared values that are of the net as it was before it, said as flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from compressbench.hardware.coding import index_bits
from compressbench.models.exit_policies import outlived
from compressbench.state import State

STALE = "its scales were set before this, and stay: "
LOST = "its weights share values no longer: "
SHOWN = 3
A_FEW = 8
"""Bits of an index below which no file of half precision is suspected."""
SAMPLE = 4096


def checked(before: State | None, after: State) -> State:
    """The state after a stage with its density as it is, and flags for what was lost or left behind in it."""
    return with_density(unshared(before, outdated(before, outlived(before, after))))


def with_density(state: State) -> State:
    """The share of the weights of the net as drawn that aren't zero, masked or not; 1 of what has none, as a forest."""
    facts = state.facts
    other = facts.get("left_alone", {})  # of the net as drawn, like "whole"
    named = {**facts.get("prunable", {}), **other}
    left = sum(int(state.weights[name].count_nonzero()) for name in named if name in state.weights)
    whole = facts["whole"] + sum(other.values()) if "whole" in facts else sum(named.values())
    density = left / whole if whole else 1.0  # nothing in it can be pruned: it is whole
    return state if density == facts.get("density") else state.with_facts(density=density)


def outdated(before: State | None, after: State) -> State:
    """Flagged where scales that were there before stand for weights, or inputs, that are others now."""
    scales = after.group("scales")
    if before is None or not scales or not before.group("scales"):
        return after
    if _edits(after) != _edits(before) or _renewed(before.group("scales"), scales):
        return _without(after, STALE)
    if after.edits == before.edits and not _changed(before, after):
        return after
    spans = list(_spans(after))
    ratio = (
        f"weights span {min(spans):.2g} to {max(spans):.2g} of what they hold"
        if spans
        else "inputs are others"
    )
    words = f"{STALE}{ratio}; quantize anew, or train with reparametrise: qat"
    return _flagged(_without(after, STALE), words)


def unshared(before: State | None, after: State) -> State:
    """Flagged where tensors whose weights shared a few values don't share them any more."""
    if before is None:
        return after
    changed = _changed(before, after)
    lost = [
        name
        for name in changed
        if name in after.facts.get("prunable", {})
        and (bits := _shared(before.weights[name])) is not None
        and bool(after.weights[name].any())
        and ((now := _shared(after.weights[name])) is None or now > bits)
    ]
    earlier = [n for n in after.facts.get("unshared", []) if not (n in changed and _shares(after, n))]
    names = list(dict.fromkeys([*earlier, *lost]))
    if names == after.facts.get("unshared", []):
        return after
    plain = _without(after, LOST).with_facts(unshared=names)
    if not names:
        return plain
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    words = f"{LOST}{', '.join(names[:SHOWN])}{more}; train with reparametrise: shared, or share anew"
    return _flagged(plain, words)


def _shares(state: State, name: str) -> bool:
    """Whether a weight takes few values now, or none but zero."""
    weight = state.weights[name]
    return not bool(weight.any()) or _shared(weight) is not None


def _edits(state: State) -> list[Any]:
    return [edit["quantize"] for edit in state.edits if "quantize" in edit]


def _renewed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Whether scales moved; those of channels that went are no others."""
    same = [n for n, t in after.items() if n in before and before[n].shape == t.shape]
    return any(not torch.equal(before[n], after[n]) for n in same)


def _changed(before: State, after: State) -> list[str]:
    """Names of weights that both have, and that aren't what they were."""
    old = before.weights
    return [
        n
        for n, t in after.weights.items()
        if n in old and not (old[n].shape == t.shape and torch.equal(old[n], t))
    ]


def _spans(state: State) -> Iterator[float]:
    """For each scale of a weight: how far its weights reach, of how far its integers do."""
    forms: dict[str, Any] = {}
    for edit in _edits(state):
        forms |= edit
    for name, own in forms.items():
        form, weight = own.get("weight"), state.weights.get(f"{name}.weight")
        scale, zero = (state.group("scales").get(f"{name}.weight|{entry}") for entry in ("scale", "zero"))
        if not form or weight is None or scale is None or zero is None:
            continue
        rows = weight.flatten(1) if scale.ndim else weight.reshape(1, -1)
        if len(rows) != scale.numel():
            continue
        ends = [((form[end] - zero) * scale).reshape(-1).abs() for end in ("low", "high")]
        reach = [rows.amin(1).clamp(max=0).abs(), rows.amax(1).clamp(min=0)]
        held = torch.stack([r / e for r, e in zip(reach, ends, strict=True)]).nan_to_num(0, posinf=0).amax(0)
        yield from held[rows.any(1)].tolist()


def _shared(tensor: Tensor) -> int | None:
    """Bits of an index into a tensor's values; None where it shares none. A sample tells most that don't."""
    flat = tensor.reshape(-1)
    if flat.numel() > 16 * SAMPLE:
        some = flat[:: flat.numel() // SAMPLE]
        some = some[some != 0]
        if len(some) > 64 and len(some.unique()) > 0.99 * len(some):
            return None
    bits = index_bits(tensor)
    return None if bits is not None and bits > A_FEW and _halved(tensor) else bits


def _halved(tensor: Tensor) -> bool:
    """Whether all values are such as 16 bits hold: of a file in half precision, which shares nothing on purpose."""
    return any(
        torch.equal(tensor.to(kind).to(tensor.dtype), tensor) for kind in (torch.float16, torch.bfloat16)
    )


def _flagged(state: State, words: str) -> State:
    return state.with_facts(flags=[*state.facts.get("flags", []), words])


def _without(state: State, start: str) -> State:
    """Without flags that begin so: what they said holds no longer, or is said anew."""
    flags: Iterable[str] = state.facts.get("flags", [])
    kept = [flag for flag in flags if not flag.startswith(start)]
    return state if kept == list(flags) else state.with_facts(flags=kept)
