"""Nets of torchvision and timm through pruning, removed channels, rounding deployed, exits and export, at tiny sizes.

Each step either does what it should, and what is deployed answers as the state does, or says in one line why not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressbench.cli.run import composed
from compressbench.data.dataset import Raw, Split
from compressbench.deploying.handing_over import export
from compressbench.errors import UserError
from compressbench.hardware.onnxruntime_cpu import OnnxRuntimeCPU
from compressbench.hardware.target import Lowered
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import prepare
from compressbench.views import View

pytestmark = pytest.mark.slow
SHORT = {"length": "2it", "batch_size": 8, "lr": 0.001}
# library, name, options, a module after which an exit may stand
NETS: list[tuple[str, str, dict[str, Any], str]] = [
    ("torchvision", "mobilenet_v3_small", {}, "features.3"),
    ("torchvision", "googlenet", {"init_weights": False, "aux_logits": False}, "inception3a"),
    ("timm", "vit_tiny_patch16_224", {"patch_size": 8, "depth": 3}, "blocks.0"),
    ("timm", "ghostnet_050", {}, "blocks.1"),
    ("torchvision", "efficientnet_b0", {}, "features.2"),
    ("timm", "convnext_atto", {}, "stages.0"),
    ("torchvision", "densenet121", {}, "features.transition1"),
    ("torchvision", "regnet_y_400mf", {}, "trunk_output.block1"),
    ("timm", "mobileone_s0", {}, "stages.0"),
    ("torchvision", "swin_t", {}, "features.1"),
    ("torchvision", "squeezenet1_1", {}, "features.3"),
    ("torchvision", "shufflenet_v2_x0_5", {}, "stage2"),
]
IN_CI = 4


def pictures() -> Raw:
    """64 and 32 coloured squares of four classes, told apart by their hue and a grating's direction."""
    rng = np.random.RandomState(0)

    def split(n: int) -> Split:
        labels = np.arange(n) % 4
        images = rng.randint(0, 90, (n, 3, 32, 32))
        images[np.arange(n), labels % 3] += 90
        images[labels > 1, :, ::4] += 60
        return Split.of(images.astype("uint8"), labels)

    return Raw(split(64), split(32), ("red", "green", "blue", "striped"), "made here")


def marks(place: int) -> list[pytest.MarkDecorator]:
    """What a net is run by: the first few in CI."""
    return [] if place < IN_CI else [pytest.mark.everything]


@pytest.mark.parametrize(
    ("library", "name", "options", "point"),
    [pytest.param(*net, id=net[1], marks=marks(place)) for place, net in enumerate(NETS)],
)
def test_net(library: str, name: str, options: dict[str, Any], point: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    pytest.importorskip("onnxruntime")
    ready = prepared(library, name, options, point, tmp_path)
    said: list[str] = []

    class Listening(Watcher):
        def say(self, text: str) -> None:
            said.append(text)

    executor = Executor(ready.plan, ready.store, ready.setting, Listening())
    reached = {}
    for node in ready.plan.nodes:
        try:
            reached[node.name] = View(executor.state(node.name), executor.bench(), node.name)
        except UserError as error:
            said.append(one_line(error))
    assert {"init", "dense", "pruned", "rounded"} <= reached.keys(), said
    assert reached["pruned"].state.facts["density"] < 0.75, (
        "half of the layers' weights went, or what is left is listed"
    )
    for state in ("dense", "pruned", "narrowed", "rounded", "joint"):
        if state not in reached:
            assert state in ("narrowed", "joint"), said
            continue
        lowered = OnnxRuntimeCPU(batches=(1, 4), threads=1, seconds=0.01).lower(reached[state])
        if isinstance(lowered, Lowered):
            for batch in (1, 4):
                answer: Any = lowered.run(lowered.inputs[0][:batch])
                expected = reached[state].module(lowered.inputs[0][:batch])
                assert_alike(answer, expected, f"{state} at batch {batch}")
        else:
            assert "\n" not in lowered.why
            assert len(lowered.why) > 30
    try:
        told = export(
            ready, reached["pruned"], ready.plan.node("pruned"), "onnx", tmp_path / "export", tmp_path
        )
        assert "same class for 100.00 %" in told
    except UserError as error:
        one_line(error)


def assert_alike(answer: Any, expected: torch.Tensor, what: str) -> None:
    """Equal to float noise, or, rounded, to a step here and there."""
    scale = float(expected.detach().abs().max()) + 1e-6
    assert float((answer - expected.detach()).abs().max()) < 0.05 * scale, what


def one_line(error: UserError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) > 30, "what is wrong, where, what would be right"
    return text


def prepared(library: str, name: str, options: dict[str, Any], point: str, tmp_path: Path) -> Any:
    import yaml

    mine = tmp_path / "mine" / "recipe"
    mine.mkdir(parents=True)
    stages: list[tuple[str, str, dict[str, Any]]] = [
        ("init/model", "init", {}),
        ("train/sgd", "dense", SHORT),
        ("prune/magnitude", "cut", {"fraction": 0.5, "of": "whole", "from": "dense"}),
        ("train/sgd", "pruned", SHORT),
        ("shrink/channels", "shrunk", {"fraction": 0.2, "from": "dense"}),
        ("train/sgd", "narrowed", SHORT),
        ("quantize/ptq", "rounded", {"examples": 16, "from": "dense", "split": "train"}),
        ("exits/attach", "attached", {"points": [point], "from": "dense"}),
        ("train/exits", "joint", SHORT),
    ]
    recipe = {
        "defaults": [
            *({f"/stage/{y.split('/')[0]}@stages.{n}": y.split("/")[1]} for y, n, _ in stages),
            "_self_",
        ],
        "name": "nets",
        "stages": {n: settings for _, n, settings in stages if settings},
        "compare": {"reference": "dense", "series": {"pruned": "pruned"}},
    }
    (mine / "nets.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    net = [f"model={library}", f"model.build.model_name={name}"]
    net += [f"+model.build.{k}={v}" for k, v in options.items()]
    more = ["scale=smoke", "evaluation=none", "hardware=cpu1", f"outputs={tmp_path / 'o'}"]
    config = composed(["recipe=nets", *net, *more], str(tmp_path / "mine"))
    config["dataset"] = {"name": "squares", "read": {"_target_": "test_nets.pictures"}, "validation": 0}
    return prepare({**config, "trust": ["test_nets"]})
