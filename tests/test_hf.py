"""Models of transformers from folders on disk: the library's own numbers, kept by a state that needs no folder."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from compressbench.bench import Bench
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.models import hub, unpacking
from compressbench.models.build import module_of
from compressbench.models.counting import count
from compressbench.models.draw import drawn, redrawn
from compressbench.models.hf import HuggingFace
from compressbench.models.hf import folder as of_folder
from compressbench.outputs import forward, tapped
from compressbench.paths import weights_folder
from compressbench.runs.plan import Context, make
from compressbench.specs.compose import composed
from compressbench.store import Store
from compressbench.tasks.text.decoding import Again, beam_search, greedy, steps_of
from folders import TEXTS, a_folder, edited, hf, spread, texts_of

transformers = pytest.importorskip("transformers", reason="transformers isn't installed")
MINILM = Path(weights_folder("minilm"))
needs_minilm = pytest.mark.skipif(
    not (MINILM / "model.safetensors").is_file(), reason="MiniLM isn't unpacked: make weights"
)


CUT = {"padding": True, "truncation": True}


def bench_on(tmp_path: Path, folder: Path, seed: int = 0, **settings: Any) -> Bench:
    return Bench(load(texts_of(tmp_path / "texts.tsv", folder, **settings)), seed, "init", say=lambda _: None)


def batch(bench: Bench) -> tuple[torch.Tensor, ...]:
    return bench.task.encode(bench.dataset.split("test").to("cpu"))


def own(folder: Path, auto: str = "AutoModelForSequenceClassification", **settings: Any) -> torch.nn.Module:
    """What transformers itself makes of a folder."""
    return getattr(transformers, auto).from_pretrained(str(folder), local_files_only=True, **settings).eval()


# ---------------------------------------------------------------- the library's own numbers


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta"])
def test_logits_are_the_librarys_before_and_after_a_save(tmp_path: Path, kind: str) -> None:
    """To the bit; the state is moved to another store and the folder is gone by then."""
    labels = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}
    folder = a_folder(tmp_path / kind, kind, "ForSequenceClassification", **labels)
    bench = bench_on(tmp_path, folder)
    x = batch(bench)
    assert int(x[1].sum()) < x[1].numel()  # some texts are padded
    with torch.no_grad():
        expected = own(folder)(input_ids=x[0], attention_mask=x[1]).logits
    assert len(expected.round(decimals=4).unique(dim=0)) > 3
    store = Store(tmp_path / "store")
    store.save("k", drawn(hf(folder), bench), {})
    shutil.rmtree(folder)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    state = Store(tmp_path / "elsewhere").load("k")
    assert state is not None
    assert str(tmp_path) not in json.dumps(state.model)
    with torch.no_grad():
        assert torch.equal(forward(module_of(state), *x).logits, expected)


def test_pairs_reach_a_net_as_far_as_it_takes_them(tmp_path: Path) -> None:
    """BERT takes segments; DistilBERT has none, and is called without."""
    texts = TEXTS[:6]
    for kind in ("Bert", "DistilBert"):
        folder = a_folder(tmp_path / kind, kind)
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]"
        )
        x = tokenizer(
            texts,
            texts[::-1],
            padding=True,
            truncation=True,
            max_length=20,
            return_tensors="pt",
            return_token_type_ids=True,
        )
        inputs = ["input_ids", "attention_mask", "token_type_ids"]
        net = of_folder(str(folder), "sequence_classification", inputs, ["a", "b", "c"]).eval()
        with torch.no_grad():
            taken = {n: x[n] for n in inputs[: 3 if kind == "Bert" else 2]}
            assert torch.equal(net(*(x[n] for n in inputs)), net.net(**taken).logits)
            other = net(x["input_ids"], x["attention_mask"], torch.zeros_like(x["input_ids"]))
        assert torch.equal(other, net.net(**taken).logits) is (kind == "DistilBert")


@pytest.mark.parametrize(
    ("kind", "head", "form"),
    [("GPT2", "LMHeadModel", "causal"), ("T5", "ForConditionalGeneration", "seq2seq"),
     ("Bart", "ForConditionalGeneration", "seq2seq")],
)  # fmt: skip
def test_models_that_write(tmp_path: Path, kind: str, head: str, form: str) -> None:
    """Logits of each token, as the library's; built again from data and weights alone."""
    folder = a_folder(tmp_path / kind, kind, head)
    auto = "AutoModelForCausalLM" if form == "causal" else "AutoModelForSeq2SeqLM"
    inputs = ["input_ids", "attention_mask", *(["decoder_input_ids"] if form == "seq2seq" else [])]
    ids = torch.randint(5, 290, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    x = (ids, mask, *((ids.flip(1)[:, :7],) if form == "seq2seq" else ()))
    with torch.no_grad():
        expected = own(folder, auto)(**dict(zip(inputs, x, strict=True)), use_cache=False).logits
        net = of_folder(str(folder), form, inputs).eval()
        assert torch.equal(net(*x), expected)
        assert expected.shape == (3, x[-1].shape[1] if form == "seq2seq" else 9, 300)
        spec = {k: v for k, v in net.as_spec().items() if k != "_target_"}
        again = HuggingFace(**json.loads(json.dumps(spec))).eval()
        again.load_state_dict(net.state_dict())
        assert torch.equal(again(*x), expected)


WRITERS = [("T5", "ForConditionalGeneration"), ("Bart", "ForConditionalGeneration")]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize(("kind", "head"), WRITERS)
def test_the_memory_of_a_translator_changes_no_token(tmp_path: Path, kind: str, head: str, beam: int) -> None:
    """Beside asking again of all tokens so far; sentences of unlike length leave at unlike times."""
    inputs = ["input_ids", "attention_mask", "decoder_input_ids"]
    net = of_folder(str(a_folder(tmp_path / kind, kind, head)), "seq2seq", inputs).eval()
    assert steps_of(net) is net
    ids = torch.randint(5, 290, (6, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = mask[2, 3:] = 0
    limits = torch.tensor([12, 4, 12, 9, 12, 2])

    def said(steps: Any) -> list[list[int]]:
        with torch.no_grad():
            if beam == 1:
                return greedy(steps, (ids, mask), 2, 3, limits).tolist()
            return beam_search(steps, (ids, mask), 2, 3, limits, beam).tolist()

    assert said(net) == said(Again(net))
    assert len({tuple(row) for row in said(net)}) > 3, "the sentences differ, so that a mixed-up memory shows"
    with torch.no_grad():
        known = net.begin(ids, mask)
        target = ids.flip(1)[:, :5]
        for place in range(5):
            logits, known = net.step(target[:, place], known)
        assert_close(logits, net(ids, mask, target)[:, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "head", "config"),
    [("GPT2", "LMHeadModel", {}),
     ("Llama", "ForCausalLM", {"num_key_value_heads": 2}),
     ("Mistral", "ForCausalLM", {"num_key_value_heads": 2, "sliding_window": 4})],
)  # fmt: skip
def test_the_memory_of_a_language_model_changes_no_logit(
    tmp_path: Path, kind: str, head: str, config: Any
) -> None:
    """One with a window over its tokens is asked anew."""
    net = of_folder(
        str(a_folder(tmp_path / kind, kind, head, **config)), "causal", ["input_ids", "attention_mask"]
    ).eval()
    assert net.remembers is (kind != "Mistral")
    if not net.remembers:
        return
    ids = torch.randint(5, 290, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = net(ids, torch.ones_like(ids))
        logits, known = net.begun(ids[:, :4])
        assert_close(logits, whole[:, 3], atol=1e-4, rtol=1e-4)
        for place in range(4, 9):
            logits, known = net.step(ids[:, place], known)
            assert_close(logits, whole[:, place], atol=1e-4, rtol=1e-4)


WIDE = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 60}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "m2m_100", "max_position_embeddings": 40, **WIDE}, "positions by what is no padding"),
        (
            {
                "model_type": "prophetnet", "hidden_size": 16, "num_encoder_layers": 2, "num_decoder_layers": 2,
                "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 24,
                "decoder_ffn_dim": 24, "vocab_size": 60, "max_position_embeddings": 40,
            },
            "several streams of tokens",
        ),
        (
            {
                "model_type": "switch_transformers", "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2,
                "num_heads": 4, "num_experts": 2, "vocab_size": 60,
            },
            "the encoder's answer has more parts",
        ),
    ],
)  # fmt: skip
def test_a_net_whose_memory_lacks_something_is_asked_anew(config: Any, why: str) -> None:
    torch.manual_seed(0)
    net = HuggingFace(config, "seq2seq", ["input_ids", "attention_mask", "decoder_input_ids"]).eval()
    spread(net)
    assert not net.remembers, why
    assert isinstance(steps_of(net), Again)
    ids = torch.randint(5, 60, (3, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        greedy(steps_of(net), (ids, torch.ones_like(ids)), 1, 2, torch.tensor([5, 3, 5]))


def test_with_a_layer_replaced_all_is_asked_anew(tmp_path: Path) -> None:
    """As by a layer that attends to nothing: what the others remember no longer lies in a row."""
    net: Any = of_folder(
        str(a_folder(tmp_path / "gpt2", "GPT2", "LMHeadModel")), "causal", ["input_ids", "attention_mask"]
    ).eval()
    assert net.remembers
    del net.net.transformer.h[0]
    assert not net.remembers


def test_a_bare_encoder_gets_a_head_from_the_seed(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "bert")
    one, same, other = (drawn(hf(folder), bench_on(tmp_path, folder, seed)).weights for seed in (0, 0, 1))
    base = transformers.BertModel.from_pretrained(str(folder)).state_dict()
    head = ["net.classifier.weight", "net.classifier.bias"]
    assert set(one) == {f"net.bert.{name}" for name in base} | set(head)
    assert all(torch.equal(one[f"net.bert.{name}"], tensor) for name, tensor in base.items())
    assert one[head[0]].shape == (2, 16)
    assert torch.equal(one[head[0]], same[head[0]])
    assert not torch.equal(one[head[0]], other[head[0]])


def test_a_new_head_leaves_the_rest(tmp_path: Path) -> None:
    """Three classes for two, and two for two: the head is drawn, the encoder is the folder's."""
    folder = a_folder(tmp_path / "bert", head="ForSequenceClassification")
    kept = own(folder).state_dict()
    for classes in (("a", "b", "c"), ("a", "b")):
        bench = Bench(load(texts_of(tmp_path / "t.tsv", folder, classes)), 0, "init", say=lambda _: None)
        found = drawn(hf(folder, new_head=True), bench).weights
        assert found["net.classifier.weight"].shape == (len(classes), 16)
        assert not torch.equal(found["net.classifier.weight"][:2], kept["classifier.weight"])
        assert all(torch.equal(found[f"net.{n}"], t) for n, t in kept.items() if n.startswith("bert."))


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_outputs_are_put_in_the_order_of_the_classes(tmp_path: Path, kind: str) -> None:
    """By names, capitals apart; ``LABEL_0`` … are no names and stay as they stand."""
    folder = a_folder(
        tmp_path / kind, kind, "ForSequenceClassification", id2label={0: "POS", 1: "Mid", 2: "neg"}
    )
    bench = Bench(load(texts_of(tmp_path / "t.tsv", folder, ("neg", "mid", "pos"))), 0, "init")
    assert bench.task.classes == ("mid", "neg", "pos")
    x = batch(bench)
    with torch.no_grad():
        expected = own(folder)(input_ids=x[0], attention_mask=x[1]).logits
        state = drawn(hf(folder), bench)
        assert torch.equal(forward(module_of(state), *x).logits, expected[:, [1, 2, 0]])
        edited(folder, id2label={str(i): f"LABEL_{i}" for i in range(3)})
        assert torch.equal(forward(module_of(drawn(hf(folder), bench)), *x).logits, expected)
    assert state.model["config"]["id2label"] == {"0": "mid", "1": "neg", "2": "pos"}


def test_weights_in_several_files(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "bert", head="ForSequenceClassification", id2label={0: "neg", 1: "pos"})
    bench = bench_on(tmp_path, folder)
    expected = own(folder)
    whole = drawn(hf(folder), bench).weights
    (folder / "model.safetensors").unlink()
    expected.save_pretrained(folder, max_shard_size="8KB")
    assert len(hub.files_of(str(folder))) > 3
    parts = drawn(hf(folder), bench).weights
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[n], whole[n]) for n in whole)


def test_drawn_again_and_dropout_come_from_our_seeds(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "bert")
    bench = bench_on(tmp_path, folder)
    state = drawn(hf(folder), bench)
    one, two = redrawn(state, bench), redrawn(state, bench)
    name = "net.bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(one[name], two[name])
    assert not torch.equal(one[name], state.weights[name])
    net, x = module_of(state).train(), batch(bench)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(net(*x))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


# ---------------------------------------------------------------- what stages see


def test_taps_macs_and_bytes(tmp_path: Path) -> None:
    """A layer by its name; MACs by hand: projections and products of attention, two linear layers, pooler, head."""
    folder = a_folder(tmp_path / "bert")
    bench = bench_on(tmp_path, folder)
    state = drawn(hf(folder), bench)
    net, x = module_of(state), batch(bench)
    with tapped(net, ["net.bert.encoder.layer.1"]) as run, torch.no_grad():
        assert run(*x).taps["net.bert.encoder.layer.1"].shape == (len(x[0]), x[0].shape[1], 16)
    d, ff, t = 16, 24, 12
    expected = 2 * (4 * d * d * t + 2 * t * t * d + 2 * d * ff * t) + d * d + d * 2
    assert count(net, bench.task.blank(1)).macs == state.facts["forward_macs"] == expected
    assert sum(state.facts["prunable"].values()) == 2 * (4 * d * d + 2 * d * ff) + d * d + d * 2
    embeddings = {n.rpartition(".")[0].rpartition(".")[2]: k for n, k in state.facts["left_alone"].items()}
    assert embeddings == {
        "word_embeddings": 300 * d, "position_embeddings": 20 * d, "token_type_embeddings": 2 * d,
    }  # fmt: skip


def test_the_key_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "bert")

    def key(folder: Path) -> str:
        stages = {"init": {"_target_": "compressbench.stages.init.Init", "model": hf(folder)}}
        return make({"stages": stages}, 0, Context("f", "cpu", 1)).nodes[0].key

    one = key(folder)
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert key(moved) == one
    assert key(edited(moved, hidden_dropout_prob=0.2)) != one
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert key(folder) != one


def test_the_tokenizer_is_the_models_own_by_default(tmp_path: Path) -> None:
    made = composed(["recipe=one_shot", "dataset=glosses", "model=hf", f"model.build.folder={tmp_path}"])
    assert made["dataset"]["task"]["tokenizer"] == str(tmp_path)
    assert (
        composed(["recipe=one_shot", "dataset=glosses", "model=encoder"])["dataset"]["task"]["tokenizer"]
        is None
    )
    folder = a_folder(tmp_path / "bert")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]"
    )
    bench = bench_on(tmp_path, folder)
    examples = bench.dataset.split("test").to("cpu")
    ids, mask = bench.task.encode(examples)
    from compressbench.tasks.text.packing import TEXT, unpacked

    expected = theirs(
        list(unpacked(bench.dataset.split("test")[TEXT])), padding=True, truncation=True, max_length=12
    )
    assert ids.tolist() == expected["input_ids"]
    assert mask.tolist() == expected["attention_mask"]


def test_gradients_of_each_example(tmp_path: Path) -> None:
    """All at once, padded and masked, as one after the other."""
    from compressbench.criteria.given import Given
    from compressbench.criteria.gradients import batches, differentiable, per_example
    from compressbench.pruning.unstructured import whole_masks

    folder = a_folder(tmp_path / "bert")
    bench = bench_on(tmp_path, folder)
    state = drawn(hf(folder), bench)
    masks = whole_masks(state)
    given = Given({n: state.weights[n] for n in masks}, masks, state, bench)
    module, parameters = differentiable(given)
    (data,) = batches(given, 6)
    inputs, labels, _ = data
    assert int(inputs[1].sum()) < inputs[1].numel()
    (found,) = per_example(module, parameters, [data], bench.task)
    for i in range(6):
        loss = torch.nn.functional.cross_entropy(module(*(x[i : i + 1] for x in inputs)), labels[i : i + 1])
        for name, slope in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            assert torch.allclose(found[name][i], slope, atol=1e-6), name


STAGES: dict[str, dict[str, Any]] = {
    "prune/taylor": {}, "prune/obd_hutchinson": {}, "prune/obs": {}, "shrink/channels": {"fraction": 0.25},
    "quantize/ptq": {}, "quantize/dynamic": {}, "quantize/weight_only": {"weights": 4}, "share/kmeans": {},
    "train/sam": {}, "train/distill": {"objective.teacher": "dense"}, "theseus/replace": {},
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_stages_take_it(tmp_path: Path, name: str) -> None:
    """Each changes it, and what is left answers with finite logits, the same after a round through the store."""
    folder = a_folder(tmp_path / "bert")
    bench = bench_on(tmp_path, folder)
    state = drawn(hf(folder), bench)
    bench.references = {"dense": state}
    group, _, kind = name.partition("/")
    length = {"length": "2it", "batch_size": 8} if group == "train" else {}
    chosen = [f"++recipe.stages.x.{k}={v}" for k, v in {**STAGES[name], **length}.items()]
    config = composed(["recipe=one_shot", "scale=smoke", f"+stage/{group}@recipe.stages.x={kind}", *chosen])
    spec = {k: v for k, v in config["recipe"]["stages"]["x"].items() if k != "from"}
    stages = {
        "init": {"_target_": "compressbench.stages.init.Init", "model": hf(folder)},
        "dense": {"_target_": "compressbench.stages.quantize.Quantize", "from": "init"},
        "x": {**spec, "from": "init"},
    }
    made = make({"stages": stages}, 0, Context("f", "cpu", 1)).node("x").stage.apply(state, bench)
    store = Store(tmp_path / "store")
    store.save("k", made, {})
    again, x = store.load("k"), batch(bench)
    assert again is not None
    with torch.no_grad():
        found = forward(module_of(made), *x).logits
        assert torch.isfinite(found).all()
        assert torch.equal(forward(module_of(again), *x).logits, found)
        if group != "theseus":
            assert not torch.equal(found, forward(module_of(state), *x).logits)


# ---------------------------------------------------------------- refused in one line


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def halved(folder: Path) -> None:
    """Weights of which some are missing."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file(
        {n: t for n, t in tensors.items() if "layer.1." not in n},
        folder / "model.safetensors",
        {"format": "pt"},
    )


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no folder": (shutil.rmtree, {}, "there is no folder"),
    "no config": (lambda f: (f / "config.json").unlink(), {}, "has no config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), {}, "holds no tokenizer.json"),
    "pickled weights": (pickled, {}, "weights are a pickle"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), {}, "has no model.safetensors"),
    "its own code": (lambda f: edited(f, auto_map={"AutoModel": "x.Y"}), {}, "code of its own"),
    "quantized": (lambda f: edited(f, quantization_config={"bits": 4}), {}, "quantized already"),
    "unknown": (lambda f: edited(f, model_type="nothing"), {}, "nothing"),
    "other sizes": (lambda f: edited(f, hidden_size=32), {}, "another shape|can't load"),
    "weights missing": (halved, {}, "weights lack"),
    "too long": (lambda f: None, {"length": 40}, "has 20 positions"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), {}, "adapter of another model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_folders_are_one_line(tmp_path: Path, case: str) -> None:
    spoil, task, said = REFUSED[case]
    folder = a_folder(tmp_path / "bert")
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        drawn(hf(folder), bench_on(tmp_path, folder, **task))
    assert "\n" not in str(caught.value)


def mark_of(tmp_path: Path) -> tuple[Path, str]:
    """A file that code of a folder would write, and that code."""
    mark = tmp_path / "mark"
    return mark, f"open({str(mark)!r}, 'w').write('x')\ndef generate(model, *a, **k): pass\n"


@pytest.mark.parametrize("reader", ["run", "compare"])
def test_what_the_key_is_of_is_what_is_loaded_and_no_code_runs(tmp_path: Path, reader: str) -> None:
    """Beside the weights lie a shard, an index to other weights and code; as transformers reads the one file alone."""
    from safetensors.torch import load_file, save_file

    folder = a_folder(tmp_path / "bert", head="ForSequenceClassification")
    weights = folder / "model.safetensors"
    expected = load_file(weights)
    other = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    for name in ("other.safetensors", "shard-00000-model-00001-of-00001.safetensors"):
        save_file(other, folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(other, "other.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    mark, code = mark_of(tmp_path)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    assert hub.files_of(str(folder)) == (folder / "config.json", weights)
    if reader == "run":
        net: Any = of_folder(str(folder), "sequence_classification", ["input_ids"], ["a", "b"]).net
    else:
        net = compared(folder)
    found = net.state_dict()
    assert set(expected) <= set(found)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not mark.exists()


def test_shards_are_read_as_their_index_says(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "bert", head="ForSequenceClassification")
    expected = own(folder).state_dict()
    own(folder).save_pretrained(tmp_path / "cut", max_shard_size="8KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 2
    for net in (
        of_folder(str(tmp_path / "cut"), "sequence_classification", ["input_ids"], ["a", "b"]).net,
        compared(tmp_path / "cut"),
    ):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in net.state_dict().items())


def compared(folder: Path) -> Any:
    """The module that ``compare`` reads of a folder."""
    from compressbench.artefacts.artefact import Given
    from compressbench.artefacts.folders import read

    return read(folder, Given()).module


@pytest.mark.parametrize("name", ["adapter_model.bin", "other.safetensors"])
def test_a_config_names_no_other_weights(tmp_path: Path, name: str) -> None:
    folder = a_folder(tmp_path / "bert", head="ForSequenceClassification")
    edited(folder, transformers_weights=name)
    for reader in (
        compared,
        lambda f: of_folder(str(f), "sequence_classification", ["input_ids"], ["a", "b"]),
    ):
        with pytest.raises(UserError, match="transformers_weights"):
            reader(folder)


def test_another_tokenizer_or_other_classes_are_one_line(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "bert", head="ForSequenceClassification", id2label={0: "x", 1: "y"})
    with pytest.raises(
        UserError, match=r"its head answers x, y, and the data's classes are neg, pos.*new_head=true"
    ):
        drawn(hf(folder), bench_on(tmp_path, folder))
    config = texts_of(tmp_path / "t.tsv", folder, tokenizer=None, vocabulary=290)
    with pytest.raises(UserError, match="by another tokenizer than the model's"):
        drawn(hf(folder, new_head=True), Bench(load(config), 0, "init"))
    small = a_folder(tmp_path / "small", vocab_size=290)
    (small / "tokenizer.json").unlink()
    config = texts_of(tmp_path / "t.tsv", small, tokenizer=None, vocabulary=300)
    with pytest.raises(UserError, match="it knows 290 tokens, and the data's tokenizer has 300"):
        drawn(hf(small), Bench(load(config), 0, "init"))


@pytest.mark.parametrize("before", [False, True])
def test_the_network_is_off_whenever_the_library_was_imported(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)
    with hub.offline():
        assert constants.is_offline_mode()
    assert constants.is_offline_mode() is before


@pytest.mark.parametrize("name", ["hf-hub:timm/x", "local-dir:/x", "HF_HUB:x"])
def test_a_config_names_no_model_elsewhere(name: str) -> None:
    for config in ({"backbone": name}, {"a": [{"backbone": name}]}):
        with pytest.raises(UserError, match="names a model elsewhere"):
            hub.plain_config({"model_type": "bert", **config}, "x")


@pytest.mark.parametrize("name", ["auto_map", "quantization_config", "transformers_weights"])
def test_what_is_refused_is_refused_at_every_depth(name: str) -> None:
    inner: dict[str, Any] = {name: {"bits": 4}}
    for config in (inner, {"text_config": inner}, {"a": [{"b": inner}]}):
        with pytest.raises(UserError, match=name):
            hub.plain_config({"model_type": "bert", **config}, "x")


def test_what_is_left_out_is_left_out_at_every_depth() -> None:
    """Classes may be called so."""
    labels = {"label2id": {"dtype": 0, "auto_map": 1}}
    config = {
        "model_type": "bert",
        "text_config": {"dtype": "float16", "_name_or_path": "x", "hidden_size": 8},
    }
    found = hub.plain_config({**config, **labels}, "x")
    assert found == {"model_type": "bert", "text_config": {"hidden_size": 8}, **labels}


def test_a_states_config_names_nothing_to_run(tmp_path: Path) -> None:
    """What a store file smuggles into a config is dropped or refused before anything is built."""
    folder = a_folder(tmp_path / "bert")
    found = hub.config_of(
        str(edited(folder, _target_="os.system", _attn_implementation="x/y", nest={"_target_": "z"}))
    )
    assert "_target_" not in json.dumps(found)
    assert "_attn_implementation" not in found
    with pytest.raises(UserError, match="code of its own"):
        HuggingFace(
            {**found, "auto_map": {"AutoModelForSequenceClassification": "a--b"}},
            "sequence_classification",
            [],
        )


# ---------------------------------------------------------------- MiniLM


@pytest.mark.slow
@needs_minilm
def test_minilm_is_bertmodel_and_its_tokens_are_its_own() -> None:
    config = composed(["recipe=one_shot", "model=minilm", "dataset=glosses", "dataset.train_size=60",
                       "dataset.test_size=40", "dataset.validation=10"])  # fmt: skip
    bench = Bench(load(config["dataset"]), 0, "init")
    state = drawn(config["model"], bench)
    net, examples = module_of(state), bench.dataset.split("test")
    x = bench.task.encode(examples.to("cpu"))
    from compressbench.tasks.text.packing import TEXT, unpacked

    theirs = transformers.AutoTokenizer.from_pretrained(str(MINILM), local_files_only=True)
    tokens = theirs(
        list(unpacked(examples[TEXT])), padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    assert torch.equal(x[0], tokens["input_ids"])
    assert torch.equal(x[1], tokens["attention_mask"])
    base = transformers.AutoModel.from_pretrained(str(MINILM), local_files_only=True).eval()
    assert sum(p.numel() for p in base.parameters()) == 22_713_216
    with torch.no_grad():
        hidden = base(input_ids=x[0], attention_mask=x[1]).pooler_output
        head = state.weights["net.classifier.weight"], state.weights["net.classifier.bias"]
        assert torch.equal(net(*x), torch.nn.functional.linear(hidden, *head))


def test_unpacking_writes_what_it_knows_or_nothing(tmp_path: Path) -> None:
    """Entries that lead elsewhere aren't written; another sum, or a file that lacks, leaves no folder."""
    from hashlib import sha256

    source, folder = tmp_path / "model.zip", tmp_path / "weights" / "minilm"

    def packed(**more: str) -> Path:
        with zipfile.ZipFile(source, "w") as archive:
            for name in unpacking.FILES:
                archive.writestr(name, name)
            archive.writestr("../outside", "x")
            for name, text in more.items():
                archive.writestr(name, text)
        return source

    good = sha256(b"model.safetensors").hexdigest()
    with pytest.raises(UserError, match="not the published"):
        unpacking.unpacked(packed(), folder)
    assert not folder.exists()
    assert not list(folder.parent.iterdir())
    assert unpacking.unpacked(packed(other="y"), folder, good) == folder
    assert sorted(p.name for p in folder.iterdir()) == sorted(unpacking.FILES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.zip", "weights"]
    assert unpacking.unpacked(source, folder, good) == folder  # there already
    with pytest.raises(UserError, match="there already, with other weights"):
        unpacking.unpacked(source, folder, "0" * 64)
    source.write_bytes(b"no archive")
    with pytest.raises(UserError, match="can't be unpacked"):
        unpacking.unpacked(source, tmp_path / "new", good)


def test_a_tokenizers_file_is_bounded(tmp_path: Path) -> None:
    """A sparse file; its digest would be made of all of it."""
    folder = a_folder(tmp_path / "bert")
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match="more than the 67,108,864 that are read"):
        of_folder(str(folder), "sequence_classification", ["input_ids"], ["a", "b"], tokenizer="0" * 64)


@pytest.mark.parametrize("fault", ["damaged", "encrypted"])
def test_an_archive_that_is_damaged_or_encrypted_is_one_line(tmp_path: Path, fault: str) -> None:
    source = tmp_path / "model.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in unpacking.FILES:
            archive.writestr(name, name * 50)
    content = bytearray(source.read_bytes())
    if fault == "damaged":
        content[30 + len(unpacking.FILES[0])] = 0xFF  # a kind of block that deflate doesn't have
    else:
        for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            content[content.index(mark) + at] |= 1
    source.write_bytes(content)
    with pytest.raises(UserError, match="can't be unpacked"):
        unpacking.unpacked(source, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]


def test_without_weights_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSBENCH_WEIGHTS", str(tmp_path))
    config = composed(["recipe=one_shot", "model=minilm", "dataset=glosses"])
    assert config["model"]["build"]["folder"] == str(tmp_path / "minilm")
    with pytest.raises(UserError, match=r"there is no folder .*minilm.*make weights"):
        load(config["dataset"])


def test_half_precision_is_no_sharing(tmp_path: Path) -> None:
    """A folder in half precision is read as float32; that training leaves its 16 bits behind is no loss."""
    from compressbench.runs.flags import LOST, checked

    folder = a_folder(tmp_path / "bert", hidden_size=64, intermediate_size=128)
    module = transformers.BertModel.from_pretrained(str(folder)).half()
    module.save_pretrained(folder)
    bench = bench_on(tmp_path, folder)
    state = drawn(hf(folder), bench)
    name = "net.bert.encoder.layer.0.output.dense.weight"
    assert state.weights[name].dtype == torch.float32
    assert torch.equal(state.weights[name], module.state_dict()[name.removeprefix("net.bert.")].float())
    weights = {
        n: t + 1e-5 * torch.randn(t.shape) if t.is_floating_point() else t for n, t in state.weights.items()
    }
    trained = checked(state, state.with_groups(weights=weights))
    assert not [f for f in trained.facts["flags"] if f.startswith(LOST)]
