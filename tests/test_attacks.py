"""Attacks: pixel for pixel foolbox's, inside the ball, on the same function, repeatable."""

from __future__ import annotations

import foolbox
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressbench.models.prepared import prepared
from compressbench.models.resnet import CifarResNet
from compressbench.tasks.images import attacks
from compressbench.tasks.images.attacks import Ball, NoGradient
from compressbench.tasks.images.classification import Classification

EPS = 8 / 255
TASK = Classification(tuple("abcdef"), (0.0,) * 3, (1.0,) * 3)
NORMALISED = Classification(tuple("abcdef"), (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))


def net() -> nn.Module:
    torch.manual_seed(0)
    module = CifarResNet(8, shape=(3, 16, 16), classes=6)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 2)
    return module.eval()


def data(task: Classification, n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Images as uint8, encoded, and the classes that an untrained net gives them, so that all can fall."""
    images = torch.randint(
        0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    inputs = task.normalised(images)
    with torch.no_grad():
        return images, inputs, net()(inputs).argmax(1)


def ball(task: Classification, eps: float = EPS) -> Ball:
    return Ball(task.surface(), eps)


@pytest.mark.parametrize("steps", [1, 7])
def test_pgd_is_foolbox_to_the_pixel(steps):
    module = net()
    fast = prepared(module, data(TASK)[1][:8])
    _, inputs, labels = data(TASK)
    inputs = inputs.clamp(0, 1)
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=steps, random_start=False).run(
        foolbox.PyTorchModel(fast, bounds=(0, 1)), inputs, labels, epsilon=EPS
    )
    ours = attacks.pgd(fast, inputs, labels, TASK.loss, ball(TASK), steps=steps, step=EPS / 4)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, inputs)


def test_fgsm_is_foolbox_to_the_pixel():
    module = net()
    _, inputs, labels = data(TASK)
    inputs = inputs.clamp(0, 1)
    theirs = foolbox.attacks.LinfFastGradientAttack(random_start=False).run(
        foolbox.PyTorchModel(module, bounds=(0, 1)), inputs, labels, epsilon=EPS
    )
    assert torch.equal(attacks.fgsm(module, inputs, labels, TASK.loss, ball(TASK)), theirs)


def test_normalised_inputs_are_attacked_in_pixel_units():
    """foolbox on the undivided module with its own preprocessing, ours on the folded one in encoded units."""
    module = net()
    images, inputs, labels = data(NORMALISED)
    fast = prepared(module, inputs[:8])
    bounds = {"mean": NORMALISED.mean, "std": NORMALISED.std, "axis": -3}
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=3, random_start=False).run(
        foolbox.PyTorchModel(module, bounds=(0, 1), preprocessing=bounds), images / 255, labels, epsilon=EPS
    )
    ours = attacks.pgd(fast, inputs, labels, NORMALISED.loss, ball(NORMALISED), steps=3, step=EPS / 4)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (NORMALISED.mean, NORMALISED.std))
    same = ((ours * std + mean) - theirs).abs() < 1e-5
    assert same.float().mean() > 0.995


@settings(max_examples=25, deadline=None)
@given(
    eps=st.floats(0.001, 1.0),
    step=st.floats(0.001, 2.0),
    steps=st.integers(1, 3),
    drop=st.booleans(),
    noise=st.booleans(),
    seed=st.integers(0, 5),
)
def test_perturbation_stays_in_the_ball_and_pixels_valid(eps, step, steps, drop, noise, seed):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)
    )
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8, generator=generator)
    inputs, where = NORMALISED.normalised(images), ball(NORMALISED, eps)
    start = attacks.random_start(inputs, where, generator) if noise else None
    labels = torch.randint(0, 6, (9,), generator=generator)
    found = attacks.pgd(
        module, inputs, labels, NORMALISED.loss, where, steps, step, start=start, drop_fallen=drop, batch=4
    )
    surface = NORMALISED.surface()
    assert (((found - inputs) / surface.scale).abs() <= eps + 1e-5).all()
    rounding = 1e-6 * surface.scale  # ``encode`` itself may leave the bounds by one
    assert (found >= surface.low - rounding).all()
    assert (found <= surface.high + rounding).all()


def test_random_start_fills_the_ball_and_repeats():
    _, inputs, _ = data(TASK)
    inputs = inputs.clamp(0.2, 0.8)
    one, two, other = (
        attacks.random_start(inputs, ball(TASK), torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    moved = (one - inputs) / EPS
    assert moved.abs().max() <= 1 + 1e-5
    assert moved.min() < -0.99
    assert moved.max() > 0.99
    assert abs(float(moved.mean())) < 0.02


def test_the_attack_is_the_same_for_any_batch_size():
    module = net()
    _, inputs, labels = data(TASK, 24)
    found = [
        attacks.pgd(module, inputs, labels, TASK.loss, ball(TASK), steps=2, step=EPS / 4, batch=b)
        for b in (1, 7, 64)
    ]
    assert (found[0] == found[2]).float().mean() > 0.999
    assert (found[1] == found[2]).float().mean() > 0.999


def test_dropping_what_has_fallen_changes_no_verdict():
    module = net()
    _, inputs, labels = data(TASK)
    calls: list[int] = []

    def loss(outputs, at):
        calls.append(len(at))
        return TASK.loss(outputs, at)

    work = {}
    fallen = {}
    for drop in (False, True):
        calls.clear()
        found = attacks.pgd(module, inputs, labels, loss, ball(TASK), 6, EPS / 4, drop_fallen=drop, batch=16)
        work[drop] = sum(calls)
        with torch.no_grad():
            fallen[drop] = module(found).argmax(1) != labels
    assert work[False] == 6 * len(inputs)
    assert work[True] < work[False]
    assert fallen[False].any()
    assert not (fallen[False] & ~fallen[True]).any()


def test_what_is_wrong_from_the_start_is_not_touched_when_dropping():
    module = net()
    _, inputs, labels = data(TASK)
    wrong = (labels + 1) % 6
    found = attacks.pgd(module, inputs, wrong, TASK.loss, ball(TASK), 3, EPS / 4, drop_fallen=True)
    assert torch.equal(found, inputs)


def test_attack_raises_the_loss_and_leaves_no_trace():
    module = net()
    _, inputs, labels = data(TASK)
    before = inputs.clone()
    found = attacks.pgd(module, inputs, labels, TASK.loss, ball(TASK), 5, EPS / 4)
    with torch.no_grad():
        clean = nn.functional.cross_entropy(module(inputs), labels)
        after = nn.functional.cross_entropy(module(found), labels)
    assert after > clean + 0.01
    assert torch.equal(inputs, before)
    assert all(p.grad is None for p in module.parameters())
    assert not found.requires_grad


def test_a_model_without_gradient_says_so():
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.detach() > 0).float().flatten(1)[:, :6]

    _, inputs, labels = data(TASK)
    with pytest.raises(NoGradient, match="Counting passes no gradient"):
        attacks.fgsm(Counting(), inputs, labels, TASK.loss, ball(TASK))


def test_a_constant_model_is_not_moved():
    module = net()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    _, inputs, labels = data(TASK)
    assert torch.equal(
        attacks.pgd(module, inputs, labels, TASK.loss, ball(TASK), 2, EPS), ball(TASK).into(inputs, inputs)
    )


def test_nothing_to_attack():
    module = net()
    _, inputs, labels = data(TASK)
    for drop in (False, True):
        none = attacks.pgd(module, inputs[:0], labels[:0], TASK.loss, ball(TASK), 2, EPS, drop_fallen=drop)
        assert none.shape == (0, 3, 16, 16)
