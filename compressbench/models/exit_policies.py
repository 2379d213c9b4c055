"""Exits put on a state, and the policy by which examples leave them, chosen on the validation split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench import specs
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.exit_criteria.policy import POLICY, Policy, assigned, everything, taken
from compressbench.masks import masked
from compressbench.metrics import hits
from compressbench.models.build import module_of, prunable, snapshot
from compressbench.models.counting import count, of_exits
from compressbench.models.cutting import replay
from compressbench.models.exits import DTYPES, check, parts_of, places, prepared_parts, trainable
from compressbench.seeds import derive_seed
from compressbench.state import State
from compressbench.walking import put_back, walk

if TYPE_CHECKING:
    from compressbench.stages.exits import Attach, Choose

BATCH = 64
CANDIDATES = 512
STREAK = "Streak"
KEPT = "its exits' policy was chosen before this, and its thresholds stay: choose anew for the same budget"
GONE = "its exits' policy was chosen for other weights, and is gone: choose anew"
GOLDEN = (math.sqrt(5) - 1) / 2


def with_exits(state: State, bench: Bench, settings: Attach) -> State:
    """Applies a ``stages.exits.Attach``.

    Raises:
        UserError: a point that isn't there, is no cut or lies after the output layer; a head that doesn't fit.
    """
    module, task = module_of(state), bench.task
    if hasattr(module, "parts"):
        raise UserError("exits: the net has exits already, or is a cascade")
    sample = task.blank(2)
    found = places(module, settings.points, settings.side, sample)
    head, classes = settings.head, len(bench.task.classes)
    points = {
        point: {
            **{k: v for k, v in head.items() if k != specs.PARTIAL},
            "shape": list(value.shape[1:]),
            "classes": classes,
        }
        for point, value in found.items()
    }
    content: dict[str, Any] = {"points": points, "side": list(settings.side)}
    if len(sample) > 1:
        content["inputs"] = len(sample)
    names = {dtype: name for name, dtype in DTYPES.items()}
    if own := {p: names[value.dtype] for p, value in found.items() if value.dtype in names}:
        content["dtypes"] = own
    edit = {"exits": content}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(bench.seed, bench.name))
        module = replay(module, [edit]).eval()
    check(module, task.drawn(3, torch.Generator().manual_seed(0)))
    trainable(module, task.drawn(4, torch.Generator().manual_seed(0)))
    named, counts = prunable(module), count(module, task.blank(1))
    drawn = state.facts.get("drawn", {})
    fresh = {n: p.numel() for n, p in named.items() if n.startswith("exits.")}
    weights = snapshot(module)
    new = replace(state.settled(), edits=(*state.edits, edit), key="").with_groups(weights=weights)
    more = sum(p.numel() for n, p in module.named_parameters() if n.startswith("exits."))
    new = new.with_facts(
        prunable={n: p.numel() for n, p in named.items()},
        drawn={**drawn, **fresh},
        whole=state.facts["whole"] + sum(fresh.values()),
        whole_parameters=state.facts["whole_parameters"] + more,
        forward_macs=counts.macs,
    )
    return masked(new, new.masks)


def with_policy(state: State, bench: Bench, settings: Choose) -> State:
    """Applies a ``stages.exits.Choose``.

    Raises:
        UserError: no exits, no validation split, or a budget below what the first exit costs.
    """
    if "validation" not in bench.dataset.splits:
        raise UserError("exits are chosen on the validation split, and none was held out")
    module = module_of(state, bench.device)
    sample = bench.task.encode(bench.feed("train").head(8))
    logits, labels = answers(prepared_parts(module, *sample), bench, "validation")
    exits = len(logits) - 1
    costs = of_exits(parts_of(module), bench.task.blank(1))
    heats = [temperature(t, labels) if settings.calibrate else 1.0 for t in logits[:-1]]
    criterion = specs.build(settings.criterion, "criterion")
    policy = Policy(criterion, (math.inf,) * exits, tuple(heats))
    if settings.threshold is not None:
        given = settings.thresholds if len(settings.thresholds) > 1 else settings.thresholds * exits
        if len(given) != exits:
            raise UserError(f"threshold: {len(given)} numbers for {exits} exits before the last")
        policy = replace(policy, thresholds=tuple(map(float, given)))
    else:
        sure = sureness(policy, logits)
        if settings.says == STREAK:
            sure = sure.where(sure >= 1, -math.inf)  # a streak of 0 would let everybody leave at once
        if settings.budget is not None:
            found = within_budget(sure, costs, settings.budget, settings.shared)
        else:
            assert settings.accuracy is not None
            found = within_loss(sure, logits, labels, costs, settings.accuracy)
        policy = replace(policy, thresholds=found)
    where = assigned(policy, logits)
    share = torch.bincount(where, minlength=exits + 1).double() / len(where)
    flags = _of_others(state)
    if not bool((where < exits).any()):
        patience = settings.says == STREAK and math.isfinite(min(policy.thresholds))
        flags.append(
            f"patience {min(policy.thresholds):g} with {exits + 1} exits means never: every example "
            "goes to the last one"
            if patience
            else "no validation example leaves early by this policy"
        )
    policies = {**state.policies, **policy.spec(settings.criterion)}
    return replace(state.settled(), policies=policies, key="").with_facts(
        flags=flags,
        exit_macs=costs,
        exit_shares=[round(float(s), 6) for s in share],
        exit_validation_top1=100 * float(hits(taken(logits, where), labels).double().mean()),
    )


def outlived(before: State | None, after: State) -> State:
    """The state after a stage, flagged where the policy of its exits was chosen for the net as it was before."""
    flags = after.facts.get("flags", [])
    if before is None or POLICY not in after.policies or after.policies != before.policies or KEPT in flags:
        return after
    weights = before.weights
    same = after.edits == before.edits and weights.keys() == after.weights.keys()
    if same and all(torch.equal(tensor, weights[name]) for name, tensor in after.weights.items()):
        return after
    return after.with_facts(flags=[*flags, KEPT])


def without_policy(state: State) -> State:
    """The state without its exits' policy, flagged; what has none is as it was.

    A policy was chosen for the weights of then: stages that put others in their place call this.
    """
    if POLICY not in state.policies:
        return state
    flags = [*_of_others(state), GONE]
    policies = {k: v for k, v in state.policies.items() if k != POLICY}
    return replace(state, policies=policies, key="").with_facts(flags=flags)


def _of_others(state: State) -> list[str]:
    """A state's flags but for those of a policy that it had: they hold no longer once that is gone, or chosen anew."""
    return [flag for flag in state.facts.get("flags", []) if flag not in (KEPT, GONE)]


def answers(parts: Sequence[Any], bench: Bench, split: str) -> tuple[list[Tensor], Tensor]:
    """(every exit's logits, labels) of a split on the CPU; nobody leaves."""
    if bench.feed(split).labels.ndim != 1:
        raise UserError(
            "an exit policy is of one class an example, and the task has several labels an example"
        )
    found: list[list[Tensor]] = [[] for _ in parts]
    rows, labels = [], []
    with torch.inference_mode():
        for places, batch in walk(bench.task, bench.feed(split), BATCH):
            rows.append(places)
            for place, logits in enumerate(everything(parts, *bench.task.encode(batch))):
                found[place].append(logits.float().cpu())
            labels.append(batch.labels.cpu())
    return [put_back(rows, x) for x in found], put_back(rows, labels)


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The T that makes logits / T likeliest (Guo et al., ICML 2017), to three digits, in [0.05, 20]."""
    known = labels >= 0
    logits, labels = logits[known].double(), labels[known]
    if not len(labels):
        return 1.0
    low, high = math.log(0.05), math.log(20)

    def loss(t: float) -> float:
        return float(F.cross_entropy(logits / math.exp(t), labels))

    one, two = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    first, second = loss(one), loss(two)
    while high - low > 1e-3:
        if first <= second:
            high, two, second = two, one, first
            one = high - GOLDEN * (high - low)
            first = loss(one)
        else:
            low, one, first = one, two, second
            two = low + GOLDEN * (high - low)
            second = loss(two)
    return float(f"{math.exp((low + high) / 2):.3g}")


def sureness(policy: Policy, logits: Sequence[Tensor]) -> Tensor:
    """(n, exits but the last): what the criterion says at each."""
    judged = [policy.calibrated(k, t) for k, t in enumerate(logits[:-1])]
    found = [policy.sure(t, tuple(judged[:k])) for k, t in enumerate(judged)]
    return torch.stack([f.double() for f in found], dim=1)


def _leaving(sure: Tensor, threshold: float) -> Tensor:
    """(n,) the exit where one threshold for all lets each row leave."""
    out = sure >= threshold
    return torch.where(out.any(1), out.int().argmax(1), sure.shape[1])


def _candidates(sure: Tensor) -> list[float]:
    """Thresholds that make a difference, from low to high, then never; at most ``CANDIDATES`` of them."""
    values = sure[sure.isfinite()].unique()
    if len(values) > CANDIDATES:
        values = values[torch.linspace(0, len(values) - 1, CANDIDATES).long()]
    return [*values.tolist(), math.inf]


def within_budget(
    sure: Tensor, costs: Sequence[float], budget: float, shared: bool = True
) -> tuple[float, ...]:
    """The highest thresholds whose mean cost over the rows is at most ``budget`` of the last exit's.

    Args:
        sure: (n, exits but the last), see ``sureness``; minus infinity where a row may not leave.
        costs: until each exit.
        shared: one threshold for all; else one for each, see ``by_shares``.

    Raises:
        UserError: the cheapest thresholds cost more.
    """
    limit, price, exits = budget * costs[-1], torch.tensor(costs, dtype=torch.float64), sure.shape[1]
    candidates = _candidates(sure)
    prices = [float(price[_leaving(sure, t)].mean()) for t in candidates]
    if prices[0] > limit:
        raise UserError(
            f"budget: {budget:g} of the full cost can't be kept: where all leave as early as the criterion lets them, "
            f"it is {prices[0] / costs[-1]:.3g} (the first exit: {costs[0] / costs[-1]:.3g})"
        )
    if shared:
        return (max(t for t, p in zip(candidates, prices, strict=True) if p <= limit),) * exits
    best = (candidates[0],) * exits  # the cheapest; shares are rounded down and may all cost more than that
    low, high = -12.0, 12.0
    for _ in range(40):
        middle = (low + high) / 2
        found = by_shares(sure, shares(math.exp(middle), exits + 1))
        if float(price[_at(sure, found)].mean()) <= limit:
            low, best = middle, found
        else:
            high = middle
    return best


def shares(q: float, exits: int) -> list[float]:
    """The part of the examples that each exit is to take, proportional to q^k (MSDNet, Huang et al. 2018)."""
    powers = [q**k for k in range(1, exits + 1)]
    return [p / sum(powers) for p in powers]


def by_shares(sure: Tensor, wanted: Sequence[float]) -> tuple[float, ...]:
    """Thresholds such that exit k takes the floor(n wanted[k]) surest rows that are left; never where that is none."""
    left = torch.ones(len(sure), dtype=torch.bool)
    found = []
    for place in range(sure.shape[1]):
        may = left & sure[:, place].isfinite()  # minus infinity: not allowed to leave here
        count = min(int(len(sure) * wanted[place] + 1e-9), int(may.sum()))
        if not count:
            found.append(math.inf)
            continue
        order = sure[may, place].sort(descending=True).values
        found.append(float(order[count - 1]))
        left &= sure[:, place] < found[-1]
    return tuple(found)


def _at(sure: Tensor, thresholds: Sequence[float]) -> Tensor:
    return _leaving(sure - torch.tensor(thresholds, dtype=torch.float64), 0.0)


def within_loss(
    sure: Tensor, logits: Sequence[Tensor], labels: Tensor, costs: Sequence[float], points: float
) -> tuple[float, ...]:
    """One threshold for all exits: the cheapest whose top-1 is at most ``points`` below the last exit's."""
    right = torch.stack([hits(t, labels) for t in logits], dim=1)
    price = torch.tensor(costs, dtype=torch.float64)
    least = 100 * float(right[:, -1].double().mean()) - points - 1e-9
    best, best_cost = math.inf, math.inf
    for threshold in _candidates(sure):
        where = _leaving(sure, threshold)
        top1 = 100 * float(right.gather(1, where[:, None]).double().mean())
        cost = float(price[where].mean())
        if top1 >= least and cost < best_cost:
            best, best_cost = threshold, cost
    return (best,) * sure.shape[1]
