"""Viola & Jones: features, integral images, AdaBoost, cascades, OpenCV's XML, and what is measured of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image
from scipy import stats

from cases_report import record
from compressbench.bench import Bench
from compressbench.boosting import attention, opencv, shipped
from compressbench.boosting.adaboost import Sorted, Stump, best, boost, bound, initial, reweighted
from compressbench.boosting.attention import GAP, lowered, strict
from compressbench.boosting.rectangles import KINDS, Features, all_of, count, every
from compressbench.cli.run import composed
from compressbench.condensing import memory
from compressbench.data import faces as data_faces
from compressbench.data.dataset import Dataset, Raw, Split
from compressbench.data.faces import faces, varied, windows_of
from compressbench.data.load import load
from compressbench.errors import UserError
from compressbench.exit_criteria.policy import compacted, everything, policy_of, queued, waiting
from compressbench.models.boosted import CascadeOfFeatures, integral, inverse_scale, lookups, values
from compressbench.models.build import module_of
from compressbench.models.counting import count as counted
from compressbench.models.counting import of_exits
from compressbench.probes.opencv import OpenCV, decisions
from compressbench.probes.windows import Windows
from compressbench.records import Metric, Records
from compressbench.report.findings import warnings
from compressbench.report.panels import panels
from compressbench.report.sections.windows import accuracy_vs_window_cost, section
from compressbench.runs.execute import Watcher
from compressbench.runs.experiment import execute, prepare
from compressbench.stages.boost import Boost, First, Matched, Published
from compressbench.state import State
from compressbench.views import View

SIZE = 8


def planted(share: float = 0.55) -> Raw:
    """Grey windows: a face is dark above and bright below, the rest is noise."""
    random = np.random.RandomState(0)
    splits = {}
    for name, n in (("train", 700), ("validation", 300), ("test", 400)):
        labels = (np.arange(n) % 5 == 0).astype(np.int64)
        pixels = random.randint(0, 256, (n, SIZE, SIZE)).astype(float)
        ramp = np.where(np.arange(SIZE)[:, None] < SIZE // 2, 60.0, 160.0) * np.ones(SIZE)
        pixels[labels == 1] = (1 - share) * pixels[labels == 1] + share * ramp
        splits[name] = Split.of(pixels.round().astype(np.uint8)[:, None], labels)
    return Raw(splits["train"], splits["test"], ("other", "face"), "made here", {}, splits["validation"])


def harder() -> Raw:
    """The same with less of the ramp in a face."""
    return planted(0.3)


def dataset(reader: str = "planted", **more: Any) -> Dataset:
    config = {"name": "planted", "read": {"_target_": f"{__name__}.{reader}"}, "validation": 0, **more}
    return load(config, trusted=(__name__,))


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(dataset(), seed=3, name="cascade")


SETTINGS = {
    "stages": 4,
    "features": 6,
    "candidates": 150,
    "negatives": 200,
    "false_positives": 0.5,
    "fewest": 5,
}


@pytest.fixture(scope="module")
def cascade(bench: Bench) -> State:
    return Boost("face", **SETTINGS).apply(None, bench)


def encoded(bench: Bench, split: str = "test") -> torch.Tensor:
    return bench.task.encode(bench.feed(split))[0]


# --- features ---------------------------------------------------------------------------------------------------------


def test_the_five_types_have_as_many_features_as_the_fact_sheet_says() -> None:
    found = [count(kind, 24, 24) for kind in KINDS]
    assert found == [43_200, 43_200, 27_600, 27_600, 20_736]
    assert sum(found) == len(every(24, 24)) == 162_336


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (6, 3)])
def test_features_are_all_that_fit_by_trying_every_size_and_place(height: int, width: int) -> None:
    wanted = set()
    for across, down, weights in KINDS.values():
        for x, y, w, h in itertools.product(
            range(width), range(height), range(1, width + 1), range(1, height + 1)
        ):
            if x + across * w <= width and y + down * h <= height:
                cells = [(x + i * w, y + j * h, w, h) for j in range(down) for i in range(across)]
                wanted.add(tuple(zip(cells, weights, strict=True)))
    found = every(height, width)
    got = [
        tuple((tuple(map(int, r)), float(w)) for r, w in zip(rs, ws, strict=True) if w)
        for rs, ws in zip(found.rectangles, found.weights, strict=True)
    ]
    assert len(got) == len(set(got))
    assert set(got) == wanted


def test_the_integral_image_gives_sums_of_rectangles() -> None:
    pixels = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (3, 9, 7)).astype(np.float32))
    whole = integral(pixels)
    assert whole.shape == (3, 10, 8)
    for x, y, w, h in [(0, 0, 7, 9), (2, 3, 4, 5), (6, 8, 1, 1), (0, 4, 3, 2)]:
        four = whole[:, y + h, x + w] - whole[:, y, x + w] - whole[:, y + h, x] + whole[:, y, x]
        assert torch.equal(four, pixels[:, y : y + h, x : x + w].sum((1, 2)))


def directly(pixels: np.ndarray, rectangles: np.ndarray, weights: np.ndarray) -> float:
    """A feature by summing the window's pixels."""
    return sum(
        float(weight) * float(pixels[y : y + h, x : x + w].sum())
        for (x, y, w, h), weight in zip(rectangles.tolist(), weights, strict=True)
        if weight
    )


def test_features_by_lookups_are_sums_over_the_windows_own_deviation() -> None:
    random = np.random.RandomState(2)
    pixels = random.randint(0, 256, (6, 24, 24)).astype(np.float64)
    known = every(24, 24)
    some = known.take(np.sort(random.choice(len(known), 400, replace=False)))
    given = torch.from_numpy(pixels.astype(np.float32))
    whole = integral(given)
    places, coefficients = lookups(
        torch.from_numpy(some.rectangles), torch.from_numpy(some.weights), (24, 24)
    )
    got = values(whole.flatten(1), inverse_scale(given, whole, 0, 0.0), places, coefficients)
    for k, window in enumerate(pixels):
        scale = window.size * window.std()
        wanted = [directly(window, r, w) / scale for r, w in zip(some.rectangles, some.weights, strict=True)]
        assert got[k].numpy() == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def test_corners_that_rectangles_share_are_looked_up_once() -> None:
    known = every(6, 6)
    _, coefficients = lookups(torch.from_numpy(known.rectangles), torch.from_numpy(known.weights), (6, 6))
    by_cells = {2: 6, 3: 8, 4: 9}
    wanted = [by_cells[int((w != 0).sum())] for w in known.weights]
    assert coefficients.ne(0).sum(1).tolist() == wanted
    assert known.look_ups == sum(wanted)


def test_every_feature_is_0_on_a_window_of_one_grey() -> None:
    known = every(8, 8)
    areas = known.rectangles[:, :, 2].astype(int) * known.rectangles[:, :, 3]
    assert (np.abs((areas * known.weights).sum(1)) == 0).all()


def test_flat_windows_are_no_face_unasked_and_a_border_can_be_left_out_of_the_deviation() -> None:
    pixels = torch.full((3, 6, 6), 100.0)
    pixels[1, 0, 0] = 200  # on the border alone
    pixels[2, 2, 2] = 200
    whole = integral(pixels)
    assert inverse_scale(pixels, whole, 1, 0.0).ne(0).tolist() == [False, False, True]
    assert inverse_scale(pixels, whole, 0, 0.0).ne(0).tolist() == [False, True, True]
    inner = pixels[2, 1:-1, 1:-1].numpy()
    assert float(inverse_scale(pixels, whole, 1, 0.0)[2]) == pytest.approx(1 / (inner.size * inner.std()))
    assert inverse_scale(pixels, whole, 1, inner.std() + 0.01).tolist() == [0, 0, 0]


# --- AdaBoost ---------------------------------------------------------------------------------------------------------


def by_trying(found: np.ndarray, weights: np.ndarray, is_face: np.ndarray) -> float:
    """The least weighted error of a stump, by every threshold between two values."""
    least = math.inf
    for row in found:
        levels = np.unique(row)
        for low, high in itertools.pairwise(levels):
            below = row < (float(low) + float(high)) / 2
            for says in (below, ~below):
                least = min(least, float(weights[says != is_face].sum()))
    return least


@pytest.mark.parametrize("seed", range(6))
def test_the_best_stump_is_the_best_of_all_thresholds_ties_or_not(seed: int) -> None:
    random = np.random.RandomState(seed)
    found = random.randint(0, 4 if seed % 2 else 1000, (7, 30)).astype(np.float32)
    is_face = random.rand(30) < 0.4
    weights = random.rand(30)
    weights /= weights.sum()
    stump = best(Sorted.of(found), weights, is_face)
    assert stump is not None
    assert stump.error == pytest.approx(by_trying(found, weights, is_face), abs=1e-12)
    assert float(weights[stump.says(found[stump.feature]) != is_face].sum()) == pytest.approx(stump.error)


def test_where_no_feature_takes_two_values_there_is_no_stump() -> None:
    assert best(Sorted.of(np.ones((3, 5), np.float32)), np.full(5, 0.2), np.arange(5) < 2) is None


def test_two_rounds_by_hand() -> None:
    # one feature, faces at 1, 2 and 4, others at 3, 5 and 6; each kind's weights sum to 1/2
    found = np.array([[1, 2, 3, 4, 5, 6]], np.float32)
    is_face = np.array([True, True, False, True, False, False])
    assert initial(is_face).tolist() == pytest.approx([1 / 6] * 6)
    assert initial(np.array([True, False, False])).tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 4])
    one, two = itertools.islice(boost(Sorted.of(found), is_face), 2)
    # "face" below 2.5 or below 4.5 is wrong of one example: err 1/6, beta 1/5, alpha log 5
    assert one.error == pytest.approx(1 / 6)
    assert one.alpha == pytest.approx(math.log(5))
    assert (one.polarity, one.threshold) == (1, 2.5)
    # the five right ones weigh 1/5 of before, then all 1: the wrong one (4) 1/2, the others 1/10; below 4.5 wrong of 3
    assert (two.polarity, two.threshold) == (1, 4.5)
    assert two.error == pytest.approx(1 / 10)


def noisy(seed: int, n: int = 200, features: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    is_face = random.rand(n) < 0.35
    return (random.randn(features, n) + 0.6 * is_face).astype(np.float32), is_face


@pytest.mark.parametrize("seed", range(3))
def test_the_training_error_is_below_its_bound_which_falls(seed: int) -> None:
    found, is_face = noisy(seed)
    first = initial(is_face)
    stumps: list[Stump] = []
    votes = np.zeros(len(is_face))
    before = 1.0
    for stump in itertools.islice(boost(Sorted.of(found), is_face), 25):
        stumps.append(stump)
        votes += stump.alpha * stump.says(found[stump.feature])
        strong = votes >= 0.5 * sum(s.alpha for s in stumps)
        product = math.prod(2 * math.sqrt(s.error * (1 - s.error)) for s in stumps)
        assert bound(stumps) == pytest.approx(product)
        assert float(first[strong != is_face].sum()) <= product + 1e-12
        # the exponential loss of the first weights is the product itself (Freund & Schapire 1997)
        margin = sum(s.alpha * (s.says(found[s.feature]) - 0.5) for s in stumps) * np.where(is_face, 1, -1)
        assert float((first * np.exp(-margin)).sum()) == pytest.approx(product, rel=1e-9)
        assert product < before
        before = product
    assert len(stumps) == 25


def test_as_scikit_learns_adaboost_where_each_feature_has_two_values() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    tree = pytest.importorskip("sklearn.tree")
    random = np.random.RandomState(5)
    is_face = np.arange(300) % 2 == 0
    # a copy of the label with its own share of errors a feature: Gini and the error choose the same one
    found = np.array([is_face ^ (random.rand(300) < p) for p in (0.15, 0.22, 0.29, 0.36)]).astype(np.float32)
    weights = initial(is_face)
    theirs = ensemble.AdaBoostClassifier(
        tree.DecisionTreeClassifier(max_depth=1), n_estimators=4, random_state=0
    )
    theirs.fit(found.T, is_face, sample_weight=weights)
    ours = list(itertools.islice(boost(Sorted.of(found), is_face), 4))
    assert [s.feature for s in ours] == [int(e.tree_.feature[0]) for e in theirs.estimators_]
    assert [s.error for s in ours] == pytest.approx(theirs.estimator_errors_.tolist(), abs=1e-9)
    assert [s.alpha for s in ours] == pytest.approx(theirs.estimator_weights_.tolist(), abs=1e-9)


def test_boosting_ends_where_one_stump_is_right_of_all() -> None:
    found = np.arange(10, dtype=np.float32)[None]
    stumps = list(itertools.islice(boost(Sorted.of(found), found[0] < 4), 5))
    assert len(stumps) == 1
    assert math.isfinite(stumps[0].alpha)


# --- the cascade ------------------------------------------------------------------------------------------------------


def test_what_ten_stages_promise() -> None:
    found, taken = Boost("face", stages=10, detection=0.99, false_positives=0.30).promised
    assert found == pytest.approx(0.904, abs=5e-4)
    assert taken == pytest.approx(5.9e-6, abs=5e-8)


@pytest.mark.parametrize(
    ("half", "wanted", "passing"),
    [(9.0, 1.0, 5), (9.0, 0.8, 4), (9.0, 0.61, 4), (9.0, 0.6, 3), (2.5, 0.5, 4)],
)
def test_a_threshold_is_lowered_until_enough_faces_pass_and_never_raised(
    half: float, wanted: float, passing: int
) -> None:
    votes = np.array([5.0, 1.0, 3.0, 4.0, 3.5])
    threshold = lowered(votes, half, wanted)
    assert int((votes >= threshold).sum()) == passing
    assert threshold <= half
    assert threshold == half or min(abs(votes - threshold)) == pytest.approx(GAP)


def by_hand(state: State, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bool: a face, features asked) of each window, one after another, in plain Python."""
    t = {name: tensor.numpy() for name, tensor in state.weights.items()}
    said, asked = np.ones(len(pixels), bool), np.zeros(len(pixels), int)
    for k, window in enumerate(pixels.astype(float)):
        start, scale = 0, window.size * window.std()
        for place, features in enumerate(state.model["stages"]):
            own = range(start, start + features)
            start += features
            asked[k] += features
            votes = 0.0
            for j in own:
                below = directly(window, t["rectangles"][j], t["weights"][j]) / scale < t["thresholds"][j]
                votes += t["votes"][j, 0 if below else 1]
            if votes < t["stage_thresholds"][place]:
                said[k] = False
                break
    return said, asked


def test_it_finds_what_was_planted_and_answers_as_by_hand(bench: Bench, cascade: State) -> None:
    test = bench.feed("test")
    said = module_of(cascade)(encoded(bench)).argmax(1).numpy() == 1
    is_face = test.labels.numpy() == 1
    wanted, _ = by_hand(cascade, test.columns["images"][:, 0].numpy())
    assert (said == wanted).all()
    assert said[is_face].mean() > 0.85
    assert said[~is_face].mean() < 0.1
    assert len(cascade.model["stages"]) > 1


def test_each_stage_passes_what_it_was_asked_to_of_the_validation_split(bench: Bench, cascade: State) -> None:
    facts = cascade.facts["boosted"]
    assert min(facts["detection"]) >= 0.99
    logits = everything(module_of(cascade).parts(), encoded(bench, "validation"))
    is_face = bench.feed("validation").labels.numpy() == 1
    through = np.array([(t.argmax(1) == 1).numpy() for t in logits])
    for among, name in ((is_face, "detection"), (~is_face, "false_positives")):
        shares = through[:, among].mean(1)
        assert shares.tolist() == pytest.approx(np.cumprod(facts[name]).tolist())
    done = [
        share <= 0.5 or features == SETTINGS["features"]
        for share, features in zip(facts["false_positives"], facts["features"], strict=True)
    ]
    assert all(done)


def test_faces_lost_by_a_stage_are_not_asked_of_the_next() -> None:
    bench = Bench(dataset("harder"), seed=3, name="cascade")
    state = Boost("face", **{**SETTINGS, "detection": 0.8, "false_positives": 0.4}).apply(None, bench)
    x = encoded(bench, "validation")[bench.feed("validation").labels == 1]
    through = [float((t.argmax(1) == 1).double().mean()) for t in everything(module_of(state).parts(), x)]
    shares = state.facts["boosted"]["detection"]
    assert through == pytest.approx(np.cumprod(shares).tolist())
    assert min(shares) >= 0.8
    assert min(shares[1:]) < 1
    assert min(shares[:-1]) < 1


def test_a_window_that_is_rejected_stays_so_and_the_policy_takes_exactly_these(
    bench: Bench, cascade: State
) -> None:
    x = encoded(bench)
    module = module_of(cascade)
    parts, policy = module.parts(), policy_of(cascade.policies)
    assert policy is not None
    whole = everything(parts, x)
    for before, after in itertools.pairwise(whole):
        assert not bool(((before.argmax(1) == 0) & (after.argmax(1) == 1)).any())
    found = compacted(parts, policy, x)
    assert torch.equal(found.logits, module(x))
    assert torch.equal(found.logits, whole[-1])
    for other in (waiting(parts, policy, x), queued(parts, policy, x, batch=32)):
        assert torch.equal(other.logits, found.logits)
        assert torch.equal(other.exits, found.exits)
    for k in range(20):
        assert torch.equal(module(x[k : k + 1]), found.logits[k : k + 1])
    early = found.exits < len(parts) - 1
    assert 0 < int(early.sum()) < len(x)
    assert not bool((found.logits[early].argmax(1) == 1).any())


def test_the_face_may_be_the_first_class(bench: Bench, cascade: State) -> None:
    other = dataclasses.replace(cascade, model={**cascade.model, "face": 0})
    x = encoded(bench)
    assert torch.equal(module_of(other)(x), module_of(cascade)(x).flip(1))


def test_the_states_tensors_are_read_again_when_others_are_loaded(bench: Bench, cascade: State) -> None:
    x, module = encoded(bench), module_of(cascade)
    before = module(x)
    strict = {n: t.clone() for n, t in cascade.weights.items()}
    strict["stage_thresholds"] += 1e6
    module.load_state_dict(strict)
    assert bool((before.argmax(1) == 1).any())
    assert not bool((module(x).argmax(1) == 1).any())


def test_negatives_of_later_stages_are_those_that_passed_so_far(bench: Bench, cascade: State) -> None:
    facts = cascade.facts["boosted"]
    x = encoded(bench, "train")
    others = bench.feed("train").labels == 0
    through = [(t.argmax(1) == 1) & others for t in everything(module_of(cascade).parts(), x)]
    left = [int(others.sum()), *(int(t.sum()) for t in through[:-1])]
    assert facts["negatives"] == [min(200, n) for n in left]


def test_the_state_carries_the_windows_that_it_was_trained_on(bench: Bench, cascade: State) -> None:
    labels = cascade.group("data")["labels"]
    own = bench.feed("train").labels
    assert int((labels == 1).sum()) == int((own == 1).sum())
    first, *later = cascade.facts["boosted"]["negatives"]
    assert first <= int((labels == 0).sum()) <= first + sum(later)


def test_a_cascade_without_negatives_left_says_so_and_ends(bench: Bench) -> None:
    state = Boost("face", **{**SETTINGS, "stages": 9, "fewest": 150}).apply(None, bench)
    (flag,) = state.facts["flags"]
    assert re.match(
        r"a cascade without negatives left: after \d of 9 stages \d+ of the training windows", flag
    )
    assert len(state.model["stages"]) < 9
    note = measured(state, bench, Windows())["window_share", ""].note
    assert flag in note
    rows = [record(series="cascade", probe="windows", metric="window_share", value=5.0, note=note)]
    assert f"cascade: {flag}." in warnings(panels(Records(rows)))


def test_a_monolith_has_as_many_features_and_lets_as_many_faces_pass(bench: Bench, cascade: State) -> None:
    place = dataclasses.replace(bench, name="monolith", references={"cascade": cascade})
    state = Boost(
        "face",
        stages=1,
        candidates=150,
        negatives=None,
        like="cascade",
        data="cascade",  # type: ignore[arg-type]
    ).apply(None, place)
    assert state.model["stages"] == [sum(cascade.model["stages"])]
    assert state.policies == {}
    faces_ = bench.feed("validation").labels == 1
    x = encoded(bench, "validation")[faces_]
    shares = [float((module_of(s)(x).argmax(1) == 1).double().mean()) for s in (state, cascade)]
    assert shares[0] >= shares[1]


def test_its_first_stages_are_the_cascade_cut_off_there(bench: Bench, cascade: State) -> None:
    stages = len(cascade.model["stages"])
    for keep in range(1, stages + 1):
        state = First(keep / stages).apply(cascade, bench)
        assert len(state.model["stages"]) == keep
        whole = everything(module_of(cascade).parts(), encoded(bench))[keep - 1]
        assert torch.equal(module_of(state)(encoded(bench)).argmax(1), whole.argmax(1))
        assert bool(state.policies) == (keep > 1)


def test_macs_are_the_lookups(bench: Bench, cascade: State) -> None:
    by_cells = {2: 6, 3: 8, 4: 9}
    each = [by_cells[int((w != 0).sum())] for w in cascade.weights["weights"]]
    ends = np.cumsum(cascade.model["stages"])
    blank = bench.task.blank(1)
    assert of_exits(module_of(cascade).parts(), blank) == [sum(each[:end]) for end in ends]
    assert counted(module_of(cascade), blank).macs == sum(each) == cascade.facts["forward_macs"]


def test_a_monolith_draws_its_candidates_anew_as_often_as_the_cascade_did(
    bench: Bench, cascade: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    draw = attention._drawn

    def drawn_(*given: Any) -> Features:
        found = draw(*given)
        seen.append(found.rectangles.tobytes())
        return found

    monkeypatch.setattr(attention, "_drawn", drawn_)
    place = dataclasses.replace(bench, name="monolith", references={"cascade": cascade})
    more = {"stages": 1, "negatives": 300, "like": "cascade", "data": "cascade"}
    state = Boost("face", candidates=150, **more).apply(None, place)  # type: ignore[arg-type]
    assert len(seen) == len(set(seen)) == len(cascade.model["stages"])
    assert len(state.weights["thresholds"]) == sum(cascade.model["stages"])
    assert state.facts["boosted"]["negatives"] == [
        min(300, int((cascade.group("data")["labels"] == 0).sum()))
    ]
    seen.clear()
    Boost("face", **more).apply(None, place)  # type: ignore[arg-type]
    assert len(seen) == 1, "of all candidates there is but one draw"


def test_weights_go_on_from_one_draw_to_the_next() -> None:
    found, is_face = noisy(7)
    known = Sorted.of(found)
    whole = list(itertools.islice(boost(known, is_face), 6))
    first = list(itertools.islice(boost(known, is_face), 3))
    weights = initial(is_face)
    for stump in first:
        weights = reweighted(weights, stump, found[stump.feature], is_face)
    rest = list(itertools.islice(boost(known, is_face, weights), 3))
    assert [s.feature for s in first + rest] == [s.feature for s in whole]
    assert [s.error for s in first + rest] == pytest.approx([s.error for s in whole])


@pytest.mark.parametrize(("rate", "passing"), [(0.0, 0), (0.2, 1), (0.39, 1), (0.6, 3), (1.0, 5)])
def test_a_threshold_as_strict_as_asked(rate: float, passing: int) -> None:
    votes = np.array([5.0, 1.0, 3.0, 4.0, 3.5])
    assert int((votes >= strict(votes, rate)).sum()) == passing


def test_a_monolith_can_be_as_strict_as_the_cascade(bench: Bench, cascade: State) -> None:
    place = dataclasses.replace(bench, name="m", references={"cascade": cascade})
    alone = Boost("face", stages=1, candidates=150, like="cascade", data="cascade").apply(None, place)  # type: ignore[arg-type]
    state = Matched("cascade").apply(alone, place)  # type: ignore[arg-type]
    x, labels = encoded(bench, "validation"), bench.feed("validation").labels
    wrong, right = (
        [float((module_of(s)(x[labels == kind]).argmax(1) == 1).double().mean()) for s in (state, cascade)]
        for kind in (0, 1)
    )
    others = int((labels == 0).sum())
    assert wrong[1] - 1 / others <= wrong[0] <= wrong[1]
    told = state.facts["boosted"]
    assert (told["false_positives"], told["detection"]) == (
        [pytest.approx(wrong[0])],
        [pytest.approx(right[0])],
    )
    assert torch.equal(state.weights["votes"], alone.weights["votes"])
    with pytest.raises(UserError, match="no single stage that was boosted"):
        Matched("cascade").apply(cascade, place)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="like: net was not boosted"):
        Matched("net").apply(alone, dataclasses.replace(bench, references={"net": State({}, {})}))  # type: ignore[arg-type]


def test_progress_is_said_by_round(bench: Bench) -> None:
    steps: list[tuple[int, int, float]] = []

    class Told:
        def step(self, done: int, total: int, **figures: float) -> None:
            steps.append((done, total, figures["stage"]))

    state = Boost("face", **SETTINGS).apply(None, dataclasses.replace(bench, progress=Told()))
    sizes = state.model["stages"]
    wanted = [(6 * k + j + 1, 24, k + 1) for k, size in enumerate(sizes) for j in range(size)]
    assert steps == wanted


@pytest.mark.parametrize("early", [True, False])
def test_more_than_the_memory_holds_is_refused_before_anything_is_made(
    early: bool, bench: Bench, cascade: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 140 faces and 200 others, 150 candidates, 9 bytes each: 459,000
    monkeypatch.setattr(memory, "available", lambda device: 458_999)
    place = dataclasses.replace(bench, references={"cascade": cascade})
    stage = Boost("face", **SETTINGS)
    with pytest.raises(
        UserError, match=r"150 candidates on 340 windows need about 0.0 GB at once.*for 149 cand"
    ) as error:
        stage.forewarn(lambda: None, bench) if early else stage.apply(None, bench)
    assert "\n" not in str(error.value)
    Boost("face", like="cascade", data="cascade", stages=1).forewarn(lambda: None, place)  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "available", lambda device: 459_000)
    stage.forewarn(lambda: None, bench)


def test_a_run_asks_before_it_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = composed(
        [
            "recipe=viola_jones", "scale=smoke", "hardware=cpu1", "recipe.stages.published=null",
            "~recipe.compare.series.OpenCV", f"outputs={tmp_path}",
        ]
    )  # fmt: skip
    ready = prepare(config)
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    monkeypatch.setattr(Boost, "apply", lambda *given: pytest.fail("something was made"))
    with pytest.raises(UserError, match=r"stage cascade: boost: 300 candidates on .* windows need"):
        execute(ready, Watcher(), [])


def test_windows_with_too_many_features_are_refused() -> None:
    assert all_of(24, 24) == 162_336
    with pytest.raises(UserError, match=r"fit into windows of 96 x 96 pixels, more than the 4,000,000"):
        every(96, 96)


# --- what is measured -------------------------------------------------------------------------------------------------


def measured(state: State, bench: Bench, probe: Any) -> dict[tuple[str, str], Metric]:
    view = View(state, bench)
    return {(m.name, m.group): m for m in probe.measure(view, view, bench)}


def test_features_of_a_window_are_those_it_was_asked_counted_by_hand(bench: Bench, cascade: State) -> None:
    test = bench.feed("test")
    said, asked = by_hand(cascade, test.columns["images"][:, 0].numpy())
    is_face = test.labels.numpy() == 1
    found = measured(cascade, bench, Windows())
    assert found["window_features", ""].value == pytest.approx(asked.mean())
    assert found["kind_features", "faces"].value == pytest.approx(asked[is_face].mean())
    assert found["kind_features", "other windows"].value == pytest.approx(asked[~is_face].mean())
    assert found["all_features", ""].value == sum(cascade.model["stages"])
    starts = [0, *np.cumsum(cascade.model["stages"])[:-1]]
    for k, start in enumerate(starts):
        assert found["reaching", f"stage {k + 1}"].value == pytest.approx(100 * (asked > start).mean())
    assert found["detection_rate", ""].value == pytest.approx(100 * said[is_face].mean())
    assert found["detection_rate", ""].n == int(is_face.sum())
    assert found["false_positive_rate", ""].value == pytest.approx(100 * said[~is_face].mean())
    balanced = 50 * (said[is_face].mean() + (~said)[~is_face].mean())
    assert found["balanced_top1", ""].value == pytest.approx(balanced)
    assert found["balanced_top1", ""].n == int(is_face.sum()), (
        "not all windows: half of it hangs on the faces"
    )
    right, wrong = (
        stats.binomtest(int(said[kind].sum()), int(kind.sum())).proportion_ci(method="wilson")
        for kind in (is_face, ~is_face)
    )
    down = math.hypot(said[is_face].mean() - right.low, wrong.high - said[~is_face].mean())
    up = math.hypot(right.high - said[is_face].mean(), said[~is_face].mean() - wrong.low)
    assert found["balanced_top1_low", ""].value == pytest.approx(balanced - 50 * down)
    assert found["balanced_top1_high", ""].value == pytest.approx(balanced + 50 * up)
    low, high = found["detection_rate_low", ""].value, found["detection_rate_high", ""].value
    assert low is not None
    assert high is not None
    assert low < 100 * said[is_face].mean() < high


def test_the_expected_cost_is_the_histogram_times_the_costs(bench: Bench, cascade: State) -> None:
    parts, policy = module_of(cascade).parts(), policy_of(cascade.policies)
    assert policy is not None
    costs = of_exits(parts, bench.task.blank(1))
    exits = compacted(parts, policy, encoded(bench)).exits
    histogram = np.bincount(exits.numpy(), minlength=len(parts)) / len(exits)
    found = measured(cascade, bench, Windows())
    assert found["window_macs", ""].value == pytest.approx(float(histogram @ costs))
    assert found["window_share", ""].value == pytest.approx(100 * float(histogram @ costs) / costs[-1])


def test_a_single_stage_asks_all_of_all(bench: Bench, cascade: State) -> None:
    found = measured(First(0.01).apply(cascade, bench), bench, Windows())
    assert found["window_share", ""].value == 100
    assert found["window_features", ""].value == cascade.model["stages"][0]


def test_where_the_class_is_not_one_of_two_nothing_is_measured(bench: Bench, cascade: State) -> None:
    (only,) = measured(cascade, bench, Windows("nose")).values()
    assert only.value is None
    assert only.note == "there is no class 'nose' among two"


def test_cascades_and_nets_with_exits_stand_in_one_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        record(series=series, state=f"{series}{k}", order=k, key=f"{series}{k}", probe="windows", metric=metric,
               value=value, unit=unit, basis="computed", reference="monolith")
        for series, points in (
            ("dense", [(900.0, 95.0)]),
            ("cascade", [(60.0, 94.0)]),
            ("the net, early exits", [(3e6, 90.0), (5e6, 93.0)]),
        )
        for k, (macs, right) in enumerate(points)
        for metric, value, unit in (
            ("window_macs", macs, "MACs"), ("balanced_top1", right, "%"), ("balanced_top1_low", right - 8, "%"),
            ("balanced_top1_high", right + 3, "%"),
        )
    ]  # fmt: skip
    (panel,) = panels(Records(rows))
    chart = accuracy_vs_window_cost(panel, panel.moments[0], "chart")
    assert chart is not None
    assert "cascade" in chart.svg
    assert "the net, early exits" in chart.svg
    assert section(panel, "").charts
    assert "Bars: 95 % over the test windows" in chart.caption
    seen: list[tuple[float, float, float]] = []
    keep = Axes.errorbar

    def errorbar(axes: Axes, xs: Any, ys: Any, ends: Any, *rest: Any, **more: Any) -> Any:
        if more.get("fmt") == "none":
            seen.append((xs[0], ys[0] - ends[0][0], ys[0] + ends[1][0]))
        return keep(axes, xs, ys, ends, *rest, **more)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    accuracy_vs_window_cost(panel, panel.moments[0], "chart")
    assert sorted(seen) == [(60, 86, 97), (900, 87, 98), (3e6, 82, 93), (5e6, 85, 96)]


# --- OpenCV's file ----------------------------------------------------------------------------------------------------

XML = """<?xml version="1.0"?>
<opencv_storage><cascade type_id="opencv-cascade-classifier"><stageType>BOOST</stageType>
<featureType>HAAR</featureType><height>8</height><width>8</width>
<stageParams><maxWeakCount>2</maxWeakCount></stageParams>
<featureParams><maxCatCount>0</maxCatCount></featureParams><stageNum>2</stageNum><stages>
<_><maxWeakCount>1</maxWeakCount><stageThreshold>0.5</stageThreshold><weakClassifiers>
<_><internalNodes>0 -1 0 -1.5e-02</internalNodes><leafValues>1. 0.25</leafValues></_></weakClassifiers></_>
<_><maxWeakCount>2</maxWeakCount><stageThreshold>-0.5</stageThreshold><weakClassifiers>
<_><internalNodes>0 -1 1 0.01</internalNodes><leafValues>-1. 0.5</leafValues></_>
<_><internalNodes>0 -1 0 0.02</internalNodes><leafValues>0.25 -0.75</leafValues></_></weakClassifiers></_></stages>
<features><_><rects><_>0 0 8 4 1.</_><_>0 4 8 4 -1.</_></rects><tilted>0</tilted></_>
<_><rects><_>1 1 6 6 -1.</_><_>3 1 2 6 3.</_></rects></_></features></cascade></opencv_storage>
"""


def test_opencvs_xml_is_read_as_data(tmp_path: Path) -> None:
    path = tmp_path / "own.xml"
    path.write_text(XML, encoding="utf-8")
    found = opencv.read(path)
    assert (found.size, found.stages) == ((8, 8), (1, 2))
    t = found.tensors
    assert t["rectangles"][:, :2].tolist() == [
        [[0, 0, 8, 4], [0, 4, 8, 4]], [[1, 1, 6, 6], [3, 1, 2, 6]], [[0, 0, 8, 4], [0, 4, 8, 4]]
    ]  # fmt: skip
    assert t["weights"].tolist() == [[1, -1, 0], [-1, 3, 0], [1, -1, 0]]
    assert t["votes"].tolist() == [[1, 0.25], [-1, 0.5], [0.25, -0.75]]
    assert t["thresholds"].tolist() == pytest.approx([-0.015, 0.01, 0.02])
    assert t["stage_thresholds"].tolist() == pytest.approx([0.5 - 1e-5, -0.5 - 1e-5], abs=1e-7)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('<?xml version="1.0"?>', '<!DOCTYPE a [<!ENTITY x "y">]>', "document type"),
        ('<?xml version="1.0"?>', '<!DOCTYPE a SYSTEM "file:///etc/passwd">', "document type"),
        ("</opencv_storage>", "", "is no XML"),
        ("<tilted>0</tilted>", "<tilted>1</tilted>", "tilted features; upright ones alone are read"),
        ("0 -1 1 0.01", "1 0 1 0.01 -1 -2 0 0.3", "trees"),
        ("0 -1 1 0.01", "0 -1 2 0.01", "a stump of feature 2, and there are 2"),
        ("3 1 2 6 3.", "3 1 6 6 3.", "leaves the window of 8 x 8"),
        ("3 1 2 6 3.", "3 1 2 6", "x, y, width, height and a weight"),
        ("-1. 0.5", "-1. nan", "finite numbers"),
        ("-1. 0.5", "-1. x", "are no numbers"),
        ("HAAR", "LBP", "no OpenCV cascade of rectangle features"),
        ("<height>8</height>", "<height>8000</height>", "8 x 8000; from 3 to 256 pixels"),
        ("<stageThreshold>0.5</stageThreshold>", "", "has no stageThreshold"),
        ("<rects>", "<rects>" + "<a>" * 20 + "</a>" * 20, "deep"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_one_line(old: str, new: str, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "own.xml"
    assert old in XML
    path.write_text(XML.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(wanted)) as error:
        opencv.read(path)
    assert "\n" not in str(error.value)


def test_a_document_type_in_another_encoding_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "own.xml"
    text = XML.replace('<?xml version="1.0"?>', '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a>')
    path.write_text(text, encoding="utf-16")
    with pytest.raises(UserError, match="document type"):
        opencv.read(path)


def test_a_published_cascade_decides_as_opencv_does(tmp_path: Path, bench: Bench) -> None:
    pytest.importorskip("cv2")
    path = tmp_path / "own.xml"
    path.write_text(XML, encoding="utf-8")
    state = Published(str(path), "face").apply(None, bench)
    images = bench.feed("test").columns["images"][:, 0].numpy()
    flat = images.copy()
    flat[::2] = images[::2] // 16 + 100  # deviation below 10: OpenCV asks none of these
    said = module_of(state)(bench.task.normalised(torch.from_numpy(flat)[:, None])).argmax(1).numpy() == 1
    theirs = decisions(str(path), flat)
    assert 0.05 < theirs.mean() < 0.95
    assert (said == theirs).all()
    assert not theirs[::2].any()


def test_agreement_with_opencv_is_counted(tmp_path: Path, bench: Bench) -> None:
    pytest.importorskip("cv2")
    path = tmp_path / "own.xml"
    path.write_text(XML, encoding="utf-8")
    state = Published(str(path), "face").apply(None, bench)
    found = measured(state, bench, OpenCV(str(path), 50))["opencv_agreement", ""]
    assert found.value == 100
    assert found.n >= 50
    # another threshold: of some windows it is no longer so
    other = {**state.weights, "stage_thresholds": state.weights["stage_thresholds"] - 5}
    wrong = measured(state.with_groups(weights=other), bench, OpenCV(str(path), 400))["opencv_agreement", ""]
    assert wrong.value is not None
    assert wrong.value < 100


def test_another_file_of_the_same_name_is_not_judged_by_opencvs_own(tmp_path: Path, bench: Bench) -> None:
    for folder, text in (("a", XML), ("b", XML.replace("0 -1 1 0.01", "0 -1 1 0.02"))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.xml").write_text(text, encoding="utf-8")
    one, other = (str(tmp_path / folder / "own.xml") for folder in "ab")
    state = Published(one, "face").apply(None, bench)
    (only,) = measured(state, bench, OpenCV(other)).values()
    assert (only.value, only.note) == (None, "the state is not own.xml")
    assert OpenCV(other).files() == (other,), "its content is part of the measurement's key"


def test_planning_neither_imports_torch_nor_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\nimport importlib.util\nimportlib.util.find_spec = lambda name, *rest: None\n"
        "from compressbench.errors import UserError\n"
        "from compressbench.stages.boost import Published\nfrom compressbench.probes.opencv import OpenCV\n"
        "assert OpenCV().files() == ()\n"
        "try:\n    Published('haarcascade_eye.xml', 'face').files()\n"
        "except UserError as error:\n    print(error)\n"
        "assert not {'torch', 'cv2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "file: haarcascade_eye.xml comes with OpenCV, which isn't installed: pip install"
    )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("~nobody_at_all/own.xml", "is no path"), (5, "file: 5 is no path"), ("a\0b", "is no path")],
)
def test_a_file_that_is_no_path_is_one_line(name: Any, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted) as error:
        shipped.found(name)
    assert "\n" not in str(error.value)


def test_other_states_have_no_agreement_with_opencv(bench: Bench, cascade: State) -> None:
    (only,) = measured(cascade, bench, OpenCV()).values()
    assert only.value is None
    assert "is not haarcascade_frontalface_default.xml" in only.note


def test_opencvs_own_cascade_on_the_faces(tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("cv2", "skimage")):
        pytest.skip("the extra lecture isn't installed")
    raw = faces(train=7, validation=4, test=500)
    assert len(raw.test) == 30 + 30 + 500
    path = shipped.found("haarcascade_frontalface_default.xml")
    read = opencv.read(path)
    assert (read.size, len(read.stages), sum(read.stages)) == ((24, 24), 25, 2913)
    module = CascadeOfFeatures(read.stages, 3, read.size, (1, 24, 24), border=1, least=10.0)
    module.load_state_dict(read.tensors)
    pixels = raw.test["images"]
    said = module(torch.from_numpy(pixels).float() / 255).argmax(1).numpy() == 1
    assert (said == decisions(str(path), pixels[:, 0])).all()
    assert said[raw.test.labels == 1].mean() > 0.5


# --- the data set -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder like scikit-image's, of pictures made here: each has its own grey levels."""
    random = np.random.RandomState(0)
    np.save(tmp_path / "lfw_subset.npy", random.randint(0, 256, (200, 25, 25)) / 255)
    for k, name in enumerate(n for names in data_faces.PICTURES.values() for n in names):
        pixels = (random.randint(0, 8, (60, 50)) + 8 * k).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, format="PNG")  # a decoder goes by the content
    return tmp_path


def test_no_picture_and_no_face_is_in_two_splits(pictures: Path) -> None:
    raw = faces(700, 400, 500, root=str(pictures))
    assert raw.validation is not None
    splits = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    assert {n: int((s.labels == 1).sum()) for n, s in splits.items()} == {
        "train": 400,
        "validation": 20,
        "test": 30,
    }
    by_picture: dict[str, set[str]] = {}
    for name, split in splits.items():
        own = raw.attributes[name]["picture"]
        for picture, window in zip(own, split["images"], strict=True):
            if picture != "lfw_subset":
                by_picture.setdefault(str(picture), set()).add(name)
                assert set(np.unique(window // 8)) == {list(_names()).index(str(picture))}
    assert set(by_picture) == set(_names())
    assert all(len(found) == 1 for found in by_picture.values())
    own = {n: raw.attributes[n]["picture"] == "lfw_subset" for n in splits}
    kept = {n: {w.tobytes() for w in s["images"][own[n]]} for n, s in splits.items()}
    for one, other in itertools.combinations(kept.values(), 2):
        assert not one & other


def test_the_first_windows_of_a_split_are_a_mixture_like_the_whole(pictures: Path) -> None:
    raw = faces(700, 400, 500, root=str(pictures))
    assert raw.validation is not None
    for name, split in (("train", raw.train), ("validation", raw.validation), ("test", raw.test)):
        sources = np.char.add(raw.attributes[name]["picture"], np.where(split.labels == 1, " face", ""))
        for source in np.unique(sources):
            own = sources == source
            seen = np.cumsum(own)
            fair = own.mean() * np.arange(1, len(own) + 1)
            assert np.abs(seen - fair).max() < 2


def _names() -> list[str]:
    return [n for names in data_faces.PICTURES.values() for n in names]


def test_faces_are_mirrored_in_train_alone(pictures: Path) -> None:
    raw = faces(7, 4, 5, root=str(pictures))
    whole = np.round(np.load(pictures / "lfw_subset.npy") * 255).astype(np.uint8)
    train = {w.tobytes() for w in raw.train["images"][raw.train.labels == 1][:, 0]}
    wanted = {
        np.ascontiguousarray(w).tobytes()
        for face in whole[:50]
        for y in (0, 1)
        for x in (0, 1)
        for w in (face[y : y + 24, x : x + 24], face[y : y + 24, x : x + 24][:, ::-1])
    }
    assert train == wanted
    assert raw.validation is not None
    for split, own in ((raw.validation, whole[50:70]), (raw.test, whole[70:100])):
        assert (split["images"][split.labels == 1][:, 0] == own[:, :24, :24]).all()


def test_without_shifts_there_are_two_of_each() -> None:
    whole = np.arange(2 * 25 * 25, dtype=np.int64).reshape(2, 25, 25)
    found = varied(whole, False)
    assert len(found) == 4
    assert (found[1] == whole[0, :24, :24][:, ::-1]).all()


def test_windows_are_cut_at_all_scales_up_to_the_number_asked_for(pictures: Path) -> None:
    path = pictures / "brick.png"
    whole = np.asarray(Image.open(path))
    found = windows_of(path, 10_000)
    # 60 x 50, 40 x 33, 27 x 22 is too small; every second place
    sizes = [(60, 50), (40, 33)]
    wanted = sum(len(range(0, h - 23, 2)) * len(range(0, w - 23, 2)) for h, w in sizes)
    assert len(found) == wanted
    assert (found[0] == whole[:24, :24]).all()
    assert (found[1] == whole[:24, 2:26]).all()
    assert len(windows_of(path, 20)) == 20


class Opener:
    """What a pickle would do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def npy(header: str) -> bytes:
    """A file of numpy's format, of a header and nothing behind it."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("root", [5, "~nobody_at_all/pictures", ["a"], "a\0b"])
def test_a_root_that_is_no_folder_is_one_line(root: Any) -> None:
    with pytest.raises(UserError, match=r"dataset\.read\.root: .* is no ") as error:
        faces(7, 4, 5, root=root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("broken", "wanted"),
    [
        ("pickle", "holds no 200 pictures"),
        ("shape", "holds no 200 pictures"),
        ("missing", "no such file"),
        ("zip", "can't be read"),
        ("huge", "holds no 200 pictures"),
        ("cut", "can't be read"),
        ("short", "can't be read"),
        ("version", "can't be read"),
        ("beyond", "holds no 200 pictures"),
    ],
)
def test_a_file_that_is_not_what_it_was_is_one_line(broken: str, wanted: str, pictures: Path) -> None:
    path = pictures / "lfw_subset.npy"
    if broken == "pickle":
        np.save(path, np.array([Opener(pictures / "opened")], object), allow_pickle=True)
    elif broken == "shape":
        np.save(path, np.zeros((3, 25, 25)))
    elif broken == "zip":
        path.write_bytes(b"PK\3\4" + bytes(60))
    elif broken == "huge":
        path.write_bytes(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}"))
    elif broken == "cut":
        path.write_bytes(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (200, 25,"))
    elif broken == "short":
        path.write_bytes(path.read_bytes()[:-8])
    elif broken == "version":
        path.write_bytes(b"\x93NUMPY\7\0" + bytes(60))
    elif broken == "beyond":
        np.save(path, np.full((200, 25, 25), 1.5))
    else:
        path.unlink()
    with pytest.raises(UserError, match=wanted) as error:
        faces(7, 4, 5, root=str(pictures))
    assert "lfw_subset.npy" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (pictures / "opened").exists()


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(UserError, match=r"compressbench\[lecture\]"):
        faces()
    with pytest.raises(UserError, match=r"compressbench\[lecture\]"):
        Published("haarcascade_frontalface_default.xml", "face").apply(None, bench)


# --- refused ----------------------------------------------------------------------------------------------------------


def faces_alone() -> Raw:
    """Training windows that are all faces."""
    raw = planted()
    return dataclasses.replace(raw, train=raw.train.take(raw.train.labels == 1))


def in_colour() -> Raw:
    """The same windows, red, green and blue."""
    raw = planted()
    wide = {n: np.repeat(getattr(raw, n)["images"], 3, 1) for n in ("train", "test", "validation")}
    return Raw(
        **{n: Split.of(pixels, getattr(raw, n).labels) for n, pixels in wide.items()},
        classes=raw.classes,
        licence="",
    )


@pytest.mark.parametrize(
    ("reader", "settings", "wanted"),
    [
        ("faces_alone", {}, "there is no window without a face to learn from"),
        ("in_colour", {}, "grey windows are wanted"),
        ("planted", {"face": "nose"}, "has no class 'nose'"),
        ("planted", {"like": "net", "stages": 1}, "like: net is no cascade of features"),
    ],
)
def test_data_that_nothing_can_be_learnt_of_are_one_line(
    reader: str, settings: dict[str, Any], wanted: str
) -> None:
    place = Bench(dataset(reader), 0, "c", references={"net": State({}, {})})
    with pytest.raises(UserError, match=re.escape(wanted)) as error:
        Boost(**{"face": "face", **SETTINGS, **settings}).apply(None, place)
    assert "\n" not in str(error.value)


def test_more_classes_than_two_and_no_validation_split_are_refused() -> None:
    digits = {"name": "digits", "read": {"_target_": "compressbench.data.idx.digits"}}
    with pytest.raises(UserError, match="has 10 classes; two are wanted"):
        Boost("3").apply(None, Bench(load({**digits, "validation": 0.1}), 0, "c"))
    coarse = {"low": [0, 1, 2, 3, 4], "high": [5, 6, 7, 8, 9]}
    with pytest.raises(UserError, match="set on the validation split, and none was held out"):
        Boost("low").apply(None, Bench(load({**digits, "validation": 0, "coarse": coarse}), 0, "c"))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"detection": 0.0}, "detection: 0 would find no face"),
        ({"detection": 1.5}, "detection: 1.5 is not in [0, 1]"),
        ({"stages": 0}, "stages: 0 is not a whole number of 1 or more"),
        ({"stages": 3, "like": "x"}, "stages: 1 is wanted"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UserError, match=re.escape(wanted)):
        Boost("face", **settings)


def test_no_stage_left_is_refused_and_so_is_a_net_that_is_no_cascade(bench: Bench) -> None:
    with pytest.raises(UserError, match="share: 0 leaves no stage"):
        First(0.0)
    with pytest.raises(UserError, match="is no cascade of features"):
        First(0.5).apply(State({}, {}), bench)


def test_a_store_file_whose_rectangles_leave_the_window_is_refused(cascade: State) -> None:
    wide = {**cascade.weights, "rectangles": cascade.weights["rectangles"] + 5}
    with pytest.raises(UserError, match="leaves the window of 8 x 8"):
        module_of(cascade.with_groups(weights=wide)).parts()


def test_features_know_how_many_they_are() -> None:
    assert len(Features(np.zeros((3, 4, 4), np.int16), np.zeros((3, 4), np.float32))) == 3
