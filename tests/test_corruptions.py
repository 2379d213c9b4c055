"""Corruptions of pictures against scipy, Pillow, colorsys and plain loops; the probe, published sets, the report."""

from __future__ import annotations

import colorsys
import io
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, signal
from torch import Tensor

from cases_data import shared
from cases_report import accuracies, record
from compressbench import metrics
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.probes import corruptions as probe
from compressbench.probes import spoilt
from compressbench.probes.corruptions import Corruptions
from compressbench.probes.shifted_sets import ShiftedSets
from compressbench.records import Metric, Records
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.sections import corruptions as told
from compressbench.seeds import derive_seed
from compressbench.state import State
from compressbench.tasks.images import corruptions
from compressbench.tasks.images.corruptions import EXTRA, KINDS, MAIN, SEVERITIES, blurs, digital, weather
from compressbench.tasks.images.corruptions.noise import Noise
from compressbench.tasks.images.published_sets import corrupted_set
from compressbench.views import View
from tiny import TINY

RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur", "snow", "frost",
          "fog", "elastic_transform", "spatter"}  # fmt: skip
GENTLE = {"elastic_transform", "glass_blur", "saturate", "frost", "spatter", "motion_blur"}
"""Whose published severities don't all move pixels farther than the one before; by the mean of all they are checked."""


def noise(name: str = "a test") -> Noise:
    return Noise(
        torch.Generator().manual_seed(0), lambda part: np.random.default_rng(derive_seed(name, part))
    )


def scene(n: int = 6, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """Coloured shapes on slopes, uint8: something with edges, flat parts and all hues."""
    rng = np.random.default_rng(3)
    ys, xs = np.mgrid[:height, :width] / max(height, width)
    found = np.zeros((n, channels, height, width))
    for k in range(n):
        for c in range(channels):
            a, b, d = rng.uniform(-1, 1, 3)
            found[k, c] = 110 + 60 * (a * ys + b * xs) + 60 * d * ((ys - 0.5) ** 2 + (xs - 0.4) ** 2 < 0.06)
    return torch.from_numpy(np.clip(found + rng.normal(0, 6, found.shape), 0, 255).astype(np.uint8))


PICTURES = scene()
UNIT = PICTURES.double() / 255


# The kinds -------------------------------------------------------------------------------------------------------------


def test_the_constants_are_the_published_ones() -> None:
    given = json.loads((shared("corruptions") / "cifar10c_severities.json").read_text())
    for group, ours in (("main", MAIN), ("extra", EXTRA)):
        assert sorted(given[group]) == sorted(ours)
        for kind, settings in given[group].items():
            values = next(iter(settings.values()))
            if kind == "zoom_blur":
                values = [[most, settings["zoom_step"]] for most in settings["zoom_max_exclusive"]]
            assert json.loads(json.dumps(ours[kind][1])) == values, kind
    assert (tuple(MAIN), tuple(KINDS)) == (probe.MAIN, probe.KNOWN)


@pytest.mark.parametrize("kind", KINDS)
def test_what_becomes_of_a_picture_depends_on_its_place_alone(kind: str) -> None:
    images = PICTURES.repeat(12, 1, 1, 1)  # 72: more than a block
    found = corruptions.corrupted(images, kind, 3)
    assert found.dtype == torch.uint8
    assert found.shape == images.shape
    assert torch.equal(found, corruptions.corrupted(images, kind, 3))
    for n in (1, 5, 66):
        assert torch.equal(found[:n], corruptions.corrupted(images[:n], kind, 3)), n
    assert torch.equal(found, torch.cat(list(corruptions.blocks(images, kind, 3))))
    one = corruptions.corrupted(PICTURES[:1].repeat(72, 1, 1, 1), kind, 3)
    own = (torch.equal(one[:7], one[1:8]), torch.equal(one[:8], one[64:]))
    assert own == (kind not in RANDOM,) * 2, "equal pictures draw their own noise, across blocks too"


@pytest.mark.parametrize("kind", KINDS)
def test_severities_move_pictures_farther(kind: str) -> None:
    images = scene(48)
    far = [
        float((corruptions.corrupted(images, kind, s).float() - images.float()).square().mean())
        for s in SEVERITIES
    ]
    assert min(far) > 1
    if kind not in GENTLE:
        assert all(a < b for a, b in itertools.pairwise(far)), far
    assert max(far) < 6000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 20, 33), (3, 224, 224)])
def test_other_sizes_and_grey_pictures(kind: str, shape: tuple[int, int, int]) -> None:
    images = scene(2, *shape)
    found = corruptions.corrupted(images, kind, 5)
    assert found.shape == images.shape
    assert torch.equal(found, images) is (kind == "saturate" and shape[0] == 1)


def test_the_five_that_were_there_keep_their_bits() -> None:
    """Weighted sums of pixels that the code of version 2 of ``shifted`` made, when it knew these five alone."""
    images = (torch.arange(150 * 3 * 64) * 37 % 251).view(150, 3, 8, 8).to(torch.uint8)
    place = torch.arange(images.numel()).view_as(images) % 997
    found = {k: int((corruptions.corrupted(images, k, 3).long() * place).sum()) for k in BITS}
    assert found == BITS


BITS = {
    "gaussian_noise": 1788790129,
    "shot_noise": 1783996968,
    "impulse_noise": 1789516478,
    "gaussian_blur": 1786652482,
    "contrast": 1786576108,
}


def test_noise_of_blocks_goes_on_as_if_all_were_drawn_at_once() -> None:
    images = scene(100, 1, 5, 7)  # 35 values, while torch draws normal numbers by 16
    drawn_whole = torch.Generator().manual_seed(derive_seed("shifted", "gaussian_noise", 3))
    theirs = images.float() / 255 + 0.08 * torch.randn(images.shape, generator=drawn_whole)
    theirs = (theirs.clamp(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(corruptions.corrupted(images, "gaussian_noise", 3), theirs)


def test_blurs_are_scipys() -> None:
    for sigma in (0.05, 0.25, 0.4, 1.0, 6.4):
        ours = blurs.smoothed(UNIT.float(), sigma)
        theirs = ndimage.gaussian_filter(UNIT.numpy(), (0, 0, sigma, sigma), mode="nearest")
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)
    ours = blurs.smoothed(UNIT.float(), 6.4, truncate=3, mode="symmetric")
    theirs = ndimage.gaussian_filter(UNIT.numpy(), (0, 0, 6.4, 6.4), mode="reflect", truncate=3)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)


def test_defocus_is_a_disk() -> None:
    soft = np.exp(-np.array([1, 0, 1]) / (2 * 0.1**2))
    disk = np.pad(
        np.array([[y * y + x * x <= 1.5**2 for x in range(-2, 3)] for y in range(-2, 3)], float) / 9, 1
    )
    kernel = signal.convolve2d(disk, np.outer(soft, soft) / soft.sum() ** 2, "same")
    theirs = np.stack([[ndimage.correlate(c, kernel, mode="mirror") for c in p] for p in UNIT.numpy()])
    ours = blurs.defocus_blur(UNIT.float(), (1.5, 0.1), noise())
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)


@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"])
def test_blurs_keep_the_mean(kind: str) -> None:
    flat = torch.full((2, 3, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(corruptions.corrupted(flat, kind, 5), flat)
    images = scene(32)
    change = corruptions.corrupted(images, kind, 5).double().mean() - images.double().mean()
    assert abs(float(change)) < 1.5, "edges are repeated or mirrored: the mean moves by little"


def test_glass_exchanges_neighbours_one_after_the_other() -> None:
    n, h, w, times = 3, 7, 9, 2
    by = noise().named("neighbours").integers(0, 4, (n, times, h, w))
    values = np.arange(n * 2 * h * w).reshape(n, 2, h, w)
    theirs = values.copy()
    for k, time, y, x in itertools.product(range(n), range(times), range(h - 1, 1, -1), range(w - 1, 1, -1)):
        other = y - (by[k, time, y, x] >> 1), x - (by[k, time, y, x] & 1)
        theirs[k, :, y, x], theirs[(k, slice(None), *other)] = (
            theirs[(k, slice(None), *other)].copy(),
            theirs[k, :, y, x].copy(),
        )
    ours = blurs.shuffled(torch.from_numpy(values).float(), times, noise()).long().numpy()
    np.testing.assert_array_equal(ours, theirs)
    assert (np.sort(ours.reshape(n, 2, -1)) == values.reshape(n, 2, -1)).all()
    assert (ours != values).mean() > 0.4
    with pytest.raises(ValueError, match="next neighbours only"):
        blurs.glass_blur(UNIT.float(), (0.4, 2, 1), noise())


def test_motion_takes_from_along_its_angle() -> None:
    one = torch.zeros(4, 1, 9, 9)
    one[:, 0, 4, 4] = 1
    found = blurs.moved(one, 2, 1.0, torch.tensor([0.0, 45.0, -45.0, -90.0]))[:, 0]
    weights = np.exp(-0.5 * np.arange(5) ** 2)
    weights /= weights.sum()
    np.testing.assert_allclose(found[0, 4].numpy(), [*weights[4::-1], 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[3, :, 4].numpy(), [0, 0, 0, 0, *weights], atol=1e-6)
    # at 45 degrees a step k goes ceil(0.707 k - 0.5) pixels: 0, 1, 1, 2, 3
    slant = [weights[0], weights[1] + weights[2], weights[3], weights[4]]
    np.testing.assert_allclose([found[1, 4 - k, 4 - k] for k in range(4)], slant, atol=1e-6)
    np.testing.assert_allclose([found[2, 4 + k, 4 - k] for k in range(4)], slant, atol=1e-6)
    assert float(found[1].sum()) == pytest.approx(1)


@pytest.mark.parametrize(("most", "terms"), [(1.06, 7), (1.26, 26)])
def test_zoom_is_scipys(most: float, terms: int) -> None:
    factors = np.arange(1, most, 0.01)
    assert abs(len(factors) - terms) <= 1
    picture = UNIT[0].numpy()
    total = picture.copy()
    for factor in factors:
        size = math.ceil(32 / factor)
        top = (32 - size) // 2
        part = ndimage.zoom(picture[:, top : top + size, top : top + size], (1, factor, factor), order=1)
        trim = (part.shape[1] - 32) // 2
        total += part[:, trim : trim + 32, trim : trim + 32]
    ours = blurs.zoom_blur(UNIT[:1].float(), (most, 0.01), noise())[0]
    np.testing.assert_allclose(ours.numpy(), total / (len(factors) + 1), atol=2e-6)


def test_fog_is_plasma_scaled_to_the_brightest_value() -> None:
    heights = weather.plasma(5, 32, 2.0, noise())
    assert heights.shape == (5, 32, 32)
    assert heights.amin((1, 2)).tolist() == [0] * 5
    assert heights.amax((1, 2)).tolist() == [1] * 5
    np.testing.assert_allclose(heights[1].numpy(), _plasma(1, 5, 32, 2.0), atol=1e-6)
    most = UNIT.amax((1, 2, 3), keepdim=True)
    theirs = (UNIT + 0.75 * weather.plasma(6, 32, 2.5, noise())[:, None]) * most / (most + 0.75)
    np.testing.assert_allclose(weather.fog(UNIT.float(), (0.75, 2.5), noise()).numpy(), theirs, atol=1e-6)
    still = weather.fog(UNIT.float(), (0, 2.5), noise())
    np.testing.assert_allclose(still.numpy(), UNIT.numpy(), atol=1e-6)


def _plasma(which: int, n: int, size: int, decay: float) -> np.ndarray:
    """Pixel by pixel, from the draws of the code under test."""
    grid, step, wobble = np.zeros((size, size)), size, 100.0
    while step >= 2:
        half, many = step // 2, size // step
        drawn = {
            k: noise().named(f"{k} {step}").random((n, many, many))[which]
            for k in ("squares", "beside", "below")
        }
        for name, down, right, around in (
            ("squares", half, half, [(-half, -half), (-half, half), (half, -half), (half, half)]),
            ("beside", 0, half, [(-half, 0), (half, 0), (0, -half), (0, half)]),
            ("below", half, 0, [(-half, 0), (half, 0), (0, -half), (0, half)]),
        ):
            before = grid.copy()
            for j, i in itertools.product(range(many), range(many)):
                y, x = j * step + down, i * step + right
                mean = sum(before[(y + a) % size, (x + b) % size] for a, b in around) / 4
                grid[y, x] = mean + wobble**2 * (2 * drawn[name][j, i] - 1)
        step, wobble = half, wobble / decay
    return (grid - grid.min()) / (grid.max() - grid.min())


def test_snow_whitens_and_falls() -> None:
    none = (-9.0, 0.0, 1, 0.5, 4, 2, 0.9)  # no flake reaches the threshold
    luma = (UNIT * torch.tensor([0.299, 0.587, 0.114]).double().view(3, 1, 1)).sum(1, keepdim=True)
    theirs = 0.9 * UNIT + 0.1 * torch.maximum(UNIT, luma * 1.5 + 0.5)
    np.testing.assert_allclose(weather.snow(UNIT.float(), none, noise()).numpy(), theirs, atol=1e-6)
    flakes = weather.snow(UNIT.float(), (0.3, 0.3, 1.25, 0.65, 14, 12, 1.0), noise()) - UNIT.float()
    assert float((flakes - flakes.flip(2, 3)).abs().max()) < 1e-5, "the layer and itself upside down"
    down, across = ((flakes.diff(dim=d)).square().mean() for d in (2, 3))
    assert float(down) < float(across), "streaks fall: they are longer than wide"


def test_frost_is_a_piece_of_a_texture() -> None:
    black = torch.zeros(40, 3, 32, 32)
    found = weather.frost(black, (1, 0.4), noise()) / 0.4
    assert len(weather.textures()) == 5
    tops = set()
    for piece in found[:8]:
        gaps = [
            (t.unfold(1, 32, 1).unfold(2, 32, 1) - piece[:, None, None]).abs().amax((0, 3, 4))
            for t in weather.textures()
        ]
        best = min(gaps, key=lambda g: float(g.min()))
        assert float(best.min()) < 1e-5
        tops.add(int(best.argmin()) // best.shape[1])
    assert len(tops) > 4, "from anywhere in a texture"
    assert len({round(float(p.sum()), 2) for p in found}) > 35
    np.testing.assert_allclose(weather.frost(UNIT.float(), (1, 0), noise()).numpy(), UNIT.numpy(), atol=1e-6)


def test_spatter_is_water_or_mud() -> None:
    dry = (-9.0, 0.1, 0.7, 0.7, 0.5, 0)
    np.testing.assert_allclose(weather.spatter(UNIT.float(), dry, noise()).numpy(), UNIT.numpy(), atol=1e-6)
    mud = weather.spatter(UNIT.float(), (9.0, 0.1, 0.7, 0.69, 0.6, 1), noise())
    assert torch.allclose(
        mud, (torch.tensor([63.0, 42, 20]) / 255).view(1, 3, 1, 1).expand_as(mud), atol=1e-5
    )
    water = weather.spatter(torch.zeros(9, 3, 32, 32), (0.65, 0.3, 1, 0.69, 0.5, 0), noise())
    top = water.amax((2, 3))
    np.testing.assert_allclose(top.numpy(), np.tile(0.5 * np.array([175, 238, 238]) / 255, (9, 1)), atol=1e-6)


def test_the_pieces_of_water_are_opencvs() -> None:
    """OpenCV 5.0.0's Canny(50, 150), distanceTransform(L2, 5) and equalizeHist of ``LIQUID``; 64 random ones of 32 x 32
    agreed on every pixel when these were written down."""
    liquid = torch.tensor(LIQUID, dtype=torch.float32)[None, None]
    found = weather.edges(liquid)
    assert found[0, 0].int().tolist() == EDGES
    np.testing.assert_allclose(weather.distances(found)[0, 0].numpy(), DISTANCES, atol=1e-3)
    assert weather.equalized(liquid)[0, 0].int().tolist() == EQUALIZED


LIQUID = [
    [0, 0, 144, 168, 158, 156, 167, 132, 0, 0, 0, 0],
    [0, 0, 126, 165, 147, 115, 116, 118, 0, 0, 0, 0],
    [0, 0, 128, 189, 162, 0, 0, 0, 119, 0, 0, 0],
    [0, 0, 171, 194, 137, 0, 0, 115, 133, 157, 158, 134],
    [151, 185, 222, 190, 0, 0, 0, 0, 151, 179, 160, 120],
    [166, 200, 238, 211, 124, 0, 0, 0, 161, 163, 114, 0],
    [0, 130, 193, 201, 146, 0, 0, 139, 170, 158, 116, 0],
    [0, 0, 149, 186, 154, 0, 0, 0, 152, 171, 139, 0],
    [156, 132, 153, 186, 160, 0, 0, 0, 157, 197, 162, 126],
    [254, 210, 190, 185, 125, 0, 0, 0, 183, 221, 184, 161],
    [255, 200, 162, 138, 0, 0, 0, 0, 168, 211, 183, 180],
    [217, 128, 0, 0, 0, 0, 0, 0, 165, 219, 209, 228],
]  # fmt: skip
EDGES = [
    [0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    [0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0],
    [0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0],
    [0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0],
    [1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
    [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1],
    [1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0],
    [0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1],
    [1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1],
    [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1],
    [0, 0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0],
    [1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0],
]  # fmt: skip
DISTANCES = [
    [2.0, 1.0, 0.0, 1.0, 1.4, 1.0, 1.0, 0.0, 1.0, 2.0, 2.1969, 2.8],
    [2.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.4, 2.1969],
    [1.4, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.4],
    [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0],
    [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.4, 1.0, 1.0],
    [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0],
    [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0],
    [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.4, 1.0, 0.0, 1.0, 1.0, 0.0],
    [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 1.0, 0.0],
    [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 1.4, 1.0],
    [0.0, 0.0, 0.0, 1.0, 1.0, 1.4, 2.0, 1.0, 0.0, 1.0, 2.0, 2.0],
]  # fmt: skip
EQUALIZED = [
    [0, 0, 71, 157, 116, 101, 151, 50, 0, 0, 0, 0],
    [0, 0, 36, 145, 77, 9, 15, 18, 0, 0, 0, 0],
    [0, 0, 42, 196, 136, 0, 0, 0, 21, 0, 0, 0],
    [0, 0, 166, 208, 59, 0, 0, 9, 53, 107, 116, 56],
    [86, 187, 243, 202, 0, 0, 0, 0, 86, 169, 122, 24],
    [148, 216, 249, 231, 27, 0, 0, 0, 128, 139, 3, 0],
    [0, 44, 205, 219, 74, 0, 0, 68, 160, 116, 15, 0],
    [0, 0, 80, 193, 95, 0, 0, 0, 89, 166, 68, 0],
    [101, 50, 92, 193, 122, 0, 0, 0, 107, 211, 136, 36],
    [252, 225, 202, 187, 30, 0, 0, 0, 178, 240, 181, 128],
    [255, 216, 136, 62, 0, 0, 0, 0, 157, 231, 178, 172],
    [234, 42, 0, 0, 0, 0, 0, 0, 145, 237, 222, 246],
]  # fmt: skip


def _by_hsv(change) -> np.ndarray:
    found = np.empty(UNIT.shape)
    for k, y, x in itertools.product(range(2), range(32), range(32)):
        found[k, :, y, x] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*UNIT[k, :, y, x].tolist())))
    return found[:2]


def test_brightness_and_saturation_are_of_hsv() -> None:
    for added in (0.0, 0.3):
        theirs = _by_hsv(lambda h, s, v, a=added: (h, s, min(1, v + a)))
        np.testing.assert_allclose(digital.brightness(UNIT[:2].float(), added, noise()), theirs, atol=1e-5)
    for factor, more in ((1, 0), (0.1, 0), (2.5, 0.2)):
        theirs = _by_hsv(lambda h, s, v, f=factor, m=more: (h, min(1, s * f + m), v))
        np.testing.assert_allclose(
            digital.saturate(UNIT[:2].float(), (factor, more), noise()), theirs, atol=1e-5
        )
    black_and_grey = torch.tensor([0.0, 0.5]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert digital.brightness(black_and_grey, 0.25, noise())[0, :, 0].tolist() == [[0.25, 0.75]] * 3
    red = digital.saturate(black_and_grey, (2, 0.2), noise())[0, :, 0, 1]
    assert red.tolist() == pytest.approx(colorsys.hsv_to_rgb(0, 0.2, 0.5))


def test_contrast_is_about_the_channels_mean() -> None:
    mean = UNIT.mean((2, 3), keepdim=True)
    np.testing.assert_allclose(
        digital.contrast(UNIT.float(), 0.3, noise()), mean + 0.3 * (UNIT - mean), atol=1e-6
    )
    np.testing.assert_allclose(digital.contrast(UNIT.float(), 1, noise()), UNIT, atol=1e-6)


def test_pixels_and_jpeg_are_pillows() -> None:
    for place, picture in enumerate(PICTURES):
        plain = Image.fromarray(picture.permute(1, 2, 0).numpy())
        small = plain.resize((20, 20), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
        found = corruptions.corrupted(PICTURES, "pixelate", 5)[place]
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), np.array(small))
        file = io.BytesIO()
        plain.save(file, "JPEG", quality=40)
        found = corruptions.corrupted(PICTURES, "jpeg_compression", 5)[place]
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), np.array(Image.open(file)))
    with pytest.raises(UserError, match="pictures of 2 channels"):
        corruptions.corrupted(scene(1, 2), "jpeg_compression", 1)


def test_elastic_is_an_affine_map_and_then_scipys_bilinear() -> None:
    still = digital.elastic_transform(UNIT.float(), (0, 0, 0), noise())
    np.testing.assert_allclose(still.numpy(), UNIT.numpy(), atol=2e-4)
    places = np.random.default_rng(0).uniform(-6, 38, (6, 32, 32, 2))
    for corners, mode in ((True, "mirror"), (False, "reflect")):
        ours = digital.sampled(UNIT.float(), torch.from_numpy(places).float(), corners)
        for k, c in itertools.product(range(6), range(3)):
            where = places[k, ..., 1], places[k, ..., 0]
            theirs = ndimage.map_coordinates(UNIT[k, c].numpy(), where, order=1, mode=mode)
            np.testing.assert_allclose(ours[k, c].numpy(), theirs, atol=2e-5)
    # three moved points and back: by solving for the map of each picture alone
    drawn = noise().uniform("points", -0.08 * 32, 0.08 * 32, 6, 3, 2).double().numpy()
    before = 16 + 10 * np.array([[1, 1], [1, -1], [-1, -1]])
    ours = digital.elastic_transform(UNIT.float(), (0, 0, 0.08), noise())
    ys, xs = np.mgrid[:32, :32]
    for k in range(6):
        back = np.linalg.solve(np.c_[before + drawn[k], np.ones(3)], before)
        x, y = np.moveaxis(np.stack([xs, ys, np.ones_like(xs)], -1) @ back, -1, 0)
        theirs = ndimage.map_coordinates(UNIT[k, 1].numpy(), (y, x), order=1, mode="mirror")
        np.testing.assert_allclose(ours[k, 1].numpy(), theirs, atol=1e-3)


def test_speckles_are_in_proportion() -> None:
    grey = torch.full((40, 3, 32, 32), 0.4)
    assert float(corruptions.noise.speckle_noise(grey, 0.2, noise()).std()) == pytest.approx(0.08, abs=0.001)
    assert not corruptions.noise.speckle_noise(torch.zeros(2, 3, 8, 8), 0.2, noise()).any()


# Arithmetic ------------------------------------------------------------------------------------------------------------


def test_corruption_errors_by_hand() -> None:
    errors, reference = (
        torch.tensor([[10.0, 30], [20, 20], [5, 5]]),
        torch.tensor([[10.0, 10], [40, 40], [0, 0]]),
    )
    found = metrics.corruption_errors(errors, reference).tolist()
    assert found[:2] == [200, 50]
    assert math.isnan(found[2])
    # clean 5 and 0: (5 + 25) / 20, 30 / 80
    relative = metrics.relative_corruption_errors(errors, 5, reference, 0).tolist()
    assert relative[:2] == [150, 37.5]
    assert math.isnan(relative[2])
    # keeps half where the reference keeps 0.8
    assert metrics.relative_change(40, 80, 72, 90) == pytest.approx(-37.5)
    assert metrics.relative_change(72, 90, 72, 90) == pytest.approx(0, abs=1e-12)
    assert math.isnan(metrics.relative_change(40, 0, 72, 90))


# The probe -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(bench: Bench) -> tuple[View, View]:
    one = drawn(TINY, bench)
    other: State = one.with_groups(weights={k: v.flip(0) for k, v in one.weights.items()})
    return View(one, bench, "dense"), View(other, bench, "pruned")


def figures(rows: list[Metric]) -> dict[tuple[str, str], float | None]:
    return {(m.name, m.group): m.value for m in rows}


def test_the_probe_against_figures_made_by_hand(two: tuple[View, View], bench: Bench) -> None:
    dense, pruned = two
    settings = Corruptions(("contrast", "fog", "speckle_noise"), (2, 5), examples=90)
    found = figures(list(settings.measure(pruned, dense, bench)))
    images, labels = bench.feed("test")["images"][:90], bench.feed("test").labels[:90].numpy()

    def said(view: View, kind: str, severity: int) -> np.ndarray:
        pictures = corruptions.corrupted(images, kind, severity)
        with torch.inference_mode():
            return view.module(bench.task.normalised(pictures)).argmax(1).numpy()

    clean = {v: 100 * np.mean(v.answers[:90].numpy() == labels) for v in two}
    right = {}
    for kind, severity, view in itertools.product(settings.kinds, (2, 5), two):
        right[kind, severity, view] = 100 * np.mean(said(view, kind, severity) == labels)
    ratios = {}
    for kind in settings.kinds:
        for severity in (2, 5):
            value = found["corrupted_top1", f"{kind}, severity {severity}"]
            assert value == pytest.approx(right[kind, severity, pruned])
        errors = {v: 200 - right[kind, 2, v] - right[kind, 5, v] for v in two}
        ratios[kind] = 100 * errors[pruned] / errors[dense]
        assert found["corruption_error_ratio", kind] == pytest.approx(ratios[kind])
        agreed = np.mean([np.mean(said(dense, kind, s) == said(pruned, kind, s)) for s in (2, 5)])
        assert found["corrupted_label_loyalty", kind] == pytest.approx(100 * agreed)
    assert found["corruption_error_ratio", ""] == pytest.approx((ratios["contrast"] + ratios["fog"]) / 2)
    mean = {v: np.mean([right[k, s, v] for k in settings.kinds for s in (2, 5)]) for v in two}
    assert found["corrupted_top1", ""] == pytest.approx(mean[pruned])
    change = 100 * (mean[pruned] / clean[pruned] / (mean[dense] / clean[dense]) - 1)
    assert found["corruption_relative_change", ""] == pytest.approx(change)
    assert 16 < found["corrupted_probability_loyalty", ""] < 100


def test_the_reference_against_itself(two: tuple[View, View], bench: Bench) -> None:
    dense, _ = two
    found = figures(list(Corruptions(("contrast",), (5,)).measure(dense, dense, bench)))
    assert found["corruption_error_ratio", ""] == 100
    assert found["corruption_relative_change", ""] == pytest.approx(0, abs=1e-12)
    assert found["corrupted_label_loyalty", ""] == found["corrupted_probability_loyalty", ""] == 100


def test_pictures_and_the_references_answers_are_made_once(
    two: tuple[View, View], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = [], []
    corrupt, say = spoilt.corrupted, spoilt.log_probs
    monkeypatch.setattr(spoilt, "corrupted", lambda *given: made.append(given[1:]) or corrupt(*given))
    monkeypatch.setattr(
        spoilt, "log_probs", lambda view, *given: asked.append(view.label) or say(view, *given)
    )
    bench.feeds.clear()  # pictures of another test's feed aren't these
    dense, pruned = two
    settings = Corruptions(("contrast", "brightness"), (1, 2), examples=20)
    first = list(settings.measure(pruned, dense, bench))
    assert list(settings.measure(pruned, dense, bench)) == first
    assert made == [(k, s) for k in settings.kinds for s in (1, 2)]
    assert (asked.count("dense"), asked.count("pruned")) == (4, 8)
    kept = spoilt.Kept(10)
    assert [kept.get(k, lambda k=k: torch.zeros(k, dtype=torch.uint8)).numel() for k in (6, 5, 4)] == [
        6,
        5,
        4,
    ]
    assert sorted(kept.known) == [4, 6], "what doesn't fit is made again, what came first stays"


def test_grey_pictures_have_no_saturation(two: tuple[View, View], bench: Bench) -> None:
    dense, pruned = two
    assert bench.task.shape[0] == 1
    (none,) = Corruptions(("saturate",)).measure(pruned, dense, bench)
    assert none.value is None
    assert "the pictures have none" in none.note
    found = list(Corruptions(("saturate", "contrast"), (1,)).measure(pruned, dense, bench))
    assert "without saturate" in found[0].note
    assert not any("saturate" in m.group for m in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("fogg",)}, "unknown kind 'fogg'.*fog"),
        ({"kinds": ()}, "must name at least one"),
        ({"kinds": ("fog", "fog")}, "each once"),
        ({"kinds": "fog"}, "must be a list"),
        ({"severities": (0,)}, "severity 0, must be a whole number from 1 to 5"),
        ({"severities": (True,)}, "severity True"),
        ({"severities": (2.5,)}, "severity 2.5"),
        ({"severities": 3}, "severities is 3, must be a list"),
        ({"examples": 0}, "examples is 0"),
    ],
)
def test_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Corruptions(**settings)


# Published sets --------------------------------------------------------------------------------------------------------


def published(folder: Path, bench: Bench, darker: int = 1) -> np.ndarray:
    """The test split at five severities as CIFAR-10-C's files hold it: severity s is every pixel over s + darker."""
    feed = bench.feed("test")
    count = int(feed.rows.max()) + 1
    source = np.zeros((count, *np.moveaxis(feed["images"].numpy(), 1, -1).shape[1:]), np.uint8)
    labels = np.zeros(count, np.int64)
    source[feed.rows.numpy()], labels[feed.rows.numpy()] = (
        np.moveaxis(feed["images"].numpy(), 1, -1),
        feed.labels,
    )
    np.save(folder / "fog.npy", np.concatenate([source // (s + darker) for s in SEVERITIES]))
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    return source


def test_published_arrays_are_read_at_the_examples_places(
    two: tuple[View, View], bench: Bench, tmp_path: Path
) -> None:
    dense, pruned = two
    published(tmp_path, bench)
    found = list(Corruptions(("fog",), (2,), examples=40, folder=str(tmp_path)).measure(pruned, dense, bench))
    head = bench.feed("test").head(40)
    with torch.inference_mode():
        answers = pruned.module(bench.task.normalised(head["images"] // 3)).argmax(1)
    by = figures(found)
    assert by["corrupted_top1", "fog, severity 2"] == pytest.approx(
        100 * float((answers == head.labels).double().mean())
    )
    assert "published files" in found[0].note


def test_published_arrays_are_never_trusted(two: tuple[View, View], bench: Bench, tmp_path: Path) -> None:
    dense, pruned = two
    source = published(tmp_path, bench)
    shape, classes = bench.task.shape, len(bench.task.classes)

    def refuses(message: str) -> None:
        with pytest.raises(UserError, match=message) as raised:
            corrupted_set(tmp_path, "fog", 1, shape, classes)
        assert "\n" not in str(raised.value)

    good, labels = np.load(tmp_path / "fog.npy"), np.load(tmp_path / "labels.npy")
    np.save(tmp_path / "fog.npy", good[:, :, :-1])
    refuses(r"must be uint8 \(n, 8, 8, 1\)")
    np.save(tmp_path / "fog.npy", good.astype(np.float32))
    refuses("float32")
    np.save(tmp_path / "fog.npy", np.array([object()]), allow_pickle=True)
    refuses("no .npy array that could be read")
    (tmp_path / "fog.npy").write_bytes(b"nonsense")
    refuses("no .npy array that could be read")
    np.save(tmp_path / "fog.npy", good[:-1])
    refuses("whole numbers, one a picture")
    np.save(tmp_path / "labels.npy", labels[:-1])
    refuses("must be 5 times a test set")
    np.save(tmp_path / "fog.npy", good)
    np.save(tmp_path / "labels.npy", labels + 3)
    refuses("must be 0 to 9")
    (tmp_path / "labels.npy").unlink()
    refuses("labels.npy is missing")
    np.save(tmp_path / "labels.npy", (labels + 1) % 10)
    settings = Corruptions(("fog",), (2,), folder=str(tmp_path))
    with pytest.raises(UserError, match="aren't the test split's labels"):
        list(settings.measure(pruned, dense, bench))
    np.save(tmp_path / "fog.npy", np.concatenate([source[:3]] * 5))
    np.save(tmp_path / "labels.npy", np.zeros(15, np.int64))
    with pytest.raises(UserError, match="3 pictures a severity"):
        list(settings.measure(pruned, dense, bench))


def test_cifar_10_1_is_read(two: tuple[View, View], bench: Bench, tmp_path: Path) -> None:
    dense, pruned = two
    head = bench.feed("test").head(30)
    np.save(tmp_path / "cifar10.1_v6_data.npy", np.moveaxis(head["images"].numpy(), 1, -1))
    np.save(tmp_path / "cifar10.1_v6_labels.npy", head.labels.numpy().astype(np.int32))
    found = figures(list(ShiftedSets(str(tmp_path)).measure(pruned, dense, bench)))
    right = 100 * float((pruned.answers[:30] == head.labels).double().mean())
    assert found["shifted_top1", "cifar10.1 v6"] == pytest.approx(right)
    agreed = 100 * float((pruned.answers[:30] == dense.answers[:30]).double().mean())
    assert found["shifted_label_loyalty", "cifar10.1 v6"] == pytest.approx(agreed)
    with pytest.raises(UserError, match=r"cifar10.1_v4_data.npy is missing"):
        list(ShiftedSets(str(tmp_path), ("v4",)).measure(pruned, dense, bench))
    with pytest.raises(UserError, match="unknown version 'v5'"):
        ShiftedSets(str(tmp_path), ("v5",))
    (none,) = ShiftedSets().measure(pruned, dense, bench)
    assert none.value is None
    assert "no folder is named" in none.note


# The report ------------------------------------------------------------------------------------------------------------


def corrupted_rows(kinds: tuple[str, ...] = ("fog", "glass_blur")) -> Records:
    rows = []
    for series, order, lost in (
        ("dense", 0, 0.0),
        ("magnitude", 1, 4.0),
        ("magnitude", 2, 12.0),
        ("int8", 1, 1.0),
    ):
        like = {"series": series, "order": order, "density": 0.25**order, "probe": "corruptions"}
        rows += accuracies(series, order, 0.25**order, {0: 90 - lost})
        for name, value in (("corrupted_top1", 70 - lost), ("corruption_error_ratio", 100 + 3 * lost),
                            ("corruption_relative_change", -lost), ("corrupted_label_loyalty", 100 - lost)):  # fmt: skip
            note = "mean over 2 kinds, severities 1, 2 of 5" if name == "corruption_relative_change" else ""
            rows.append(record(**like, metric=name, value=value, note=note))
            if name != "corrupted_top1":
                rows += [record(**like, metric=name, value=value, group=k) for k in kinds]
        for k, s in itertools.product(kinds, (1, 2)):
            rows.append(
                record(
                    **like, metric="corrupted_top1", value=75 - 4 * s - lost * s, group=f"{k}, severity {s}"
                )
            )
    return Records(rows)


def test_the_report_shows_kinds_and_severities() -> None:
    (panel,) = panels(corrupted_rows())
    made = told.section(panel, "")
    whole, heat = made.tables
    assert [h[0] for h in whole.heads][1:4] == ["Corrupted top-1", "mCE", "Relative change"]
    assert heat.title.endswith("final: magnitude, 6.2 % density")
    assert heat.groups == (("Change, by severity", 2), ("Dense, %, by severity", 2))
    assert len(heat.heads) == 4
    assert [r.label for r in heat.rows] == ["fog", "glass blur"]
    # severity 2: 12 x 2 points below dense, which has 67 %
    assert [c.text for c in heat.rows[0].cells] == ["−12.0", "−24.0", "71.0", "67.0"]
    assert heat.rows[0].cells[1].shade > ""
    assert not heat.rows[0].cells[2].shade
    titles = [t.title for t in made.more]
    assert sum(t.startswith("Corrupted top-1 against") for t in titles) == 1
    assert any(t.startswith("mCE by kind") for t in titles)


def test_the_section_vanishes_and_escapes(tmp_path: Path) -> None:
    (panel,) = panels(Records(r for r in corrupted_rows() if r.probe == "accuracy"))
    assert told.section(panel, "").empty
    page = write_report(corrupted_rows(("<script>fog", "x")), tmp_path, "t").read_text(encoding="utf-8")
    assert "&lt;script&gt;fog" in page
    assert "<script>fog" not in page
    assert "Other measurements" not in page
