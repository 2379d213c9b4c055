"""Datasets: exact facts about what is read, drawn, refused and fetched."""

from __future__ import annotations

import ast
import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import lzma
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compressbench.cli import data as command
from compressbench.cli import main as cli
from compressbench.data import cifar, idx
from compressbench.data.dataset import Dataset, Raw, Split
from compressbench.data.folder import files, image_folder, read_pictures
from compressbench.data.load import load
from compressbench.data.published import Content, Download
from compressbench.data.splits import allocate, long_tail, pick
from compressbench.errors import UserError
from compressbench.specs.conf import conf_dir
from compressbench.tasks.images.augment import pad_crop_flip
from compressbench.tasks.images.classification import moments

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


# --- which examples


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.data())
def test_allocation_is_exact_and_bounded(counts: list[int], data: st.DataObject) -> None:
    have = np.array(counts)
    if have.sum() == 0:
        return
    least = np.minimum(have, 1)
    size = data.draw(st.integers(int(least.sum()), int(have.sum())))
    share = allocate(have, size, least, have)
    assert share.sum() == size
    assert (share >= least).all()
    assert (share <= have).all()


def test_allocation_is_proportional() -> None:
    counts = np.array([100, 300, 600])
    assert allocate(counts, 10, counts * 0, counts).tolist() == [1, 3, 6]
    assert allocate(counts, 15, counts * 0, counts).tolist() == [2, 4, 9]
    with pytest.raises(ValueError, match="outside"):
        allocate(counts, 1001, counts * 0, counts)


def test_smaller_draw_is_part_of_larger() -> None:
    labels = np.tile(np.arange(4), 50)
    small, large = (pick(labels, np.full(4, k), np.random.RandomState(3)) for k in (5, 20))
    assert set(small) < set(large)
    assert np.bincount(labels[small]).tolist() == [5] * 4


def test_long_tail_has_the_published_sizes_of_cifar10_lt() -> None:
    sizes = long_tail(np.full(10, 5000), 100)
    assert sizes.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_long_tail_of_unequal_classes_keeps_its_profile() -> None:
    counts = np.array([90, 100, 5])
    sizes = long_tail(counts, 9)
    assert sizes.tolist() == [45, 15, 5]


def test_mean_and_std_are_of_the_training_images_alone(pictures: Path) -> None:
    """Test images are black and white, held-out ones come from train: the moments are numpy's of what is trained on."""
    for number, path in enumerate(sorted((pictures / "ant").iterdir())):
        picture(path, 40 + number)
    config_of = {
        "_target_": "compressbench.data.folder.image_folder",
        "root": str(pictures),
        "test_fraction": 0.4,
    }
    found = load({"name": "own", "read": config_of, "validation": 0.25})
    for part in ("validation", "test"):
        assert len(found.splits[part]) > 0
    pixels = found.splits["train"].images.astype(np.float64) / 255
    np.testing.assert_allclose(found.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std((0, 2, 3)), rtol=1e-9)
    for part in ("validation", "test"):
        other = found.splits[part].images.astype(np.float64) / 255
        assert abs(other.mean() - pixels.mean()) > 1e-6, "they differ here"


# --- embedded sets and load


@pytest.fixture(scope="module")
def fashion() -> Dataset:
    return load(config("fashion_mnist"))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(config("digits"))


def test_fashion_mnist(fashion: Dataset) -> None:
    assert {name: len(split) for name, split in fashion.splits.items()} == {
        "train": 9000,
        "validation": 1000,
        "test": 2000,
    }
    assert fashion.task.shape == (1, 28, 28)
    assert len(fashion.classes) == 10
    for split in fashion.splits.values():
        assert split["images"].dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert len(set(np.bincount(split.labels))) == 1
    assert not set(fashion.split("train").rows) & set(fashion.split("validation").rows)
    assert fashion.task.augment == {}
    pixels = fashion.split("train")["images"] / 255
    assert fashion.task.mean == pytest.approx([pixels.mean()])
    assert fashion.task.std == pytest.approx([pixels.std()])


def test_splits_are_what_the_source_holds_at_their_index(fashion: Dataset) -> None:
    raw = idx.fashion_mnist()
    for name, source in (("train", raw.train), ("validation", raw.train), ("test", raw.test)):
        split = fashion.split(name)
        assert (source["images"][split.rows] == split["images"]).all()
        assert (source.labels[split.rows] == split.labels).all()


def test_embedded_fashion_is_the_shared_one() -> None:
    folder = shared("fashion_mnist_subset")
    raw = idx.fashion_mnist()
    images, labels = (
        idx.parse(lzma.decompress((folder / f"{name}.xz").read_bytes()), name)
        for name in (idx.TRAIN_IMAGES, idx.TEST_LABELS)
    )
    assert (images == raw.train["images"][:, 0]).all()
    assert (labels == raw.test.labels).all()


def test_licences_lie_beside_the_embedded_data() -> None:
    for name in ("fashion_mnist", "digits"):
        assert "copyright" in (idx.EMBEDDED / name / "LICENSE.txt").read_text(encoding="utf-8").lower()


def test_digits_are_those_of_scikit_learn() -> None:
    # Found without importing scikit-learn, which takes seconds.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-learn is not installed")
    packed = (Path(spec.origin).parent / "datasets/data/digits.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",")
    source, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64]
    raw = idx.digits()
    assert (len(raw.train), len(raw.test)) == (1000, 797)
    assert sorted([*raw.train.rows, *raw.test.rows]) == list(range(1797))
    for split in (raw.train, raw.test):
        assert (split.labels == labels[split.rows]).all()
        assert (split["images"][:, 0] == np.round(source[split.rows] * 255 / 16)).all()
    share = np.bincount(raw.train.labels) / np.bincount(labels.astype(int))
    assert share == pytest.approx(1000 / 1797, abs=0.01)


def test_loading_imports_no_torch() -> None:
    code = (
        "import sys, json; from compressbench.data.load import load; load(json.loads(sys.argv[1]));"
        "print([m for m in ('torch', 'sklearn', 'PIL', 'hydra') if m in sys.modules])"
    )
    given_ = json.dumps(config("digits"))
    assert (
        subprocess.run([sys.executable, "-c", code, given_], capture_output=True, text=True).stdout == "[]\n"
    )


def test_feed_takes_the_arrays_without_a_warning(digits: Dataset, recwarn: pytest.WarningsRecorder) -> None:
    feed = digits.split("test").to("cpu")
    assert feed["images"].dtype == torch.uint8
    assert len(feed) == 797
    assert not recwarn.list


def test_fingerprint_is_repeatable_and_sees_every_setting(digits: Dataset) -> None:
    prints = [
        load(config("digits", **change)).fingerprint
        for change in (
            {},
            {"name": "renamed"},
            {"train_size": 500},
            {"train_size": 500, "subset_seed": 1},
            {"test_size": 500},
            {"validation": 0},
            {"imbalance": 10},
            {"augment": {"pad": 1}},
        )
    ]
    assert prints[0] == prints[1] == digits.fingerprint
    assert len(set(prints[1:])) == len(prints) - 1


def test_sizes_are_exact_and_stratified() -> None:
    dataset = load(config("fashion_mnist", train_size=2005, test_size=50, validation=105))
    assert [len(dataset.split(name)) for name in ("train", "validation", "test")] == [1900, 105, 50]
    for name, (low, high) in {"train": (190, 190), "validation": (10, 11), "test": (5, 5)}.items():
        counts = np.bincount(dataset.split(name).labels, minlength=10)
        assert (low, high) == (counts.min(), counts.max()), name


def test_imbalance_touches_only_train() -> None:
    dataset = load(config("fashion_mnist", imbalance=90))
    counts = np.bincount(dataset.split("train").labels)
    assert counts[0] == 900
    assert counts[-1] == 10
    assert (np.diff(counts) < 0).all()
    assert set(np.bincount(dataset.split("validation").labels)) == {100}
    assert set(np.bincount(dataset.split("test").labels)) == {200}
    assert set(np.bincount(load(config("digits", imbalance=1)).split("train").labels)) == {87}


def test_no_validation_is_a_clear_error(digits: Dataset) -> None:
    dataset = load(config("digits", validation=0))
    assert len(dataset.split("train")) == 1000
    with pytest.raises(UserError, match="no split 'validation'"):
        dataset.split("validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_size": 1001}, "digits has 1,000 train examples"),
        ({"test_size": 798}, "digits has 797 test examples"),
        ({"train_size": -5}, "no positive number"),
        ({"train_size": 0}, "no positive number"),
        ({"test_size": 10.5}, "no positive number"),
        ({"train_size": True}, "no positive number"),
        ({"train_size": 9}, "less than one example for each of the 10 classes"),
        ({"imbalance": 0.5}, "largest class over smallest"),
        ({"imbalance": float("nan")}, "largest class over smallest"),
        ({"imbalance": "steep"}, "largest class over smallest"),
        ({"imbalance": 500}, "leaves the smallest empty"),
        ({"validation": -0.1}, "neither a share"),
        ({"validation": 1.5}, "neither a share"),
        ({"validation": 991}, "can spare 990"),
        ({"subset_seed": "a"}, "whole number"),
        ({"augment": {"pad": -1}}, "pad=-1"),
        ({"augment": {"flip": 1}}, "flip=1"),
        ({"augment": {"pads": 4}}, "unknown key 'pads'; did you mean pad"),
        ({"augment": "flip"}, "no mapping"),
        ({"train_sise": 5}, "unknown key 'train_sise'; did you mean train_size"),
        ({"read": {}}, "names no reader"),
        (
            {"read": {"_target_": "compressbench.data.idx.digitts"}},
            "there is no compressbench.data.idx.digitts",
        ),
        ({"read": {"_target_": "compressbench.data.idx.digits", "size": 3}}, "unknown key 'size'"),
        ({"read": {"_target_": "compressbench.data.idx.mnist"}}, "needs data_dir"),
        ({"read": {"_target_": "os.system", "command": "true"}}, "not allowed"),
        (
            {"read": {"_target_": "compressbench.data.splits.long_tail", "counts": [1], "ratio": 1}},
            "is not allowed; it is a tool",
        ),
    ],
)
def test_bad_settings_are_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(config("digits", **change))
    assert "\n" not in str(caught.value)


def test_a_reader_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownreader.py").write_text(
        "import numpy as np\n"
        "from compressbench.data.dataset import Raw, Split\n"
        "def read(high=2, dtype='uint8'):\n"
        "    x = np.arange(40 * 4).astype(dtype).reshape(40, 1, 2, 2)\n"
        "    s = Split.of(x, np.repeat(np.arange(high), 40 // high))\n"
        "    return Raw(s, s, ('a', 'b'), attributes={'train': {'odd': np.arange(40) % 2}})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    read = {"_target_": "ownreader.read"}
    dataset = load({"read": read, "validation": 8}, trusted=["ownreader"])
    train = dataset.split("train")
    assert dataset.name == "read"
    assert (train.groupings["odd"] == train.rows % 2).all()
    assert dataset.groups == {"odd": (0, 1)}
    assert (dataset.split("test").groupings["odd"] == -1).all(), "the reader said nothing of these"
    assert (dataset.split("validation").groupings["odd"] == dataset.split("validation").rows % 2).all()
    # The source is sorted by class, so it is mixed; the index still holds.
    assert (np.diff(train.labels) < 0).any()
    assert (train["images"][:, 0, 0, 0] == train.rows * 4).all()
    for arguments, message in (({"high": 4}, "labels 0..3"), ({"dtype": "float32"}, "not uint8")):
        with pytest.raises(UserError, match=message):
            load({"read": {**read, **arguments}}, trusted=["ownreader"])


def test_moments_are_exact() -> None:
    images = np.random.RandomState(0).randint(0, 256, (5000, 3, 4, 5)).astype(np.uint8)
    mean, std = moments(images)
    assert mean == pytest.approx((images / 255).mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx((images / 255).std((0, 2, 3)), abs=1e-12)


def composed(option: str, folder: Path, *search: Path) -> Any:
    """What Hydra makes of ``dataset: option``."""
    hydra = pytest.importorskip("hydra")
    from omegaconf import OmegaConf

    primary = {
        "defaults": [{"dataset": option}, "_self_"],
        "data_dir": "somewhere",
        "hydra": {"searchpath": [f"file://{path}" for path in search]},
    }
    (folder / "primary.yaml").write_text(yaml.safe_dump(primary))
    with hydra.initialize_config_dir(str(folder), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("primary"), resolve=True)["dataset"]


@pytest.mark.parametrize("path", sorted((conf_dir() / "dataset").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_composes_and_names_itself(path: Path, tmp_path: Path) -> None:
    option = path.relative_to(conf_dir() / "dataset").with_suffix("").as_posix()
    assert path.read_text(encoding="utf-8").startswith(f"# {path.stem}: ")
    found = composed(option, tmp_path, conf_dir())
    assert found == command.read_config(option, [conf_dir() / "dataset"], "somewhere")
    assert 0 < found["validation"] <= 0.2


def test_the_example_of_the_docs_composes(tmp_path: Path) -> None:
    text_ = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    example = text_.split("```yaml\n")[1].split("```")[0]
    assert len(example.splitlines()) < 15
    own = tmp_path / "mine" / "dataset"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(example)
    found = composed("mine", tmp_path, own.parent, conf_dir())
    assert found == command.read_config("mine", [own, conf_dir() / "dataset"], "somewhere")
    assert found["read"]["size"] == [48, 48]
    assert found["read"]["_target_"] == "compressbench.data.folder.image_folder"


# --- idx files


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


def damaged(how: str, data: bytes) -> bytes:
    return {"truncated": data[:-1], "altered": data[:-1] + bytes([data[-1] ^ 1]), "longer": data + b"\0"}[how]


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


# --- CIFAR


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
    assert (fine.attributes["test"]["coarse"] == coarse.test.labels).all()
    read = {"_target_": "compressbench.data.cifar.cifar100", "data_dir": str(tmp_path)}
    dataset = load(config("cifar100", read=read))
    assert dataset.groups["coarse"] == (0, 1)
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
                safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
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


# --- a folder of pictures


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


def deep_png(path: Path, kind: int, values: int, side: int | None = None) -> None:
    """A PNG of 16 bits a value: 0 grey, 2 RGB, 4 grey and 6 RGB with transparency; by hand, as PIL writes none.

    Args:
        side: what its header says of height and width.
    """
    rows = b"".join(b"\0" + np.full((6, values), 700, ">u2").tobytes() for _ in range(8))

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side or 6, side or 8, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("kind", "values", "mode"), [(0, 1, "I;16"), (2, 3, "RGB;16B"), (4, 2, "LA;16B"), (6, 4, "RGBA;16B")]
)
def test_pictures_of_16_bits_are_refused_with_their_mode(
    pictures: Path, kind: int, values: int, mode: str
) -> None:
    odd = pictures / "ant" / "05.png"
    deep_png(odd, kind, values)
    with pytest.raises(UserError, match=re.escape(f"{odd} has more than 8 bits per value (mode {mode})")):
        image_folder(str(pictures), test_fraction=0.2)


@pytest.mark.parametrize("format", ["EPS", "PPM", "TIFF", "ICO", "SGI", "TGA"])
def test_no_other_decoder_runs_whatever_the_suffix_says(
    pictures: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would start Ghostscript for an EPS, and scale 16-bit samples of a PPM to 8 without a word."""
    odd = pictures / "ant" / "05.png"
    Image.new("RGB", (6, 8), (200, 0, 0)).save(odd, format=format)
    started: list[object] = []
    monkeypatch.setattr(
        "PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: started.append(a) or Image.new("RGB", (6, 8))
    )
    with pytest.raises(UserError, match=re.escape(f"{odd} is no PNG, JPEG, BMP, WebP or GIF")):
        image_folder(str(pictures), test_fraction=0.2)
    assert not started


def test_a_suffix_may_lie_about_which_of_them_it_is(pictures: Path) -> None:
    for format in ("GIF", "BMP", "WEBP", "PNG"):
        Image.new("RGB", (6, 8), (200, 0, 0)).save(pictures / "ant" / "05.png", format=format, lossless=True)
        raw = image_folder(str(pictures), test_fraction=0.2)
        every = np.concatenate([raw.train.images, raw.test.images])
        assert (every == np.array([200, 0, 0], np.uint8)[:, None, None]).all((1, 2, 3)).sum() == 1, format


def test_a_telephones_previews_are_no_animation(pictures: Path) -> None:
    """A JPEG of several pictures (MPO) holds the photograph first; depth, gain and previews are no frames of it."""
    odd = pictures / "ant" / "99.jpg"
    frames = [Image.new("RGB", (6, 8), (k, k, k)) for k in (200, 0)]
    frames[0].save(odd, format="MPO", save_all=True, append_images=frames[1:])
    assert Image.open(odd).n_frames == 2
    (found,) = read_pictures(pictures, [odd], None, 1)
    assert int(found.min()) > 190


def test_a_header_of_ten_milliard_pixels_is_refused_by_name(pictures: Path) -> None:
    odd = pictures / "ant" / "05.png"
    deep_png(odd, 2, 3, side=100_000)
    with pytest.raises(
        UserError, match=re.escape(f"{odd} says it has more than 178,956,970 pixels; make it")
    ):
        image_folder(str(pictures), test_fraction=0.2)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_animated_pictures_are_refused_by_name(pictures: Path, suffix: str) -> None:
    odd = pictures / "ant" / f"99.{suffix}"
    frames = [Image.new("RGB", (6, 8), (k, k, k)) for k in (0, 100, 200)]
    frames[0].save(odd, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=re.escape(f"{odd} is animated, 3 frames")):
        image_folder(str(pictures), test_fraction=0.2)


def test_what_never_ends_is_no_picture(pictures: Path) -> None:
    odd = pictures / "ant" / "99.png"
    for make in (lambda: os.mkfifo(odd), lambda: odd.symlink_to("/dev/zero"), lambda: odd.symlink_to(odd)):
        make()
        with pytest.raises(UserError) as caught:
            image_folder(str(pictures), test_fraction=0.2)
        assert str(odd) in str(caught.value)
        assert "\n" not in str(caught.value)
        odd.unlink()


def test_image_folder_with_both_splits(tmp_path: Path) -> None:
    for part, n in (("train", 3), ("test", 2)):
        for label, name in enumerate(("b", "a")):
            for i in range(n):
                picture(tmp_path / part / name / f"{i}.png", 10 * label + i)
    (tmp_path / "train" / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / ".hidden").mkdir()
    raw = image_folder(str(tmp_path))
    assert raw.classes == ("a", "b")
    assert raw.train["images"].shape == (6, 3, 8, 6)
    assert raw.train["images"][:, 0, 0, 0].tolist() == [10, 11, 12, 0, 1, 2]
    assert raw.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.test["images"][0, :, 0, 0].tolist() == [10, 5, 245]
    assert len(raw.test) == 4


def test_image_folder_split_is_stratified_seeded_and_points_at_files(pictures: Path) -> None:
    raw, again, other = (image_folder(str(pictures), test_fraction=0.3, split_seed=s) for s in (0, 0, 1))
    assert np.bincount(raw.test.labels).tolist() == [3, 3]
    assert raw.test.rows.tolist() == again.test.rows.tolist() != other.test.rows.tolist()
    listing = [path for paths in files(pictures).values() for path in paths]
    for image, place in zip(raw.test["images"], raw.test.rows, strict=True):
        assert np.asarray(Image.open(listing[place]))[0, 0, 0] == image[0, 0, 0]


def test_image_folder_goes_through_load(pictures: Path) -> None:
    read = {"root": str(pictures), "test_fraction": 0.2, "channels": 1}
    settings_ = config("image_folder")
    dataset = load({**settings_, "read": {**settings_["read"], **read}, "name": "insects"})
    assert dataset.task.shape == (1, 8, 6)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 14,
        "validation": 2,
        "test": 4,
    }
    assert len(set(dataset.split("train").labels[:8])) == 2


def test_image_folder_resizes_and_crops(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 10), (0, 0, 0))
    wide.paste((255, 255, 255), (15, 0, 25, 10))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        wide.save(tmp_path / name / "wide.png")
        picture(tmp_path / name / "grey.png", 7, (5, 5), "L")
    raw = image_folder(str(tmp_path), size=[10, 10], channels=1, test_fraction=0.5)
    images = {int(i.max()): i for i in np.concatenate([raw.train["images"], raw.test["images"]])}
    assert images[255].shape == (1, 10, 10)
    assert images[255].min() == 255, "the middle of the wide picture is white"
    assert images[7].min() == 7
    assert image_folder(str(tmp_path), size=4, test_fraction=0.5).train["images"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({}, "set test_fraction"),
        ({"root": None}, "set dataset.read.root"),
        ({"root": "/no/such/place"}, "there is no folder /no/such/place"),
        ({"test_fraction": 1.0}, "outside"),
        ({"test_fraction": 0.2, "channels": 4}, "channels=4"),
        ({"test_fraction": 0.2, "size": [8]}, "neither a number of pixels"),
        ({"test_fraction": 0.2, "size": 0}, "neither a number of pixels"),
        ({"test_fraction": 0.2, "size": "big"}, "neither a number of pixels"),
    ],
)
def test_image_folder_bad_settings(pictures: Path, settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_folder(**{"root": str(pictures), **settings_})


def test_image_folder_names_what_is_wrong(pictures: Path, tmp_path: Path) -> None:
    def complaint() -> str:
        with pytest.raises(UserError) as caught:
            image_folder(str(pictures), test_fraction=0.2)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    odd = pictures / "ant" / "99.png"
    odd.write_bytes((pictures / "ant" / "00.png").read_bytes()[:40])
    assert str(odd) in complaint()
    odd.write_text("not a picture")
    assert f"{odd} is no PNG, JPEG, BMP, WebP or GIF" in complaint()
    picture(odd, 1, (9, 9))
    assert f"{odd} is 9 x 9, the first is 8 x 6; set size" in complaint()
    picture(odd, 1000, mode="I;16")
    assert f"{odd} has more than 8 bits" in complaint()
    odd.unlink()

    outside = tmp_path / "outside.png"
    picture(outside, 1)
    odd.symlink_to(outside)
    assert f"{odd} leads outside {pictures}" in complaint()
    odd.unlink()
    odd.symlink_to(pictures / "ant" / "00.png")
    assert len(image_folder(str(pictures), test_fraction=0.2).train) == 17
    odd.unlink()

    (pictures / "ant" / "more").mkdir()
    assert "folder inside a class" in complaint()
    (pictures / "ant" / "more").rmdir()
    (pictures / "wasp").mkdir()
    assert f"{pictures / 'wasp'} holds no pictures" in complaint()
    picture(pictures / "wasp" / "0.png", 1)
    assert "class wasp has one picture" in complaint()
    (pictures / "train").mkdir()
    assert "not both of train and test" in complaint()


def test_image_folder_class_in_one_split_only(tmp_path: Path) -> None:
    for path in ("train/a/0.png", "train/b/0.png", "train/c/0.png", "test/a/0.png", "test/b/0.png"):
        picture(tmp_path / path, 3)
    with pytest.raises(UserError, match="class folder c is in only one"):
        image_folder(str(tmp_path))
    picture(tmp_path / "test/c/0.png", 3)
    with pytest.raises(UserError, match="drop test_fraction"):
        image_folder(str(tmp_path), test_fraction=0.2)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 200), value=st.integers(0, 255), cut=st.integers(1, 200))
def test_a_damaged_picture_is_read_or_named(
    place: int, value: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    for name in ("a", "b"):
        for i in range(2):
            picture(root / name / f"{i}.png", i)
    data = bytearray((root / "a" / "0.png").read_bytes())
    data[place % len(data)] = value
    (root / "a" / "0.png").write_bytes(data[: max(cut, 8)] if cut < 150 else data)
    message = "read: 0.png"
    try:
        image_folder(str(root), test_fraction=0.5)
    except UserError as error:
        message = str(error)
    assert "0.png" in message


# --- augmentation


def crops(image: torch.Tensor, pad: int, flip: bool) -> list[torch.Tensor]:
    """All possible results for one image, written the slow way."""
    c, h, w = image.shape
    results = []
    for mirrored in (False, True) if flip else (False,):
        padded = torch.zeros(c, h + 2 * pad, w + 2 * pad, dtype=torch.uint8)
        padded[:, pad : pad + h, pad : pad + w] = image.flip(-1) if mirrored else image
        results += [padded[:, y : y + h, x : x + w] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
    return results


@pytest.mark.parametrize(
    ("c", "h", "w", "pad", "flip"),
    [(3, 8, 8, 2, True), (1, 5, 7, 3, True), (2, 4, 6, 1, False), (1, 3, 4, 0, True)],
)
def test_augmentation_is_one_of_the_possible_crops(c: int, h: int, w: int, pad: int, flip: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(1, 256, (40, c, h, w), dtype=torch.uint8, generator=generator)
    before = images.clone()
    out = pad_crop_flip(images, generator, pad, flip)
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    assert torch.equal(images, before)
    for image, result in zip(images, out, strict=True):
        assert sum(torch.equal(result, crop) for crop in crops(image, pad, flip)) == 1


def test_augmentation_equals_a_slow_loop_over_the_same_draws() -> None:
    images = torch.randint(0, 256, (30, 3, 9, 6), dtype=torch.uint8)
    out = pad_crop_flip(images, torch.Generator().manual_seed(11), 2, True)
    draws = torch.Generator().manual_seed(11)
    mirrored = torch.randint(0, 2, (30,), generator=draws)
    down, right = torch.randint(0, 5, (2, 30), generator=draws)
    for i in range(30):
        possible = crops(images[i], 2, True)
        assert torch.equal(out[i], possible[25 * int(mirrored[i]) + 5 * int(down[i]) + int(right[i])])


def test_augmentation_of_nothing_is_identity() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert pad_crop_flip(images, generator, 0, False) is images
    assert torch.equal(generator.get_state(), state)


def test_augmentation_is_repeatable_and_uniform() -> None:
    # One bright pixel in the middle of a wide image: its place tells offset and mirroring.
    image = torch.zeros(1, 1, 7, 9, dtype=torch.uint8)
    image[0, 0, 3, 3] = 255
    images = image.expand(9000, 1, 7, 9).contiguous()
    out, again = (pad_crop_flip(images, torch.Generator().manual_seed(5), 1, True) for _ in range(2))
    assert torch.equal(out, again)
    assert not torch.equal(out, pad_crop_flip(images, torch.Generator().manual_seed(6), 1, True))
    rows, columns = out.flatten(1).argmax(1) // 9, out.flatten(1).argmax(1) % 9
    assert (out.flatten(1).sum(1) == 255).all()
    # Unmirrored the pixel lies in columns 2..4, mirrored (column 5) in 4..6; 4 belongs to both.
    for column, share in ((2, 1 / 6), (3, 1 / 6), (4, 1 / 3), (5, 1 / 6), (6, 1 / 6)):
        assert (columns == column).float().mean() == pytest.approx(share, abs=0.02)
    for row in (2, 3, 4):
        assert (rows == row).float().mean() == pytest.approx(1 / 3, abs=0.02)
    flipped = pad_crop_flip(images, torch.Generator().manual_seed(5), 0, True)
    assert (flipped[:, 0, 3, 5] == 255).float().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_augmentation_is_the_same_on_cuda() -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    here, there = (
        pad_crop_flip(images.to(device), torch.Generator().manual_seed(2), 4, True)
        for device in ("cpu", "cuda")
    )
    assert torch.equal(here, there.cpu())


# --- the command


def verb(arguments: list[str]) -> int:
    """The exit code of ``compressbench data …``."""
    return cli.run(["data", *arguments])


class Server:
    """Serves bytes by path on the loopback; counts what is asked for."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = blobs.get(self.path)
                self.send_response(200 if body is not None else 404)
                cut = self.path.startswith("/cut")
                self.send_header("Content-Length", str(len(body or b"") + (1000 if cut else 0)))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                return None

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(blobs: dict[str, bytes]) -> Server:
        servers.append(Server(blobs))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def point(monkeypatch: pytest.MonkeyPatch, table: dict[str, Any], name: str, *downloads: Download) -> None:
    monkeypatch.setitem(table, name, replace(table[name], downloads=downloads))


def at(server: Server, table: dict[str, Any], name: str, folder: str = "") -> list[Download]:
    return [replace(d, url=f"{server.url}{folder}/{d.url.rpartition('/')[2]}") for d in table[name].downloads]


def test_data_command_fetches_idx_files_only_when_told(
    small_mnist: dict[str, bytes],
    tmp_path: Path,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve({f"/{name}.gz": gzip.compress(data, mtime=0) for name, data in small_mnist.items()})
    point(monkeypatch, idx.PUBLISHED, "mnist", *at(server, idx.PUBLISHED, "mnist"))
    arguments = ["mnist", "--data-dir", str(tmp_path)]
    assert verb(arguments) == 1
    said = capsys.readouterr().out
    assert "missing" in said
    assert f"{tmp_path}/MNIST/raw" in said
    assert "Incomplete: 0 of 4 files" in said
    assert f"compressbench data mnist --download --data-dir {tmp_path}" in said
    assert server.asked == []
    assert list(tmp_path.iterdir()) == []

    assert verb([*arguments, "--download"]) == 0
    assert "Complete." in capsys.readouterr().out
    assert len(server.asked) == 4
    assert sorted(p.name for p in (tmp_path / "MNIST/raw").iterdir()) == sorted(
        f"{n}.gz" for n in small_mnist
    )
    assert len(idx.mnist(str(tmp_path)).train) == 60

    assert verb([*arguments, "--download"]) == 0
    assert "Nothing to fetch." in capsys.readouterr().out
    (tmp_path / f"MNIST/raw/{idx.TEST_IMAGES}.gz").write_bytes(b"damaged")
    assert verb(arguments) == 1
    assert "Incomplete: 3 of 4" in capsys.readouterr().out
    assert verb([*arguments, "--download"]) == 0
    assert server.asked[4:] == [f"/{idx.TEST_IMAGES}.gz"]


def tar_of(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_data_command_unpacks_expected_members_only(
    small_cifar100: dict[str, bytes],
    tmp_path: Path,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = {f"cifar-100-python/{name}": data for name, data in small_cifar100.items()}
    extra = {"../escaped": b"x", "/tmp/escaped": b"x", "cifar-100-python/extra": b"x"}
    tar = tar_of({**extra, **members}, links={"cifar-100-python/meta": "/etc/passwd"})
    server = serve({"/c.tar.gz": tar})
    point(monkeypatch, cifar.PUBLISHED, "cifar100", Download(f"{server.url}/c.tar.gz", md5(tar)))
    home = tmp_path / "data"
    assert verb(["cifar100", "--data-dir", str(home), "--download"]) == 0
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"data/cifar-100-python/{name}" for name in small_cifar100}
    assert len(cifar.cifar100(str(home)).train) == 40

    for part, message in (
        (tar_of({k: v for k, v in members.items() if "test" not in k}), "holds no cifar-100-python/test"),
        (tar[: len(tar) // 2], "truncated or damaged"),
        (b"no tar at all", "truncated or damaged"),
    ):
        server = serve({"/c.tar.gz": part})
        point(monkeypatch, cifar.PUBLISHED, "cifar100", Download(f"{server.url}/c.tar.gz", md5(part)))
        other = tmp_path / "other"
        assert verb(["cifar100", "--data-dir", str(other), "--download"]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not other.exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [("", "is not the published file"), ("/none", "answers 404"), ("/cut", "broken off after")],
)
def test_data_command_refuses_what_is_not_as_published(
    small_mnist: dict[str, bytes],
    tmp_path: Path,
    serve: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    message: str,
) -> None:
    server = serve({f"{f}/{name}.gz": b"something else" for name in small_mnist for f in ("", "/cut")})
    point(monkeypatch, idx.PUBLISHED, "mnist", *at(server, idx.PUBLISHED, "mnist", folder))
    assert verb(["mnist", "--data-dir", str(tmp_path / "new"), "--download"]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("compressbench: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_data_command_unreachable_host(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve({})
    server.close()
    monkeypatch.setattr(server, "close", lambda: None)
    point(monkeypatch, idx.PUBLISHED, "mnist", *at(server, idx.PUBLISHED, "mnist"))
    assert verb(["mnist", "--data-dir", str(tmp_path), "--download"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"compressbench: can't fetch {server.url}/")
    assert said.count("\n") == 1


def test_data_command_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["cifar10", "--data-dir", str(tmp_path / "file" / "data"), "--download"], "is not writable"),
        (["cifar11"], "unknown dataset 'cifar11'; did you mean cifar10"),
        (["image_folder"], "set dataset.read.root"),
        (["image_folder", "--download"], "your own"),
    ):
        assert verb(arguments) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_data_command_shows_the_embedded_and_ones_own(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb(["fashion_mnist"]) == 0
    said = capsys.readouterr().out
    assert "Complete." in said
    assert "MIT" in said
    own = tmp_path / "mine" / "dataset" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "# mine: insects\n"
        "defaults: [image_folder]\n"
        "name: mine\n"
        f"read: {{root: {pictures}, size: [4, 4], test_fraction: 0.2}}\n"
    )
    assert verb(["mine", "--config-dir", str(own.parents[1])]) == 0
    assert "Complete: train 14, test 4, validation 2; 2 classes; 3 x 4 x 4." in capsys.readouterr().out
    own.write_text("read: [\n")
    assert verb(["mine", "--config-dir", str(own.parents[1])]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_data_command_is_quick_and_needs_neither_torch_nor_hydra() -> None:
    code = (
        "import sys, time; from compressbench.cli.data import main; main(['digits']);"
        "print([m for m in ('torch', 'hydra', 'sklearn') if m in sys.modules], time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("[] ")


def test_split_of_numbers_its_examples() -> None:
    split = Split.of(np.zeros((3, 1, 2, 2), np.uint8), np.array([1, 0, 1], np.uint8))
    assert split.labels.dtype == np.int64
    assert split.rows.tolist() == [0, 1, 2]
    assert Raw(split, split, ("a", "b")).attributes == {}


# --- pictures for a net that knows more classes


def test_labels_and_outputs_place_folders_among_a_nets_classes(pictures: Path) -> None:
    read = {"root": str(pictures), "test_fraction": 0.2, "labels": {"ant": 7, "bee": 2}, "outputs": 12}
    settings_ = config("image_folder")
    plain = load({**settings_, "read": {**settings_["read"], "root": str(pictures), "test_fraction": 0.2}})
    placed = load({**settings_, "read": {**settings_["read"], **read}})
    assert len(placed.classes) == 12
    assert (placed.classes[7], placed.classes[2], placed.classes[0]) == ("ant", "bee", "class 0")
    assert set(placed.split("train").labels) == set(placed.split("test").labels) == {2, 7}
    here, there = (
        sorted(zip(d.split("train").rows.tolist(), d.split("train").labels.tolist(), strict=True))
        for d in (plain, placed)
    )
    names = {0: 7, 1: 2}
    assert {place: names[label] for place, label in here}.items() >= {
        place: label for place, label in there if place in dict(here)
    }.items()


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"labels": {"ant": 1}, "outputs": 3}, "no entry for class folder bee"),
        ({"labels": {"ant": 1, "bee": 2}}, "outputs=None"),
        ({"labels": {"ant": 1, "bee": 3}, "outputs": 3}, "from 0 to 2"),
        ({"labels": {"ant": 1, "bee": 1}, "outputs": 3}, "different numbers"),
        ({"outputs": 3}, "no entry for class folder ant"),
    ],
)
def test_labels_that_fit_nothing_are_refused(pictures: Path, settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_folder(**{"root": str(pictures), "test_fraction": 0.2, **settings_})


def test_published_weights_bring_their_own_normalisation(pictures: Path) -> None:
    settings_ = config("image_folder")
    settings_ = {**settings_, "read": {**settings_["read"], "root": str(pictures), "test_fraction": 0.2}}
    plain = load(settings_)
    own = load({**settings_, "normalise": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}})
    assert own.task.mean == (0.485, 0.456, 0.406)
    assert own.task.std == (0.229, 0.224, 0.225)
    assert own.fingerprint != plain.fingerprint
    for bad, message in (
        ({"mean": [0.5]}, "dataset.normalise: {mean"),
        ({"mean": [0.5], "std": [0.2]}, "3 channels"),
        ({"mean": [0.5] * 3, "std": [0.2, 0.0, 0.2]}, "above 0"),
        ("imagenet", "dataset.normalise: {mean"),
    ):
        with pytest.raises(UserError, match=message):
            load({**settings_, "normalise": bad})
