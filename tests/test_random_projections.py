"""Random separators and projections, a read-out by ridge regression, forests as tensors, against closed forms."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linprog, minimize_scalar
from scipy.spatial.distance import pdist

from cases_report import accuracies, record
from compressbench import separating
from compressbench.bench import Bench
from compressbench.checking.probes import check_probe
from compressbench.checking.states import check_stage
from compressbench.data.dataset import Dataset, Split
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.draw import drawn
from compressbench.models.forest import LEAST, Forest
from compressbench.models.representation import represented
from compressbench.probes.accuracy import Accuracy
from compressbench.probes.cost import Cost
from compressbench.probes.parts import Parts
from compressbench.probes.projected_pairs import ProjectedPairs
from compressbench.probes.random_separators import RandomSeparators
from compressbench.probes.structure import Structure
from compressbench.records import Records
from compressbench.report import drawing
from compressbench.report.panels import panels
from compressbench.report.sections import accuracy as accuracy_section
from compressbench.report.sections import projections
from compressbench.report.sections.others import leftover_tables
from compressbench.runs.flags import with_density
from compressbench.seeds import derive_seed
from compressbench.stages import fit
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Quantize
from compressbench.state import State
from compressbench.training import growing, readout
from compressbench.views import View

WITHOUT = "scikit-learn isn't installed: pip install 'compressbench[lecture]'"
RandomForestClassifier = pytest.importorskip("sklearn.ensemble", reason=WITHOUT).RandomForestClassifier
Theirs = pytest.importorskip("sklearn.linear_model", reason=WITHOUT).Ridge
johnson_lindenstrauss_min_dim = pytest.importorskip(
    "sklearn.random_projection", reason=WITHOUT
).johnson_lindenstrauss_min_dim
SVC = pytest.importorskip("sklearn.svm", reason=WITHOUT).SVC

MAGNITUDE = {"_target_": "compressbench.criteria.magnitude.magnitude", "_partial_": True}
NARROW = {
    "name": "random_features",
    "build": {
        "_target_": "compressbench.models.lenet.LeNet300100",
        "shape": "@shape",
        "classes": "@classes",
        "hidden": [40],
        "init": {"_target_": "torch.nn.init.kaiming_normal_", "_partial_": True},
    },
}


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# separators


@pytest.mark.parametrize(
    ("one", "other", "margin"),
    [
        ([[0.0], [1.0]], [[3.0], [5.0]], 1.0),  # the gap is 2, half of it is on either side
        ([[3.0], [5.0]], [[0.0], [1.0]], 1.0),
        ([[0.0], [4.0]], [[3.0], [5.0]], 0.0),
        ([[1.0]], [[1.0]], 0.0),
        ([[0.0, 0.0], [0.0, 4.0]], [[2.0, 1.0], [3.0, 9.0]], 1.0),  # a corner against an edge
        ([[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]], 0.0),  # XOR
    ],
)
def test_margins_that_can_be_seen(one: list, other: list, margin: float) -> None:
    for size in (1e-6, 1.0, 1e6):
        found = separating.widest(size * np.array(one), size * np.array(other))
        assert found == pytest.approx(size * margin, rel=1e-6, abs=1e-12 * size)


@pytest.mark.parametrize(("n", "d", "apart"), [(20, 2, 5.0), (60, 40, 0.0), (40, 100, 0.0), (60, 3, 6.0)])
def test_the_widest_margin_is_that_of_a_support_vector_machine(n: int, d: int, apart: float) -> None:
    for seed in range(3):
        points = random(seed).normal(size=(n, d))
        second = np.arange(n) >= n // 2
        points[second, 0] += apart
        machine = SVC(kernel="linear", C=1e8, tol=1e-9).fit(points, second)
        wanted = 1 / np.linalg.norm(machine.coef_) if machine.score(points, second) == 1 else 0.0
        assert separating.widest(points[~second], points[second]) == pytest.approx(wanted, rel=1e-4)


def test_what_separates_is_what_a_linear_program_finds_and_as_often_as_cover_says() -> None:
    """Points in general position labelled by coins: the chance is known exactly."""
    source, n, d, draws, hits = random(1), 12, 4, 400, 0
    for _ in range(draws):
        points, second = source.normal(size=(n, d)), source.integers(0, 2, n).astype(bool)
        if second.all() or not second.any():
            hits += 1
            continue
        found = separating.widest(points[~second], points[second]) > 0
        sides = np.where(second, -1.0, 1.0)[:, None] * np.c_[points, np.ones(n)]
        program = linprog(np.zeros(d + 1), A_ub=-sides, b_ub=-np.ones(n), bounds=(None, None))
        assert found == (program.status == 0)
        hits += found
    assert stats.binomtest(hits, draws, separating.by_chance(n, d)).pvalue > 0.01


def test_chance_by_counting() -> None:
    assert separating.by_chance(4, 2) == 14 / 16, "all dichotomies of a square's corners but the two of XOR"
    assert separating.by_chance(3, 1) == 6 / 8, "of three points on a line the middle one can't be alone"
    assert [separating.by_chance(2 * (d + 1), d) for d in (1, 5, 30)] == [0.5] * 3
    assert [separating.by_chance(d + 1, d) for d in (1, 7, 200)] == [1.0] * 3


def test_the_best_cut_is_the_best_of_all_cuts() -> None:
    source = random(2)
    values = source.integers(0, 6, (15, 30)).astype(float)  # with many ties
    second = source.integers(0, 2, 15).astype(bool)
    wanted = []
    for column in values.T:
        cuts = [column > t for t in np.r_[-1.0, np.unique(column)]]
        wanted.append(min(min((c != second).mean(), (c == second).mean()) for c in cuts))
    np.testing.assert_allclose(separating.least_error(values, second), wanted)


@pytest.mark.parametrize("height", [0.5, 1.0, 2.0])
def test_a_random_direction_separates_a_rectangle_as_often_as_its_angle_says(height: float) -> None:
    """Corners (+-1, +-h), left against right: separated where |cos| > h |sin|, with probability 2/pi arctan(1/h)."""
    corners = np.array([[1, height], [1, -height], [-1, height], [-1, -height]])
    second, draws = np.array([0, 0, 1, 1], bool), 3000
    errors = separating.least_error(corners @ random(3).normal(size=(2, draws)), second)
    chance = 2 / np.pi * np.arctan(1 / height)
    assert stats.binomtest(int((errors == 0).sum()), draws, chance).pvalue > 0.01


def test_a_random_direction_nearly_separates_blobs_as_often_as_a_normal_distribution_says() -> None:
    """Means +-m on one axis, unit variance: a direction at angle t errs on Phi(-m |cos t|); in 2 d t is uniform."""
    m, error, draws, n = 3.0, 0.05, 600, 4000
    source = random(4)
    second = np.arange(n) >= n // 2
    points = source.normal(size=(n, 2))
    points[:, 0] += np.where(second, m, -m)
    found = separating.least_error(points @ source.normal(size=(2, draws)), second) <= error
    chance = 2 / np.pi * np.arccos(stats.norm.ppf(1 - error) / m)
    assert found.mean() == pytest.approx(chance, abs=0.06)


def test_features_have_the_inner_products_of_their_limit() -> None:
    source = random(5)
    points = source.normal(size=(6, 4))
    features = separating.relu_features(points, source.normal(size=(4, 200_000)))
    limit = separating.relu_limit(points)
    np.testing.assert_allclose(features @ features.T, limit @ limit.T, atol=0.03 * (points**2).sum(1).max())
    exact = separating.relu_limit(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [2.0, 0.0]]))
    wanted = [[1 / 2, 1 / (2 * np.pi), 0, 1], [1 / (2 * np.pi), 1 / 2, 1 / (2 * np.pi), 1 / np.pi]]
    np.testing.assert_allclose((exact @ exact.T)[:2], wanted, atol=1e-7)


@pytest.mark.parametrize(("n", "d"), [(30, 5), (10, 40)])
def test_least_squares_finds_the_direction_that_another_library_does(n: int, d: int) -> None:
    source = random(6)
    features, second = source.normal(size=(n, d)), source.integers(0, 2, n).astype(bool)
    size = 1e-6 * ((features - features.mean(0)) ** 2).sum() / min(n, d)
    wanted = Theirs(alpha=size).fit(features, second.astype(float)).coef_
    np.testing.assert_allclose(separating.fitted_direction(features, second), wanted, rtol=1e-5, atol=1e-9)


# projections


def test_the_lemma_s_dimensions() -> None:
    assert separating.enough_dimensions(200, 0.2) == 1223  # 4 ln 200 / (0.02 - 0.008 / 3) = 1222.7
    for n, e in ((50, 0.1), (1000, 0.3), (10_000, 0.5)):
        assert separating.enough_dimensions(n, e) - johnson_lindenstrauss_min_dim(n, eps=e) in (0, 1)


def test_the_expected_share_is_chi_squared_s() -> None:
    for k in (1, 8, 784):
        wanted = stats.chi2.cdf(1.44 * k, k) - stats.chi2.cdf(0.64 * k, k)
        assert separating.expected_share(k, 0.64, 1.44) == pytest.approx(wanted, rel=1e-9)


def test_ratios_of_squared_distances() -> None:
    points, directions = random(7).normal(size=(9, 5)), random(8).normal(size=(5, 5))
    points[3] = points[7]  # one pair at one place
    before = pdist(points) ** 2
    found = separating.squared_ratios(points, directions, (1, 3, 5))
    for k, ratios in zip((1, 3, 5), found, strict=True):
        after = pdist(points @ directions[:, :k] / np.sqrt(k)) ** 2
        np.testing.assert_allclose(
            ratios, (after / np.where(before > 0, before, 1))[before > 1e-9], rtol=1e-9
        )
        assert len(ratios) == 35


# the probes of them


def planted(images: np.ndarray, labels: np.ndarray, digits: Dataset) -> Bench:
    """A bench whose training examples are 8 x 8 pictures of one grey each."""
    pixels = np.broadcast_to(images[:, None, None, None], (len(images), 1, 8, 8)).astype(np.uint8).copy()
    train = Split.of(pixels, labels)
    return Bench(dataclasses.replace(digits, splits={**digits.splits, "train": train}), 0, name="probe x")


def views(bench: Bench) -> tuple[View, View]:
    state = drawn(NARROW, dataclasses.replace(bench, name="init"))
    return View(state, bench), View(state, bench)


SMALL = RandomSeparators(dimensions=(1, 3, 20), draws=12, examples=10)


def test_black_against_white_is_separated_by_every_feature(digits: Dataset) -> None:
    """Encoded they lie on opposite sides of 0, so that a feature is 0 on the one and above 0 on the other."""
    labels = np.arange(40) % 2
    bench = planted(255 * labels, labels, digits)
    found = {(m.name, m.group): m for m in SMALL.measure(*views(bench), bench)}
    for name in ("one", "best", "near", "all"):
        for d in (1, 3, 20):
            assert found[f"separator_{name}", str(d)].value == 100, (name, d)
    low = stats.binomtest(12, 12).proportion_ci(method="wilson").low
    assert found["separator_all_low", "3"].value == pytest.approx(100 * low)
    assert found["separator_all", "3"].n == 12
    # squared, the margin is a mean of D squares of standard normals, each times a constant; a quarter of that is wanted
    assert 20 < (found["separator_margin", "1"].value or 0) < 100
    assert found["separator_margin", "20"].value == 100


def test_a_margin_may_be_missing_by_the_share_that_is_said(digits: Dataset) -> None:
    labels = np.arange(40) % 2
    bench = planted(255 * labels, labels, digits)
    found = []
    for missing in (0.95, 0.05):
        probe = RandomSeparators(dimensions=(1,), draws=60, examples=10, margin=missing)
        told = {m.name: m for m in probe.measure(*views(bench), bench)}["separator_margin"]
        assert told.note.startswith(f"{100 * (1 - missing):g} % of the limit's margin")
        found.append(round((told.value or 0) * 60 / 100))
    # one feature's squared margin over its mean is z^2 2 a^2 / (a^2 + b^2), z standard normal, a the length of the side
    # that is not 0; the two greys have the lengths a and b, and each is that side half the time
    white, black = (abs(float(digits.task.encode(e)[0].mean())) for e in _greys(digits))
    for missing, hits in zip((0.95, 0.05), found, strict=True):
        sides = [np.sqrt((white**2 + black**2) / (2 * own**2)) * (1 - missing) for own in (white, black)]
        chance = np.mean([2 * stats.norm.sf(side) for side in sides])
        assert stats.binomtest(hits, 60, chance).pvalue > 0.01


def _greys(digits: Dataset) -> list:
    ends = np.array([255, 0], np.uint8)
    pixels = np.broadcast_to(ends[:, None, None, None], (2, 1, 8, 8)).copy()
    both = Split.of(pixels, np.array([0, 0])).to("cpu")
    return [both.take(slice(k, k + 1)) for k in (0, 1)]


def test_what_both_classes_look_like_is_separated_by_nothing(digits: Dataset) -> None:
    bench = planted(np.full(40, 200), np.arange(40) % 2, digits)
    for m in SMALL.measure(*views(bench), bench):
        if m.name in {f"separator_{n}" for n in ("one", "best", "near", "all", "margin")}:
            assert m.value == 0, (m.name, m.group)


def test_an_error_that_is_allowed_is_allowed(digits: Dataset) -> None:
    """One of twenty has the other class's grey: no cut errs on fewer, and each feature's best one on no more."""
    labels = np.arange(20) % 2
    grey = 255 * labels
    grey[0] = 255  # all ten of class 0 are drawn, as examples is all there are
    bench = planted(grey, labels, digits)
    for error, wanted in ((0.04, 0), (0.05, 100)):
        probe = RandomSeparators(dimensions=(1, 8), draws=3, examples=20, error=error)
        found = {(m.name, m.group): m.value for m in probe.measure(*views(bench), bench)}
        for name in ("one", "best", "near"):
            assert found[f"separator_{name}", "8"] == wanted, (name, error)
        assert found["separator_all", "8"] == 0


def test_a_single_feature_is_a_combination_too(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same greys, and a least squares that finds nothing."""
    labels = np.arange(20) % 2
    grey = 255 * labels
    grey[0] = 255
    bench = planted(grey, labels, digits)
    monkeypatch.setattr(separating, "fitted_direction", lambda features, _: np.zeros(features.shape[1]))
    probe = RandomSeparators(dimensions=(8,), draws=2, examples=20)
    found = {m.name: m.value for m in probe.measure(*views(bench), bench)}
    assert (found["separator_best"], found["separator_near"]) == (100, 100)


def test_more_features_separate_more_often(digits: Dataset) -> None:
    bench = Bench(digits, 0, name="probe x")
    probe = RandomSeparators(dimensions=(1, 64), draws=10, examples=40, classes=("3", "8"))
    found = {(m.name, m.group): m.value for m in probe.measure(*views(bench), bench)}
    assert found["separator_all", "1"] == 0
    assert found["separator_all", "64"] == 100
    assert found["separator_by_chance", "64"] == 100


def test_projections_keep_as_many_pairs_as_expected(digits: Dataset) -> None:
    bench = Bench(digits, 0, name="probe x")
    probe = ProjectedPairs(dimensions=(2, 16, 64), draws=30, examples=60)
    found = {
        (m.name, m.group): m for m in check_probe(probe, views(bench)[0].state, views(bench)[1].state, bench)
    }
    for k in (2, 16, 64):
        wanted = stats.chi2.cdf(1.44 * k, k) - stats.chi2.cdf(0.64 * k, k)
        assert found["pairs_expected", str(k)].value == pytest.approx(100 * wanted)
        assert found["pairs_kept", str(k)].value == pytest.approx(100 * wanted, abs=4)
        squares = stats.chi2.cdf(1.2 * k, k) - stats.chi2.cdf(0.8 * k, k)
        assert found["squares_kept", str(k)].value == pytest.approx(100 * squares, abs=4)
    assert found["pairs_kept", "2"].n == 30, "pairs of one draw hang together"
    assert found["all_pairs_kept", "2"].value == 0
    assert found["enough_dimensions", ""].value == 945  # 4 ln 60 / (0.02 - 0.008 / 3)
    assert "above the data's 64" in found["enough_dimensions", ""].note
    assert found["enough_dimensions_pairs", ""].value == 333  # the same of 0.36


def test_a_wide_enough_projection_keeps_all_pairs_at_once(digits: Dataset) -> None:
    """Of two examples there is one pair, which 64 dimensions keep within a half with probability 0.996."""
    bench = Bench(digits, 0, name="probe x")
    probe = ProjectedPairs(dimensions=(64,), draws=40, examples=2, within=0.5)
    found = {m.name: m.value for m in probe.measure(*views(bench), bench)}
    assert (found["all_pairs_kept"] or 0) >= 95
    assert found["squares_kept"] == found["all_pairs_kept"]


def test_of_examples_that_are_alike_there_is_no_distance(digits: Dataset) -> None:
    bench = planted(np.full(40, 200), np.arange(40) % 2, digits)
    (found,) = ProjectedPairs(dimensions=(2,), examples=5).measure(*views(bench), bench)
    assert (found.value, found.note) == (None, "all the examples are alike")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"dimensions": (8, 65)}, "dimensions: 65 is above the 64 dimensions of digits's examples"),
        ({"examples": 5000}, "examples is 5000, and digits has 900 for training"),
        ({"dimensions": (8, 4)}, "don't rise"),
        ({"dimensions": (0, 4)}, "0 is no whole number of 1 or more"),
        ({"dimensions": ()}, "at least one is needed"),
        ({"within": 1.0}, "within is 1.0, must be a share"),
        ({"draws": 0}, "draws is 0"),
        ({"examples": 1}, "examples is 1, must be 2 or more"),
    ],
)
def test_pairs_refused(settings: dict, line: str, digits: Dataset) -> None:
    with pytest.raises(UserError, match=line) as caught:
        ProjectedPairs(**settings).check(digits)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"classes": (0, 10)}, "there is no class 10; 0 to 9"),
        ({"classes": (3, 3)}, "two different ones"),
        ({"examples": 1000}, "half of each class, and 0 has"),
        ({"examples": 7}, "must be even"),
        ({"dimensions": (True,)}, "no whole number"),
        ({"error": 0.5}, "error is 0.5"),
        ({"margin": 0}, "margin is 0"),
        ({"draws": 0}, "draws is 0"),
    ],
)
def test_separators_refused(settings: dict, line: str, digits: Dataset) -> None:
    with pytest.raises(UserError, match=line) as caught:
        RandomSeparators(**settings).check(digits)
    assert "\n" not in str(caught.value)


# ridge


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("penalty", [1e-6, 0.1])
def test_ridge_is_another_library_s(penalty: float, intercept: bool) -> None:
    source = random(9)
    rows = source.normal(2.0, 3.0, size=(50, 8))
    labels = source.integers(0, 3, 50)
    parts = [(torch.tensor(rows[a:b]), torch.tensor(labels[a:b])) for a, b in ((0, 20), (20, 50))]
    moments = readout.moments_of(iter(parts), 3)
    weight, bias = readout.ridge(moments, penalty, intercept)
    size = rows.var(axis=0).mean() if intercept else (rows**2).mean()
    theirs = Theirs(alpha=50 * penalty * size, fit_intercept=intercept).fit(rows, np.eye(3)[labels])
    np.testing.assert_allclose(weight, theirs.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(bias, theirs.intercept_ if intercept else np.zeros(3), rtol=1e-7, atol=1e-9)


def test_features_that_never_vary_leave_the_share_of_each_class() -> None:
    rows, labels = torch.zeros(10, 2, dtype=torch.float64), torch.tensor([0] * 7 + [1] * 3)
    weight, bias = readout.ridge(readout.moments_of(iter([(rows, labels)]), 2), 0.1)
    assert not weight.any()
    assert bias.tolist() == pytest.approx([0.7, 0.3])


def test_the_factor_has_the_least_likelihood_loss() -> None:
    found = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = (found + torch.randn(found.shape, generator=torch.Generator().manual_seed(1))).argmax(1)

    def loss(factor: float) -> float:
        return float(torch.nn.functional.cross_entropy(factor * found, labels))

    wanted = minimize_scalar(loss, bounds=(0, 20), method="bounded", options={"xatol": 1e-9}).x
    assert readout.sharpened(found, labels) == pytest.approx(wanted, rel=1e-4)
    assert readout.sharpened(found, found.argmax(1)) == pytest.approx(readout.SHARPEST)


@pytest.fixture(scope="module")
def ground(digits: Dataset) -> tuple[Bench, State]:
    bench = Bench(digits, 0, name="draw")
    return bench, drawn(NARROW, bench)


def test_the_read_out_alone_is_fitted(ground: tuple[Bench, State], tmp_path: Path) -> None:
    bench, state = ground
    after = check_stage(fit.Ridge(), state, dataclasses.replace(bench, name="fit"), tmp_path)
    for name, weight in state.weights.items():
        assert torch.equal(weight, after.weights[name]) == (not name.startswith("fc.")), name
    train, held = (bench.dataset.split(s).to("cpu") for s in ("train", "validation"))
    rows, beside = (
        represented(module_of(state), bench.task.encode(part), "fc").detach().numpy().astype("f8")
        for part in (train, held)
    )
    size, right = len(rows) * rows.var(axis=0).mean(), {}
    for penalty in fit.Ridge().penalties:
        theirs = Theirs(alpha=penalty * size).fit(rows, np.eye(10)[train.labels.numpy()])
        right[penalty] = int((theirs.predict(beside).argmax(1) == held.labels.numpy()).sum())
    told = after.facts["readout"]
    best = max(right.values())
    assert told["penalty"] == max(p for p, count in right.items() if count == best)
    assert told["validation_top1"] == pytest.approx(100 * best / len(held))
    answers = module_of(after)(*bench.task.encode(held)).argmax(1)
    assert int((answers == held.labels).sum()) == best, "the factor changes no answer"
    assert told["features"] == 40
    # 900 + 100 forwards; Gram matrix, cross products; 7 factorisations and solutions
    solved = 900 * 40 * 41 // 2 + 900 * 40 * 10 + 7 * (40**3 // 3 + 2 * 40**2 * 10)
    assert after.facts["macs"] == 1000 * (64 * 40 + 40 * 10) + solved
    assert after.facts["examples"] == 900


def test_a_read_out_refused(ground: tuple[Bench, State]) -> None:
    bench, state = ground
    pruned = Prune(MAGNITUDE, 0.5).apply(state, bench)
    rounded = Quantize(weights=8).apply(state, bench)
    whole = dataclasses.replace(
        bench.dataset, splits={k: v for k, v in bench.dataset.splits.items() if k != "validation"}
    )
    cases = [
        (pruned, bench, "fc is pruned, and a fit would fill its zeros"),
        (rounded, bench, "is quantized; fit its read-out before"),
        (state, Bench(whole, 0, name="fit"), "none are held out; set dataset.validation=0.1"),
        (growing.grown(bench, fit.Forest(1)), bench, "no single linear layer"),
    ]
    for before, place, line in cases:
        with pytest.raises(UserError, match=line):
            fit.Ridge().apply(before, place)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: fit.Ridge(penalties=()), "at least one"),
        (lambda: fit.Ridge(penalties=(0.1, 0.0)), "0.0 is not above 0"),
        (lambda: fit.Forest(0), "trees: 0 is below 1"),
        (lambda: fit.Forest(2, depth=0), "depth: 0 is below 1"),
        (lambda: Forest(4, 2, 1, 0, 1, 1), "nodes must be a whole number of 1 or more; got 0"),
    ],
)
def test_settings_refused(make, line: str) -> None:
    with pytest.raises(UserError, match=line):
        make()


# forests


@pytest.mark.parametrize("given", [{}, {"depth": 3}, {"least": 5}])
def test_a_forest_answers_as_the_one_it_was_grown_as(given: dict, digits: Dataset, tmp_path: Path) -> None:
    bench = Bench(digits, 3, name="grow")
    state = check_stage(fit.Forest(4, **given), None, bench, tmp_path)
    x, y, test = (
        digits.task.encode(digits.split("train").to("cpu"))[0].flatten(1).numpy(),
        digits.split("train").labels,
        digits.task.encode(digits.split("test").to("cpu"))[0],
    )
    theirs = RandomForestClassifier(
        4,
        max_depth=given.get("depth"),
        min_samples_leaf=given.get("least", 1),
        random_state=derive_seed(3, "forest", "forest") % 2**32,
    ).fit(x, y)
    module = module_of(state)
    assert isinstance(module, Forest)
    wanted = theirs.predict_proba(test.flatten(1).numpy())
    np.testing.assert_allclose(module.probabilities(test).detach(), wanted, atol=1e-12)
    np.testing.assert_allclose(module(test).softmax(1).detach(), wanted, atol=1e-5)
    assert float(module(test).detach().min()) >= np.log(LEAST) - 1e-5
    assert module.depth == max(t.tree_.max_depth for t in theirs.estimators_)


def test_a_tree_made_by_hand() -> None:
    """Input 1 at most 2 goes left, to the shares 0.25 and 0.75; else right, where input 0 at most -1 is class 0."""
    module = Forest(2, 2, 1, 5, 3, 2)
    tensors = {
        "root": [0], "left": [1, 1, 3, 3, 4], "right": [2, 1, 4, 3, 4], "feature": [1, 0, 0, 0, 0],
        "leaf": [0, 0, 0, 1, 2], "threshold": [2.0, 0, -1.0, 0, 0], "share": [0.25, 0.75, 1.0, 0.0, 0.0, 1.0],
    }  # fmt: skip
    own = module.state_dict()
    module.load_state_dict({k: torch.tensor(v).to(own[k].dtype) for k, v in tensors.items()})
    x = torch.tensor([[5.0, 2.0], [5.0, 1.0], [-1.0, 3.0], [-0.9, 3.0]])
    assert module.probabilities(x).tolist() == [[0.25, 0.75], [0.25, 0.75], [1, 0], [0, 1]]


def test_a_smaller_forest_is_the_beginning_of_a_larger_one(digits: Dataset) -> None:
    few, more = (growing.grown(Bench(digits, 0, name=f"grow{n}"), fit.Forest(n)) for n in (2, 5))
    other = growing.grown(Bench(digits, 0, name="grow2"), fit.Forest(2, draw="another"))
    n = len(few.weights["left"])
    for name in ("left", "right", "feature", "threshold"):
        assert torch.equal(few.weights[name], more.weights[name][:n])
    assert len(other.weights["left"]) != n or not torch.equal(other.weights["left"], few.weights["left"])


def test_a_class_that_no_training_example_has_gets_no_share(digits: Dataset) -> None:
    train = digits.split("train")
    seen = train.take(np.flatnonzero(train.labels != 4))
    bench = Bench(dataclasses.replace(digits, splits={**digits.splits, "train": seen}), 0, name="grow")
    module = module_of(growing.grown(bench, fit.Forest(3)))
    assert isinstance(module, Forest)
    test = digits.split("test").to("cpu")
    found = module.probabilities(digits.task.encode(test)[0])
    assert not found[:, 4].any()
    right = (found.argmax(1) == test.labels).double()
    assert float(right[test.labels == 5].mean()) > 0.4, "columns after the missing one are not moved"


def test_probes_measure_a_forest(ground: tuple[Bench, State]) -> None:
    bench, state = ground
    forest = growing.grown(bench, fit.Forest(3))
    train, test = (bench.dataset.split(s).to("cpu") for s in ("train", "test"))
    theirs = RandomForestClassifier(3, random_state=derive_seed(0, "forest", "forest") % 2**32).fit(
        bench.task.encode(train)[0].flatten(1).numpy(), train.labels.numpy()
    )
    score = theirs.score(bench.task.encode(test)[0].flatten(1).numpy(), test.labels.numpy())
    found = {
        m.name: m
        for p in (Accuracy(), Structure(), Cost(), Parts())
        for m in check_probe(p, forest, state, bench)
    }
    assert found["top1"].value == pytest.approx(100 * score)
    nodes = sum(t.tree_.node_count for t in theirs.estimators_)
    leaves = sum(t.tree_.n_leaves for t in theirs.estimators_)
    assert (found["trees"].value, found["nodes"].value) == (3, nodes)
    assert found["parameters"].value == nodes + 10 * leaves
    assert found["macs"].value == 0
    for name in ("density", "weight_bits"):
        assert (found[name].value, found[name].note) == (None, "there are none")
    assert {m.name: m.value for m in check_probe(Parts(), state, state, bench)} == {"features": 40}


def test_density_of_what_has_no_weights(digits: Dataset) -> None:
    forest = growing.grown(Bench(digits, 0, name="grow"), fit.Forest(1))
    assert with_density(forest).facts["density"] == 1
    assert with_density(forest.with_facts(density=0.3)).facts["density"] == 1


@pytest.mark.parametrize(
    ("name", "value"), [("left", 10**6), ("right", -1), ("feature", 64), ("leaf", 10**6), ("root", -5)]
)
def test_a_damaged_forest_is_refused(name: str, value: int, digits: Dataset) -> None:
    state = growing.grown(Bench(digits, 0, name="grow"), fit.Forest(2))
    harmed = state.weights[name].clone()
    harmed[0] = value
    with pytest.raises(UserError, match=f"the stored forest is damaged: {name} points outside 0"):
        module_of(state.with_groups(weights={**state.weights, name: harmed}))


def test_without_scikit_learn_the_extra_is_named(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(
        UserError, match=r"scikit-learn isn't installed.*pip install 'compressbench\[lecture\]'"
    ):
        fit.Forest(1).apply(None, Bench(digits, 0, name="grow"))


# the report


def told(**given) -> list:
    return [record(moment="geometry", **given)]


def test_draws_of_all_seeds_are_counted_together() -> None:
    rows = []
    for seed, (value, n) in enumerate(((20.0, 10), (60.0, 30))):
        rows += told(
            probe="random_separators", metric="separator_one", group="8", seed=seed, value=value, n=n
        )
    (found,) = projections.shares(rows, counted=True)
    wanted = stats.binomtest(20, 40).proportion_ci(method="wilson")
    assert (found.dimension, found.n, found.value) == (8, 40, 50.0)
    assert (found.low, found.high) == (pytest.approx(100 * wanted.low), pytest.approx(100 * wanted.high))
    (mean,) = projections.shares(rows, counted=False)
    assert (mean.value, mean.high - mean.value) == (40.0, pytest.approx(np.std([20, 60], ddof=1)))


@pytest.fixture
def rows() -> Records:
    found = accuracies("dense", 0, 1.0, {0: 95.0, 1: 96.0})
    for order, (features, value) in enumerate(((8, 45.0), (64, 90.0), (512, 97.0)), 1):
        at = {"series": "drawn", "order": order, "compute": 10.0**order}
        found += accuracies("drawn", order, 1.0, {0: value, 1: value + 1}, compute=10.0**order)
        found += [
            record(**at, seed=s, probe="parts", metric="features", value=features, unit="1") for s in (0, 1)
        ]
    for order, trees in enumerate((1, 5), 1):
        found += accuracies("forest", order, 1.0, {0: 70.0 + trees, 1: 72.0 + trees}, compute=0.0)
        at = {"series": "forest", "order": order, "compute": 0.0}
        found += [record(**at, seed=s, probe="parts", metric="trees", value=trees, unit="1") for s in (0, 1)]
    for seed in (0, 1):
        for d, share in ((1, 0.0), (32, 50.0), (1024, 100.0)):
            for name in (*projections.SEPARATING, "separator_by_chance"):
                found += told(probe="random_separators", metric=name, group=str(d), seed=seed, value=share, n=20,
                              note="errs on 5 % at most")  # fmt: skip
        for k in (2, 784):
            for name in (*projections.KEPT, "pairs_expected"):
                found += told(
                    probe="projected_pairs", metric=name, group=str(k), seed=seed, value=k / 8, n=20
                )
        found += told(probe="projected_pairs", metric="enough_dimensions", seed=seed, value=1223, unit="1")
    return Records(found)


def test_the_page_draws_curves_against_parts_and_dimensions(rows: Records) -> None:
    (panel,) = panels(rows)
    with drawing.settings():
        size = accuracy_section.section(panel, "")
        chances = projections.section(panel, "")
    names = [c.name for c in size.charts]
    assert {"accuracy_vs_features", "accuracy_vs_trees"} <= set(names)
    assert not {"accuracy_vs_density", "change_vs_density"} & set(names), "all are at one density"
    compute = next(c for c in size.charts if c.name == "accuracy_vs_compute").svg
    assert drawing.series_class("drawn") in compute
    assert drawing.series_class("forest") not in compute, (
        "what cost no multiplication has no place on a log axis"
    )
    assert [c.name for c in chances.charts] == ["separators_geometry", "projected_pairs_geometry"]
    first, second = chances.charts
    assert "40 draws of all seeds" in first.caption
    assert "errs on 5 % at most" in first.caption
    assert "squared distances: 1" in second.svg
    table = chances.tables[0]
    assert [row.label for row in table.rows] == ["1", "32", "1\N{NARROW NO-BREAK SPACE}024"]
    wanted = stats.binomtest(20, 40).proportion_ci(method="wilson")
    assert table.rows[1].cells[0].text == f"50.0 ({100 * wanted.low:.1f}–{100 * wanted.high:.1f})"
    left = [t.title for moment in panel.moments for t in leftover_tables(panel, moment)]
    assert not [t for t in left if "separators" in t or "pairs" in t]


def test_without_such_records_there_is_no_such_section() -> None:
    (panel,) = panels(
        Records(accuracies("dense", 0, 1.0, {0: 95.0}) + accuracies("pruned", 1, 0.5, {0: 90.0}))
    )
    with drawing.settings():
        assert projections.section(panel, "").empty
        assert "accuracy_vs_density" in [c.name for c in accuracy_section.section(panel, "").charts]


def test_a_dimension_of_thousands_of_digits_is_none() -> None:
    """``int`` of more than 4,300 digits raises."""
    one = record(probe="random_separators", metric="separator_one", group="8", value=50.0, n=10)
    rows = [one, *(dataclasses.replace(one, group=group) for group in ("9" * 5000, "9" * 400, "x", ""))]
    for counted in (True, False):
        (found,) = projections.shares(rows, counted)
        assert (found.dimension, found.value) == (8, 50.0)
