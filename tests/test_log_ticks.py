"""Logarithmic axes of charts: plain numbers at the ticks, never matplotlib's formulas."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("matplotlib")
from compressbench.report.drawing import canvas, density_axis, log_axis, saved, settings


@pytest.mark.parametrize(
    ("values", "shown", "hidden"),
    [
        ([0.003, 70.0], ["0.01", "0.1", "1", "10"], ["20", "0.05"]),
        ([3.0, 70.0], ["5", "10", "20", "50"], ["30", "40"]),
    ],
)
def test_ticks_are_plain_numbers(values: list[float], shown: list[str], hidden: list[str]) -> None:
    with settings():
        figure, axes = canvas("Loss")
        axes.plot([1, 2], values)
        axes.set_yscale("log")
        svg = saved(figure, "loss", "Loss", "", []).svg
    assert "mathdefault" not in svg
    told = {t.strip() for t in re.findall(r">\s*([^<>]+?)\s*</text>", svg)}
    assert set(shown) <= told
    assert not set(hidden) & told


@pytest.mark.parametrize(
    ("inches", "wanted"), [(5.0, ["60000", "70000", "80000", "90000", "100000"]), (1.3, ["60000", "80000"])]
)
def test_labels_of_a_narrow_axis_dont_touch(inches: float, wanted: list[str]) -> None:
    from matplotlib.figure import Figure

    with settings():
        axes = Figure(figsize=(inches, 2.0)).subplots()
        log_axis(axes, [58_000.0, 91_000.0], "kB")
    assert [f"{t:g}" for t in axes.get_xticks()] == wanted


@pytest.mark.parametrize(
    ("lowest", "wanted"),
    [(88.3, ["88", "92", "96", "100"]), (50.0, ["50", "100"]), (3.0, ["5", "10", "20", "50", "100"])],
)
def test_a_short_density_axis_has_more_than_one_tick(lowest: float, wanted: list[str]) -> None:
    with settings():
        _, axes = canvas("Accuracy")
        density_axis(axes, [lowest, 100.0])
        assert [f"{t:g}" for t in axes.get_xticks()] == wanted
