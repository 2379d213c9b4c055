"""Mistakes that were planted once and that no test saw: exact figures, counted by hand."""

from __future__ import annotations

import pytest
import torch

import test_exits_report
from compressbench.early import within_loss
from compressbench.probes.exits import _classes, _controls
from compressbench.records import Records
from compressbench.report.findings import summary
from compressbench.report.numbers import number
from compressbench.report.panels import panels
from test_report import accuracies

NAMES = ("first", "second", "last")
COSTS = torch.tensor([1.0, 4.0, 10.0], dtype=torch.float64)
RIGHT = torch.tensor(
    [
        [True, False, True],
        [False, True, False],
        [False, False, False],
        [False, False, True],
        [True, True, True],
    ]
)
WHERE = torch.tensor([0, 1, 1, 2, 2])
LABELS = torch.tensor([0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.12345, "nats", "0.123"),
        (3.14159, "bits", "3.142"),
        (5.0, "1", "5"),
        (99_999.0, "1", "99\u202f999"),
        (100_000.0, "1", "100\u202fk"),
        (1_000_000.0, "x", "1.00\u202fM"),
        (999_999.0, "x", "999\u202f999.00"),
        (1_000.0, "bytes", "1.00\u202fk"),
        (999.0, "bytes", "999"),
    ],
)
def test_numbers_at_their_edges(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def told(losses: dict[float, float]) -> str:
    """The summary of one series that loses so many points at each density."""
    rows = accuracies("dense", 0, 1.0, {0: 90.0})
    for order, (density, loss) in enumerate(losses.items(), 1):
        rows += accuracies("ticket", order, density, {0: 90.0 - loss})
    (panel,) = panels(Records(rows))
    return " ".join(summary(panel)).replace("\u202f", " ").replace("\u00a0", " ")


def test_within_a_point_is_neither_two_nor_less() -> None:
    text = told({0.5: 1.5, 0.25: 1.0, 0.125: 1.25})
    assert "on average no more than one point below dense is 25.0 %: −1.0 points" in text
    assert "it is further below at 1 higher density." in text
    assert "At its lowest density, 12.5 %, it is −1.2 points" in text
    assert "further below" not in told({0.5: 1.0, 0.25: 1.0})
    assert "At every density ticket is on average more than one point below dense." in told({0.5: 1.25})


def test_an_exit_policy_within_a_point_is_neither_two_nor_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(policies: dict[str, tuple[float, float, float, float]]) -> str:
        monkeypatch.setattr(test_exits_report, "POLICIES", policies)
        (panel,) = panels(test_exits_report.found())
        return " ".join(summary(panel)).replace("\u202f", " ").replace("\u00a0", " ")

    policies = {
        "of_joint_0p3.choose": (88.5, 30.0, 3.0, 2.5),
        "of_joint_0p6.choose": (89.0, 60.0, 6.0, 1.25),
        "of_joint_0p8.choose": (89.8, 80.0, 8.0, 1.1),
    }
    text = of(policies)
    assert (
        "its cheapest exit policy no more than one point below dense: at 60 % of its MACs −1.0 ± 0.0" in text
    )
    assert "cheapest, at 30 % of its MACs −1.5 ± 0.0" in text
    none = of({"of_joint_0p3.choose": policies["of_joint_0p3.choose"]})
    assert "more than one point below dense by every exit policy; at 30 % of its MACs −1.5 ± 0.0" in none


def test_controls_of_exits_counted_by_hand() -> None:
    """Five examples at exits of 1, 4 and 10 MACs; no exit is right about the third, which goes to the last."""
    share = torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64)
    found = {m.name: m.value for m in _controls(RIGHT, COSTS, WHERE, share)}
    assert found == pytest.approx(
        {
            "expected_macs": 5.8,  # (1 + 4 + 4 + 10 + 10) / 5
            "expected_cost": 58.0,
            "mean_exit": 2.2,  # (1 + 2 + 2 + 3 + 3) / 5
            "exits_top1": 80.0,
            "last_top1": 60.0,
            "random_top1": 48.0,  # 0.2 x 2/5 + 0.4 x 2/5 + 0.4 x 3/5
            "oracle_top1": 80.0,
            "oracle_cost": 52.0,  # (1 + 4 + 10 + 10 + 1) / 5 of 10
            "overthinking": 20.0,
        }
    )


def test_classes_at_exits_counted_by_hand() -> None:
    metrics = _classes(("cat", "dog"), NAMES, LABELS, RIGHT, COSTS, WHERE)
    found = {(m.name, m.group): m.value for m in metrics}
    assert found == pytest.approx(
        {
            ("class_exit_share", "first/cat"): 50.0,
            ("class_exit_share", "second/cat"): 50.0,
            ("class_exit_share", "last/cat"): 0.0,
            ("class_cost", "cat"): 25.0,  # (1 + 4) / 2 of 10
            ("class_change", "cat"): 50.0,  # both right, the last exit about one
            ("class_exit_share", "first/dog"): 0.0,
            ("class_exit_share", "second/dog"): 100 / 3,
            ("class_exit_share", "last/dog"): 200 / 3,
            ("class_cost", "dog"): 80.0,  # (4 + 10 + 10) / 3 of 10
            ("class_change", "dog"): 0.0,
        }
    )


@pytest.mark.parametrize(("points", "threshold"), [(0.0, 0.8), (24.9, 0.8), (25.0, 0.6)])
def test_a_policy_within_a_loss_counted_by_hand(points: float, threshold: float) -> None:
    """The last exit is right about three of four; from 0.8 on two leave, rightly; from 0.6 on all, two wrongly."""
    sure = torch.tensor([[0.9], [0.8], [0.7], [0.6]], dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.int64)
    answers = [[0, 0, 1, 1], [0, 0, 0, 1]]
    logits = [torch.nn.functional.one_hot(torch.tensor(a), 2).float() for a in answers]
    assert within_loss(sure, logits, labels, (1.0, 10.0), points) == (threshold,)
