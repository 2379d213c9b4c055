"""What ``compare`` refuses in one line, and signs and names on its screen that could be misread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import compressbench
from compressbench.artefacts.artefact import Given
from compressbench.artefacts.checkpoint import _composed
from compressbench.artefacts.preparation import Preparation
from compressbench.comparing import words
from compressbench.comparing.intervals import Estimate
from compressbench.conducting.conduct import conducted
from compressbench.conducting.wishes import Wishes
from compressbench.errors import UserError
from compressbench.showing.figures import interval_of


def floats(folder: Path) -> Path:
    """Twelve examples of four numbers, and three classes."""
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(12) % 3)
    return folder / "data.npz"


def first_three(batch):
    """A model whose answers are its first three inputs."""
    return np.asarray(batch)[:, :3]


def test_how_pictures_are_prepared_is_not_told_to_floats(tmp_path) -> None:
    wishes = Wishes(data=str(floats(tmp_path)), preparation=Preparation(mean=(0.5,)), quick=True)
    with pytest.raises(UserError, match=r"is fed as it is, since it holds no pictures.*--mean"):
        conducted(first_three, [first_three], wishes)


@pytest.mark.parametrize("labelled", [True, False])
def test_preparation_is_not_guessed_where_no_label_can_tell(tmp_path, labelled) -> None:
    x = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(12) % 3)

    def means(batch):
        return np.asarray(batch).reshape(len(batch), -1)[:, :3] * 9

    wishes = Wishes(data=str(tmp_path / "d.npz"), labelled=labelled, auto=True, quick=True)
    if labelled:
        assert conducted(means, [means], wishes)[0].comparisons[0].loyalty.value == 100
    else:
        with pytest.raises(UserError, match="auto finds it on labelled data"):
            conducted(means, [means], wishes)


def test_a_config_that_asks_for_a_shape_says_how_to_give_it() -> None:
    with pytest.raises(
        UserError, match=r"model=resnet20 model\.build\.shape=\[3,32,32\] model\.build\.classes=10"
    ):
        _composed(["model=resnet20"], Given())
    words = ["model=resnet20", "model.build.shape=[3,32,32]", "model.build.classes=7"]
    assert _composed(words, Given())[0].fc.out_features == 7


def test_what_is_rounded_to_nothing_has_no_sign() -> None:
    found = Estimate(19.6, -0.2, 39.0, 30)
    assert interval_of(found) == "0 to 39"
    assert words.within(found, "%") == "95 % interval 0 to 39 %"
    assert words.figure(Estimate(-0.3, -20.0, 20.0, 9), "points") == "0 points"


def test_the_worst_class_is_told_apart_from_what_it_lost(tmp_path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 100)
    np.savez(tmp_path / "d.npz", x=(np.eye(3)[y] + 0.1 * rng.normal(size=(300, 3))).astype(np.float32), y=y)

    def worse(batch):
        return np.asarray(batch) - np.float32([0, 0, 0.95])

    from compressbench.showing.terminal import screens

    def row(other) -> str:
        account = compressbench.compare(np.asarray, other, data=tmp_path / "d.npz", quick=True)
        (line,) = [x.text for x in screens(account, 120) if "Lost by the worst class" in x.text]
        return line

    assert row(worse).endswith(" in 2")
    assert row(np.asarray).endswith(" 0.0 (-3.7 to 3.7)"), "none is named where none lost"
