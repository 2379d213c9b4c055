"""Every ordered pair of methods on a tiny net: it runs, density, bits and policy are right, and no loss is silent.

What is exported answers as the state does, by a script that knows nothing of compressbench, or is refused in one line.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressbench.cli.run import composed
from compressbench.deploying.handing_over import export
from compressbench.errors import UserError
from compressbench.models.quantized import bits_of, quantized
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import prepare
from compressbench.views import View

pytestmark = pytest.mark.slow
SHORT = {"length": "8it", "batch_size": 32, "lr": 0.01}
# Of each method: (stage's YAML, its name, its settings), in order; the last is what the method is for.
METHODS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "prune": [("prune/magnitude", "cut", {"fraction": 0.5, "of": "whole"}), ("train/sgd", "tuned", SHORT)],
    "channels": [
        ("shrink/channels", "narrowed", {"fraction": 0.3, "inside": True}),
        ("train/sgd", "renewed", SHORT),
    ],
    "ptq": [("quantize/ptq", "rounded", {"examples": 64})],
    "qat": [("quantize/ptq", "begun", {"examples": 64}), ("train/qat", "aware", SHORT)],
    "kd": [("train/distill", "distilled", {**SHORT, "objective": {"teacher": "dense"}})],
    "exits": [
        ("exits/attach", "attached", {"points": ["layer1", "layer2"]}),
        ("train/exits", "joint", SHORT),
        ("exits/choose", "chosen", {"budget": 0.8}),
    ],
    "sam": [("train/sam", "flat", SHORT)],
    "theseus": [
        ("theseus/replace", "mixed", {"start": 0.5, "growth": 0.2}),
        ("train/sgd", "replacing", SHORT),
        ("theseus/successor", "successor", {}),
        ("train/sgd", "succeeding", SHORT),
    ],
    "share": [("share/kmeans", "shared", {"bits": 4})],
}
PAIRS = list(itertools.permutations(METHODS, 2))
REFUSED = {
    **{(first, "theseus"): "quantize after the successor stage" for first in ("ptq", "qat")},
    **{(first, "share"): "its weights are stored as integers already" for first in ("ptq", "qat")},
}
TRAINS = {"prune", "channels", "qat", "kd", "exits", "sam", "theseus"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all pairs: what two of them begin with is made once."""
    return tmp_path_factory.mktemp("pairs")


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=["-".join(p) for p in PAIRS])
def test_pair(first: str, second: str, outputs: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Watcher):
        def say(self, text: str) -> None:
            said.append(text)

    stages = [("init/model", "init", {}), ("train/sgd", "dense", {**SHORT, "length": "60it", "lr": 0.05})]
    stages += [*METHODS[first], *METHODS[second]]
    ready = prepared(stages, outputs, tmp_path)
    executor = Executor(ready.plan, ready.store, ready.setting, Listening())
    refused, states = "", []
    try:
        states = [executor.state(name) for _, name, _ in stages]
    except UserError as error:
        refused = str(error)
    if refused:
        assert len(refused) > 40, "a reason, and what to do"
        assert "\n" not in refused
        assert REFUSED.get((first, second), "nothing") in refused
        return
    assert (first, second) not in REFUSED
    last, made = states[-1], states[2 + len(METHODS[first]) - 1]
    told = " ".join([*said, *last.facts.get("flags", [])])
    view = View(last, executor.bench(), stages[-1][1])

    check_density(last, states[1], view)
    check_bits(last, view, {first, second}, told)
    if first == "prune":
        kept = last.facts["density"]
        assert kept <= 0.75 or "dens" in told or "mask" in told, f"density {kept}: {told}"
    if first == "exits":
        assert last.policies or "policy" in told
        if last.policies:
            assert view.leaves_early
    if second == "exits":
        assert last.policies
        assert view.leaves_early
    if first == "share" and second in TRAINS:
        assert values(view) <= 16 or "shar" in told, told
    if second == "share":
        assert values(view) <= 16
    assert made.key != last.key
    check_export(ready, view, stages, tmp_path)


def prepared(stages: list[tuple[str, str, dict[str, Any]]], outputs: Path, tmp_path: Path) -> Any:
    import yaml

    mine = tmp_path / "mine" / "recipe"
    mine.mkdir(parents=True)
    recipe = {
        "defaults": [*({f"/stage/{y.split('/')[0]}@stages.{n}": y.split("/")[1]} for y, n, _ in stages), "_self_"],
        "name": "pair",
        "stages": {name: settings for _, name, settings in stages if settings},
        "compare": {"reference": "dense", "series": {"end": stages[-1][1]}},
    }  # fmt: skip
    (mine / "pair.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    net = ["model=resnet14", "+model.build.width=4", "scale=smoke", "evaluation=none", "hardware=cpu1"]
    return prepare(composed(["recipe=pair", *net, f"outputs={outputs}"], str(tmp_path / "mine")))


def layers(view: View) -> dict[str, torch.Tensor]:
    return {
        name: m.weight.detach()
        for name, m in view.module.named_modules()
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    }


def check_density(state: Any, dense: Any, view: View) -> None:
    """The state's density is that of its weights, counted here, against the net that it began as."""
    weights = layers(view)
    left = sum(int(w.count_nonzero()) for w in weights.values())
    size = sum(w.numel() for w in weights.values())
    whole = sum(dense.facts["prunable"].values())
    assert 0 < left <= size
    assert state.facts["density"] == pytest.approx(left / whole, abs=0.02)


def check_bits(state: Any, view: View, methods: set[str], told: str) -> None:
    """Eight bits wherever a method rounded, unless it is said that another one ended that."""
    rounding = quantized(view.module)
    if methods & {"ptq", "qat"}:
        assert rounding or "round" in told or "quanti" in told, told
    for name in rounding:
        assert bits_of(view.module, name) == (8, 8)


def values(view: View) -> int:
    """The most values other than zero that a layer's weights take."""
    return max(len(w[w != 0].unique()) for w in layers(view).values())


def check_export(ready: Any, view: View, stages: Any, folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    node = ready.plan.node(stages[-1][1])
    if view.leaves_early:
        with pytest.raises(UserError, match=r"leaves early by a policy, .*export the state before"):
            export(ready, view, node, "onnx", folder / "export", folder)
        return
    export(ready, view, node, "onnx", folder / "export", folder)
    session = onnxruntime.InferenceSession(str(folder / "export" / f"{node.name}.onnx"))
    data = ready.dataset
    pixels = data.splits["test"]["images"]
    mean, std = np.array(data.task.mean)[:, None, None], np.array(data.task.std)[:, None, None]
    logits = session.run(None, {"images": ((pixels / 255 - mean) / std).astype("float32")})[0]
    own = view.log_probs.argmax(dim=1).numpy()
    assert (logits.argmax(axis=1) == own).mean() >= 0.99
