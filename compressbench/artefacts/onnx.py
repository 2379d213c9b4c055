"""An ONNX file in ONNX Runtime, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.artefacts.artefact import Arrays, Given, Input, Wanted, chosen, fed, in_order, table
from compressbench.errors import UserError, reason
from compressbench.files import a_file, digest_of, inside

if TYPE_CHECKING:
    from torch import nn

    from compressbench.artefacts.reading import Reading

GRAPHS = 2**31 - 1
"""Bytes of a protobuf message at most."""
TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(uint8)": "uint8",
    "tensor(int8)": "int8", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool",
    "tensor(uint16)": "uint16", "tensor(int16)": "int16",
}  # fmt: skip
"""ONNX Runtime's words -> numpy's."""


@dataclass(frozen=True)
class Onnx:
    """A model, checked: it opens, and refers to nothing outside its folder.

    Attributes:
        files: the model, then its files of external data.
        place: of the output that is taken, among all.
        version: of the runtime.
    """

    path: Path
    files: tuple[Path, ...]
    wants: Wanted
    place: int
    version: str

    @property
    def name(self) -> str:
        """The file's."""
        return self.path.name

    @property
    def form(self) -> str:
        """In words."""
        return f"ONNX, ONNX Runtime {self.version} on the CPU"

    @functools.cached_property
    def identity(self) -> str:
        """Of the files, and which output is taken."""
        return digest_of(self.files, "onnx", self.place)

    @functools.cached_property
    def reading(self) -> Reading | None:
        """How it reads texts, by the ``tokenizer.json`` beside it; None where there is none."""
        from compressbench.artefacts.reading import of_folder

        return of_folder(self.path.parent)

    def open(self, threads: int = 1) -> OpenOnnx:
        """See ``Artefact``."""
        return OpenOnnx(_session(self.path, threads), self.wants, self.name, self.place)

    def differentiable(self) -> nn.Module | None:
        """Nothing: the runtime has no gradients."""
        return None


@dataclass(frozen=True)
class OpenOnnx:
    """A session.

    Attributes:
        runtime: the session itself.
    """

    runtime: Any
    wants: Wanted
    name: str
    place: int

    def answers(self, inputs: Arrays) -> np.ndarray:
        """(n, classes), see ``artefact.Opened``."""
        arrays = in_order(self.wants, inputs, self.name)
        feeds = {w.name: fed(w, a, self.name) for w, a in zip(self.wants.inputs, arrays, strict=True)}
        output = self.runtime.get_outputs()[self.place].name
        try:
            (found,) = self.runtime.run([output], feeds)
        except Exception as error:  # the runtime's errors have no common base
            shapes = ", ".join(str(a.shape) for a in arrays)
            raise UserError(f"{self.name}: ONNX Runtime fails on {shapes}: {_reason(error)}") from error
        return table(found, len(arrays[0]), self.name)


def read(path: Path, given: Given) -> Onnx:
    """A model by its file.

    Raises:
        UserError: it is damaged, refers to files elsewhere, takes or gives no tensors, or several could be the answers.
    """
    from compressbench.hardware.onnxruntime_cpu import package

    runtime = package()
    files = (path, *_external(path))
    session = _session(path, 1)
    inputs = []
    for each in session.get_inputs():
        if each.type not in TYPES:
            raise UserError(
                f"{path}: its input {each.name} is a {each.type}; only tensors of numbers can be given"
            )
        inputs.append(Input(each.name, _shape(each.shape), TYPES[each.type]))
    if not inputs:
        raise UserError(f"{path}: takes no input")
    outputs = [(o.name, _shape(o.shape), TYPES.get(o.type, o.type)) for o in session.get_outputs()]
    place = chosen(outputs, given, path.name)
    _, shape, dtype = outputs[place]
    if dtype not in TYPES.values():
        raise UserError(
            f"{path}: its output {outputs[place][0]} is a {dtype}, no numbers; --output names another"
        )
    classes = shape[1] if len(shape) > 1 else None
    return Onnx(path, files, Wanted(tuple(inputs), classes), place, runtime.__version__)


def _shape(given: Sequence[Any]) -> tuple[int | None, ...]:
    """Names and None are free dimensions, as are -1 and 0."""
    return tuple(n if isinstance(n, int) and n > 0 else None for n in given)


def _session(path: Path, threads: int) -> Any:
    from compressbench.hardware.onnxruntime_cpu import open_session, package

    try:
        return open_session(package(), str(path), threads)
    except UserError:
        raise
    except Exception as error:  # the runtime's errors have no common base
        raise UserError(f"{path}: ONNX Runtime can't open it: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Without the runtime's own sources and numbers."""
    text = reason(error, 600)
    return (
        text.partition("] : ")[2].partition(" : ")[2] or text
        if text.startswith("[ONNXRuntimeError]")
        else text
    )


def _external(path: Path) -> list[Path]:
    """Files that hold a model's larger tensors; beside it, or below.

    Raises:
        UserError: it is no model, or one lies elsewhere or is too short.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UserError(f"onnx isn't installed ({error}): pip install 'compressbench[onnx]'") from error
    try:
        model = onnx.load_model_from_string(a_file(path, GRAPHS).read_bytes())
    except (DecodeError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: damaged, or no ONNX model: {reason(error)}") from error
    found: dict[Path, None] = {}
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        told = {e.key: e.value for e in tensor.external_data}
        beside = inside(path.parent, told.get("location", ""), path)
        offset, length = (
            int(told.get(k) or 0) if (told.get(k) or "0").isdigit() else -1 for k in ("offset", "length")
        )
        if min(offset, length) < 0 or offset + length > beside.stat().st_size:
            raise UserError(
                f"{path}: its tensor {tensor.name} goes beyond the end of {beside.name}; is that whole?"
            )
        found[beside] = None
    return list(found)


def _tensors(model: Any) -> Iterator[Any]:
    """All tensors of a model, those in the graphs of branches, loops and functions too."""
    todo: list[Any] = [model.graph]
    nodes: list[Any] = [n for f in model.functions for n in f.node]
    while todo or nodes:
        if todo:
            graph = todo.pop()
            yield from graph.initializer
            yield from (
                part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)
            )
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            sparse_tensors = (attribute.sparse_tensor, *attribute.sparse_tensors)
            yield from (part for sparse in sparse_tensors for part in (sparse.values, sparse.indices))
            todo += [g for g in (attribute.g, *attribute.graphs) if g.node or g.initializer]
