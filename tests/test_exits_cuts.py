"""Where a net may be cut for its exits, and into what parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cases_exits import (
    HEAD,
    RESNET,
    bench,  # noqa: F401
    build,
    images,
    middle,
    policy,
    spec,
    three_of,
)
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.exit_criteria.margin import margin
from compressbench.exit_criteria.policy import (
    compacted,
    everything,
    taken,
)
from compressbench.exit_criteria.said import Said
from compressbench.models.build import module_of
from compressbench.models.counting import of_exits
from compressbench.models.draw import drawn
from compressbench.models.exits import check, parts_of, places
from compressbench.stages.exits import Attach, Choose
from compressbench.views import View
from tiny import TINY

VIT = build("compressbench.models.vit.VisionTransformer", dim=16, depth=3, heads=2, mlp=16)


class Growing(nn.Module):
    """Blocks that each see the input beside the block before: no exit is a cut without the input."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        size = math.prod(shape)
        self.one, self.two = nn.Linear(size, 12), nn.Linear(size + 12, 24)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        first = self.one(x).relu()
        return self.fc(self.two(torch.cat([x, first], 1)).relu())


GROWING = build("test_exits_cuts.Growing")


def test_what_an_exit_leaves_behind_is_carried_if_it_is_named(bench: Bench) -> None:
    state = drawn(GROWING, bench)
    with pytest.raises(
        UserError, match=r"one is no cut of the net: what comes after it needs .*; choose a point"
    ):
        Attach(("one",), HEAD).apply(state, bench)
    # the point's own value goes through a ReLU before the cat: the exit reads what the module gave
    found = Attach(("one",), HEAD, side=("flatten",)).apply(state, bench)
    parts, x = parts_of(module_of(found)), images(bench)
    with torch.inference_mode():
        logits = everything(parts, x)
        where = compacted(parts, policy(margin, middle(margin(Said(logits[0])))), x)
    assert torch.allclose(where.logits, taken(logits, where.exits), atol=1e-5)
    assert set(where.exits.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (("nolayer",), r"the model has no module 'nolayer'; did you mean"),
        (("layer1.0.conv1",), r"layer1\.0\.conv1 is no cut of the net: what comes after it needs \w+.* too"),
        (("fc",), r"fc lies after the output layer"),
        (("layer1", "layer1.0"), r"are the same place of the net"),
    ],
)
def test_points_that_can_be_no_exit(points: tuple[str, ...], words: str, bench: Bench) -> None:
    with pytest.raises(UserError, match=words):
        Attach(points, HEAD).apply(drawn(RESNET, bench), bench)


class Branching(nn.Module):
    """A net whose forward looks at its data."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.one, self.fc = nn.Linear(math.prod(shape), 8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x.flatten(1))
        return self.fc(x if x.sum() > 0 else -x)


class Mixing(Branching):
    """A net whose examples are not apart: each takes the batch's mean along."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x.flatten(1))
        return self.fc(x - x.mean(0, keepdim=True))


class Warm(Branching):
    """A net with a value of no row for each example on both sides of the exit."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.heat = nn.Parameter(torch.zeros(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        heat = self.heat.exp()
        return self.fc(self.one(x.flatten(1) * heat.mean()) * heat)


class InPlace(Branching):
    """A net that changes the exit's value in place after it."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__(shape, classes)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.one(x.flatten(1))))


class Squared(nn.Module):
    """A head that needs its input again in the backward."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(shape[0], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x * x)


def test_a_head_whose_input_is_changed_in_place_is_refused_and_another_works(bench: Bench) -> None:
    state = drawn(build("test_exits_cuts.InPlace"), bench)
    with pytest.raises(UserError, match="name the module that follows"):
        Attach(("one",), {"_target_": "test_exits_cuts.Squared", "_partial_": True}).apply(state, bench)
    after = Attach(("act",), {"_target_": "test_exits_cuts.Squared", "_partial_": True}).apply(state, bench)
    assert View(Choose(spec("margin"), threshold=0.3).apply(after, bench), bench).log_probs.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Branching", "can't be traced"),
        ("Mixing", "one row for each example"),
        ("Warm", "one row for each example"),
    ],
)
def test_nets_whose_examples_cannot_leave(kind: str, words: str, bench: Bench) -> None:
    with pytest.raises(UserError, match=words):
        Attach(("one",), HEAD, side=("*",)).apply(drawn(build(f"{__name__}.{kind}"), bench), bench)


@pytest.mark.parametrize(
    ("model", "points", "side"),
    [
        (VIT, ("blocks.0", "blocks.1"), ()),
        (build("compressbench.models.msdnet.MSDNet", blocks=3, base=4, growth=2, head=8), ("ends.0", "ends.1"), ("*",)),
        (TINY, ("features.2", "features.4"), ()),
    ],
)  # fmt: skip
def test_other_nets_in_parts(
    model: dict, points: tuple[str, ...], side: tuple[str, ...], bench: Bench
) -> None:
    state = drawn(model, bench)
    found = Attach(points, HEAD, side=side).apply(state, bench)
    module = module_of(found)
    check(module, three_of(bench))
    assert of_exits(parts_of(module), bench.task.blank(1))[-1] == found.facts["forward_macs"]
    # the net's own tensors keep their names and values, and so does its answer
    for name, tensor in state.weights.items():
        assert torch.equal(found.weights[name], tensor)
    x = images(bench)
    with torch.no_grad():
        assert torch.equal(module(x), module_of(state)(x))


def test_points_are_put_in_the_order_of_the_net(bench: Bench) -> None:
    module = module_of(drawn(RESNET, bench))
    assert list(places(module, ["layer2", "layer1"], [], (images(bench, 2),))) == ["layer1", "layer2"]
