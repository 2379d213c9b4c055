"""What several files of tests on GPUs have together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from compressbench.bench import Bench
from compressbench.hardware import torch_cuda, turns
from pretended import Pretended, pretended

CARD = pytest.param("card", marks=pytest.mark.cuda)


@pytest.fixture(params=["pretended", CARD])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended | None]:
    """A GPU to run a test on; None for a real one, whose float32 is float32."""
    if request.param == "card":
        with torch_cuda.arithmetic(False):
            yield None
        return
    monkeypatch.setattr(torch_cuda, "WARM", 0.0)
    monkeypatch.setattr(turns, "LEAST_ROUNDS", 2)
    with pretended() as there:
        yield there


def on_gpu(bench: Bench) -> Bench:
    """The same bench, its examples not yet there."""
    return dataclasses.replace(bench, device="cuda", feeds={}, say=lambda text: None)
