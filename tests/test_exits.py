"""Nets that answer early: criteria, who leaves where, thresholds that are chosen."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from cases_exits import RESNET, bench, exits, images, middle, policy, spec  # noqa: F401
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.exit_criteria.entropy import entropy
from compressbench.exit_criteria.margin import margin
from compressbench.exit_criteria.max_probability import max_probability
from compressbench.exit_criteria.patience import patience
from compressbench.exit_criteria.policy import (
    Policy,
    assigned,
    compacted,
    everything,
    policy_of,
    queued,
    taken,
    waiting,
)
from compressbench.exit_criteria.said import Said
from compressbench.models import early
from compressbench.models.build import module_of
from compressbench.models.counting import count, of_exits
from compressbench.models.draw import drawn
from compressbench.models.exits import exit_names, parts_of, prepared_parts
from compressbench.stages.exits import Choose
from compressbench.state import State
from compressbench.views import View

ALL = (max_probability, entropy, margin, patience)


# criteria -------------------------------------------------------------------------------------------------------------


def test_what_criteria_say_of_known_answers() -> None:
    even, sure = torch.zeros(1, 10), torch.zeros(1, 10)
    sure[0, 3] = 1000.0
    assert float(max_probability(Said(even))) == pytest.approx(0.1)
    assert float(margin(Said(even))) == 0
    # the entropy of ten equal classes is ln 10 = 2.302585, and nothing is certain
    assert float(entropy(Said(even))) == pytest.approx(0, abs=1e-6)
    p = torch.tensor([[0.5, 0.5] + [0.0] * 8])
    nats = (1 - float(entropy(Said(p.log())))) * math.log(10)
    assert nats == pytest.approx(math.log(2), rel=1e-6)
    for criterion in (max_probability, margin, entropy):
        assert float(criterion(Said(sure))) == pytest.approx(1)


def test_patience_counts_agreements_in_a_row_and_begins_anew_after_a_break() -> None:
    def exit_of(*classes: int) -> Tensor:
        return nn.functional.one_hot(torch.tensor(classes), 4).float()

    said = [exit_of(0, 1, 2), exit_of(0, 2, 2), exit_of(0, 2, 1), exit_of(0, 2, 1)]
    counts = [patience(Said(t, tuple(said[:k]))).tolist() for k, t in enumerate(said)]
    assert counts == [[0, 0, 0], [1, 0, 1], [2, 1, 0], [3, 2, 1]]


@pytest.mark.parametrize("criterion", ALL)
def test_never_is_the_last_exit_and_always_the_first(criterion, exits: State, bench: Bench) -> None:
    parts, x = parts_of(module_of(exits)), images(bench)
    with torch.inference_mode():
        logits = everything(parts, x)
        for threshold, place in ((math.inf, 2), (-math.inf, 0)):
            found = compacted(parts, policy(criterion, threshold, threshold), x)
            assert (found.exits == place).all()
            assert torch.equal(found.logits, logits[place])
            assert found.rows == tuple((k, len(x)) for k in range(place + 1))


@pytest.mark.parametrize("steps", [2, 3, 7])
def test_patience_as_long_as_there_are_exits_means_the_last(steps: int, exits: State, bench: Bench) -> None:
    parts, x = parts_of(module_of(exits)), images(bench)
    with torch.inference_mode():
        assert (compacted(parts, policy(patience, steps, steps), x).exits == 2).all()
        found = compacted(parts, policy(patience, 1, 1), x).exits
    assert not (found == 0).any(), "the first exit that can be left by has number patience + 1"


# leaving --------------------------------------------------------------------------------------------------------------


def mixed(criterion, logits: list[Tensor]) -> Policy:
    """Thresholds that let some leave at each exit."""
    bare = policy(criterion, math.inf, math.inf)
    sure = early.sureness(bare, logits)
    if criterion is patience:
        return policy(patience, 1, 1)
    return policy(criterion, *(middle(sure[:, k]) for k in range(2)))


@pytest.mark.parametrize("criterion", ALL)
def test_all_ways_of_running_answer_alike(criterion, exits: State, bench: Bench) -> None:
    module, x = module_of(exits), images(bench)
    parts = parts_of(module)
    with torch.inference_mode():
        logits = everything(parts, x)
        rule = mixed(criterion, logits)
        where = assigned(rule, logits)
        assert len(where.unique()) > 1
        wanted = taken(logits, where)
        ways = {
            "compacted": compacted(parts, rule, x),
            "waiting": waiting(parts, rule, x),
            **{f"queued {b}": queued(parts, rule, x, batch=b) for b in (1, 5, 16, 200)},
        }
        for name, found in ways.items():
            assert torch.equal(found.exits, where), name
            assert torch.allclose(found.logits, wanted, atol=1e-5), name
            assert torch.equal(found.logits.argmax(1), wanted.argmax(1)), name
        single = [compacted(parts, rule, row[None]) for row in x]
        assert torch.equal(torch.cat([one.exits for one in single]), where)
    # what was computed: compacted rows are the histogram's tail sums, waiting ones all rows
    tails = [int((where >= k).sum()) for k in range(3)]
    assert ways["compacted"].rows == tuple((k, n) for k, n in enumerate(tails) if n)
    assert all(rows == len(x) for _, rows in ways["waiting"].rows)
    for name, found in ways.items():
        if name.startswith("queued"):
            assert [sum(r for k, r in found.rows if k == place) for place in range(3)] == tails
            assert all(rows <= int(name.split()[1]) for _, rows in found.rows)


def test_the_mean_cost_is_the_histogram_times_the_costs(exits: State, bench: Bench) -> None:
    parts, x = parts_of(module_of(exits)), images(bench)
    costs = of_exits(parts, bench.task.blank(1))
    assert costs[-1] == count(module_of(exits), bench.task.blank(1)).macs
    with torch.inference_mode():
        rule = mixed(margin, everything(parts, x))
        found = compacted(parts, rule, x)
    own = [b - a for a, b in zip([0, *costs], costs, strict=False)]
    spent = sum(own[place] * rows for place, rows in found.rows)
    share = torch.bincount(found.exits, minlength=3).double() / len(x)
    assert spent / len(x) == pytest.approx(float(share @ torch.tensor(costs).double()))


def test_a_prepared_state_answers_by_its_policy(exits: State, bench: Bench) -> None:
    state = Choose(spec("max_probability"), budget=0.7).apply(
        exits, dataclasses.replace(bench, name="choose")
    )
    view = View(state, bench)
    module = module_of(state)
    with torch.inference_mode():
        logits = everything(parts_of(module), images(bench, 1000))
        rule = policy_of(state.policies)
        assert rule is not None
        where = assigned(rule, logits)
    wanted = taken(logits, where)
    assert torch.allclose(view.log_probs, wanted.log_softmax(1), atol=1e-3)
    assert len(where.unique()) > 1
    # a teacher, a curvature, a reference by name: the module itself answers by its last exit
    assert torch.allclose(module(images(bench)), logits[-1][:97], atol=1e-5)


def test_full_depth_is_prepared_like_a_net_without_exits(exits: State, bench: Bench) -> None:
    """Else what exits are timed against would be slower than it need be."""
    from compressbench.models.prepared import prepared

    own, bare = (
        prepared(module_of(exits), images(bench, 8)),
        prepared(module_of(drawn(RESNET, bench)), images(bench, 8)),
    )
    assert own.layout == bare.layout
    for form in ("forward_only", "differentiable"):
        one, other = getattr(own, form), getattr(bare, form)
        assert isinstance(one, torch.fx.GraphModule)
        assert [n.op for n in one.graph.nodes] == [n.op for n in other.graph.nodes]


def test_a_gradient_passes_through_those_that_left(exits: State, bench: Bench) -> None:
    state = Choose(spec("margin"), budget=0.7).apply(exits, bench)
    x = images(bench).requires_grad_()
    View(state, bench).fast(x).sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_chance_and_the_oracle_are_what_counting_by_hand_gives(exits: State, bench: Bench) -> None:
    from compressbench.probes.exits import Exits

    state = Choose(spec("max_probability"), budget=0.7).apply(exits, bench)
    view = View(state, bench)
    found = {(m.name, m.group): m for m in Exits().measure(view, view, bench)}
    logits, labels = early.answers(prepared_parts(module_of(state), images(bench, 8)), bench, "test")
    right = torch.stack([t.argmax(1) == labels for t in logits], 1)
    rule = policy_of(state.policies)
    assert rule is not None
    where = assigned(rule, logits)
    n = len(labels)
    draw = torch.Generator().manual_seed(0)
    by_hand = [
        float(right[torch.arange(n), where[torch.randperm(n, generator=draw)]].double().mean())
        for _ in range(400)
    ]
    assert found["random_top1", ""].value == pytest.approx(100 * sum(by_hand) / 400, abs=0.3)
    assert found["oracle_top1", ""].value == pytest.approx(100 * float(right.any(1).double().mean()))
    assert found["oracle_top1", ""].value >= max(found["exit_top1", g].value for g in exit_names(view.module))
    assert found["exits_top1", ""].value == pytest.approx(
        100 * float((view.log_probs.argmax(1) == labels).double().mean())
    )
    shares = [found["exit_share", g].value for g in exit_names(view.module)]
    assert sum(shares) == pytest.approx(100)
    macs = [found["exit_macs", g].value for g in exit_names(view.module)]
    assert found["expected_macs", ""].value == pytest.approx(
        sum(s * m / 100 for s, m in zip(shares, macs, strict=True))
    )
    assert found["easiest", ""].artefact.startswith("data:image/png;base64,")


# choosing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [0.6, 0.8, 1.0])
def test_a_budget_holds_on_validation(budget: float, shared: bool, exits: State, bench: Bench) -> None:
    state = Choose(spec("max_probability"), budget=budget, shared=shared).apply(exits, bench)
    costs, shares = state.facts["exit_macs"], state.facts["exit_shares"]
    spent = sum(c * s for c, s in zip(costs, shares, strict=True)) / costs[-1]
    assert spent <= budget + 1e-5
    assert spent > budget - 0.12
    if budget == 1 and shared:
        assert state.policies["exit"]["thresholds"] == [None, None]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["patience", "margin"])
def test_a_chosen_policy_does_what_its_facts_say(name: str, shared: bool, exits: State, bench: Bench) -> None:
    for budget in (0.7, 0.9, 0.995):
        try:
            state = Choose(spec(name), budget=budget, shared=shared).apply(exits, bench)
        except UserError:  # patience can't do with so little
            assert name == "patience"
            continue
        logits, _ = early.answers(prepared_parts(module_of(state), images(bench, 8)), bench, "validation")
        rule = policy_of(state.policies)
        assert rule is not None
        share = torch.bincount(assigned(rule, logits), minlength=3).double() / len(logits[0])
        assert share.tolist() == pytest.approx(state.facts["exit_shares"], abs=1e-6)
        costs = torch.tensor(state.facts["exit_macs"]).double()
        assert float(share @ costs / costs[-1]) <= budget + 1e-9


def test_a_budget_of_the_first_exit_lets_all_leave_there(exits: State, bench: Bench) -> None:
    costs = of_exits(parts_of(module_of(exits)), bench.task.blank(1))
    for shared in (True, False):
        state = Choose(spec("margin"), budget=costs[0] / costs[-1], shared=shared).apply(exits, bench)
        assert state.facts["exit_shares"] == [1, 0, 0]


def test_no_accuracy_to_lose_loses_none_on_validation(exits: State, bench: Bench) -> None:
    free = Choose(spec("max_probability"), accuracy=0.0).apply(exits, bench)
    never = Choose(spec("max_probability"), budget=1.0).apply(exits, bench)
    loose = Choose(spec("max_probability"), accuracy=100.0).apply(exits, bench)
    assert free.facts["exit_validation_top1"] >= never.facts["exit_validation_top1"]
    assert loose.facts["exit_shares"][0] == 1


def test_msdnets_shares_are_geometric_and_thresholds_take_the_surest() -> None:
    assert early.shares(1.0, 4) == [0.25] * 4
    two = early.shares(2.0, 3)
    assert two[1] / two[0] == pytest.approx(2)
    assert two[2] / two[1] == pytest.approx(2)
    sure = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = early.by_shares(sure, [0.2, 0.3, 0.5])
    first = sure[:, 0] >= found[0]
    assert int(first.sum()) == 200
    assert int((~first & (sure[:, 1] >= found[1])).sum()) == 300


def test_the_test_split_chooses_nothing(exits: State, bench: Bench) -> None:
    settings = Choose(spec("margin"), budget=0.7)
    splits = {k: v for k, v in bench.dataset.splits.items() if k != "test"}
    blind = dataclasses.replace(bench, dataset=dataclasses.replace(bench.dataset, splits=splits), feeds={})
    assert settings.apply(exits, blind).policies == settings.apply(exits, bench).policies


def test_a_temperature_found_again() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=draw)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    assert early.temperature(logits, labels) == pytest.approx(1, abs=0.03)
    assert early.temperature(3 * logits, labels) == pytest.approx(3, abs=0.1)


def test_patience_for_longer_than_there_are_exits_is_said_to_mean_never(exits: State, bench: Bench) -> None:
    state = Choose(spec("patience"), threshold=9).apply(exits, bench)
    assert any("patience 9 with 3 exits means never" in flag for flag in state.facts["flags"])
    assert state.facts["exit_shares"] == [0, 0, 1]
