"""Data sets: which examples, the embedded sets, augmentation, pictures for nets that know more classes."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cases_data import (
    ROOT,
    config,
    picture,
    pictures,  # noqa: F401
    shared,
)
from compressbench.cli import data as command
from compressbench.data import idx
from compressbench.data.dataset import Dataset
from compressbench.data.folder import image_folder
from compressbench.data.load import load
from compressbench.data.splits import allocate, long_tail, pick
from compressbench.errors import UserError
from compressbench.specs.conf import conf_dir
from compressbench.tasks.images.augment import crops_and_flips, pad_crop_flip
from compressbench.tasks.images.classification import moments

# which examples -------------------------------------------------------------------------------------------------------


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
    pixels = found.splits["train"]["images"].astype(np.float64) / 255
    np.testing.assert_allclose(found.task.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.task.std, pixels.std((0, 2, 3)), rtol=1e-9)
    for part in ("validation", "test"):
        other = found.splits[part]["images"].astype(np.float64) / 255
        assert abs(other.mean() - pixels.mean()) > 1e-6, "they differ here"


# embedded sets and load -----------------------------------------------------------------------------------------------


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


def test_cut_leaves_single_classes_of_train_so_many_and_nothing_else() -> None:
    whole, cut = (load(config("fashion_mnist", cut=c)) for c in (None, {8: 15, "Ankle boot": 20}))
    sizes = np.bincount(cut.split("train").labels)
    assert list(sizes) == [*np.bincount(whole.split("train").labels)[:8], 15, 20]
    assert set(cut.split("train").rows) < set(whole.split("train").rows)
    for part in ("validation", "test"):
        assert np.array_equal(cut.split(part).rows, whole.split(part).rows)
    assert cut.fingerprint == load(config("fashion_mnist", cut={"Bag": 15, "9": 20})).fingerprint
    assert cut.fingerprint != whole.fingerprint
    other = load(config("fashion_mnist", cut={8: 15, 9: 20}, subset_seed=1))
    assert other.fingerprint != cut.fingerprint


def test_a_smaller_cut_is_within_a_larger_one() -> None:
    few, more = (load(config("digits", cut={3: n})).split("train") for n in (5, 9))
    assert set(few.rows[few.labels == 3]) < set(more.rows[more.labels == 3])


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (5, "cut=5 is no mapping of classes to numbers of examples"),
        ({8: 0}, "cut: 8: 0 is no positive number of training examples"),
        ({8: True}, "True is no positive number"),
        ({8: 2.5}, "2.5 is no positive number"),
        ({"Bags": 3}, "has no class 'Bags' .*did you mean Bag"),
        ({10: 3}, "has no class '10'"),
        ({-1: 3}, "has no class '-1'"),
        ({8: 3, "Bag": 4}, "'8' and 'Bag' are one class"),
        ({8: 10**6}, "8': 1000000 training examples, but fashion_mnist has 900 of this class left"),
    ],
)  # fmt: skip
def test_faults_of_a_cut_are_one_line(cut: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        load(config("fashion_mnist", cut=cut))
    assert "\n" not in str(error.value)


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
    held = found["validation"]
    if found["name"].startswith("multi30k") and "smoke" not in path.stem:
        assert held == 0, "Multi30k's validation split is published"
    elif found["name"] in ("sphere", "memberships"):
        assert held == 0, "nothing can be learnt of another point"
    elif found["name"] == "faces" and "smoke" not in path.stem:
        assert held == 0, "the reader has a split of its own"
    else:
        assert 0 < held <= 0.2 or (isinstance(held, int) and held >= 100)


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


# augmentation ---------------------------------------------------------------------------------------------------------


def crops(image: torch.Tensor, pad: int, flip: bool) -> list[torch.Tensor]:
    """All possible results for one image, written the slow way."""
    c, h, w = image.shape
    results = []
    for mirrored in (False, True) if flip else (False,):
        padded = torch.zeros(c, h + 2 * pad, w + 2 * pad, dtype=torch.uint8)
        padded[:, pad : pad + h, pad : pad + w] = image.flip(-1) if mirrored else image
        results += [padded[:, y : y + h, x : x + w] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
    return results


def varied(images: torch.Tensor, generator: torch.Generator, pad: int, flip: bool) -> torch.Tensor:
    changes = crops_and_flips(len(images), generator, pad, flip)
    return pad_crop_flip(images, *(t.to(images.device) for t in changes), pad, flip)


@pytest.mark.parametrize(
    ("c", "h", "w", "pad", "flip"),
    [(3, 8, 8, 2, True), (1, 5, 7, 3, True), (2, 4, 6, 1, False), (1, 3, 4, 0, True)],
)
def test_augmentation_is_one_of_the_possible_crops(c: int, h: int, w: int, pad: int, flip: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(1, 256, (40, c, h, w), dtype=torch.uint8, generator=generator)
    before = images.clone()
    out = varied(images, generator, pad, flip)
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    assert torch.equal(images, before)
    for image, result in zip(images, out, strict=True):
        assert sum(torch.equal(result, crop) for crop in crops(image, pad, flip)) == 1


def test_augmentation_equals_a_slow_loop_over_the_same_draws() -> None:
    images = torch.randint(0, 256, (30, 3, 9, 6), dtype=torch.uint8)
    out = varied(images, torch.Generator().manual_seed(11), 2, True)
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
    assert varied(images, generator, 0, False) is images
    assert torch.equal(generator.get_state(), state)


def test_augmentation_is_repeatable_and_uniform() -> None:
    # One bright pixel in the middle of a wide image: its place tells offset and mirroring.
    image = torch.zeros(1, 1, 7, 9, dtype=torch.uint8)
    image[0, 0, 3, 3] = 255
    images = image.expand(9000, 1, 7, 9).contiguous()
    out, again = (varied(images, torch.Generator().manual_seed(5), 1, True) for _ in range(2))
    assert torch.equal(out, again)
    assert not torch.equal(out, varied(images, torch.Generator().manual_seed(6), 1, True))
    rows, columns = out.flatten(1).argmax(1) // 9, out.flatten(1).argmax(1) % 9
    assert (out.flatten(1).sum(1) == 255).all()
    # Unmirrored the pixel lies in columns 2..4, mirrored (column 5) in 4..6; 4 belongs to both.
    for column, share in ((2, 1 / 6), (3, 1 / 6), (4, 1 / 3), (5, 1 / 6), (6, 1 / 6)):
        assert (columns == column).float().mean() == pytest.approx(share, abs=0.02)
    for row in (2, 3, 4):
        assert (rows == row).float().mean() == pytest.approx(1 / 3, abs=0.02)
    flipped = varied(images, torch.Generator().manual_seed(5), 0, True)
    assert (flipped[:, 0, 3, 5] == 255).float().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.cuda
def test_augmentation_is_the_same_on_cuda() -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    here, there = (
        varied(images.to(device), torch.Generator().manual_seed(2), 4, True) for device in ("cpu", "cuda")
    )
    assert torch.equal(here, there.cpu())


# pictures for a net that knows more classes ---------------------------------------------------------------------------


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
