"""What several files of tests on data sets have together."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressbench.cli import data as command
from compressbench.data import cifar, idx
from compressbench.data.published import Content, Download
from compressbench.specs.conf import conf_dir

ROOT = Path(__file__).resolve().parents[1]


def shared(name: str) -> Path:
    base = os.environ.get("COMPRESSBENCH_SHARED")
    folder = (Path(base) if base else ROOT.parent / "shared") / "data" / name
    if not folder.exists():
        pytest.skip(f"{folder} is absent; COMPRESSBENCH_SHARED names another place")
    return folder


def config(option: str, /, **changes: Any) -> dict[str, Any]:
    return {**command.read_config(option, [conf_dir() / "dataset"], "data"), **changes}


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def as_idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files that pass for MNIST, and the published sums changed to theirs."""
    random = np.random.RandomState(0)
    blobs = {}
    for images, labels, n in (
        (idx.TRAIN_IMAGES, idx.TRAIN_LABELS, 60),
        (idx.TEST_IMAGES, idx.TEST_LABELS, 20),
    ):
        blobs[images] = as_idx(random.randint(0, 256, (n, 28, 28)))
        blobs[labels] = as_idx(np.arange(n) % 10)
    published = replace(
        idx.PUBLISHED["mnist"],
        files=tuple(Content(name, md5(data), len(data)) for name, data in blobs.items()),
        downloads=tuple(
            Download(f"{name}.gz", md5(gzip.compress(data, mtime=0)), name) for name, data in blobs.items()
        ),
    )
    monkeypatch.setitem(idx.PUBLISHED, "mnist", published)
    return blobs


def damaged(how: str, data: bytes) -> bytes:
    return {"truncated": data[:-1], "altered": data[:-1] + bytes([data[-1] ^ 1]), "longer": data + b"\0"}[how]


def text(value: str) -> bytes:
    return b"U" + bytes([len(value)]) + value.encode()


def python2_array(array: np.ndarray) -> bytes:
    """Protocol-2 opcodes that Python 2 wrote for a uint8 matrix, as in the published files."""
    rows, columns = (b"M" + struct.pack("<H", n) for n in array.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + (b"(K\x01" + rows + columns + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R")
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + (b"T" + struct.pack("<I", array.size) + array.tobytes() + b"tb")
    )


def python2_dict(**entries: Any) -> bytes:
    out = b"\x80\x02}("
    for name, value in entries.items():
        out += text(name)
        if isinstance(value, np.ndarray):
            out += python2_array(value)
        else:
            out += (
                b"](" + b"".join(text(v) if isinstance(v, str) else b"K" + bytes([v]) for v in value) + b"e"
            )
    return out + b"u."


def cifar100_files() -> dict[str, bytes]:
    random = np.random.RandomState(0)
    blobs = {"meta": python2_dict(fine_label_names=["f0", "f1", "f2", "f3"], coarse_label_names=["c0", "c1"])}
    for name, n in (("train", 40), ("test", 12)):
        fine = [i % 4 for i in range(n)]
        pixels = random.randint(0, 256, (n, 3072)).astype(np.uint8)
        blobs[name] = python2_dict(data=pixels, fine_labels=fine, coarse_labels=[f // 2 for f in fine])
    return blobs


@pytest.fixture
def small_cifar100(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    blobs = cifar100_files()
    published = replace(
        cifar.PUBLISHED["cifar100"], files=tuple(Content(name, md5(data)) for name, data in blobs.items())
    )
    monkeypatch.setitem(cifar.PUBLISHED, "cifar100", published)
    return blobs


def picture(path: Path, value: int, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {"L": value, "RGB": (value, value // 2, 255 - value), "I;16": value}[mode]
    Image.new(mode, size[::-1], colour).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for label, name in enumerate(("bee", "ant")):
        for i in range(10):
            picture(tmp_path / "all" / name / f"{i:02}.png", 100 * label + i)
    return tmp_path / "all"
