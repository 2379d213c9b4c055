"""What a model's file holds, and what its runtime really executes: integers, floats, zeros, layers that are empty."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compressbench.artefacts.artefact import Artefact, Opened, size_of
from compressbench.comparing.oddities import UNUSABLE, WORTH_A_LOOK, WRONG, Finding
from compressbench.wording import counted

SPARSE = 30.0
"""Percent of zeros from which on a file is called a sparse one."""
FEW = 64
"""Tensors of fewer numbers aren't looked at."""
BYTES = ("int8", "uint8")
FLOATS = ("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
"""ONNX Runtime's products of floats; in sessions of fixed names, as its own optimiser writes them."""


@dataclass(frozen=True)
class Executed:
    """Products (convolutions, linear layers) that a runtime executes.

    Attributes:
        integer: in 8-bit integers, by name.
        floating: in floats of constant weights, by name.
        from_integers: those among ``floating`` whose weights the file holds as integers.
    """

    integer: tuple[str, ...]
    floating: tuple[str, ...]
    from_integers: tuple[str, ...] = ()

    def in_words(self) -> str:
        """``int8: 20 of 21 products; in float: fc``."""
        every = len(self.integer) + len(self.floating)
        if not self.integer:
            return f"float: all {counted(every, 'product')}" if every else "no products found"
        left = f"; in float: {', '.join(self.floating[:5])}{' …' if len(self.floating) > 5 else ''}"
        return f"int8: {len(self.integer)} of {counted(every, 'product')}{left if self.floating else ''}"


@dataclass(frozen=True)
class Product:
    """A convolution or linear layer as a file has it.

    Attributes:
        name: of it.
        integer: whether its weights are integers.
        size: how many they are.
    """

    name: str
    integer: bool
    size: int


@dataclass(frozen=True)
class Held:
    """What a file holds.

    Attributes:
        weights: tensors of two dimensions or more, by name, as they lie in the file.
        bytes: of all files; None where there are none.
        executed: None where the runtime doesn't tell.
        products: in the order in which they are computed; empty where that isn't told.
        sparse: by what the file says that it is a sparse one; empty where it doesn't.
    """

    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    bytes: int | None = None
    executed: Executed | None = None
    products: tuple[Product, ...] = ()
    sparse: str = ""

    @property
    def zeros(self) -> float:
        """Percent of the weights that are zero; not-a-number without any."""
        count = sum(w.size for w in self.weights.values())
        return (
            100 * sum(int((w == 0).sum()) for w in self.weights.values()) / count if count else float("nan")
        )

    @property
    def in_bytes(self) -> float:
        """Percent of the weights that are held as 8-bit integers."""
        count = sum(w.size for w in self.weights.values())
        small = sum(w.size for w in self.weights.values() if w.dtype.name in BYTES)
        return 100 * small / count if count else float("nan")


def held(artefact: Artefact, opened: Opened) -> Held:
    """What is to be seen of an artefact from outside."""
    kind = type(artefact).__name__
    weights: dict[str, np.ndarray] = {}
    executed: Executed | None = None
    products: tuple[Product, ...] = ()
    if kind == "Onnx":
        weights, executed, products = _onnx(artefact.files[0])
    elif kind == "OpenVINO":
        weights, executed, products = _openvino(artefact.files[0], opened)
    elif hasattr(opened.runtime, "named_parameters"):
        weights = {
            name: p.detach().cpu().float().numpy()
            for name, p in opened.runtime.named_parameters()
            if p.ndim > 1 and _plain(p)
        }
    named = re.search(r"sparse", artefact.name, re.IGNORECASE) if artefact.files else None
    large = {n: w for n, w in weights.items() if w.size >= FEW}
    return Held(large, size_of(artefact), executed, products, "its name" if named else "")


def _plain(parameter: Any) -> bool:
    """Whether it is a tensor as torch has it; torchao's quantized ones are not, and can't be looked into."""
    import torch

    return type(parameter.data) in (torch.Tensor, torch.nn.Parameter) and not parameter.is_meta


def _onnx(path: Path) -> tuple[dict[str, np.ndarray], Executed, tuple[Product, ...]]:
    import onnx
    from onnx import numpy_helper

    from compressbench.hardware.onnxruntime_cpu import INTEGER, open_session, package

    model = onnx.load(str(path))
    weights = {
        i.name: numpy_helper.to_array(i, base_dir=str(path.parent))
        for i in model.graph.initializer
        if len(i.dims) > 1
    }
    integers = {n for n, w in weights.items() if w.dtype.name in BYTES}
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(package(), str(path), 1, optimised)
        graph = onnx.load(str(optimised)).graph
    constant = {i.name for i in graph.initializer}
    made = {o: n for n in graph.node for o in n.output}
    integer, floating, from_integers = [], [], []
    for node in graph.node:
        name = node.name or node.output[0]
        if node.op_type in INTEGER:
            integer.append(name)
        elif node.op_type in FLOATS and len(node.input) > 1:
            origin = made.get(node.input[1])
            restored = origin is not None and origin.op_type == "DequantizeLinear"
            if node.input[1] in constant or restored:
                floating.append(name)
                source = origin.input[0] if restored and origin is not None else node.input[1]
                if restored or any(source.startswith(name) for name in integers):
                    from_integers.append(name)
    executed = Executed(tuple(integer), tuple(floating), tuple(from_integers))
    return weights, executed, tuple(_products(model.graph))


WEIGHTS_AT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "ConvInteger": 1, "MatMulInteger": 1}
"""Which input of ONNX's products of integers is the weights."""


def _products(graph: Any) -> Iterator[Product]:
    """Products of constant weights, as an ONNX file has them."""
    sizes = {i.name: int(np.prod(i.dims)) for i in graph.initializer}
    made = {o: n for n in graph.node for o in n.output}
    for node in graph.node:
        place = WEIGHTS_AT.get(node.op_type, 1 if node.op_type in FLOATS else None)
        if place is None or len(node.input) <= place:
            continue
        name, integer = node.input[place], node.op_type in WEIGHTS_AT
        while name in made and made[name].op_type in (
            "DequantizeLinear",
            "Transpose",
            "Reshape",
            "Identity",
            "Cast",
        ):
            integer |= made[name].op_type == "DequantizeLinear"
            name = made[name].input[0]
        if made.get(name) is not None and made[name].op_type == "QuantizeLinear":
            name, integer = made[name].input[0], True  # rounded when it is loaded
        if name in sizes:
            yield Product(node.name or node.output[0], integer, sizes[name])


def _openvino(path: Path, opened: Opened) -> tuple[dict[str, np.ndarray], Executed, tuple[Product, ...]]:
    from compressbench.hardware.openvino_cpu import package

    model = package().Core().read_model(str(path))
    weights = {
        op.get_friendly_name(): np.array(op.data)
        for op in model.get_ops()
        if op.get_type_name() == "Constant" and len(op.get_output_shape(0)) > 1
    }
    integer: list[str] = []
    floating: list[str] = []
    for op in opened.runtime.get_runtime_model().get_ops():
        info = op.get_rt_info()
        told = {key: str(info[key].value) for key in ("layerType", "runtimePrecision") if key in info}
        if told.get("layerType") in ("Convolution", "FullyConnected", "MatMul"):
            small = told.get("runtimePrecision") in ("u8", "i8")
            (integer if small else floating).append(op.get_friendly_name())
    claimed = bool(weights) and any(w.dtype.name in BYTES for w in weights.values())
    executed = Executed(tuple(integer), tuple(floating), tuple(floating) if claimed else ())
    products = []
    for op in model.get_ordered_ops():
        if op.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        source = op.input_value(1).get_node()
        while (
            source.get_type_name() != "Constant"
            and source.get_input_size()
            and source.get_type_name() in RESTORING
        ):
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Constant":
            small = source.get_element_type().get_type_name() in ("i8", "u8", "i4", "u4")
            products.append(Product(op.get_friendly_name(), small, int(np.prod(source.get_output_shape(0)))))
    return weights, executed, tuple(products)


RESTORING = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeQuantize")
"""What OpenVINO makes floats of integers by."""


def odd_inside(reference: Held, other: Held, whose: str = "the other model") -> tuple[Finding, ...]:
    """What is not as a small file should be.

    Integers that run as floats; a layer left in float among integers; a sparse file as large as a dense one; emptied
    layers; weights that were cut off.
    """
    return (
        *_in_float(other, whose),
        *_left(other, whose),
        *_emptied(reference, other, whose),
        *_no_smaller(reference, other, whose),
    )


def _in_float(other: Held, whose: str) -> Iterator[Finding]:
    executed = other.executed
    if executed is None or executed.integer or not executed.from_integers:
        return
    n = len(executed.floating)
    yield Finding(
        "integers run as floats",
        f"{whose} holds {other.in_bytes:.0f} % of its weights as 8-bit integers, and this runtime multiplies not one of "
        f"its {counted(n, 'product')} in integers: it is smaller, and no faster than in float",
        100.0,
        n,
        WRONG,
    )


def _left(other: Held, whose: str) -> Iterator[Finding]:
    """Layers whose weights are floats among those whose weights are integers.

    It speaks where most products hold integers, and one that is neither the first nor the last of them, and holds a
    hundredth of the weights or more, holds floats: that the ends are left alone is usual, and small ones cost nothing.
    What a runtime makes floats of, though the file holds integers, is told with what is executed.
    """
    every = other.products
    if not every or sum(p.integer for p in every) <= len(every) / 2:
        return
    least = sum(p.size for p in every) / 100
    heavy = [p for p in every[1:-1] if not p.integer and p.size >= least]
    if heavy:
        names = _names_of([p.name for p in heavy])
        yield Finding(
            "layers left in float",
            f"{whose} holds integers for {sum(p.integer for p in every)} of its {counted(len(every), 'product')}, and "
            f"floats for {', '.join(names[:5])}{' …' if len(names) > 5 else ''}, in the middle of it",
            100 * len(heavy) / len(every),
            len(every),
            WORTH_A_LOOK,
        )


def _names_of(nodes: Sequence[str]) -> list[str]:
    return [
        re.sub(r"(_nchwc|_fused|_quant|/Conv|/MatMul|/Gemm)+$", "", name).strip("/") or name for name in nodes
    ]


def _emptied(reference: Held, other: Held, whose: str) -> Iterator[Finding]:
    before = {n for n, w in reference.weights.items() if not w.any()}
    emptied = [n for n, w in other.weights.items() if not w.any() and n not in before and not _offsets(n, w)]
    if emptied:
        yield Finding(
            "emptied layers",
            f"{counted(len(emptied), 'layer')} of {whose} {'is' if len(emptied) == 1 else 'are'} all zero: "
            f"{', '.join(emptied[:5])}{' …' if len(emptied) > 5 else ''}",
            float(len(emptied)),
            len(other.weights),
            UNUSABLE,
        )
    hollow = []
    for name, weight in other.weights.items():
        twin = reference.weights.get(name)
        if name in emptied or twin is None or twin.shape != weight.shape or weight.ndim < 2:
            continue
        if last := _cut(weight, twin):
            hollow.append((name, last, weight.size))
    if hollow:
        name, last, size = hollow[0]
        yield Finding(
            "weights cut off",
            f"the last {last:,} of {size:,} weights of {name} in {whose} are zero, and nearly no others; was the file "
            "cut off?",
            100 * last / size,
            len(other.weights),
            WRONG,
        )


def _cut(weight: np.ndarray, twin: np.ndarray) -> int:
    """How many numbers at the end of a tensor are zero as a file that was cut off and filled up has it; 0: none.

    ``FEW`` or more of them, that make nine in ten of those that are zero here and not in the reference's tensor. They end
    within a row; or are whole rows, of which as many wouldn't all be the last ones by chance (once in 100,000 times):
    rows may be pruned.
    """
    zero = ((weight == 0) & (twin != 0)).ravel()
    end = int(zero[::-1].argmin()) if not zero.all() else zero.size
    if end < FEW or end < 0.9 * zero.sum():
        return 0
    row = weight.size // len(weight)
    whole, within = divmod(end, row)
    by_chance = 1 / math.comb(len(weight), whole) if whole else 1.0
    return end if within >= min(8, row / 2) or by_chance < 1e-5 else 0


def _offsets(name: str, weight: np.ndarray) -> bool:
    """Zero points are zero by right."""
    return bool(re.search(r"zero_?point|_zp$", name, re.IGNORECASE)) or weight.size < FEW


def _no_smaller(reference: Held, other: Held, whose: str) -> Iterator[Finding]:
    """A file that is said to be sparse, and is as large as the dense one.

    Of one that nobody says it of, zeros are told with what is executed: a pruned net in a plain file is what it is.
    """
    if reference.bytes is None or other.bytes is None or not other.weights:
        return
    sparse = other.zeros >= SPARSE and reference.zeros < SPARSE
    if sparse and other.sparse and other.bytes >= 0.95 * reference.bytes:
        yield Finding(
            "zeros that save nothing",
            f"{whose} is a sparse one by {other.sparse}: {other.zeros:.0f} % of its weights are zero, and its "
            f"{other.bytes:,} bytes are as many as the reference's {reference.bytes:,}: zeros are stored, and multiplied",
            other.zeros,
            len(other.weights),
            WORTH_A_LOOK,
        )
