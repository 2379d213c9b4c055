"""Settings of probes that a data set or a disk can't serve end a run before anything is trained, with one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressbench.errors import UserError
from compressbench.runs.experiment import prepare
from compressbench.specs.compose import composed

BASE = ("recipe=one_shot", "scale=smoke")


def refused(tmp_path: Path, *overrides: str) -> str:
    """The line; ``prepare`` makes nothing."""
    config = composed([*BASE, f"outputs={tmp_path / 'out'}", *overrides])
    with pytest.raises(UserError) as error:
        prepare(config, writable=False)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("forgetting", ["+evaluation.probes.forgetting.by=sex"]),
        ("impact", ["evaluation.probes.impact.by=[classes, sex]"]),
        ("exemplars", ["evaluation.probes.exemplars.by=[sex]"]),
        ("subgroups", ["evaluation=subgroups", "+evaluation.probes.subgroups.by=sex"]),
        ("subgroups", ["evaluation=subgroups", '+evaluation.probes.subgroups.by=["classes & sex"]']),
    ],
)
def test_an_attribute_that_the_data_set_lacks(tmp_path: Path, name: str, overrides: list[str]) -> None:
    assert refused(tmp_path, *overrides).startswith(f"{name}: by: digits has no attribute 'sex'")


@pytest.mark.parametrize("name", ["impact", "exemplars", "subgroups"])
def test_by_nothing(tmp_path: Path, name: str) -> None:
    line = refused(tmp_path, "evaluation=subgroups", f"++evaluation.probes.{name}.by=[]")
    assert "by: [] names nothing" in line


def test_a_positive_class_of_ten(tmp_path: Path) -> None:
    line = refused(tmp_path, "evaluation=subgroups", "+evaluation.probes.subgroups.positive=1")
    assert "there are 10 classes" in line


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("corruptions", "folder"),
        ("shifted_sets", "folder"),
        ("natural_adversarial", "folder"),
        ("loyalty", "unlabelled"),
    ],
)
def test_a_folder_that_is_not_there(tmp_path: Path, name: str, key: str) -> None:
    gone = tmp_path / "gone"
    added = f"+probe@evaluation.probes.{name}={name}"
    more = [] if name in ("corruptions", "loyalty") else [added]
    line = refused(tmp_path, *more, f"++evaluation.probes.{name}.{key}={gone}")
    assert str(gone) in line


def test_published_arrays_of_other_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "cifar10.1_v6_data.npy", np.zeros((4, 32, 32, 3), np.uint8))
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.zeros(4, np.int64))
    line = refused(
        tmp_path,
        "+probe@evaluation.probes.shifted_sets=shifted_sets",
        f"evaluation.probes.shifted_sets.folder={tmp_path}",
    )
    assert "(4, 32, 32, 3), must be uint8 (n, 8, 8, 1)" in line


def test_a_folder_of_hard_pictures_that_is_no_class(tmp_path: Path) -> None:
    for name in ("7", "stingray"):
        (tmp_path / "hard" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "hard" / name / "1.png")
    line = refused(
        tmp_path,
        "+probe@evaluation.probes.natural_adversarial=natural_adversarial",
        f"evaluation.probes.natural_adversarial.folder={tmp_path / 'hard'}",
    )
    assert "class 'stingray', which the data set has not" in line


def test_a_folder_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    line = refused(
        tmp_path,
        "+probe@evaluation.probes.shifted_sets=shifted_sets",
        "evaluation.probes.shifted_sets.folder='~/sets'",
    )
    assert str(tmp_path / "sets") in line
