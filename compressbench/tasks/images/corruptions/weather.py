"""Snow, frost, fog and spatter."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compressbench.tasks.images.corruptions.blurs import enlarged, filtered, moved, smoothed
from compressbench.tasks.images.corruptions.noise import Noise

LUMA = (0.299, 0.587, 0.114)
TEXTURES = ("frost1", "frost2", "frost2", "frost4", "frost5")
"""As published: one of the first five of six, of which two are the same picture."""
WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)
WEAK, STRONG = 50, 150
"""Of Canny's edges."""
FAR = 20.0


def grey(images: Tensor) -> Tensor:
    """(n, 1, h, w) brightness: that of the eye for three channels, else their mean."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return torch.einsum("nchw,c->nhw", images, torch.tensor(LUMA))[:, None]


def coloured(colour: tuple[float, ...], channels: int) -> Tensor:
    """(channels, 1, 1) of one colour; its brightness where there aren't three channels."""
    found = colour if channels == 3 else (sum(a * b for a, b in zip(LUMA, colour, strict=True)),) * channels
    return torch.tensor(found).view(-1, 1, 1)


def snow(images: Tensor, strength: tuple[float, ...], noise: Noise) -> Tensor:
    """Whitened, flakes in front: (mean, deviation, zoom, threshold, radius and deviation of the smear, weight)."""
    mean, deviation, zoom, threshold, radius, sigma, weight = strength
    n, _, h, w = images.shape
    flakes = enlarged(mean + deviation * noise.normal("flakes", n, 1, h, w), zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = moved((flakes * 255).floor() / 255, radius, sigma, noise.uniform("angle", -135, -45, n))
    white = weight * images + (1 - weight) * torch.maximum(images, grey(images) * 1.5 + 0.5)
    return white + flakes + flakes.flip(2, 3)


@functools.cache
def textures() -> tuple[Tensor, ...]:
    """float (3, height, width) in [0, 1], see ``frost/NOTICE``."""
    from PIL import Image

    found = []
    for name in TEXTURES:
        with Image.open(Path(__file__).parent / "frost" / f"{name}.png") as picture:
            found.append(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255)
    return tuple(found)


def frost(images: Tensor, strength: tuple[float, float], noise: Noise) -> Tensor:
    """A cut-out of a texture over the picture: (weight of the picture, of the frost).

    A picture larger than the textures gets them enlarged as far as needed.
    """
    n, c, h, w = images.shape
    pictures = [_covering(texture, h, w) for texture in textures()]
    which = noise.named("texture").integers(0, len(pictures), n).tolist()
    places = noise.named("place").random((n, 2)).tolist()
    cuts = []
    for texture, (down, right) in zip((pictures[k] for k in which), places, strict=True):
        top, left = int(down * (texture.shape[1] - h)), int(right * (texture.shape[2] - w))
        cuts.append(texture[:, top : top + h, left : left + w])
    ice = torch.stack(cuts)
    return strength[0] * images + strength[1] * (ice if c == 3 else grey(ice))


def _covering(texture: Tensor, h: int, w: int) -> Tensor:
    high, wide = texture.shape[1:]
    factor = max((h + 1) / high, (w + 1) / wide)
    if factor <= 1:
        return texture
    size = [int(np.ceil(high * factor)), int(np.ceil(wide * factor))]
    return F.interpolate(texture[None], size, mode="bilinear", align_corners=False)[0]


def plasma(n: int, size: int, decay: float, noise: Noise) -> Tensor:
    """(n, size, size) heights in [0, 1] by the diamond-square algorithm, ``size`` a power of two, joined at the edges."""
    heights = np.zeros((n, size, size), np.float64)
    step, wobble = size, 100.0

    def around(total: np.ndarray, name: str) -> np.ndarray:
        drawn = noise.named(f"{name} {step}").random(total.shape)
        return total / 4 + wobble * wobble * (2 * drawn - 1)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        heights[:, half::step, half::step] = around(pairs + np.roll(pairs, -1, 2), "squares")
        middles, corners = heights[:, half::step, half::step], heights[:, ::step, ::step]
        beside = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 2)
        heights[:, ::step, half::step] = around(beside, "beside")
        below = middles + np.roll(middles, 1, 2) + corners + np.roll(corners, -1, 1)
        heights[:, half::step, ::step] = around(below, "below")
        step, wobble = half, wobble / decay
    heights -= heights.min((1, 2), keepdims=True)
    return torch.from_numpy(heights / heights.max((1, 2), keepdims=True)).float()


def fog(images: Tensor, strength: tuple[float, float], noise: Noise) -> Tensor:
    """Plasma added, the whole darkened to the picture's own brightest value: (weight, decay of the plasma's waves)."""
    weight, decay = strength
    n, _, h, w = images.shape
    size = 1 << (max(h, w, 2) - 1).bit_length()
    brightest = images.amax((1, 2, 3), keepdim=True)
    clouds = plasma(n, size, decay, noise)[:, None, :h, :w]
    return (images + weight * clouds) * brightest / (brightest + weight)


def spatter(images: Tensor, strength: tuple[float, ...], noise: Noise) -> Tensor:
    """Drops of water or, where the last is 1, of mud: (mean, deviation, blur, threshold, blend, mud)."""
    mean, deviation, sigma, threshold, blend, mud = strength
    n, c, h, w = images.shape
    liquid = smoothed(mean + deviation * noise.normal("liquid", n, 1, h, w), sigma)
    if mud:
        cover = smoothed((liquid > threshold).float(), blend)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return images * (1 - cover) + coloured(MUD, c) * cover
    drops = (torch.where(liquid < threshold, 0.0, liquid).clamp(0, 1) * 255).floor()
    shine = drops * _shine(drops)
    most = shine.amax((2, 3), keepdim=True)
    return images + coloured(WATER, c) * (blend * shine / torch.where(most > 0, most, 1.0))


def _shine(drops: Tensor) -> Tensor:
    """How light falls on drops (n, 1, h, w) of whole numbers 0 to 255: whole numbers in the same range."""
    near = distances(edges(drops)).clamp(max=FAR)
    box = torch.full((3, 3), 1 / 9)
    relief = equalized((filtered(near, box) + 1e-4).floor())
    light = filtered(relief, torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])).clamp(0, 255)
    return filtered(light, box).round()


def edges(pictures: Tensor) -> Tensor:
    """bool (n, 1, h, w): Canny's edges of whole numbers, Sobel's 3 x 3, |dx| + |dy|, thresholds 50 and 150 (OpenCV's)."""
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    dx, dy = filtered(pictures, sobel, "edge"), filtered(pictures, sobel.T, "edge")
    across, down = dx.abs(), dy.abs()
    size = across + down
    around = F.pad(size, (1, 1, 1, 1))
    h, w = size.shape[-2:]

    def beside(y: int, x: int) -> Tensor:
        return around[..., 1 + y : 1 + y + h, 1 + x : 1 + x + w]

    flat = down * 2**15 < across * 13573
    steep = down * 2**15 > across * (13573 + 2**16)
    rising = (dx < 0) != (dy < 0)
    first = torch.where(
        flat,
        beside(0, -1),
        torch.where(steep, beside(-1, 0), torch.where(rising, beside(-1, 1), beside(-1, -1))),
    )
    second = torch.where(
        flat, beside(0, 1), torch.where(steep, beside(1, 0), torch.where(rising, beside(1, -1), beside(1, 1)))
    )
    crest = (size > first) & torch.where(flat | steep, size >= second, size > second) & (size > WEAK)
    found = crest & (size > STRONG)
    while True:
        grown = (F.max_pool2d(found.float(), 3, 1, 1) > 0) & crest
        if torch.equal(grown, found):
            return found
        found = grown


def distances(marked: Tensor) -> Tensor:
    """(n, 1, h, w) distance to the nearest marked pixel, right up to 20: straight steps count 1, diagonal ones 1.4,
    a knight's 2.1969 (OpenCV's with a mask of 5 x 5)."""
    h, w = marked.shape[-2:]
    found = torch.where(marked, 0.0, 2 * FAR)
    steps = [(1, 0, 1.0), (1, 1, 1.4), (2, 1, 2.1969)]
    steps = [(a * y, b * x, d) for y, x, d in steps for a in (1, -1) for b in (1, -1)]
    steps = list(dict.fromkeys([*steps, *((x, y, d) for y, x, d in steps)]))
    while True:
        around = F.pad(found, (2, 2, 2, 2), value=2 * FAR)
        nearer = found
        for y, x, length in steps:
            nearer = torch.minimum(nearer, around[..., 2 + y : 2 + y + h, 2 + x : 2 + x + w] + length)
        if torch.equal(nearer, found):
            return found
        found = nearer


def equalized(pictures: Tensor) -> Tensor:
    """(n, 1, h, w) of whole numbers 0 to 255, spread so that all are as frequent, each picture by itself."""
    n, _, h, w = pictures.shape
    flat = pictures.view(n, h * w).long()
    counts = torch.zeros(n, 256, dtype=torch.long).scatter_add_(1, flat, torch.ones_like(flat))
    first = flat.amin(1, keepdim=True)
    least = counts.gather(1, first)
    rest = h * w - least
    spread = ((counts.cumsum(1) - least) * (255 / rest.clamp(min=1))).round()
    found = spread.gather(1, flat)
    return torch.where(rest > 0, found, flat).view(n, 1, h, w).float()
