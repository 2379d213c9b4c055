"""Zeros skipped for real: the same function, chosen by the clock."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.hardware import torch_sparse
from compressbench.hardware.target import Lowered
from compressbench.hardware.torch_sparse import TorchSparse, faster_sparse, sparse, with_sparse
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.stages.prune import Prune
from compressbench.views import View
from conftest import MLP
from tiny import TINY

MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}


def thinned(layer: nn.Module, density: float) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(layer.weight.shape, generator=generator) < density)
    return layer


LAYERS = {
    "linear": (nn.Linear(40, 12), (5, 40)),
    "linear on sequences": (nn.Linear(40, 12, bias=False), (2, 3, 40)),
    "convolution": (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 9, 7)),
    "strided, dilated": (
        nn.Conv2d(3, 8, (3, 2), stride=(2, 1), padding=(2, 0), dilation=2, bias=False),
        (2, 3, 11, 9),
    ),
    "pointwise": (nn.Conv2d(6, 4, 1), (3, 6, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_sparse_layer_is_the_same_function(name: str, density: float) -> None:
    layer, shape = LAYERS[name]
    layer = thinned(nn.Sequential(*[layer])[0], density) if density < 1 else layer
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.allclose(sparse(layer)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("spec", [TINY, MLP], ids=["convolutions", "linear"])
@pytest.mark.parametrize("always", [True, False])
def test_what_is_chosen_computes_what_the_state_does(
    spec: dict, always: bool, place: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every layer said to be faster sparse, and with none."""
    state = Prune(criterion=MAGNITUDE, fraction=0.9).apply(drawn(spec, place), place)
    monkeypatch.setattr(torch_sparse, "_is_faster", lambda *_: always)
    found = TorchSparse(batches=(1, 4), densest=1.0).lower(View(state, place))
    assert isinstance(found, Lowered)
    assert found.skips_zeros is always
    assert ("sparse (" in found.runtime) is always
    for count in (1, 3, 4):
        inputs = found.inputs[0][:count]
        with torch.inference_mode():
            assert torch.allclose(found.run(inputs), module_of(state)(inputs), atol=1e-4)


def test_dense_layers_grouped_ones_and_rounding_ones_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_sparse, "_is_faster", lambda *_: True)
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1),
        thinned(nn.Conv2d(4, 4, 3, padding=1, groups=2), 0.1),
        thinned(nn.Conv2d(4, 4, 3, padding=1), 0.1),
        thinned(nn.Conv2d(4, 4, 3, padding="same"), 0.1),
        thinned(nn.Conv2d(4, 4, 1), 0.1),
    )
    with torch.inference_mode():
        assert faster_sparse(net, torch.rand(1, 4, 5, 5), 0.5, set()) == ("2", "4")
        assert faster_sparse(net, torch.rand(1, 4, 5, 5), 0.5, {"2"}) == ("4",)
    assert type(with_sparse(net, ("2",))[0]) is nn.Conv2d


class Viewing(nn.Module):
    """Takes for granted what torch's own layers give: results that lie in one piece."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(shape[0], 4, 3, padding=1)
        self.fc = nn.Linear(4 * shape[1] * shape[2], classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.fc(y.view(y.shape[0], -1)).view(-1).view(len(x), -1)


class Reading(nn.Module):
    """Reads a layer's weight itself."""

    def __init__(self, shape: list[int], classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)) * self.fc.weight.sum()


@pytest.mark.parametrize("kind", ["Viewing", "Reading"])
def test_nets_of_ones_own_run_sparse_or_dense_but_run(
    kind: str, place: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = {"_target_": f"test_sparse.{kind}", "shape": "@shape", "classes": "@classes"}
    state = Prune(criterion=MAGNITUDE, fraction=0.9).apply(
        drawn({"name": kind, "build": build}, place), place
    )

    def always(one, other, inputs) -> bool:
        one(*inputs)
        return True

    monkeypatch.setattr(torch_sparse, "_is_faster", always)
    found = TorchSparse(batches=(1, 4), densest=1.0).lower(View(state, place))
    assert isinstance(found, Lowered)
    assert found.skips_zeros is (kind == "Viewing")
    with torch.inference_mode():
        assert torch.allclose(found.run(*found.inputs), module_of(state)(*found.inputs), atol=1e-4)


@pytest.mark.parametrize("settings", [{"densest": 1.5}, {"threads": 0}, {"batches": (0,)}, {"seconds": 0}])
def test_settings_are_checked(settings: dict) -> None:
    with pytest.raises(UserError, match="hardware: "):
        TorchSparse(**settings)
