"""Probes and metrics: exact facts, planted effects, an oracle on any batch size, costs really paid."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from compressbench import metrics, specs, views
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.data.dataset import Dataset, Split
from compressbench.errors import UserError
from compressbench.hardware import packing
from compressbench.hardware.target import Timing, Unsupported
from compressbench.hardware.torch_cpu import TorchCPU
from compressbench.hardware.torch_cuda import TorchCUDA
from compressbench.hardware.turns import in_turns
from compressbench.models.build import snapshot
from compressbench.models.resnet import CifarResNet
from compressbench.probes.accuracy import Accuracy
from compressbench.probes.attacked import Attacked
from compressbench.probes.compute import Compute
from compressbench.probes.cost import DENSE, Cost
from compressbench.probes.forgetting import Forgetting
from compressbench.probes.loyalty import Loyalty
from compressbench.probes.robustness import Robustness
from compressbench.probes.structure import Structure
from compressbench.records import Metric
from compressbench.state import State
from compressbench.tasks.images.classification import Classification
from compressbench.views import View

CONF = Path(__file__).parents[1] / "conf"
CLASSES = tuple("abcdefg")
TASK = Classification(CLASSES, (0.0,) * 3, (1.0,) * 3, (3, 16, 16))


class Oracle(nn.Module):
    """Reads the label from the top left pixel; ``wrong`` names classes it always takes for the next one."""

    def __init__(self, wrong: tuple[int, ...] = (), sure: float = 20.0) -> None:
        super().__init__()
        self.sure = sure
        self.weight = nn.Parameter(torch.eye(len(CLASSES)))
        for label in wrong:
            self.weight.data[label] = self.weight.data[label].roll(1)

    def forward(self, x: Tensor) -> Tensor:
        labels = (x[:, 0, 0, 0] * 255).round().long()
        return self.sure * self.weight[labels] + 0 * x.mean()


class Blind(nn.Module):
    """The same logits for all."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def bench_of(n: int = 101, missing: int | None = None) -> Bench:
    """Noise images that carry their label in the first pixel."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(CLASSES), n)
    if missing is not None:
        labels[labels == missing] = (missing + 1) % len(CLASSES)
    images = rng.integers(0, 256, (n, 3, 16, 16), dtype=np.uint8)
    images[:, 0, 0, 0] = labels
    split = Split.of(images, labels)
    dataset = Dataset("noise", {"train": split, "test": split}, TASK)
    return Bench(dataset, seed=0, name="probe x")


def state_of(module: nn.Module, kind: str, **settings) -> State:
    return State(model={"_target_": f"{__name__}.{kind}", **settings}, tensors={"weights": snapshot(module)})


def oracle(bench: Bench, **settings) -> View:
    return View(state_of(Oracle(**settings), "Oracle", **settings), bench)


def net(bench: Bench, keep: float = 1.0, seed: int = 0, **facts) -> View:
    """ResNet-8 in which only the largest ``keep`` of each prunable weight is left."""
    torch.manual_seed(seed)
    settings = {"depth": 8, "shape": [3, 16, 16], "classes": len(CLASSES)}
    weights = snapshot(CifarResNet(**settings))
    masks = {}
    for name, w in weights.items():
        if name.endswith("weight") and w.ndim > 1 and keep < 1:
            limit = w.abs().flatten().sort(descending=True).values[int(keep * w.numel())]
            masks[name] = w.abs() > limit
            w *= masks[name]
    spec = {"_target_": "compressbench.models.resnet.CifarResNet", **settings}
    return View(State(spec, {"weights": weights, "masks": masks}, facts=facts), bench)


def table(found) -> dict[tuple[str, str], Metric]:
    rows = list(found)
    result = {(m.name, m.group): m for m in rows}
    assert len(result) == len(rows), "a metric is named twice"
    return result


def value(found, name: str, group: str = "") -> float:
    return table(found)[name, group].value


# Pure metrics


def test_jensen_shannon_exact_facts():
    p, q = torch.tensor([[0.75, 0.2, 0.05]]), torch.tensor([[0.8, 0.1, 0.1]])
    assert float(metrics.js_distance(p, q)) == pytest.approx(0.1146548, abs=5e-8)
    assert float(metrics.js_distance(p, q, base=2)) == pytest.approx(0.1377145, abs=5e-8)
    assert metrics.probability_loyalty(p.log(), q.log()) == pytest.approx(88.53452, abs=5e-6)
    one, other = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 1.0, 0]])
    assert metrics.probability_loyalty(one.log(), other.log()) == pytest.approx(16.74454, abs=2e-5)
    assert metrics.probability_loyalty(one.log(), other.log(), base=2) == 0


def test_identical_predictions_are_exactly_loyal():
    log_probs = torch.randn(500, 10, generator=torch.Generator().manual_seed(0)).mul(9).log_softmax(1)
    assert metrics.probability_loyalty(log_probs, log_probs.clone()) == 100
    assert metrics.probability_loyalty(log_probs, log_probs.clone(), base=2) == 100
    assert metrics.label_loyalty(log_probs.argmax(1), log_probs.argmax(1)) == 100


def test_root_is_taken_per_example_before_the_mean():
    same, one, other = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    p, q = torch.stack([same, one]).log(), torch.stack([same, other]).log()
    assert metrics.probability_loyalty(p, q) == pytest.approx(100 * (1 + 0.1674454) / 2, abs=1e-4)
    mean_first = 100 * (1 - math.sqrt(math.log(2) / 2))
    assert abs(metrics.probability_loyalty(p, q) - mean_first) > 10


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.01, 60), st.sampled_from([math.e, 2]))
def test_distance_is_scipys(seed, classes, spread, base):
    rng = np.random.default_rng(seed)
    p, q = (
        np.exp(spread * rng.normal(size=(5, classes)) - 200 * (rng.random((5, classes)) < 0.2)) for _ in "pq"
    )
    p[0, 0] = 0
    with np.errstate(invalid="ignore"):  # scipy takes roots of rounding errors below 0
        wanted = np.nan_to_num(jensenshannon(p, q, base=base, axis=1))
    got = metrics.js_distance(torch.from_numpy(p), torch.from_numpy(q), base).numpy()
    assert np.allclose(got, wanted, atol=1e-7)
    assert np.allclose(
        got, metrics.js_distance(torch.from_numpy(q), torch.from_numpy(p), base).numpy(), atol=1e-12
    )
    assert (got >= 0).all()
    assert (got <= math.sqrt(math.log(2) / math.log(base)) + 1e-12).all()


def test_calibration_error_by_hand():
    # 60 % sure and right in 2 of 4; 90 % sure and right in 4 of 4: (|.6 - .5| + |.9 - 1|) / 2.
    sure = torch.tensor([0.6] * 4 + [0.9] * 4, dtype=torch.float64)
    log_probs = torch.stack([sure, 1 - sure], 1).log()
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 0, 0])
    assert metrics.calibration_error(log_probs, labels) == pytest.approx(10)
    assert metrics.calibration_error(log_probs, labels, bins=1) == pytest.approx(0, abs=1e-9)


def test_calibration_error_against_a_loop():
    generator = torch.Generator().manual_seed(3)
    log_probs = torch.randn(400, 6, generator=generator).mul(2).log_softmax(1)
    labels = torch.randint(0, 6, (400,), generator=generator)
    confidence, named = log_probs.double().exp().max(1)
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            right = (named[inside] == labels[inside]).double().mean()
            total += float(inside.double().mean() * (right - confidence[inside].mean()).abs())
    assert metrics.calibration_error(log_probs, labels) == pytest.approx(100 * total)


def test_hits_ties_ranks_and_nan():
    scores = torch.tensor([[3.0, 2, 1], [1, 1, 1], [float("nan"), 5, 1], [1, 2, 3]])
    assert metrics.hits(scores, torch.tensor([0, 1, 1, 1])).tolist() == [True, False, False, False]
    assert metrics.hits(scores, torch.tensor([2, 1, 1, 1]), k=2).tolist() == [False, True, False, True]
    assert metrics.hits(scores, torch.tensor([2, 2, 1, 0]), k=3).tolist() == [True, True, False, True]
    constant = torch.zeros(90, 9)
    assert metrics.percent(metrics.hits(constant, torch.arange(90) % 9)) == pytest.approx(100 / 9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20))
def test_top_one_is_argmax(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (50, classes), generator=generator).float()
    labels = torch.randint(0, classes, (50,), generator=generator)
    assert torch.equal(metrics.hits(scores, labels), scores.argmax(1) == labels)


def test_log_likelihood_by_hand():
    log_probs = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    assert metrics.negative_log_likelihood(log_probs, torch.tensor([0, 1])) == pytest.approx(
        (math.log(2) - math.log(0.75)) / 2
    )


# Probes


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_an_oracle_scores_exactly_hundred_on_any_batch_size(batch, monkeypatch):
    monkeypatch.setattr(views, "BATCH", batch)
    bench = bench_of()
    perfect = oracle(bench)
    found = table(Accuracy().measure(perfect, perfect, bench))
    assert found["top1", ""].value == 100
    assert found["top5", ""].value == 100
    assert found["n", ""].value == 101
    assert 0 <= found["nll", ""].value < 1e-6
    assert value(Loyalty().measure(perfect, perfect, bench), "label_loyalty") == 100


def test_accuracy_of_a_blind_model():
    bench = bench_of()
    blind = View(state_of(Blind(), "Blind"), bench)
    found = table(Accuracy().measure(blind, blind, bench))
    assert found["top1", ""].value == pytest.approx(100 * float((blind.labels == 0).double().mean()))
    assert found["nll", ""].value == pytest.approx(math.log(len(CLASSES)), rel=1e-6)


def test_forgetting_names_the_planted_class():
    bench = bench_of(missing=5)
    before, after = oracle(bench, wrong=[6]), oracle(bench, wrong=[2])
    found = table(Forgetting().measure(after, before, bench))
    n = len(bench.dataset.splits["test"])
    count = {i: int((before.labels == i).sum()) for i in range(len(CLASSES))}
    assert found["recall", "c"].value == 0
    assert found["recall_change", "c"].value == -100
    assert found["forgotten", "c"].value == 100
    assert found["learned", "g"].value == 100
    assert found["recall_change", "g"].value == 100
    assert found["forgotten", "a"].value == 0
    assert found["recall", "f"].value is None
    assert "no test example" in found["recall", "f"].note
    assert found["forgotten", ""].value == pytest.approx(100 * count[2] / n)
    assert found["learned", ""].value == pytest.approx(100 * count[6] / n)


def test_loyalty_reads_agreement_not_accuracy():
    bench = bench_of()
    before, after = oracle(bench, wrong=[2]), oracle(bench, wrong=[2])
    assert value(Accuracy().measure(after, before, bench), "top1") < 100
    found = table(Loyalty().measure(after, before, bench))
    assert found["label_loyalty", ""].value == 100
    assert found["probability_loyalty", ""].value == 100
    unsure = table(Loyalty().measure(oracle(bench, wrong=[2], sure=1.0), before, bench))
    assert unsure["label_loyalty", ""].value == 100
    assert unsure["probability_loyalty", ""].value < 80
    assert unsure["probability_loyalty_base2", ""].value < unsure["probability_loyalty", ""].value


def test_structure_counts_by_hand():
    bench = bench_of()
    dense, sparse = net(bench), net(bench, keep=0.25)
    for name in ("layer2.0.conv1.weight", "fc.weight"):
        if name in sparse.state.tensors["weights"]:
            sparse.state.tensors["weights"][name].zero_()
    found = table(Structure().measure(sparse, dense, bench))
    weights = {k: w for k, w in sparse.state.weights.items() if k.endswith("weight") and w.ndim > 1}
    size, left = sum(w.numel() for w in weights.values()), sum(int((w != 0).sum()) for w in weights.values())
    assert found["prunable", ""].value == size
    assert found["nonzero", ""].value == left
    assert found["density", ""].value == pytest.approx(100 * left / size)
    others = found["parameters", ""].value - size
    assert others > 0
    dense_others = sum(int((p != 0).sum()) for n, p in dense.module.named_parameters() if n not in weights)
    assert found["density_all", ""].value == pytest.approx(100 * (left + dense_others) / (size + others))
    for name, w in weights.items():
        assert found["layer_density", name].value == pytest.approx(100 * float((w != 0).double().mean()))
    empty = [name for name, w in weights.items() if not w.any()]
    assert empty
    assert found["empty_layers", ""].value == len(empty)
    assert all(name in found["empty_layers", ""].note for name in empty)
    assert value(Structure().measure(dense, dense, bench), "density") == 100
    assert table(Structure().measure(dense, dense, bench))["empty_layers", ""].note == ""


def test_compute_counts_the_lineage():
    bench = bench_of()
    once = net(bench, examples=1000.0, macs=5e9, seconds=2.0)
    often = net(bench, examples=11000.0, macs=55e9, seconds=22.0)
    found = table(Compute().measure(often, once, bench))
    assert found["train_examples", ""].value == 11000
    assert found["train_macs", ""].value == 55e9
    assert found["train_seconds", ""].unit == "s"
    assert found["train_cost_ratio", ""].value == 11
    assert found["train_cost_ratio", ""].basis == "computed"
    free = table(Compute().measure(often, net(bench), bench))
    assert free["train_cost_ratio", ""].value is None


# Robustness


def easy(bench: Bench) -> Bench:
    """The same images with the classes that the dense net gives them, so that all can fall."""
    named = net(bench).log_probs.argmax(1).numpy()
    test = replace(bench.dataset.splits["test"], labels=named)
    return replace(bench, dataset=replace(bench.dataset, splits={"train": test, "test": test}), feeds={})


ATTACK = Robustness(eps="24/255", steps=8, examples=60)


def test_robustness_falls_in_the_right_order():
    bench = easy(bench_of())
    dense, sparse = net(bench), net(bench, keep=0.5)
    found = {k[0]: m.value for k, m in table(ATTACK.measure(dense, dense, bench)).items()}
    assert found["clean_accuracy"] == 100
    assert found["pgd_accuracy"] < 100
    assert found["pgd_accuracy"] <= found["fgsm_accuracy"]
    assert found["pgd_accuracy"] <= found["pgd_transfer_accuracy"] < 20
    for name in ("fgsm", "pgd"):
        assert found[f"{name}_label_loyalty"] == 100
        assert found[f"{name}_probability_loyalty"] == 100
    other = table(ATTACK.measure(sparse, dense, bench))
    assert other["pgd_label_loyalty", ""].value < 100
    assert other["pgd_transfer_accuracy", ""].value >= other["pgd_accuracy", ""].value
    assert {m.n for m in other.values()} == {60}


def test_robustness_is_repeatable_whatever_was_measured_before():
    bench = easy(bench_of())
    first = table(ATTACK.measure(net(bench, keep=0.5), net(bench), bench))
    reference = net(bench)
    list(ATTACK.measure(net(bench, keep=0.1), reference, replace(bench, name="probe y")))
    again = table(ATTACK.measure(net(bench, keep=0.5), reference, replace(bench, name="probe z")))
    assert first == again


def test_reference_is_attacked_once_for_all_subjects(monkeypatch):
    bench = easy(bench_of())
    reference, made = net(bench), []
    make = Attacked.make
    monkeypatch.setattr(
        Attacked, "make", staticmethod(lambda view, *rest: made.append(view) or make(view, *rest))
    )
    subjects = [net(bench, keep=k) for k in (0.5, 0.3)]
    for subject in (*subjects, reference, reference):
        list(ATTACK.measure(subject, reference, bench))
    assert made == [reference, *subjects]  # one attack tells what fell, when, and what transfers
    made.clear()
    list(replace(ATTACK, drop_fallen=False).measure(reference, reference, bench))
    assert made == [reference]  # other settings
    list(replace(ATTACK, drop_fallen=False).measure(subjects[0], reference, bench))
    assert made == [reference, subjects[0]]


def test_what_is_wrong_anyway_is_not_counted_as_standing():
    bench = bench_of()
    view = net(bench)
    found = {k[0]: m.value for k, m in table(ATTACK.measure(view, view, bench)).items()}
    assert found["pgd_accuracy"] <= found["fgsm_accuracy"] <= found["clean_accuracy"] < 100


def test_a_model_without_gradient_gets_no_figures_and_a_reason():
    bench = bench_of()

    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.detach() > 0.5).float().flatten(1)[:, : len(CLASSES)]

    stepping = View(State({}, {}), bench)
    stepping.__dict__["module"] = Step()
    found = table(ATTACK.measure(stepping, stepping, bench))
    assert found["pgd_accuracy", ""].value is None
    assert "passes no gradient" in found["pgd_accuracy", ""].note
    against = table(ATTACK.measure(net(bench), stepping, bench))
    assert against["pgd_transfer_accuracy", ""].value is None
    assert against["pgd_accuracy", ""].value is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": 0}, "eps is 0"),
        ({"eps": "9/8"}, "eps is 9/8"),
        ({"eps": "lots"}, "eps is 'lots'"),
        ({"eps": "8/0"}, "eps is '8/0'"),
        ({"steps": 0}, "steps 0"),
        ({"step": -1}, "step is -1"),
        ({"examples": 0}, "examples is 0"),
    ],
)
def test_bad_settings_of_an_attack(settings, words):
    with pytest.raises(UserError, match=words):
        Robustness(**settings)


# Cost


def test_cost_columns_are_labelled_and_exact():
    bench = replace(bench_of(), target=TorchCPU(batches=(1, 5), seconds=0.02))
    dense, sparse = net(bench), net(bench, keep=0.1)
    found = table(Cost().measure(sparse, dense, bench))
    whole = table(Cost().measure(dense, dense, bench))
    basis = {name: m.basis for (name, _), m in found.items()}
    assert {basis[k] for k in ("parameters", "nonzero_parameters", "macs", "macs_nonzero")} == {"theoretical"}
    assert {basis[k] for k in ("dense_bytes", "sparse_bytes")} == {"on disk"}
    assert {basis[k] for k in ("latency_median_b1", "throughput_b5", "speedup_b1", "speedup_b5")} == {
        "measured"
    }

    assert found["macs", ""].value == whole["macs", ""].value == whole["macs_nonzero", ""].value
    assert 0.05 < found["macs_nonzero", ""].value / found["macs", ""].value < 0.15
    assert found["dense_bytes", ""].value == whole["dense_bytes", ""].value
    size = sum(w.numel() * w.element_size() for w in dense.state.weights.values())
    assert size < whole["dense_bytes", ""].value < size + 20_000
    # 3.2 bits of values and at most 1 bit of place for each of 32 bits, and what isn't pruned
    assert found["sparse_bytes", ""].value < 0.2 * found["dense_bytes", ""].value

    for b in (1, 5):
        low, middle, high = (found[f"latency_{k}_b{b}", ""].value for k in ("min", "median", "p90"))
        assert 0 < low <= middle <= high
        assert DENSE in found[f"speedup_b{b}", ""].note
        assert whole[f"speedup_b{b}", ""].value == 1
        assert whole[f"speedup_b{b}", ""].basis == "computed"
    assert found["throughput_b5", ""].value == pytest.approx(5000 / found["latency_median_b5", ""].value)
    assert found["latency_median_b1", ""].n >= 10


def test_a_smaller_model_is_really_faster():
    bench = replace(bench_of(), target=TorchCPU(batches=(32,), seconds=0.3))
    torch.manual_seed(0)
    settings = {"depth": 20, "shape": [3, 16, 16], "classes": len(CLASSES)}
    spec = {"_target_": "compressbench.models.resnet.CifarResNet", **settings}
    large = View(State(spec, {"weights": snapshot(CifarResNet(**settings))}), bench)
    found = table(Cost().measure(net(bench), large, bench))
    assert found["speedup_b32", ""].value > 1.5
    assert DENSE not in found["speedup_b32", ""].note


def test_without_a_target_nothing_is_timed():
    bench = bench_of()
    found = list(Cost().measure(net(bench), net(bench), bench))
    units = {m.unit for m in found}
    assert [m.name for m in found if m.unit == "x"] == ["compression_ratio"]
    assert units == {"1", "MACs", "bytes", "x"}  # x: bytes over bytes


def test_unsupported_says_why():
    bench = bench_of()
    target = SimpleNamespace(batches=(1,), lower=lambda view: Unsupported("no such device"), time=None)
    bench = replace(bench, target=target)
    found = table(Cost().measure(net(bench), net(bench), bench))
    assert found["latency_median_b1", ""].value is None
    assert found["latency_median_b1", ""].note == "no such device"


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_cuda_target_without_a_gpu_is_unsupported():
    found = TorchCUDA().lower(net(bench_of()))
    assert isinstance(found, Unsupported)
    assert "no CUDA device" in found.why


def test_timing_restores_the_threads_and_takes_turns():
    bench = bench_of()
    target = TorchCPU(threads=1, batches=(1,), seconds=0.01)
    lowered = target.lower(net(bench))
    torch.set_num_threads(2)
    seen: list[tuple[str, int]] = []
    spies = [
        replace(lowered, run=lambda x, who=who: seen.append((who, torch.get_num_threads()))) for who in "ab"
    ]
    one, two = target.time(spies, 1)
    assert torch.get_num_threads() == 2
    assert {threads for _, threads in seen} == {1}
    assert len(one.seconds) == len(two.seconds) >= 10
    blocks = [(who, len(list(run))) for who, run in itertools.groupby(who for who, _ in seen)]
    assert blocks[:4] == [("a", 1), ("b", 1), ("a", 1), ("b", 1)], (
        "each once to warm up, once to see how long it takes"
    )
    assert blocks[4:7] == [("a", 11), ("b", 22), ("a", 22)], "ten calls a turn behind one that isn't counted"


def test_the_first_call_of_a_turn_is_not_counted():
    """It finds the caches as its neighbour left them: here it takes a hundred times as long."""
    last: list[str] = []

    def timer(who: str):
        def once() -> float:
            cold = last[-1:] != [who]
            last.append(who)
            return 0.1 if cold and len(last) > 2 else 0.001

        return once

    clock = iter(range(1000))
    one, two = in_turns([timer("a"), timer("b")], seconds=3, fewest=1, clock=lambda: next(clock))
    assert set(one.seconds) == set(two.seconds) == {0.001}
    assert [len(turn) for turn in one.walls] == [4] * 7, "rounds of four"
    assert len(two.walls) == 7


def test_turns_stop_at_the_budget():
    clock = iter(range(1000))
    one, two = in_turns([lambda: 1.0, lambda: 2.0], seconds=8, fewest=1, clock=lambda: next(clock))
    assert (one.seconds, two.seconds) == ((1.0,) * 12, (2.0,) * 12), (
        "the clock is asked from the fifth round on"
    )
    short, _ = in_turns([lambda: 1.0, lambda: 2.0], seconds=0, fewest=1)
    assert short.seconds == (1.0,) * 5, "five rounds whatever the time"


def test_quantiles():
    timing = Timing(4, tuple(float(i) for i in range(11, 0, -1)))
    assert (timing.minimum, timing.median, timing.p90) == (1, 6, 10)
    assert Timing(1, (3.0,)).p90 == 3


@pytest.mark.parametrize("settings", [{"batches": ()}, {"batches": (0,)}, {"threads": 0}])
def test_bad_settings_of_a_target(settings):
    with pytest.raises(UserError, match="hardware"):
        TorchCPU(**settings)


DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(0, 40), max_size=3),
    keep=st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_packing_is_exactly_reversible(shape, keep, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator).mul(3)
    tensor = (tensor * (torch.rand(shape, generator=generator) < keep)).to(dtype)
    tensors = {"a.weight": tensor, "empty": torch.zeros(0), "scalar": torch.tensor(7), "b": tensor.clone()}
    back = packing.unpack(packing.pack(tensors))
    assert list(back) == list(tensors)
    for name, wanted in tensors.items():
        assert back[name].dtype == wanted.dtype
        assert torch.equal(back[name], wanted)


@pytest.mark.parametrize(("keep", "form"), [(1.0, "dense"), (0.3, "mask"), (0.01, "gaps"), (0.0001, "gaps")])
def test_packing_takes_the_shortest_form(keep, form):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(400_000, generator=generator) * (torch.rand(400_000, generator=generator) < keep)
    size = len(packing.pack({"w": tensor}))
    nonzero = int(tensor.count_nonzero())
    wanted = {
        "dense": 4 * 400_000,
        "mask": 400_000 / 8 + 4 * nonzero,
        "gaps": nonzero * (4 + (2 if int(tensor.nonzero().diff(dim=0).max()) > 255 else 1)),
    }
    assert min(wanted, key=wanted.get) == form
    assert wanted[form] <= size < wanted[form] + 400
    assert torch.equal(packing.unpack(packing.pack({"w": tensor}))["w"], tensor)


def test_packing_long_gaps():
    tensor = torch.zeros(300_000)
    tensor[[5, 299_999]] = 1.5
    assert torch.equal(packing.unpack(packing.pack({"w": tensor}))["w"], tensor)


def test_unpacking_something_else():
    with pytest.raises(UserError, match="not a packed set"):
        packing.unpack(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")


# Configuration


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "evaluation").glob("*.yaml")))
def test_shipped_evaluations_compose_and_build(name):
    config = composed([f"evaluation={name}", "scale=smoke"])["evaluation"]
    assert (CONF / "evaluation" / f"{name}.yaml").read_text().startswith(f"# {name}: ")
    bench = bench_of(20)
    view = net(bench)
    for probe, spec in config["probes"].items():
        specs.check(spec, f"evaluation.probes.{probe}")
        built = specs.build(spec)
        if probe == "robustness":
            built = replace(built, steps=1)
        if (name, probe) == ("loyalty_mnli", "shifted"):
            with pytest.raises(UserError, match="is a table of texts, and noise is none of texts"):
                list(built.measure(view, view, bench))
        elif hasattr(built, "measure"):  # of populations: tests/test_populations.py
            assert all(isinstance(m, Metric) for m in built.measure(view, view, bench))


def test_every_probe_has_its_file_and_line():
    shipped = {p.stem for p in (CONF / "probe").glob("*.yaml")}
    folder = Path(specs.__file__).parents[1] / "probes"
    shared = {
        "__init__",
        "answered",
        "attacked",
        "families",
        "landscape",
        "side_by_side",
        "speedups",
        "spoilt",
        "thumbnails",
        "unfit",
    }
    assert shipped == {p.stem for p in folder.glob("*.py")} - shared
    for name in shipped:
        assert (CONF / "probe" / f"{name}.yaml").read_text().startswith(f"# {name}: ")


def test_planning_imports_no_torch():
    folder = Path(specs.__file__).parents[1] / "probes"
    names = [p.stem for p in folder.glob("[a-z]*.py") if p.stem not in ("attacked", "landscape", "spoilt")]
    code = "import sys\n" + "".join(f"import compressbench.probes.{n}\n" for n in names)
    code += "import compressbench.hardware.torch_cpu, compressbench.hardware.torch_cuda\n"
    code += "compressbench.hardware.torch_cpu.TorchCPU()\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
