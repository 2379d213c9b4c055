"""Early exits at the layers of a Transformer: masks go along, padding changes nothing, MACs and rules by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cases_exits import middle, policy, spec, training
from cases_text_exits import ENCODER, FIRST, GLOSSES, MASKED, POINTS, attached, bench, exits  # noqa: F401
from compressbench import specs
from compressbench.bench import Bench
from compressbench.data.load import load
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
from compressbench.exit_heads.first_token import first_token
from compressbench.exit_heads.masked_mean import masked_mean
from compressbench.hardware.target import Lowered
from compressbench.inputs import rows
from compressbench.models import exit_policies
from compressbench.models.build import module_of
from compressbench.models.counting import count, of_exits
from compressbench.models.draw import drawn
from compressbench.models.encoder import TextEncoder
from compressbench.models.exits import parts_of, prepared_parts
from compressbench.stages.exits import Attach, Choose
from compressbench.state import State
from compressbench.views import View

ALL = (max_probability, entropy, margin, patience)
COUNT = 61


def encoded(bench: Bench, count: int = COUNT) -> tuple[Tensor, ...]:
    return bench.task.encode(bench.feed("test").head(count))


def mixed(criterion, logits: list[Tensor]) -> Policy:
    """Thresholds that let some leave at each exit."""
    if criterion is patience:
        return policy(patience, 1, 1)
    sure = exit_policies.sureness(policy(criterion, math.inf, math.inf), logits)
    first = middle(sure[:, 0])
    return policy(criterion, first, middle(sure[sure[:, 0] < first][:, 1]))


# heads ----------------------------------------------------------------------------------------------------------------


def test_the_masked_mean_is_numpys_over_what_is_there() -> None:
    torch.manual_seed(0)
    head, x = masked_mean((5, 6), 3, norm=False), torch.randn(4, 5, 6)
    lengths = [5, 2, 1, 0]
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    weight, bias = (t.detach().numpy() for t in (head.fc.weight, head.fc.bias))
    for row, length in enumerate(lengths):
        mean = x[row, :length].numpy().mean(0) if length else np.zeros(6, np.float32)
        assert head(x, mask)[row].detach().numpy() == pytest.approx(weight @ mean + bias, abs=1e-5)
    normed, plain = (masked_mean((5, 6), 3, norm)(x * 100 + 7, mask).detach() for norm in (True, False))
    assert float(normed.abs().max()) < 5 < float(plain.abs().max()), "normalised first"


def test_the_first_token_alone_is_read() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, 6)
    other = x.clone()
    other[:, 1:] = 9
    for pooler in (True, False):
        head = first_token((5, 6), 3, pooler)
        assert torch.equal(head(x), head(other))
        assert isinstance(head.pooler, nn.Sequential) == pooler
    with pytest.raises(UserError, match=r"first_token takes tokens \(tokens, width\).*\(3, 4, 4\)"):
        first_token((3, 4, 4), 2)


def test_a_head_that_reads_a_mask_is_refused_on_pictures(digits) -> None:
    vit = {
        "name": "vit",
        "build": {
            "_target_": "compressbench.models.vit.VisionTransformer",
            "shape": "@shape", "classes": "@classes", "dim": 16, "depth": 2, "heads": 2, "mlp": 16,
        },
    }  # fmt: skip
    place = Bench(digits, seed=0, name="init", say=lambda _: None)
    with pytest.raises(UserError, match="reads input 2 of the net, a mask, and it has 1"):
        Attach(("blocks.0",), MASKED).apply(drawn(vit, place), place)


# leaving --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ALL)
def test_compacted_texts_answer_as_all_together_in_any_batch_and_order(
    criterion, exits: State, bench: Bench
) -> None:
    parts, inputs = parts_of(module_of(exits)), encoded(bench)
    with torch.inference_mode():
        logits = everything(parts, *inputs)
        rule = mixed(criterion, logits)
        where = assigned(rule, logits)
        assert set(where.tolist()) == ({1, 2} if criterion is patience else {0, 1, 2})
        wanted = taken(logits, where)
        draw = torch.Generator().manual_seed(0)
        for batch in (1, 2, 7, COUNT):
            order = torch.randperm(COUNT, generator=draw)
            chunks = [rows(inputs, part) for part in order.split(batch)]
            for run in (compacted, waiting):
                found = [run(parts, rule, *chunk) for chunk in chunks]
                assert torch.equal(torch.cat([f.exits for f in found]), where[order]), (run, batch)
                said = torch.cat([f.logits for f in found])
                assert torch.allclose(said, wanted[order], atol=1e-5)
                assert torch.equal(said.argmax(1), wanted[order].argmax(1))
            line = queued(parts, rule, *rows(inputs, order), batch=batch)
            assert torch.equal(line.exits, where[order])
            assert torch.allclose(line.logits, wanted[order], atol=1e-5)


def test_a_streak_is_of_the_rows_that_stayed() -> None:
    """Five exits that say what is written here: some rows have left when later ones look back at what was said before."""
    said = [[0, 1, 2, 0, 1], [0, 2, 0, 1, 2], [0, 2, 1, 0, 1], [0, 2, 1, 2, 0], [0, 0, 0, 0, 0]]
    table = nn.functional.one_hot(torch.tensor(said), 3).float()
    parts = [lambda ids, k=k: (table[k][ids], ids)[: 1 + (k < 4)] for k in range(5)]
    rule = policy(patience, 1, 1, 1, 1)
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        ids = torch.tensor(order)
        wanted = [[1, 2, 3, 4, 4][row] for row in order]
        assert compacted(parts, rule, ids).exits.tolist() == wanted
        assert queued(parts, rule, ids, batch=2).exits.tolist() == wanted


@pytest.mark.parametrize("criterion", ALL)
def test_always_is_the_first_exit_and_never_the_last(criterion, exits: State, bench: Bench) -> None:
    module, inputs = module_of(exits), encoded(bench)
    parts = parts_of(module)
    with torch.inference_mode():
        logits = everything(parts, *inputs)
        for threshold, place in ((math.inf, 2), (-math.inf, 0)):
            found = compacted(parts, policy(criterion, threshold, threshold), *inputs)
            assert (found.exits == place).all()
            assert torch.equal(found.logits, logits[place])
        assert torch.allclose(logits[2], module(*inputs), atol=1e-5)
        long = compacted(parts, policy(patience, 2, 2), *inputs)
    assert (long.exits == 2).all(), (
        "patience 2 with 3 exits is the last one: the first to leave by is number 3"
    )


def test_padding_changes_no_exit(exits: State, bench: Bench) -> None:
    """Each text alone, cut to its tokens, against a batch that is padded far beyond the longest."""
    parts, (ids, mask) = parts_of(module_of(exits)), encoded(bench, 23)
    wide = bench.task.length
    more = wide - ids.shape[1]
    padded = (
        torch.cat([ids, torch.full((23, more), 5)], 1),  # a word, hidden by the mask
        torch.cat([mask, mask.new_zeros(23, more)], 1),
    )
    with torch.inference_mode():
        together = everything(parts, *padded)
        for row in range(23):
            n = int(mask[row].sum())
            alone = everything(parts, ids[row : row + 1, :n], mask[row : row + 1, :n])
            for place in range(3):
                assert torch.allclose(alone[place][0], together[place][row], atol=1e-5)


def test_a_batch_of_heavy_padding_leaves_as_its_rows_alone(exits: State, bench: Bench) -> None:
    """One long text among very short ones: whose rows stay when others leave is told by their own mask."""
    parts = parts_of(module_of(exits))
    ids = torch.randint(5, 100, (12, 16), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([16, *[1, 2] * 5, 3])[:, None]
    mask = (torch.arange(16) < lengths).long()
    with torch.inference_mode():
        logits = everything(parts, ids, mask)
        rule = mixed(margin, logits)
        found = compacted(parts, rule, ids, mask)
        singles = [
            compacted(parts, rule, ids[k : k + 1, : int(n)], mask[k : k + 1, : int(n)])
            for k, n in enumerate(lengths.squeeze(1))
        ]
    assert found.exits.tolist() == [int(one.exits) for one in singles]
    assert len(set(found.exits.tolist())) == 3
    assert torch.allclose(found.logits, torch.cat([one.logits for one in singles]), atol=1e-5)


def test_what_goes_on_is_hidden_states_and_masks_of_those_that_stay(exits: State, bench: Bench) -> None:
    parts, inputs = parts_of(module_of(exits)), encoded(bench, 9)
    seen: list[list[tuple[int, ...]]] = []

    def watched(part):
        def run(*live):
            seen.append([len(t) for t in live])
            return part(*live)

        return run

    with torch.inference_mode():
        fifth, fourth = margin(Said(everything(parts, *inputs)[0])).sort(descending=True).values[[4, 3]]
        compacted([watched(p) for p in parts], policy(margin, float(fifth + fourth) / 2, math.inf), *inputs)
    assert [set(s) for s in seen] == [{9}, {5}, {5}], "four of nine are surer than the fifth"


# cost -----------------------------------------------------------------------------------------------------------------


def test_macs_of_each_exit_by_hand(exits: State, bench: Bench) -> None:
    n, d, mlp, classes = 16, 16, 32, 10
    layer = n * (4 * d * d + 2 * d * mlp) + 2 * n * n * d  # projections and mlp; scores and weighted values
    head = d * classes
    wanted = [(k + 1) * (layer + head) for k in range(3)]
    parts, blank = parts_of(module_of(exits)), bench.task.blank(1)
    assert of_exits(parts, blank) == wanted
    assert count(module_of(exits), blank).macs == wanted[-1]


def test_the_mean_cost_is_the_histogram_times_the_costs(exits: State, bench: Bench) -> None:
    from compressbench.probes.exits import Exits

    state = Choose(spec("entropy"), budget=0.7).apply(exits, dataclasses.replace(bench, name="choose"))
    view = View(state, bench)
    found = {(m.name, m.group): m.value for m in Exits().measure(view, view, bench)}
    names = (*POINTS, "last")
    costs = np.array([found["exit_macs", g] for g in names])
    share = np.array([found["exit_share", g] for g in names]) / 100
    assert found["expected_macs", ""] == pytest.approx(float(share @ costs))
    inputs, rule = encoded(bench, 200), policy_of(state.policies)
    assert rule is not None
    with torch.inference_mode():
        answer = compacted(view.parts, rule, *inputs)
    own = np.diff([0, *costs])
    spent = sum(own[place] * n for place, n in answer.rows) / 200
    assert spent == pytest.approx(float(share @ costs), rel=1e-9)
    assert len(answer.exits.unique()) > 1
    right = (answer.logits.argmax(1) == bench.feed("test").labels).double().mean()
    assert found["exits_top1", ""] == pytest.approx(100 * float(right))
    assert torch.allclose(view.log_probs, answer.logits.log_softmax(1), atol=1e-3)


def test_examples_of_the_report_are_texts(exits: State, bench: Bench) -> None:
    from compressbench.probes.exits import Exits

    state = Choose(spec("max_probability"), budget=0.7).apply(
        exits, dataclasses.replace(bench, name="choose")
    )
    view = View(state, bench)
    found = {m.name: m for m in Exits(images=2).measure(view, view, bench)}
    assert found["easiest"].artefact == ""
    assert "test texts" in found["easiest"].note
    from compressbench.tasks.text.packing import TEXT, unpacked

    place = int(found["easiest"].note.rsplit("texts ", 1)[1].split(",")[0])
    first = unpacked(bench.dataset.splits["test"][TEXT])[place]
    assert first[:20] in found["easiest"].note


# training -------------------------------------------------------------------------------------------------------------


def test_pabee_weighs_exits_by_their_depth_and_deebert_leaves_the_last_out(
    exits: State, bench: Bench
) -> None:
    from compressbench.outputs import forward
    from compressbench.training.exits import joint, self_distilled
    from compressbench.training.objectives import Batch

    module = module_of(exits).train()
    inputs, labels = encoded(bench, 8), bench.feed("test").labels[:8]
    outputs = forward(module, *inputs)
    logits = [outputs.taps["exit0"], outputs.taps["exit1"], outputs.logits]
    for t, part in zip(logits, everything(parts_of(module_of(exits)), *inputs), strict=True):
        assert torch.allclose(t, part, atol=1e-5), "what is trained is what answers later"
    p = [t.detach().double().softmax(1).numpy() for t in logits]
    ce = [float(-np.log(q[np.arange(8), labels.numpy()]).mean()) for q in p]
    batch = Batch(outputs, inputs, labels, torch.arange(8))
    pabee = (1 * ce[0] + 2 * ce[1] + 3 * ce[2]) / 6
    assert joint(bench, power=1.0)(batch).item() == pytest.approx(pabee, rel=1e-5)
    assert joint(bench, last=False)(batch).item() == pytest.approx((ce[0] + ce[1]) / 2, rel=1e-5)
    kl = [float((p[2] * np.log(p[2] / q)).sum(1).mean()) for q in p[:2]]
    assert self_distilled(bench)(batch).item() == pytest.approx(sum(kl) / 2, rel=1e-4)


@pytest.mark.parametrize("objective", ["joint", "self_distilled"])
def test_the_second_stage_changes_off_ramps_alone(objective: str, exits: State, bench: Bench) -> None:
    from compressbench.stages.train import Train

    settings = {"last": False} if objective == "joint" else {}
    stage = training(objective, Train, only="exits.*", **settings)
    after = stage.apply(exits, dataclasses.replace(bench, name="second"))
    for name, tensor in exits.weights.items():
        assert torch.equal(tensor, after.weights[name]) != name.startswith("exits."), name


def test_speeds_and_nats_are_thresholds() -> None:
    """FastBERT's Speed s and DeeBERT's S nats, in C classes: leave where H / ln C < s, where H < S."""
    p = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.6, 0.2, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    nats = -(p * p.log()).sum(1)
    assert float(nats[2]) == pytest.approx(math.log(4))
    for speed in (0.1, 0.5, 0.9):
        leaves = policy(entropy, 1 - speed).leaves(0, p.log(), ())
        assert leaves.tolist() == [float(h) / math.log(4) <= speed for h in nats]
        assert torch.equal(leaves, nats <= speed * math.log(4))


# nets that can't be traced ---------------------------------------------------------------------------------------------


class Stubborn(TextEncoder):
    """The encoder with a forward that looks at its data, and a layer that gives a tuple."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if attention_mask.sum() < 0:
            raise ValueError("never")
        return super().forward(input_ids, attention_mask)

    def in_layers(self):
        def before(ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            return x, (mask == 0)[:, None, None, :], mask

        def after(x: Tensor, _: Tensor, mask: Tensor) -> Tensor:
            there = mask.to(x.dtype).unsqueeze(-1)
            return self.fc((self.norm(x) * there).sum(1) / there.sum(1))

        layers = {
            f"layers.{k}": (lambda x, unseen, _, layer=layer: layer(x, unseen))
            for k, layer in enumerate(self.layers)
        }
        return before, layers, after


STUBBORN = {"name": "stubborn", "build": {**ENCODER["build"], "_target_": "test_text_exits.Stubborn"}}


@pytest.mark.parametrize("head", [MASKED, FIRST])
def test_a_net_in_layers_is_cut_as_a_traced_one(head: dict, bench: Bench) -> None:
    one = module_of(attached(bench, head))
    other = module_of(attached(bench, head, STUBBORN))
    other.load_state_dict(one.state_dict())
    inputs, blank = encoded(bench), bench.task.blank(1)
    own, cut = parts_of(one), parts_of(other)
    with torch.inference_mode():
        for a, b in zip(everything(own, *inputs), everything(cut, *inputs), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        rule = mixed(margin, everything(own, *inputs))
        first, second = compacted(own, rule, *inputs), compacted(cut, rule, *inputs)
        ready = compacted(prepared_parts(other, *rows(inputs, slice(8))), rule, *inputs)
    assert len(set(first.exits.tolist())) == 3
    assert torch.equal(first.exits, second.exits)
    assert torch.equal(first.exits, ready.exits)
    assert torch.allclose(first.logits, second.logits, atol=1e-5)
    assert of_exits(own, blank) == of_exits(cut, blank)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (("layers.2",), r"layers\.2 is the last layer"),
        (("layers.0.mlp",), r"layers\.0\.mlp is no layer of this net; points are layers\.0, layers\.1"),
        (("layer.0",), r"has no module 'layer\.0'; did you mean"),
    ],
)
def test_points_that_are_no_layer(points: tuple[str, ...], words: str, bench: Bench) -> None:
    with pytest.raises(UserError, match=words):
        attached(bench, MASKED, STUBBORN, points)


# transformers' own modules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("Bert", "net.bert.encoder.layer.0"),
        ("DistilBert", "net.distilbert.transformer.layer.0"),
        ("Roberta", "net.roberta.encoder.layer.0"),
    ],
)
@pytest.mark.parametrize("way", ["sdpa", "eager"])
def test_encoders_of_transformers_are_cut_between_their_layers(
    kind: str, layer: str, way: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from folders import a_folder, hf, texts_of

    folder = a_folder(tmp_path / "model", kind)
    place = Bench(load(texts_of(tmp_path / "t.tsv", folder)), 0, "init", say=lambda _: None)
    module = module_of(attached(place, FIRST, hf(folder), (layer,)))
    module.net.set_attn_implementation(way)
    parts, inputs = parts_of(module), encoded(place, 14)
    assert len(set(inputs[1].sum(1).tolist())) > 1
    with torch.inference_mode():
        logits = everything(parts, *inputs)
        # transformers' own answers, and its own hidden states after the first layer
        own = module.net(
            **{n: t for n, t in zip(place.task.inputs, inputs, strict=True) if n in module.taken},
            output_hidden_states=True,
        )
        assert torch.allclose(logits[1], own.logits, atol=1e-5)
        assert torch.allclose(logits[0], module.exits[0](own.hidden_states[1]), atol=1e-5)
        rule = policy(margin, middle(margin(Said(logits[0]))))
        found = compacted(parts, rule, *inputs)
        single = [compacted(parts, rule, *rows(inputs, slice(k, k + 1))) for k in range(14)]
    assert set(found.exits.tolist()) == {0, 1}
    assert [int(one.exits) for one in single] == found.exits.tolist()
    assert torch.allclose(torch.cat([one.logits for one in single]), found.logits, atol=1e-5)
    n, d, mlp = place.task.length, 16, 24
    each = n * (4 * d * d + 2 * d * mlp) + 2 * n * n * d
    assert of_exits(parts, place.task.blank(1)) == [each + d * d + 2 * d, 2 * (each + d * d + 2 * d)]


def test_what_is_no_encoder_of_berts_family_is_refused_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from folders import a_folder, hf, texts_of

    folder = a_folder(tmp_path / "model", "GPT2", pad_token_id=0)
    place = Bench(load(texts_of(tmp_path / "t.tsv", folder)), 0, "init", say=lambda _: None)
    with pytest.raises(
        UserError, match=r"GPT2ForSequenceClassification is no encoder .* as BERT's family is$"
    ):
        attached(place, FIRST, hf(folder), ("net.transformer.h.0",))


# on targets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnxruntime_cpu.OnnxRuntimeCPU", "openvino_cpu.OpenVINOCPU"])
@pytest.mark.parametrize("kind", ["encoder", "bert"])
def test_runtimes_run_the_parts_of_texts_and_answer_alike(
    runtime: str, kind: str, exits: State, bench: Bench, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime" if "onnx" in runtime else "openvino")
    place, state = bench, exits
    if kind == "bert":
        pytest.importorskip("transformers")
        from folders import a_folder, hf, texts_of

        folder = a_folder(tmp_path / "model")
        place = Bench(load(texts_of(tmp_path / "t.tsv", folder)), 0, "init", say=lambda _: None)
        state = attached(place, MASKED, hf(folder), ("net.bert.encoder.layer.0",))
    target = specs.build(
        {"_target_": f"compressbench.hardware.{runtime}", "seconds": 0.01, "batches": [1, 8]}
    )
    view = View(Choose(spec("max_probability"), budget=0.8).apply(state, place), place)
    lowered = target.lower(view)
    assert isinstance(lowered, Lowered), lowered.why
    inputs, rule = encoded(place, 15), policy_of(view.state.policies)
    assert rule is not None
    with torch.inference_mode():
        own, there = everything(parts_of(view.module), *inputs), everything(lowered.parts, *inputs)
        for one, other in zip(own, there, strict=True):
            assert torch.allclose(one, other, atol=1e-3)
        found = compacted(lowered.parts, rule, *inputs)
    assert float((found.exits == assigned(rule, own)).double().mean()) > 0.9
    timing = target.time([lowered, lowered], 8)[0]
    assert 0 < timing.median < 1


def test_batches_of_texts_wait_are_compacted_or_queue(exits: State, bench: Bench) -> None:
    from compressbench.hardware.torch_cpu import TorchCPU
    from compressbench.probes.batching import Batching
    from compressbench.probes.exits import Exits

    state = Choose(spec("margin"), budget=0.7).apply(exits, dataclasses.replace(bench, name="choose"))
    view = View(state, bench)
    probe = Batching({"cpu": TorchCPU(seconds=0.01)}, (1, 16), examples=200, seconds=0.01)
    found = {(m.name, m.group): m.value for m in probe.measure(view, view, bench)}
    wanted = {m.name: m.value for m in Exits().measure(view, view, bench)}["expected_cost"]
    for batch in (1, 16):
        for way in ("full depth", "waiting", "compacted", "queued"):
            assert found[f"exit_throughput_b{batch}", f"cpu/{way}"] > 0
        for way in ("compacted", "queued"):
            assert found[f"exit_cost_b{batch}", f"cpu/{way}"] == pytest.approx(wanted, rel=0.02)
    assert found["exit_cost_b1", "cpu/waiting"] == pytest.approx(wanted, rel=0.02)
    assert found["exit_cost_b16", "cpu/waiting"] > 1.05 * wanted, "the slowest of sixteen decides"


def test_an_export_and_a_target_of_whole_nets_refuse_texts_that_leave_early(
    exits: State, bench: Bench, tmp_path: Path
) -> None:
    from types import SimpleNamespace

    from compressbench.deploying.handing_over import export
    from compressbench.hardware.exits import lower
    from compressbench.hardware.torch_compiled import TorchCompiled

    view = View(Choose(spec("margin"), budget=0.7).apply(exits, bench), bench)
    found = lower(TorchCompiled(), view)
    assert not isinstance(found, Lowered)
    assert "early exits: this target takes whole nets alone" in found.why
    with pytest.raises(UserError, match="leaves early by a policy"):
        export(None, view, SimpleNamespace(name="choose"), "onnx", tmp_path / "out", tmp_path)  # type: ignore[arg-type]


# with other methods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["heads", "int8"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_texts_leave_compressed_encoders_too(kind: str, order: str, exits: State, bench: Bench) -> None:
    """A head of each layer removed, or 8 bits dynamically: whichever came first, compacted is as all together."""
    from compressbench.stages.quantize import Quantize
    from compressbench.stages.shrink import Heads

    magnitude = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    stage = Heads(magnitude, 0.5, "uniform") if kind == "heads" else Quantize(dynamic=True)
    place = dataclasses.replace(bench, name=kind)
    if order == "after":
        state = stage.apply(exits, place)
    else:
        state = Attach(POINTS, MASKED).apply(stage.apply(drawn(ENCODER, bench), place), bench)
        draw = torch.Generator().manual_seed(0)
        heads = {
            n: t + torch.randn(t.shape, generator=draw) for n, t in state.weights.items() if "exits." in n
        }
        state = state.with_groups(weights={**state.weights, **heads})
    module, inputs = module_of(state), encoded(bench)
    parts = parts_of(module)
    with torch.inference_mode():
        logits = everything(parts, *inputs)
        assert torch.allclose(logits[-1], module(*inputs), atol=1e-4)
        rule = mixed(margin, logits)
        singles = [compacted(parts, rule, *rows(inputs, slice(k, k + 1))) for k in range(COUNT)]
        found = compacted(parts, rule, *inputs)
    assert len(found.exits.unique()) > 1
    if kind == "heads":
        assert [int(one.exits) for one in singles] == found.exits.tolist()
        assert torch.equal(found.exits, assigned(rule, logits))
        n, d, mlp, classes = 16, 16, 32, 10
        each = n * (4 * d * d // 2 + 2 * d * mlp) + 2 * n * n * d // 2 + d * classes
        assert of_exits(parts, bench.task.blank(1)) == [each, 2 * each, 3 * each]
    else:  # the range of inputs is that of the batch: a row alone may be rounded otherwise
        same = [int(one.exits) == there for one, there in zip(singles, found.exits.tolist(), strict=True)]
        assert sum(same) > 0.8 * COUNT
