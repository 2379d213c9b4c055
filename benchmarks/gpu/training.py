"""How fast a training step of ResNet-20 is, ours and a bare loop's, by precision and by how it is launched.

A whole run is extrapolated from seconds of it, and called so. The bare loop is written for speed alone: images on the
card, cropped and mirrored there, channels_last, a fused optimiser, no look at the loss; a compiled
one is captured too, as ours is.
"""

from __future__ import annotations

import contextlib
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu import nets
from benchmarks.gpu.rows import Sheet
from compressbench.bench import Bench
from compressbench.data.dataset import Dataset
from compressbench.data.examples import order
from compressbench.models.build import module_of
from compressbench.seeds import derive_seed
from compressbench.state import State
from compressbench.training.launching import exact

SEED = 0
EVERY = {"cuda": 351, "cpu": 25}
"""Iterations after which the bare loop is timed; it waits for the device there, as ours does to check its loss."""
SMOKE_BATCH = 32
LEAST = 3
"""Marks that are timed."""
ARMS = (
    ("graph", "bf16"),
    ("eager", "fp32"),
    ("graph", "tf32"),
    ("eager", "bf16"),
    ("graph", "fp32"),
    ("eager", "tf32"),
)


class Enough(Exception):
    """A training was timed long enough."""


@dataclass
class Clock:
    """Progress that times a training from its first mark on, then counts its waits for the device, then ends it.

    Attributes:
        seconds: to be timed.
        device: ``cuda`` counts waits.
        said: what the training said, that it couldn't be captured for example.
        marks: (iterations, seconds since the clock was made) at each mark that was timed.
        waits: synchronising calls within ``counted`` iterations; marks wait too, and are among them.
    """

    seconds: float
    device: str
    marks: list[tuple[int, float]] = field(default_factory=list)
    loss: float = float("nan")
    waits: int | None = None
    counted: int = 0
    began: float = field(default_factory=time.perf_counter)
    seen: int = -1
    said: list[str] = field(default_factory=list)
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def step(self, done: int, total: int, **figures: float) -> None:
        """See ``compressbench.bench.Progress``; of lanes each may tell of the same iteration."""
        if done <= self.seen:
            return
        self.seen = done
        now = time.perf_counter() - self.began
        self.loss = figures.get("loss", self.loss)
        if self.counted:
            raise Enough
        self.marks.append((done, now))
        if len(self.marks) >= LEAST and now - self.marks[0][1] >= self.seconds:
            if self.device != "cuda":
                raise Enough
            self.counted = done
            self.caught = self.stack.enter_context(waiting())

    def run(self, training: Callable[[], object]) -> None:
        """Runs a training to its end or to this clock's."""
        with self.stack, contextlib.suppress(Enough):
            training()
        if self.counted:
            self.waits, self.counted = sum(map(is_wait, self.caught)), self.seen - self.counted

    @property
    def rates(self) -> list[float]:
        """Iterations a second between marks; compiling and capturing are over at the first."""
        return [(b - a) / (t - s) for (a, s), (b, t) in pairwise(self.marks)]


@contextlib.contextmanager
def waiting() -> Iterator[list[Any]]:
    """Catches torch's warnings of calls that wait for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")


def is_wait(warning: Any) -> bool:
    """Whether a warning is of a synchronising call."""
    return "synchronizing" in str(warning.message)


def run(sheet: Sheet) -> None:
    """Eager and captured steps."""
    measure(sheet, ARMS[:2] if sheet.smoke else ARMS, 0.2 if sheet.smoke else 3.0)


def measure(sheet: Sheet, arms: tuple[tuple[str, str], ...], seconds: float) -> None:
    """Each arm, ours after the bare one."""
    dataset = nets.cifar(sheet)
    model = (
        nets.resnet(20) if not sheet.smoke else nets.lenet() if arms[0][0] == "compiled" else nets.resnet(8)
    )
    start = nets.begun(model, dataset)
    for launch, precision in arms:
        for who, make in (("bare", bare), ("ours", ours)):
            arm = f"{model['name']}, {who}, {precision}, {launch}"
            nets.tried(sheet, arm, partial(one, sheet, arm, make, start, dataset, precision, launch, seconds))


def one(
    sheet: Sheet,
    arm: str,
    make: Any,
    start: State,
    dataset: Dataset,
    precision: str,
    launch: str,
    seconds: float,
) -> None:
    """Rows of one arm."""
    gc.collect()  # the arm before, with its graph
    clock = Clock(seconds, sheet.device)
    if sheet.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    bench = nets.bench(dataset, sheet.device, "dense", SEED, progress=clock, say=clock.said.append)
    clock.run(make(start, bench, precision, launch))
    tell(sheet, arm, clock, dataset)


def tell(sheet: Sheet, arm: str, clock: Clock, dataset: Dataset, lanes: int = 1) -> None:
    """Rows of what a clock saw."""
    rates, batch = clock.rates, SMOKE_BATCH if sheet.smoke else nets.BATCH
    per_epoch = len(dataset.split("train")) // batch
    sheet.middle(arm, "training images", [lanes * batch * r for r in rates], "images/s", seed=SEED,
                 note="; ".join(clock.said))  # fmt: skip
    whole = [nets.EPOCHS * per_epoch / r / lanes for r in rates]
    sheet.middle(arm, "whole run of 160 epochs, a seed, extrapolated", whole, "s", seed=SEED,
                 note=f"from {clock.marks[-1][0] - clock.marks[0][0]} iterations of batch {batch}")  # fmt: skip
    sheet.add(arm, "first iterations, compiling and capturing included", clock.marks[0][1], "s", seed=SEED,
              note=f"{clock.marks[0][0]} iterations")  # fmt: skip
    sheet.add(arm, "loss at the end", clock.loss, "nats", seed=SEED, note=f"iteration {clock.seen}")
    if clock.waits is not None:
        sheet.add(arm, "waits for the device", clock.waits, "1", n=clock.counted, seed=SEED,
                  note="synchronising calls within n iterations, the check of the loss among them")  # fmt: skip
    if sheet.device == "cuda":
        sheet.add(arm, "peak memory", torch.cuda.max_memory_allocated() / 2**20, "MiB", seed=SEED)


def settings(device: str, **changes: Any) -> Any:
    """The training of all arms; small batches of small images on a CPU."""
    return nets.training(batch_size=nets.BATCH if device == "cuda" else SMOKE_BATCH, **changes)


def launched(bench: Bench, launch: str) -> Bench:
    """The bench whose trainings launch their iterations so."""
    return bench if launch == "eager" else replace(bench, launch=launch)


def ours(start: State, bench: Bench, precision: str, launch: str) -> Callable[[], object]:
    """The project's Train stage."""
    stage, own = settings(bench.device, precision=precision), launched(bench, launch)
    return lambda: stage.apply(start, own)


def bare(start: State, bench: Bench, precision: str, launch: str) -> Callable[[], object]:
    """A plain loop, fully on the device, over the same batches in the same order."""
    if launch == "graph" and bench.device != "cuda":
        raise ValueError("a CUDA graph wants a card")
    device, how = torch.device(bench.device), settings(bench.device)
    module = module_of(start, bench.device).to(memory_format=torch.channels_last).train()
    feed = bench.feed("train")
    images, labels = F.pad(feed["images"], (4, 4, 4, 4)), feed.labels
    mean = torch.tensor(bench.task.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(bench.task.std, device=device).view(1, -1, 1, 1)
    rate = torch.tensor(how.lr, device=device)
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": how.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, fused=True)

    def loss_of(picked: Tensor) -> Tensor:
        n = len(picked)
        down, right = torch.randint(0, 9, (2, n, 1), device=device)
        mirrored = torch.rand(n, 1, device=device) < 0.5
        x = ((cut(images, picked, down, right, mirrored) / 255 - mean) / std).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            return F.cross_entropy(module(x), labels[picked])

    forward = torch.compile(loss_of) if launch == "compiled" else loss_of

    def step(picked: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(picked)
        loss.backward()
        optimizer.step()
        return loss.detach()

    batch = how.batch_size
    per_epoch = len(labels) // batch

    def loop() -> None:
        alone = launch == "eager" or bench.device != "cuda"
        go = step if alone else captured(step, torch.arange(batch, device=device))
        for epoch in range(nets.EPOCHS):
            rows = order(len(labels), derive_seed(bench.seed, how.order, epoch)).to(device)
            rate.fill_(how.lr * 0.1 ** ((epoch >= 80) + (epoch >= 120)))
            for place in range(per_epoch):
                loss = go(rows[place * batch : (place + 1) * batch])
                done = epoch * per_epoch + place + 1
                if done % EVERY[bench.device] == 0:
                    bench.progress.step(done, nets.EPOCHS * per_epoch, loss=float(loss))

    def whole() -> None:
        with exact(precision == "tf32", bench.device):
            torch.backends.cudnn.benchmark = True
            loop()

    return whole


def cut(padded: Tensor, picked: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """(n, channels, side, side) of images padded by 4: those picked, from rows and columns (n, 1) on, mirrored or not."""
    across = torch.arange(padded.shape[-1] - 8, device=padded.device)
    channels = torch.arange(padded.shape[1], device=padded.device)
    columns = torch.where(mirrored, across.flip(0), across) + right
    rows = across + down
    return padded[picked[:, None, None, None], channels[:, None, None], rows[:, None, :, None],
                  columns[:, None, None, :]]  # fmt: skip


def captured(step: Callable[[Tensor], Tensor], picked: Tensor) -> Callable[[Tensor], Tensor]:
    """The whole iteration as one CUDA graph; the iterations that warm it up are trained too."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step(picked)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(picked)

    def go(rows: Tensor) -> Tensor:
        picked.copy_(rows)
        graph.replay()
        return loss

    return go
