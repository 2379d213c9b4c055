"""A LiteRT (TensorFlow Lite) file in its own interpreter. An extra: ``pip install 'compressbench[litert]'``.

Where inputs or outputs are integers with a scale, floats go in and come out: they are rounded and restored by the file's
own scales, as an application does it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.artefacts.artefact import Arrays, Given, Input, Wanted, chosen, fed, in_order, table
from compressbench.errors import UserError, reason
from compressbench.files import a_file, digest_of

if TYPE_CHECKING:
    from torch import nn

LARGEST = 2**31 - 1
"""Bytes of a flatbuffer at most."""
SECONDS = 120
"""How long a first run may take."""
TRIAL = """
import sys
path, *sys.path = sys.argv[1:]
from ai_edge_litert.interpreter import Interpreter
made = Interpreter(model_path=path, num_threads=1)
made.allocate_tensors()
made.get_input_details(), made.get_output_details()
made.invoke()
"""
"""What is run aside before a file is opened here."""


@dataclass(frozen=True)
class TFLite:
    """A model, checked.

    Attributes:
        wants: of an input of integers with a scale, floats; see ``rounds``.
        place: of the output that is taken, among all.
        rounds: whether inputs are rounded by a scale, in words for ``form``; empty where they aren't.
        version: of the runtime.
    """

    path: Path
    wants: Wanted
    place: int
    rounds: str
    version: str

    @property
    def name(self) -> str:
        """The file's."""
        return self.path.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def form(self) -> str:
        """In words."""
        return f"TFLite, LiteRT {self.version} on the CPU{self.rounds}"

    @functools.cached_property
    def identity(self) -> str:
        """Of the file, and which output is taken."""
        return digest_of(self.files, "tflite", self.place)

    def open(self, threads: int = 1) -> OpenTFLite:
        """See ``Artefact``."""
        return OpenTFLite(_interpreter(self.path, threads), self.wants, self.name, self.place)

    def differentiable(self) -> nn.Module | None:
        """Nothing: the runtime has no gradients."""
        return None


@dataclass(frozen=True)
class OpenTFLite:
    """An interpreter; it is resized to each batch where the file leaves the number of examples free.

    Attributes:
        runtime: the interpreter itself.
    """

    runtime: Any
    wants: Wanted
    name: str
    place: int

    def answers(self, inputs: Arrays) -> np.ndarray:
        """(n, classes), see ``artefact.Opened``."""
        arrays = in_order(self.wants, inputs, self.name)
        details = self.runtime.get_input_details()
        try:
            for detail, array in zip(details, arrays, strict=True):
                if tuple(detail["shape"]) != array.shape:
                    self.runtime.resize_tensor_input(detail["index"], array.shape)
            self.runtime.allocate_tensors()
            for detail, wanted, array in zip(details, self.wants.inputs, arrays, strict=True):
                self.runtime.set_tensor(detail["index"], _rounded(array, detail, wanted, self.name))
            self.runtime.invoke()
            detail = self.runtime.get_output_details()[self.place]
            found = self.runtime.get_tensor(detail["index"])
        except UserError:
            raise
        except Exception as error:  # the runtime's errors have no common base
            shapes = ", ".join(str(a.shape) for a in arrays)
            raise UserError(f"{self.name}: LiteRT fails on {shapes}: {reason(error)}") from error
        return table(_restored(found, detail), len(arrays[0]), self.name)


def package() -> Any:
    """The runtime's interpreter module.

    Raises:
        UserError: it isn't installed.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise UserError(f"LiteRT isn't installed ({error}): pip install 'compressbench[litert]'") from error
    return interpreter


def read(path: Path, given: Given) -> TFLite:
    """A model by its file.

    Raises:
        UserError: it is damaged, needs operators that the interpreter hasn't, or several outputs could be the answers.
    """
    from importlib.metadata import version

    package()
    _trial(a_file(path, LARGEST))
    interpreter = _interpreter(path, 1)
    details = interpreter.get_input_details()
    inputs = tuple(
        Input(str(d["name"]), _shape(d), "float32" if _scale(d) else np.dtype(d["dtype"]).name)
        for d in details
    )
    if not inputs:
        raise UserError(f"{path}: takes no input")
    outputs = [
        (str(d["name"]), _shape(d), "float32" if _scale(d) else np.dtype(d["dtype"]).name)
        for d in interpreter.get_output_details()
    ]
    place = chosen(outputs, given, path.name)
    shape = outputs[place][1]
    kinds = sorted({np.dtype(d["dtype"]).name for d in details if _scale(d)})
    rounds = f", inputs rounded to {kinds[0]} by its own scale" if kinds else ""
    wants = Wanted(inputs, shape[1] if len(shape) > 1 else None)
    return TFLite(path, wants, place, rounds, version("ai-edge-litert"))


def _trial(path: Path) -> None:
    """Opens and runs it once in a process of its own: the interpreter believes a file's offsets, and may die of them.

    Raises:
        UserError: it fails, crashes, or takes for ever.
    """
    command = [sys.executable, "-c", TRIAL, str(path), *sys.path]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{path}: LiteRT didn't run it once in {SECONDS} seconds") from None
    if done.returncode < 0:
        raise UserError(
            f"{path}: LiteRT crashes on it (signal {-done.returncode}); it is damaged, or no TFLite model"
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        said = next(
            (line for line in reversed(lines) if re.match(r"\w+(Error|Exception): ", line)), lines[-1]
        )
        raise UserError(f"{path}: LiteRT can't run it: {said.partition(': ')[2][:300] or said[:300]}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The interpreter tells the error stream which delegate it made, from its own code."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _interpreter(path: Path, threads: int) -> Any:
    made = package()
    try:
        # The default delegate computes in other kernels on every kind of processor; that is what users run
        with _quiet():
            found = made.Interpreter(model_path=str(path), num_threads=threads)
            found.allocate_tensors()
    except Exception as error:  # the runtime's errors have no common base
        raise UserError(f"{path}: LiteRT can't open it: {reason(error)}") from error
    return found


def _shape(detail: Mapping[str, Any]) -> tuple[int | None, ...]:
    signature = detail.get("shape_signature")
    dims = signature if signature is not None and len(signature) else detail["shape"]
    return tuple(int(n) if n > 0 else None for n in dims)


def _scale(detail: Mapping[str, Any]) -> tuple[float, int] | None:
    """(scale, zero) of a tensor of integers that stand for floats."""
    scale, zero = detail["quantization"]
    return (float(scale), int(zero)) if scale and np.dtype(detail["dtype"]).kind in "iu" else None


def _rounded(array: np.ndarray, detail: Mapping[str, Any], wanted: Input, name: str) -> np.ndarray:
    """What the interpreter is given: integers of its own type as they are, floats rounded by its scale."""
    scaled, want = _scale(detail), np.dtype(detail["dtype"])
    if scaled is None or array.dtype == want:
        return fed(Input(wanted.name, wanted.shape, want.name), array, name)
    scale, zero = scaled
    info = np.iinfo(want)
    return np.clip(np.round(fed(wanted, array, name) / np.float32(scale)) + zero, info.min, info.max).astype(
        want
    )


def _restored(found: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scaled = _scale(detail)
    if scaled is None:
        return found
    scale, zero = scaled
    return (found.astype(np.float32) - zero) * np.float32(scale)
