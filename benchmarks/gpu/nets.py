"""What the parts train and time: data, nets, stages' settings; all by the project's own specs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.rows import Sheet
from compressbench import specs
from compressbench.bench import Bench
from compressbench.data.dataset import Dataset, Split
from compressbench.data.load import load
from compressbench.models.draw import drawn
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.tasks.images.classification import Classification

EPOCHS, BATCH = 160, 128
TOO_LONG = "not tried in a smoke run: compiling it takes a CPU minutes"
AUGMENT = {"pad": 4, "flip": True}


def named(target: str, **settings: Any) -> dict[str, Any]:
    """A spec of a function of the package."""
    return {specs.TARGET: f"compressbench.{target}", specs.PARTIAL: True, **settings}


def resnet(depth: int) -> dict[str, Any]:
    """A CIFAR ResNet."""
    target = {specs.TARGET: "compressbench.models.resnet.CifarResNet", "depth": depth}
    return {"name": f"ResNet-{depth}", "build": {**target, "shape": "@shape", "classes": "@classes"}}


def lenet() -> dict[str, Any]:
    """LeNet-300-100: what compiles in seconds on a CPU."""
    target = {specs.TARGET: "compressbench.models.lenet.LeNet300100"}
    return {"name": "LeNet-300-100", "build": {**target, "shape": "@shape", "classes": "@classes"}}


def vit(depth: int = 6) -> dict[str, Any]:
    """The small vision transformer: almost all of it linear layers, which 2:4 and int8 are for on a GPU."""
    target = {specs.TARGET: "compressbench.models.vit.VisionTransformer", "patch": 4, "depth": depth}
    return {"name": "ViT", "build": {**target, "shape": "@shape", "classes": "@classes"}}


def noise(train: int, test: int, side: int = 32) -> Dataset:
    """Random images with random labels, where only time is measured."""
    rng = np.random.default_rng(0)

    def split(count: int) -> Any:
        images = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
        return Split.of(images, rng.integers(0, 10, count))

    task = Classification(tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, (3, side, side), AUGMENT)
    return Dataset("noise", {"train": split(train), "validation": split(test), "test": split(test)}, task)


def cifar(sheet: Sheet) -> Dataset:
    """CIFAR-10, 45,000 training images, a tenth held out; noise of 320 in a smoke run."""
    if sheet.smoke:
        return noise(320, 64, 8)
    read = {specs.TARGET: "compressbench.data.cifar.cifar10", "data_dir": os.environ["COMPRESSBENCH_DATA"]}
    return load({"name": "cifar10", "read": read, "validation": 0.1, "augment": AUGMENT})


def fashion(sheet: Sheet, train: int, test: int) -> Dataset:
    """The embedded Fashion-MNIST, which travels with the tree."""
    read = {specs.TARGET: "compressbench.data.idx.fashion_mnist"}
    sizes = {"train_size": train, "test_size": test}
    return load({"name": "fashion_mnist", "read": read, **sizes, "validation": 0.1, "augment": AUGMENT})


def bench(dataset: Dataset, device: str, name: str, seed: int = 0, **more: Any) -> Bench:
    """A silent bench."""
    return Bench(dataset, seed=seed, name=name, device=device, **{"say": lambda _: None, **more})


def begun(model: dict[str, Any], dataset: Dataset, seed: int = 0) -> State:
    """Drawn weights of a net."""
    return drawn(model, bench(dataset, "cpu", "init", seed))


def training(length: str = f"{EPOCHS}ep", **changes: Any) -> Train:
    """He et al. 2016: SGD with momentum 0.9 at 0.1, divided by 10 at a half and three quarters, decay 1e-4."""
    settings: dict[str, Any] = {
        "batch_size": BATCH,
        "lr": 0.1,
        "weight_decay": 1e-4,
        "optimizer": {specs.TARGET: "torch.optim.SGD", specs.PARTIAL: True, "momentum": 0.9},
        "schedule": named("training.schedules.step", at=[0.5, 0.75], gamma=0.1),
        "validate": None,
    }
    return Train(length=length, **{**settings, **changes})


def tried(sheet: Sheet, arm: str, run: Callable[[], None]) -> None:
    """Runs an arm; one that fails is a row, and the others go on."""
    try:
        run()
    except Exception as error:  # a driver, a kernel, or what isn't there yet
        sheet.failed(arm, error)
