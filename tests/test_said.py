"""What a target, an export and a calibration say where answers differ, are no numbers, or nobody counts the others."""

from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import compressbench.models.prepared
from compressbench.bench import Bench
from compressbench.cli import calibrate
from compressbench.data.examples import Examples
from compressbench.deploying.handing_over import check
from compressbench.hardware import agreement, calibrating, turns
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.hardware.torch_compiled import quietly
from compressbench.hardware.torch_sparse import TorchSparse
from compressbench.outputs import Outputs
from compressbench.state import State
from compressbench.tasks.images.classification import Classification
from compressbench.views import View


def test_a_target_that_answers_otherwise_is_refused(
    dense: State, place: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TorchSparse(batches=(1, 2))
    assert isinstance(target.lower(View(dense, place)), Lowered)
    own = compressbench.models.prepared.prepared
    monkeypatch.setattr(compressbench.models.prepared, "prepared", lambda m, *x: _Doubled(own(m, *x)))
    found = target.lower(View(dense, place))
    assert isinstance(found, Unsupported)
    assert "answers otherwise than the state at batch 1" in found.why


class _Doubled(torch.nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.net(x)


def test_another_batch_size_is_checked_too(dense: State, place: Bench) -> None:
    view = View(dense, place)
    inputs = place.task.encode(place.feed("test").head(8))

    def run(x: Tensor) -> Tensor:
        return view.module(x if len(x) == 1 else x.flip(0)).detach()

    with pytest.raises(agreement.Otherwise, match="Mine answers otherwise than the state at batch 8"):
        agreement.with_state(view, run, inputs, (1,), "Mine")


def test_answers_that_are_no_numbers_agree_with_nothing() -> None:
    """Of four, one is no number in both, one in the file alone, one names another class, one the same."""
    own = torch.tensor([[torch.nan, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    there = torch.tensor([[torch.nan, 0.0], [torch.nan, 1.0], [1.0, 0.0], [1.0, 0.0]])
    labels, task = torch.tensor([0, 1, 1, 0]), Classification(("a", "b"), (0.0,), (1.0,))
    asked = SimpleNamespace(
        encode=lambda batch: (there,), answers=task.answers, right=task.right, log_probs=task.log_probs
    )
    feed = Examples.of(labels.numpy()).to("cpu")
    answers = task.answers(Outputs(own))
    view: Any = SimpleNamespace(
        bench=SimpleNamespace(task=asked, feed=lambda split: feed), streams=False,
        log_probs=own.log_softmax(1), labels=labels, answers=answers, right=answers == labels,
    )  # fmt: skip
    found = check(view, lambda x: x, "mine")
    assert (found.agreement, found.top1, found.simulated) == (25.0, 25.0, 75.0)


@pytest.mark.parametrize(
    ("share", "said"),
    [(None, turns.UNSEEN), (0.5, f"{turns.OTHERS} 50 % of the processors"), (0.01, None)],
)
def test_calibrating_says_what_others_took_or_that_nobody_knows(
    share: float | None,
    said: str | None,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    peaks = SimpleNamespace(peaks={"f32": 1e9}, bandwidth=1e9, cache_bandwidth=1e9, overhead=1e-6)
    monkeypatch.setattr(calibrating, "fit", lambda *_: peaks)
    monkeypatch.setattr(calibrating, "as_yaml", lambda *_: "")
    monkeypatch.setattr(turns, "others", lambda: lambda: share)
    assert calibrate.main(["--output", str(tmp_path / "x.yaml")]) == 0
    out = capsys.readouterr().out
    assert said is None or said in out
    assert (turns.UNSEEN in out) == (share is None)
    assert (turns.OTHERS in out) == (share == 0.5)


def test_compiling_is_quiet_and_goes_on_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.root.manager.disable
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        with quietly():
            warnings.warn("of its own lowering", stacklevel=1)
            logging.getLogger("torch._dynamo").warning("recompiled")
        assert not caught
        assert not caplog.records
        logging.getLogger("mine").warning("heard")
    assert [r.message for r in caplog.records] == ["heard"]
    assert logging.root.manager.disable == before
