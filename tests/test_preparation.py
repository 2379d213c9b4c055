"""What pictures become before a model is asked: as torchvision, timm and transformers do it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compressbench.artefacts.artefact import Input, Wanted
from compressbench.artefacts.preparation import (
    CAFFE,
    IMAGENET,
    RANGES,
    Preparation,
    fitted,
    of_hugging_face,
    of_timm,
    variants,
)
from compressbench.errors import UserError


def pictures(n: int = 3, height: int = 41, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (n, height, width, channels)).astype(np.uint8)


def test_pixels_by_hand() -> None:
    """One picture of two pixels: red 255, green 0, blue 51; then 0, 127, 204."""
    images = np.array([[[[255, 0, 51], [0, 127, 204]]]], np.uint8)
    plain = Preparation().apply(images)
    assert plain.shape == (1, 3, 1, 2)
    assert plain.dtype == np.float32
    np.testing.assert_allclose(plain[0, :, 0, 0], [1, 0, 0.2], atol=1e-6)
    both = Preparation(span=RANGES["-1..1"], layout="NHWC").apply(images)
    np.testing.assert_allclose(both[0, 0, 0], [1, -1, -0.6], atol=1e-6)
    caffe = Preparation(span=RANGES["0-255"], mean=CAFFE[0], std=CAFFE[1], order="BGR", layout="NHWC").apply(
        images
    )
    np.testing.assert_allclose(caffe[0, 0, 0], [51 - 103.939, -116.779, 255 - 123.68], atol=1e-3)
    one = Preparation(mean=(0.5,), std=(0.25,), layout="NHWC").apply(images)
    np.testing.assert_allclose(one[0, 0, 0], [2, -2, -1.2], atol=1e-6)
    raw = Preparation(span=RANGES["0-255"], dtype="uint8", layout="NHWC", order="BGR").apply(images)
    assert raw.dtype == np.uint8
    assert raw[0, 0].tolist() == [[51, 0, 255], [204, 127, 0]]
    assert Preparation(dtype="float16").apply(images).dtype == np.float16


@pytest.mark.parametrize(("height", "width"), [(41, 30), (30, 41), (33, 33), (20, 90)])
@pytest.mark.parametrize(
    ("resize", "crop"), [(36, 32), (36, 33), (16, 16), (24, 32), ((20, 28), None), (None, 24), (None, 64)]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_sizes_as_torchvision(
    height: int, width: int, resize: Any, crop: int | None, interpolation: str
) -> None:
    from torchvision import transforms as T

    images = pictures(2, height, width)
    steps: list[Any] = []
    if resize is not None:
        mode = T.InterpolationMode(interpolation)
        steps.append(T.Resize(list(resize) if isinstance(resize, tuple) else resize, mode))
    if crop is not None:
        steps.append(T.CenterCrop(crop))
    theirs = T.Compose([*steps, T.ToTensor(), T.Normalize(*IMAGENET)])
    expected = torch.stack([theirs(Image.fromarray(i)) for i in images]).numpy()
    mean, std = IMAGENET
    own = Preparation(
        resize, (crop, crop) if crop is not None else None, mean=mean, std=std, interpolation=interpolation
    )
    np.testing.assert_allclose(own.apply(images), expected, atol=1e-5)
    np.testing.assert_allclose(own.apply(list(images)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 32, 32), "crop_pct": 0.875},
        {"input_size": (3, 24, 24), "crop_pct": 0.95, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        {"input_size": (3, 24, 32), "crop_pct": 1.0, "crop_mode": "squash"},
        {"input_size": (3, 24, 24), "crop_pct": 0.9, "crop_mode": "squash", "mean": (0, 0, 0), "std": (1, 1, 1)},
    ],
)  # fmt: skip
def test_a_timm_config_is_what_timm_makes_of_it(config: dict[str, Any]) -> None:
    data = pytest.importorskip("timm.data")
    resolved = data.resolve_data_config(pretrained_cfg={"interpolation": "bilinear", **config})
    theirs = data.create_transform(**resolved, is_training=False)
    images = pictures(2)
    expected = torch.stack([theirs(Image.fromarray(i)) for i in images]).numpy()
    own = of_timm({"mean": IMAGENET[0], "std": IMAGENET[1], **json.loads(json.dumps(config))})
    assert own is not None
    np.testing.assert_allclose(own.apply(images), expected, atol=1e-5)


def test_a_timm_config_that_is_not_done_here_is_unknown() -> None:
    assert of_timm({}) is None
    assert of_timm({"input_size": [3, 24, 24], "crop_mode": "border"}) is None
    assert of_timm({"input_size": [3, 24, 32], "crop_pct": 0.9}) is None
    with pytest.raises(UserError, match="std above 0"):
        of_timm({"input_size": [3, 24, 24], "std": [0, 1, 1]})


NUMBERS = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
OWN = Preparation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
VIT = {"size": {"height": 24, "width": 28}, "do_rescale": True, "resample": 2, **NUMBERS}
CLIP = {
    "size": {"shortest_edge": 28},
    "do_center_crop": True,
    "crop_size": {"height": 24, "width": 24},
    **NUMBERS,
}
CLIP |= {"resample": 3}
CONVNEXT = {"size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3, **NUMBERS}
PLAIN = {"do_resize": False, "do_normalize": False, "do_rescale": True, "rescale_factor": 2 / 255}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (VIT, replace(OWN, resize=(24, 28))),
        (CLIP, replace(OWN, resize=28, crop=(24, 24), interpolation="bicubic", floor=True)),
        (CONVNEXT, replace(OWN, resize=32, crop=(28, 28), interpolation="bicubic", floor=True)),
        (PLAIN, Preparation(span=(0, 2))),
        ({"do_resize": True, "size": 24, "do_flip_channel_order": True, "do_normalize": False},
         Preparation((24, 24), order="BGR")),
        ({"do_rescale": False, "do_normalize": False}, Preparation(span=(0, 255))),
        ({"feature_size": 80}, None),
    ],
)  # fmt: skip
def test_a_preprocessor_config_is_read(config: Mapping[str, Any], found: Preparation | None) -> None:
    assert of_hugging_face(config) == found


@pytest.mark.parametrize(
    ("kind", "config"),
    [("ViT", VIT), ("CLIP", CLIP), ("ConvNext", CONVNEXT)],
    ids=["vit", "clip", "convnext"],
)
def test_a_preprocessor_config_is_what_transformers_makes_of_it(kind: str, config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers isn't installed")
    try:
        processor = getattr(transformers, f"{kind}ImageProcessorPil")(**config)
    except (AttributeError, ImportError):
        processor = getattr(transformers, f"{kind}ImageProcessor")(**config)
    images = pictures(2)
    expected = np.stack(processor([Image.fromarray(i) for i in images], return_tensors="np")["pixel_values"])
    own = of_hugging_face(config)
    assert own is not None
    np.testing.assert_allclose(own.apply(images), expected, atol=0.03)


def test_channels_are_made_alike() -> None:
    grey, colour = pictures(2, 5, 6, 1), pictures(2, 5, 6)
    as_colour = Preparation(channels=3).apply(grey)
    assert as_colour.shape == (2, 3, 5, 6)
    np.testing.assert_allclose(as_colour, np.repeat(grey.transpose(0, 3, 1, 2), 3, axis=1) / 255, atol=1e-6)
    weights = np.array([0.299, 0.587, 0.114])
    as_grey = Preparation(channels=1, span=(0, 255)).apply(colour)
    np.testing.assert_allclose(as_grey[:, 0], colour @ weights, atol=1)
    deep = pictures(2, 5, 6, 7)
    np.testing.assert_allclose(Preparation().apply(deep), deep.transpose(0, 3, 1, 2) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "images", "words"),
    [
        ({}, pictures().astype(np.float32), "are no pictures; uint8"),
        ({}, pictures()[0], "are no pictures; uint8"),
        ({"resize": 8}, pictures(1, 9, 9, 4), "1 or 3 channels"),
        ({"mean": (0.5,) * 3, "std": (0.5,) * 3}, pictures(1, 9, 9, 1), "3 means for pictures of 1 channels"),
        ({"dtype": "uint8"}, pictures(), "gives no uint8"),
        ({}, [pictures(1)[0], pictures(1, 9)[0]], "a size or a crop makes them alike"),
    ],
)
def test_pictures_that_do_not_fit_are_one_line(given: dict[str, Any], images: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Preparation(**given).apply(images)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"order": "GBR"}, "channel order 'GBR'; did you mean RGB or BGR"),
        ({"layout": "CHWN"}, "layout 'CHWN'"),
        ({"interpolation": "cubic"}, "interpolation 'cubic'; did you mean bicubic"),
        ({"std": (0.0,)}, "std above 0"),
        ({"mean": (float("nan"),)}, "must be numbers"),
        ({"mean": (0.1, 0.2)}, "2 means and 1 standard deviations"),
        ({"resize": 0}, "1 to 65,536 pixels"),
        ({"crop": (8, 100_000)}, "1 to 65,536 pixels"),
    ],
)
def test_settings_out_of_range_are_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Preparation(**given)


def test_words() -> None:
    mean, std = IMAGENET
    assert Preparation(256, (224, 224), mean=mean, std=std).in_words() == (
        "shorter side resized to 256 (bilinear), 224 x 224 cropped from the middle, ImageNet's mean and std, RGB, NCHW"
    )
    assert Preparation(
        (32, 28), span=(-1, 1), channels=1, layout="NHWC", interpolation="bicubic"
    ).in_words() == ("resized to 32 x 28 (bicubic), pixels -1..1, NHWC")
    assert (
        Preparation(mean=(0.5,), std=(0.25,), order="BGR").in_words()
        == "pixels 0-1 minus (0.5) over (0.25), BGR, NCHW"
    )


def test_an_input_says_layout_type_channels_and_size() -> None:
    given = Preparation(mean=(0.5,) * 3, std=(0.5,) * 3)
    whole = fitted(given, Wanted((Input("x", (1, 24, 28, 3), "uint8"),)))
    assert whole == Preparation((24, 28), span=(0, 255), channels=3, layout="NHWC", dtype="uint8")
    assert fitted(given, Wanted()) == given
    free = fitted(given, Wanted((Input("x", (None, 3, None, None), "float16"),)))
    assert free == replace(given, channels=3, dtype="float16")
    cropped = replace(given, resize=36, crop=(32, 32))
    assert fitted(cropped, Wanted((Input("x", (1, 3, 24, 24)),))) == replace(cropped, channels=3)


def test_the_usual_variants_begin_with_the_given_one_and_repeat_none() -> None:
    wants = Wanted((Input("x", (None, 3, 24, 24)),))
    given = Preparation((24, 24))
    found = list(variants(given, wants))
    assert found[0] == given
    assert len(set(found)) == len(found)
    assert {p.layout for p in found} == {"NCHW"}
    assert {p.order for p in found} == {"RGB", "BGR"}
    assert {(p.resize, p.crop) for p in found} == {((24, 24), None), (27, (24, 24)), (24, (24, 24))}
    assert {(p.span, p.mean) for p in found} == {
        ((0, 1), (0.0,)), ((0, 255), (0.0,)), ((-1, 1), (0.0,)), ((0, 1), IMAGENET[0]), ((0, 255), CAFFE[0]),
    }  # fmt: skip
    assert len(found) == 2 * 3 * 5
    changes = [(p.span, p.mean) != (given.span, given.mean) for p in found[1:5]]
    assert sum(changes) >= 1, "one change comes before two"
    assert all((p.order != given.order) + ((p.span, p.mean) != (given.span, given.mean)) + (p.resize != given.resize
               or p.crop != given.crop) == 1 for p in found[1:8])  # fmt: skip


def test_variants_leave_out_what_cannot_be() -> None:
    unknown = {p.layout for p in variants(Preparation(), Wanted())}
    assert unknown == {"NCHW", "NHWC"}
    grey = list(variants(Preparation(), Wanted((Input("x", (None, 1, 8, 8)),)), channels=1))
    assert {p.order for p in grey} == {"RGB"}
    assert all(len(p.mean) == 1 for p in grey)
    whole = Wanted((Input("x", (None, 8, 8, 3), "uint8"),))
    assert len({p.span for p in variants(fitted(Preparation(), whole), whole)}) == 1
