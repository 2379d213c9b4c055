"""What runs on a GPU: the same tests on a pretended one (see ``pretended``) and, where there is one, on the card."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases_cuda import gpu, on_gpu  # noqa: F401
from cases_exits import HEAD, POINTS, RESNET, build, spec
from compressbench.bench import Bench
from compressbench.exit_criteria.policy import assigned, compacted, everything, policy_of, queued, waiting
from compressbench.hardware.exits import lower
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.hardware.torch_cpu import TorchCPU
from compressbench.hardware.torch_cuda import FORMS, PRECISIONS, TorchCUDA, arithmetic
from compressbench.models import exit_policies
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.exits import parts_of
from compressbench.probes.batching import FULL, Batching
from compressbench.probes.targets import Targets
from compressbench.stages.exits import Attach, Choose
from compressbench.state import State
from compressbench.views import View
from pretended import Pretended, pretended

NEAR = {"f32": 1e-3, "tf32": 2e-2, "f16": 2e-2, "bf16": 0.1}
"""Of the range of logits, how far one may be from the CPU's."""


@pytest.fixture(scope="module")
def resnet(place: Bench) -> State:
    """A ResNet-8 whose norms have seen something, so that folding them matters."""
    return worn(drawn(RESNET, place))


@pytest.fixture(scope="module")
def early(place: Bench) -> State:
    """The same with two exits and a policy by which some leave at each."""
    own = exit_policies.with_exits(
        drawn(RESNET, place), dataclasses.replace(place, name="attach"), Attach(POINTS, HEAD)
    )
    own = worn(own)
    with torch.no_grad():
        said = everything(
            parts_of(module_of(own)), *place.task.encode(place.feed("test").take(torch.arange(50)))
        )
    first, second = (logits.softmax(1).amax(1) for logits in said[:2])
    half = float(first.quantile(0.61))
    rest = float(second[first < half].quantile(0.51))
    return Choose(spec("max_probability"), threshold=(half, rest), calibrate=False).apply(own, place)


def worn(state: State) -> State:
    """Other weights: norms with statistics and factors of their own, surer answers."""
    draw = torch.Generator().manual_seed(1)
    changed = {
        n: w + 0.3 * torch.rand(w.shape, generator=draw) if n.endswith(("running_var", "running_mean")) else w
        for n, w in state.weights.items()
    }
    return state.with_groups(weights={n: w * 8 if w.ndim == 2 else w for n, w in changed.items()})


def lowered(target: TorchCUDA, state: State, bench: Bench) -> Lowered:
    found = lower(target, View(state, bench))
    assert isinstance(found, Lowered), found
    return found


def far(there: Tensor, own: Tensor) -> float:
    """The largest distance, over the range of what is right."""
    return float((there.float().cpu() - own).abs().max() / (own.max() - own.min()))


# The target. ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "precision"), [*((f, "f32") for f in FORMS), *(("eager", p) for p in PRECISIONS[1:])]
)
def test_every_form_and_precision_answers_as_the_cpu_does(
    gpu: Pretended | None, form: str, precision: str, resnet: State, place: Bench
) -> None:
    target = TorchCUDA(batches=(1, 16), seconds=0.01, form=form, precision=precision)
    images = place.task.encode(place.feed("test").take(torch.arange(16)))
    with torch.no_grad():
        own = module_of(resnet)(*images)
    found = lowered(target, resnet, on_gpu(place) if precision == "f32" else place)
    for size in (16, 1, 16):
        there = found.run(*(x[:size] for x in found.inputs))
        assert isinstance(there, Tensor)
        assert there.is_cuda
        assert there.dtype == torch.float32
        assert far(there, own[:size]) < NEAR[precision]
    assert all(x.dtype == target._type() for x in found.inputs), "no conversion is timed"
    assert f"torch {form}, {precision}, " in found.runtime
    timings = target.time([found, found], 16)
    assert all(0 < t.minimum <= t.median < 1 for t in timings)


@pytest.mark.parametrize(("form", "precision"), [*((f, "f32") for f in FORMS), ("graph", "f16")])
def test_early_exits_in_every_form_answer_and_leave_as_on_the_cpu(
    gpu: Pretended | None, form: str, precision: str, early: State, place: Bench
) -> None:
    target = TorchCUDA(batches=(1, 16), seconds=0.01, form=form, precision=precision)
    images = place.task.encode(place.feed("test").take(torch.arange(50)))
    policy = policy_of(early.policies)
    assert policy is not None
    with torch.no_grad():
        own = everything(parts_of(module_of(early)), *images)
    exits = assigned(policy, own)
    assert len(set(exits.tolist())) == 3, "some leave at each exit"
    found = lowered(target, early, on_gpu(place))
    batch = tuple(x[:50] for x in found.inputs)
    with torch.inference_mode():
        answers = {
            "waiting": waiting(found.parts, policy, *batch),
            "compacted": compacted(found.parts, policy, *batch),
            "queued": queued(found.parts, policy, *batch, batch=16),
        }
        single = torch.cat(
            [compacted(found.parts, policy, *(x[k : k + 1] for x in batch)).exits for k in range(50)]
        )
    for way, answer in answers.items():
        same = answer.exits.cpu() == exits
        assert float(same.double().mean()) > 0.9, way
        right = torch.stack(own)[exits, torch.arange(50)][same]
        assert far(answer.logits.cpu()[same], right) < NEAR[precision], way
    assert float((single.cpu() == exits).double().mean()) > 0.9
    timing = target.time([found], 16)[0]
    assert 0 < timing.median < 1
    assert "early exits" in found.runtime


def test_each_part_waits_for_the_gpu_once(early: State, place: Bench) -> None:
    policy = policy_of(early.policies)
    assert policy is not None
    with pretended() as there:
        found = lowered(TorchCUDA(batches=(16,)), early, on_gpu(place))
        batch = tuple(x[:50] for x in found.inputs)
        for run in (waiting, compacted, lambda *x: queued(*x, batch=16)):
            there.waits.clear()
            with torch.inference_mode():
                answer = run(found.parts, policy, *batch)
            decided = sum(part < len(found.parts) - 1 for part, _ in answer.rows)
            assert sum(there.waits.values()) == decided, there.waits


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_throughput_with_exits_is_measured_when_the_gpu_is_done(
    gpu: Pretended | None, form: str, early: State, place: Bench
) -> None:
    bench = on_gpu(place)
    targets: dict[str, Any] = {"card": TorchCUDA(seconds=0.01, form=form)}
    if form == "eager":
        targets["cpu"] = TorchCPU(seconds=0.01)
    probe = Batching(targets, (8, 32), examples=24, seconds=0.01)
    view = View(early, bench)
    rows = {(m.name, m.group): m for m in probe.measure(view, view, bench)}
    if form == "eager":
        beside = rows["exit_throughput_b32", "cpu/compacted"]
        assert beside.value is not None
        assert "GPU" not in beside.note
    for batch in (8, 32):
        for way in (FULL, "waiting", "compacted", "queued"):
            rate = rows[f"exit_throughput_b{batch}", f"card/{way}"]
            assert rate.value is not None
            assert rate.value > 0
            assert "waits for the GPU" in rate.note
        cost = {
            way: rows[f"exit_cost_b{batch}", f"card/{way}"].value
            for way in ("waiting", "compacted", "queued")
        }
        assert cost["compacted"] == pytest.approx(cost["queued"])
        assert cost["compacted"] <= cost["waiting"] + 1e-9
    assert "0 waits" in rows["exit_throughput_b32", f"card/{FULL}"].note
    if gpu is not None:
        assert gpu.waits["synchronize"] > 0
    assert rows["exit_cost_b32", "card/queued"].n == 32, "a pass holds a batch"


@pytest.mark.parametrize("form", ["eager", "graph"])
def test_a_stopwatch_of_a_gpu_waits_for_it(form: str, early: State, place: Bench) -> None:
    """With what waits for it taken away, a pass of the whole net wouldn't wait at all."""
    with pretended() as there:
        bench = on_gpu(place)
        view = View(early, bench)
        whole = View(dataclasses.replace(early, policies={}, key=""), bench)
        found = lower(TorchCUDA(batches=(16,), form=form), whole)
        assert isinstance(found, Lowered)
        there.waits.clear()
        found.run(*(x[:16] for x in found.inputs))
        assert not there.waits, "the net alone waits for nothing"
        list(
            Batching({"card": TorchCUDA(seconds=0.01, form=form)}, (16,), 32, 0.01).measure(view, view, bench)
        )
        assert there.waits["synchronize"] >= 4 * 3, "four ways, three passes or more"


def test_targets_reports_what_a_gpu_measures(gpu: Pretended | None, resnet: State, place: Bench) -> None:
    bench = on_gpu(place)
    view = View(resnet, bench)
    probe = Targets({"card": TorchCUDA((1, 8), 0.01)}, memory=True)
    found = {m.name: m for m in probe.measure(view, view, bench)}
    few, many = (found[f"peak_memory_b{batch}"].value for batch in (1, 8))
    assert few is not None
    assert many is not None
    if gpu is None:
        assert 0 < few < many
    else:
        assert few == many == (1 << 20) - (1 << 10), (
            "what the pretended GPU says at most, less what was there"
        )
    recorded = Targets({"card": TorchCUDA((1,), 0.01, form="graph")}, memory=True)
    (memory,) = {m for m in recorded.measure(view, view, bench) if m.name == "peak_memory_b1"}
    assert memory.value is None
    assert "keeps its memory" in memory.note
    assert found["latency_b1"].value is not None
    assert found["throughput_b8"].value is not None
    assert found["speedup_b8"].value is not None


class Wide(nn.Module):
    """Linear layers of sizes that integer and 2:4 kernels take, and one of a size that they don't."""

    def __init__(self, shape: Any = (1, 8, 8), classes: int = 10) -> None:
        super().__init__()
        size = math.prod(shape)
        self.one, self.two = nn.Linear(size, 64), nn.Linear(64, 128)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(torch.relu(self.one(x.flatten(1)))))
        return self.out(torch.relu(self.conv(x.view(-1, 8, 4, 4))).flatten(1))


@pytest.fixture(scope="module")
def wide(place: Bench) -> State:
    return drawn(build(f"{__name__}.Wide"), place)


@pytest.mark.cuda
@pytest.mark.parametrize("form", ["eager", "graph"])
@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_two_of_four_runs_sparse(form: str, precision: str, wide: State, place: Bench) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("sparse tensor cores came with Ampere")
    state = two_of_four(wide)
    target = TorchCUDA((1, 64), 0.01, form=form, precision=precision, semi_structured=True)
    found = lowered(target, state, place)
    assert "2 layers 2:4 (one, two)" in found.runtime
    assert "1 layer with 2:4 weights dense: conv" in found.runtime
    assert found.skips_zeros
    with torch.no_grad():
        own = module_of(state)(*(x.float().cpu() for x in found.inputs))
    there = found.run(*found.inputs)
    assert isinstance(there, Tensor)
    assert far(there, own) < NEAR[precision]


def two_of_four(state: State) -> State:
    """Of every four inputs of a layer the two largest, but for the output."""
    weights, masks = dict(state.weights), {}
    for name, w in weights.items():
        if w.ndim > 1 and not name.startswith("out"):
            moved = w.movedim(1, -1)
            groups = moved.reshape(-1, 4)
            kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.abs().topk(2).indices, True)
            masks[name] = kept.view(moved.shape).movedim(-1, 1)
            weights[name] = w * masks[name]
    return state.with_groups(weights=weights, masks=masks)


def test_what_no_sparse_kernel_takes_stays_dense_and_is_said(
    monkeypatch: pytest.MonkeyPatch, wide: State, place: Bench
) -> None:
    """On the pretended GPU a kernel that takes 64 rows and multiples alone stands for torch's."""

    def kernel(weight: Tensor) -> Tensor:
        if weight.shape[0] % 128:
            raise RuntimeError("Both dimensions must be larger than or equal to and a multiple of (128, 64)")
        return weight

    monkeypatch.setattr("torch.sparse.to_sparse_semi_structured", kernel)
    target = TorchCUDA((1, 8), 0.01, precision="f16", semi_structured=True)
    with pretended():
        found = lowered(target, two_of_four(wide), place)
        dense = lowered(target, wide, place)
    assert "1 layer 2:4 (two)" in found.runtime
    assert "2 layers with 2:4 weights dense: " in found.runtime
    assert {"one", "conv"} <= set(found.runtime.replace(",", "").replace(";", "").split())
    assert found.skips_zeros
    assert "0 layers 2:4" in dense.runtime
    assert not dense.skips_zeros


@pytest.mark.parametrize(("form", "precision"), [("eager", "f32"), ("compiled", "f16"), ("graph", "f16")])
def test_bytes_are_multiplied_as_bytes(
    gpu: Pretended | None, form: str, precision: str, wide: State, place: Bench
) -> None:
    from compressbench.stages.quantize import Quantize

    state = Quantize(weights=8, inputs=8, examples=64).apply(
        wide, dataclasses.replace(place, name="quantize")
    )
    target = TorchCUDA((1, 40), 0.01, form=form, precision=precision, integers=True)
    found = lowered(target, state, place)
    assert "2 linear layers int8 (one, two)" in found.runtime
    assert "2 quantized layers simulated in float: " in found.runtime
    assert not found.simulated
    images = place.task.encode(place.feed("test").take(torch.arange(40)))
    with torch.no_grad():
        own = module_of(state)(*images)
    for size in (40, 1):
        there = found.run(*(x[:size] for x in found.inputs))
        assert isinstance(there, Tensor)
        assert far(there, own[:size]) < (0.05 if precision == "f16" else 0.02)


def test_bytes_are_multiplied_by_a_transposed_matrix(
    monkeypatch: pytest.MonkeyPatch, wide: State, place: Bench
) -> None:
    """cuBLAS takes no other, 17 rows and multiples of 8 at least."""
    from compressbench.stages.quantize import Quantize

    seen = []
    product = torch._int_mm

    def watched(one: Tensor, other: Tensor) -> Tensor:
        seen.append(
            (
                one.is_contiguous(),
                other.t().is_contiguous() and not other.is_contiguous(),
                *one.shape,
                *other.shape,
            )
        )
        return product(one, other)

    state = Quantize(weights=8, inputs=8, examples=64).apply(
        wide, dataclasses.replace(place, name="quantize")
    )
    with pretended():
        found = lowered(TorchCUDA((1,), integers=True, precision="f16"), state, place)
        monkeypatch.setattr(torch, "_int_mm", watched)
        found.run(*(x[:1] for x in found.inputs))
    assert len(seen) == 2
    for rows, columns, n, k, inner, m in seen:
        assert rows
        assert columns
        assert n > 16
        assert k == inner
        assert k % 8 == m % 8 == 0


def test_float32_is_float32(resnet: State, place: Bench) -> None:
    """torch lets convolutions round to TF32 unless told otherwise."""
    from torch.backends import cudnn

    seen = []
    with pretended(), arithmetic(True):
        for precision in ("f32", "tf32", "f16"):
            found = lowered(TorchCUDA((8,), precision=precision), resnet, place)
            hook = lambda *_: seen.append((cudnn.allow_tf32, torch.get_float32_matmul_precision()))  # noqa: E731
            handle = nn.modules.module.register_module_forward_pre_hook(hook)
            found.run(*found.inputs)
            handle.remove()
            assert len(set(seen)) == 1
            assert seen[0] == ((True, "high") if precision == "tf32" else (False, "highest"))
            seen.clear()
        assert cudnn.allow_tf32, "it is put back"


def test_precisions_are_said_as_trainings_say_them() -> None:
    """torch has two ways to say it, and after one of them the other one's getter fails: both are asked here."""
    from compressbench.training.launching import exact

    def told() -> tuple[bool, str]:
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before = told()
    for tf32 in (True, False):
        with exact(tf32, "cuda"):
            outer = told()
            with arithmetic(not tf32):
                assert told() == ((False, "highest") if tf32 else (True, "high"))
            assert told() == outer
        assert told() == before
        with arithmetic(tf32), exact(not tf32, "cuda"):
            assert told() == ((False, "highest") if tf32 else (True, "high"))
        assert told() == before


def test_no_gpu_is_said_so(
    monkeypatch: pytest.MonkeyPatch, resnet: State, early: State, place: Bench
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for state in (resnet, early):
        found = lower(TorchCUDA(), View(state, place))
        assert isinstance(found, Unsupported)
        assert "no CUDA device" in found.why


# A graph. ------------------------------------------------------------------------------------------------------------


def test_a_graph_of_another_layout_or_size_is_another_graph(
    gpu: Pretended | None, resnet: State, place: Bench
) -> None:
    """Each call answers for its own batch, whatever was asked before, and a result stays what it was."""
    found = lowered(TorchCUDA((1, 4), form="graph"), resnet, place)
    with torch.no_grad():
        own = module_of(resnet)(*(x.cpu().contiguous() for x in found.inputs))
    first = found.run(*(x[:4] for x in found.inputs))
    assert isinstance(first, Tensor)
    kept = first.clone()
    second = found.run(*(x[4:8] for x in found.inputs))
    third = found.run(*(x[2:5] for x in found.inputs))
    assert isinstance(second, Tensor)
    assert isinstance(third, Tensor)
    assert torch.equal(first, kept)
    assert far(first, own[:4]) < 1e-3
    assert far(second, own[4:8]) < 1e-3
    assert far(third, own[2:5]) < 1e-3
