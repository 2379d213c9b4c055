"""What a user names, told apart by what it holds, not by what it is called."""

from __future__ import annotations

import codecs
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from compressbench import files
from compressbench.artefacts.artefact import NOTHING, Artefact, Given
from compressbench.artefacts.predictions import Predictions
from compressbench.errors import UserError, reason
from compressbench.files import HEADER, INSTEAD, a_file

Answering = Artefact | Predictions
Reader = Callable[[Path, Given], Answering]
KNOWN = (
    "ONNX, OpenVINO (.xml), torch.export (.pt2), TFLite, .safetensors or tensors in .pt, a timm or Hugging Face folder, "
    "RUN::STATE, or predictions in .npz, .npy, .csv, .jsonl, .parquet"
)
IMPORT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""As import paths are written; no drive of one letter with a path behind it."""
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""How a file of ``torch.save`` began before it was a zip: its magic number, pickled."""
SAID: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", "GGUF, a format of llama.cpp"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes .h5"),
    (0, b"ptrt", "a TensorRT engine"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"\x7fELF", "compiled code"),
    (0, b"MZ", "compiled code"),
    (4, b"ORTM", "ONNX Runtime's own format (.ort); give the .onnx that it was made of"),
    (4, b"ET12", "an ExecuTorch program"),
    (4, b"ET13", "an ExecuTorch program"),
)
"""Beginnings of files that are not read: where, which bytes, what it is."""
SUFFIXES = {
    ".engine": "a TensorRT engine", ".plan": "a TensorRT engine", ".trt": "a TensorRT engine",
    ".mlmodel": "a Core ML model", ".mlpackage": "a Core ML package", ".mlmodelc": "a compiled Core ML model",
    ".h5": "HDF5, as Keras writes it", ".keras": "a Keras model", ".pb": "a TensorFlow graph", ".gguf": "GGUF",
    ".pkl": "a pickle", ".pickle": "a pickle", ".joblib": "a pickle", ".blob": "a compiled OpenVINO model",
    ".caffemodel": "a Caffe model", ".pdmodel": "a Paddle model", ".param": "an ncnn model", ".mnn": "an MNN model",
}  # fmt: skip
"""Names for what tells nothing by its beginning."""


def read(text: str, given: Given = NOTHING) -> Answering:
    """The artefact, or the file of predictions, that a user names: a path, ``RUN::STATE``, or ``mynet:answers``.

    Raises:
        UserError: one line: nothing there, nothing that is read, damaged, or untrusted.
    """
    try:
        return _read(text, given)
    except UserError as error:  # names in a file are its maker's, and may hold what a terminal obeys
        said = str(error)
        if said.isprintable():
            raise
        raise type(error)("".join(c if c.isprintable() else " " for c in said)) from error


def _read(text: str, given: Given) -> Answering:
    from compressbench.artefacts import function, run_state

    if not text.strip() or "\0" in text:
        raise UserError(f"{text!r} names nothing; give {KNOWN}")
    path = Path(text).expanduser()
    try:
        there = path.exists()
    except OSError as error:
        raise UserError(f"{text[:100]}: can't be read: {error.strerror or error}") from error
    if there:
        return _folder(path)(path, given) if path.is_dir() else _file(path)(path, given)
    if run_state.BETWEEN in text:
        return run_state.read(text, given)
    if IMPORT.fullmatch(text):
        return function.named(text, given)
    raise UserError(f"{text}: no such file or folder")


def _refused(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}, which isn't read here; {INSTEAD}")


def _folder(path: Path) -> Reader:
    from compressbench.artefacts import folders

    if path.suffix in SUFFIXES or (path / "Manifest.json").is_file():
        raise _refused(path, SUFFIXES.get(path.suffix, "a Core ML package"))
    if (path / "saved_model.pb").is_file():
        raise _refused(path, "a TensorFlow SavedModel")
    if (path / "config.yaml").is_file() and not (path / folders.CONFIG).is_file():
        raise UserError(f"{path}: is a run; {path}::STATE names a state of it, e.g. {path}::dense")
    models = sorted(p.name for p in path.glob("*.onnx")) + sorted(p.name for p in path.glob("*.xml"))
    if models and not (path / folders.CONFIG).is_file():
        raise UserError(f"{path}: is a folder; name the file in it, e.g. {path / models[0]}")
    return folders.read


def _file(path: Path) -> Reader:
    """How a file is read, by its first bytes, then by its structure."""
    size = a_file(path).stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
    for place, mark, what in SAID:
        if head[place : place + len(mark)] == mark:
            raise _refused(path, what)
    if head[4:8] == b"TFL3":
        return _tflite
    if head[:6] == b"\x93NUMPY":
        return _predictions("npy")
    if head[:4] == b"PAR1":
        return _predictions("parquet")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip(path)
    if head.startswith(LEGACY):
        return _weights("torch_file")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise UserError(
            f"{path}: is a pickle, which runs code when it is opened; it isn't. {INSTEAD.capitalize()}"
        )
    if _is_safetensors(path, head, size):
        return _weights("safetensors")
    if re.match(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<net\b", head, re.S):
        return _openvino
    found = _protobuf(path, size)
    if found is not None:
        return found
    if path.suffix.lower() in SUFFIXES:
        raise _refused(path, SUFFIXES[path.suffix.lower()])
    if _is_lines(path, head):
        return _predictions("lines")
    if _is_table(head):
        return _predictions("table")
    raise UserError(f"{path}: is nothing that is read here, which is: {KNOWN}")


def _zip(path: Path) -> Reader:
    """``.npz``, a program of torch.export, tensors of torch.save, or what is none of these."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: a damaged or truncated file: {reason(error)}") from error
    names = {i.filename for i in infos}
    last = {n.partition("/")[2] or n for n in names}
    if not names:
        raise UserError(f"{path}: an empty archive")
    if all(n.endswith(".npy") for n in names):
        return _predictions("npz")
    if "archive_format" in last or any(n.startswith("models/") for n in last):
        return _exported
    if "serialized_exported_program.json" in names:
        raise UserError(
            f"{path}: a torch.export program of torch 2.7 or older; save it again with a newer torch"
        )
    if "constants.pkl" in last and any(n.startswith("code/") for n in last):
        raise _refused(path, "TorchScript, whose objects are pickled")
    if "data.pkl" in last:
        if odd := next((i.filename for i in infos if i.compress_type != zipfile.ZIP_STORED), None):
            raise UserError(f"{path}: {odd[:60]} is packed; torch.save stores tensors as they are")
        return _weights("torch_file")
    if {"config.json", "metadata.json"} <= names or "model.weights.h5" in names:
        raise _refused(path, "a Keras model")
    if any(n.rpartition("/")[2] in ("Manifest.json", "model.mlmodel") for n in names):
        raise _refused(path, "a Core ML package")
    raise UserError(f"{path}: a zip file of {min(names)[:60]} …, none of what is read here: {KNOWN}")


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Whether it begins with the length of a JSON header, and the header.

    Raises:
        UserError: it does, and ends before the header does, or the header is larger than any is.
    """
    if len(head) < 9 or head[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", head[:8])
    if length > HEADER or length + 8 > size:
        if path.suffix == ".safetensors" or length <= HEADER:
            raise UserError(
                f"{path}: a truncated or damaged safetensors file: its header has {length:,} bytes"
            )
        return False
    return True


def _protobuf(path: Path, size: int) -> Reader | None:
    """ONNX by the fields that a model has; others of the same kind are refused by name.

    Raises:
        UserError: it is one that isn't read, or ends in the middle.
    """
    seen: set[int] = set()
    versioned = False
    cut = ""
    with path.open("rb") as file:
        try:
            for number, wire in files.fields(file, size):
                seen.add(number)
                versioned |= (number, wire) == (1, 0)
        except EOFError as error:
            cut = str(error)
        except ValueError:
            return None
    if not versioned:
        if cut and path.suffix == ".onnx":
            raise UserError(f"{path}: damaged, or no ONNX model: {cut}")
        return None
    if cut and (path.suffix == ".onnx" or {2, 7, 8} & seen):
        raise UserError(f"{path}: a truncated file: {cut}")
    if seen <= set(range(1, 27)) and 7 in seen:
        return _onnx
    if any(n >= 200 for n in seen):
        raise _refused(path, "a Core ML model")
    if seen == {1, 2}:
        raise _refused(path, "a TensorFlow SavedModel")
    return None


def _is_lines(path: Path, head: bytes) -> bool:
    """Whether a file begins as lines of JSON objects do: with one that is whole on its line, as far as that is seen."""
    found = re.match(rb'(\xef\xbb\xbf)?[ \t]*\{[ \t]*"[^\n]*', head)
    return found is not None and (path.suffix.lower() == ".jsonl" or found[0].rstrip().endswith(b"}"))


def _is_table(head: bytes) -> bool:
    """Whether the beginning of a file is lines of text with several values."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    line = text.partition("\n")[0]
    return (
        bool(line.strip())
        and any(m in line for m in ",;\t")
        and all(c.isprintable() or c in "\t\r\n" for c in text)
    )


def _onnx(path: Path, given: Given) -> Answering:
    from compressbench.artefacts import onnx

    return onnx.read(path, given)


def _openvino(path: Path, given: Given) -> Answering:
    from compressbench.artefacts import openvino

    return openvino.read(path, given)


def _exported(path: Path, given: Given) -> Answering:
    from compressbench.artefacts import exported

    return exported.read(path, given)


def _tflite(path: Path, given: Given) -> Answering:
    from compressbench.artefacts import tflite

    return tflite.read(path, given)


def _weights(reader: str) -> Reader:
    def read_weights(path: Path, given: Given) -> Answering:
        from compressbench.artefacts import checkpoint

        return getattr(checkpoint, reader)(path, given)

    return read_weights


def _predictions(reader: str) -> Reader:
    def read_predictions(path: Path, given: Given) -> Answering:
        from compressbench.artefacts import predictions

        return getattr(predictions, reader)(path, given)

    return read_predictions
