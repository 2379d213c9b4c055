"""``compressbench compare`` names planted defects and keeps quiet about honest pairs, made as users make them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import compressbench
from cases_compare import DEFECTS, HONEST, Maker, Pair, Workshop, logits
from compressbench.comparing.comparison import Comparison
from compressbench.comparing.groups import who_pays

QUICK = ("one class dead", "BGR", "truncated weights", "saturated activations", "a layer left in float")
MOST_ALARMS = 1
WITH = {"OpenVINO": "openvino"}
"""Pairs that need another package."""


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("pairs"))


def compared(workshop: Workshop, make: Maker) -> Comparison:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter and onnxruntime's tool have many
        pair: Pair = make(workshop)
    sides: list[Any] = [str(s) if isinstance(s, Path) else s for s in (pair.reference, pair.other)]
    account = compressbench.compare(
        *sides,
        data=workshop.data,
        preparation=pair.preparation,
        quick=pair.quick,
        keep=workshop.folder / "kept",
    )
    return account.comparisons[0]


def losses(found: Comparison) -> list[str]:
    """Groups that pay, correction made, the worst first: ``class boot``, ``light dark``."""
    every = [("class", g) for g in found.by_class]
    every += [(name, g) for name, groups in found.by_group.items() for g in groups]
    names = {id(g): name for name, g in every}
    return [f"{names[id(g)]} {g.name}" for g in who_pays([g for _, g in every]) if g.pays]


def named(found: Comparison) -> list[str]:
    """The first two of what is odd, and, where nothing is, the first two groups that pay."""
    return [f.kind for f in found.findings[:2]] or losses(found)[:2]


@pytest.mark.parametrize(
    "what", [pytest.param(d, marks=() if d in QUICK else pytest.mark.slow) for d in DEFECTS]
)
def test_a_planted_defect_is_named_first_or_second(workshop: Workshop, what: str) -> None:
    make, kinds = DEFECTS[what]
    found = compared(workshop, make)
    assert set(named(found)) & set(kinds), [f.words for f in found.findings] + losses(found)


def test_twenty_and_ten() -> None:
    assert (len(DEFECTS), len(HONEST)) == (20, 10)


@pytest.mark.slow
def test_honest_pairs_set_off_one_alarm_at_most(workshop: Workshop) -> None:
    alarms = {}
    for what, make in HONEST.items():
        if what in WITH:
            pytest.importorskip(WITH[what])
        found = compared(workshop, make)
        if said := [f.words for f in found.findings if f.severity >= 1] + losses(found):
            alarms[what] = said
    assert len(alarms) <= MOST_ALARMS, alarms


def test_the_reference_is_a_good_one_that_sees_colour(workshop: Workshop) -> None:
    """Else none of these pairs would tell anything."""
    data = workshop.test
    right = logits(workshop.dense, data).argmax(1) == data.labels
    turned = type(data)(data.images[..., ::-1], data.labels, data.light)
    turned_right = logits(workshop.dense, turned).argmax(1) == data.labels
    assert right.mean() > 0.8
    assert right.mean() - turned_right.mean() > 0.1
    assert (data.images[-12:] == 0).all()
    assert set(np.unique(data.light)) == {"bright", "dark"}
