"""An OpenVINO model (``.xml`` and ``.bin``), on the CPU. What preprocessing is built into it stays in it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.artefacts.artefact import Arrays, Given, Input, Wanted, chosen, fed, in_order, table
from compressbench.errors import UserError
from compressbench.files import a_file, digest_of, inside

if TYPE_CHECKING:
    from torch import nn

    from compressbench.artefacts.reading import Reading

GRAPHS = 500 * 2**20
TYPES = {
    "f32": "float32", "f64": "float64", "f16": "float16", "u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64",
    "u16": "uint16", "i16": "int16", "boolean": "bool",
}  # fmt: skip
"""OpenVINO's words -> numpy's."""


@dataclass(frozen=True)
class OpenVINO:
    """A model, checked.

    Attributes:
        files: the graph, then its weights.
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
        """The graph's file."""
        return self.path.name

    @property
    def form(self) -> str:
        """In words."""
        return f"OpenVINO IR, OpenVINO {self.version} on the CPU, float layers in fp32"

    @functools.cached_property
    def identity(self) -> str:
        """Of the files, and which output is taken."""
        return digest_of(self.files, "openvino", self.place)

    @functools.cached_property
    def reading(self) -> Reading | None:
        """How it reads texts, by the ``tokenizer.json`` beside it; None where there is none."""
        from compressbench.artefacts.reading import of_folder

        return of_folder(self.path.parent)

    def open(self, threads: int = 1) -> OpenOpenVINO:
        """See ``Artefact``."""
        from compressbench.hardware.agreement import reason_of
        from compressbench.hardware.openvino_cpu import compile_model, package

        try:
            compiled = compile_model(package().Core(), self.path, None, threads, "f32")
            request = compiled.create_infer_request()
        except UserError:
            raise
        except Exception as error:  # the runtime's errors have no common base
            raise UserError(f"{self.path}: OpenVINO can't compile it: {reason_of(error)}") from error
        return OpenOpenVINO(compiled, request, self.wants, self.name, self.place)

    def differentiable(self) -> nn.Module | None:
        """Nothing: the runtime has no gradients."""
        return None


@dataclass(frozen=True)
class OpenOpenVINO:
    """A compiled model.

    Attributes:
        runtime: the compiled model itself.
        request: what runs it.
    """

    runtime: Any
    request: Any
    wants: Wanted
    name: str
    place: int

    def answers(self, inputs: Arrays) -> np.ndarray:
        """(n, classes), see ``artefact.Opened``."""
        from compressbench.hardware.agreement import reason_of

        arrays = in_order(self.wants, inputs, self.name)
        feeds = [fed(w, a, self.name) for w, a in zip(self.wants.inputs, arrays, strict=True)]
        try:
            found = self.request.infer(feeds)[self.place].copy()
        except Exception as error:  # the runtime's errors have no common base
            shapes = ", ".join(str(a.shape) for a in arrays)
            raise UserError(f"{self.name}: OpenVINO fails on {shapes}: {reason_of(error)}") from error
        return table(found, len(arrays[0]), self.name)


def read(path: Path, given: Given) -> OpenVINO:
    """A model by its ``.xml``.

    Raises:
        UserError: it is damaged or without its weights, takes or gives no tensors, or several could be the answers.
    """
    from compressbench.hardware.agreement import reason_of
    from compressbench.hardware.openvino_cpu import package

    runtime = package()
    a_file(path, GRAPHS)
    beside = path.with_suffix(".bin")
    if not beside.is_file():
        raise UserError(f"{path}: its weights, {beside.name}, are not beside it")
    weights = inside(path.parent, beside.name, path)
    try:
        model = runtime.Core().read_model(str(path), str(weights))
    except Exception as error:  # the runtime's errors have no common base
        raise UserError(f"{path}: OpenVINO can't read it: {reason_of(error)}") from error
    inputs = [Input(_name(p, f"x{k}"), _shape(p), _type(p)) for k, p in enumerate(model.inputs)]
    if not inputs:
        raise UserError(f"{path}: takes no input")
    if odd := next((i for i in inputs if i.dtype not in TYPES.values()), None):
        raise UserError(f"{path}: its input {odd.name} is of {odd.dtype}, which can't be given")
    outputs = [(_name(p, f"output{k}"), _shape(p), _type(p)) for k, p in enumerate(model.outputs)]
    if not outputs:
        raise UserError(f"{path}: gives nothing")
    place = chosen(outputs, given, path.name)
    shape: Sequence[int | None] | None = outputs[place][1]
    classes = shape[1] if shape is not None and len(shape) > 1 else None
    version = runtime.__version__.partition("-")[0]
    return OpenVINO(path, (path, weights), Wanted(tuple(inputs), classes), place, version)


def _name(port: Any, otherwise: str) -> str:
    """The shortest of a tensor's names, which have no order; its node's where it has none."""
    names = sorted(port.get_names(), key=lambda n: (len(n), n))
    return names[0] if names else str(port.get_node().get_friendly_name()) or otherwise


def _shape(port: Any) -> tuple[int | None, ...]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ()
    return tuple(d.get_length() if d.is_static else None for d in shape)


def _type(port: Any) -> str:
    word = port.get_element_type().get_type_name()
    return TYPES.get(word, word)
