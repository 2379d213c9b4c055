"""IDX and CIFAR files: layouts, damage, what a pickle may not do."""

from __future__ import annotations

import ast
import gzip
import lzma
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases_data import ROOT, config, damaged, python2_dict, shared, small_cifar100, small_mnist  # noqa: F401
from compressbench.data import cifar, idx
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.tasks.images.classification import moments

# idx files ------------------------------------------------------------------------------------------------------------


PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("layout", ["MNIST/raw", "mnist", ""])
@pytest.mark.parametrize("suffix", PACKERS)
def test_idx_layouts(small_mnist: dict[str, bytes], tmp_path: Path, layout: str, suffix: str) -> None:
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in small_mnist.items():
        (folder / f"{name}{suffix}").write_bytes(PACKERS[suffix](data))
    raw = idx.mnist(str(tmp_path))
    assert raw.train["images"].shape == (60, 1, 28, 28)
    assert raw.train["images"].tobytes() == small_mnist[idx.TRAIN_IMAGES][16:]
    assert raw.test.labels.tolist() == [i % 10 for i in range(20)]


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(
            {
                **config("mnist"),
                "read": {"_target_": "compressbench.data.idx.mnist", "data_dir": str(tmp_path)},
            }
        )
    message = str(caught.value)
    for part in (f"{tmp_path}/MNIST/raw", f"{tmp_path}/mnist", "compressbench data mnist --download"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("how", ["truncated", "altered", "longer"])
@pytest.mark.parametrize("suffix", PACKERS)
def test_damaged_idx_content_is_named(
    small_mnist: dict[str, bytes], tmp_path: Path, suffix: str, how: str
) -> None:
    for name, data in small_mnist.items():
        content = damaged(how, data) if name == idx.TEST_LABELS else data
        (tmp_path / f"{name}{suffix}").write_bytes(PACKERS[suffix](content))
    word = "truncated: it holds 27 of 28 bytes" if how == "truncated" else "altered"
    with pytest.raises(UserError, match=f"t10k-labels-idx1-ubyte{suffix}.*{word}.*--download"):
        idx.mnist(str(tmp_path))


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_damaged_compression_is_named(small_mnist: dict[str, bytes], tmp_path: Path, suffix: str) -> None:
    for name, data in small_mnist.items():
        packed = PACKERS[suffix](data)
        (tmp_path / f"{name}{suffix}").write_bytes(packed[:-20] if name == idx.TRAIN_IMAGES else packed)
    with pytest.raises(UserError, match=f"{idx.TRAIN_IMAGES}{suffix} is truncated or damaged"):
        idx.mnist(str(tmp_path))
    (tmp_path / f"{idx.TRAIN_IMAGES}{suffix}").unlink()
    with pytest.raises(UserError, match=f"{idx.TRAIN_IMAGES} is missing"):
        idx.mnist(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no idx file"),
        (b"\0\0\x0d\x01\0\0\0\0", "no idx file"),
        (b"\0\0\x08\x03\0\0\0\x01", "no idx file"),
        (b"\0\0\x08\x01\0\0\0\x05abcd", "holds 4 values, its header says 5"),
        (b"\0\0\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", "header says 4294967295 x 4294967295"),
    ],
)
def test_malformed_idx(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        idx.parse(data, "it")


def test_mnist_as_published() -> None:
    raw = idx.mnist(str(shared("mnist").parent))
    assert raw.train["images"].shape == (60000, 1, 28, 28)
    assert raw.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    mean, std = moments(raw.train["images"])
    assert (round(mean[0], 4), round(std[0], 4)) == (0.1307, 0.3081)


# CIFAR ----------------------------------------------------------------------------------------------------------------


def write_cifar100(blobs: dict[str, bytes], root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, data in blobs.items():
        (folder / name).write_bytes(data)
    return folder


def test_cifar100_layout_and_both_labels(small_cifar100: dict[str, bytes], tmp_path: Path) -> None:
    folder = write_cifar100(small_cifar100, tmp_path)
    fine, coarse = (cifar.cifar100(str(tmp_path), labels) for labels in ("fine", "coarse"))
    pixels = np.random.RandomState(0).randint(0, 256, (40, 3072)).astype(np.uint8)
    assert (fine.train["images"] == pixels.reshape(40, 3, 32, 32)).all()
    assert fine.classes == ("f0", "f1", "f2", "f3")
    assert coarse.classes == ("c0", "c1")
    assert (coarse.train.labels == fine.train.labels // 2).all()
    assert fine.attributes["test"]["coarse"].tolist() == [coarse.classes[c] for c in coarse.test.labels]
    read = {"_target_": "compressbench.data.cifar.cifar100", "data_dir": str(tmp_path)}
    dataset = load(config("cifar100", read=read))
    assert dataset.groups["coarse"] == ("c0", "c1")
    assert (dataset.split("train").groupings["coarse"] == dataset.split("train").labels // 2).all()
    assert dataset.task.augment == {"pad": 4, "flip": True}
    with pytest.raises(UserError, match="known: fine, coarse"):
        cifar.cifar100(str(tmp_path), "both")
    (folder / "test").write_bytes(small_cifar100["test"][:-4])
    with pytest.raises(UserError, match=r"cifar-100-python/test .*altered.*--download"):
        cifar.cifar100(str(tmp_path))


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.parts = call, arguments

    def __reduce__(self) -> Any:
        return self.parts


def evil_pickles(mark: Path) -> dict[str, bytes]:
    return {
        "system": pickle.dumps({"data": Evil(os.system, f"touch {mark}")}, protocol=2),
        "open": pickle.dumps({"data": Evil(open, str(mark), "w")}, protocol=4),
        "eval": b"cbuiltins\neval\n(U\x24open(" + repr(str(mark)).encode()[:1] + b".",
        "getattr": b"c__builtin__\ngetattr\n.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
        "codecs": pickle.dumps({"data": np.zeros(3, np.uint8)}, protocol=2),
        "new numpy": pickle.dumps({"data": np.zeros(3, np.uint8)}, protocol=5),
        "objects": python2_dict(data=np.zeros((1, 3), np.uint8)).replace(b"U\x02u1", b"U\x02O8"),
        "persistent": b"Pname\n.",
        "extension": b"\x82\x01.",
        "class attribute": b"\x80\x02cnumpy\nndarray\n}U\x04evilK\x01sb.",
        "empty": b"",
        "list": b"\x80\x02].",
        "cut": python2_dict(labels=[1, 2, 3])[:-3],
    }


@pytest.mark.parametrize("name", evil_pickles(Path("mark")))
def test_a_pickle_that_asks_for_anything_else_is_refused(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(UserError, match="is no CIFAR batch") as caught:
        cifar.unpack(evil_pickles(mark)[name], "data_batch_1")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_the_evil_pickles_would_have_worked(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(evil_pickles(mark)["system"])
    assert mark.exists()


def test_altered_batches_are_refused_before_they_are_interpreted(
    small_cifar100: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar100({**small_cifar100, "meta": evil_pickles(tmp_path / "mark")["system"]}, tmp_path)
    monkeypatch.setattr(cifar, "unpack", lambda data, what: pytest.fail(f"{what} was interpreted"))
    with pytest.raises(UserError, match="altered"):
        cifar.cifar100(str(tmp_path))


def test_nothing_but_the_cifar_reader_unpickles() -> None:
    package = ROOT / "compressbench"
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    harmless = {("pickle", "UnpicklingError"), ("pickle", "PickleError")}
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            used: set[tuple[str, str]] = set()
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = {(node.value.id, node.attr)}
            elif isinstance(node, ast.ImportFrom):
                used = {(str(node.module), alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                used = {(alias.name, "renamed") for alias in node.names if alias.asname}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "np.load",
                "numpy.load",
            ):
                told = {(k.arg, ast.unparse(k.value)) for k in node.keywords}
                safe = bool(told & {("weights_only", "True"), ("allow_pickle", "False")})
                used = set() if safe else {("pickle", ast.unparse(node.func))}
            if any(module.split(".")[0] in modules for module, _ in used - harmless):
                found.add(path.relative_to(package).as_posix())
    assert found == {"data/cifar.py"}


@pytest.mark.slow
def test_cifar10_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared("cifar10")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(folder))
    from unpack_cifar10 import load_arrays, write_batches

    batches = Path(write_batches(str(folder), str(tmp_path)))
    raw = cifar.cifar10(str(tmp_path))
    x, y, xt, yt = load_arrays(str(folder))
    assert (raw.train["images"] == x.transpose(0, 3, 1, 2)).all()
    assert (raw.test["images"] == xt.transpose(0, 3, 1, 2)).all()
    assert (raw.train.labels == y).all()
    assert (raw.test.labels == yt).all()
    assert raw.classes[:3] == ("airplane", "automobile", "bird")
    assert raw.train["images"].flags.writeable

    with (batches / "data_batch_3").open("r+b") as file:
        file.truncate(31_000_000)
    with pytest.raises(
        UserError, match=r"data_batch_3 is truncated: it holds 31,000,000 of 31,035,999 bytes"
    ):
        cifar.cifar10(str(tmp_path))
