"""Oddities are found where one was planted and nowhere else; sentences say what was found; gates are read and judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy import special, stats

from compressbench.comparing import answers as an
from compressbench.comparing import confidence as co
from compressbench.comparing import gate, groups, intervals, oddities, probabilities, words
from compressbench.comparing.intervals import Estimate
from compressbench.errors import UserError

NAN = math.nan
Net = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def int8(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights and inputs in eight bits, and the output too, by the range of its first hundred examples."""
    steps = [np.abs(part).max() / 127 for part in (x, w)]
    out = (np.round(x / steps[0]) * steps[0]) @ (np.round(w / steps[1]) * steps[1])
    step = np.abs(out[:100]).max() / 127
    return np.clip(np.round(out / step), -128, 127) * step


def int4(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    step = np.abs(w).max() / 7
    return x @ (np.round(w / step) * step)


def half(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x.astype(np.float16) @ w.astype(np.float16)


def bfloat(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ((x @ w).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def noisy(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = x @ w
    return out + 0.05 * out.std() * rng.normal(size=out.shape)


def pruned(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x @ (w * (np.abs(w) >= np.quantile(np.abs(w), 0.6)))


def retrained(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another net of the same quality, up to twice as sure or half."""
    return x @ (w + 0.5 * w.std() * rng.normal(size=w.shape)) * rng.uniform(0.5, 2)


def weak(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A net that agrees with the reference on little."""
    return x @ (w + 1.5 * w.std() * rng.normal(size=w.shape)) * 0.6


def young(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A net after two epochs: fifteen times less sure."""
    return x @ (w + 1.5 * w.std() * rng.normal(size=w.shape)) / 15


HONEST: tuple[Net, ...] = (int8, int4, half, bfloat, noisy, pruned, retrained, weak, young)


@cache
def pair(
    net: Net, seed: int, classes: int = 10, n: int = 600, noise: float = 5.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a linear net on noisy class means, and of another on the same; every other seed with rare classes."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(classes)) + 0.05 / classes
    y = rng.choice(classes, n, p=share / share.sum() if seed % 2 else None)
    means = rng.normal(size=(classes, 48)) / math.sqrt(48)
    x = 2 * means[y] + noise * rng.normal(size=(n, 48)) / math.sqrt(48)
    both = (x @ (8 * means.T)).astype(np.float32), net(x, 8 * means.T, rng).astype(np.float32)
    for scores in both:
        scores.flags.writeable = False
    return both


def softmax(z: np.ndarray) -> np.ndarray:
    return special.softmax(z, axis=1).astype(np.float32)


def rounded(z: np.ndarray) -> np.ndarray:
    return (np.round(255 * special.softmax(z, axis=1)) / 256).astype(np.float32)


def logs(z: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(special.softmax(z.astype(float), axis=1), 1e-30))


def same(z: np.ndarray) -> np.ndarray:
    return z


LOGITS, PROBABILITIES = ("logits", "logits"), ("probabilities", "probabilities")


@pytest.mark.parametrize("net", HONEST, ids=lambda net: net.__name__)
@pytest.mark.parametrize(
    ("first", "second", "kinds"),
    [
        (same, same, LOGITS),
        (same, logs, LOGITS),
        (softmax, softmax, PROBABILITIES),
        (rounded, rounded, PROBABILITIES),
        (same, rounded, ("logits", "probabilities")),
    ],
)
def test_honest_pairs_are_left_in_peace(
    net: Net, first: Callable[..., np.ndarray], second: Callable[..., np.ndarray], kinds: tuple[str, str]
) -> None:
    """Twenty of each: two, ten and a hundred classes, few and many examples, nets that are sure and nets that guess."""
    sizes = [(2, 200), (10, 60), (10, 600), (100, 1000)]
    for seed in range(20):
        classes, n = sizes[seed % 4]
        z, w = pair(net, seed, classes, n, noise=(1.0, 5.0, 15.0)[seed % 3])
        found = oddities.odd(first(z), second(w), kinds)
        assert not found, (seed, classes, n, found)


def dead(w: np.ndarray) -> np.ndarray:
    w[:, 3] -= 1000
    return w


def swapped(w: np.ndarray) -> np.ndarray:
    w[:, [1, 4]] = w[:, [4, 1]]
    return w


def permuted(w: np.ndarray) -> np.ndarray:
    w[:, [1, 4, 6]] = w[:, [4, 6, 1]]
    return w


def doubled(w: np.ndarray) -> np.ndarray:
    w[:, 2] = w[:, 5]
    return w


def emptied(w: np.ndarray) -> np.ndarray:
    w[:, 2] = 0
    return w


def one_nan(w: np.ndarray) -> np.ndarray:
    w[[7, 30], 1] = NAN, np.inf
    return w


PLANTED: tuple[tuple[Callable[[np.ndarray], np.ndarray], str, tuple[int, ...]], ...] = (
    (dead, "dead class", (3,)),
    (swapped, "swapped classes", (1, 4)),
    (permuted, "permuted classes", (1, 4, 6)),
    (lambda w: np.roll(w, 1, axis=1), "class offset", ()),
    (lambda w: np.concatenate([np.full((len(w), 1), -9, w.dtype), w], axis=1), "class offset", ()),
    (doubled, "duplicated classes", (2, 5)),
    (lambda w: 10 * w, "other temperature", ()),
    (lambda w: w / 10, "other temperature", ()),
    (lambda w: np.minimum(w, np.quantile(w.max(axis=1), 0.5).astype(w.dtype)), "saturated", ()),
    (lambda w: np.maximum(w, 0), "saturated", ()),
    (lambda w: np.clip(5000 * w, -65504, 65504).astype(np.float16), "saturated", ()),
    (one_nan, "not finite", ()),
    (lambda w: np.broadcast_to(w[0], w.shape), "constant", ()),
    (lambda w: 0 * w, "constant", ()),
    (emptied, "constant class", (2,)),
    (lambda w: w + 1000 * (np.arange(w.shape[1]) == 6), "one answer", (6,)),
)


@pytest.mark.parametrize("net", [int8, half, pruned], ids=lambda net: net.__name__)
@pytest.mark.parametrize(
    ("plant", "kind", "classes"), PLANTED, ids=[f"{i}-{k}" for i, (_, k, _) in enumerate(PLANTED)]
)
def test_planted_defects_are_named_first_or_second(
    net: Net, plant: Callable[[np.ndarray], np.ndarray], kind: str, classes: tuple[int, ...]
) -> None:
    z, w = pair(net, 2, n=1000)
    found = oddities.odd(z, plant(w.copy()), LOGITS)
    named = next((f for f in found[:2] if f.kind == kind), None)
    assert named is not None, found
    assert set(named.classes) == set(classes)
    assert named.words
    assert not named.words.endswith(".")


@pytest.mark.parametrize(
    ("plant", "kind"),
    [(dead, "dead class"), (swapped, "swapped classes"), (lambda w: 10 * w, "other temperature")],
)
def test_planted_defects_show_in_probabilities(plant: Callable[[np.ndarray], np.ndarray], kind: str) -> None:
    z, w = pair(int8, 2, n=1000)
    assert kind in [f.kind for f in oddities.odd(softmax(z), softmax(plant(w.copy())))[:2]]


def test_what_is_no_number() -> None:
    z, w = pair(half, 0)
    (found,) = oddities.odd(z, one_nan(w.copy()), LOGITS)
    assert (found.rows, found.severity, found.n) == ((7, 30), oddities.UNUSABLE, 600)
    assert found.value == pytest.approx(100 * 2 / 600)
    assert found.words == (
        "2 of 600 outputs of the other model hold what is no number (NaN in 1, infinity in 1), first in row 7; "
        "the reference's hold it in 0 of these"
    )
    (shared,) = oddities.not_finite(one_nan(z.copy()), one_nan(w.copy()), "a.onnx")
    assert shared.severity == oddities.WRONG
    assert shared.words.endswith("the reference's hold it in 2 of these")
    z = z.copy()
    z[9, 3] = np.inf
    (own,) = oddities.odd(z, w, LOGITS, whose="a.onnx")
    assert (own.rows, own.severity) == ((9,), oddities.WRONG)
    assert own.words.startswith("1 of 600 outputs of the reference hold what is no number (infinity in 1)")
    assert own.words.endswith("those of a.onnx hold it in 0 of these")
    z = pair(half, 0)[0]
    (only,) = oddities.odd(z, np.full_like(z, NAN), LOGITS)
    assert only.value == 100


def test_rows_are_those_of_the_data_where_some_are_left_out() -> None:
    z, w = pair(half, 2, n=1000)
    w = dead(w.copy())
    w[:200] = NAN
    found = next(f for f in oddities.odd(z, w, LOGITS) if f.kind == "dead class")
    wanted = np.flatnonzero(z.argmax(axis=1) == 3)
    assert list(found.rows) == wanted[wanted >= 200][:100].tolist()


def test_log_probabilities_may_be_minus_infinity() -> None:
    z, w = pair(half, 0)
    with np.errstate(divide="ignore"):
        assert not oddities.odd(logs(z), np.log(np.where(logs(w) < -20, 0, softmax(w))), LOGITS)


def test_ints_are_logits_too() -> None:
    z, w = pair(half, 2)
    assert not oddities.odd(z, np.round(w * 100).astype(np.int16) / np.int16(100), LOGITS)
    found = oddities.odd(np.round(z * 6).astype(np.int8), np.round(swapped(w.copy()) * 6).astype(np.int8))
    assert found[0].kind == "swapped classes"


def test_a_background_class_in_front_is_said_so() -> None:
    z, w = pair(half, 2)
    (found,) = oddities.odd(z, np.concatenate([np.full((600, 1), -9, np.float32), w], axis=1))
    agree = 100 * (z.argmax(axis=1) == w.argmax(axis=1)).mean()
    assert f"1 class further on: so they agree on {agree:.1f} % of 600 examples" in found.words
    assert found.words.endswith("(the other model has 11 classes, the reference 10)")
    assert found.value == 1
    (back,) = oddities.odd(np.concatenate([np.full((600, 1), -9, np.float32), z], axis=1), w)
    assert back.value == -1
    with pytest.raises(UserError, match="600 examples"):
        oddities.offset(z.argmax(axis=1), w.argmax(axis=1)[:5], 10, 11)


def test_swaps_need_both_answers_and_columns() -> None:
    """Labels alone that go to and fro between two classes are confusion, where each column still fits its own best."""
    z, w = pair(half, 2, n=1000)
    (found,) = oddities.class_order(z, swapped(w.copy()), names=list("abcdefghij"))
    assert "for b and e are in one another's places" in found.words
    mixed = z.copy()
    for one, other in ((1, 4), (4, 1)):
        rows = np.flatnonzero(z.argmax(axis=1) == one)
        mixed[rows, other] = mixed[rows, one] + 0.01
    assert not oddities.class_order(z, mixed)


def test_outputs_that_do_not_belong_together() -> None:
    z, w = pair(half, 2)
    for other in (w[:5], w[:5, :4]):
        with pytest.raises(UserError, match="600 examples and the other 5"):
            oddities.odd(z, other, LOGITS)
    assert not oddities.odd(z, w[:, :9], LOGITS)


def test_coarse_outputs_are_not_cut_off() -> None:
    z = np.random.default_rng(0).uniform(-4, 4, (600, 10))
    assert (np.round(z).max(axis=1) == 4).mean() > 0.3
    assert not oddities.odd(z, np.round(z), LOGITS)


def test_swaps_are_found_wherever_logits_are() -> None:
    z, w = pair(half, 2, n=1000)
    assert oddities.class_order(z - 50, swapped(w.copy()) + 100)


def test_a_few_examples_are_no_swap() -> None:
    z, w = pair(half, 2, n=1000)
    top = z.argmax(axis=1)
    few = np.concatenate([np.flatnonzero(top == c)[: 3 if c in (1, 4) else 1000] for c in range(10)])
    assert not oddities.class_order(z[few], swapped(w[few]))
    many = np.concatenate([np.flatnonzero(top == c)[: 12 if c in (1, 4) else 1000] for c in range(10)])
    assert oddities.class_order(z[many], swapped(w[many]))


def test_some_classes_that_moved_on_are_no_offset() -> None:
    first = np.repeat(np.arange(6), [100, 30] * 3)
    second = np.where(first % 2, (first + 1) % 6, first)
    assert not oddities.offset(first, second, 6, 6)
    assert oddities.offset(first, (first + 1) % 6, 6, 6)


def test_few_examples_say_nothing_of_a_class() -> None:
    z, w = pair(half, 2, n=12)
    assert not oddities.odd(z, emptied(w.copy()), LOGITS)
    assert not oddities.odd(z, dead(w.copy()), LOGITS)


def test_worst_first() -> None:
    findings = [oddities.Finding("x", "", 0, 1, severity) for severity in (1, 3, 2, 3)]
    assert [f.severity for f in oddities.worst_first(findings)] == [3, 3, 2, 1]


# the same rows twice


@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("float16", np.float16)])
def test_rounding_is_no_variation(precision: str, dtype: type) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, w = rng.normal(size=(64, 300)).astype(dtype), rng.normal(size=(300, 10)).astype(dtype)
        once = sum(x[:, part] @ w[part] for part in (slice(0, 100), slice(100, 200), slice(200, 300)))
        again = sum(x[:, part] @ w[part] for part in (slice(0, 170), slice(170, 300)))
        assert (np.asarray(again) != once).any()
        assert not oddities.varying(np.asarray(once), np.asarray(again), precision)


@pytest.mark.parametrize("by", ["batch", "neighbours", "calls"])
def test_outputs_that_vary(by: str) -> None:
    """Batch norm by each batch's own statistics, and dropout that was left on."""
    rng = np.random.default_rng(0)
    hidden, w = rng.normal(size=(256, 40)) * rng.uniform(0.5, 2, 40), rng.normal(size=(40, 10))

    def normed(x: np.ndarray, size: int) -> np.ndarray:
        parts = [x[i : i + size] for i in range(0, len(x), size)]
        return np.concatenate([(p - p.mean(axis=0)) / p.std(axis=0) for p in parts])

    if by == "calls":
        one, two = ((hidden * (rng.random(hidden.shape) > 0.1)) @ w for _ in range(2))
    else:
        one, two = normed(hidden, 64) @ w, normed(hidden, 32) @ w
    (found,) = oddities.varying(one, two, by=by)
    changed = int((one.argmax(axis=1) != two.argmax(axis=1)).sum())
    assert found.kind == f"varies by {by}"
    assert found.severity == oddities.UNUSABLE
    assert f"{changed} answers with them" in found.words
    assert found.value == 100


def test_variation_that_changes_no_answer_is_worth_a_look() -> None:
    z, _ = pair(half, 0)
    top = z.argmax(axis=1)
    again = z.copy()
    again[5, top[5]] += 1
    (found,) = oddities.varying(z, again)
    assert (found.severity, found.rows) == (oddities.WORTH_A_LOOK, (5,))
    assert not oddities.varying(z, again, "int8", "calls") or found.value == pytest.approx(100 / 600)
    again[9] = NAN
    (lost,) = oddities.varying(z, again)
    assert (lost.severity, lost.rows) == (oddities.WRONG, (5, 9))


def test_variations_that_are_none() -> None:
    z, _ = pair(half, 0)
    with pytest.raises(UserError, match="no precision 'float23'; did you mean float32"):
        oddities.varying(z, z, "float23")
    with pytest.raises(UserError, match="no variation 'batches'; did you mean batch"):
        oddities.varying(z, z, by="batches")


# words


def test_loyalty_in_words() -> None:
    assert words.loyalty(intervals.share(982, 1000), "small.onnx") == (
        "small.onnx answers as the reference does on 98.20 % of 1,000 examples (95 % interval 97.17 to 98.86 %)."
    )
    assert words.loyalty(intervals.share(6, 8)) == (
        "The other model answers as the reference does on 75 % of 8 examples (95 % interval 41 to 93 %)."
    )
    assert "can't be told" in words.loyalty(intervals.share(0, 0))


def test_changes_in_words() -> None:
    first = np.array([0, 0, 1, 2, 1, -1])
    second = np.array([0, 1, 0, 1, 2, -1])
    assert words.changed(an.changes(first, second, np.zeros(6, int))) == (
        "The other model changed 4 of 6 answers: 1 from right to wrong, 1 from wrong to right, "
        "2 from wrong to another wrong. To 1 example neither answers anything."
    )
    assert "4 without a label to tell whether for the worse" in words.changed(an.changes(first, second))
    high = stats.binomtest(0, 5).proportion_ci(method="wilson").high
    assert words.changed(an.changes(first[:5], first[:5])) == (
        f"Not one of 5 answers changed, so {100 * high:.2g} % at most do (95 %)."
    )


def judged(a: int, b: int, c: int, d: int, margin: float = 1.0) -> str:
    first, second = np.repeat([0, 0, 1, 1], (a, b, c, d)), np.repeat([0, 1, 0, 2], (a, b, c, d))
    return words.accuracy(an.accuracies(first, second, np.zeros(len(first), int), margin), "x.onnx")


def test_accuracy_in_words() -> None:
    text = judged(9000, 90, 30, 880)
    assert text.startswith(
        "The accuracy of x.onnx fell from 90.90 to 90.30 %, by 0.60 points (95 % interval of the drop"
    )
    assert "n = 10,000, McNemar's exact p < 0.001" in text
    assert text.endswith("no worse, at a margin of 1 point, though surely lower.")
    assert judged(8000, 900, 100, 1000).endswith("worse, by more than the margin of 1 point.")
    unsure = judged(80, 6, 6, 8)
    size = an.examples_needed(6, 6, 100)
    assert "can't tell whether the drop is below 1 point; about " in unsure
    assert int(unsure.split("about ")[1].split(" ")[0].replace(",", "")) >= size
    assert "no number of examples would tell" in judged(970, 15, 5, 10)
    assert "rose from" in judged(80, 5, 10, 5)
    assert "is 80.0 % as before" in judged(75, 5, 5, 15) or "is 80 % as before" in judged(75, 5, 5, 15)
    assert words.accuracy(None) == "No example has a label: accuracy can't be told."


def test_probabilities_in_words() -> None:
    z, w = pair(pruned, 0, n=1000)
    found = probabilities.summary(probabilities.distances(z, w))
    text = words.probabilities(found, 1e-12)
    assert f"KL from the reference {found.kl.value:.3g} nats on average" in text
    assert f"{found.kl_quantiles[99.9]:.3g} or more in one of 1,000" in text
    assert "n = 1,000, probabilities below 1e-12" in text
    short = words.probabilities(probabilities.summary(probabilities.distances(z[:50], w[:50])), 1e-12)
    assert "or more in" not in short
    bare = probabilities.summary(probabilities.distances(z, np.full_like(z, NAN)))
    assert "can't be told" in words.probabilities(bare, 1e-12)


def test_groups_in_words() -> None:
    ids = np.repeat([0, 1, 2], [500, 500, 3])
    first = np.ones(1003, bool)
    second = first.copy()
    second[:50] = False
    text = words.groups(groups.by_group(ids, ["cat", "dog", "emu"], first, second))
    assert text.startswith(
        "1 class surely lost accuracy (2 classes tested, Holm's correction): cat -10.0 points (95 %"
    )
    assert "n = 500, p < 0.001)" in text
    assert text.endswith("Too few examples to tell: emu (n = 3).")
    quiet = words.groups(groups.by_group(ids, ["cat", "dog", "emu"], first, first))
    assert quiet.startswith("No class surely lost accuracy (2 classes tested")
    assert f"a loss of {100 * groups.attainable(3) / 500:.2g} points" in quiet
    assert "Of no class are there enough" in words.groups(
        groups.by_group(ids[-3:], "abc", first[-3:], first[-3:])
    )


def test_answered_in_words() -> None:
    first = np.repeat([0, 1], [100, 100])
    second = first.copy()
    second[:40] = 1
    text = words.answered(groups.by_answer(first, second, ["x", "y"]))
    assert text.endswith("x 100 to 60 times (p < 0.001), y 100 to 140 times (p < 0.001).")
    assert "No class is surely" in words.answered(groups.by_answer(first, first, ["x", "y"]))
    assert "often enough" in words.answered(groups.by_answer(first[:3], first[:3], ["x", "y"]))


def test_thresholds_and_temperature_in_words() -> None:
    z, w = pair(pruned, 0, n=1000)
    y = z.argmax(axis=1)
    one, two = co.beliefs(z, "logits", y), co.beliefs(w, "logits", y)
    text = words.threshold(co.thresholds(one, two)[2])
    assert text.startswith("At a threshold of 0.9 coverage goes from ")
    assert "of 1,000 examples (change " in text
    assert "the error of what is answered from 0.00 % (95 % interval 0.00 to" in text
    assert "without labels" in words.threshold(co.thresholds(one, two, labelled=False)[0])
    none = words.threshold(co.thresholds(one, two, at=(1.5,))[0])
    assert "unknown, since nothing is answered" in none
    found = co.fitted_temperature(w, y)
    assert found is not None
    assert f"temperature of {found.value:.3g}" in words.temperature(found)
    assert "can't be fitted" in words.temperature(None)


def test_oddities_in_words() -> None:
    assert words.oddities((), 600) == ("Nothing odd in the outputs for 600 examples.",)
    z, w = pair(half, 2, n=1000)
    (text,) = words.oddities(oddities.odd(z, dead(w.copy()), LOGITS), 1000)
    assert text.startswith("The other model never answers class 3, which the reference answers for ")
    assert text.endswith(" of 1,000 examples.")


@pytest.mark.parametrize(
    ("found", "decimals"),
    [
        (Estimate(50, 40, 60, 9), 0),
        (Estimate(50, 47, 53, 9), 1),
        (Estimate(50, 49.7, 50.3, 9), 2),
        (Estimate(50, NAN, NAN, 9), 2),
        (Estimate(50, 50, 50, 9), 2),
    ],
)
def test_figures_have_as_many_decimals_as_they_carry(found: Estimate, decimals: int) -> None:
    assert words.decimals_of(found) == decimals


def test_small_words() -> None:
    assert [words.p_value(p) for p in (0.0341, 0.0009, 1.0, NAN)] == [
        "p = 0.034",
        "p < 0.001",
        "p = 1",
        "p not known",
    ]
    assert [words.rounded(x) for x in (22_101, 100, 7)] == ["23,000", "100", "7"]
    assert words.listing(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert words.signed(Estimate(-0.001, -0.3, 0.3, 9)) == "0.00"


# gates


def test_gates_are_read() -> None:
    found = gate.conditions(" worse_class<=5, loyalty >= 98 %,accuracy_drop<1e0,")
    assert [str(c) for c in found] == ["worse_class<=5", "loyalty>=98", "accuracy_drop<1"]
    assert [c.limit for c in found] == [5, 98, 1]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no limit in ''"),
        (" , ", "no limit"),
        ("loyalty", "no name, sign and number"),
        ("<=5", "no name, sign and number"),
        ("loyality>=98", "did you mean loyalty"),
        ("loyalty>=many", "'many' is no number"),
        ("loyalty>=", "'' is no number"),
        ("loyalty>=nan", "'nan' is no number"),
        ("loyalty>=9_8", "no number"),
        ("kl<=5%", "'5%' is no number"),
        ("loyalty<=98", "more of loyalty is better, so its limit is loyalty>=98"),
        ("accuracy_drop>1", "less of accuracy_drop is better"),
        ("loyalty=98", "'=' is no sign for a limit; loyalty takes >="),
        ("loyalty=>98", "'=>' is no sign"),
        ("loyalty>=98,loyalty>=99", "loyalty has 2 limits"),
        ("98<=loyalty<=99", "no name, sign and number"),
    ],
)
def test_gates_that_are_none(text: str, error: str) -> None:
    with pytest.raises(UserError, match="--gate: ") as caught:
        gate.conditions(text)
    assert error in str(caught.value)


def test_gates_are_judged() -> None:
    limits = gate.conditions("loyalty>=98,accuracy_drop<=1,kl<0.5,worse_class<=5,findings<=0")
    figures = {
        "loyalty": Estimate(98.5, 98.1, 98.8, 1000),
        "accuracy_drop": Estimate(0.9, 0.2, 1.6, 1000),
        "kl": 0.5,
        "worse_class": None,
        "findings": 0.0,
    }
    found = gate.verdicts(limits, figures)
    assert [(v.kept, v.sure) for v in found] == [
        (True, True),
        (True, False),
        (False, False),
        (None, False),
        (True, False),
    ]
    assert found[0].words == "loyalty>=98: label loyalty is 98.5 % (95 % interval 98.1 to 98.8, n = 1,000)"
    assert "0.2 to 1.6, which holds the limit, n = 1,000" in found[1].words
    assert found[3].words.startswith("worse_class<=5: accuracy lost by the class, of those")
    assert found[3].words.endswith("is not known")
    assert gate.kept(found) is False
    assert gate.kept(found[:2]) is True
    assert gate.kept([*found[:2], found[3]]) is None


def test_a_figure_at_its_limit_keeps_to_it() -> None:
    (limit,) = gate.conditions("accuracy_drop<=1")
    assert limit.keeps(1 + 1e-12)
    assert not limit.keeps(1.001)
    (strict,) = gate.conditions("accuracy_drop<1")
    assert not strict.keeps(1 - 1e-12)
    assert strict.keeps(0.999)
    (verdict,) = gate.verdicts((limit,), {"accuracy_drop": 1.00001})
    assert verdict.words.endswith("is 1.00001 points")


def test_measures_of_a_caller_s() -> None:
    own = {**gate.MEASURES, "bytes": gate.Measure(-1, "bytes", "size on disk")}
    (limit,) = gate.conditions("bytes<=1000", own)
    assert gate.verdicts((limit,), {"bytes": 2000.0}, own)[0].kept is False
    with pytest.raises(UserError, match="no figure 'bytes'"):
        gate.conditions("bytes<=1000")


def test_figures_for_gates() -> None:
    z, w = pair(pruned, 2, n=1000)
    y = np.random.default_rng(0).permutation(pair(noisy, 2, n=1000)[1].argmax(axis=1))
    y[:500] = z[:500].argmax(axis=1)
    first, second = an.answers(z).labels, an.answers(w).labels
    classes = groups.by_group(y, "abcdefghij", first == y, second == y)
    summary = probabilities.summary(probabilities.distances(z, w))
    found = gate.figures(first, second, summary, an.accuracies(first, second, y), classes)
    assert set(found) == set(gate.MEASURES) - {"calibration_error", "findings"}
    value = {name: f.value if isinstance(f, Estimate) else f for name, f in found.items()}
    right, still = first == y, second == y
    assert value["accuracy"] == pytest.approx(100 * still.mean())
    assert value["accuracy_drop"] == pytest.approx(100 * (right.mean() - still.mean()))
    losses = [100 * (right[y == c].mean() - still[y == c].mean()) for c in range(10)]
    assert value["worse_class"] == pytest.approx(max(losses))
    worst = found["worse_class"]
    assert isinstance(worst, Estimate)
    assert worst.low < worst.value < worst.high
    assert value["worse_group"] is None
    assert (
        value["loyalty"]
        == pytest.approx(100 * (first == second).mean())
        == pytest.approx(100 - value["changed"])
    )
    assert value["right_to_wrong"] == pytest.approx(100 * (right & ~still).mean())
    assert value["kl_99"] == summary.kl_quantiles[99]
    bare = gate.figures(first, second, summary)
    assert [bare[n] for n in ("accuracy", "accuracy_drop", "worse_class", "right_to_wrong")] == [None] * 4


def test_rare_groups_are_no_worst_ones() -> None:
    ids = np.repeat([0, 1], [500, 3])
    after = np.ones(503, bool)
    after[[0, 1, 501]] = False
    worst = gate.worst_loss(groups.by_group(ids, "ab", np.ones(503, bool), after))
    assert worst is not None
    assert worst.value == pytest.approx(0.4)
    assert gate.worst_loss(groups.by_group(ids[-3:], "ab", after[-3:], after[-3:])) is None
