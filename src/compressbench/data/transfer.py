"""Data sets made on the way, as a state's group ``data``: ``images`` uint8 (n, c, h, w), ``labels`` int64, -1 unknown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressbench.bench import Bench, derive_seed
from compressbench.data.folder import read_pictures
from compressbench.data.munge import munge
from compressbench.data.splits import pick, seats
from compressbench.errors import UserError

if TYPE_CHECKING:
    from compressbench.state import State


def few(state: State, bench: Bench, settings: Any) -> State:
    """Applies a ``stages.transfer.Few``.

    Raises:
        UserError: more labels are asked for than there are.
    """
    images, labels = source(bench, settings.data)
    known = torch.nonzero(labels >= 0).squeeze(1)
    counts = np.bincount(labels[known].numpy(), minlength=len(bench.dataset.classes))
    if settings.labels > counts.sum():
        raise UserError(f"labels: {settings.labels} is more than the {counts.sum()} examples with a label")
    shares = seats(counts, settings.labels)
    random = np.random.RandomState(derive_seed(bench.seed, settings.draw, "few") % 2**32)
    chosen = known[torch.from_numpy(pick(labels[known].numpy(), shares, random))]
    kept = torch.full_like(labels, -1)
    kept[chosen] = labels[chosen]
    return (
        _carrying(state, images, kept)
        if settings.unlabelled
        else _carrying(state, images[chosen], labels[chosen])
    )


def munged(state: State, bench: Bench, settings: Any) -> State:
    """Applies a ``stages.transfer.Munge``; pixels are rounded and kept within 0 and 255."""
    images, labels = source(bench, settings.data)
    generator = bench.generator("munge")
    flat = images.flatten(1).float()
    made = munge(flat, settings.copies, settings.p, settings.s, generator)
    pixels = made.round().clamp(0, 255).to(torch.uint8).view(-1, *images.shape[1:])
    return _together(state, images, labels, pixels, settings.keep)


def pictures(state: State, bench: Bench, settings: Any) -> State:
    """Applies a ``stages.transfer.Pictures``: scaled to the data set's size.

    Raises:
        UserError: a picture can't be read, or lies outside the folder.
    """
    channels, height, width = bench.dataset.shape
    found = read_pictures(Path(settings.root).expanduser(), settings.files(), (height, width), channels)
    images, labels = source(bench, settings.data)
    return _together(state, images, labels, torch.from_numpy(found), settings.keep)


def source(bench: Bench, data: str | None) -> tuple[Tensor, Tensor]:
    """Images and labels on the CPU: of the state that is named, or of the train split.

    Raises:
        UserError: that state carries no data set.
    """
    if data is None:
        split = bench.dataset.split("train")
        return torch.from_numpy(split.images), torch.from_numpy(split.labels)
    group = bench.references[data].group("data")
    if not group:
        raise UserError(f"data: {data} carries no data set; a stage such as data/few or data/munge makes one")
    return group["images"], group["labels"]


def _together(state: State, images: Tensor, labels: Tensor, more: Tensor, keep: bool) -> State:
    unknown = torch.full((len(more),), -1, dtype=torch.int64)
    if not keep:
        return _carrying(state, more, unknown)
    return _carrying(state, torch.cat((images, more)), torch.cat((labels, unknown)))


def _carrying(state: State, images: Tensor, labels: Tensor) -> State:
    return state.with_groups(data={"images": images.contiguous(), "labels": labels.contiguous()})
