"""What two artefacts are asked: folders, arrays, data sets; labels, sub-groups, ids; nothing that is read is trusted."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressbench.artefacts.artefact import Given
from compressbench.artefacts.predictions import Answers, npz
from compressbench.comparing.classes import imagenet_ids, imagenet_names, places
from compressbench.comparing.material import (
    SIDE,
    Material,
    aligned,
    labels_of,
    limited,
    mapped,
    of_predictions,
    read,
)
from compressbench.comparing.sources import Arrays, Folder, Stacked, stored
from compressbench.errors import UserError


def picture(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with three and two pictures; beside them what is none."""
    base = tmp_path / "photos"
    for k, name in enumerate(["dog/b.png", "dog/a.png", "cat/x.png", "dog/c.bmp", "cat/y.webp"]):
        save(base / name, picture(k))
    (base / "cat" / "notes.txt").write_text("none")
    (base / ".hidden").mkdir()
    return base


def test_folders_are_classes_in_order_of_their_names(photos: Path) -> None:
    found = read(str(photos))
    assert found.ids.tolist() == ["cat/x.png", "cat/y.webp", "dog/a.png", "dog/b.png", "dog/c.bmp"]
    assert found.classes == ("cat", "dog")
    assert found.labels is not None
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [0, 0, 1, 1, 1]
    assert found.arrays is None
    assert found.pictures is not None
    first, last = found.pictures(np.array([3, 0]))
    np.testing.assert_array_equal(first, picture(0))
    np.testing.assert_array_equal(last, picture(2))


def test_pictures_are_read_when_they_are_asked_for(photos: Path) -> None:
    found = read(photos)
    (photos / "dog" / "a.png").write_bytes(b"no picture")
    assert found.pictures is not None
    found.pictures(np.array([0, 3]))
    with pytest.raises(UserError, match=r"a.png is no PNG, JPEG, BMP or WebP"):
        found.pictures(np.array([2]))


def test_a_folder_without_classes_has_no_labels(tmp_path: Path) -> None:
    grey = np.arange(30, dtype=np.uint8).reshape(5, 6)
    save(tmp_path / "b.png", grey)
    save(tmp_path / "a.png", picture(0))
    found = read(str(tmp_path))
    assert found.ids.tolist() == ["a.png", "b.png"]
    assert found.labels is None
    assert found.classes is None
    assert found.pictures is not None
    np.testing.assert_array_equal(found.pictures(np.array([1]))[0], np.stack([grey] * 3, axis=2))
    with pytest.raises(UserError, match=r"--margin: labels are needed, and .* has none"):
        labels_of(found, "--margin")


def test_of_train_and_test_the_test_folder_is_asked(photos: Path, tmp_path: Path) -> None:
    base = tmp_path / "both"
    base.mkdir()
    photos.rename(base / "test")
    save(base / "train" / "cat" / "z.png", picture(9))
    found = read(base)
    assert found.n == 5
    assert found.classes == ("cat", "dog")
    assert found.name.endswith("both, test")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "the folder is empty"),
        (["notes.txt"], r"no pictures in it \(.bmp, .jpeg"),
        (["cat/notes.txt"], "no pictures in it"),
        (["a.png", "cat/b.png"], "holds pictures and folders of pictures"),
        (["cat/inner/b.png"], "cat/inner is a folder inside a class"),
        (["cat/a.png", "cat/inner/b.png"], "cat/inner is a folder inside a class"),
    ],
)
def test_folders_that_are_none(tmp_path: Path, names: Sequence[str], message: str) -> None:
    base = tmp_path / "odd"
    base.mkdir()
    for name in names:
        save(base / name, picture(0)) if name.endswith("png") else None
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).touch()
    with pytest.raises(UserError, match=message) as caught:
        read(base)
    assert "\n" not in str(caught.value)


def test_links_out_of_the_folder_are_not_followed(photos: Path, tmp_path: Path) -> None:
    save(tmp_path / "secret.png", picture(7))
    (photos / "cat" / "zz.png").symlink_to(tmp_path / "secret.png")
    found = read(photos)
    assert found.pictures is not None
    with pytest.raises(UserError, match=r"zz.png leads outside"):
        found.pictures(np.array([found.ids.tolist().index("cat/zz.png")]))
    with pytest.raises(UserError, match="leads outside"):
        _ = found.contents


def test_no_other_decoder_stands_behind_a_name(photos: Path) -> None:
    frames = [Image.fromarray(picture(k)) for k in (0, 1)]
    frames[0].save(photos / "cat" / "x.gif", save_all=True, append_images=frames[1:])
    os.replace(photos / "cat" / "x.gif", photos / "cat" / "x.png")
    (photos / "dog" / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    found = read(photos)
    assert found.pictures is not None
    for row in (0, 2):
        with pytest.raises(UserError, match="is no PNG, JPEG, BMP or WebP"):
            found.pictures(np.array([row]))


def test_fingerprints_follow_content(photos: Path, tmp_path: Path) -> None:
    before = read(photos)
    assert before.fingerprint  # read now
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    assert read(moved).contents == before.contents
    assert read(moved).fingerprint == before.fingerprint
    (moved / "dog").rename(moved / "ant")
    renamed = read(moved)
    assert renamed.contents != before.contents  # another order
    assert renamed.fingerprint != before.fingerprint
    save(moved / "cat" / "x.png", picture(11))
    assert read(moved).contents != renamed.contents
    labels = replace_labels(before, [1, 0, 1, 1, 1])
    assert labels.fingerprint != before.fingerprint


def replace_labels(material: Material, labels: list[int]) -> Material:
    from dataclasses import replace

    # contents are known already, so that nothing is read again
    found = replace(material, labels=np.array(labels, np.int64))
    found.__dict__["contents"] = material.contents
    return found


def arrays(path: Path, packed: bool = False, **given: Any) -> Path:
    (np.savez_compressed if packed else np.savez)(path, **given)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_with_labels_ids_and_groups(tmp_path: Path, packed: bool) -> None:
    x = np.random.RandomState(0).randn(4, 3, 5, 5).astype(np.float32)
    path = arrays(
        tmp_path / "a.npz", packed, x=x, y=[2, 0, -1, 2], id=list("dcba"), age=[3, 1, 3, 1], sex=list("mfmf"),
        row=np.arange(4), weight=np.ones(4), wide=np.ones((4, 2), int),
    )  # fmt: skip
    found = read(path)
    assert found.ids.tolist() == list("dcba")
    assert found.labels is not None
    assert found.labels.tolist() == [2, 0, -1, 2]
    assert found.pictures is None
    assert found.arrays is not None
    np.testing.assert_array_equal(found.arrays(np.array([2, 0]))["x"], x[[2, 0]])
    assert {k: (codes.tolist(), names) for k, (codes, names) in found.groups.items()} == {
        "age": ([1, 0, 1, 0], ("1", "3")),
        "sex": ([1, 0, 1, 0], ("f", "m")),
    }
    assert isinstance(found.source, Arrays)
    assert isinstance(found.source.arrays["x"], np.memmap) is not packed
    small = found.thumbnail(1)
    assert small is not None
    assert (small.dtype, small.shape, small.min(), small.max()) == (np.uint8, (5, 5, 3), 0, 255)


def test_large_packed_arrays_are_mapped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressbench.comparing.sources.UNPACKED_INTO_MEMORY", 100)
    x = np.random.RandomState(0).randn(9, 4).astype(np.float32)
    found = stored(arrays(tmp_path / "a.npz", packed=True, x=x))["x"]
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, x)


def test_inputs_are_found_by_the_models_names_first(tmp_path: Path) -> None:
    one, two = np.zeros((3, 2), np.float32), np.ones((3, 4), np.float32)
    path = arrays(tmp_path / "a.npz", x=one, pixel_values=two, mask=two)
    found = read(path, inputs=("pixel_values", "mask"))
    assert found.arrays is not None
    assert list(found.arrays(np.arange(3))) == ["pixel_values", "mask"]
    other = read(path, inputs=("input.1",))
    assert other.arrays is not None
    assert list(other.arrays(np.arange(3))) == ["x"]
    with pytest.raises(UserError, match=r"holds mask; inputs are wanted under data, x, images or inputs"):
        read(arrays(tmp_path / "b.npz", mask=two), inputs=("data",))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((4, 9, 8, 3), "NHWC"), ((4, 3, 9, 8), "NCHW"), ((4, 1, 9, 8), "NCHW"), ((4, 9, 8), "NHW")],
)
def test_bytes_are_pictures(tmp_path: Path, shape: tuple[int, ...], layout: str) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    path = tmp_path / "images.npy"
    np.save(path, pixels)
    found = read(path)
    assert isinstance(found.source, Stacked)
    assert found.source.layout == layout
    assert found.pictures is not None
    got = np.stack(found.pictures(np.array([3, 1])))
    wanted = {"NHWC": pixels, "NCHW": np.moveaxis(pixels, 1, -1), "NHW": pixels[..., None]}[layout]
    np.testing.assert_array_equal(got, wanted[[3, 1]])
    assert found.labels is None


def test_texts_as_labels_are_classes(tmp_path: Path) -> None:
    x = np.zeros((4, 2), np.float32)
    found = read(arrays(tmp_path / "a.npz", x=x, labels=["dog", "", "cat", "dog"]))
    assert found.labels is not None
    assert (found.labels.tolist(), found.classes) == ([1, -1, 0, 1], ("cat", "dog"))
    named = read(arrays(tmp_path / "b.npz", x=x, y=[1.0, np.nan, 0, 1], classes=["no", "yes"]))
    assert named.labels is not None
    assert (named.labels.tolist(), named.classes) == ([1, -1, 0, 1], ("no", "yes"))
    quiet = read(arrays(tmp_path / "c.npz", x=x, y=[0.5, 1, 2, 3]), labelled=False)
    assert quiet.labels is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": [0, 1]}, r"y is \(2,\); one label for each of 3 examples"),
        ({"y": [[0, 1], [1, 0], [0, 1]]}, r"y is \(3, 2\); one label for each"),
        ({"y": [0, 0.5, 1]}, "no whole numbers"),
        ({"y": [0, -2, 1]}, "holds -2; classes are numbered from 0"),
        ({"y": [-1, -1, -1]}, "all labels are unknown; --no-labels compares without"),
        ({"y": [0, 1, 5], "classes": ["a", "b"]}, "label 5, and classes names 2 classes"),
        ({"id": ["a", "b", "a"]}, "the id 'a' stands in 2 rows"),
        ({"id": ["a", "b"]}, r"ids are \(2,\); one for each of 3 examples"),
        ({"x": np.zeros((0, 2))}, "x holds no examples"),
        ({"x": np.array(["a", "b", "c"])}, "no inputs of a model"),
        ({"x": np.zeros((3, 3, 9, 3), np.uint8)}, "where their channels are can't be told"),
        ({"x": np.array([{}, {}, {}], object)}, "no pickle is opened"),
    ],
)
def test_arrays_that_dont_fit(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    path = arrays(tmp_path / "a.npz", **{"x": np.zeros((3, 2), np.float32), **given})
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz", x=np.ones((30, 20)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(UserError, match="a damaged file"):
        read(path)
    path.write_bytes(whole.replace(b"(30, 20)", b"(99, 99)"))
    with pytest.raises(UserError, match="more than its"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.txt", "none")
    with pytest.raises(UserError, match=r"holds x.txt, no array"):
        read(path)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="is nothing that holds examples; a folder of pictures"):
        read(path)
    with pytest.raises(UserError, match="no such file or folder"):
        read(tmp_path / "gone")


def test_a_data_set_by_its_config() -> None:
    found = read("dataset=digits dataset.test_size=60")
    assert found.n == 60
    assert found.name == "digits, test"
    assert found.classes == tuple("0123456789")
    assert found.labels is not None
    assert np.bincount(found.labels).min() >= 5
    rows = found.ids.astype(int)
    assert (np.diff(rows) > 0).all(), "the order is the source's"
    assert found.facts["@classes"] == 10
    assert found.preparation is not None
    assert found.pictures is not None
    assert found.pictures(np.array([0]))[0].shape == (8, 8, 1)
    from compressbench.data.idx import digits as source

    raw = source().test
    places_ = np.array([raw.rows.tolist().index(row) for row in rows])
    np.testing.assert_array_equal(found.labels, raw.labels[places_])
    np.testing.assert_array_equal(found.pictures(np.array([7]))[0][..., 0], raw["images"][places_[7], 0])
    assert read(["dataset=digits", "split=train", "dataset.train_size=40", "dataset.validation=0"]).n == 40
    with pytest.raises(UserError, match="has no split 'tset'; did you mean test"):
        read(["dataset=digits", "split=tset"])
    with pytest.raises(UserError, match="unknown dataset 'digit'"):
        read("dataset=digit")


def test_a_data_set_that_is_mixed_is_asked_in_its_sources_order(photos: Path) -> None:
    """A source sorted by class is mixed when it is loaded; files of predictions are in the source's order."""
    for k in range(12):
        save(photos / ("cat" if k % 2 else "dog") / f"more{k}.png", picture(k))
    found = read(
        [
            "dataset=image_folder",
            f"dataset.read.root={photos}",
            "dataset.read.size=6",
            "dataset.read.test_fraction=0.5",
        ]
    )
    assert found.labels is not None
    assert (np.diff(found.ids.astype(int)) > 0).all()
    assert (np.diff(found.labels) >= 0).all()
    assert found.n > 5


def test_a_limit_keeps_the_classes_shares() -> None:
    labels = np.repeat([0, 1, 2, -1], [60, 30, 6, 4])
    material = Material("m", np.arange(100).astype(str), labels, None, rows=np.arange(100))
    some = limited(material, 50)
    assert some.labels is not None
    assert np.bincount(some.labels + 1).tolist() == [2, 30, 15, 3]
    assert some.whole is material
    assert set(limited(material, 20).ids) < set(some.ids)
    assert limited(material, 100) is material
    assert some.ids.tolist() != limited(material, 50, seed=1).ids.tolist()
    assert limited(material.unlabelled(), 10).n == 10
    assert limited(some, 5).whole is material
    with pytest.raises(UserError, match="--limit 0"):
        limited(material, 0)


def test_thumbnails_are_small(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(0, 300, 400))
    small = read(tmp_path).thumbnail(0)
    assert small is not None
    assert small.shape == (72, SIDE, 3)


def answers(ids: Sequence[str] | None, n: int) -> Answers:
    values = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    return Answers(values, "logits", None if ids is None else np.array(ids))


@pytest.mark.parametrize(
    "ids",
    [
        ["dog/a.png", "cat/x.png", "dog/b.png"],
        ["a.png", "x.png", "b.png"],
        ["elsewhere/a.jpeg", "x", "b.png"],
    ],
)
def test_predictions_by_ids(ids: list[str]) -> None:
    material = Material("m", np.array(["cat/x.png", "dog/a.png", "dog/b.png"]), None, None, rows=np.arange(3))
    np.testing.assert_array_equal(aligned(answers(ids, 3), material)[:, 0], [2, 0, 4])
    part = material.taken(np.array([2, 0]))
    np.testing.assert_array_equal(aligned(answers(ids, 3), part)[:, 0], [4, 2])


def test_predictions_by_numbers_and_by_place() -> None:
    material = Material("m", np.array(["0", "1", "2"]), None, None, rows=np.arange(3))
    np.testing.assert_array_equal(aligned(answers(["002", "000", "001"], 3), material)[:, 0], [2, 4, 0])
    np.testing.assert_array_equal(aligned(answers(None, 3), material)[:, 0], [0, 2, 4])
    part = material.taken(np.array([2]))
    np.testing.assert_array_equal(aligned(answers(None, 3), part)[:, 0], [4])
    np.testing.assert_array_equal(aligned(answers(["2", "0"], 2), part)[:, 0], [0])


def test_predictions_of_other_examples() -> None:
    material = Material("photos", np.array(["a", "b", "c"]), None, None, rows=np.arange(3))
    with pytest.raises(UserError, match="its id 'x' is none of photos"):
        aligned(answers(["a", "x", "b"], 3), material)
    with pytest.raises(UserError, match="1 example of photos have no answer in it, first 'c'"):
        aligned(answers(["a", "b"], 2), material)
    with pytest.raises(UserError, match=r"has 4 rows for 3 examples \(photos\); an id column"):
        aligned(answers(None, 4), material)
    with pytest.raises(UserError, match="has 4 rows for 2 of 3 examples"):
        aligned(answers(None, 4), material.taken(np.array([0, 1])))


def test_a_file_of_predictions_is_material_too(tmp_path: Path) -> None:
    path = arrays(tmp_path / "p.npz", logits=np.eye(3), y=[0, 1, 0], id=["a", "b", "c"])
    predictions = npz(path, Given())
    found = of_predictions(predictions)
    assert found.labels is not None
    assert (found.ids.tolist(), found.labels.tolist()) == (["a", "b", "c"], [0, 1, 0])
    assert found.pictures is None
    assert found.arrays is None
    assert found.thumbnail(0) is None
    np.testing.assert_array_equal(aligned(predictions, found), np.eye(3))


def test_imagenets_ids_and_names() -> None:
    """Known pairs, as published with ILSVRC 2012."""
    ids, names = imagenet_ids(), imagenet_names()
    assert len(ids) == len(names) == 1000
    assert (ids[0], names[0], ids[217], names[217]) == ("n01440764", "tench", "n02102040", "English springer")
    assert places(("n03888257", "n02102040"), "imagenet", 1000)[0] == (701, 217)
    where, called = places(("English_springer", "Tench"), "imagenet", 1001)
    assert where == (218, 1)
    assert (called[0], called[1]) == ("background", "tench")
    with pytest.raises(UserError, match="there is no 'tensh' among the outputs; did you mean tench"):
        places(("tensh",), "imagenet", 1000)
    with pytest.raises(UserError, match="has 1,000 classes, and the model 10 outputs"):
        places(("tench",), "imagenet", 10)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps({"cat": 4, "dog": 2})),
        ("b.json", json.dumps({"cat": {"index": 4, "name": "x"}, "dog": {"index": 2}})),
        ("c.json", json.dumps({"2": ["n1", "dog"], "4": ["n2", "cat"], "0": ["n3", "ant"]})),
        ("d.json", json.dumps(["ant", "bee", "dog", "eel", "cat"])),
        ("a.csv", "folder,output\ncat,4\ndog,2\n"),
        ("b.csv", "cat,4\ndog,2\n"),
        ("c.csv", "2,dog\n4,cat\n"),
        ("a.txt", "ant\nbee\ndog\neel\ncat\n"),
    ],
)
def test_classes_by_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    labels = np.array([0, 1, -1, 1])
    material = Material("m", np.arange(4).astype(str), labels, ("cat", "dog"), rows=np.arange(4))
    found = mapped(material.taken(np.array([1, 2, 0])), str(path), 5)
    assert found.labels is not None
    assert found.labels.tolist() == [2, -1, 4]
    assert found.classes is not None
    assert (found.classes[2], found.classes[4], len(found.classes)) == (
        "n1, dog" if name == "c.json" else "dog",
        "n2, cat" if name == "c.json" else "cat",
        5,
    )
    assert found.whole is not None
    assert found.whole.labels is not None
    assert found.whole.labels.tolist() == [4, 2, -1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cat": 1}', "there is no 'dog' among the outputs"),
        ('{"cat": 1, "dog": 1}', "cat and dog are both output 1"),
        ('{"cat": 1, "dog": 9}', "dog is output 9, and the model has 5"),
        ('{"cat": 1, "dog": null}', "'dog': the number of an output, or its name, is wanted"),
        ('{"cat": "one", "dog": "two"}', "each class with the number of its output"),
        ('{"cat": 1', "no JSON"),
        ('["cat", "dog", "dog, hound", "eel", "fox"]', "'dog' is the name of two outputs"),
        ("ant\nbee\n", "has 2 classes, and the model 5 outputs"),
    ],
)
def test_classes_that_dont_fit(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        places(("cat", "dog"), str(path), 5)
    assert "\n" not in str(caught.value)


def test_a_folder_as_a_source_holds_nothing_else(photos: Path) -> None:
    source = read(photos).source
    assert isinstance(source, Folder)
    assert source.inputs == ()
    assert read(photos).taken(np.array([4, 1])).contents != read(photos).taken(np.array([1, 4])).contents
