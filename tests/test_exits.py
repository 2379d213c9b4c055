"""Early exits: exact facts of FACTS section 15, cuts, policies, examples that really leave, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from compressbench import specs
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
from compressbench.models.exits import check, exit_names, parts_of, places, prepared_parts
from compressbench.stages.exits import Attach, Cascade, Choose
from compressbench.state import State
from compressbench.store import Store
from compressbench.views import View
from test_reparametrise import METHODS, ready
from test_reparametrise import method as reparametrisation
from tiny import TINY

POINTS = ("layer1", "layer2")
HEAD = {"_target_": "compressbench.exit_heads.pooled.pooled", "_partial_": True}
ALL = (max_probability, entropy, margin, patience)


def spec(name: str) -> dict:
    return {"_target_": f"compressbench.exit_criteria.{name}.{name}", "_partial_": True}


def build(name: str, **settings) -> dict:
    return {"name": name, "build": {"_target_": name, "shape": "@shape", "classes": "@classes", **settings}}


RESNET = build("compressbench.models.resnet.CifarResNet", depth=8, width=4)
VIT = build("compressbench.models.vit.VisionTransformer", dim=16, depth=3, heads=2, mlp=16)


@pytest.fixture(scope="module")
def bench(digits) -> Bench:
    return Bench(digits, seed=0, name="init", say=lambda _: None)


@pytest.fixture(scope="module")
def exits(bench: Bench) -> State:
    """A ResNet-8 with two exits, trained a little, so that it is of different minds about different images."""
    from compressbench.stages.train import Train

    state = early.attached(
        drawn(RESNET, bench), dataclasses.replace(bench, name="attach"), Attach(POINTS, HEAD)
    )
    return training("joint", Train).apply(state, dataclasses.replace(bench, name="joint"))


def training(objective: str, stage, only: str | None = None, **settings):
    sgd = {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9}
    own = {"_target_": f"compressbench.training.exits.{objective}", "_partial_": True, **settings}
    return stage(
        length="30it", batch_size=32, lr=0.05, optimizer=sgd, objective=own, validate=None, only=only
    )


def three_of(bench: Bench) -> tuple[Tensor, ...]:
    return bench.task.drawn(3, torch.Generator().manual_seed(0))


def images(bench: Bench, count: int = 97) -> Tensor:
    return bench.task.normalised(bench.feed("test")["images"][:count])


def policy(criterion, *thresholds: float) -> Policy:
    return Policy(criterion, thresholds, (1.0,) * len(thresholds))


# ---- criteria -------------------------------------------------------------------------------------------------------


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


# ---- leaving --------------------------------------------------------------------------------------------------------


def mixed(criterion, logits: list[Tensor]) -> Policy:
    """Thresholds that let some leave at each exit."""
    bare = policy(criterion, math.inf, math.inf)
    sure = early.sureness(bare, logits)
    if criterion is patience:
        return policy(patience, 1, 1)
    return policy(criterion, *(middle(sure[:, k]) for k in range(2)))


def middle(sure: Tensor) -> float:
    """Between two scores: a batch of another size may round the last bit otherwise."""
    ordered = sure.double().sort().values
    half = len(ordered) // 2
    gap = int((ordered[half:] - ordered[half - 1 : -1]).argmax()) + half
    return float(ordered[gap - 1 : gap + 1].mean())


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


# ---- choosing -------------------------------------------------------------------------------------------------------


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


# ---- cuts -----------------------------------------------------------------------------------------------------------


class Growing(nn.Module):
    """Blocks that each see the input beside the block before: no exit is a cut without the input."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        size = math.prod(shape)
        self.one, self.two = nn.Linear(size, 12), nn.Linear(size + 12, 24)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        first = self.one(x).relu()
        return self.fc(self.two(torch.cat([x, first], 1)).relu())


GROWING = build("test_exits.Growing")


def test_what_an_exit_leaves_behind_is_carried_if_it_is_named(bench: Bench) -> None:
    state = drawn(GROWING, bench)
    with pytest.raises(
        UserError, match=r"one is no cut of the net: what comes after it needs .*; choose a point"
    ):
        Attach(("one",), HEAD).apply(state, bench)
    # the point's own value goes through a ReLU before the cat: the exit reads what the module gave
    found = Attach(("one",), HEAD, side=("flatten",)).apply(state, bench)
    parts, x = parts_of(module_of(found)), images(bench)
    with torch.inference_mode():
        logits = everything(parts, x)
        where = compacted(parts, policy(margin, middle(margin(Said(logits[0])))), x)
    assert torch.allclose(where.logits, taken(logits, where.exits), atol=1e-5)
    assert set(where.exits.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (("nolayer",), r"the model has no module 'nolayer'; did you mean"),
        (("layer1.0.conv1",), r"layer1\.0\.conv1 is no cut of the net: what comes after it needs \w+.* too"),
        (("fc",), r"fc lies after the output layer"),
        (("layer1", "layer1.0"), r"are the same place of the net"),
    ],
)
def test_points_that_can_be_no_exit(points: tuple[str, ...], words: str, bench: Bench) -> None:
    with pytest.raises(UserError, match=words):
        Attach(points, HEAD).apply(drawn(RESNET, bench), bench)


class Branching(nn.Module):
    """A net whose forward looks at its data."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.one, self.fc = nn.Linear(math.prod(shape), 8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x.flatten(1))
        return self.fc(x if x.sum() > 0 else -x)


class Mixing(Branching):
    """A net whose examples are not apart: each takes the batch's mean along."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x.flatten(1))
        return self.fc(x - x.mean(0, keepdim=True))


class Warm(Branching):
    """A net with a value of no row for each example on both sides of the exit."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.heat = nn.Parameter(torch.zeros(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        heat = self.heat.exp()
        return self.fc(self.one(x.flatten(1) * heat.mean()) * heat)


class InPlace(Branching):
    """A net that changes the exit's value in place after it."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.one(x.flatten(1))))


class Squared(nn.Module):
    """A head that needs its input again in the backward."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(shape[0], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * x)


def test_a_head_whose_input_is_changed_in_place_is_refused_and_another_works(bench: Bench) -> None:
    state = drawn(build("test_exits.InPlace"), bench)
    with pytest.raises(UserError, match="name the module that follows"):
        Attach(("one",), {"_target_": "test_exits.Squared", "_partial_": True}).apply(state, bench)
    after = Attach(("act",), {"_target_": "test_exits.Squared", "_partial_": True}).apply(state, bench)
    assert View(Choose(spec("margin"), threshold=0.3).apply(after, bench), bench).log_probs.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Branching", "can't be traced"),
        ("Mixing", "one row for each example"),
        ("Warm", "one row for each example"),
    ],
)
def test_nets_whose_examples_cannot_leave(kind: str, words: str, bench: Bench) -> None:
    with pytest.raises(UserError, match=words):
        Attach(("one",), HEAD, side=("*",)).apply(drawn(build(f"test_exits.{kind}"), bench), bench)


@pytest.mark.parametrize(
    ("model", "points", "side"),
    [
        (VIT, ("blocks.0", "blocks.1"), ()),
        (build("compressbench.models.msdnet.MSDNet", blocks=3, base=4, growth=2, head=8), ("ends.0", "ends.1"), ("*",)),
        (TINY, ("features.2", "features.4"), ()),
    ],
)  # fmt: skip
def test_other_nets_in_parts(
    model: dict, points: tuple[str, ...], side: tuple[str, ...], bench: Bench
) -> None:
    state = drawn(model, bench)
    found = Attach(points, HEAD, side=side).apply(state, bench)
    module = module_of(found)
    check(module, three_of(bench))
    assert of_exits(parts_of(module), bench.task.blank(1))[-1] == found.facts["forward_macs"]
    # the net's own tensors keep their names and values, and so does its answer
    for name, tensor in state.weights.items():
        assert torch.equal(found.weights[name], tensor)
    x = images(bench)
    with torch.no_grad():
        assert torch.equal(module(x), module_of(state)(x))


def test_points_are_put_in_the_order_of_the_net(bench: Bench) -> None:
    module = module_of(drawn(RESNET, bench))
    assert list(places(module, ["layer2", "layer1"], [], (images(bench, 2),))) == ["layer1", "layer2"]


# ---- with other stages ----------------------------------------------------------------------------------------------


def test_a_frozen_trunk_stays_to_the_bit_and_its_exits_learn(bench: Bench) -> None:
    from compressbench.stages.train import Train

    state = Attach(POINTS, HEAD).apply(drawn(RESNET, bench), bench)
    for objective, own in (("joint", {"last": False}), ("self_distilled", {})):
        after = training(objective, Train, **own, only="exits.*").apply(
            state, dataclasses.replace(bench, name="exits")
        )
        for name, tensor in after.weights.items():
            assert torch.equal(tensor, state.weights[name]) != name.startswith("exits."), name
        forward, heads = state.facts["forward_macs"], 10 * (4 + 8)
        assert after.facts["macs"] == 30 * 32 * (forward + 2 * heads)


def test_only_some_parameters(bench: Bench) -> None:
    from compressbench.training.loop import _freeze, _step_macs

    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2))
    assert [type(m) for m in _freeze(module, "*.bias")] == []
    module.requires_grad_(True)
    assert module[1] in _freeze(module, "2.*")
    state = drawn(RESNET, bench)
    net, whole = module_of(state), state.facts["forward_macs"]
    assert _step_macs(state.facts, net, None, bench) == 3 * whole
    layers = count(net, bench.task.blank(1)).layers
    assert _step_macs(state.facts, net, "fc.*", bench) == whole + 2 * layers["fc"]
    assert _step_macs(state.facts, net, "conv1.*", bench) == 2 * whole + layers["conv1"]


def test_training_on_loses_a_policy_and_says_so(exits: State, bench: Bench) -> None:
    from compressbench.stages.train import Train

    state = Choose(spec("margin"), budget=0.7).apply(exits, bench)
    after = training("joint", Train).apply(state, dataclasses.replace(bench, name="on"))
    assert not after.policies
    assert "its exits' policy was chosen for other weights, and is gone: choose anew" in after.facts["flags"]


def test_sam_and_swa_leave_a_frozen_trunk_alone(bench: Bench) -> None:
    from compressbench.stages.train import Train

    convolved = {"_target_": "compressbench.exit_heads.convolved.convolved", "_partial_": True, "width": 8}
    state = Attach(POINTS, convolved).apply(drawn(RESNET, bench), bench)
    partial = {"_partial_": True}
    settings = dataclasses.replace(
        training("joint", Train, only="exits.*", last=False),
        stepper={"_target_": "compressbench.training.sam.sam", "rho": 0.05, **partial},
        averager={
            "_target_": "compressbench.training.averagers.swa",
            "start": 0.5,
            "every": "5it",
            **partial,
        },
    )
    after = settings.apply(state, dataclasses.replace(bench, name="exits"))
    for name, tensor in after.weights.items():
        if not name.startswith("exits."):
            assert torch.equal(tensor, state.weights[name]), name
    moved = [n for n, t in after.weights.items() if n.endswith("running_mean") and n.startswith("exits.")]
    assert moved
    assert not any(torch.equal(after.weights[n], state.weights[n]) for n in moved)


def test_joint_is_the_weighted_mean_of_all_exits_losses(exits: State, bench: Bench) -> None:
    from compressbench.outputs import Outputs
    from compressbench.training.exits import joint, self_distilled
    from compressbench.training.objectives import Batch

    feed = bench.feed("train")
    x, y = bench.task.normalised(feed["images"][:16]), feed.labels[:16]
    with torch.no_grad():
        logits = everything(parts_of(module_of(exits)), x)
    outputs = Outputs(logits[-1], {f"exit{k}": t for k, t in enumerate(logits[:-1])})
    batch = Batch(outputs, x, y, torch.arange(16))
    losses = [float(nn.functional.cross_entropy(t, y)) for t in logits]
    assert float(joint(bench)(batch)) == pytest.approx(sum(losses) / 3)
    assert float(joint(bench, power=1.0)(batch)) == pytest.approx(
        (losses[0] + 2 * losses[1] + 3 * losses[2]) / 6
    )
    assert float(joint(bench, last=False)(batch)) == pytest.approx(sum(losses[:2]) / 2)
    wanted = logits[-1].softmax(1)
    apart = [
        float((wanted * (logits[-1].log_softmax(1) - t.log_softmax(1))).sum(1).mean()) for t in logits[:-1]
    ]
    assert float(self_distilled(bench)(batch)) == pytest.approx(sum(apart) / 2, rel=1e-5)


def test_the_order_of_exits_is_that_of_numbers_not_of_letters() -> None:
    from compressbench.outputs import Outputs
    from compressbench.training.exits import early_of

    taps = {f"exit{k}": torch.full((1, 2), float(k)) for k in reversed(range(12))}
    assert [float(t[0, 0]) for t in early_of(Outputs(torch.zeros(1, 2), taps))] == list(range(12))


def test_exits_after_pruning_and_pruning_after_exits(exits: State, bench: Bench) -> None:
    from compressbench.pruning.unstructured import prune
    from compressbench.stages.prune import Prune

    criterion = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    thin = prune(drawn(RESNET, bench), bench, Prune(criterion, 0.8))
    after = Attach(POINTS, HEAD).apply(thin, bench)
    for name, mask in thin.masks.items():
        assert torch.equal(after.masks[name], mask)
    assert thin.facts["density"] < after.facts["density"] < thin.facts["density"] + 0.1
    again = prune(exits, bench, Prune(criterion, 0.5))
    assert any(name.startswith("exits.") for name in again.masks)
    check(module_of(again), three_of(bench))


def test_channels_removed_before_and_after_exits(exits: State, bench: Bench) -> None:
    from compressbench.stages.shrink import Channels

    criterion = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    settings = Channels(criterion, macs=0.6, inside=True)
    thin = settings.apply(drawn(RESNET, bench), bench)
    after = Attach(POINTS, HEAD).apply(thin, bench)
    check(module_of(after), three_of(bench))
    later = settings.apply(exits, bench)
    assert later.facts["forward_macs"] < exits.facts["forward_macs"]
    check(module_of(later), three_of(bench))
    # coupled channels that an exit reads too: its head loses the same inputs
    whole = Channels(criterion, macs=0.6).apply(exits, bench)
    module = module_of(whole)
    check(module, three_of(bench))
    assert module.exits[0].fc.in_features < 4


def test_quantized_nets_with_exits(exits: State, bench: Bench) -> None:
    from compressbench.cli.run import composed

    stage = composed(["recipe=ptq_resnet", "scale=smoke"])["recipe"]["stages"]["static"]
    stage = specs.expand(stage, "static")
    settings = {k: v for k, v in stage.items() if k not in ("from", "_target_")}
    from compressbench.stages.quantize import Quantize

    after = Quantize(**settings).apply(exits, dataclasses.replace(bench, name="quantize"))
    chosen = Choose(spec("margin"), budget=0.8).apply(after, bench)
    check(module_of(chosen), three_of(bench))
    assert View(chosen, bench).log_probs.isfinite().all()
    # and the other way round
    first = Quantize(**settings).apply(drawn(RESNET, bench), dataclasses.replace(bench, name="quantize"))
    check(module_of(Attach(POINTS, HEAD).apply(first, bench)), three_of(bench))


def test_a_cascade_asks_each_net_anew_and_pays_for_all(exits: State, bench: Bench) -> None:
    small = drawn(build("compressbench.models.resnet.CifarResNet", depth=8, width=2), bench)
    large = drawn(RESNET, dataclasses.replace(bench, name="large"))
    both = dataclasses.replace(bench, references={"small": small, "large": large})
    made = Cascade(("small", "large")).apply(None, both)
    costs = of_exits(parts_of(module_of(made)), bench.task.blank(1))
    assert costs == [
        small.facts["forward_macs"],
        small.facts["forward_macs"] + large.facts["forward_macs"],
    ]
    assert made.facts["forward_macs"] == costs[-1]
    state = Choose(spec("max_probability"), budget=0.9).apply(made, bench)
    x = images(bench)
    with torch.inference_mode():
        one, two = module_of(small)(x), module_of(large)(x)
        rule = policy_of(state.policies)
        assert rule is not None
        where = assigned(rule, [one, two])
        assert len(where.unique()) == 2
        assert torch.allclose(View(state, bench).fast(x), taken([one, two], where), atol=1e-3)


def test_a_policy_comes_back_from_the_store(exits: State, bench: Bench, tmp_path) -> None:
    state = Choose(spec("max_probability"), budget=0.7).apply(exits, bench)
    store = Store(tmp_path)
    store.save("key", state, {})
    back = store.load("key")
    assert back is not None
    assert back.policies == state.policies
    assert torch.equal(View(back, bench).log_probs, View(state, bench).log_probs)


def test_a_store_file_cannot_name_a_head_of_another_origin(exits: State) -> None:
    from compressbench.models.cutting import replay

    with pytest.raises(UserError, match="mapping of modules to heads"):
        replay(nn.Sequential(nn.Identity()), [{"exits": {"points": {"layer1": 3}}}])
    places = [place for place, _ in specs.walk([exits.model, exits.edits, exits.policies])]
    assert any("exits" in place for place in places), "the executor's check of a stored state sees heads"


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 1.2}, r"threshold: 1\.2 is not in \[0, 1\]"),
        ({"threshold": -0.1}, r"threshold: -0\.1 is not in \[0, 1\]"),
        ({"threshold": "high"}, "threshold"),
        ({"budget": 0.5, "threshold": 0.5}, "exactly one of"),
        ({}, "exactly one of"),
        ({"budget": 1.5}, r"budget: 1\.5 is not in \[0, 1\]"),
        ({"accuracy": -1}, "accuracy: -1 is not a number of 0 or more"),
        ({"accuracy": 1.0, "shared": False}, "shared: false goes with a budget"),
    ],
)
def test_policies_that_are_refused_before_anything_runs(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Choose(spec("max_probability"), **settings)


@pytest.mark.parametrize("value", [0, 1.5, -3])
def test_patience_is_a_whole_number_of_one_or_more(value: float) -> None:
    with pytest.raises(UserError, match="is not a whole number of 1 or more"):
        Choose(spec("patience"), threshold=value)


def test_what_only_shows_when_the_stage_runs(exits: State, bench: Bench) -> None:
    with pytest.raises(UserError, match=r"budget: 0\.01 of the full cost can't be kept"):
        Choose(spec("margin"), budget=0.01).apply(exits, bench)
    with pytest.raises(UserError, match="3 numbers for 2 exits"):
        Choose(spec("margin"), threshold=(0.1, 0.2, 0.3)).apply(exits, bench)
    with pytest.raises(UserError, match="has no exits; put an exits/attach"):
        Choose(spec("margin"), threshold=0.5).apply(drawn(RESNET, bench), bench)
    with pytest.raises(UserError, match="the net has exits already"):
        Attach(("layer1",), HEAD).apply(exits, bench)
    from compressbench.stages.train import Train

    with pytest.raises(UserError, match="the net has no exits to train"):
        training("joint", Train).apply(drawn(RESNET, bench), bench)
    with pytest.raises(UserError, match=r"only: 'nothing\.\*' fits no parameter"):
        training("joint", Train, only="nothing.*").apply(exits, bench)


def test_a_target_of_whole_nets_and_an_export_refuse_what_leaves_early(
    exits: State, bench: Bench, tmp_path
) -> None:
    from types import SimpleNamespace

    from compressbench.deploying.handing_over import export
    from compressbench.hardware.early import lower
    from compressbench.hardware.target import Unsupported
    from compressbench.hardware.torch_compiled import TorchCompiled

    view = View(Choose(spec("margin"), budget=0.7).apply(exits, bench), bench)
    found = lower(TorchCompiled(), view)
    assert isinstance(found, Unsupported)
    assert "early exits: this target takes whole nets alone" in found.why
    with pytest.raises(UserError, match="leaves early by a policy"):
        export(None, view, SimpleNamespace(name="choose"), "onnx", tmp_path / "out", tmp_path)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runtime", ["onnxruntime_cpu.OnnxRuntimeCPU", "openvino_cpu.OpenVINOCPU"])
@pytest.mark.parametrize("kind", ["exits", "cascade"])
def test_runtimes_run_the_parts_and_answer_alike(runtime: str, kind: str, exits: State, bench: Bench) -> None:
    pytest.importorskip("onnxruntime" if "onnx" in runtime else "openvino")
    from compressbench.hardware.target import Lowered

    target = specs.build(
        {"_target_": f"compressbench.hardware.{runtime}", "seconds": 0.01, "batches": [1, 16]}
    )
    state = exits
    if kind == "cascade":
        small = drawn(build("compressbench.models.resnet.CifarResNet", depth=8, width=2), bench)
        both = dataclasses.replace(bench, references={"small": small, "large": drawn(RESNET, bench)})
        state = Cascade(("small", "large")).apply(None, both)
    view = View(Choose(spec("max_probability"), budget=0.8).apply(state, bench), bench)
    lowered = target.lower(view)
    assert isinstance(lowered, Lowered)
    x = images(bench)
    rule = policy_of(view.state.policies)
    assert rule is not None
    with torch.inference_mode():
        own, there = everything(parts_of(view.module), x), everything(lowered.parts, x)
        for one, other in zip(own, there, strict=True):
            assert torch.allclose(one, other, atol=1e-3)
        found = compacted(lowered.parts, rule, x)
    assert float((found.exits == assigned(rule, own)).double().mean()) > 0.97
    timing = target.time([lowered, lowered], 16)[0]
    assert 0 < timing.median < 1


def test_a_mixture_is_timed_over_all_its_images(bench: Bench) -> None:
    from compressbench.hardware.target import MIXTURE, Lowered
    from compressbench.hardware.torch_cpu import calls

    seen: list[int] = []
    images = torch.arange(256.0)[:, None]
    early = Lowered(lambda x: seen.extend(x[:, 0].int().tolist()), images, "", varies=True)
    whole = dataclasses.replace(early, varies=False)
    (run, other), forwards = calls([early, whole], 64)
    run()
    other()
    assert seen == 2 * list(range(MIXTURE))
    assert forwards == 4
    seen.clear()
    (run,), forwards = calls([whole], 64)
    run()
    assert seen == list(range(64))
    assert forwards == 1


def test_other_weights_lose_a_policy_and_say_so(exits: State, bench: Bench) -> None:
    from compressbench.stages.rewind import LearningRate, Reinit, Weights

    state = Choose(spec("margin"), budget=0.7).apply(exits, bench)
    with_refs = dataclasses.replace(bench, name="back", references={"joint": exits})
    flag = "its exits' policy was chosen for other weights, and is gone: choose anew"
    for stage in (Weights("joint"), Reinit()):
        after = stage.apply(state, with_refs)
        assert not after.policies
        assert flag in after.facts["flags"]
    assert LearningRate().apply(state, with_refs).policies == state.policies


@pytest.mark.parametrize("name", METHODS)
def test_exits_train_under_every_reparametrisation(bench: Bench, name: str) -> None:
    """Pruned bit by bit, rounded, drawn: the parts, heads among them, still answer as the whole does."""
    from compressbench.stages.train import Train

    start = Attach(POINTS, HEAD).apply(ready(name, RESNET, bench), bench)
    stage = dataclasses.replace(
        training("joint", Train), length="9it", lr=0.02, reparametrise=reparametrisation(name)
    )
    after = stage.apply(start, dataclasses.replace(bench, name="joint"))
    check(module_of(after), three_of(bench))
    chosen = Choose(spec("margin"), budget=0.9).apply(after, bench)
    assert View(chosen, bench).log_probs.isfinite().all()
    heads = [n for n in after.masks if n.startswith("exits.")]
    if name == "gradual":
        assert heads
        assert float(after.masks[heads[0]].float().mean()) < 0.8
    if name == "qat":
        assert (after.weights["exits.0.fc.weight"] != start.weights["exits.0.fc.weight"]).any()


def test_batch_norms_fold_in_a_net_with_exits_too(exits: State, bench: Bench) -> None:
    from compressbench.quantizing.folding import folded

    after, flags = folded(exits, bench)
    assert not flags
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module_of(after).modules())
    check(module_of(after), three_of(bench))
    x = images(bench)
    with torch.no_grad():
        own, there = (everything(parts_of(module_of(s)), x) for s in (exits, after))
    for one, other in zip(own, there, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    # a head that reads a convolution's own result keeps the norm behind it
    beside = Attach(("conv1",), HEAD).apply(drawn(RESNET, bench), bench)
    after, flags = folded(beside, bench)
    assert flags == ["batch norms not folded, no convolution alone before them: bn1"]


def test_a_policy_that_outlives_a_stage_is_told_of(exits: State, bench: Bench) -> None:
    from compressbench.stages.prune import Prune

    chosen = Choose(spec("margin"), budget=0.7).apply(exits, bench)
    magnitude = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    pruned = Prune(magnitude, 0.5).apply(chosen, bench)
    told = early.outlived(chosen, pruned).facts["flags"]
    assert sum("chosen before this" in flag for flag in told) == 1
    assert early.outlived(exits, chosen) == chosen
    assert early.outlived(chosen, chosen.settled()).facts == chosen.facts
    assert early.outlived(None, chosen) == chosen


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Attach((1,), HEAD),
            r"points: names are wanted; a number that is one in quotes, e\.g\. \['1'\]",
        ),
        (lambda: Attach(("layer1",), 7), "head: 7 is no head"),
        (lambda: Choose(spec("margin"), budget=0), "budget: 0 would let nobody in"),
        (lambda: Choose(7, budget=0.5), "criterion: 7 is none"),
    ],
)
def test_what_is_no_name_or_no_part_is_refused_at_once(make, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()


def test_a_side_input_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(UserError, match="side: nope is the name of no value in the net"):
        Attach(POINTS, HEAD, ("nope",)).apply(drawn(RESNET, bench), bench)
