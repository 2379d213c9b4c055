"""Asking artefacts: in the material's order, in batches, kept under all that answers depend on, and varied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressbench.artefacts.artefact import Input, Wanted
from compressbench.artefacts.function import Function
from compressbench.artefacts.predictions import Answers, Predictions
from compressbench.artefacts.preparation import Preparation
from compressbench.comparing.asking import asked, prepared, varied
from compressbench.comparing.material import Material
from compressbench.comparing.oddities import varying
from compressbench.comparing.sources import Arrays, Stacked
from compressbench.errors import UserError

N, SIDE = 50, 5
PIXELS = np.random.RandomState(0).randint(0, 256, (N, SIDE, SIDE, 3)).astype(np.uint8)
WEIGHTS = np.random.RandomState(1).randn(3 * SIDE * SIDE, 5).astype(np.float32)


def pictures() -> Material:
    return Material(
        "toy", np.arange(N).astype(str), None, None, source=Stacked(PIXELS, "NHWC"), rows=np.arange(N)
    )


def linear(x: np.ndarray) -> np.ndarray:
    return np.stack([row.reshape(-1) @ WEIGHTS for row in x])


@dataclass
class Noted:
    """A function that notes how many examples it is called with."""

    call: Callable[[np.ndarray], np.ndarray] = linear
    sizes: list[int] = field(default_factory=list)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.sizes.append(len(x))
        return self.call(x)


def artefact(call: Any = linear, batch: int | None = None, **more: Any) -> Function:
    return Function(call, "toy", Wanted((Input("x", (batch, 3, SIDE, SIDE)),), 5), **more)


def by_hand(rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Pixels in [0, 1], channels first, times the weights."""
    return (PIXELS[rows].transpose(0, 3, 1, 2).reshape(-1, 3 * SIDE * SIDE) / 255) @ WEIGHTS


@dataclass
class Steps:
    told: list[tuple[int, int]] = field(default_factory=list)

    def step(self, done: int, total: int, **figures: float) -> None:
        self.told.append((done, total))


def test_pictures_are_asked_in_order() -> None:
    noted, steps = Noted(), Steps()
    said = asked(artefact(noted), pictures(), Preparation(), batch=16, progress=steps)
    assert said.scores.dtype == np.float32
    np.testing.assert_allclose(said.scores, by_hand(), rtol=1e-4, atol=1e-4)
    assert noted.sizes == [16, 16, 16, 2]
    assert steps.told == [(0, 50), (16, 50), (32, 50), (48, 50), (50, 50)]
    assert said.fed == "pictures pixels 0-1, RGB, NCHW"
    assert said.seconds > 0
    assert said.rate == pytest.approx(50 / said.seconds)
    part = pictures().taken(np.array([7, 3]))
    np.testing.assert_allclose(asked(artefact(), part, Preparation()).scores, by_hand([7, 3]), rtol=1e-4)


def test_a_fixed_batch_is_filled_and_cut() -> None:
    noted = Noted()
    said = asked(artefact(noted, batch=8), pictures(), Preparation(), batch=20)
    np.testing.assert_allclose(said.scores, by_hand(), rtol=1e-4, atol=1e-4)
    assert set(noted.sizes) == {8}


def test_no_more_pictures_than_a_batch_are_read_at_once() -> None:
    read: list[int] = []

    @dataclass(frozen=True)
    class Counting(Stacked):
        def read(self, rows: np.ndarray) -> list[np.ndarray]:
            read.append(len(rows))
            return super().read(rows)

    asked(artefact(), replace(pictures(), source=Counting(PIXELS, "NHWC")), Preparation(), batch=12)
    assert read == [12, 12, 12, 12, 2]


def test_arrays_are_fed_as_they_are() -> None:
    x = np.random.RandomState(3).randn(N, 3, SIDE, SIDE).astype(np.float32)
    material = replace(pictures(), source=Arrays({"anything": x}))
    said = asked(artefact(), material)
    np.testing.assert_allclose(said.scores, x.reshape(N, -1) @ WEIGHTS, rtol=1e-4, atol=1e-4)
    assert said.fed == "the arrays as they are: anything float32 (any, 3, 5, 5)"
    two = Function(
        lambda a, b: np.concatenate([a, b], axis=1),
        "two",
        Wanted((Input("a", (None, 2)), Input("b", (None, 3))), 5),
    )
    a, b = x[:, 0, 0, :2], x[:, 0, 1, :3]
    given = replace(pictures(), source=Arrays({"b": b, "a": a}))
    np.testing.assert_array_equal(asked(two, given).scores, np.concatenate([a, b], axis=1))


def test_what_cant_be_asked() -> None:
    with pytest.raises(UserError, match="how its pictures are prepared isn't known; --size"):
        asked(artefact(), pictures())
    with pytest.raises(UserError, match="there is nothing to ask it; of toy only labels are known"):
        asked(artefact(), replace(pictures(), source=None), Preparation())
    with pytest.raises(UserError, match=r"its input x is \(any, 3, 5, 5\); given \(50, 3, 2, 2\)"):
        asked(artefact(), pictures(), Preparation(resize=(2, 2)))


def test_predictions_say_what_they_hold() -> None:
    values = np.random.RandomState(2).randn(N, 5)
    order = np.random.RandomState(3).permutation(N)
    file = Predictions(Path("p.npz"), ".npz", Answers(values[order], "logits", order.astype(str)))
    said = asked(file, pictures())
    np.testing.assert_array_equal(said.scores, values.astype(np.float32))
    assert np.isnan(said.rate)


def test_preparations_fit_the_input() -> None:
    own = replace(
        artefact(),
        wants=Wanted((Input("x", (None, 8, 8, 3), "uint8"),), 5, Preparation(resize=9, crop=(8, 8))),
    )
    found = prepared(own, None)
    assert found is not None
    assert (found.layout, found.dtype, found.span, found.crop) == ("NHWC", "uint8", (0, 255), (8, 8))
    assert prepared(artefact(), None) is None
    given = prepared(artefact(), Preparation(order="BGR"))
    assert given is not None
    assert (given.resize, given.order, given.channels) == ((5, 5), "BGR", 3)


def test_a_second_time_is_free(tmp_path: Path) -> None:
    noted = Noted()
    first = asked(artefact(noted, identity="one"), pictures(), Preparation(), keep=tmp_path)
    calls = len(noted.sizes)
    again = asked(artefact(noted, identity="one"), pictures(), Preparation(), keep=tmp_path)
    assert len(noted.sizes) == calls
    assert (first.kept, again.kept) == (False, True)
    np.testing.assert_array_equal(first.scores, again.scores)
    assert (again.seconds, again.fed) == (first.seconds, first.fed)
    labelled = replace(pictures(), labels=np.zeros(N, np.int64), name="other")
    assert asked(artefact(noted, identity="one"), labelled, Preparation(), keep=tmp_path).kept
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"artefact": artefact(identity="two")},
        {"material": pictures().taken(np.arange(49))},
        {"material": replace(pictures(), source=Stacked(255 - PIXELS, "NHWC"))},
        {"preparation": Preparation(order="BGR")},
        {"batch": 10},
    ],
)
def test_other_questions_are_asked(tmp_path: Path, change: dict[str, Any]) -> None:
    usual = {"artefact": artefact(identity="one"), "material": pictures(), "preparation": Preparation()}
    asked(**usual, keep=tmp_path)
    assert asked(**usual, keep=tmp_path).kept
    assert not asked(**{**usual, **change}, keep=tmp_path).kept


def test_other_versions_ask_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(artefact(identity="one"), pictures(), Preparation(), keep=tmp_path)
    monkeypatch.setattr("compressbench.comparing.asking.metadata.version", lambda name: "0")
    assert not asked(artefact(identity="one"), pictures(), Preparation(), keep=tmp_path).kept


def test_nothing_is_kept_of_what_nobody_names(tmp_path: Path) -> None:
    asked(artefact(), pictures(), Preparation(), keep=tmp_path / "keep")
    assert not (tmp_path / "keep").exists()


def spoilt(text: bytes) -> list[bytes]:
    """Cut, empty, one number changed with the zip's own check left out of it, and something else."""
    at = text.index(b"\x93NUMPY") + 160
    return [
        text[:-100],
        b"",
        text[:at] + bytes([text[at] ^ 64]) + text[at + 1 :],
        b"PK\x03\x04 something else",
    ]


@pytest.mark.parametrize("how", range(4))
def test_a_broken_file_is_made_again(tmp_path: Path, how: int) -> None:
    first = asked(artefact(identity="one"), pictures(), Preparation(), keep=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(spoilt(file.read_bytes())[how])
    again = asked(artefact(identity="one"), pictures(), Preparation(), keep=tmp_path)
    assert not again.kept
    np.testing.assert_array_equal(first.scores, again.scores)
    assert asked(artefact(identity="one"), pictures(), Preparation(), keep=tmp_path).kept


def test_a_folder_that_cant_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = asked(artefact(identity="one"), pictures(), Preparation(), keep=tmp_path / "file" / "keep")
    assert not said.kept


def kinds(call: Any, batch: int | None = None) -> list[str]:
    found = varied(artefact(call, batch), pictures(), Preparation(), batch=8, rows=24)
    return [f.kind for by, (once, again) in found.items() for f in varying(once, again, by=by)]


def test_honest_functions_vary_by_nothing() -> None:
    found = varied(artefact(), pictures(), Preparation(), batch=8, rows=24)
    assert set(found) == {"calls", "batch", "neighbours"}
    assert all(len(once) == len(again) == 24 for once, again in found.values())
    assert kinds(linear) == []
    assert set(varied(artefact(batch=8), pictures(), Preparation())) == {"calls", "neighbours"}
    assert set(varied(artefact(batch=1), pictures(), Preparation())) == {"calls"}


def test_what_varies_is_found() -> None:
    noise = np.random.RandomState(0)
    assert kinds(lambda x: linear(x) + noise.randn(len(x), 5)) == ["varies by calls"]
    assert kinds(lambda x: linear(x) * len(x)) == ["varies by batch"]
    assert kinds(lambda x: linear(x) - linear(x).mean(0)) == ["varies by batch", "varies by neighbours"]
    assert kinds(lambda x: linear(x) - linear(x).mean(0), batch=8) == ["varies by neighbours"]
    assert kinds(lambda x: linear(x) * (1 if len(x) > 1 else np.nan)) == ["varies by batch"]
