"""Nets that torch would crash on in channels_last train in the plain layout; threads have an end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from compressbench.errors import UserError
from compressbench.hardware.target import check_threads
from compressbench.tasks.images.layout import training_layout
from conftest import Command

PLAIN, FAST = torch.contiguous_format, torch.channels_last
CODE = """
import sys
import numpy as np, torch
sys.path.insert(0, {tests!r})
from compressbench.specs import trust
trust._let_pass = type("Any", (dict,), {{"get": lambda self, target, default=(): (target.partition(".")[0],)}})()
torch.set_num_threads(1)
from compressbench.bench import Bench
from compressbench.data.dataset import Dataset, Split
from compressbench.models.draw import drawn
from compressbench.probes.sharpness import Sharpness
from compressbench.stages.train import Train
from compressbench.tasks.images.classification import Classification
from compressbench.views import View
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (16, 3, 64, 64), dtype=np.uint8)
parts = {{n: Split.of(images, np.arange(16) % 2) for n in ("train", "test", "validation")}}
data = Dataset("noise", parts, Classification(("a", "b"), (0.5,) * 3, (0.5,) * 3, images.shape[1:]))
bench = Bench(data, seed=0, name="init", say=lambda t: None)
state = drawn({{"name": "narrow", "build": {{"_target_": "test_layout.Narrow", "width": {width}}}}}, bench)
sgd = {{"_target_": "torch.optim.SGD", "_partial_": True}}
state = Train(length="3it", batch_size=8, lr=0.01, optimizer=sgd, validate="1it").apply(state, bench)
view = View(state, bench)
values = [m.value for m in Sharpness(examples=16).measure(view, view, bench)]
print("alive", all(torch.isfinite(t).all() for t in state.weights.values()), len(values) > 3)
"""


class Narrow(nn.Module):
    """A residual net's first steps: few channels, halved by a 1 x 1 convolution with stride."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.short = nn.Conv2d(width, 2 * width, 1, stride=2, bias=False)
        self.fc = nn.Linear(2 * width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) to logits (n, classes)."""
        return self.fc(self.short(self.first(x).relu()).mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 8])
def test_narrow_nets_on_large_pictures_train(width: int) -> None:
    """In another process: torch 2.15 ends it with a signal in channels_last."""
    code = CODE.format(tests=str(Path(__file__).parent), width=width)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout.split() == ["alive", "True", "True"]


@pytest.mark.parametrize(
    ("part", "side", "layout"),
    [
        (nn.Conv2d(8, 16, 1, stride=2), 64, PLAIN),
        (nn.Conv2d(12, 16, 1, stride=2), 48, PLAIN),
        (nn.Conv2d(8, 16, 1, stride=2), 32, FAST),  # as ever: what was trained at 32 x 32 stays as it is
        (nn.Conv2d(16, 32, 1, stride=2), 64, FAST),
        (nn.Conv2d(8, 16, 3, stride=2), 64, FAST),
        (nn.Conv2d(8, 16, 1), 64, FAST),
        (nn.Conv2d(8, 8, 1, stride=2, groups=8), 64, FAST),
    ],
)
def test_only_such_nets_are_laid_out_plainly(part: nn.Module, side: int, layout: torch.memory_format) -> None:
    assert training_layout(nn.Sequential(nn.ReLU(), part), (3, side, side)) is layout


@pytest.mark.parametrize(("factor", "layout"), [(1, FAST), (4, PLAIN), (1.5, FAST)])
def test_a_net_that_enlarges_its_pictures_counts_at_their_size_there(
    factor: float, layout: torch.memory_format
) -> None:
    """16 x 16 to 64 x 64 before the convolution that would crash; the net itself is left in its mode, without hooks."""
    short = nn.Conv2d(8, 16, 1, stride=2)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Upsample(scale_factor=factor), short,
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)).train()  # fmt: skip
    before = {n: t.clone() for n, t in net.state_dict().items()}
    assert training_layout(net, (3, 16, 16)) is layout
    assert net.training
    assert not short._forward_pre_hooks
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


@pytest.mark.parametrize("threads", [0, -1, 100_000, 1.5, True, "two", None])
def test_threads_that_no_machine_has_are_refused_in_one_line(threads: object, command: Command) -> None:
    with pytest.raises(UserError, match="is not a whole number from 1 to"):
        check_threads(threads, "hardware.threads")
    for place in ("hardware.threads", "hardware.target.threads"):
        done = command(
            "run",
            "recipe=one_shot",
            "scale=smoke",
            "dataset=digits",
            f"{place}={'null' if threads is None else threads}",
        )
        assert done.returncode == 2, place
        assert len(done.stderr.strip().splitlines()) == 1
        assert "threads" in done.stderr


def test_as_many_threads_as_processors_are_taken() -> None:
    check_threads(os.cpu_count(), "hardware.threads")
    check_threads(64, "hardware.threads")
