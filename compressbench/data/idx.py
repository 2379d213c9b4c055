"""Sets in idx files (LeCun's format): MNIST, Fashion-MNIST, and the two that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compressbench.data.dataset import Raw, Split
from compressbench.data.published import Content, Download, Published
from compressbench.data.splits import allocate, pick
from compressbench.errors import UserError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DIGITS = tuple("0123456789")
EMBEDDED = Path(__file__).parent / "embedded"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

PUBLISHED = {
    "mnist": Published(
        name="mnist",
        licence="CC BY-SA 3.0, Y. LeCun and C. Cortes",
        files=(
            Content(TRAIN_IMAGES, "6bbc9ace898e44ae57da46a324031adb", 47_040_016),
            Content(TRAIN_LABELS, "a25bea736e30d166cdddb491f175f624", 60_008),
            Content(TEST_IMAGES, "2646ac647ad5339dbf082846283269ea", 7_840_016),
            Content(TEST_LABELS, "27ae3e4e09519cfbb04c329615203637", 10_008),
        ),
        folders=("MNIST/raw", "mnist", ""),
        downloads=(
            Download(f"{MNIST_URL}{TRAIN_IMAGES}.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", TRAIN_IMAGES),
            Download(f"{MNIST_URL}{TRAIN_LABELS}.gz", "d53e105ee54ea40749a09fcbcd1e9432", TRAIN_LABELS),
            Download(f"{MNIST_URL}{TEST_IMAGES}.gz", "9fb629c4189551a2d022fa330f9573f3", TEST_IMAGES),
            Download(f"{MNIST_URL}{TEST_LABELS}.gz", "ec29112dd5afa0611ce80d1b7f02629c", TEST_LABELS),
        ),
    ),
    "fashion_mnist_full": Published(
        name="fashion_mnist_full",
        licence="MIT, Zalando SE 2017",
        files=(
            Content(TRAIN_IMAGES, "f4a8712d7a061bf5bd6d2ca38dc4d50a", 47_040_016),
            Content(TRAIN_LABELS, "9018921c3c673c538a1fc5bad174d6f9", 60_008),
            Content(TEST_IMAGES, "8181f5470baa50b63fa0f6fddb340f0a", 7_840_016),
            Content(TEST_LABELS, "15d484375f8d13e6eb1aabb0c3f46965", 10_008),
        ),
        folders=("FashionMNIST/raw", "fashion-mnist", "", "/usr/share/datasets/fashion-mnist"),
        downloads=(
            Download(f"{FASHION_URL}{TRAIN_IMAGES}.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", TRAIN_IMAGES),
            Download(f"{FASHION_URL}{TRAIN_LABELS}.gz", "25c81989df183df01b3e8a0aad5dffbe", TRAIN_LABELS),
            Download(f"{FASHION_URL}{TEST_IMAGES}.gz", "bef4ecab320f06d8554ea6380940ec79", TEST_IMAGES),
            Download(f"{FASHION_URL}{TEST_LABELS}.gz", "bb300cfdad3c16e7a12a480ee83cd310", TEST_LABELS),
        ),
    ),
    "fashion_mnist": Published(
        name="fashion_mnist",
        licence="MIT, Zalando SE 2017",
        files=(
            Content(TRAIN_IMAGES, "dcab80f289ae27ab265a1e83946f0a1c", 7_840_016),
            Content(TRAIN_LABELS, "611c8ef3426a757a9375a0ac94541d26", 10_008),
            Content(TEST_IMAGES, "4bb4107a89a38933fbbdd67584195c68", 1_568_016),
            Content(TEST_LABELS, "84e2038f7beda4c0f4093bde29339f63", 2_008),
        ),
        folders=(str(EMBEDDED / "fashion_mnist"),),
    ),
    "digits": Published(
        name="digits",
        licence="E. Alpaydin and C. Kaynak 1998 (UCI); copy of scikit-learn, BSD 3-Clause",
        files=(
            Content("images-idx3-ubyte", "a5adabccf8d3e2540826a202a7bfb422", 115_024),
            Content("labels-idx1-ubyte", "497796a0698e25d3920a9422b635bf34", 1_805),
        ),
        folders=(str(EMBEDDED / "digits"),),
    ),
}


def parse(data: bytes, what: str) -> np.ndarray:
    """The array of an idx file of unsigned bytes, writable.

    Raises:
        UserError: not an idx file of bytes, or its length isn't what its header says.
    """
    rank = data[3] if len(data) >= 4 else 0
    if data[:3] != b"\0\0\x08" or not 1 <= rank <= 4 or len(data) < 4 + 4 * rank:
        raise UserError(f"{what} is no idx file of unsigned bytes")
    shape = [int(n) for n in np.frombuffer(data, ">u4", rank, offset=4)]
    body = len(data) - 4 - 4 * rank
    if body != int(np.prod(shape, dtype=object)):
        raise UserError(f"{what} holds {body:,} values, its header says {' x '.join(map(str, shape))}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def mnist(data_dir: str) -> Raw:
    """MNIST (LeCun et al. 1998), 60,000 + 10,000, (1, 28, 28).

    Files plain, ``.gz`` or ``.xz`` in ``data_dir/MNIST/raw``, ``data_dir/mnist`` or ``data_dir``.

    Raises:
        UserError: a file is missing, truncated or altered.
    """
    return _two_splits(PUBLISHED["mnist"], data_dir, DIGITS)


def fashion_mnist_full(data_dir: str) -> Raw:
    """Fashion-MNIST (Xiao et al. 2017), 60,000 + 10,000, (1, 28, 28).

    Files plain, ``.gz`` or ``.xz`` in ``data_dir/FashionMNIST/raw``, ``data_dir/fashion-mnist``, ``data_dir``
    or ``/usr/share/datasets/fashion-mnist`` (Debian's ``dataset-fashion-mnist``).

    Raises:
        UserError: a file is missing, truncated or altered.
    """
    return _two_splits(PUBLISHED["fashion_mnist_full"], data_dir, FASHION)


def fashion_mnist() -> Raw:
    """The first 1,000 + 200 images of each class of Fashion-MNIST, in its order; comes with the package."""
    return _two_splits(PUBLISHED["fashion_mnist"], "", FASHION)


def digits() -> Raw:
    """The 1,797 digits of scikit-learn, (1, 8, 8), values 0..16 scaled to 0..255; comes with the package.

    The split into 1,000 + 797 is ours: stratified, always the same.
    """
    published = PUBLISHED["digits"]
    images, labels = (parse(data, name) for name, data in published.read(""))
    whole = Split.of(_grey(np.round(images * (255 / 16)).astype(np.uint8)), labels)
    counts = np.bincount(whole.labels)
    train = pick(whole.labels, allocate(counts, 1000, counts * 0, counts), np.random.RandomState(0))
    test = np.setdiff1d(whole.rows, train)
    return Raw(whole.take(train), whole.take(test), DIGITS, published.licence)


def _two_splits(published: Published, data_dir: str, classes: tuple[str, ...]) -> Raw:
    files = {name: parse(data, name) for name, data in published.read(data_dir)}
    return Raw(
        train=Split.of(_grey(files[TRAIN_IMAGES]), files[TRAIN_LABELS]),
        test=Split.of(_grey(files[TEST_IMAGES]), files[TEST_LABELS]),
        classes=classes,
        licence=published.licence,
    )


def _grey(images: np.ndarray) -> np.ndarray:
    return images[:, None]
