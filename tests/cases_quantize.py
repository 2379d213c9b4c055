"""What several files of tests on quantization have together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.observers.observed import Observed
from compressbench.outputs import forward
from compressbench.quantizing import ranges
from compressbench.specs.conf import conf_dir
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Cast, Mixed, Quantize
from compressbench.stages.rewind import LearningRate, Reinit, Weights
from compressbench.stages.shrink import Blocks, Channels
from compressbench.stages.train import Train
from compressbench.state import State

STAGES = sorted(p.stem for p in (conf_dir() / "stage/quantize").glob("*.yaml") if p.stem[0] != "_")
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9}
MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
RESNET = {
    "name": "resnet8",
    "build": {
        "_target_": "compressbench.models.resnet.CifarResNet",
        "depth": 8,
        "shape": "@shape",
        "classes": "@classes",
    },
}


def observer(name: str, **settings) -> dict:
    return {"_target_": f"compressbench.observers.{name}.{name}", "_partial_": True, **settings}


def qat(**settings) -> dict:
    target = "compressbench.training.reparametrisations.qat.qat"
    return {"qat": {"_target_": target, "_partial_": True, **settings}}


def train(length: str = "20it", **changes) -> Train:
    settings = {"batch_size": 50, "lr": 0.01, "optimizer": SGD, "validate": None}
    return Train(length=length, **{**settings, **changes})


@pytest.fixture(scope="session")
def trained(digits) -> tuple[State, Bench]:

    bench = Bench(digits, seed=0, name="init")
    return train("60it", lr=0.05).apply(drawn(RESNET, bench), bench), bench


def logits(state: State, bench: Bench, split: str = "test") -> Tensor:
    with torch.no_grad():
        return forward(module_of(state), bench.task.normalised(bench.feed(split)["images"])).logits


def top1(state: State, bench: Bench) -> float:
    return float((logits(state, bench).argmax(1) == bench.feed("test").labels).float().mean())


def observed(values: Tensor, bits: int = 8, symmetric: bool = True) -> Observed:
    form = ranges.weight_form(bits, symmetric, "channel")
    return Observed(values, values.amin(1), values.amax(1), form["low"], form["high"], symmetric)


def same(a: State, b: State) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        t.keys() == b.tensors[g].keys() and all(torch.equal(x, b.tensors[g][n]) for n, x in t.items())
        for g, t in a.tensors.items()
    )


def from_yaml(name: str, **changes) -> Quantize | Mixed | Cast:
    config = composed(["scale=smoke", f"+stage/quantize@recipe.stages.q={name}"])["recipe"]["stages"]["q"]
    spec = specs.expand(config)
    kind = {"Quantize": Quantize, "Mixed": Mixed, "Cast": Cast}[spec["_target_"].rpartition(".")[2]]
    return kind(**{**{k: v for k, v in specs.settings_of(spec).items() if k != "from"}, **changes})


def stages(bench: Bench, state: State) -> dict:
    init = drawn(RESNET, bench)
    return {
        "prune": (Prune(MAGNITUDE, 0.5), {}),
        "taylor": (Prune({**MAGNITUDE, "_target_": "compressbench.criteria.taylor.taylor"}, 0.5), {}),
        "channels": (Channels(MAGNITUDE, fraction=0.3), {}),
        "blocks": (Blocks(MAGNITUDE, fraction=0.5), {}),
        "rewind": (Weights("init"), {"init": init}),
        "learning_rate": (LearningRate(), {}),
        "reinit": (Reinit(), {}),
    }
