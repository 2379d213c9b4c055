"""A cascade of rectangle features (Viola & Jones, CVPR 2001) as a module: windows in, "a face" or "no face" out.

Every stage is a sum of votes. Feature j of a window is a weighted sum of pixels in rectangles, by look-ups in the
window's integral image, over (pixels x standard deviation); it votes one thing below its threshold, another from it on.
A window whose votes sum to less than the stage's threshold is no face and is asked nothing more. That is an early exit:
the parts are the stages, and the cascade's answer is the same whether rejected windows really leave or not.

All sums are whole numbers below 2^24, so that they are exact in float32, in any order and any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressbench.errors import UserError

BOLD = 4.0
"""The logit of an answer that stands, at least: rejected by a stage, or let through by the last one."""
OPEN = 1e-3
"""The logit for a face of a window that goes on: let through so far, nothing else is known."""
SURE = 0.75
"""Probability between the two: the threshold of ``max_probability`` by which exactly the rejected windows leave."""
AT_ONCE = 1 << 22
"""Look-ups made at once, that memory stays small."""


def integral(pixels: Tensor) -> Tensor:
    """Integral images, float32 (n, h + 1, w + 1) of whole-numbered (n, h, w): entry (y, x) sums all above and left of it.

    A rectangle's sum is four look-ups: (y + h, x + w) - (y, x + w) - (y + h, x) + (y, x).
    """
    return F.pad(pixels.cumsum(1).cumsum(2), (1, 0, 1, 0))


def inverse_scale(pixels: Tensor, whole: Tensor, border: int, least: float) -> Tensor:
    """(n,) 1 / (pixels x standard deviation) of each window, float32; 0 where it varies too little to be asked.

    Args:
        pixels: (n, h, w), whole numbers from 0 to 255.
        whole: their integral images.
        border: pixels at each edge that the deviation is not taken of (OpenCV: 1).
        least: grey levels; a deviation of this or less is too little.
    """
    height, width = pixels.shape[1:]
    inner = pixels[:, border : height - border, border : width - border]
    area = inner.shape[1] * inner.shape[2]
    low_y, low_x, high_y, high_x = border, border, height - border, width - border
    total = (
        whole[:, high_y, high_x] - whole[:, low_y, high_x] - whole[:, high_y, low_x] + whole[:, low_y, low_x]
    ).double()
    squares = (inner * inner).sum(2).double().sum(1)
    spread = (area * squares - total * total).clamp(min=0).sqrt()
    flat = spread <= area * least
    return torch.where(flat, 0.0, 1 / torch.where(flat, 1.0, spread)).float()


def lookups(rectangles: Tensor, weights: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(places, coefficients), both (features, look-ups): which entries of the integral image, and by what.

    Corners that rectangles share are looked up once, so that features of two, three and four rectangles have 6, 8 and 9
    look-ups; shorter rows are filled up with coefficient 0.

    Args:
        rectangles: int (features, rectangles, 4): x, y, width, height; height 0 stands for none.
        weights: (features, rectangles).
        size: height and width of the window.
    """
    x, y, width, height = rectangles.long().unbind(2)
    step = size[1] + 1
    corners = torch.stack(
        [(y + height) * step + x + width, y * step + x + width, (y + height) * step + x, y * step + x], 2
    )
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])
    dense = torch.zeros(len(rectangles), (size[0] + 1) * step)
    dense.scatter_add_(1, corners.flatten(1), (weights[:, :, None] * signs).flatten(1))
    most = max(1, int(dense.ne(0).sum(1).amax())) if len(dense) else 1
    places = dense.ne(0).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, dense.gather(1, places)


def values(whole: Tensor, scale: Tensor, places: Tensor, coefficients: Tensor) -> Tensor:
    """(n, features) float32: what each feature is on each window, by the integral images flattened to (n, places)."""
    n, (features, most) = len(whole), places.shape
    step = max(1, AT_ONCE // max(1, n * most))
    found = [
        (whole[:, places[k : k + step].flatten()].view(n, -1, most) * coefficients[k : k + step]).sum(2)
        for k in range(0, features, step)
    ]
    return torch.cat(found, 1) * scale[:, None]


def begun(
    x: Tensor, mean: float, std: float, size: tuple[int, ...], border: int, least: float
) -> tuple[Tensor, Tensor]:
    """(integral images (n, (h + 1)(w + 1)), scale (n,)) of normalised windows (n, 1, h, w); see ``CascadeOfFeatures``."""
    pixels = ((x[:, 0] * std + mean) * 255).round()
    if pixels.shape[1:] != size:
        grown = F.interpolate(pixels[:, None], size, mode="bilinear", align_corners=False)
        pixels = grown[:, 0].round().clamp(0, 255)
    whole = integral(pixels)
    return whole.flatten(1), inverse_scale(pixels, whole, border, least)


class CascadeOfFeatures(nn.Module):
    """Stages of rectangle features, each of which may say no.

    Class 0 or 1 is the face, as ``face`` says. By itself it answers for all windows by the last stage and all before it:
    a face is what no stage rejects. Tensors: ``rectangles`` int16 (features, most, 4), x, y, width, height; ``weights``
    (features, most) of the rectangles; ``thresholds`` (features,); ``votes`` (features, 2), below the threshold and from
    it on, of which AdaBoost's are (alpha, 0) for polarity +1 and (0, alpha) for -1; ``stage_thresholds`` (stages,).

    Args:
        stages: features of each stage.
        most: rectangles that a feature has at most.
        size: height and width of the window; a picture of another size is scaled to it (bilinear).
        shape: (1, height, width) of what comes in.
        mean, std: of the pixels, in [0, 1], by which what comes in was normalised.
        face: the class that is looked for.
        border, least: see ``inverse_scale``.

    Raises:
        UserError: there is no stage, an empty one, or what comes in isn't grey.
    """

    rectangles: Tensor
    weights: Tensor
    thresholds: Tensor
    votes: Tensor
    stage_thresholds: Tensor

    def __init__(
        self,
        stages: Sequence[int],
        most: int,
        size: Sequence[int],
        shape: Sequence[int],
        mean: float = 0.0,
        std: float = 1.0,
        face: int = 1,
        border: int = 0,
        least: float = 0.0,
    ) -> None:
        super().__init__()
        if not stages or any(type(n) is not int or n < 1 for n in stages):
            raise UserError("stages: a list of numbers of features, 1 or more each, is wanted")
        if shape[0] != 1:
            raise UserError(f"a cascade of features reads grey windows, these have {shape[0]} channels")
        if face not in (0, 1):
            raise UserError(f"face: {face!r} is neither class 0 nor 1")
        self.stages, self.size, self.shape = tuple(stages), tuple(size), tuple(shape)
        self.mean, self.std, self.face, self.border, self.least = mean, std, face, border, least
        features = sum(stages)
        self.register_buffer("rectangles", torch.zeros(features, most, 4, dtype=torch.int16))
        self.register_buffer("weights", torch.zeros(features, most))
        self.register_buffer("thresholds", torch.zeros(features))
        self.register_buffer("votes", torch.zeros(features, 2))
        self.register_buffer("stage_thresholds", torch.zeros(len(stages), dtype=torch.float64))
        self.register_load_state_dict_post_hook(_others)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) to logits (n, 2)."""
        live: tuple[Tensor, ...] = (x,)
        for part in self.parts():
            live = part(*live)
            logits, live = live[0], live[1:]
        return logits

    def parts(self) -> list[Stage]:
        """The stages, made once: as long as the tensors are what they were when they were loaded, or moved."""
        if "_ready" not in self.__dict__:
            with torch.inference_mode(False), torch.no_grad():
                self.__dict__["_ready"] = self._made()
        return list(self.__dict__["_ready"])

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Moves the module; the stages are made anew."""
        self.__dict__.pop("_ready", None)
        return super()._apply(*args, **kwargs)

    def _made(self) -> list[Stage]:
        self._check()
        places, coefficients = lookups(self.rectangles.cpu(), self.weights.cpu(), self.size)
        made: list[Stage] = []
        start = 0
        for place, count in enumerate(self.stages):
            own = slice(start, start + count)
            used = coefficients[own].ne(0)
            most = max(1, int(used.sum(1).amax()))
            made.append(
                Stage(
                    places[own, :most].to(self.weights.device),
                    coefficients[own, :most].to(self.weights.device),
                    self.thresholds[own],
                    self.votes[own],
                    self.stage_thresholds[place],
                    self if place == 0 else None,
                    place == len(self.stages) - 1,
                    self.face,
                    int(used.sum()),
                ).eval()
            )
            start += count
        return made

    def exit_names(self) -> list[str]:
        """What each stage is called."""
        return [f"stage {place + 1}" for place in range(len(self.stages))]

    @property
    def own_macs(self) -> int:
        """Look-ups of all features of a window, each one multiplied and added (see ``models.counting``)."""
        return sum(part.own_macs for part in self.parts())

    def _check(self) -> None:
        """Refuses rectangles that leave the window, as a store file that somebody made by hand may have.

        Raises:
            UserError: see above.
        """
        x, y, width, height = self.rectangles.long().unbind(2)
        inside = (x >= 0) & (y >= 0) & (width >= 0) & (height >= 0)
        inside &= (x + width <= self.size[1]) & (y + height <= self.size[0])
        if not bool(inside.all()):
            raise UserError(f"rectangles: one leaves the window of {self.size[1]} x {self.size[0]} pixels")


def _others(module: nn.Module, _: Any) -> None:
    """Its tensors are others now."""
    module.__dict__.pop("_ready", None)


class Stage(nn.Module):
    """One stage: votes of its features against its threshold.

    It takes, and gives on, the integral images, their scale, and what was said so far: the logit of the first stage that
    rejected a window, 0 where none has. The first stage takes the windows themselves.
    """

    places: Tensor
    coefficients: Tensor
    thresholds: Tensor
    below: Tensor
    above: Tensor
    least: Tensor

    def __init__(
        self,
        places: Tensor,
        coefficients: Tensor,
        thresholds: Tensor,
        votes: Tensor,
        least: Tensor,
        begins: CascadeOfFeatures | None,
        ends: bool,
        face: int,
        look_ups: int,
    ) -> None:
        super().__init__()
        for name, tensor in (
            ("places", places),
            ("coefficients", coefficients),
            ("thresholds", thresholds),
            ("below", votes[:, 0]),
            ("above", votes[:, 1]),
            ("least", least),
        ):
            self.register_buffer(name, tensor.detach().clone())
        self.begins: tuple[Any, ...] = ()
        if begins is not None:
            self.begins = (begins.mean, begins.std, begins.size, begins.border, begins.least)
        self.ends, self.face, self.own_macs = ends, face, look_ups

    @property
    def features(self) -> int:
        """How many it has."""
        return len(self.thresholds)

    def sums(self, whole: Tensor, scale: Tensor) -> Tensor:
        """(n,) float64, the votes."""
        found = values(whole, scale, self.places, self.coefficients)
        return torch.where(found < self.thresholds, self.below, self.above).double().sum(1)

    def forward(self, *live: Tensor) -> tuple[Tensor, ...]:
        """What is alive before the stage to (logits (n, 2), what is alive after it)."""
        if self.begins:
            whole, scale = begun(live[0], *self.begins)
            said = torch.where(scale == 0, -BOLD, 0.0)
        else:
            whole, scale, said = live
        over = self.sums(whole, scale) - self.least
        rejected = torch.where(over < 0, over - BOLD, 0.0).float()
        said = torch.where(said < 0, said, rejected)
        through = (over.clamp(min=0) + BOLD).float() if self.ends else torch.full_like(said, OPEN)
        face = torch.where(said < 0, said, through)
        logits = torch.stack([-face / 2, face / 2] if self.face == 1 else [face / 2, -face / 2], 1)
        return (logits,) if self.ends else (logits, whole, scale, said)
