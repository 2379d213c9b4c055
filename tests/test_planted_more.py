"""More mistakes that were planted once and that no test saw; expected values are counted by hand or by numpy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cases_quantize import train
from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.exit_criteria.policy import Policy, assigned, compacted, queued, waiting
from compressbench.hardware.modelled import priced
from compressbench.hardware.target import LayerTime, Lowered
from compressbench.hardware.units import quantity
from compressbench.models.theseus import Replaceable
from compressbench.runs.experiment import prepare
from compressbench.specs.conf import conf_dir
from compressbench.stages.init import Init
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.stages.rewind import LearningRate, RandomMask, Reinit, Weights
from compressbench.stages.train import Train
from compressbench.state import State

MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
RECIPES = [
    p.stem
    for p in sorted((conf_dir() / "recipe").glob("*.yaml"))
    if "rewind@" in p.read_text(encoding="utf-8")
]


# Calibration.


def test_calibration_images_are_not_augmented(place: Bench, dense: State) -> None:
    """Padded and flipped images have other ranges of hidden activations; a set's augmentation is for training alone."""
    task = dataclasses.replace(place.task, augment={"pad": 3, "flip": True})
    varied = dataclasses.replace(place.dataset, task=task)
    settings = Quantize(examples=100)
    one = settings.apply(dense, place).group("scales")
    other = settings.apply(dense, dataclasses.replace(place, dataset=varied, feeds={})).group("scales")
    assert one.keys() == other.keys()
    assert all(torch.equal(t, other[n]) for n, t in one.items())


# Where a rewound training takes up.


def position(name: str, nodes: dict[str, Any]) -> str | None:
    """The iteration of the schedule at which a state's weights are, as its recipe writes it; None: any will do."""
    node = nodes[name]
    stage = node.stage
    if isinstance(stage, Init | Reinit):
        return "0"
    if isinstance(stage, Train):
        return stage.stop or "the end"
    if isinstance(stage, Weights):
        return position(stage.to, nodes)
    if isinstance(stage, LearningRate):
        return None
    return position(node.parent, nodes) if node.parent else "0"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_training_after_a_rewind_begins_where_the_weights_are(recipe: str, tmp_path: Path) -> None:
    """Of every shipped recipe: ``start`` is the ``stop`` of the training that left the weights, or nothing at 0."""
    ready = prepare(composed([f"recipe={recipe}", "scale=smoke", "evaluation=none", f"outputs={tmp_path}"]))
    nodes = {n.name: n for n in ready.plan.nodes}
    checked = 0
    for node in nodes.values():
        if not isinstance(node.stage, Train) or not node.parent:
            continue
        at = position(node.parent, nodes)
        rewound = isinstance(nodes[node.parent].stage, Weights | Reinit | RandomMask)
        if node.stage.start is not None and at is not None:
            assert node.stage.start == at, (node.name, node.parent)
            checked += 1
        elif rewound and at is not None:
            assert at == "0", (node.name, node.parent, at)
            checked += 1
    assert checked, "a recipe that rewinds has such a training"


def test_a_rewound_training_is_the_training_that_went_on(place: Bench, dense: State) -> None:
    """Nothing pruned, back to iteration 4 with its momentum, on from there: the same weights to the bit."""
    early = train("12it", stop="4it", lr=0.05).apply(dense, dataclasses.replace(place, name="train"))
    ended = train("12it", start="4it", lr=0.05).apply(early, dataclasses.replace(place, name="train"))
    back = Weights(to="early").apply(ended, dataclasses.replace(place, references={"early": early}))
    again = train("12it", start="4it", lr=0.05).apply(back, dataclasses.replace(place, name="train"))
    assert early.group("optimizer"), "it stopped short: there is momentum"
    assert all(torch.equal(t, again.weights[n]) for n, t in ended.weights.items())
    without = back.with_groups(optimizer={})
    other = train("12it", start="4it", lr=0.05).apply(without, dataclasses.replace(place, name="train"))
    assert any(not torch.equal(t, other.weights[n]) for n, t in ended.weights.items()), "momentum counts here"


# The control of a method.


def test_a_random_mask_is_as_dense_and_independent_of_the_other(place: Bench, dense: State) -> None:
    """Of weights that both masks may keep, they share as many as chance says: density², not density."""
    pruned = Prune(MAGNITUDE, fraction=0.5, of="whole", scope=_layer()).apply(dense, place)
    arm = RandomMask("pruned").apply(
        dense, dataclasses.replace(place, name="random", references={"pruned": pruned})
    )
    for name, mask in pruned.masks.items():
        assert int(arm.masks[name].sum()) == int(mask.sum())
    both = sum(int((m & arm.masks[n]).sum()) for n, m in pruned.masks.items())
    size = sum(m.numel() for m in pruned.masks.values())
    assert both / size == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / size) ** 0.5)


def _layer() -> dict[str, Any]:
    return {"_target_": "compressbench.scopes.layer.layer", "_partial_": True}


# Theseus.


@pytest.mark.parametrize(("start", "growth"), [(0.0, 0.5), (0.9, 0.0), (0.2, 0.3)])
def test_start_is_the_first_probability_and_growth_the_step(start: float, growth: float) -> None:
    part = Replaceable([nn.Linear(1, 1, bias=False)], start, growth).train()
    with torch.no_grad():
        part.new.weight.fill_(1.0)
        part.old[0].weight.zero_()
    torch.manual_seed(0)
    times = 400
    share = torch.zeros(3)
    for _ in range(times):
        part.steps.zero_()
        share += torch.stack([part(torch.ones(1, 1)).detach().squeeze() for _ in range(3)]) / times
    wanted = [min(1.0, start + growth * k) for k in range(3)]
    assert share.tolist() == pytest.approx(wanted, abs=0.1)


# Exits.


def test_each_exit_has_its_own_threshold_and_the_first_that_is_sure_counts() -> None:
    """Three exits, thresholds 0.9 and 0.5: by hand, in every way of running."""

    def said(*sure: float) -> Tensor:
        p = torch.tensor(sure)
        return torch.stack([p, 1 - p], 1).log()

    logits = [said(0.95, 0.7, 0.7, 0.95), said(0.6, 0.6, 0.6, 0.99), said(0.9, 0.9, 0.9, 0.9)]
    second = torch.tensor([0.6, 0.6, 0.4, 0.99])
    logits[1] = torch.stack([second, torch.tensor([0.4, 0.4, 0.0, 0.01])], 1).log()
    logits[1][2] = torch.tensor([0.45, 0.45]).log()

    def criterion(given: Any) -> Tensor:
        return given.logits.exp().amax(1)

    parts = [
        lambda rows, k=k: (logits[k][rows.long()], rows) if k < 2 else (logits[k][rows.long()],)
        for k in range(3)
    ]
    policy = Policy(criterion, (0.9, 0.5), (1.0, 1.0))
    wanted = [0, 1, 2, 0]
    rows = torch.arange(4.0)
    assert assigned(policy, logits).tolist() == wanted
    for answer in (
        compacted(parts, policy, rows),
        waiting(parts, policy, rows),
        queued(parts, policy, rows, batch=3),
    ):
        assert answer.exits.tolist() == wanted
        assert torch.equal(answer.logits, torch.stack([logits[k][n] for n, k in enumerate(wanted)]))


# Devices.


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [  # watts of FACTS.md, section 16
        ("raspberry_pi_4", 4, 7), ("raspberry_pi_5", 5, 12), ("desktop_x86", 105, 125), ("cortex_m7", 0.3, 0.5),
        ("jetson_nano", 5, 10), ("jetson_orin_nano", 7, 25), ("jetson_agx_orin", 15, 60), ("t4", 70, 70),
        ("a100", 400, 400), ("h100", 700, 700), ("tpu_v4", 192, 192), ("edge_tpu", 2, 2), ("zynq_zcu104", 10, 20),
    ],
)  # fmt: skip
def test_each_device_has_its_own_power_and_joules_are_watts_times_seconds(
    name: str, low: float, high: float
) -> None:
    config: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "target" / f"{name}.yaml"))
    built: Any = specs.build(config, name)
    power = built.device.power if hasattr(built, "device") else built.figures["power"]
    assert low <= power <= high
    assert power == quantity(config["power"], "power", ("W",))
    times = (LayerTime("a", 0.25, "moving", "fp32"), LayerTime("b", 0.5, "computing", "fp32"))
    lowered = Lowered(lambda x: x, torch.zeros(1), "by hand", price=lambda batch: times)
    assert priced(lowered, 2, power, 0.125).joules == pytest.approx(power * (0.125 + 0.25 + 0.5))


# Distillation.


def test_the_patient_student_follows_each_stage_of_its_teacher(tmp_path: Path) -> None:
    """Half of the blocks of each stage: what the k-th stage gives is compared with the teacher's k-th."""
    ready = prepare(
        composed(["recipe=loyalty_table", "scale=smoke", "evaluation=none", f"outputs={tmp_path}"])
    )
    objective = ready.plan.node("pkd").spec["objective"]
    assert dict(objective["points"]) == {"layer1": "layer1", "layer2": "layer2"}
    assert list(objective["teacher"]) == ["dense"]
