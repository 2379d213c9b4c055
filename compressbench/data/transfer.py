"""Data sets made on the way, as a state's group ``data``: its columns, and ``labels`` int64, -1 unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from compressbench.data.examples import Examples, one_class
from compressbench.data.folder import read_pictures
from compressbench.data.munge import munge
from compressbench.data.splits import pick, seats
from compressbench.errors import UserError
from compressbench.seeds import derive_seed
from compressbench.tasks.images.classification import IMAGES

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.stages.transfer import Few, Munge, Pictures
    from compressbench.state import State


def few(state: State, bench: Bench, settings: Few) -> State:
    """Applies a ``stages.transfer.Few``.

    Raises:
        UserError: more labels are asked for than there are.
    """
    examples = source(bench, settings.data)
    labels = examples.labels
    one_class(labels, "data/few")
    known = torch.nonzero(labels >= 0).squeeze(1)
    counts = np.bincount(labels[known].numpy(), minlength=len(bench.dataset.classes))
    if settings.labels > counts.sum():
        raise UserError(f"labels: {settings.labels} is more than the {counts.sum()} examples with a label")
    shares = seats(counts, settings.labels)
    random = np.random.RandomState(derive_seed(bench.seed, settings.draw, "few") % 2**32)
    chosen = known[torch.from_numpy(pick(labels[known].numpy(), shares, random))]
    if not settings.unlabelled:
        return carrying(state, examples.take(chosen))
    kept = torch.full_like(labels, -1)
    kept[chosen] = labels[chosen]
    return carrying(state, replace(examples, labels=kept))


def munged(state: State, bench: Bench, settings: Munge) -> State:
    """Applies a ``stages.transfer.Munge``; pixels are rounded and kept within 0 and 255."""
    examples = source(bench, settings.data)
    images = _pictures_of(examples, "data/munge")
    generator = bench.generator("munge")
    flat = images.flatten(1).float()
    made = munge(flat, settings.copies, settings.p, settings.s, generator)
    pixels = made.round().clamp(0, 255).to(torch.uint8).view(-1, *images.shape[1:])
    return _together(state, examples, pixels, settings.keep)


def pictures(state: State, bench: Bench, settings: Pictures) -> State:
    """Applies a ``stages.transfer.Pictures``: scaled to the data set's size.

    Raises:
        UserError: a picture can't be read, or lies outside the folder.
    """
    examples = source(bench, settings.data)
    channels, height, width = _pictures_of(examples, "data/pictures").shape[1:]
    found = read_pictures(Path(settings.root).expanduser(), settings.files(), (height, width), channels)
    return _together(state, examples, torch.from_numpy(found), settings.keep)


def source(bench: Bench, data: str | None) -> Examples:
    """Examples on the CPU: of the state that is named, or of the train split.

    Raises:
        UserError: that state carries no data set.
    """
    if data is None:
        return bench.dataset.split("train").to("cpu")
    group = bench.references[data].group("data")
    if not group:
        raise UserError(f"data: {data} carries no data set; a stage such as data/few or data/munge makes one")
    return Examples.made(group, classes=len(bench.task.classes))


def _pictures_of(examples: Examples, who: str) -> Tensor:
    if list(examples.columns) != [IMAGES]:
        raise UserError(f"{who} makes pictures, and the examples hold {', '.join(examples.columns)}")
    images: Tensor = examples[IMAGES]
    return images


def _together(state: State, examples: Examples, more: Tensor, keep: bool) -> State:
    """The state carrying new pictures without a label, after the others where these are kept."""
    one_class(examples.labels, "data/munge or data/pictures")
    unknown = torch.full((len(more),), -1, dtype=torch.int64)
    images, labels = more, unknown
    if keep:
        images, labels = torch.cat((examples[IMAGES], more)), torch.cat((examples.labels, unknown))
    return carrying(state, Examples({IMAGES: images}, labels, torch.arange(len(labels))))


def carrying(state: State, examples: Examples) -> State:
    """The state with a data set, for ``train`` to find."""
    return state.with_groups(data=examples.tensors())
