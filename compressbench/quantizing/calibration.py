"""Calibration: what goes into the layers of the float net on some examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.data.examples import Examples, are_sequences, order
from compressbench.errors import UserError
from compressbench.models.exits import every_exit
from compressbench.outputs import forward
from compressbench.seeds import derive_seed
from compressbench.walking import walk

if TYPE_CHECKING:
    from compressbench.tasks.task import Task

BATCH = 64
SAMPLE = 1 << 18


@dataclass(frozen=True)
class Drawn:
    """Calibration examples, and what is to be said of them."""

    examples: Examples
    flags: tuple[str, ...] = ()

    def batches(self, task: Task) -> Iterator[Examples]:
        """All of them; where a task says lengths the shortest first, so that ranges see little padding."""
        return (batch for _, batch in walk(task, self.examples, BATCH))

    def __len__(self) -> int:
        return len(self.examples)


def drawn(bench: Bench, split: str, examples: int) -> Drawn:
    """The same examples for every state of a seed; of the training split where nothing was held out for validation.

    Raises:
        UserError: there are none.
    """
    flags: tuple[str, ...] = ()
    if split == "validation" and split not in bench.dataset.splits:
        split, flags = (
            "train",
            ("calibrated on training examples: the data set holds none out for validation",),
        )
    feed = bench.feed(split)
    rows = order(len(feed), derive_seed(bench.seed, "calibration"))[:examples].to(bench.device)
    if not len(rows):
        raise UserError(
            f"examples: no calibration examples ({examples} of {len(feed)} in {split}); or take dynamic: true"
        )
    return Drawn(feed.take(rows), flags)


@contextmanager
def watching(
    module: nn.Module, layers: Iterable[str], see: Callable[[str, Any, Tensor], None]
) -> Iterator[None]:
    """Inside, ``see(name, layer, input)`` is called before each forward of the named layers."""
    handles = [
        module.get_submodule(name).register_forward_pre_hook(
            lambda layer, inputs, name=name: see(name, layer, inputs[0].detach())
        )
        for name in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(module: nn.Module, bench: Bench, data: Drawn) -> None:
    """All calibration examples through the module, for what watches it."""
    done = 0
    with torch.no_grad(), every_exit(module):
        for batch in data.batches(bench.task):
            forward(module, *bench.task.encode(batch))
            done += len(batch)
            bench.progress.step(done, len(data))


def mean_loss(module: nn.Module, bench: Bench, data: Drawn) -> float:
    """The task's loss on the calibration examples; of sequences the mean is over their tokens."""
    total, pieces = 0.0, 0
    with torch.no_grad():
        for batch in data.batches(bench.task):
            outputs = forward(module, *bench.task.encode(batch))
            size = int((batch.labels >= 0).sum()) if are_sequences(batch.labels) else len(batch)
            if size:  # of no tokens the mean is no number
                total += float(bench.task.loss(outputs, batch.labels)) * size
                pieces += size
    return total / max(1, pieces)


@dataclass
class Seen:
    """Values of one layer's inputs: extremes of all, and a random sample."""

    smallest: Tensor
    largest: Tensor
    parts: list[Tensor]

    @property
    def values(self) -> Tensor:
        """(1, n) float32."""
        return torch.cat(self.parts).view(1, -1)


def inputs_of(module: nn.Module, bench: Bench, data: Drawn, layers: Iterable[str]) -> dict[str, Seen]:
    """What goes into each layer, on the CPU; a layer that never runs has no entry."""
    generator = torch.Generator().manual_seed(derive_seed(bench.seed, "calibration sample"))
    share = min(1.0, BATCH / len(data))
    seen: dict[str, Seen] = {}

    def see(name: str, layer: Any, x: Tensor) -> None:
        flat = x.reshape(-1).float()
        wanted = max(1, int(SAMPLE * share))
        if flat.numel() > wanted:
            places = torch.randint(flat.numel(), (wanted,), generator=generator)
            sample = flat[places.to(flat.device)].cpu()
        else:
            sample = flat.cpu().clone()
        low, high = flat.amin().cpu().view(1), flat.amax().cpu().view(1)
        if name in seen:
            old = seen[name]
            low, high = torch.minimum(old.smallest, low), torch.maximum(old.largest, high)
            sample_list = [*old.parts, sample]
        else:
            sample_list = [sample]
        seen[name] = Seen(low, high, sample_list)

    with watching(module, layers, see):
        run(module, bench, data)
    return seen
