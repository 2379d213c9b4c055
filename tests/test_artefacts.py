"""Artefacts: the same net in every form answers alike; nothing that is read runs code or leads elsewhere."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compressbench.artefacts import told
from compressbench.artefacts.artefact import (
    Given,
    Input,
    Wanted,
    chosen,
    fed,
    in_batches,
    in_order,
    layout_of,
    size_of,
    table,
)
from compressbench.artefacts.function import Function
from compressbench.artefacts.predictions import Predictions
from compressbench.artefacts.predictions import told as kind_of
from compressbench.errors import UserError
from compressbench.runs.finished import Trust
from tiny import Tiny

SHAPE, CLASSES = [3, 8, 8], 5
FACTS = {"@shape": SHAPE, "@classes": CLASSES}
TINY_MODEL = Given(model="tiny:Tiny", facts=FACTS, trust=Trust(("tiny",)))


class Evil:
    """What a pickle can do: leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def net() -> Tiny:
    """With statistics of batches, as training leaves them."""
    torch.manual_seed(0)
    made = Tiny(SHAPE, CLASSES)
    made.train()(torch.randn(32, *SHAPE) * 2 + 1)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.RandomState(1).randn(7, *SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def wanted(net: Tiny, inputs: np.ndarray) -> np.ndarray:
    return net(torch.from_numpy(inputs)).numpy()


@pytest.fixture(scope="module")
def made(net: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the net in the forms that torch, ONNX and OpenVINO write."""
    import openvino

    folder = tmp_path_factory.mktemp("made")
    sample = torch.randn(2, *SHAPE)
    free = ({0: torch.export.Dim("n", min=1, max=64)},)
    torch.export.save(torch.export.export(net, (sample,), dynamic_shapes=free), str(folder / "net.pt2"))
    torch.onnx.export(
        net,
        (sample,),
        str(folder / "net.onnx"),
        dynamic_shapes=free,
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    openvino.save_model(
        openvino.Core().read_model(folder / "net.onnx"), folder / "net.xml", compress_to_fp16=False
    )
    save_file(net.state_dict(), str(folder / "net.safetensors"))
    torch.save(net.state_dict(), folder / "net.pt")
    torch.save({"state_dict": net.state_dict()}, folder / "old.bin", _use_new_zipfile_serialization=False)
    return folder


def test_the_same_net_answers_alike_in_every_form(
    made: Path, net: Tiny, inputs: np.ndarray, wanted: np.ndarray
) -> None:
    forms = {
        "net.onnx": "ONNX, ONNX Runtime",
        "net.xml": "OpenVINO IR, OpenVINO",
        "net.pt2": "torch.export program, torch",
        "net.safetensors": "safetensors weights in Tiny, torch",
        "net.pt": "torch weights in Tiny, torch",
        "old.bin": "torch weights in Tiny, torch",
    }
    for name, words in forms.items():
        found = told.read(str(made / name), TINY_MODEL)
        assert not isinstance(found, Predictions)
        assert found.form.startswith(words)
        assert found.name == name
        assert found.wants.classes == CLASSES
        assert found.wants.inputs[0].shape == (None, *SHAPE)
        assert found.wants.layout == "NCHW"
        assert found.wants.batch is None
        np.testing.assert_allclose(found.open().answers((inputs,)), wanted, atol=2e-5)
        by_name = {found.wants.inputs[0].name: inputs[:2]}
        np.testing.assert_allclose(found.open(2).answers(by_name), wanted[:2], atol=2e-5)
        beside = [made / name] + ([made / "net.bin"] if name == "net.xml" else [])
        assert size_of(found) == sum(p.stat().st_size for p in beside)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.pt2", "net.safetensors", "net.pt"])
def test_what_a_file_is_called_tells_nothing(made: Path, tmp_path: Path, name: str, wanted, inputs) -> None:
    """And the same content under another name is the same artefact."""
    shutil.copy(made / name, tmp_path / "a.dat")
    if name == "net.xml":
        shutil.copy(made / "net.bin", tmp_path / "a.bin")
    first, other = told.read(str(made / name), TINY_MODEL), told.read(str(tmp_path / "a.dat"), TINY_MODEL)
    assert other.form == first.form
    assert other.identity == first.identity
    np.testing.assert_allclose(other.open().answers((inputs,)), wanted, atol=2e-5)


def test_other_weights_are_another_artefact(made: Path, net: Tiny, tmp_path: Path) -> None:
    state = {n: t.clone() for n, t in net.state_dict().items()}
    state["fc.bias"][0] += 1
    save_file(state, str(tmp_path / "net.safetensors"))
    first = told.read(str(made / "net.safetensors"), TINY_MODEL)
    assert told.read(str(tmp_path / "net.safetensors"), TINY_MODEL).identity != first.identity


@pytest.mark.parametrize("name", ["net.pt2", "net.safetensors"])
def test_what_torch_runs_can_be_differentiated(made: Path, net: Tiny, inputs: np.ndarray, name: str) -> None:
    module = told.read(str(made / name), TINY_MODEL).differentiable()
    assert module is not None
    grads = []
    for each in (net, module):
        x = torch.from_numpy(inputs.copy()).requires_grad_()
        each(x)[:, 1].sum().backward()
        grads.append(x.grad)
    assert grads[0].abs().max() > 1e-3
    torch.testing.assert_close(grads[1], grads[0])


def test_other_runtimes_can_not(made: Path) -> None:
    assert told.read(str(made / "net.onnx")).differentiable() is None
    assert told.read(str(made / "net.xml")).differentiable() is None


def test_threads_are_torchs_while_it_answers(made: Path, inputs: np.ndarray) -> None:
    seen = []

    def call(x: np.ndarray) -> np.ndarray:
        seen.append(torch.get_num_threads())
        return x.reshape(len(x), -1)[:, :2]

    Function(call, "mine").open(2).answers((inputs,))
    assert seen == [2]
    assert torch.get_num_threads() == 1


# --- inputs, outputs, batches


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((None, 3, 32, 32), "NCHW"), ((1, 224, 224, 3), "NHWC"), ((None, 1, None, None), "NCHW"),
        ((None, None, None, 4), "NHWC"), ((None, 3, 32, 3), None), ((None, None, None, None), None),
        ((None, 8, 8, 8), None), ((None, 10), None), ((), None),
    ],
)  # fmt: skip
def test_the_layout_is_where_the_channels_are(shape: Sequence[int | None], layout: str | None) -> None:
    assert layout_of(shape) == layout


def test_a_picture_is_told_by_its_layout() -> None:
    assert Wanted((Input("x", (None, 24, 32, 3)),)).picture == (3, 24, 32)
    assert Wanted((Input("x", (1, 3, 24, 32)),)).picture == (3, 24, 32)
    assert Wanted((Input("x", (None, 10)),)).picture is None
    assert Wanted().picture is None


class Recorder:
    """An artefact and an opened one that answers the sum of each example, and notes what it was asked."""

    def __init__(self, batch: int | None) -> None:
        self.name, self.wants = "recorder", Wanted((Input("x", (batch, 2)),))
        self.asked: list[np.ndarray] = []

    def answers(self, inputs: Any) -> np.ndarray:
        self.asked.append(np.asarray(inputs[0]))
        return np.repeat(inputs[0].sum(axis=1, keepdims=True), 2, axis=1)


def test_a_fixed_batch_is_filled_with_its_last_example_and_cut() -> None:
    data = np.arange(14, dtype=np.float32).reshape(7, 2)
    fixed = Recorder(4)
    found = list(in_batches(fixed, fixed, [(data[:5],), (data[5:],)]))
    assert [len(f) for f in found] == [5, 2]
    np.testing.assert_array_equal(np.concatenate(found)[:, 0], data.sum(axis=1))
    assert [a.tolist() for a in fixed.asked] == [
        data[:4].tolist(), [data[4].tolist()] * 4, [data[5].tolist(), *[data[6].tolist()] * 3],
    ]  # fmt: skip


def test_a_free_batch_is_left_whole_or_cut_to_the_most_that_is_asked() -> None:
    data = np.arange(14, dtype=np.float32).reshape(7, 2)
    free, cut = Recorder(None), Recorder(None)
    list(in_batches(free, free, [(data,), (data[:0],)]))
    list(in_batches(cut, cut, [(data,)], most=3))
    assert [len(a) for a in free.asked] == [7]
    assert [len(a) for a in cut.asked] == [3, 3, 1]


def test_inputs_that_do_not_fit_are_one_line() -> None:
    wants = Wanted((Input("ids", (None, 4), "int64"), Input("mask", (2, None), "int64")))
    ids = np.zeros((2, 4), np.int64)
    ordered = in_order(wants, {"mask": ids + 1, "ids": ids}, "net")
    assert [int(a.max()) for a in ordered] == [0, 1]
    for given, words in (
        ({"ids": ids, "mas": ids}, "no input 'mas'; did you mean mask"),
        ({"ids": ids}, "its input 'mask' is not given"),
        ((ids,), r"takes 2 inputs \(ids, mask\), not 1"),
        ((ids, ids[:1]), "no number of examples in common"),
        ((ids[:, :3], ids), r"its input ids is \(any, 4\); given \(2, 3\)"),
        ((np.zeros((3, 4)), np.zeros((3, 4))), r"its input mask is \(2, any\)"),
    ):
        with pytest.raises(UserError, match=words):
            in_order(wants, given, "net")


def test_numbers_are_fed_as_what_holds_them() -> None:
    pixels = np.array([[0, 255]], np.uint8)
    assert fed(Input("x", (), "float32"), pixels, "net").dtype == np.float32
    assert fed(Input("x", (), "float16"), pixels.astype(float), "net").dtype == np.float16
    assert fed(Input("x", (), "int32"), pixels, "net").tolist() == [[0, 255]]
    for dtype, array in (("uint8", pixels.astype(np.float32)), ("int8", pixels), ("uint8", np.array([[-1]]))):
        with pytest.raises(UserError, match=f"takes {dtype}"):
            fed(Input("x", (), dtype), array, "net")


def test_answers_are_a_table() -> None:
    assert table(np.zeros((2, 3, 1, 1), np.float16), 2, "net").shape == (2, 3)
    assert table(np.zeros((2, 3, 1, 1), np.float16), 2, "net").dtype == np.float32
    assert table(np.zeros((2, 3)), 2, "net").dtype == np.float64
    assert table(np.zeros(2, np.float32), 2, "net").shape == (2, 1)
    for odd in (np.zeros((2, 3, 2)), np.zeros((3, 3)), np.zeros(2, np.int64), np.zeros(())):
        with pytest.raises(UserError, match=r"\(examples, classes\) is wanted: --output"):
            table(odd, 2, "net")
    with pytest.raises(UserError, match="no numbers"):
        table(np.array(["a", "b"]), 2, "net")


F, WHOLE = "float32", "int64"


@pytest.mark.parametrize(
    ("outputs", "given", "place"),
    [
        ([("y", (None, 10), F)], Given(), 0),
        ([("label", (None,), WHOLE), ("probabilities", (None, 10), F)], Given(), 1),
        ([("features", (None, 64, 7, 7), F), ("y", (None, 10, 1, 1), F)], Given(), 1),
        ([("aux", (None, 64), F), ("y", (None, 10), F)], Given(facts={"@classes": 10}), 1),
        ([("aux", (None, 10), F), ("logits", (None, 10), F)], Given(), 1),
        ([("aux", (None, 10), F), ("logits", (None, 10), F)], Given(output="aux"), 0),
    ],
)
def test_one_of_several_outputs_is_chosen(outputs: Any, given: Given, place: int) -> None:
    assert chosen(outputs, given, "net") == place


def test_outputs_that_could_all_be_it_name_the_flag() -> None:
    outputs = [("a", (None, 10), F), ("b", (None, 10), F)]
    with pytest.raises(
        UserError, match=r"net: has 2 outputs \(a \(any, 10\), b \(any, 10\)\); --output NAME"
    ):
        chosen(outputs, Given(facts={"@classes": 10}), "net")
    with pytest.raises(UserError, match="--output: net has no output 'c'"):
        chosen(outputs, Given(output="c"), "net")


# --- ONNX


def linear(
    path: Path,
    shape: Sequence[int | str] = ("n", 3, 2, 2),
    dtype: str = "FLOAT",
    outputs: Sequence[str] = ("y",),
    external: str | None = None,
    perm: Sequence[int] | None = None,
) -> np.ndarray:
    """Writes flatten and a product by hand; returns the weights (features, 4)."""
    from onnx import TensorProto, helper, numpy_helper, save

    features = int(np.prod([n for n in shape[1:] if isinstance(n, int)]))
    weights = np.random.RandomState(0).randn(features, 4).astype(np.float32)
    tensor = numpy_helper.from_array(weights, "w")
    if external is not None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", external), ("offset", "0"), ("length", str(weights.nbytes))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    if perm:
        nodes.append(helper.make_node("Transpose", ["f"], ["p"], perm=list(perm)))
    nodes += [
        helper.make_node("Flatten", ["p" if perm else "f"], ["flat"]),
        *(helper.make_node("MatMul", ["flat", "w"], [name]) for name in outputs),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", getattr(TensorProto, dtype), shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [shape[0], 4]) for name in outputs],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString()) if external else save(model, str(path))
    return weights


@pytest.mark.parametrize(
    ("dtype", "word"), [("UINT8", "uint8"), ("FLOAT16", "float16"), ("FLOAT", "float32")]
)
def test_onnx_takes_what_its_input_says(tmp_path: Path, dtype: str, word: str) -> None:
    weights = linear(tmp_path / "net.onnx", ("n", 2, 2, 3), dtype)
    found = told.read(str(tmp_path / "net.onnx"))
    assert (found.wants.inputs[0].dtype, found.wants.layout) == (word, "NHWC")
    pixels = np.random.RandomState(2).randint(0, 255, (5, 2, 2, 3)).astype(np.uint8)
    got = found.open().answers({"x": pixels})
    np.testing.assert_allclose(got, pixels.reshape(5, -1).astype(np.float32) @ weights, rtol=1e-4, atol=1e-2)


def test_onnx_of_a_fixed_batch_answers_any_number(tmp_path: Path) -> None:
    weights = linear(tmp_path / "net.onnx", (4, 3, 2, 2))
    found = told.read(str(tmp_path / "net.onnx"))
    assert found.wants.batch == 4
    data = np.random.RandomState(2).randn(7, 3, 2, 2).astype(np.float32)
    (got,) = in_batches(found, found.open(), [(data,)])
    np.testing.assert_allclose(got, data.reshape(7, -1) @ weights, atol=1e-4)


def test_onnx_with_several_outputs_wants_a_name(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx", outputs=("a", "b"))
    with pytest.raises(UserError, match="--output NAME"):
        told.read(str(tmp_path / "net.onnx"))
    first, other = (told.read(str(tmp_path / "net.onnx"), Given(output=n)) for n in "ab")
    assert first.identity != other.identity


def test_external_data_lies_beside_the_model_or_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "model"
    inner.mkdir()
    weights = linear(inner / "net.onnx", external="net.data")
    with pytest.raises(UserError, match=r"refers to 'net\.data', which is not beside it"):
        told.read(str(inner / "net.onnx"))
    (inner / "net.data").write_bytes(weights.tobytes())
    found = told.read(str(inner / "net.onnx"))
    assert size_of(found) == weights.nbytes + (inner / "net.onnx").stat().st_size
    x = np.ones((1, 3, 2, 2), np.float32)
    np.testing.assert_allclose(found.open().answers((x,)), weights.sum(axis=0)[None], rtol=1e-5)

    (inner / "net.data").write_bytes(weights.tobytes()[:-1])
    with pytest.raises(UserError, match=r"beyond the end of net.data"):
        told.read(str(inner / "net.onnx"))
    (tmp_path / "secret").write_bytes(weights.tobytes())
    for place in ("../secret", str(tmp_path / "secret")):
        linear(inner / "net.onnx", external=place)
        with pytest.raises(UserError, match=r"refers to .*secret"):
            told.read(str(inner / "net.onnx"))
    linear(inner / "net.onnx", external="link")
    (inner / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="outside its folder"):
        told.read(str(inner / "net.onnx"))


def test_openvino_keeps_the_preprocessing_built_into_it(made: Path, tmp_path: Path, net: Tiny) -> None:
    import openvino
    from openvino.preprocess import PrePostProcessor

    model = openvino.Core().read_model(made / "net.xml")
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(100.0).scale(50.0)
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    openvino.save_model(steps.build(), tmp_path / "own.xml", compress_to_fp16=False)
    found = told.read(str(tmp_path / "own.xml"))
    assert (found.wants.inputs[0].dtype, found.wants.layout) == ("uint8", "NHWC")
    pixels = np.random.RandomState(2).randint(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    x = torch.from_numpy((pixels.transpose(0, 3, 1, 2).astype(np.float32) - 100) / 50)
    np.testing.assert_allclose(found.open().answers((pixels,)), net(x).numpy(), atol=1e-4)
    (tmp_path / "own.bin").unlink()
    with pytest.raises(UserError, match=r"own\.bin, are not beside it"):
        told.read(str(tmp_path / "own.xml"))


# --- torch.export


class Odd(nn.Module):
    """Several sizes that are computed, a part without gradients, a constant, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(n, 3, 8, 8) to logits (n, 5)."""
        y = self.conv(x).flatten(2).transpose(1, 2)
        y = self.attention(y, y, y)[0]
        one, other = y.chunk(2, dim=-1)
        with torch.no_grad():
            one = (one * self.scale).softmax(-1)
        n, *_ = x.shape
        return {"logits": self.fc(torch.cat([one, other], -1).mean(1)), "sizes": torch.ones(n, 3 * n)}


def test_an_export_is_walked_as_torch_runs_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Odd().eval()
    free = ({0: torch.export.Dim("n", min=1, max=64)},)
    program = torch.export.export(module, (torch.randn(2, 3, 8, 8),), dynamic_shapes=free)
    torch.export.save(program, str(tmp_path / "odd.pt2"))
    found = told.read(str(tmp_path / "odd.pt2"), Given(facts=FACTS))
    x = torch.randn(6, 3, 8, 8)
    expected = program.module()(x)["logits"].detach().numpy()
    np.testing.assert_allclose(found.open().answers((x.numpy(),)), expected, atol=1e-6)
    grads = []
    for run in (program.module(), found.differentiable()):
        given = x.clone().requires_grad_()
        answer = run(given)
        (answer["logits"] if isinstance(answer, dict) else answer)[:, 1].sum().backward()
        grads.append(given.grad)
    assert grads[0].abs().max() > 1e-6
    torch.testing.assert_close(grads[1], grads[0])


def test_a_quantized_export_rounds(tmp_path: Path) -> None:
    import torch.ao.quantization.fx._decomposed  # registers the operators that exports of PT2E hold

    class Rounds(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = torch.ops.quantized_decomposed.quantize_per_tensor.default(x, 0.25, 3, -128, 127, torch.int8)
            return torch.ops.quantized_decomposed.dequantize_per_tensor.default(
                q, 0.25, 3, -128, 127, torch.int8
            )

    torch.export.save(torch.export.export(Rounds(), (torch.randn(2, 4),)), str(tmp_path / "q.pt2"))
    found = told.read(str(tmp_path / "q.pt2"))
    assert found.wants.batch == 2
    x = np.array([[0.1, 0.2, -0.4, 100.0], [1.0, 2.0, 3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(found.open().answers((x,)), [[0, 0.25, -0.5, 31], [1, 2, 3, 4]])


def repacked(
    source: Path, target: Path, change: Callable[[str, bytes], bytes | None], packed: bool = False
) -> str:
    """A copy of a zip with records changed, or dropped where the change gives None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = change(info.filename, old.read(info))
            if content is not None:
                new.writestr(info.filename, content, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return str(target)


def in_graph(edit: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        whole = json.loads(content)
        edit(whole)
        return json.dumps(whole).encode()

    return change


def test_a_pickle_in_an_export_is_never_opened(made: Path, tmp_path: Path, inputs, wanted) -> None:
    mark = tmp_path / "mark"
    evil = pickle.dumps(Evil(mark))
    pickle.loads(evil)
    assert mark.exists()
    mark.unlink()

    def sample(name: str, content: bytes) -> bytes:
        return evil if "sample_inputs" in name else content

    found = told.read(repacked(made / "net.pt2", tmp_path / "a.pt2", sample))
    np.testing.assert_allclose(found.open().answers((inputs,)), wanted, atol=1e-5)

    def weights(name: str, content: bytes) -> bytes:
        if name.endswith("weights/weight_0"):
            return evil
        return (
            content.replace(b'"use_pickle": false', b'"use_pickle": true')
            if name.endswith(".json")
            else content
        )

    with pytest.raises(UserError, match=r"is pickled .* no pickle is opened"):
        told.read(repacked(made / "net.pt2", tmp_path / "b.pt2", weights))
    assert not mark.exists()


def test_code_in_an_export_is_never_run(made: Path, tmp_path: Path, inputs, wanted) -> None:
    """Guards and sizes are evaluated by torch's loader; here nobody looks at them."""
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    eval(code)
    assert mark.exists()
    mark.unlink()

    def edit(whole: dict[str, Any]) -> None:
        whole["guards_code"] = [code]
        for meta in whole["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    found = told.read(repacked(made / "net.pt2", tmp_path / "a.pt2", in_graph(edit)))
    np.testing.assert_allclose(found.open().answers((inputs,)), wanted, atol=1e-5)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.load", "torch.hub.load", "_operator.attrgetter", "math.__loader__", "torch.ops.aten.from_file.default",
        "torch.ops.aten._debug_has_internal_overlap.default", "torch.ops.aten.set_.source_Storage",
        "torch.ops.load_library",
        "torch.ops.aten.relu_.__class__", "torch.ops.inductor.resize_storage_bytes_.default", "os.system",
        "torch.ops.higher_order.cond",
    ],
)  # fmt: skip
def test_operators_that_reach_further_are_refused(made: Path, tmp_path: Path, target: str) -> None:
    def edit(whole: dict[str, Any]) -> None:
        whole["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(UserError, match="is not among the operators that are run; write its answers"):
        told.read(repacked(made / "net.pt2", tmp_path / "a.pt2", in_graph(edit)))


def test_a_text_that_is_no_choice_is_not_passed_on(made: Path, tmp_path: Path) -> None:
    def edit(whole: dict[str, Any]) -> None:
        whole["graph_module"]["graph"]["nodes"][0]["inputs"].append(
            {"name": "filename", "arg": {"as_string": "/etc/passwd"}, "kind": 2}
        )

    with pytest.raises(UserError, match="passes text as filename"):
        told.read(repacked(made / "net.pt2", tmp_path / "a.pt2", in_graph(edit)))


def test_a_damaged_export_is_one_line(made: Path, tmp_path: Path) -> None:
    def longer(name: str, content: bytes) -> bytes:
        return (
            content.replace(b'{"as_int": 9}', b'{"as_int": 999999}') if "weights_config" in name else content
        )

    with pytest.raises(UserError, match=r"features\.\d\.weight doesn't fit its bytes"):
        told.read(repacked(made / "net.pt2", tmp_path / "a.pt2", longer))
    with pytest.raises(UserError, match=r"is packed; torch.export stores its records as they are"):
        told.read(repacked(made / "net.pt2", tmp_path / "b.pt2", lambda name, content: content, packed=True))
    less = repacked(made / "net.pt2", tmp_path / "c.pt2", lambda n, c: None if n.endswith("weight_0") else c)
    with pytest.raises(UserError, match="no record data/weights/weight_0"):
        told.read(less)
    for text in (b"{", b"[]", b"{}", b'{"graph_module": {"graph": 1, "signature": 2}}', b"[" * 100_000):
        with pytest.raises(UserError) as caught:
            told.read(
                repacked(
                    made / "net.pt2",
                    tmp_path / "d.pt2",
                    lambda n, c, t=text: t if n.endswith("model.json") else c,
                )
            )
        assert "\n" not in str(caught.value)


# --- checkpoints, folders, states


def test_a_checkpoint_says_what_it_needs(made: Path, tmp_path: Path, net: Tiny) -> None:
    path = str(made / "net.safetensors")
    with pytest.raises(
        UserError, match=r"holds weights alone; --model model=resnet20 or --model mynet:build"
    ):
        told.read(path)
    with pytest.raises(UserError, match=r"add --trust tiny$"):
        told.read(path, Given(model="tiny:Tiny", facts=FACTS))
    with pytest.raises(UserError, match="don't fit"):
        told.read(path, Given(model="tiny:Tiny", facts={**FACTS, "@classes": 6}, trust=Trust(("tiny",))))
    with pytest.raises(UserError, match="tiny has no 'Tine'; did you mean Tiny"):
        told.read(path, Given(model="tiny:Tine", facts=FACTS, trust=Trust(("tiny",))))
    with pytest.raises(UserError, match="is a dict, nothing that builds a module"):
        told.read(path, Given(model="tiny:TINY", facts=FACTS, trust=Trust(("tiny",))))
    with pytest.raises(UserError, match="is neither model=NAME nor an import path"):
        told.read(path, Given(model="resnet20", facts=FACTS))
    with pytest.raises(UserError, match=r"'@shape' is not known.*--data"):
        told.read(path, Given(model="model=resnet20"))


def test_a_model_config_names_what_weights_belong_to(tmp_path: Path, inputs: np.ndarray) -> None:
    from compressbench.models.resnet import CifarResNet

    torch.manual_seed(0)
    module = CifarResNet(8, SHAPE, CLASSES, "B").eval()
    save_file(module.state_dict(), str(tmp_path / "w.safetensors"))
    given = Given(model=["model=resnet20", "model.build.depth=8"], facts=FACTS)
    found = told.read(str(tmp_path / "w.safetensors"), given)
    with torch.no_grad():
        np.testing.assert_allclose(
            found.open().answers((inputs,)), module(torch.from_numpy(inputs)).numpy(), atol=1e-5
        )
    assert found.form.startswith("safetensors weights in CifarResNet")


def test_masks_of_torchs_own_pruning_are_applied(tmp_path: Path, net: Tiny, inputs: np.ndarray) -> None:
    import copy

    from torch.nn.utils import prune

    pruned = copy.deepcopy(net).requires_grad_(True)
    prune.l1_unstructured(pruned.fc, "weight", amount=0.5)
    prune.ln_structured(pruned.features[0], "weight", amount=0.5, n=2, dim=0)
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    with torch.no_grad():
        expected = pruned(torch.from_numpy(inputs)).numpy()
    got = told.read(str(tmp_path / "pruned.pt"), TINY_MODEL).open().answers((inputs,))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got - net(torch.from_numpy(inputs)).numpy()).max() > 0.01


def test_pickles_are_refused_and_never_opened(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Evil(mark)))
    torch.save({"a": Evil(mark)}, tmp_path / "zip.pt")
    torch.save({"a": Evil(mark)}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "array.npy", np.array([Evil(mark)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "arrays.npz", logits=np.array([Evil(mark)], dtype=object))
    for name, words in {
        "plain.pkl": "is a pickle, which runs code",
        "zip.pt": "holds more than tensors and is not opened",
        "legacy.pt": "holds more than tensors and is not opened",
        "array.npy": "no pickle is opened",
        "arrays.npz": "no pickle is opened",
    }.items():
        with pytest.raises(UserError, match=words):
            told.read(str(tmp_path / name), TINY_MODEL)
    assert not mark.exists()


def test_an_exported_state_knows_its_own_model(tmp_path: Path, digits, place, dense) -> None:
    from compressbench.deploying.exporting import safetensors
    from compressbench.views import View

    view = View(dense, place, "dense")
    sample = place.task.encode(place.feed("test").head(8))
    (path, *_), run, _ = safetensors(view, tmp_path / "dense", sample)
    with pytest.raises(UserError, match=r"tiny.Tiny is not allowed"):
        told.read(str(path))
    found = told.read(str(path), Given(trust=Trust(("tiny",))))
    assert found.wants.classes == 10
    np.testing.assert_allclose(found.open().answers((sample[0].numpy(),)), run(*sample).numpy(), atol=1e-6)


RECIPE = """defaults:
  - /stage/init@stages.init: model
  - /stage/train@stages.dense: sgd
  - override /model@_global_.model: lenet_300_100
  - override /dataset@_global_.dataset: digits
  - _self_
name: for_artefacts
stages:
  dense: {length: 5it, batch_size: 64}
compare: {reference: dense, floor: false}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from compressbench.cli.run import run_once

    folder = tmp_path_factory.mktemp("run")
    (folder / "conf" / "recipe").mkdir(parents=True)
    (folder / "conf" / "recipe" / "for_artefacts.yaml").write_text(RECIPE)
    run_once(
        ["recipe=for_artefacts", "scale=smoke", "hardware=cpu1", "evaluation=none", f"outputs={folder}/out"],
        str(folder / "conf"),
    )
    return next((folder / "out" / "runs").iterdir())


def test_a_state_of_a_run_answers_as_it_was_measured(finished: Path) -> None:
    from compressbench.runs.finished import opened, view_of

    found = told.read(f"{finished}::dense")
    view, node = view_of(opened(finished), "dense")
    pixels = view.bench.dataset.split("test")["images"]
    assert found.wants.preparation is not None
    prepared = found.wants.preparation.apply(np.asarray(pixels).transpose(0, 2, 3, 1))
    (encoded,) = view.bench.task.encode(view.bench.feed("test").head(len(pixels)))
    np.testing.assert_array_equal(prepared, encoded.numpy())
    got = found.open().answers((prepared,))
    np.testing.assert_allclose(
        torch.from_numpy(got).log_softmax(1).numpy(), view.log_probs.numpy(), atol=1e-5
    )
    assert {p.name for p in found.files} == {"state.json", "tensors.safetensors"}
    assert all(node.key in str(p) for p in found.files)
    assert found.wants.inputs == (Input("images", (None, 1, 8, 8)),)
    module = found.differentiable()
    assert module is not None
    np.testing.assert_allclose(module(encoded).numpy(), got, atol=1e-5)


def test_a_run_or_a_state_that_is_not_there_is_one_line(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run has no state 'dence'; did you mean dense"):
        told.read(f"{finished}::dence")
    with pytest.raises(UserError, match=r"is a run; .*::STATE names a state of it"):
        told.read(str(finished))
    with pytest.raises(UserError, match="is no run's folder"):
        told.read(f"{tmp_path}::dense")


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model("test_byobnet", num_classes=4)
    config = {
        "architecture": "test_byobnet", "num_classes": 4,
        "pretrained_cfg": {
            "input_size": [3, 32, 32], "crop_pct": 0.8, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4],
            "interpolation": "bicubic",
        },
    }  # fmt: skip
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), str(folder / "model.safetensors"))
    return folder


def test_a_timm_folder_is_built_and_says_how_pictures_are_prepared(timm_folder: Path) -> None:
    import timm

    found = told.read(str(timm_folder))
    torch.manual_seed(0)
    module = timm.create_model("test_byobnet", num_classes=4).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(found.open().answers((x.numpy(),)), module(x).numpy(), atol=1e-5)
    known = found.wants.preparation
    assert known is not None
    assert (known.resize, known.crop, known.interpolation) == (40, (32, 32), "bicubic")
    assert (known.mean, known.std, known.channels) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 3)
    assert found.form.startswith("timm ")
    assert found.name == "hub"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "resnet_of_mine"}, "has no model 'resnet_of_mine'"),
        ({"model_args": {"checkpoint_path": "x"}}, "passes checkpoint_path='x'"),
        ({"model_args": {"pretrained": True}}, "passes pretrained='True'"),
        ({"model_args": {"act_layer": {"_target_": "os.system"}}}, "passes act_layer="),
        ({"model_args": {"global_pool": "../up"}}, "passes global_pool="),
        ({"num_classes": 9}, "don't fit"),
        ({"architecture": None, "architectures": ["BertForMaskedLM"]}, "holds a BertForMaskedLM, which"),
        ({"architecture": None}, "names neither timm's architecture nor transformers'"),
    ],
)  # fmt: skip
def test_a_folder_that_asks_for_more_is_refused(
    timm_folder: Path, changes: dict[str, Any], words: str
) -> None:
    config = {**json.loads((timm_folder / "config.json").read_text()), **changes}
    (timm_folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(UserError, match=words):
        told.read(str(timm_folder))


def test_a_folder_without_safe_weights_is_refused(timm_folder: Path) -> None:
    (timm_folder / "model.safetensors").rename(timm_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"its weights are a pickle; save them as model\.safetensors"):
        told.read(str(timm_folder))
    (timm_folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        told.read(str(timm_folder))


def test_a_hugging_face_folder_is_loaded_without_the_network(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers isn't installed")
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=4
    )
    torch.manual_seed(0)
    module = transformers.ResNetForImageClassification(config).eval()
    module.save_pretrained(tmp_path / "hub", safe_serialization=True)
    (tmp_path / "hub" / "preprocessor_config.json").write_text(
        json.dumps({"do_resize": True, "size": {"height": 32, "width": 32}, "do_normalize": True, "image_mean": [0.5] * 3,
                    "image_std": [0.5] * 3, "resample": 3})
    )  # fmt: skip
    found = told.read(str(tmp_path / "hub"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(found.open().answers((x.numpy(),)), module(x).logits.numpy(), atol=1e-5)
    assert found.wants.classes == 4
    assert found.wants.preparation is not None
    assert found.wants.preparation.resize == (32, 32)
    (tmp_path / "hub" / "model.safetensors").rename(tmp_path / "w.safetensors")
    (tmp_path / "hub" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../w.safetensors"}})
    )
    with pytest.raises(UserError, match=r"refers to '../w.safetensors'; only"):
        told.read(str(tmp_path / "hub"))


# --- TFLite


def tflite(
    path: Path, weights: np.ndarray, bias: np.ndarray, batch: int, scales: Sequence[float] | None = None
) -> None:
    """A fully connected layer; with scales (input, weights, output) all of it in int8, zero points (3, 0, -2)."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(
        name: str, shape: Sequence[int], buffer: int, kind: int, scale: float = 0, zero: int = 0
    ) -> Any:
        found = schema.TensorT()
        found.name, found.shape, found.buffer, found.type = name, list(shape), buffer, kind
        if batch < 0 and shape[0] == 1:
            found.shapeSignature = [-1, *shape[1:]]
        if scale:
            found.quantization = schema.QuantizationParametersT()
            found.quantization.scale, found.quantization.zeroPoint = [scale], [zero]
        return found

    def buffer(content: bytes = b"") -> Any:
        found = schema.BufferT()
        found.data = np.frombuffer(content, np.uint8) if content else None
        return found

    kinds, (of_x, of_w, of_y) = schema.TensorType, scales or (0, 0, 0)
    number, whole = (kinds.INT8, kinds.INT32) if scales else (kinds.FLOAT32, kinds.FLOAT32)
    stored = np.round(weights / of_w).astype(np.int8) if scales else weights.astype(np.float32)
    added = np.round(bias / (of_x * of_w)).astype(np.int32) if scales else bias.astype(np.float32)
    graph, code, layer, model = (
        schema.SubGraphT(),
        schema.OperatorCodeT(),
        schema.OperatorT(),
        schema.ModelT(),
    )
    count = abs(batch)
    graph.tensors = [
        tensor("x", [count, weights.shape[1]], 1, number, of_x, 3), tensor("w", weights.shape, 2, number, of_w),
        tensor("b", bias.shape, 3, whole, of_x * of_w), tensor("y", [count, len(weights)], 4, number, of_y, -2),
    ]  # fmt: skip
    layer.opcodeIndex, layer.inputs, layer.outputs = 0, [0, 1, 2], [3]
    layer.builtinOptionsType, layer.builtinOptions = (
        schema.BuiltinOptions.FullyConnectedOptions,
        schema.FullyConnectedOptionsT(),
    )
    graph.inputs, graph.outputs, graph.operators = [0], [3], [layer]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [buffer(), buffer(), buffer(stored.tobytes()), buffer(added.tobytes()), buffer()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


@pytest.fixture
def layer() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert isn't installed: pip install ai-edge-litert")
    draw = np.random.RandomState(3)
    return draw.uniform(-1, 1, (4, 6)), draw.uniform(-1, 1, 4), draw.uniform(-2, 2, (7, 6)).astype(np.float32)


@pytest.mark.parametrize("batch", [-1, 1, 2])
def test_tflite_answers_in_floats(tmp_path: Path, layer: Any, batch: int) -> None:
    weights, bias, x = layer
    tflite(tmp_path / "net.tflite", weights, bias, batch)
    found = told.read(str(tmp_path / "net.tflite"))
    assert found.form.startswith("TFLite, LiteRT")
    assert found.wants.batch == (None if batch < 0 else batch)
    (got,) = in_batches(found, found.open(), [(x,)])
    np.testing.assert_allclose(got, x @ weights.T + bias, atol=1e-5)


def test_tflite_of_integers_takes_floats_or_its_own_integers(tmp_path: Path, layer: Any) -> None:
    weights, bias, x = layer
    scales = (2 / 100, 1 / 127, 0.1)
    tflite(tmp_path / "net.tflite", weights, bias, -1, scales)
    found = told.read(str(tmp_path / "net.tflite"))
    assert found.form.endswith("inputs rounded to int8 by its own scale")
    assert found.wants.inputs[0].dtype == "float32"
    whole = np.clip(np.round(x / scales[0]) + 3, -128, 127).astype(np.int8)
    by_floats, by_integers = (found.open().answers((a,)) for a in (x, whole))
    np.testing.assert_array_equal(by_floats, by_integers)
    assert np.abs(by_floats - (x @ weights.T + bias)).max() < 0.1 + 0.05
    np.testing.assert_allclose(by_floats / 0.1, np.round(by_floats / 0.1), atol=1e-3)


def test_what_kills_the_interpreter_is_one_line(
    tmp_path: Path, layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, bias, _ = layer
    path = tmp_path / "net.tflite"
    tflite(path, weights, bias, 1)
    for script, words in (
        ("import os; os.kill(os.getpid(), 11)", r"LiteRT crashes on it \(signal 11\)"),
        ("raise ValueError('of some kind')", "LiteRT can't run it: of some kind$"),
        ("import time; time.sleep(9)", "didn't run it once in 0.2 seconds"),
    ):
        monkeypatch.setattr("compressbench.artefacts.tflite.TRIAL", script)
        monkeypatch.setattr("compressbench.artefacts.tflite.SECONDS", 0.2 if "sleep" in script else 60)
        with pytest.raises(UserError, match=words):
            told.read(str(path))
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="LiteRT"):
        told.read(str(path))


# --- functions


def test_a_function_or_a_module_is_an_artefact(net: Tiny, inputs: np.ndarray, wanted: np.ndarray) -> None:
    def as_tensor(x: np.ndarray) -> torch.Tensor:
        assert isinstance(x, np.ndarray)
        return net(torch.from_numpy(x))

    for call in (as_tensor, lambda x: net(torch.from_numpy(x)).numpy(), net):
        found = Function(call, "mine")
        np.testing.assert_allclose(found.open().answers((inputs,)), wanted, atol=1e-6)
        assert found.identity is None
        assert size_of(found) is None
    assert Function(net, "mine").differentiable() is net
    assert Function(as_tensor, "mine").differentiable() is None


def test_a_function_that_fails_or_answers_oddly_is_one_line(inputs: np.ndarray) -> None:
    def fails(x: np.ndarray) -> np.ndarray:
        raise KeyError("no such\nthing")

    for call, words in (
        (fails, r"mine: fails on float32 \(7, 3, 8, 8\): KeyError"),
        (lambda x: x[:3, 0, 0], r"answers \(3, 8\) for 7 examples"),
        (lambda x: "yes", "no numbers"),
        (nn.Linear(3, 4), r"mine: fails on float32 \(7, 3, 8, 8\): .*mat1"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            Function(call, "mine").open().answers((inputs,))
        assert "\n" not in str(caught.value)


def test_code_is_imported_under_trust_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: np.ndarray
) -> None:
    (tmp_path / "artefacts_of_mine.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\n"
        "def answers(batch):\n    return batch.reshape(len(batch), -1)[:, :4]\n"
        "def build():\n    import torch\n    return torch.nn.Flatten()\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"names code, which is not run unasked.*--trust artefacts_of_mine"):
        told.read("artefacts_of_mine:answers")
    with pytest.raises(UserError, match="--trust artefacts_of_mine"):
        told.read("artefacts_of_mine:answers", Given(trust=Trust(("artefacts",))))
    assert not (tmp_path / "imported").exists()
    trusted = Given(trust=Trust(("artefacts_of_mine",)))
    found = told.read("artefacts_of_mine:answers", trusted)
    np.testing.assert_array_equal(found.open().answers((inputs,)), inputs.reshape(7, -1)[:, :4])
    built = told.read("artefacts_of_mine:build", trusted)
    assert built.form == "torch module Flatten"
    np.testing.assert_array_equal(built.open().answers((inputs,)), inputs.reshape(7, -1))
    with pytest.raises(UserError, match="is a int; a module, or a function of a batch"):
        told.read("artefacts_of_mine:number", trusted)


# --- what is told apart, and what is refused


def archive(*names: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for name in names:
            file.writestr(name, b"{}")
    return held.getvalue()


CORE_ML = b"\x08\x05\x12\x02\x0a\x00\xa2\x1f\x00"
"""specificationVersion, a description, and field 500: a neural network."""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.gguf", b"GGUF\x03\x00\x00\x00", "GGUF"),
        ("a", b"GGUF\x03\x00\x00\x00", "GGUF"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 20, "HDF5"),
        ("a.keras", archive("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
        ("a.mlmodel", CORE_ML, "a Core ML model"),
        ("a", CORE_ML, "a Core ML model"),
        ("a.engine", b"ptrt\0\0\0\0", "a TensorRT engine"),
        ("a.plan", b"\x01\x02\x03\x04\xff\xff", "a TensorRT engine"),
        ("saved_model.pb", b"\x08\x01\x12\x02\x0a\x00", "a TensorFlow SavedModel"),
        ("a.ort", b"\0\0\0\0ORTM", "ONNX Runtime's own format"),
        ("a.pte", b"\0\0\0\0ET12", "an ExecuTorch program"),
        ("a.pt", archive("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"), "TorchScript"),
        ("a.so", b"\x7fELF\x02", "compiled code"),
        ("a.zip", archive("model.mlpackage/Manifest.json"), "a Core ML package"),
    ],
)
def test_other_forms_are_refused_by_name_and_predictions_offered(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        told.read(str(tmp_path / name))
    assert words in str(caught.value)
    assert "write its answers to a file of predictions (.npz, .npy, .csv, .jsonl, .parquet)" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_folders_of_other_forms_are_refused_by_name(tmp_path: Path) -> None:
    for inner, file, words in (
        ("a.mlpackage", "Manifest.json", "a Core ML package"),
        ("saved", "saved_model.pb", "a TensorFlow SavedModel"),
        ("nothing", "notes.txt", r"no model's folder: it has no config\.json"),
        ("onnx", "net.onnx", "name the file in it, e.g. .*/onnx/net.onnx"),
    ):
        (tmp_path / inner).mkdir()
        (tmp_path / inner / file).write_text("{}")
        with pytest.raises(UserError, match=words):
            told.read(str(tmp_path / inner))


@pytest.mark.parametrize(
    "name", ["net.onnx", "net.xml", "net.bin", "net.pt2", "net.safetensors", "net.pt", "old.bin"]
)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_one_line(made: Path, tmp_path: Path, name: str, share: float) -> None:
    for each in ("net.xml", "net.bin"):
        shutil.copy(made / each, tmp_path / each)
    content = (made / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    read = "net.xml" if name == "net.bin" else name
    with pytest.raises(UserError) as caught:
        told.read(str(tmp_path / read), TINY_MODEL).open()
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty", b"", "the file is empty"),
        (
            "a.safetensors",
            struct.pack("<Q", 2**40) + b"{" + b" " * 50,
            "a truncated or damaged safetensors file",
        ),
        (
            "a.safetensors",
            struct.pack("<Q", 50) + b"{" + b" " * 10,
            "a truncated or damaged safetensors file",
        ),
        ("a.xml", b"<?xml version='1.0'?><html/>", "is nothing that is read here"),
        ("noise", bytes(range(128, 256)) * 10, "is nothing that is read here"),
        ("a.csv", b"just a sentence\n", "is nothing that is read here"),
        ("a.zip", archive("a.txt"), "a zip file of a.txt"),
        ("a.zip", b"PK\x03\x04" + b"\0" * 40, "a damaged or truncated file"),
    ],
)
def test_files_that_are_nothing_are_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        told.read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing.onnx", "nothing.onnx: no such file or folder"),
        ("", "names nothing"),
        ("a\0b", "names nothing"),
        ("a" * 5000, "can't be read"),
        ("C:/nets/a.onnx", "no such file or folder"),
    ],
)
def test_paths_that_are_none_are_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        told.read(text)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.bin", "net.pt2", "net.safetensors", "net.pt"])
def test_whatever_is_damaged_is_one_line_or_answers(
    made: Path, tmp_path: Path, name: str, inputs: np.ndarray
) -> None:
    draw = np.random.RandomState(5)
    for each in ("net.xml", "net.bin"):
        shutil.copy(made / each, tmp_path / each)
    content = np.frombuffer((made / name).read_bytes(), np.uint8)
    said = []
    for _ in range(25):
        damaged = content.copy()
        end = len(damaged) if draw.rand() < 0.5 else 1000
        damaged[draw.randint(0, end, 3)] = draw.randint(0, 256, 3)
        (tmp_path / name).write_bytes(damaged.tobytes())
        try:
            found = told.read(str(tmp_path / ("net.xml" if name == "net.bin" else name)), TINY_MODEL)
            found.open().answers((inputs,))
        except UserError as error:
            said.append(str(error))
    assert all(line.isprintable() for line in said)
    assert said or name == "net.bin", "damage in weights alone is none that shows"


# --- predictions


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.RandomState(4).randn(6, 3)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def written(folder: Path, values: np.ndarray, ids: Sequence[str] | None = None) -> Iterator[Path]:
    """The same table in every format."""
    np.save(folder / "a.npy", values)
    np.savez(folder / "a.npz", **({"ids": np.array(ids)} if ids else {}), predictions=values)
    np.savez_compressed(folder / "b.npz", **({"id": np.array(ids)} if ids else {}), anything=values)
    head = ["id"] if ids else []
    rows = [
        ",".join([*([i] if i else []), *map(repr, row)])
        for i, row in zip(ids or [""] * 9, values.tolist(), strict=False)
    ]
    (folder / "a.csv").write_text("\n".join([",".join([*head, "cat", "dog", "eel"]), *rows]) + "\n")
    (folder / "b.csv").write_text(
        "\ufeff" + (folder / "a.csv").read_text().replace(",", ";"), encoding="utf-8"
    )
    yield from (folder / n for n in ("a.npz", "b.npz", "a.csv", "b.csv"))
    if not ids:
        yield folder / "a.npy"


def test_a_name_in_a_file_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx", outputs=("a\x1b[31m", "b"))
    (tmp_path / "a.csv").write_text("a,\x1b[2J\n1,\x1b]0;x\n")
    for name in ("net.onnx", "a.csv"):
        with pytest.raises(UserError) as caught:
            told.read(str(tmp_path / name))
        assert str(caught.value).isprintable()


def test_predictions_are_the_same_in_every_format(tmp_path: Path, logits: np.ndarray) -> None:
    for path in written(tmp_path, logits):
        found = told.read(str(path))
        assert isinstance(found, Predictions)
        np.testing.assert_array_equal(found.answers.values, logits)
        assert (found.answers.kind, found.answers.ids, len(found.answers)) == ("logits", None, 6)
        assert found.answers.classes == (("cat", "dog", "eel") if path.suffix == ".csv" else None)
        assert found.form.endswith("6 rows of 3 logits")
    ids = [f"img/{k}.png" for k in range(6)]
    for path in written(tmp_path, softmax(logits), ids):
        found = told.read(str(path))
        assert found.answers.kind == "probabilities"
        assert found.answers.ids.tolist() == ids
        np.testing.assert_array_equal(found.answers.values, softmax(logits))


def test_parquet_holds_columns_or_lists(tmp_path: Path, logits: np.ndarray) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow isn't installed: pip install pyarrow")
    from pyarrow import parquet

    columns = {"id": list("abcdef"), "y": [0, 1, 2, 0, 1, 2], **{f"c{k}": logits[:, k] for k in range(3)}}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"id": list("abcdef"), "logits": logits.tolist()}), tmp_path / "b.parquet")
    for name in ("a", "b"):
        found = told.read(str(tmp_path / f"{name}.parquet"))
        np.testing.assert_array_equal(found.answers.values, logits)
        assert found.answers.ids.tolist() == list("abcdef")
    assert told.read(str(tmp_path / "a.parquet")).answers.labels.tolist() == [0, 1, 2, 0, 1, 2]
    parquet.write_table(pa.table({"logits": [[1.0], [1.0, 2.0]]}), tmp_path / "c.parquet")
    parquet.write_table(pa.table({"a": ["x"], "b": [1.0]}), tmp_path / "d.parquet")
    (tmp_path / "e.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-100])
    for name, words in (
        ("c", "not all of one length"),
        ("d", "its column a holds no numbers"),
        ("e", "damaged file"),
    ):
        with pytest.raises(UserError, match=words):
            told.read(str(tmp_path / f"{name}.parquet"))


def test_a_table_without_names_and_with_labels(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("1.5\t-2\n0\t3e1\n")
    np.testing.assert_array_equal(told.read(str(tmp_path / "a.tsv")).answers.values, [[1.5, -2], [0, 30]])
    (tmp_path / "b.csv").write_text("label,a,b\n1,0.25,0.75\n0,1,0\n")
    found = told.read(str(tmp_path / "b.csv")).answers
    assert found.labels.tolist() == [1, 0]
    assert found.kind == "probabilities"
    (tmp_path / "c.csv").write_text("a,b\n1.5,nan\n-2,inf\n")
    np.testing.assert_array_equal(
        told.read(str(tmp_path / "c.csv")).answers.values, [[1.5, np.nan], [-2, np.inf]]
    )


def test_a_table_of_a_thousand_classes_is_one(tmp_path: Path) -> None:
    """The first line is longer than what is looked at to tell what a file is, and cut off in the middle of a letter."""
    values = np.random.RandomState(4).randn(3, 1000)
    for names in ([f"größe {k}" for k in range(1000)], [f"x{k:05}é" for k in range(1000)]):
        lines = [",".join(names), *(",".join(map(repr, row)) for row in values.tolist())]
        (tmp_path / "a.csv").write_text("\r\n".join(lines), encoding="utf-8")
        found = told.read(str(tmp_path / "a.csv")).answers
        np.testing.assert_array_equal(found.values, values)
        assert found.classes == tuple(names)
    rows = np.vstack([np.full((5000, 2), 0.5), [[0.5, 0.75]]])
    assert kind_of(rows) == "shares", "all rows count"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[0.25, 0.75], [1, 0]], "probabilities"),
        ([[0.2501, 0.7502]], "probabilities"),
        ([[0.25, 0.75], [np.nan, 0.5]], "probabilities"),
        ([[0.25, 0.5]], "shares"),
        ([[25, 75]], "percentages"),
        ([[0.25, 0.75], [-0.1, 1.1]], "logits"),
        ([[5.0, 7.0]], "logits"),
        ([[np.nan, 1.0]], "logits"),
        (np.log([[0.25, 0.75]]), "logits"),
    ],
)
def test_rows_tell_what_the_numbers_are(values: Any, kind: str) -> None:
    assert kind_of(np.array(values)) == kind


def test_the_flag_says_what_rows_do_not(tmp_path: Path) -> None:
    np.save(tmp_path / "shares.npy", np.array([[0.25, 0.5]]))
    np.save(tmp_path / "percent.npy", np.array([[25.0, 75.0]]))
    for name, words in (("shares", "--answers logits"), ("percent", "percentages.*--answers logits")):
        with pytest.raises(UserError, match=words):
            told.read(str(tmp_path / f"{name}.npy"))
        found = told.read(str(tmp_path / f"{name}.npy"), Given(answers="logits"))
        assert found.answers.kind == "logits"
    with pytest.raises(UserError, match="are no probabilities"):
        told.read(str(tmp_path / "shares.npy"), Given(answers="probabilities"))
    with pytest.raises(UserError, match="--answers: 'probs'; known: logits, probabilities"):
        told.read(str(tmp_path / "shares.npy"), Given(answers="probs"))
    np.savez(tmp_path / "named.npz", logits=np.array([[0.25, 0.75]]))
    assert told.read(str(tmp_path / "named.npz")).answers.kind == "logits"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n", "holds no rows"),
        ("id,a\nx,1\n", "one number an example"),
        ("a,b\n1,2\n3\n", "line 3 has 1 values, 2 are wanted"),
        ("a,b\n1,2\n3,x\n", "line 3, b: 'x' is no number"),
        ("a,b\n1,2\n3,\n", "line 3, b: '' is no number"),
        ("a,b\nnan,nan\nnan,nan\n", r"all its answers are no numbers \(NaN\)"),
        ("id,a,b\nx,1,2\nx,1,2\n", "the id 'x' stands in 2 rows"),
        ("a,a\n1,2\n", "two columns called 'a'"),
        ("y,a,b\n0.5,1,2\n", "not one whole number"),
        ("y,a,b\nzero,1,2\n", "not the numbers of the classes"),
    ],
)
def test_predictions_that_are_none_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        told.read(str(tmp_path / "a.csv"))


def test_arrays_that_are_no_predictions_are_one_line(tmp_path: Path, logits: np.ndarray) -> None:
    np.savez(tmp_path / "two.npz", a=logits, b=logits)
    np.savez(tmp_path / "text.npz", logits=np.array([["a", "b"]]))
    np.save(tmp_path / "deep.npy", logits[None])
    np.savez(tmp_path / "ids.npz", logits=logits, ids=np.arange(5))
    (tmp_path / "mixed.npz").write_bytes(archive("a.npy"))
    for name, words in {
        "two.npz": "holds a, b; answers .* are wanted under logits or probabilities, or --output NAME",
        "text.npz": r"holds <U1 \(1, 2\)",
        "deep.npy": r"holds float64 \(1, 6, 3\); numbers \(examples, classes\)",
        "ids.npz": "has 5 ids for 6 rows",
        "mixed.npz": "no array as numpy saves it",
    }.items():
        with pytest.raises(UserError, match=words):
            told.read(str(tmp_path / name))
    found = told.read(str(tmp_path / "two.npz"), Given(output="b"))
    np.testing.assert_array_equal(found.answers.values, logits)


def test_a_header_that_promises_more_than_there_is_makes_nothing(tmp_path: Path) -> None:
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000), }"
    text = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117).encode() + b"\n" + b"\0" * 64
    (tmp_path / "a.npy").write_bytes(text)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("logits.npy", text)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UserError, match=r"says it holds .*, more than its \d+ bytes"):
            told.read(str(tmp_path / name))


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", logits=np.zeros((1000, 10)))
    monkeypatch.setattr("compressbench.artefacts.predictions.UNPACKED", 10_000)
    with pytest.raises(UserError, match="unpacks to more than the 10,000 bytes"):
        told.read(str(tmp_path / "a.npz"))
