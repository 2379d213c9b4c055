"""A folder of pictures as a data set."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cases_data import (
    config,
    picture,
    pictures,  # noqa: F401
)
from compressbench.data.folder import files, image_folder, read_pictures
from compressbench.data.load import load
from compressbench.errors import UserError


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
        every = np.concatenate([raw.train["images"], raw.test["images"]])
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
