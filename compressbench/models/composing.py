"""From states to a composite state, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.exit_criteria.policy import POLICY
from compressbench.inputs import on
from compressbench.masks import masked
from compressbench.models.build import module_of, prunable
from compressbench.models.composite import member_of
from compressbench.models.counting import count
from compressbench.outputs import forward
from compressbench.specs import TARGET
from compressbench.state import State
from compressbench.walking import walk

GROUPS = ("weights", "masks", "scales")


def together(states: Sequence[State], target: str, bench: Bench) -> State:
    """One state of several, each tensor under ``members.N.``; facts are sums.

    Raises:
        UserError: members that answer unlike numbers of classes.
    """
    model = {
        TARGET: target,
        "members": [dict(s.model) for s in states],
        "edits": [[dict(e) for e in s.edits] for s in states],
    }
    tensors = {
        group: {f"members.{k}.{n}": t for k, s in enumerate(states) for n, t in s.group(group).items()}
        for group in GROUPS
    }
    made = State(model=model, tensors={}, facts={}).with_groups(**tensors)
    module = module_of(made)
    sample = on(bench.task.encode(bench.feed("train").head(2)), "cpu")
    with torch.no_grad():
        widths = {forward(m, *sample).logits.shape[1] for m in module.members}  # type: ignore[union-attr]
    if len(widths) > 1:
        raise UserError(
            f"members: they have {', '.join(map(str, sorted(widths)))} outputs; the same classes are wanted"
        )
    counts = count(module, bench.task.blank(1))
    named = prunable(module)
    known = [s.facts for s in states]
    facts = {
        "prunable": {name: p.numel() for name, p in named.items()},
        "drawn": _joined(states, "drawn", {name: p.numel() for name, p in named.items()}),
        "whole": sum(f.get("whole", sum(f["prunable"].values())) for f in known),
        "whole_parameters": sum(f.get("whole_parameters", 0) for f in known) or counts.parameters,
        "forward_macs": counts.macs,
        **{name: sum(f.get(name, 0) for f in known) for name in ("examples", "macs", "seconds")},
        "dtype": "bf16" if any(f.get("dtype") == "bf16" for f in known) else "fp32",
        "flags": list(
            dict.fromkeys([*(flag for f in known for flag in f.get("flags", [])), *_policies(states)])
        ),
    }
    if other := _joined(states, "left_alone", {}):
        facts["left_alone"] = other
    return masked(made.with_facts(**facts), made.masks)


def taken(state: State, place: int, bench: Bench) -> State:
    """A member with facts of its own size; cost and flags stay the composite's.

    Raises:
        UserError: see ``member_of``.
    """
    alone = member_of(state, place)
    module = module_of(alone)
    counts, named = count(module, bench.task.blank(1)), prunable(module)
    sizes = {name: p.numel() for name, p in named.items()}
    prefix = f"members.{place}."
    drawn = state.facts.get("drawn", {})
    own = {n.removeprefix(prefix): size for n, size in drawn.items() if n.startswith(prefix)} or sizes
    kept = {k: state.facts[k] for k in ("examples", "macs", "seconds", "flags", "dtype") if k in state.facts}
    facts: dict[str, Any] = {
        **kept,
        "prunable": sizes,
        "drawn": own,
        "whole": sum(own.values()),
        "whole_parameters": counts.parameters + sum(own.values()) - sum(sizes.values()),
        "forward_macs": counts.macs,
    }
    other = {
        n.removeprefix(prefix): size
        for n, size in state.facts.get("left_alone", {}).items()
        if n.startswith(prefix)
    }
    if other:
        facts["left_alone"] = other
    return masked(State(alone.model, alone.tensors, alone.edits, facts=facts), alone.masks)


def best(state: State, bench: Bench) -> int:
    """The member that is right most often on the validation split, the first of equals.

    Raises:
        UserError: the data set has no validation split.
    """
    if "validation" not in bench.dataset.splits:
        raise UserError(
            "member: the best is chosen on the validation split, and none was held out; name a place"
        )
    task, scores = bench.task, []
    for place in range(len(state.model.get("members", ()))):
        module = module_of(member_of(state, place), bench.device)
        right = 0
        with torch.no_grad():
            for _, batch in walk(bench.task, bench.feed("validation"), 256):
                answers = task.answers(forward(module, *task.encode(batch)))
                right += int(task.right(answers, batch.labels).sum())
        scores.append(right)
    if not scores:
        member_of(state, 0)
    return scores.index(max(scores))


def _policies(states: Sequence[State]) -> list[str]:
    lost = [str(k) for k, s in enumerate(states) if POLICY in s.policies]
    return (
        [f"members {', '.join(lost)} answer by their last exit here: their policies are left out"]
        if lost
        else []
    )


def _joined(states: Sequence[State], fact: str, otherwise: dict[str, int]) -> dict[str, int]:
    found = {f"members.{k}.{n}": v for k, s in enumerate(states) for n, v in s.facts.get(fact, {}).items()}
    return found or otherwise
