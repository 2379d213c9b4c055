"""States and the stages that make them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressbench.bench import Bench
from compressbench.checking.traces import Unfit, blind, differs, twice, unchanged
from compressbench.models.build import module_of
from compressbench.outputs import forward
from compressbench.runs.flags import checked
from compressbench.state import State
from compressbench.store import Store

ROUND = "round trip"


def check_stage(stage: Any, before: State | None, bench: Bench, folder: Path) -> State:
    """What a stage makes of a state, made twice, and brought back from a store below ``folder``.

    Args:
        bench: with the references that the stage's settings name.

    Raises:
        Unfit: it is no stage; it prints, reads test examples, changes what it is given, can't be repeated; or what it
            makes is no sound state.
    """
    if not callable(getattr(stage, "apply", None)):
        raise Unfit(f"{type(stage).__name__} has no apply(state, bench); a stage maps a state to the next")
    check_words(stage)
    made = {"its input": before, **{f"reference {n}": s for n, s in bench.references.items()}}

    def applied() -> State:
        with blind(bench) as place, unchanged(**made), unchanged(data=dict(bench.dataset.splits)):
            found = stage.apply(before, place)
        check_state(found)
        return checked(before, found)

    after = twice(applied, "bench.generator('…')", states_differ)
    check_stored(after, folder)
    with torch.no_grad():
        logits = forward(module_of(after), *bench.task.blank(2)).logits
    if not torch.isfinite(logits).all():
        raise Unfit("the net that it makes answers nothing finite to a blank example")
    return after


def check_words(stage: Any) -> None:
    """A stage's own words.

    Raises:
        Unfit: ``describe`` gives no line of text.
    """
    said = stage.describe() if hasattr(stage, "describe") else "nothing to say"
    if not isinstance(said, str) or not said.strip() or "\n" in said:
        raise Unfit(f"describe() gives {said!r}; one line of text is wanted, for the plan")


def states_differ(one: State, other: State) -> str:
    """Where two states differ, but for the seconds that making them took; empty where they don't."""
    names = ("tensors", "model", "edits", "policies", "facts")
    pair = [{n: getattr(s, n) for n in names} for s in (one, other)]
    first, second = ({**p, "facts": {k: v for k, v in p["facts"].items() if k != "seconds"}} for p in pair)
    return differs(first, second)


def check_state(state: Any) -> None:
    """That a state is sound: tensors on the CPU, weights finite, pruned ones zero, the rest JSON, and a net made of it.

    Raises:
        Unfit: the first fault.
    """
    if not isinstance(state, State):
        raise Unfit(
            f"apply returned {type(state).__name__}; a State is wanted, e.g. state.with_groups(weights=…)"
        )
    for group, named in state.tensors.items():
        for name, tensor in named.items():
            _check_tensor(tensor, f"{group}: {name}")
    for name, weight in state.weights.items():
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            bad = int((~torch.isfinite(weight)).sum())
            raise Unfit(f"weights: {name} holds {bad} of {weight.numel()} values that are not finite")
    for name, mask in state.masks.items():
        check_mask(name, mask, state.weights)
    for part in ("model", "edits", "policies", "facts"):
        check_json(getattr(state, part), part)
    lacking = [n for n in state.facts.get("prunable", {}) if n not in state.weights]
    if lacking:
        raise Unfit(f"facts['prunable'] names {lacking[0]}, which is no weight (any more)")
    rebuilt = module_of(state).state_dict()
    if found := next((n for n, t in rebuilt.items() if differs(t, state.weights[n])), ""):
        raise Unfit(
            f"weights: {found} is another in the net that is built of the state; where a mask is False it is 0"
        )


def check_mask(name: str, mask: Tensor, weights: Mapping[str, Tensor]) -> None:
    """That a mask holds.

    Raises:
        Unfit: it is no bool tensor of its weight's shape, or a weight where it is False is not 0.
    """
    weight = weights.get(name)
    if weight is None:
        raise Unfit(f"masks: {name} is no weight; known: {', '.join(list(weights)[:4])} …")
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise Unfit(
            f"masks: {name} is {mask.dtype} of shape {tuple(mask.shape)}; torch.bool of {tuple(weight.shape)} is wanted"
        )
    if bool(weight[~mask].any()):
        count = int(weight[~mask].count_nonzero())
        raise Unfit(
            f"masks: {name} has {count} weights that aren't 0 where the mask is False; "
            "compressbench.pruning.masked(state, masks) applies masks"
        )


def _check_tensor(tensor: Any, where: str) -> None:
    if not isinstance(tensor, Tensor):
        raise Unfit(
            f"{where} is a {type(tensor).__name__}; tensors are wanted, figures go into state.with_facts(…)"
        )
    if tensor.device.type != "cpu":
        raise Unfit(f"{where} is on {tensor.device}; a state's tensors are on the CPU: .cpu()")
    if tensor.requires_grad:
        raise Unfit(f"{where} requires a gradient; .detach() it, a state is data")


def check_json(value: Any, where: str) -> None:
    """That a value is what JSON can hold, and comes back as it was but for tuples.

    Raises:
        Unfit: naming the place.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise Unfit(f"{where}: the name {name!r} is no text; JSON has no others")
            check_json(inner, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            check_json(inner, f"{where}[{place}]")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise Unfit(
            f"{where} is a {type(value).__name__}; facts, policies and edits are plain data: float(x), x.tolist()"
        )


def check_stored(state: State, folder: Path) -> None:
    """That a state comes back from a store as it was.

    Raises:
        Unfit: it can't be written, or comes back another.
    """
    store = Store(folder / "store")
    try:
        store.save(ROUND, state, {})
        back = store.load(ROUND)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Unfit(f"the state can't be stored: {str(error).splitlines()[0]}") from error
    assert back is not None
    first, second = (_as_stored(s) for s in (state, back))
    if found := differs(first, second):
        raise Unfit(f"the state comes back from the store another: {found}")


def _as_stored(state: State) -> dict[str, Any]:
    """What a store keeps of a state, its names sorted and its plain data as JSON gives it back."""
    parts = ("model", "edits", "policies", "facts")
    tensors = {group: dict(sorted(named.items())) for group, named in sorted(state.tensors.items()) if named}
    return {
        "tensors": tensors,
        **{p: json.loads(json.dumps(getattr(state, p), sort_keys=True)) for p in parts},
    }
