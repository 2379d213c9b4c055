"""Train flat, then compress, on texts: an encoder's curvature, SAM on it, pruning by absolute shares, masks exchanged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases_text_exits import ENCODER, bench  # noqa: F401
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.errors import UserError
from compressbench.inputs import rows
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.encoder import TextEncoder
from compressbench.models.transformer import Attention
from compressbench.runs.execute import Watcher
from compressbench.runs.experiment import execute, prepare
from compressbench.state import State
from compressbench.views import View


class Fused(Attention):
    """Attention by torch's fused kernel, as transformers' modules have it."""

    def forward(self, x: Tensor, unseen: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (-1, self.width)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=~unseen)
        return self.proj(found.transpose(1, 2).flatten(2))


class FusedEncoder(TextEncoder):
    """The encoder with fused attention."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        for layer in self.layers:
            fused = Fused(settings["dim"], settings["heads"])
            fused.load_state_dict(layer.attention.state_dict())
            layer.attention = fused


def inputs_of(count: int) -> tuple[Tensor, Tensor]:
    """Texts of 1 to 5 tokens, padded."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 12, (count, 5), generator=draw)
    return ids, (torch.arange(5) < torch.randint(1, 6, (count, 1), generator=draw)).long()


def small(kind: type[TextEncoder] = TextEncoder) -> TextEncoder:
    """Weights large enough for the curvature to have something to say."""
    torch.manual_seed(0)
    net = kind(vocabulary=12, classes=3, length=5, dim=4, depth=1, heads=2, mlp=6, dropout=0.0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5 * torch.randn(p.shape))
    return net.eval()


def flattened(net: nn.Module, inputs: Sequence[Tensor], labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss by one vector of all weights."""
    shapes = {n: p.shape for n, p in net.named_parameters()}

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([s.numel() for s in shapes.values()])
        named = {n: p.view(shapes[n]) for n, p in zip(shapes, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, named, tuple(inputs)), labels)

    return loss


# curvature ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TextEncoder, FusedEncoder])
def test_the_largest_curvature_is_numpys_of_the_whole_hessian(kind: type[TextEncoder], bench: Bench) -> None:
    from compressbench.probes.landscape import lanczos, landscape_of, random_direction

    plain, inputs = small(), inputs_of(20)
    labels = torch.arange(20) % 3
    net = small(kind)
    net.load_state_dict(plain.state_dict())
    assert torch.allclose(net(*inputs), plain(*inputs), atol=1e-5)
    at = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    whole = torch.autograd.functional.hessian(flattened(plain, inputs, labels), at).double().numpy()
    values = np.linalg.eigvalsh((whole + whole.T) / 2)
    batches = [(rows(inputs, part), labels[part]) for part in (slice(9), slice(9, None))]
    place = landscape_of(net, {}, batches, bench.task)
    top = lanczos(place.product, random_direction(place, torch.Generator().manual_seed(0)), 0.001, 60)
    assert top.value == pytest.approx(values[-1], rel=0.01)
    assert values[-1] > 0.1
    vector = torch.randn(len(at), generator=torch.Generator().manual_seed(1))
    assert place.product(vector).numpy() == pytest.approx(whole @ vector.double().numpy(), abs=1e-3)


def test_flatness_probes_say_what_they_find_of_an_encoder(bench: Bench) -> None:
    from compressbench.probes.hessian import Hessian
    from compressbench.probes.sharpness import Sharpness

    view = View(drawn(ENCODER, bench), bench)
    found = {m.name: m for m in Hessian(examples=16, products=8, samples=2).measure(view, view, bench)}
    found |= {m.name: m for m in Sharpness(examples=16, steps=1).measure(view, view, bench)}
    for name in ("hessian_largest", "hessian_trace", "sam_sharpness", "keskar_sharpness"):
        value = found[name].value
        assert value is not None, found[name].note
        assert math.isfinite(value)
        other = found[f"{name}_rescaled"]
        assert other.value is None
        assert "\n" not in other.note
        assert "ReLU" in other.note, "GELU passes no factor through"


# SAM ------------------------------------------------------------------------------------------------------------------


def test_a_sam_step_of_an_encoder_is_the_gradient_uphill(bench: Bench) -> None:
    """Two steps of plain SGD with SAM on one batch, by hand: w - lr g(w + rho g / |g|)."""
    from compressbench.stages.train import Train

    state = drawn(ENCODER, bench)
    few = bench.feed("train").head(32)
    rate, rho = 0.5, 0.05
    sgd = {"_target_": "torch.optim.SGD", "_partial_": True}
    own = {"_target_": "compressbench.training.sam.sam", "_partial_": True, "rho": rho}
    constant = {"_target_": "compressbench.training.schedules.constant", "_partial_": True}
    dataset = dataclasses.replace(
        bench.dataset,
        splits={**bench.dataset.splits, "train": bench.dataset.splits["train"].take(np.arange(32))},
    )
    place = Bench(dataset, seed=0, name="train", say=lambda _: None)
    stage = Train(
        length="2it", batch_size=32, lr=rate, optimizer=sgd, schedule=constant, stepper=own, validate=None
    )
    found = stage.apply(state, place)
    net = module_of(state).train()
    inputs, params = bench.task.encode(few), list(net.parameters())
    for _ in range(2):
        g = torch.autograd.grad(F.cross_entropy(net(*inputs), few.labels), params)
        norm = float(torch.cat([x.reshape(-1) for x in g]).norm())
        with torch.no_grad():
            for p, x in zip(params, g, strict=True):
                p.add_(x, alpha=rho / norm)
        h = torch.autograd.grad(F.cross_entropy(net(*inputs), few.labels), params)
        with torch.no_grad():
            for p, x, y in zip(params, g, h, strict=True):
                p.sub_(x, alpha=rho / norm).sub_(y, alpha=rate)
    for name, p in net.named_parameters():
        assert torch.allclose(found.weights[name], p.detach(), atol=1e-5), name


# the recipe -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    """Of the recipe at smoke, each training four iterations long, nothing measured."""
    config = composed(
        ["recipe=train_flat_text", "scale=smoke", "hardware=cpu1", "evaluation=none", "recipe.length=4it",
         "recipe.average_every=1it", f"outputs={tmp_path_factory.mktemp('out')}"]
    )  # fmt: skip
    experiment = prepare(config)
    execute(experiment, Watcher(), [])
    return {n.name: experiment.store.load(n.key) for n in experiment.plan.nodes}


def test_each_iteration_removes_an_absolute_share(states: dict[str, State]) -> None:
    whole = sum(m.numel() for m in states["adam_imp1.prune"].masks.values())
    step = round(0.3 * whole)
    for arm in ("adam_imp", "sam_imp", "swa_imp", "adam_std", "sam_std", "swa_std", "random"):
        for level in (1, 2):
            masks = states[f"{arm}{level}.train"].masks
            assert sum(int(m.sum()) for m in masks.values()) == whole - level * step
    earlier, later = (states[f"adam_imp{k}.prune"].masks for k in (1, 2))
    assert all(bool((earlier[n] | ~later[n]).all()) for n in later), "what is gone stays gone"


def test_imp_goes_back_to_the_pretrained_weights_and_std_goes_on(states: dict[str, State]) -> None:
    before = states["init"].weights
    for arm in ("adam_imp", "sam_imp", "swa_imp"):
        back = states[f"{arm}2.rewind"]
        for name, tensor in back.weights.items():
            mask = back.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
            assert torch.equal(tensor, torch.where(mask, before[name], 0.0)), (arm, name)
        trained, kept = states[f"{arm[:-4]}_std1.train"], states[f"{arm[:-4]}_std2.prune"]
        for name, mask in kept.masks.items():
            assert torch.equal(kept.weights[name], torch.where(mask, trained.weights[name], 0.0))


def test_masks_are_exchanged_and_chance_has_as_many_in_each_layer(states: dict[str, State]) -> None:
    own, other = states["adam_imp2.rewind"].masks, states["sam_imp2.rewind"].masks
    assert any(not torch.equal(own[n], other[n]) for n in own), "Adam and SAM leave other weights"
    for name in own:
        assert torch.equal(states["adam_mask"].masks[name], own[name])
        assert torch.equal(states["sam_mask"].masks[name], other[name])
        for arm in ("chance_adam", "chance_sam"):
            assert int(states[arm].masks[name].sum()) == int(own[name].sum())
    assert any(not torch.equal(states["chance_adam"].masks[n], own[n]) for n in own)
    assert not torch.equal(
        states["chance_adam"].weights["fc.weight"], states["chance_sam"].weights["fc.weight"]
    )


def test_sam_is_sam_wherever_it_is_said(states: dict[str, State]) -> None:
    adam, sam = (states[n].facts["macs"] for n in ("adam", "sam"))
    assert sam == pytest.approx(2 * adam, rel=1e-6)
    for one, other in (
        ("adam_imp1.train", "sam_imp1.train"),
        ("sam_mask", "adam_mask"),
        ("chance_adam", "chance_sam"),
    ):
        assert not torch.equal(states[one].weights["fc.weight"], states[other].weights["fc.weight"])


def test_probes_of_a_moment_have_settings_of_their_own(tmp_path: Path) -> None:
    base = ["recipe=train_flat_text", "scale=smoke", "hardware=cpu1", f"outputs={tmp_path}"]
    config = composed(base)
    asked = prepare(config).setting.asked
    assert asked["hessian"]["examples"] == 60
    assert asked["hessian"]["products"] == 8
    assert "hessian" not in config["evaluation"]["probes"]
    other = prepare(composed([*base, "evaluation=quick"])).setting.asked
    assert other["hessian"]["products"] == 40, "as shipped"
    with pytest.raises(UserError, match=r"evaluation\.of_moments\.hessian: not a probe"):
        prepare({**config, "evaluation": {**config["evaluation"], "of_moments": {"hessian": 3}}})
