"""Lottery tickets: the published densities, joined curves, speed of learning, barriers between nets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import short
from compressbench import masks as masking
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import snapshot
from compressbench.models.conv import ConvN
from compressbench.models.lenet import LeNet300100
from compressbench.models.vgg import CifarVgg
from compressbench.probes.connectivity import Connectivity, interpolated
from compressbench.probes.learning import NO_CURVE, Learning
from compressbench.records import Metric
from compressbench.scopes.units import keep_count
from compressbench.specs import TARGET
from compressbench.stages.rewind import RandomMask, Weights
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.views import View
from short import PLAIN


def densities(module: nn.Module, rates: dict[str, float], rounds: int) -> list[float]:
    """Density in % after each round, by the counts that pruning itself keeps."""
    weights = {n: p for n, p in module.named_parameters() if p.ndim > 1}
    own = masking.rates_by_tensor(weights, rates)
    whole = {n: w.numel() for n, w in weights.items()}
    left, found = dict(whole), []
    for _ in range(rounds):
        left = {n: keep_count(left[n], whole[n], own[n], "left") for n in left}
        found.append(100 * sum(left.values()) / sum(whole.values()))
    return found


@pytest.mark.parametrize(
    ("depth", "conv", "published"),
    [(2, 0.1, {11: 8.8, 14: 4.6}), (4, 0.1, {11: 11.1, 12: 9.2}), (6, 0.15, {7: 26.6, 10: 15.3})],
)
def test_densities_of_the_conv_nets(depth: int, conv: float, published: dict[int, float]):
    with torch.device("meta"):
        net = ConvN(depth, (3, 32, 32), 10, init=lambda w: w)
    found = densities(net, {"@conv": conv, "@linear": 0.2, "@output": 0.1}, max(published))
    assert {r: round(found[r - 1], 1) for r in published} == published


def test_densities_of_lenet():
    found = densities(LeNet300100((1, 28, 28), 10), {"@linear": 0.2, "@output": 0.1}, 15)
    assert {r: round(found[r - 1], 1) for r in (3, 7, 9, 15)} == {3: 51.3, 7: 21.1, 9: 13.5, 15: 3.6}


def test_a_narrower_vgg():
    quarter = CifarVgg(16, (1, 28, 28), 10, width=0.25)
    assert [m.out_channels for m in quarter.modules() if isinstance(m, nn.Conv2d)][:3] == [16, 16, 32]
    assert quarter(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(UserError, match="width must be above 0"):
        CifarVgg(16, (1, 28, 28), 10, width=0)


# Curves


def sgd(**settings) -> Train:
    given = {"length": "12it", "batch_size": 20, "lr": 0.1, "validate": "2it", "optimizer": PLAIN}
    return short.train(**given | settings)


def drawn(bench: Bench, hidden: tuple[int, int] = (300, 100)) -> State:
    from compressbench.models.draw import drawn as draw

    build = {TARGET: "compressbench.models.lenet.LeNet300100", "shape": "@shape", "classes": "@classes"}
    build["hidden"] = list(hidden)
    return draw({"name": "mlp", "build": build}, bench)


def steps(state: State) -> list[int]:
    return [point["step"] for point in state.facts["curve"]]


def test_the_curve_of_a_training_in_two_stages_is_that_of_one(bench: Bench):
    init = drawn(bench)
    whole = sgd().apply(init, bench)
    early = sgd(stop="5it").apply(init, bench)
    rest = sgd(start="5it").apply(early, bench)
    assert steps(early) == [2, 4, 5]
    assert steps(rest) == [2, 4, 5, 6, 8, 10, 12]
    assert [p for p in rest.facts["curve"] if p["step"] != 5] == whole.facts["curve"]
    assert steps(sgd().apply(whole, bench)) == steps(whole), "a new training begins a new curve"


def test_a_rewound_state_has_the_curve_of_where_it_went(bench: Bench):
    init = drawn(bench)
    early = sgd(stop="4it").apply(init, bench)
    dense = sgd(start="4it").apply(early, bench)
    bench = replace(bench, references={"early": early, "init": init, "like": dense})
    assert steps(sgd(start="4it").apply(Weights(to="early").apply(dense, bench), bench)) == [
        2,
        4,
        6,
        8,
        10,
        12,
    ]
    assert not Weights(to="init").apply(dense, bench).facts["curve"]
    assert steps(sgd(start="4it").apply(RandomMask(like="like").apply(early, bench), bench))[:3] == [2, 4, 6]


# Speed of learning


def found(probe, subject: View, reference: View) -> dict[tuple[str, str], Metric]:
    return {(m.name, m.group): m for m in probe.measure(subject, reference, subject.bench)}


def curved(state: State, bench: Bench, losses: list[float]) -> View:
    curve = [
        {"step": 10 * k, "lr": 0.1, "validation_loss": loss, "validation_top1": 50.0 + k}
        for k, loss in enumerate(losses, 1)
    ]
    return View(state.with_facts(curve=curve), bench)


def test_early_stop_is_the_first_minimum_of_the_validation_loss(bench: Bench):
    init = drawn(bench)
    dense = curved(init, bench, [3, 2, 1, 2])
    ticket = curved(init, bench, [2, 1, 1, 2])
    rows = found(Learning(), ticket, dense)
    assert rows["early_stop_iteration", ""].value == 20
    assert rows["early_stop_validation_top1", ""].value == 52
    assert rows["validation_top1_by_reference_stop", ""].value == 53
    assert rows["final_validation_top1", ""].value == 54
    assert rows["iterations", ""].value == 40
    falling = found(Learning(), curved(init, bench, [3, 2]), dense)["early_stop_iteration", ""]
    assert falling.value == 20
    assert falling.note == "validated from iteration 10, every 10, still falling at the end"


def test_without_a_curve_there_is_a_note(bench: Bench):
    init = drawn(bench)
    ticket = curved(init, bench, [1.0])
    (row,) = Learning().measure(View(init, bench), ticket, bench)
    assert row.value is None
    assert row.note == NO_CURVE
    rows = found(Learning(), ticket, View(init, bench))
    assert rows["validation_top1_by_reference_stop", ""].value is None
    assert rows["validation_top1_by_reference_stop", ""].note == f"reference: {NO_CURVE}"


# Barriers


class Slope(nn.Module):
    """Logits (w, 0, 0 …) for every image: wrong about all but one class on either side of w = 0."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[:, 0].expand(len(x), -1) + 0 * x.mean()


def constant(bench: Bench, label: int) -> View:
    classes = len(bench.dataset.classes)
    weight = torch.zeros(classes, 1)
    weight[label] = 1
    return View(
        State({TARGET: f"{__name__}.Slope", "classes": classes}, {"weights": {"weight": weight}}), bench
    )


def test_no_barrier_between_a_state_and_itself(bench: Bench):
    state = drawn(bench)
    rows = found(Connectivity(points=5), View(state, bench), View(replace(state, facts={}), bench))
    assert rows["barrier", ""].value == 0
    assert len({m.value for (name, _), m in rows.items() if name == "error_at"}) == 1
    assert [g for n, g in rows if n == "error_at"] == ["0", "0.25", "0.5", "0.75", "1"]


def test_two_constants_have_the_errors_of_the_nearer_end(bench: Bench):
    one, other = constant(bench, 2), constant(bench, 7)
    rows = found(Connectivity(), other, one)
    labels = bench.feed("test").labels
    ends = {k: 100 - 100 * int((labels == k).sum()) / len(labels) for k in (2, 7)}
    for (name, group), row in rows.items():
        if name == "error_at":
            assert row.value == pytest.approx(ends[2 if float(group) <= 0.5 else 7], abs=1e-9), group
    assert rows["barrier", ""].value == pytest.approx(max(ends.values()) - sum(ends.values()) / 2, abs=1e-9)


def test_a_permuted_net_predicts_alike_but_is_far_away(bench: Bench):
    trained = sgd(length="200it").apply(drawn(bench, (12, 12)), bench)
    weights = dict(trained.weights)
    names = [n for n, w in weights.items() if w.ndim == 2]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    weights[names[0]], weights[names[1]] = weights[names[0]][order], weights[names[1]][:, order]
    bias = names[0].replace("weight", "bias")
    weights[bias] = weights[bias][order]
    one, other = View(trained, bench), View(trained.with_groups(weights=weights), bench)
    assert torch.allclose(one.log_probs, other.log_probs, atol=1e-4)
    rows = found(Connectivity(points=3), other, one)
    assert abs(rows["error_at", "0"].value - rows["error_at", "1"].value) < 0.5
    assert rows["barrier", ""].value > 5


def test_states_that_span_no_line_say_why(bench: Bench):
    state = drawn(bench)
    for other, why in (
        (replace(state, model={**state.model, "hidden": [30, 10]}), "the models differ"),
        (replace(state, edits=({"drop": ["x"]},)), "the structures were edited differently"),
        (
            state.with_groups(weights={**state.weights, "more": torch.zeros(1)}),
            "the shapes of the weights differ",
        ),
    ):
        (row,) = Connectivity().measure(View(other, bench), View(state, bench), bench)
        assert row.value is None
        assert row.note == f"no straight line: {why}"
    with pytest.raises(UserError, match="at least 3"):
        Connectivity(points=2)


def test_interpolation_is_exact_where_both_agree_and_leaves_counters():
    one = {"w": torch.tensor([0.1, 0.0]), "count": torch.tensor(3)}
    other = {"w": torch.tensor([0.1, 1.0]), "count": torch.tensor(5)}
    for place in (0.1, 0.3, 0.7):
        mixed = interpolated(one, other, place)
        assert mixed["w"][0] == one["w"][0]
        assert mixed["w"][1] == pytest.approx(place)
        assert mixed["count"] == 3


def test_batch_norm_statistics_are_mixed_too(bench: Bench):
    settings = {"depth": 16, "shape": [1, 8, 8], "classes": 10, "width": 0.03}
    spec = {TARGET: "compressbench.models.vgg.CifarVgg", **settings}
    torch.manual_seed(0)
    one = State(spec, {"weights": snapshot(CifarVgg(**settings))})
    other = one.with_groups(weights={n: w + 1 if "running" in n else w for n, w in one.weights.items()})
    mixed = interpolated(one.weights, other.weights, 0.25)
    assert all(torch.allclose(mixed[n], w + 0.25) for n, w in one.weights.items() if "running" in n)


def test_a_moment_gets_the_probe_it_asks_for_and_the_end_does_not(tmp_path):
    from compressbench.cli.run import composed
    from compressbench.runs.execute import Executor, Watcher
    from compressbench.runs.experiment import prepare

    def asked(*overrides: str) -> dict[str, bool]:
        words = ["recipe=lth_rewind", "scale=smoke", "hardware=cpu1", f"outputs={tmp_path}", *overrides]
        ready = prepare(composed(words))
        executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
        return {m.moment: "connectivity" in executor.probes_of(m) for m in ready.plan.measures}

    twins = ("dense twins", "sparse twins from init", "sparse twins from later")
    assert asked() == {"final": False, **dict.fromkeys(twins, True)}
    assert asked("evaluation=full") == {"final": True, **dict.fromkeys(twins, True)}
    assert not any(asked("evaluation=none").values())
