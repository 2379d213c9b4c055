"""Theseus, the Square attack, the shifted test set, and their table in the report."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import short
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.theseus import Replaceable, begun, groups_of, taken
from compressbench.probes.shifted import KNOWN, Shifted
from compressbench.probes.square import Square
from compressbench.records import Record, Records
from compressbench.runs.execute import Watcher
from compressbench.runs.experiment import execute, prepare
from compressbench.stages.theseus import Replace, Shallower, Successor
from compressbench.stages.train import Train
from compressbench.state import State
from compressbench.tasks.images import corruptions
from compressbench.tasks.images import square as black_box
from compressbench.tasks.images.attacks import Ball
from compressbench.tasks.task import Surface
from compressbench.views import View
from conftest import MLP

RESNET = {
    "name": "resnet14",
    "build": {
        "_target_": "compressbench.models.resnet.CifarResNet",
        "depth": 14,
        "width": 4,
        "shape": "@shape",
        "classes": "@classes",
    },
}


@pytest.fixture
def teacher(bench: Bench) -> State:
    return drawn(RESNET, bench)


def training(length: str, **settings) -> Train:
    return short.train(length, batch_size=32, validate=None, **settings)


# Theseus -----------------------------------------------------------------------------------------------------------


def test_groups_are_consecutive_blocks() -> None:
    from compressbench.models.resnet import CifarResNet

    net = CifarResNet(20, [1, 8, 8], 10, width=4)
    assert groups_of(net, 3) == {f"layer{k}.0": [f"layer{k}.1", f"layer{k}.2"] for k in (1, 2, 3)}
    assert groups_of(net, 2, "layer2") == {"layer2.0": ["layer2.1"]}
    for every, blocks in ((4, None), (2, "layer9")):
        with pytest.raises(UserError, match="blocks in a row"):
            groups_of(net, every, blocks)


def test_a_successor_begins_as_the_first_block_and_ends_alone(bench: Bench, teacher: State) -> None:
    bench = dataclasses.replace(bench, name="mixed")
    mixed = Replace(start=0.5, growth=0.0).apply(teacher, bench)
    groups = mixed.model["groups"]
    assert taken(begun(teacher.weights, groups), groups).keys() == {
        n for n in teacher.weights if not n.startswith(("layer1.1", "layer2.1", "layer3.1"))
    }
    shallow = Shallower().apply(teacher, bench)
    out = Successor().apply(mixed, bench)
    assert out.weights.keys() == shallow.weights.keys()
    assert all(torch.equal(t, shallow.weights[n]) for n, t in out.weights.items())
    assert out.edits == shallow.edits == ({"drop": ["layer1.1", "layer2.1", "layer3.1"]},)
    assert out.facts["prunable"] == shallow.facts["prunable"]
    assert out.facts["density"] == shallow.facts["density"] < 1
    assert out.facts["forward_macs"] < teacher.facts["forward_macs"]
    inputs = bench.task.normalised(bench.feed("test")["images"][:4])
    assert torch.equal(module_of(mixed)(inputs), module_of(out)(inputs)), "in evaluation the successor alone"


def test_replacing_trains_the_successors_only(bench: Bench, teacher: State) -> None:
    bench = dataclasses.replace(bench, name="mixed")
    mixed = Replace(start=0.3, growth=0.05).apply(teacher, bench)
    trained = training("20it").apply(mixed, bench)
    learned = {n for n, t in trained.weights.items() if not torch.equal(t, mixed.weights[n])}
    parameters = {n for n, _ in module_of(mixed).named_parameters()}
    assert learned & parameters == {n for n in parameters if ".new." in n}
    assert all(".old." not in n for n in learned), "also the running means of the predecessor stay"
    assert all(int(trained.weights[f"layer{k}.0.steps"]) == 20 for k in (1, 2, 3))
    again = training("20it").apply(mixed, bench)
    assert all(torch.equal(t, again.weights[n]) for n, t in trained.weights.items())
    first = training("20it", stop="7it").apply(mixed, bench)
    whole = training("20it", start="7it").apply(first, bench)
    assert all(torch.equal(t, whole.weights[n]) for n, t in trained.weights.items())
    assert Successor().apply(trained, bench).facts["examples"] == 20 * 32


def test_the_probability_rises_in_a_line() -> None:
    class Told(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0 + self.value

    torch.manual_seed(0)
    times, steps = 400, 4
    part = Replaceable([Told(0.0)], start=0.25, growth=0.25).train()
    with torch.no_grad():
        part.new.value.fill_(1.0)
    share = torch.zeros(steps)
    for _ in range(times):
        part.steps.zero_()
        share += torch.stack([part(torch.zeros(())).detach() for _ in range(steps)]) / times
    assert share.tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.08)
    assert float(share[3]) == pytest.approx(1.0)
    assert part.eval()(torch.zeros(())).item() == 1.0


def test_theseus_refuses_in_one_line(bench: Bench, teacher: State) -> None:
    with pytest.raises(UserError, match="no successor in this net"):
        Successor().apply(teacher, bench)
    with pytest.raises(UserError, match="blocks in a row"):
        Replace(every=3).apply(teacher, bench)
    with pytest.raises(UserError, match="no block would ever be replaced"):
        Replace(start=0.0, growth=0.0)
    with pytest.raises(UserError, match="every: 1 is less than 2"):
        Shallower(every=1)
    with pytest.raises(UserError, match="blocks in a row"):
        Shallower().apply(drawn(MLP, bench), bench)


def test_a_pruned_net_is_replaced_with_its_masks(bench: Bench, teacher: State) -> None:
    from compressbench.pruning.unstructured import prune
    from compressbench.stages.prune import Prune

    magnitude = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
    sparse = prune(teacher, dataclasses.replace(bench, name="prune"), Prune(magnitude, fraction=0.5))
    trained = training("3it").apply(Replace(start=1.0).apply(sparse, bench), bench)
    out = Successor().apply(trained, bench)
    for name, mask in out.masks.items():
        assert torch.equal(mask, sparse.masks[name])
        assert not out.weights[name][~mask].any()


# Square attack -----------------------------------------------------------------------------------------------------


def test_square_finds_what_trying_everything_finds() -> None:
    """A linear model on 1 x 2 x 3 images: the worst point is one of the 2^6 corners of the ball."""
    torch.manual_seed(0)
    n, eps = 40, 0.1
    weight = torch.randn(6, 3)
    images = torch.rand(n, 1, 2, 3) * 0.6 + 0.2
    labels = (images.flatten(1) @ weight).argmax(1)
    surface = Surface(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    corners = eps * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6))).view(-1, 1, 1, 2, 3)
    named = ((images + corners).flatten(2) @ weight).argmax(2)
    falls = (named != labels).any(0)
    assert 5 < int(falls.sum()) < 35

    found = black_box.square(
        lambda x: x.flatten(1) @ weight,
        images,
        labels,
        Ball(surface, eps),
        1500,
        torch.Generator().manual_seed(0),
    )
    assert torch.equal(found.fallen, falls)
    assert float((found.images - images).abs().max()) <= eps + 1e-6
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert bool((found.queries[~falls] == 1500).all())
    assert bool((found.queries[falls] < 1500).all())
    spent = (found.images.flatten(1) @ weight).argmax(1)
    assert torch.equal(spent != labels, falls), "the images that it ends with are what fools"


def test_square_counts_every_query_and_leaves_the_fallen_alone() -> None:
    asked: list[int] = []
    surface = Surface(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))

    def scores(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return torch.stack([torch.full((len(x),), 0.5), x.mean((1, 2, 3))], 1)

    images = torch.tensor([0.9, 0.45, 0.1]).view(3, 1, 1, 1).expand(3, 1, 6, 6).contiguous()
    labels = torch.tensor([0, 0, 0])  # wrong at once; falls; can't fall
    found = black_box.square(scores, images, labels, Ball(surface, 0.1), 60, torch.Generator().manual_seed(1))
    assert found.fallen.tolist() == [True, True, False]
    assert found.queries[0] == 0
    assert 1 <= found.queries[1] < 60
    assert found.queries[2] == 60
    assert sum(asked[1:]) == int(found.queries.sum()), "the first forward is the clean one"
    assert torch.equal(found.images[0], images[0])


def test_squares_shrink_as_published() -> None:
    shares = [black_box.square_share(q, 10_000, 0.8) for q in (1, 10, 11, 51, 201, 501, 1001, 9000)]
    assert shares == pytest.approx([0.8 / 2**k for k in (0, 0, 1, 2, 3, 4, 5, 9)])
    assert black_box.square_share(3, 500, 0.8) == black_box.square_share(60, 10_000, 0.8)


def test_square_needs_no_gradient_and_is_the_same_twice(bench: Bench, teacher: State) -> None:
    view = View(teacher, bench)
    with torch.no_grad():
        found = {m.name: m for m in Square(examples=20, queries=30).measure(view, view, bench)}
    again = {m.name: m for m in Square(examples=20, queries=30).measure(View(teacher, bench), view, bench)}
    assert found == again
    assert found["square_accuracy"].n == 20
    assert found["square_queries"].n is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0}, "eps is 0"),
        ({"eps": "x"}, "eps is 'x'"),
        ({"queries": 0}, "queries is 0"),
        ({"first": 0.0}, "first is 0"),
    ],
)
def test_square_refuses(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Square(**settings)


# Shifted test set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KNOWN)
def test_corruptions_are_the_same_and_grow(kind: str) -> None:
    torch.manual_seed(0)
    base = torch.linspace(0, 255, 16 * 16).view(1, 1, 16, 16).repeat(4, 3, 1, 1)
    images = (base + 40 * torch.rand_like(base)).clamp(0, 255).to(torch.uint8)
    found = [corruptions.corrupted(images, kind, s) for s in corruptions.SEVERITIES]
    assert all(f.dtype == torch.uint8 and f.shape == images.shape for f in found)
    assert torch.equal(found[2], corruptions.corrupted(images, kind, 3))
    far = [float((f.float() - images.float()).square().mean()) for f in found]
    assert far[0] > 0
    assert all(a < b for a, b in itertools.pairwise(far))


def test_corruptions_do_what_they_are_called() -> None:
    grey = torch.full((8, 1, 32, 32), 128, dtype=torch.uint8)
    noisy = corruptions.corrupted(grey, "gaussian_noise", 3).float() / 255
    assert float(noisy.std()) == pytest.approx(0.08, abs=0.004)
    shot = corruptions.corrupted(grey, "shot_noise", 5).float() / 255
    assert float(shot.std()) == pytest.approx((0.502 / 50) ** 0.5, abs=0.006)
    salted = corruptions.corrupted(grey, "impulse_noise", 5)
    assert float(((salted == 0) | (salted == 255)).float().mean()) == pytest.approx(0.07, abs=0.01)
    assert torch.equal(corruptions.corrupted(grey, "gaussian_blur", 5), grey)
    steps = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert corruptions.corrupted(steps, "contrast", 2).flatten().tolist() == [64, 191]


def test_shifted_measures_each_corruption_and_the_mean(bench: Bench, teacher: State) -> None:
    view = View(teacher, bench)
    found = list(Shifted(("contrast", "gaussian_noise"), severity=1, examples=50).measure(view, view, bench))
    by_group = {m.group: m.value for m in found}
    assert by_group[""] == pytest.approx((by_group["contrast"] + by_group["gaussian_noise"]) / 2)
    assert all(m.n == 50 for m in found)
    spoilt = bench.task.normalised(corruptions.corrupted(bench.feed("test")["images"][:50], "contrast", 1))
    right = (view.module(spoilt).argmax(1) == bench.feed("test").labels[:50]).float().mean()
    assert by_group["contrast"] == pytest.approx(100 * float(right))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruptions": ("fog",)}, "unknown corruption 'fog'"),
        ({"severity": 6}, "severity is 6"),
        ({"examples": 0}, "examples is 0"),
    ],
)
def test_shifted_refuses(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Shifted(**settings)


# The table -----------------------------------------------------------------------------------------------------------


def test_the_recipe_has_the_thirteen_rows_of_the_lecture() -> None:
    compare = composed(["recipe=loyalty_table", "scale=smoke"])["recipe"]["compare"]
    controls = {"random prune + fine-tune", "dense + fine-tune"}
    assert controls < set(compare["series"])
    assert len(set(compare["series"]) - controls) == 12
    assert compare["reference"] == "dense", "the thirteenth: the teacher"


def test_the_lecture_table_has_the_extra_columns() -> None:
    from cases_report import record
    from compressbench.report.panels import panels
    from compressbench.report.sections.methods import lecture_table
    from compressbench.report.sections.others import leftover_tables

    rows = [
        record(
            series=series,
            order=order,
            state=series,
            density=1 - order / 2,
            probe=probe,
            metric=metric,
            value=value + order,
            unit="%",
            n=128,
            note=note,
        )
        for order, series in enumerate(("dense", "PKD"))
        for probe, metric, value, note in (
            ("accuracy", "top1", 80.0, ""),
            ("shifted", "shifted_top1", 61.0, "mean over contrast; severity 3 of 5"),
            ("square", "square_accuracy", 31.0, ""),
            ("square", "square_queries", 121.0, "at most 300; of images that it got right before"),
        )
    ]
    panel = panels(Records(rows))[0]
    table = lecture_table(panel, "final")
    assert table is not None
    heads = [name for name, _ in table.heads]
    assert heads[-3:] == ["Shifted", "After attack", "#Q"]
    assert [c.text for c in table.rows[1].cells[-3:]] == ["62.0", "32.0", "122.0"]
    assert any("at most 300" in note for note in table.notes)
    assert not leftover_tables(panel, "final")


@pytest.mark.slow
def test_the_whole_table_at_smoke_scale(tmp_path: Path) -> None:
    config = composed(["recipe=loyalty_table", "scale=smoke", "hardware=cpu1", f"outputs={tmp_path}"])
    done: list[Record] = []
    records = execute(prepare(config), Watcher(), done)
    for probe, metric in (
        ("accuracy", "top1"),
        ("loyalty", "label_loyalty"),
        ("robustness", "pgd_accuracy"),
        ("square", "square_accuracy"),
        ("square", "square_queries"),
    ):
        assert len(records.where(probe=probe, metric=metric, moment="final", group="")) == 16
    top = {r.series: r.value for r in records.where(metric="top1")}
    assert top["structured prune + fine-tune"] > top["structured prune"]
    quiet = records.where(metric="label_loyalty", series="Q8-PTQ", group="")[0].value
    assert quiet is not None
    assert quiet > 97
