"""The arithmetic of comparisons against scipy, the metrics in torch, and figures that other packages gave.

Literal figures with a package's name were printed by it (statsmodels 0.15.0, scikit-learn 1.9.1) on the same numbers.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats
from scipy.spatial.distance import jensenshannon

from compressbench import distributions, metrics
from compressbench.comparing import answers as an
from compressbench.comparing import confidence as co
from compressbench.comparing import gallery, groups, intervals, probabilities
from compressbench.comparing.arrays import CELLS, both, fitting, pieces, table
from compressbench.errors import UserError

NAN = math.nan


def pair(n: int = 400, classes: int = 12, noise: float = 0.7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two models that mostly agree."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, classes)).astype(np.float32)
    return z, (z + noise * rng.normal(size=z.shape)).astype(np.float32)


def waves() -> tuple[np.ndarray, np.ndarray]:
    """The small table of which scikit-learn's figures are quoted."""
    z = np.array([[np.sin(3 * i + 5 * j) * 3 for j in range(4)] for i in range(12)])
    return z, np.array([(i * i) % 4 for i in range(12)])


def test_nothing_of_it_imports_torch() -> None:
    names = "answers arrays confidence gallery gate groups intervals oddities probabilities words"
    lines = [f"import compressbench.comparing.{name}" for name in names.split()]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "; ".join([*lines, "import sys; print('torch' in sys.modules, 'scipy' in sys.modules)"]),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False False"


# arrays


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.zeros(3), "shape is 3"),
        (np.zeros((0, 3)), "no example"),
        (np.zeros((3, 1)), "two columns"),
        (np.array([["a", "b"]]), "scores are numbers"),
    ],
)
def test_tables_that_are_none(scores: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        table(scores)


def test_two_tables_belong_together() -> None:
    both(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(UserError, match="3 examples and the other 4"):
        both(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(UserError, match="2 classes and the other 5"):
        both(np.zeros((3, 2)), np.zeros((3, 5)))


def test_labels_that_do_not_fit() -> None:
    fitting(np.array([-1, 0, 2]), 3, 3)
    with pytest.raises(UserError, match="3 in row 1"):
        fitting(np.array([0, 3, 4]), 3, 3)
    with pytest.raises(UserError, match="so 4"):
        fitting(np.array([0, 1]), 4, 3)
    with pytest.raises(UserError, match="float64"):
        fitting(np.array([0.0, 1.0]), 2, 3)


def test_pieces_are_all_rows_once() -> None:
    rows = np.concatenate([np.arange(10_000)[part] for part in pieces(10_000, CELLS // 7)])
    assert rows.tolist() == list(range(10_000))
    assert [p.stop - p.start for p in pieces(15, CELLS // 7)] == [7, 7, 1]


# intervals


def test_wilson() -> None:
    low, high = intervals.wilson([982, 0, 31, 0], [1000, 31, 31, 0])
    for place, (k, n) in enumerate([(982, 1000), (0, 31), (31, 31)]):
        known = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert (low[place], high[place]) == pytest.approx((known.low, known.high), abs=1e-14)
    assert (low[3], high[3]) == (0, 1)
    ninety = intervals.share(3, 7, 0.9)
    assert (ninety.low, ninety.high) == pytest.approx((18.6443190363956, 71.05229089864071))  # statsmodels
    assert math.isnan(intervals.share(0, 0).value)
    assert not intervals.share(0, 0).known


@pytest.mark.parametrize("counts", [(30, 14), (14, 30), (0, 9), (7, 7), (1, 0), (2600, 2400), (300, 900)])
def test_mcnemar(counts: tuple[int, int]) -> None:
    lost, won = counts
    n, fewer = sum(counts), min(counts)
    found = intervals.mcnemar(lost, won)
    assert found.p == pytest.approx(stats.binomtest(won, n).pvalue, rel=1e-12)
    mid = 2 * stats.binom.cdf(fewer, n, 0.5) - stats.binom.pmf(fewer, n, 0.5)
    assert found.mid_p == pytest.approx(mid, rel=1e-10)
    assert found.mid_p <= found.p <= 1


def test_mcnemar_of_nothing_and_of_statsmodels() -> None:
    assert (intervals.mcnemar(0, 0).p, intervals.mcnemar(0, 0).mid_p) == (1, 1)
    assert intervals.mcnemar(30, 14).p == pytest.approx(0.022628841205914796, rel=1e-14)
    assert intervals.mcnemar(np.int64(9), np.int64(0)).p == 0.00390625
    assert intervals.mcnemar(20_000, 10).p == 0


@pytest.mark.parametrize(
    ("k", "n"), [(-1, 5), (0, 5), (3, 5), (5, 5), (12, 40), (28, 40), (40, 41), (20, 41)]
)
def test_binomial_tail(k: int, n: int) -> None:
    assert intervals.binomial_tail(k, n) == pytest.approx(stats.binom.cdf(k, n, 0.5), rel=1e-12)


def newcombe(a: int, b: int, c: int, d: int, level: float) -> tuple[float, float]:
    """Method 10 once more, with scipy's Wilson intervals, number by number."""
    n = a + b + c + d
    first = stats.binomtest(a + b, n).proportion_ci(level, "wilson")
    second = stats.binomtest(a + c, n).proportion_ci(level, "wilson")
    p, q, e = (a + b) / n, (a + c) / n, a * d - b * c
    e = e - n / 2 if e > n / 2 else 0 if e > 0 else e
    under = (a + b) * (c + d) * (a + c) * (b + d)
    phi = e / math.sqrt(under) if under else 0
    dl, du, el, eu = p - first.low, first.high - p, q - second.low, second.high - q
    return (
        p - q - math.sqrt(dl**2 - 2 * phi * dl * eu + eu**2),
        p - q + math.sqrt(du**2 - 2 * phi * du * el + el**2),
    )


TABLES = [
    (14, 5, 0, 22),
    (36, 12, 2, 0),
    (9100, 120, 80, 700),
    (0, 3, 4, 0),
    (5, 0, 0, 0),
    (40, 7, 9, 30),
    (3, 9, 8, 2),
]


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_difference_of_paired_shares(level: float) -> None:
    value, low, high = intervals.paired_difference(*np.transpose(TABLES), level=level)
    for place, (a, b, c, d) in enumerate(TABLES):
        assert value[place] == pytest.approx((b - c) / (a + b + c + d))
        assert (low[place], high[place]) == pytest.approx(newcombe(a, b, c, d, level), abs=1e-12)


def test_difference_of_paired_shares_as_published() -> None:
    """Altman et al., Statistics with Confidence (2000), p. 52: 0.122, 0.011 to 0.226."""
    found = intervals.paired_difference(14, 5, 0, 22)
    assert [round(float(x), 3) for x in found] == [0.122, 0.011, 0.226]
    value, low, high = intervals.paired_difference(0, 0, 0, 0)
    assert math.isnan(value)
    assert (low, high) == (-1, 1)


def test_interval_of_a_paired_difference_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(300, [0.80, 0.08, 0.04, 0.08], size=4000)
    _, low, high = intervals.paired_difference(*counts.T)
    assert 0.94 < ((low <= 0.04) & (high >= 0.04)).mean() < 0.975


@pytest.mark.parametrize("freedom", [1, 2, 3, 10, 999, 49_999])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_quantiles_of_t(freedom: int, level: float) -> None:
    assert distributions.t_quantile(level, freedom) == pytest.approx(
        stats.t.ppf((1 + level) / 2, freedom), rel=1e-9
    )


def test_beta_share() -> None:
    for x, a, b in [(0.0, 2, 3), (0.2, 2, 3), (0.9, 0.5, 7), (1.0, 2, 3), (0.5, 400, 300)]:
        assert distributions.beta_share(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-10)


def test_levels_and_sizes_that_are_none() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        distributions.normal_quantile(95)
    with pytest.raises(ValueError, match="two values"):
        distributions.t_quantile(0.95, 0)


def test_mean() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    found = intervals.mean(np.append(values, [NAN, np.inf]), 0.9)
    known = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert found.n == 50
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), known.low, known.high))
    one = intervals.mean(np.array([3.0]))
    assert one.value == 3
    assert math.isnan(one.low)
    assert not intervals.mean(np.array([NAN])).known


# answers


def test_answers_ties_and_what_is_no_number() -> None:
    scores = np.array(
        [[1, 3, 2], [3, 1, 3], [NAN, 9, 1], [2, 2, 2], [1, np.inf, NAN], [0, np.inf, 1]], np.float32
    )
    found = an.answers(scores)
    assert found.labels.tolist() == [1, 0, -1, 0, -1, 1] == metrics.named(torch.tensor(scores)).tolist()
    assert found.tied.tolist() == [False, True, False, True, False, False]
    assert found.without == 2


def test_answers_in_pieces_are_those_of_metrics() -> None:
    scores = np.random.default_rng(0).integers(0, 30, size=(3000, 200)).astype(np.float32)
    assert len(list(pieces(3000, 200))) > 2
    assert (an.answers(scores).labels == metrics.named(torch.tensor(scores)).numpy()).all()


REFERENCE = np.array([0, 0, 1, 2, 1, -1, -1, 2, 0])
OTHER = np.array([0, 1, 0, 1, 2, 0, -1, -1, 1])
LABELS = np.array([0, 0, 0, 0, 0, 0, 0, 2, -1])


def test_changes_by_kind() -> None:
    found = an.changes(REFERENCE, OTHER, LABELS)
    assert np.flatnonzero(found.right_to_wrong).tolist() == [1, 7]
    assert np.flatnonzero(found.wrong_to_right).tolist() == [2, 5]
    assert np.flatnonzero(found.wrong_to_another).tolist() == [3, 4]
    assert np.flatnonzero(found.unlabelled).tolist() == [8]
    assert np.flatnonzero(found.silent).tolist() == [6]
    assert np.flatnonzero(found.changed).tolist() == [1, 2, 3, 4, 5, 7, 8]
    bare = an.changes(REFERENCE, OTHER)
    assert bare.unlabelled.tolist() == found.changed.tolist() == bare.changed.tolist()


def test_label_loyalty_is_that_of_metrics() -> None:
    found = an.label_loyalty(REFERENCE, OTHER)
    assert found.value == pytest.approx(100 / 9)
    assert found.value == metrics.label_loyalty(torch.tensor(REFERENCE), torch.tensor(OTHER))
    known = stats.binomtest(1, 9).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((100 * known.low, 100 * known.high))


def of_table(a: int, b: int, c: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers of two models and labels: ``a`` both right, ``b`` only the first, ``c`` only the second, ``d`` none."""
    first = np.repeat([0, 0, 1, 1], (a, b, c, d))
    second = np.repeat([0, 1, 0, 2], (a, b, c, d))
    return first, second, np.zeros(a + b + c + d, int)


def test_accuracies() -> None:
    first, second, labels = of_table(800, 60, 40, 100)
    labels = np.append(labels, [-1, -1])
    found = an.accuracies(np.append(first, [0, 1]), np.append(second, [1, 1]), labels, level=0.9)
    assert found is not None
    assert (found.before.value, found.after.value, found.drop.n) == (86, 84, 1000)
    low, high = newcombe(800, 60, 40, 100, 0.9)
    assert (found.drop.value, found.drop.low, found.drop.high) == pytest.approx((2, 100 * low, 100 * high))
    assert found.test == intervals.mcnemar(60, 40)
    known = stats.binomtest(860, 1000).proportion_ci(0.9, "wilson")
    assert found.before.low == pytest.approx(100 * known.low)
    assert an.accuracies(first, second, np.full(1000, -1)) is None
    with pytest.raises(ValueError, match="margin"):
        an.accuracies(first, second, labels[:1000], margin=-1)


@pytest.mark.parametrize(
    ("counts", "verdict", "lower"),
    [
        ((9000, 60, 60, 880), an.NO_WORSE, False),
        ((9000, 90, 30, 880), an.NO_WORSE, True),
        ((8000, 900, 100, 1000), an.WORSE, True),
        ((800, 30, 10, 160), an.CANT_TELL, True),
        ((80, 6, 6, 8), an.CANT_TELL, False),
        ((80, 8, 4, 8), an.CANT_TELL, False),
        ((100, 0, 0, 0), an.CANT_TELL, False),
    ],
)
def test_verdicts(counts: tuple[int, int, int, int], verdict: str, lower: bool) -> None:
    found = an.accuracies(*of_table(*counts))
    assert found is not None
    assert (found.verdict, found.lower) == (verdict, lower)
    low, high = newcombe(*counts, 0.95)
    assert found.verdict == (an.NO_WORSE if high < 0.01 else an.WORSE if low > 0.01 else an.CANT_TELL)
    assert (found.needed is None) == (verdict != an.CANT_TELL)
    assert found.needed is None or found.needed > sum(counts)


def test_so_many_examples_give_a_verdict_four_times_in_five() -> None:
    """By drawing tables of that size from the shares that were seen."""
    rng = np.random.default_rng(0)
    for counts in ((8000, 420, 400, 1180), (2000, 160, 60, 300)):  # drop of 0.2 points, below; of 3.97, above
        n = sum(counts)
        size = int(an.examples_needed(counts[1], counts[2], n, margin=1.0))
        apart, drop = (counts[1] + counts[2]) / n, (counts[1] - counts[2]) / n
        bare = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * (apart - drop**2) / (0.01 - drop) ** 2
        assert size == n + 1 or size == pytest.approx(bare, rel=0.02)
        draws = rng.multinomial(round(bare), np.array(counts) / n, size=3000)
        _, low, high = intervals.paired_difference(*draws.T)
        assert 0.75 < ((high < 0.01) | (low > 0.01)).mean() < 0.85


def test_where_no_number_of_examples_would_do() -> None:
    assert an.examples_needed(15, 5, 1000, margin=1.0) == math.inf
    assert an.examples_needed(0, 0, 1_000_000, margin=1.0) == 1_000_001


def test_no_difference_seen_in_a_few_examples_does_not_promise_that_there_is_none() -> None:
    z, reach = stats.norm.ppf(0.975), stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert an.examples_needed(0, 0, 100, margin=1.0) == math.ceil(
        reach**2 * (z**2 / 2) / (100 + z**2) / 0.01**2
    )


# probabilities


def softmax(z: np.ndarray) -> np.ndarray:
    return special.softmax(z.astype(float), axis=1)


@pytest.mark.parametrize(
    ("scores", "name"),
    [
        (pair()[0], "logits"),
        (softmax(pair()[0]), "probabilities"),
        (softmax(pair()[0]).astype(np.float16), "probabilities"),
        (np.log(softmax(pair()[0])), "logits"),
        (np.round(softmax(pair(classes=1000)[0]) * 256) / 256, "probabilities"),
        (np.round(softmax(pair(classes=1000)[0]), 4), "probabilities"),
        (np.zeros((5, 3)), "logits"),
        (np.full((5, 4), 0.25), "probabilities"),
        (np.full((5, 4), NAN), "logits"),
        (np.vstack([softmax(pair()[0]), np.full((2, 12), NAN)]), "probabilities"),
    ],
)
def test_logits_and_probabilities_are_told(scores: np.ndarray, name: str) -> None:
    assert probabilities.kind_of(scores).name == name


def test_what_is_neither_is_not_guessed() -> None:
    sigmoids = special.expit(pair()[0])
    with pytest.raises(UserError, match="say whether they are logits or probabilities"):
        probabilities.kind_of(sigmoids)
    assert probabilities.kind_of(sigmoids, "logits").name == "logits"
    assert probabilities.kind_of(sigmoids, "probabilities").name == "probabilities"
    with pytest.raises(UserError, match="are no probabilities"):
        probabilities.kind_of(pair()[0], "probabilities")
    with pytest.raises(UserError, match="not 'odds'"):
        probabilities.kind_of(sigmoids, "odds")


def test_probabilities_and_their_logarithms() -> None:
    z = pair()[0] * 20
    assert probabilities.probabilities(z, "logits") == pytest.approx(softmax(z), abs=1e-7)
    known = np.maximum(special.log_softmax(z.astype(float), axis=1), math.log(1e-9))
    assert probabilities.log_probabilities(z, "logits", 1e-9) == pytest.approx(known)
    raw = np.array([[2.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, NAN]])
    found = probabilities.probabilities(raw, "probabilities")
    assert found[:2].tolist() == [[0.5, 0.25, 0.25], [1 / 3] * 3]
    assert np.isnan(found[2]).all()
    logs = probabilities.log_probabilities(np.array([[0.0, 1.0]]), "probabilities")
    assert logs.tolist() == [[pytest.approx(math.log(1e-12)), 0]]
    assert np.isnan(probabilities.probabilities(np.array([[np.inf, 1.0]]), "logits")).all()


def test_distances_are_those_of_scipy() -> None:
    z, w = pair(n=60)
    w = np.round(w)  # ties
    w[3] = z[3]
    found = probabilities.distances(z, w, k=3)
    p, q = softmax(z), softmax(w)
    assert found.kl == pytest.approx(
        special.rel_entr(np.maximum(p, 1e-12), np.maximum(q, 1e-12)).sum(axis=1), abs=1e-9
    )
    assert found.js == pytest.approx(jensenshannon(p, q, axis=1), abs=1e-7)
    assert found.total_variation == pytest.approx(np.abs(p - q).sum(axis=1) / 2, abs=1e-7)
    assert (found.kl[3], found.js[3], found.total_variation[3]) == (0, 0, 0)
    for row in range(60):
        assert found.rank[row] == pytest.approx(stats.spearmanr(z[row], w[row]).statistic, abs=1e-12)
        tops = [{int(c) for c in np.lexsort((np.arange(12), -s[row]))[:3]} for s in (z, w)]
        assert found.overlap[row] == pytest.approx(len(tops[0] & tops[1]) / 3)


def test_distances_take_both_kinds_and_many_rows() -> None:
    z, w = pair(n=3000, classes=200)
    assert len(list(pieces(*z.shape))) > 2
    plain = probabilities.distances(z, w)
    mixed = probabilities.distances(z, softmax(w), ("logits", "probabilities"))
    assert mixed.kl == pytest.approx(plain.kl, abs=1e-6)
    assert mixed.js == pytest.approx(plain.js, abs=1e-6)
    whole = special.rel_entr(softmax(z), softmax(w)).sum(axis=1)
    assert plain.kl == pytest.approx(whole, abs=1e-6)


def test_kl_is_of_the_reference_and_clipped() -> None:
    p, q = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert probabilities.relative_entropy(p, q, 1e-3) == pytest.approx(
        math.log(1000) + 1e-3 * math.log(1e-3), rel=1e-12
    )
    p, q = np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])
    assert probabilities.relative_entropy(p, q) == pytest.approx(stats.entropy(p[0], q[0]))


def test_rows_without_numbers() -> None:
    z, w = pair(n=40)
    w[7, 2], z[9] = NAN, NAN
    found = probabilities.distances(z, w)
    assert (
        np.flatnonzero(np.isnan(found.kl)).tolist() == [7, 9] == np.flatnonzero(np.isnan(found.rank)).tolist()
    )
    assert np.flatnonzero(np.isnan(found.overlap)).tolist() == [7, 9]
    assert found.js[[7, 9]] == pytest.approx(math.sqrt(math.log(2)))
    summary = probabilities.summary(found)
    assert (summary.left_out, summary.kl.n, summary.loyalty.n) == (2, 38, 40)


def test_probability_loyalty_is_the_probe_s() -> None:
    z, w = pair(n=500)
    w[7, 2] = NAN
    found = probabilities.summary(probabilities.distances(z, w))
    logs = [torch.log_softmax(torch.tensor(s), dim=1) for s in (z, w)]
    assert found.loyalty.value == pytest.approx(metrics.probability_loyalty(*logs), abs=1e-5)
    assert found.loyalty_base2.value == pytest.approx(metrics.probability_loyalty(*logs, base=2), abs=1e-5)
    same = probabilities.summary(probabilities.distances(z, z))
    assert (same.loyalty.value, same.kl.value, same.overlap.value, same.rank.value) == (100, 0, 100, 1)


def test_summary_means_and_quantiles() -> None:
    found = probabilities.distances(*pair(n=2000))
    summary = probabilities.summary(found, 0.9)
    known = stats.ttest_1samp(found.kl, 0).confidence_interval(0.9)
    assert (summary.kl.low, summary.kl.high) == pytest.approx((known.low, known.high))
    assert summary.kl_quantiles == {
        q: pytest.approx(stats.mstats.mquantiles(found.kl, q / 100, 1, 1)[0]) for q in (50, 90, 99, 99.9)
    }
    assert summary.kl_of_the_most == pytest.approx(100 * np.sort(found.kl)[-20:].sum() / found.kl.sum())
    assert summary.overlap.value == pytest.approx(100 * found.overlap.mean())
    assert probabilities.quantiles(found.kl[:999])[99.9] is None
    assert probabilities.quantiles(found.kl[:1000])[99.9] is not None
    assert probabilities.quantiles(np.array([NAN]))[50] is None


def test_few_classes_have_no_top_five_and_flat_rows_no_rank() -> None:
    z, w = pair(n=20, classes=5)
    w[4] = 1.5
    found = probabilities.distances(z, w)
    assert np.isnan(found.overlap).all()
    assert np.flatnonzero(np.isnan(found.rank)).tolist() == [4]


def test_ranks() -> None:
    scores = np.round(pair(n=30)[0])
    assert probabilities.ranks(scores) == pytest.approx(stats.rankdata(scores, axis=1))
    assert probabilities.ranks(scores.astype(np.float16)) == pytest.approx(stats.rankdata(scores, axis=1))


# groups


def test_corrections() -> None:
    p = np.array([0.01, NAN, 0.04, 0.03, 0.005, 0.5, 0.0004])
    known = np.array([0.04, NAN, 0.09, 0.09, 0.025, 0.5, 0.0024])  # statsmodels, without the NaN
    assert groups.holm(p) == pytest.approx(known, nan_ok=True)
    assert groups.benjamini_hochberg(p)[~np.isnan(p)] == pytest.approx(
        stats.false_discovery_control(p[~np.isnan(p)])
    )
    assert np.isnan(groups.benjamini_hochberg(p)[1])
    assert len(groups.holm(np.array([]))) == 0
    assert groups.holm(np.array([0.6, 0.7])).tolist() == [1, 1]


def right(seed: int = 0, n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of uneven size, and whether each of two models is right; group 2 loses 20 points."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(5, n, p=[0.3, 0.3, 0.2, 0.197, 0.003])
    first = rng.random(n) < 0.9
    second = np.where(rng.random(n) < 0.1, rng.random(n) < 0.9, first)
    second &= ~((ids == 2) & (rng.random(n) < 0.2))
    return ids, first, second


def test_groups_one_by_one() -> None:
    ids, first, second = right()
    ids[:10] = -1
    found = groups.by_group(ids, "abcde", first, second, level=0.9)
    assert [g.name for g in found] == list("abcde")
    known = []
    for place, group in enumerate(found):
        mask = ids == place
        a, b = int((first & second)[mask].sum()), int((first & ~second)[mask].sum())
        c, n = int((second & ~first)[mask].sum()), int(mask.sum())
        assert (group.n, group.lost, group.won) == (n, b, c)
        assert (group.before, group.after) == pytest.approx(
            (100 * first[mask].mean(), 100 * second[mask].mean())
        )
        low, high = newcombe(a, c, b, n - a - b - c, 0.9)
        assert (group.change.value, group.change.low, group.change.high) == pytest.approx(
            (100 * (c - b) / n, 100 * low, 100 * high)
        )
        difference = second.astype(int) - first
        assert group.beyond.value == pytest.approx(
            100 * (difference[mask].mean() - difference[~mask & (ids >= 0)].mean())
        )
        known.append(stats.binomtest(b, b + c).pvalue if b + c else 1.0)
    assert [g.rare for g in found] == [False] * 4 + [True]
    assert [g.p for g in found[:4]] == pytest.approx(known[:4])
    assert math.isnan(found[4].p)
    assert [g.p_bh for g in found[:4]] == pytest.approx(stats.false_discovery_control(known[:4]))
    assert [g.name for g in found if g.pays] == ["c"] == [g.name for g in found if g.pays_more]
    assert found[2].p_holm == pytest.approx(4 * known[2])


def test_a_group_beyond_the_rest_has_an_interval() -> None:
    ids, first, second = right()
    group = groups.by_group(ids, "abcde", first, second)[2]

    def variance(mask: np.ndarray) -> float:
        n, b, c = mask.sum() + 2, (first & ~second)[mask].sum() + 0.5, (second & ~first)[mask].sum() + 0.5
        return (b + c - (b - c) ** 2 / n) / n**2

    half = 100 * stats.norm.ppf(0.975) * math.sqrt(variance(ids == 2) + variance(ids != 2))
    assert group.beyond.high - group.beyond.value == pytest.approx(half)
    (alone,) = groups.by_group(np.zeros(2000, int), "a", first, second)
    assert math.isnan(alone.beyond.value)
    assert not alone.pays_more


def test_losses_that_all_share_are_nobody_s_own() -> None:
    rng = np.random.default_rng(0)
    ids, first = rng.integers(0, 4, 8000), rng.random(8000) < 0.9
    found = groups.by_group(ids, "abcd", first, first & (rng.random(8000) > 0.1))
    assert all(g.pays for g in found)
    assert not any(g.pays_more for g in found)


def test_holm_names_a_group_by_mistake_in_five_percent_at_most() -> None:
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(300):
        ids, first = rng.integers(0, 20, 1500), rng.random(1500) < 0.8
        second = np.where(rng.random(1500) < 0.15, rng.random(1500) < 0.8, first)
        found = groups.by_group(ids, [str(i) for i in range(20)], first, second)
        alarms += any(g.changed for g in found)
    assert alarms <= 15


def test_rare_groups_are_those_that_could_not_show() -> None:
    least = groups.attainable(10)
    assert intervals.mcnemar(least, 0).p * 10 <= 0.05 < intervals.mcnemar(least - 1, 0).p * 10
    assert groups.attainable(1) == 6
    ids = np.repeat(np.arange(10), [least] * 9 + [least - 1])
    found = groups.by_group(ids, "abcdefghij", np.ones(len(ids), bool), np.zeros(len(ids), bool))
    assert [g.rare for g in found] == [False] * 9 + [True]
    assert found[0].detectable == 100
    assert found[0].changed


def test_who_pays() -> None:
    ids = np.repeat(np.arange(4), [1000, 60, 200, 4])
    first = np.ones(len(ids), bool)
    second = first.copy()
    second[:50] = False  # a: 5 points of many
    second[1000:1004] = False  # b: 6.7 points of few
    second[1260:] = False  # d: all of four
    found = groups.who_pays(groups.by_group(ids, "abcd", first, second))
    assert [g.name for g in found] == ["a", "b", "d"]
    assert found[0].change.value > found[1].change.value
    assert newcombe(950, 0, 50, 0, 0.95)[1] < newcombe(56, 0, 4, 0, 0.95)[1]
    assert found[2].rare


def test_groups_by_answer() -> None:
    first = np.repeat([0, 1, 2], [100, 100, 5])
    second = first.copy()
    second[:40] = 1
    second[200] = -1
    found = {a.name: a for a in groups.by_answer(first, second, ["x", "y", "z", "never"])}
    assert list(found) == ["x", "y", "z"]
    assert (found["x"].before, found["x"].after, found["x"].lost, found["x"].won) == (100, 60, 40, 0)
    assert (found["y"].before, found["y"].after, found["y"].lost, found["y"].won) == (100, 140, 0, 40)
    known = stats.binomtest(60, 100).proportion_ci(method="wilson")
    assert (found["x"].kept.value, found["x"].kept.low) == pytest.approx((60, 100 * known.low))
    assert found["x"].p == pytest.approx(2 * 0.5**40)
    assert found["x"].p_holm == pytest.approx(4 * 0.5**40)
    assert found["z"].rare


def test_attributes_are_coded() -> None:
    ids, names = groups.coded(np.array(["b", "a", "b"]))
    assert (ids.tolist(), names) == ([1, 0, 1], ("a", "b"))


# confidence


def test_beliefs_are_those_of_scikit_learn() -> None:
    z, y = waves()
    found = co.beliefs(z, "logits", y)
    assert found.loss.mean() == pytest.approx(2.73322149941643)  # log_loss
    assert found.brier.mean() == pytest.approx(1.1505005777159243)  # brier_score_loss(scale_by_half=False)
    assert found.right.mean() == 0.25  # accuracy_score
    assert found.confidence == pytest.approx(softmax(z).max(axis=1))
    same = co.beliefs(softmax(z), "probabilities", y)
    assert (same.loss, same.brier) == (pytest.approx(found.loss), pytest.approx(found.brier))


def test_beliefs_without_label_or_numbers() -> None:
    z, y = waves()
    z[2, 1], y[3] = NAN, -1
    found = co.beliefs(z, "logits", y)
    assert np.flatnonzero(~found.known).tolist() == [2, 3] == np.flatnonzero(np.isnan(found.loss)).tolist()
    assert not found.right[[2, 3]].any()
    assert math.isnan(found.confidence[2])
    assert found.confidence[3] > 0
    assert not co.beliefs(z, "logits").known.any()
    with pytest.raises(UserError, match="labels: 4"):
        co.beliefs(z, "logits", np.full(12, 4))


def test_calibration_error_is_that_of_metrics() -> None:
    z, _ = pair(n=1000)
    y = np.random.default_rng(0).integers(0, 12, 1000)
    found = co.beliefs(z, "logits", y)
    logs = torch.log_softmax(torch.tensor(z).double(), dim=1)
    assert co.calibration_error(found.confidence, found.right) == pytest.approx(
        metrics.calibration_error(logs, torch.tensor(y))
    )
    assert found.loss.mean() == pytest.approx(
        metrics.negative_log_likelihood(logs, torch.tensor(y)), abs=1e-6
    )
    assert math.isnan(co.calibration_error(np.array([]), np.array([], bool)))


def test_bins_hold_their_upper_end() -> None:
    confidence, hits = np.array([0.5, 0.6]), np.array([True, False])
    assert co.calibration_error(confidence, hits, bins=2) == pytest.approx(55)


def test_adaptive_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence, hits = rng.random(1007), rng.random(1007) < 0.6
    order = np.argsort(confidence)
    known = sum(
        abs(confidence[part].mean() - hits[part].mean()) * len(part) / 1007
        for part in np.array_split(order, 15)
    )
    assert co.adaptive_calibration_error(confidence, hits) == pytest.approx(100 * known)
    mixed = rng.permutation(1007)
    tied = np.round(confidence, 1)
    assert co.adaptive_calibration_error(tied, hits) == pytest.approx(
        co.adaptive_calibration_error(tied[mixed], hits[mixed])
    )
    assert co.adaptive_calibration_error(np.array([0.7]), np.array([True])) == pytest.approx(30)


def test_selective_accuracy() -> None:
    confidence, hits = np.array([0.9, 0.5, 0.5, 0.5, 0.2]), np.array([True, True, False, False, False])
    found = co.selective_accuracy(confidence, hits, (100, 60, 40, 20, 1))
    assert found == pytest.approx(
        {100: 40, 60: 100 * (1 + 2 / 3) / 3, 40: 100 * (1 + 1 / 3) / 2, 20: 100, 1: 100}
    )
    assert math.isnan(co.selective_accuracy(np.array([]), np.array([], bool), (50,))[50])


def test_thresholds() -> None:
    z, w = pair(n=300)
    y = np.random.default_rng(0).integers(0, 12, 300)
    y[:20] = -1
    first, second = co.beliefs(z, "logits", y), co.beliefs(w, "logits", y)
    for found in co.thresholds(first, second):
        for side, scores in ((found.before, z), (found.after, w)):
            p = softmax(scores[20:])
            kept = p.max(axis=1) >= found.threshold
            wrong = p.argmax(axis=1)[kept] != y[20:][kept]
            assert side.coverage.value == pytest.approx(100 * kept.mean())
            assert side.error is not None
            assert side.error.value == pytest.approx(100 * wrong.mean())
            known = stats.binomtest(int(wrong.sum()), int(kept.sum())).proportion_ci(method="wilson")
            assert side.error.high == pytest.approx(100 * known.high)
        one, two = (softmax(s[20:]).max(axis=1) >= found.threshold for s in (w, z))
        low, high = newcombe(
            (one & two).sum(), (one & ~two).sum(), (two & ~one).sum(), (~one & ~two).sum(), 0.95
        )
        assert (found.coverage_change.low, found.coverage_change.high) == pytest.approx(
            (100 * low, 100 * high)
        )
        assert found.coverage_change.value == pytest.approx(
            found.after.coverage.value - found.before.coverage.value
        )
    bare = co.thresholds(first, second, labelled=False)
    assert bare[0].before.error is None
    assert bare[0].before.coverage.n == 300


def test_temperature_is_the_best_one() -> None:
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(4000, 10))
    y = np.array([rng.choice(10, p=row) for row in softmax(z)])

    def loss(b: float) -> float:
        return float(-special.log_softmax(b * 3 * z, axis=1)[np.arange(4000), y].mean())

    best = optimize.minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10}).x
    assert co.best_inverse(3 * z, y) == pytest.approx(best, rel=1e-5)
    found = co.fitted_temperature(3 * z, y)
    assert found is not None
    assert found.value == pytest.approx(3, rel=0.05)
    assert (found.fitted_on, found.n) == (2000, 2000)
    held = np.random.default_rng(0).permutation(4000)[2000:]
    losses = -special.log_softmax(3 * z[held], axis=1)[np.arange(2000), y[held]]
    assert found.loss_before == pytest.approx(losses.mean())
    assert found.loss_after < found.loss_before
    assert found.error_after < 3 < found.error_before


def test_temperature_where_there_is_none() -> None:
    z, y = waves()
    with pytest.raises(UserError, match="these are probabilities"):
        co.fitted_temperature(softmax(z), y)
    assert co.fitted_temperature(z, np.full(12, -1)) is None
    sure = co.fitted_temperature(10 * np.eye(4)[y], y)
    assert sure is not None
    assert sure.at_bound
    assert sure.value == pytest.approx(0.01)


# gallery


def test_flips_worst_first() -> None:
    confidence = np.linspace(0.1, 0.9, 9)
    other = np.array([0.5, 0.5, 0.9, 0.8, 0.9, 0.5, NAN, NAN, 0.5])
    found = gallery.flips(
        an.changes(REFERENCE, OTHER, LABELS), (REFERENCE, confidence), (OTHER, other), LABELS
    )
    assert [f.row for f in found] == [7, 1, 4, 3, 8, 5, 2]
    assert [f.kind for f in found] == [
        *["right to wrong"] * 2,
        *["wrong to another wrong"] * 2,
        "unlabelled",
        *["wrong to right"] * 2,
    ]
    worst = found[0]
    assert (worst.id, worst.label, worst.reference, worst.other) == ("7", 2, 2, -1)
    assert worst.weight == pytest.approx(0.8)
    assert math.isnan(worst.other_confidence)
    assert found[1].weight == pytest.approx(0.2 * 0.5)
    named = gallery.flips(
        an.changes(REFERENCE, OTHER), (REFERENCE, confidence), (OTHER, other), ids=list("abcdefghi"), most=2
    )
    assert [f.id for f in named] == ["h", "f"]
    assert {f.label for f in named} == {-1}
    assert not gallery.flips(
        an.changes(REFERENCE, REFERENCE), (REFERENCE, confidence), (REFERENCE, confidence)
    )
