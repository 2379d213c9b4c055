"""The pretended GPU refuses what a GPU would, and computes what the processor does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretended import Elsewhere, pretended

FORGOTTEN: dict[str, Callable[[Tensor], Any]] = {
    "a tensor of the CPU": lambda x: x + torch.ones(8),
    "an index into the CPU": lambda x: torch.arange(5)[x[0, 0, 0].long()],
    "a layer of the CPU": lambda x: nn.Conv2d(3, 4, 3)(x),
    "a generator of the CPU": lambda x: torch.rand(3, generator=torch.Generator(), device="cuda"),
    "noise of the CPU": lambda x: x.bernoulli_(0.5, generator=torch.Generator()),
    "a loss against the CPU": lambda x: nn.functional.cross_entropy(x.flatten(1), torch.tensor([0, 1])),
    "a list": lambda x: torch.cat([x, torch.zeros(2, 3, 8, 8)]),
}
WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "if": lambda x: bool((x > 0).any()),
    "nonzero": lambda x: (x > 0).nonzero(),
    "mask": lambda x: x[x > 0],
    "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(),
    "to the GPU": lambda x: torch.ones(3).to("cuda"),
    "copied over": lambda x: torch.zeros(2, 3, 8, 8).copy_(x),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_what_was_forgotten_on_the_cpu_is_refused(what: str) -> None:
    with pretended():
        x = torch.rand(2, 3, 8, 8).to("cuda")
        with pytest.raises(Elsewhere):
            FORGOTTEN[what](x)


def test_numpy_wants_the_cpu() -> None:
    with pretended():
        x = torch.ones(3, device="cuda")
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            x.numpy()
        assert x.cpu().numpy().sum() == 3


@pytest.mark.parametrize("context", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("what", WAITS)
def test_waits_are_counted_forbidden_and_not_recorded(what: str, context: Any) -> None:
    with pretended() as there, context():
        x = torch.rand(2, 3, 8, 8).to("cuda")
        there.waits.clear()
        WAITS[what](x)
        assert sum(there.waits.values()) == 1, there.waits
        torch.cuda.set_sync_debug_mode("error")
        with pytest.raises(Elsewhere, match="waits for the GPU"):
            WAITS[what](x)
        torch.cuda.set_sync_debug_mode("default")
        with pytest.raises(Elsewhere, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            WAITS[what](x)


def test_what_stays_on_the_gpu_waits_for_nothing() -> None:
    with pretended() as there:
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        ).to("cuda")
        x = torch.rand(2, 3, 8, 8).to("cuda")
        there.waits.clear()
        loss = net(x).logsumexp(1).mean()
        loss.backward()
        assert not there.waits
        assert loss.device == torch.device("cuda", 0)
        assert all(p.grad is not None and p.grad.is_cuda for p in net.parameters())
        assert torch.func.vmap(lambda t: t.sum())(x).is_cuda
        assert torch.func.jvp(lambda t: (t * t).sum(), (x,), (torch.ones_like(x),))[1].is_cuda
    assert not torch.ones(1).is_cuda


def test_a_graph_does_nothing_until_it_is_replayed_and_then_all_of_it() -> None:
    """Three steps of momentum, of which two are replayed, are three steps."""

    def three(replayed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).to("cuda")
        sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        x = torch.rand(5, 6).to("cuda")

        def step() -> None:
            sgd.zero_grad(set_to_none=True)
            net(x).square().sum().backward()
            sgd.step()

        step()
        if not replayed:
            step()
            step()
        else:
            graph, before = torch.cuda.CUDAGraph(), [t.clone() for t in net.state_dict().values()]
            with torch.cuda.graph(graph):
                step()
            assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))
            graph.replay()
            graph.replay()
        return [t.cpu() for t in net.state_dict().values()]

    with pretended():
        for one, other in zip(three(False), three(True), strict=True):
            assert torch.equal(one, other)


def test_a_recorded_number_of_python_stays_what_it_was() -> None:
    with pretended():
        x, rate = torch.ones(2, device="cuda"), [1.0]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x.add_(rate[0])
        rate[0] = 100.0
        graph.replay()
        assert x.tolist() == [2.0, 2.0]
