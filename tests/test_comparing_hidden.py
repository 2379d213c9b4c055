"""What layers are fed, and files that were cut off or claim what they don't hold: figures counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compressbench.comparing.comparison import Asked, Said, compared
from compressbench.comparing.hidden import Fed, at_an_end, cut_off
from compressbench.comparing.inside import Held, Product, odd_inside
from compressbench.comparing.oddities import odd

RANDOM = np.random.default_rng(0)


def net(n: int = 400, classes: int = 6) -> np.ndarray:
    """(n, classes) logits."""
    labels = RANDOM.integers(0, classes, n)
    scores = RANDOM.normal(0, 1.2, (n, classes))
    scores[np.arange(n), labels] += 4
    return scores.astype(np.float32)


def kinds(reference: np.ndarray, other: np.ndarray) -> list[str]:
    return [f.kind for f in odd(reference, other)]


def test_how_much_of_what_a_layer_is_fed_is_an_end_of_its_range():
    values = np.abs(RANDOM.normal(0, 1, 10_000))
    clipped = np.minimum(values, 1.5)
    found = at_an_end("conv", np.concatenate([clipped, np.zeros(10_000)]))
    assert found == Fed("conv", 100 * float((values >= 1.5).sum()) / 10_000, 1.5, 10_000)
    assert at_an_end("conv", values).cut == 0
    assert at_an_end("conv", -clipped).end == -1.5
    assert at_an_end("conv", clipped[:900]).cut == 0  # too few


def test_layers_that_are_cut_off_are_named_unless_the_reference_s_are_too():
    plain, cut = Fed("conv", 0.0, 3.0, 5000), Fed("conv", 12.0, 1.5, 5000)
    (found,) = cut_off([plain, plain], [plain, cut], "b")
    assert (found.kind, found.value) == ("saturated layers", 12.0)
    assert "12.0 % of what conv of b is fed" in found.words
    assert cut_off([plain, cut], [plain, cut]) == ()  # as ReLU6 has it
    assert cut_off([plain, cut, cut], [plain, cut]) == ()
    assert cut_off([plain], [replace(plain, cut=1.9)]) == ()
    assert cut_off([], [cut]) == ()


@pytest.mark.parametrize("rows", [1, 5])
def test_weights_cut_off_at_the_end(rows):
    whole = RANDOM.normal(size=(64, 32, 3, 3)).astype(np.float32)
    cut = whole.copy()
    cut.reshape(-1)[-rows * 288 - 100 :] = 0
    (found,) = odd_inside(Held({"w": whole}), Held({"w": cut}), "b")
    assert (found.kind, found.value) == (
        "weights cut off",
        pytest.approx(100 * (rows * 288 + 100) / whole.size),
    )


def test_pruned_weights_are_none_that_were_cut_off():
    whole = RANDOM.normal(size=(64, 32, 3, 3)).astype(np.float32)
    rows, single = whole.copy(), whole.copy()
    rows[[3, 17, 62, 63]] = 0
    single[63] = 0
    unstructured = np.where(np.abs(whole) < 0.7, 0, whole)
    for pruned in (rows, single, unstructured):
        assert odd_inside(Held({"w": whole}), Held({"w": pruned})) == ()


def test_a_layer_left_in_float_is_one_in_the_middle_among_integers():
    layers = [Product(f"conv{k}", True, 1000) for k in range(6)]

    def said(*floats: int, size: int = 1000) -> list[str]:
        made = [replace(p, integer=False, size=size) if k in floats else p for k, p in enumerate(layers)]
        return [f.kind for f in odd_inside(Held(), Held(products=tuple(made)))]

    assert said(3) == ["layers left in float"]
    assert said() == said(0, 5) == []  # the ends are, by choice
    assert said(3, size=10) == []
    assert said(1, 2, 3, 4) == []  # most are: no file of integers


def test_a_sparse_file_as_large_as_the_dense_one_is_one_that_says_so():
    dense = Held({"w": np.ones((10, 20))}, bytes=1000)
    zeros = Held({"w": np.eye(20)[:10]}, bytes=990)
    assert odd_inside(dense, zeros) == ()
    assert [f.kind for f in odd_inside(dense, replace(zeros, sparse="its name"))] == [
        "zeros that save nothing"
    ]
    assert odd_inside(dense, replace(zeros, sparse="its name", bytes=500)) == ()


def test_rows_in_another_order():
    scores = net()
    near = scores + RANDOM.normal(0, 0.05, scores.shape).astype(np.float32)
    assert kinds(scores, near) == []
    assert kinds(scores, near[RANDOM.permutation(len(scores))]) == ["other order"]
    rolled = odd(scores, np.roll(near, 2, axis=0))
    assert [f.kind for f in rolled] == ["other order"]
    assert "2 later" in rolled[0].words
    unsure = scores[RANDOM.permutation(len(scores))] * 0.5  # a broken net answers at random, and otherwise
    assert "other order" not in kinds(scores, unsure)


def test_softmax_taken_twice():
    scores = net() * 2

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x.astype(float) - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    assert kinds(scores, softmax(softmax(scores))) == ["softmax twice"]
    assert kinds(scores, softmax(scores)) == []
    assert "softmax twice" not in kinds(scores, softmax(scores / 50))


def test_outputs_that_are_repeated():
    scores = net()
    filled = scores.copy()
    filled[300:] = filled[300] = 0.1 * np.arange(6)
    found = [f for f in odd(scores, filled) if f.kind == "repeated outputs"]
    assert [(f.value, f.rows[0]) for f in found] == [(25.0, 300)]
    sure = scores.copy()
    sure[300:] = [30, 0, 0, 0, 0, 0]  # rounded to the same
    both = scores.copy()
    both[300:] = 0.1 * np.arange(6)  # black pictures
    assert "repeated outputs" not in [*kinds(scores, sure), *kinds(both, filled)]


def test_they_are_findings_of_a_comparison():
    scores = net()
    asked = Asked("made up", [str(i) for i in range(len(scores))])
    found = compared(asked, Said("a", "", scores), Said("b", "", np.roll(scores, 1, axis=0)))
    assert [f.kind for f in found.findings] == ["other order"]
