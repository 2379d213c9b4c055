"""CIFAR-10 and CIFAR-100 from the published python batches.

The batches are pickles, so this is the one module that may import ``pickle``. The md5 is checked before a
byte is interpreted, and the reader below resolves no name to anything that exists: the three names that a
batch needs become inert stand-ins, every other one is an error.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np

from compressbench.data.dataset import Examples, Raw, Split
from compressbench.data.published import Content, Download, Published
from compressbench.errors import UserError

LICENCE = (
    "none stated by its authors; cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"
)
TRAIN_10 = tuple(f"data_batch_{i}" for i in range(1, 6))

PUBLISHED = {
    "cifar10": Published(
        name="cifar10",
        licence=LICENCE,
        files=(
            Content("data_batch_1", "c99cafc152244af753f735de768cd75f", 31_035_704),
            Content("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec", 31_035_320),
            Content("data_batch_3", "54ebc095f3ab1f0389bbae665268c751", 31_035_999),
            Content("data_batch_4", "634d18415352ddfa80567beed471001a", 31_035_696),
            Content("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb", 31_035_623),
            Content("test_batch", "40351d587109b95175f43aff81a1287e", 31_035_526),
            Content("batches.meta", "5ff9c542aee3614f3951f8cda6e48888", 158),
        ),
        folders=("cifar-10-batches-py",),
        downloads=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
            ),
        ),
    ),
    "cifar100": Published(
        name="cifar100",
        licence=LICENCE,
        files=(
            Content("train", "16019d7e3df5f24257cddd939b257f8d"),
            Content("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            Content("meta", "7973b15100ade9c7d40fb424638fde48"),
        ),
        folders=("cifar-100-python",),
        downloads=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
            ),
        ),
    ),
}


class _Array:
    """Stand-in for a pickled uint8 array; holds what ``ndarray.__setstate__`` would be given."""

    def __init__(self, *_: Any) -> None:
        self.value = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or dtype.name not in ("u1", "|u1", "uint8") or fortran:
            raise pickle.UnpicklingError("an array that is not of bytes")
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.value = np.frombuffer(raw, np.uint8).reshape(shape)


class _Dtype:
    """Stand-in for a pickled dtype; only its name counts."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        return None


_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        stand_in = _STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return stand_in


def unpack(data: bytes, what: str) -> dict[str, Any]:
    """The dictionary of a batch file: numbers, strings, lists and uint8 arrays. Executes nothing.

    Raises:
        UserError: the bytes are no such dictionary, or ask for anything else.
    """
    try:
        entry = _Reader(io.BytesIO(data), encoding="latin1").load()
    # What a damaged pickle raises is documented as open-ended.
    except Exception as error:
        raise UserError(f"{what} is no CIFAR batch: {' '.join(str(error).split())}") from error
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        raise UserError(f"{what} is no CIFAR batch: it holds no dictionary of names")
    return {key: value.value if isinstance(value, _Array) else value for key, value in entry.items()}


def cifar10(data_dir: str) -> Raw:
    """CIFAR-10 (Krizhevsky 2009), 50,000 + 10,000, (3, 32, 32), from ``data_dir/cifar-10-batches-py``.

    Raises:
        UserError: a file is missing, truncated or altered.
    """
    published = PUBLISHED["cifar10"]
    files = {name: unpack(data, name) for name, data in published.read(data_dir)}
    classes = tuple(files["batches.meta"]["label_names"])
    return Raw(
        train=_split((files[name] for name in TRAIN_10), "labels"),
        test=_split([files["test_batch"]], "labels"),
        classes=classes,
        licence=published.licence,
    )


def cifar100(data_dir: str, labels: str = "fine") -> Raw:
    """CIFAR-100 (Krizhevsky 2009), 50,000 + 10,000, (3, 32, 32), from ``data_dir/cifar-100-python``.

    Args:
        labels: ``fine`` (100 classes) or ``coarse`` (20 superclasses). The other one is kept as an attribute,
            by name.

    Raises:
        UserError: a file is missing, truncated or altered, or ``labels`` is something else.
    """
    if labels not in ("fine", "coarse"):
        raise UserError(f"dataset cifar100: labels={labels!r}; known: fine, coarse")
    other = "coarse" if labels == "fine" else "fine"
    published = PUBLISHED["cifar100"]
    files = {name: unpack(data, name) for name, data in published.read(data_dir)}
    classes = tuple(files["meta"][f"{labels}_label_names"])
    others = np.array(files["meta"][f"{other}_label_names"])
    return Raw(
        train=_split([files["train"]], f"{labels}_labels"),
        test=_split([files["test"]], f"{labels}_labels"),
        classes=classes,
        licence=published.licence,
        attributes={
            name: {other: others[np.asarray(files[name][f"{other}_labels"], dtype=np.int64)]}
            for name in ("train", "test")
        },
    )


def _split(batches: Iterable[dict[str, Any]], key: str) -> Examples:
    parts = [(batch["data"], batch[key]) for batch in batches]
    images = np.concatenate([pixels.reshape(-1, 3, 32, 32) for pixels, _ in parts])
    return Split.of(images, np.concatenate([np.asarray(labels) for _, labels in parts]))
