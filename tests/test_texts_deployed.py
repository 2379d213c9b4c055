"""Texts after the training: exported files that strangers run, tables of embeddings in integers, what targets say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cases_texts import MINILM, SMALL, run
from compressbench.deploying.handing_over import _beside as beside_of
from compressbench.deploying.handing_over import export
from compressbench.errors import UserError
from compressbench.models.quantized import load_scales, quantize
from compressbench.paths import weights_folder
from compressbench.records import Record, read_jsonl

pytest.importorskip("tokenizers")
pytest.importorskip("onnx")

PROBES = ("accuracy", "cost", "structure", "deployed", "targets")
TARGETS = ("cpu_torch", "cpu_onnxruntime", "cpu_openvino", "raspberry_pi_4", "zynq_zcu104", "edge_tpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of ``tiny_text``."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    return run(tmp_path_factory.mktemp("text"), PROBES)


def found(finished: Path, metric: str, state: str, group: str = "") -> Record:
    (row,) = [
        r
        for r in read_jsonl(finished / "records.jsonl")
        if (r.metric, r.state, r.group) == (metric, state, group)
    ]
    return row


READ = """
import json, sys
sys.modules["compressbench"] = None  # nothing of ours
rows = [json.loads(line) for line in open("quantized.test.jsonl", encoding="utf-8")]
texts = [row["text"] for row in rows]
"""
SAID = """
import numpy
names = json.load(open("classes.json"))
logits = numpy.asarray(logits if not hasattr(logits, "numpy") else logits.detach().numpy())
print(sum(names[k] == row["label"] for k, row in zip(logits.argmax(1), rows)))
"""


def right_of_a_stranger(finished: Path, form: str, tmp_path: Path, command: Any) -> int:
    """Of the test texts that the exported state answers rightly in a script without compressbench: the card's own."""
    done = command(
        "export", str(finished), "--state", "quantized", "--to", form, "--examples", "--output", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    card = (tmp_path / f"quantized.{form}.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    classes = re.search(r"classes in order: (.*)\.", card)
    assert classes is not None
    (tmp_path / "classes.json").write_text(json.dumps(classes[1].split(", ")))
    (tmp_path / "script.py").write_text(READ + code + SAID)
    ran = subprocess.run(
        [sys.executable, "-I", "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    right = int(ran.stdout)
    told = re.search(r"([\d.]+) % of 200 test texts right", card)
    assert told is not None
    assert right == round(2 * float(told[1]))
    return right


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch_export"])
def test_a_stranger_runs_the_file_by_its_card(
    finished: Path, form: str, tmp_path: Path, command: Any
) -> None:
    right = right_of_a_stranger(finished, form, tmp_path, command)
    metric, runtime = {
        "onnx": ("deployed_top1", "onnxruntime"),
        "openvino": ("deployed_top1", "openvino"),
    }.get(form, ("top1", ""))
    assert right == round(2 * (found(finished, metric, "quantized", runtime).value or 0))
    assert right > 60, "three times better than chance, so that the figure says something"


@pytest.mark.slow
@pytest.mark.skipif(not Path(weights_folder("minilm")).is_dir(), reason="MiniLM isn't unpacked: make weights")
def test_minilm_without_heads_distilled_in_eight_bits_runs_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, command: Any
) -> None:
    pytest.importorskip("transformers")
    small = run(tmp_path_factory.mktemp("minilm"), ("accuracy",), MINILM, SMALL)
    for form in ("onnx", "openvino"):
        right = right_of_a_stranger(small, form, tmp_path_factory.mktemp(form), command)
        assert abs(right - 2 * (found(small, "top1", "quantized").value or 0)) <= 4, "simulated, of 200"
        assert right > 60


@pytest.mark.parametrize("there", ["another", "a link", "a link to nothing"])
def test_another_states_tokenizer_is_refused_before_anything_is_written(tmp_path: Path, there: str) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere.json"
    folder.mkdir()
    if there != "a link to nothing":
        elsewhere.write_bytes(b"own" if there == "a link" else b"{}")
    if there == "another":
        elsewhere.rename(folder / "tokenizer.json")
    else:
        (folder / "tokenizer.json").symlink_to(elsewhere)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json") if p.exists()}
    task = SimpleNamespace(beside=lambda: {"tokenizer.json": b"own"})
    view: Any = SimpleNamespace(leaves_early=False, module=nn.Identity(), bench=SimpleNamespace(task=task))
    none: Any = None
    said = "is another one than this state's" if there == "another" else "is a link"
    with pytest.raises(UserError, match=rf"tokenizer\.json {said}.*another --output folder"):
        export(none, view, none, "onnx", folder, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert beside_of(view, tmp_path / "new") == {tmp_path / "new" / "tokenizer.json": b"own"}
    (tmp_path / "tokenizer.json").write_bytes(b"own")
    assert beside_of(view, tmp_path) == {}


@pytest.mark.slow
def test_integers_run_in_both_runtimes_and_the_tables_are_bytes(
    finished: Path, tmp_path: Path, command: Any
) -> None:
    import onnx

    for runtime in ("onnxruntime", "openvino"):
        assert (
            found(finished, "layers_in_float", "quantized", runtime).value == 0
        ), found(finished, "layers_in_float", "quantized", runtime).note  # fmt: skip
    command("export", str(finished), "--state", "quantized", "--to", "onnx", "--output", str(tmp_path))
    graph = onnx.load(str(tmp_path / "quantized.onnx")).graph
    kinds = {i.name: (i.data_type, tuple(i.dims)) for i in graph.initializer}
    assert kinds["tokens.weight|q"] == (onnx.TensorProto.INT8, (1500, 48))
    assert kinds["tokens.weight|scale"] == (onnx.TensorProto.FLOAT, (1500, 1))
    large = [
        n for n, (kind, dims) in kinds.items() if kind == onnx.TensorProto.FLOAT and np.prod(dims) > 1500
    ]
    assert large == [], "no table and no matrix of floats is left"
    for value in graph.input:
        assert [d.dim_param for d in value.type.tensor_type.shape.dim] == ["n", "tokens"]
    assert [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim] == ["n", 10]


@pytest.mark.slow
def test_any_number_of_texts_of_any_length(finished: Path, tmp_path: Path, command: Any) -> None:
    import onnxruntime

    from compressbench.models.build import module_of
    from compressbench.runs import finished as runs

    command("export", str(finished), "--state", "distilled", "--to", "onnx", "--output", str(tmp_path))
    session = onnxruntime.InferenceSession(
        str(tmp_path / "distilled.onnx"), providers=["CPUExecutionProvider"]
    )
    view, _ = runs.view_of(runs.opened(finished), "distilled")
    module = module_of(view.state)
    generator = torch.Generator().manual_seed(0)
    for n, tokens in ((1, 1), (1, 2), (3, 5), (17, 32)):
        ids = torch.randint(0, 1500, (n, tokens), generator=generator)
        mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (n, 1), generator=generator)).long()
        (logits,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, module(ids, mask).numpy(), atol=1e-4)


@pytest.mark.slow
def test_multiplications_are_those_of_a_hand_formula(finished: Path) -> None:
    tokens, dim, mlp, depth, classes = 32, 48, 96, 2, 10
    a_layer = (
        tokens * (4 * dim**2 + 2 * dim * mlp) + 2 * tokens**2 * dim
    )  # four projections, the MLP; q k and its v
    assert found(finished, "macs", "dense").value == depth * a_layer + dim * classes


@pytest.mark.slow
def test_bytes_of_tables_count_at_their_bits(finished: Path) -> None:
    integers = 1500 * 48 + 32 * 48
    linear = 2 * (4 * 48**2 + 2 * 48 * 96) + 480
    assert found(finished, "weight_bits", "quantized").value == 8
    before, after = (found(finished, "quantized_bytes", "quantized").value, integers + linear)
    assert before is not None
    rest = 4 * (1500 + 32) + 4 * 2 * (
        4 * 48 + 96 + 48
    )  # scales of rows and of outputs; then biases, norms, names
    assert after < before < after + rest + 12_000
    assert found(finished, "weight_bits", "dense").value == 32


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_targets_time_or_price_texts(finished: Path, target: str) -> None:
    times = [
        (r.value, r.note)
        for r in read_jsonl(finished / "records.jsonl")
        if (r.state, r.probe, r.group) == ("pruned", "targets", target)
        and r.metric.startswith(("latency_b", "token_throughput"))
    ]
    assert times
    if target == "edge_tpu":
        ((value, note),) = times
        assert value is None
        assert "only integers run here" in note
        return
    assert all(value is not None and value > 0 for value, _ in times)
    assert all("32 tokens" in note for _, note in times)
    by_batch = {
        r.metric: r.value
        for r in read_jsonl(finished / "records.jsonl")
        if (r.state, r.probe, r.group) == ("pruned", "targets", target)
    }
    assert by_batch["token_throughput_b1"] == pytest.approx(32 * (by_batch["throughput_b1"] or 0))


@pytest.mark.slow
def test_a_modelled_device_holds_tables_at_their_bits(finished: Path) -> None:
    from compressbench.hardware.work import work_of
    from compressbench.runs import finished as runs

    ready = runs.opened(finished)
    whole, rounded = (work_of(runs.view_of(ready, name)[0]).others for name in ("distilled", "quantized"))
    assert whole - rounded == (1500 + 32) * 48 * 3 // 4  # bytes instead of four
    assert whole == (1500 + 32) * 48 + 2 * (5 * 48 + 96) + 2 * 2 * 2 * 48 + 2 * 48 + 10


@pytest.mark.slow
def test_the_task_keeps_to_the_rules_of_tasks(finished: Path) -> None:
    from compressbench.checking.tasks import check_task
    from compressbench.runs import finished as runs

    check_task(runs.opened(finished).dataset)


@pytest.mark.parametrize(
    "asked", ["model=language_model dataset=glosses_lm", "model=translator dataset=phrases"]
)
def test_runtimes_are_held_against_a_state_token_by_token(asked: str) -> None:
    from compressbench.bench import Bench
    from compressbench.data.load import load
    from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
    from compressbench.models.draw import drawn
    from compressbench.probes.deployed import Deployed
    from compressbench.specs.compose import composed
    from compressbench.stages.quantize import Quantize
    from compressbench.views import View

    pytest.importorskip("onnxruntime")
    small = ["model.build.dim=32", "model.build.heads=2", "model.build.mlp=48", "dataset.train_size=300",
             "dataset.test_size=40", "dataset.task.vocabulary=400", "dataset.task.length=12"]  # fmt: skip
    config = composed([*asked.split(), *small])
    bench = Bench(load(config["dataset"]), 0, "init", say=lambda _: None)
    state = Quantize(examples=40).apply(drawn(config["model"], bench), bench)
    view = View(state, bench)
    probe = Deployed({"ort": OnnxRuntimeCPU(batches=(1,), seconds=0.01)})
    rows = {m.name: m for m in probe.measure(view, view, bench)}
    pieces = list(view.pieces())
    wanted = torch.cat([p.labels for p in pieces])
    said = torch.cat([p.log_probs.argmax(1) for p in pieces])
    assert rows["simulated_top1"].value == pytest.approx(100 * float((said == wanted).float().mean()))
    assert rows["deployed_top1"].n == len(wanted) > 40
    assert (rows["deployed_agreement"].value or 0) > 95
    assert abs(rows["deployed_gap"].value or 0) < 5
    assert "tokens" in rows["deployed_top1"].note


def tables(form: dict[str, Any], scale: torch.Tensor, zero: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(7, 4))
    quantize(module, {"0": {"weight": form}})
    load_scales(module, {"0.weight|scale": scale, "0.weight|zero": zero})
    return module


@pytest.mark.parametrize("axis", [0, None])
def test_rows_are_rounded_by_their_own_scales(axis: int | None) -> None:
    scale = torch.linspace(0.1, 0.4, 7) if axis == 0 else torch.tensor(0.3)
    zero = torch.arange(-3, 4, dtype=torch.int32) if axis == 0 else torch.tensor(3, dtype=torch.int32)
    module: Any = tables({"bits": 4, "low": -8, "high": 7, "axis": axis}, scale, zero)
    ids = torch.tensor([[6, 0, 6], [2, 3, 1]])
    w, s, z = (
        module[0].weight.detach().numpy(),
        *(np.broadcast_to(x.numpy(), 7)[:, None] for x in (scale, zero)),
    )
    wanted = ((np.clip(np.rint(w / s) + z, -8, 7) - z) * s)[ids.numpy()]
    np.testing.assert_allclose(module(ids).detach().numpy(), wanted, atol=1e-6)
    module(ids).sum().backward()
    looked_up = module[0].weight.grad.abs().sum(1) > 0
    assert looked_up.tolist()[4:6] == [False, False]
    from compressbench.hardware.onnx_graph import graph_of
    from compressbench.hardware.onnxruntime_cpu import answers, package

    run = answers(package(), graph_of(module.eval(), (ids,), names=("ids",)).bytes(), 1)
    np.testing.assert_allclose(run(ids).numpy(), wanted, atol=1e-6)


def test_an_embedding_has_no_inputs_to_round() -> None:
    form = {"bits": 8, "low": -127, "high": 127, "axis": 0}
    with pytest.raises(UserError, match="0 is an embedding, whose inputs are no numbers to round"):
        quantize(nn.Sequential(nn.Embedding(3, 2)), {"0": {"weight": form, "input": form}})


def test_tables_that_cannot_round_stay_float() -> None:
    from compressbench.models.quantized import embeddings
    from compressbench.quantizing.apply import bits_by_layer

    net = nn.ModuleDict({"own": nn.Embedding(5, 3), "tied": nn.Embedding(5, 3), "fc": nn.Linear(3, 5)})
    net["fc"].weight = net["tied"].weight
    net["bound"] = nn.Embedding(5, 3, max_norm=1.0)
    assert list(embeddings(net)) == ["own"]
    bits, flags = bits_by_layer(nn.ModuleDict({"a": nn.Embedding(5, 3), "b": nn.Linear(3, 5)}), 8, 8, {})
    assert bits == {"b": (8, 8)}
    assert "a.weight" in flags[0]
    both, flags = bits_by_layer(
        nn.ModuleDict({"a": nn.Embedding(5, 3), "b": nn.Linear(3, 5)}), 8, 8, {"@embeddings": {"weights": 4}}
    )
    assert both == {"b": (8, 8), "a": (4, None)}
    assert flags == []
    with pytest.raises(UserError, match="no embedding whose weight is its own"):
        bits_by_layer(nn.ModuleDict({"b": nn.Linear(3, 5)}), 8, 8, {"@embeddings": {"weights": 4}})
