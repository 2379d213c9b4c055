"""What compressed nets forget: the test by class, exemplars, chance and power, held against scipy and against hands."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from compressbench.comparing import many
from compressbench.data.examples import Examples
from compressbench.errors import UserError
from compressbench.populations import Member, Population
from compressbench.probes.exemplars import Exemplars
from compressbench.probes.impact import Impact
from compressbench.records import Metric, Record, Records
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.sections import lost
from compressbench.report.sections.populations import population_tables
from compressbench.tasks.images.classification import IMAGES
from test_populations import figures
from test_report import record

# --- Welch's test


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_welch_of_the_fact_sheet() -> None:
    found = many.welch(column(0.9, 0.91, 0.89, 0.92), column(0.8, 0.85, 0.82, 0.81))
    assert found.t[0] == pytest.approx(6.755, abs=5e-4)
    assert found.freedom[0] == pytest.approx(4.900, abs=5e-4)
    assert found.p[0] == pytest.approx(0.001168, abs=5e-7)


def test_welch_is_that_of_scipy() -> None:
    random = np.random.RandomState(0)
    for _ in range(100):
        sizes = random.randint(2, 40, 2)
        one, other = (random.randn(k, 7) * 3 * random.rand(7) + random.randn(7) for k in sizes)
        found, known = many.welch(one, other), stats.ttest_ind(one, other, equal_var=False)
        assert found.p == pytest.approx(known.pvalue, abs=1e-10, rel=0)
        assert found.t == pytest.approx(known.statistic, rel=1e-10)
        assert found.freedom == pytest.approx(known.df, rel=1e-10)


def test_a_p_that_is_tiny_isnt_lost_to_rounding() -> None:
    one, other = (np.random.RandomState(k).randn(30, 1) + 40 * k for k in (0, 1))
    known = stats.ttest_ind(one, other, equal_var=False).pvalue
    assert 0 < many.welch(one, other).p[0] == pytest.approx(known[0], rel=1e-8, abs=0)


def test_without_any_spread_p_is_one_or_that_of_exchanging_members() -> None:
    with np.errstate(all="raise"):
        same = many.welch(column(0.1 + 0.2, 0.3, 0.3), column(0.3, 0.3, 0.1 + 0.2))
        apart = many.welch(column(0.5, 0.5, 0.5), column(0.3, 0.3, 0.3))
        uneven = many.welch(column(0.5, 0.5), column(0.3, 0.3, 0.3))
    assert (same.t[0], same.p[0]) == (0, 1)

    def by_hand(one: list[float], other: list[float]) -> float:
        """All ways to deal out the members: how many are as far apart?"""
        whole, k = one + other, len(one)
        gaps = [
            abs(np.mean([whole[i] for i in c]) - np.mean([whole[i] for i in range(len(whole)) if i not in c]))
            for c in itertools.combinations(range(len(whole)), k)
        ]
        return float(np.mean([gap >= gaps[0] - 1e-12 for gap in gaps]))

    assert apart.p[0] == pytest.approx(by_hand([0.5] * 3, [0.3] * 3)) == pytest.approx(0.1)
    assert uneven.p[0] == pytest.approx(by_hand([0.5] * 2, [0.3] * 3))
    assert np.isinf(apart.t[0])


def test_of_one_net_there_is_no_spread() -> None:
    with pytest.raises(
        UserError, match="a population of 1 has no spread to compare by; two nets or more"
    ) as error:
        many.welch(column(0.5), column(0.5, 0.6))
    assert "\n" not in str(error.value)


# --- the test by class


def drawn(random: np.random.RandomState, nets: int, means: np.ndarray, sd: float, n: int = 200) -> np.ndarray:
    """Recalls of nets: of each class normal around its mean, as shares of ``n`` test examples."""
    return np.clip(np.round((means + sd * random.randn(nets, len(means))) * n) / n, 0, 1)


MEANS = np.linspace(0.6, 0.9, 10)


def hits(one: np.ndarray, other: np.ndarray) -> many.Impact:
    return many.impact(one, one.mean(), other, other.mean())


def test_recalls_by_hand() -> None:
    right = np.array([[True, False, True, True], [False, False, True, True]])
    found = many.recalls(right, np.array([0, 0, 2, -1]), 3)
    np.testing.assert_array_equal(found, [[0.5, np.nan, 1], [0, np.nan, 1]])


def test_a_loss_that_all_classes_share_is_no_impact() -> None:
    dense = drawn(np.random.RandomState(0), 12, MEANS, 0.03)
    found = hits(dense - 0.1, dense)
    np.testing.assert_allclose(found.change, 0, atol=1e-10)
    assert (found.p > 0.999).all()


def test_impact_and_its_correction_are_those_of_scipy() -> None:
    random = np.random.RandomState(1)
    one, other = drawn(random, 9, MEANS, 0.05), drawn(random, 7, MEANS - 0.1 * (np.arange(10) < 3), 0.05)
    found = hits(one, other)
    own, theirs = one - one.mean(), other - other.mean()
    known = stats.ttest_ind(own, theirs, equal_var=False).pvalue
    np.testing.assert_allclose(found.change, 100 * (own.mean(0) - theirs.mean(0)))
    np.testing.assert_allclose(found.p, known, atol=1e-10)
    np.testing.assert_allclose(found.bh, stats.false_discovery_control(known), atol=1e-10)
    order = np.sort(known)
    steps = [min(1, max((10 - j) * order[j] for j in range(k + 1))) for k in range(10)]
    np.testing.assert_allclose(np.sort(found.holm), steps, atol=1e-10)


@pytest.mark.slow
def test_false_alarms_under_the_null_are_what_alpha_says() -> None:
    """500 draws of 12 + 12 nets, 10 classes, spread of 4 points, 200 test examples a class, nothing true."""
    random = np.random.RandomState(2)
    draws = [hits(drawn(random, 12, MEANS, 0.04), drawn(random, 12, MEANS, 0.04)) for _ in range(500)]
    raw = np.mean([d.p <= 0.05 for d in draws])
    any_holm = np.mean([(d.holm <= 0.05).any() for d in draws])
    print(f"false alarms: raw {100 * raw:.1f} % of tests, Holm in {100 * any_holm:.1f} % of comparisons")
    assert 0.04 < raw < 0.06  # 5,000 tests: 0.05 ± 0.003, a little less for dependence
    assert any_holm < 0.08  # 500 comparisons: at most 0.05 ± 0.01


@pytest.mark.slow
def test_a_class_that_loses_fifteen_points_is_found_at_twelve_nets() -> None:
    """Spread of 6 points a class, as ResNet-8 has at scale=smoke; all lose 2 points, class 3 fifteen more."""
    random = np.random.RandomState(3)
    loss = np.full(10, 0.02)
    loss[3] += 0.15
    found = [hits(drawn(random, 12, MEANS - loss, 0.06), drawn(random, 12, MEANS, 0.06)) for _ in range(300)]
    raw, holm = (
        np.mean([getattr(f, name)[3] <= 0.05 and f.change[3] < 0 for f in found]) for name in ("p", "holm")
    )
    print(f"15 points at K = 12: raw {100 * raw:.1f} %, Holm {100 * holm:.1f} % of draws")
    assert raw >= 0.95
    assert holm >= 0.95


# --- chance and power


def test_halves_are_all_there_are_or_drawn_without_repeats() -> None:
    assert [tuple(map(tuple, pair)) for pair in many.halves(4)] == [
        ((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)),
    ]  # fmt: skip
    assert len(many.halves(5)) == 10
    assert {len(one) for one, _ in many.halves(5)} == {2}
    found = many.halves(12, 50)
    assert len({tuple(sorted((tuple(a), tuple(b)))) for a, b in found}) == 50
    assert all(len(a) == len(b) == 6 and sorted([*a, *b]) == list(range(12)) for a, b in found)
    assert all(
        (a == b).all()
        for one, two in zip(found, many.halves(12, 50), strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_null_hits_are_those_of_scipy() -> None:
    random = np.random.RandomState(4)
    found = drawn(random, 8, MEANS, 0.04)
    found[:4, 2] += 0.2
    top1 = found.mean(axis=1)
    known = [
        int(
            (
                stats.ttest_ind(found[a] - top1[a].mean(), found[b] - top1[b].mean(), equal_var=False).pvalue
                <= 0.05
            ).sum()
        )
        for a, b in many.halves(8)
    ]
    assert list(many.null_hits(found, top1)) == known
    assert max(known) >= 1
    assert many.null_hits(found[:3], top1[:3]) == ()


@pytest.mark.parametrize("freedom", [1.3, 4.9, 22.0, 58.0])
def test_power_is_that_of_the_noncentral_t(freedom: float) -> None:
    critical = stats.t.ppf(0.975, freedom)
    for shift in (0.0, 1.0, 3.0, 6.0):
        known = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
        assert many.power_of(shift, freedom, critical) == pytest.approx(known, abs=1e-8)


def test_what_can_be_seen_is_seen_four_times_of_five() -> None:
    points = many.detectable(np.full(3, 4.0), np.full(3, 4.0), 12, 12)
    random = np.random.RandomState(5)
    one, other = random.randn(12, 4000) * 4, random.randn(12, 4000) * 4 + points
    assert np.mean(stats.ttest_ind(one, other, equal_var=False).pvalue <= 0.05) == pytest.approx(
        0.8, abs=0.02
    )
    assert many.detectable(np.full(3, 4.0), np.full(3, 4.0), 3, 3) > 2 * points
    assert math.isnan(many.detectable(np.zeros(3), np.zeros(3), 3, 3))


# --- exemplars


def test_exemplars_by_hand() -> None:
    dense = many.votes(np.array([[0, 1, 2, -1], [0, 1, 1, -1], [0, 2, 0, -1]]), 3)
    pruned = many.votes(np.array([[0, 2, 2, 0], [1, 2, 2, 0], [1, 2, 2, 0]]), 3)
    found = many.exemplars(pruned, dense)
    assert found.reference.tolist() == [0, 1, 2, -1]  # of three as frequent the highest
    assert found.subject.tolist() == [1, 2, 2, 0]
    assert found.differ.tolist() == [True, True, False, False]
    assert found.tied.tolist() == [False, False, True, False]
    np.testing.assert_allclose(found.score, [4 / 3, 4 / 3, 4 / 3, 2])
    assert found.ranked.tolist() == [0, 1]


def test_of_identical_populations_nothing_is_forgotten_and_taxicab_is_within_two() -> None:
    random = np.random.RandomState(6)
    one, other = (many.votes(random.randint(-1, 10, (5, 400)), 10) for _ in range(2))
    same = many.exemplars(one, one)
    assert not same.differ.any()
    assert (same.score == 0).all()
    score = many.taxicab(one, other)
    assert score.min() >= 0
    assert score.max() <= 2
    apart = many.taxicab(many.votes(np.zeros((4, 2), int), 3), many.votes(np.full((4, 2), 2), 3))
    np.testing.assert_array_equal(apart, [2, 2])
    shares = [v[:, :] / 5 for v in (one, other)]
    np.testing.assert_allclose(score, np.abs(shares[0] - shares[1]).sum(axis=1))


def test_equal_taxicab_scores_are_equal_to_the_bit_and_rank_by_row() -> None:
    """Rounding must not rank: 1/3 + 1/3 + 2/3 and 2/3 + 2/3 are one score."""
    tables = [t for t in itertools.product(range(4), repeat=3) if sum(t) == 3]
    pairs = list(itertools.product(tables, repeat=2))
    one, other = (np.array([p[k] + (0,) for p in pairs], np.int32) for k in (0, 1))
    exact = [Fraction(sum(abs(a - b) for a, b in zip(*pair, strict=True)), 3) for pair in pairs]
    assert many.taxicab(one, other).tolist() == [float(x) for x in exact]
    found = many.exemplars(one, other)
    assert found.ranked.tolist() == sorted(np.flatnonzero(found.differ), key=lambda k: (-exact[k], k))


def test_populations_of_other_data_are_refused() -> None:
    one, other = many.votes(np.zeros((2, 4), int), 3), many.votes(np.zeros((2, 5), int), 3)
    with pytest.raises(UserError, match="populations of other data: 4 examples of 3 classes beside 5 of 3"):
        many.exemplars(one, other)


def test_all_statistics_of_thirty_and_thirty_models_take_seconds() -> None:
    random = np.random.RandomState(7)
    truth = random.randint(0, 10, 10_000)
    both = [
        np.where(random.rand(30, 10_000) < 0.9, truth, random.randint(0, 10, (30, 10_000))) for _ in range(2)
    ]
    place = bench(truth.tolist(), classes=10)
    one, other = (population(*labels.tolist()) for labels in both)
    _ = one.labels, other.labels
    began = time.process_time()
    rows = [m for probe in (Impact(), Exemplars()) for m in probe.measure_many(one, other, place)]
    spent = time.process_time() - began
    print(f"30 + 30 models, 10,000 examples, 10 classes: {spent:.2f} s of one processor")
    assert len(rows) > 50
    assert spent < 5


# --- the probes


def population(*labels: list[int]) -> Population:
    def member(seed: int, row: list[int]) -> Member:
        return Member(f"net@seed{seed}", seed, lambda: torch.tensor(row), lambda: torch.zeros(0))

    return Population([member(seed, row) for seed, row in enumerate(labels)])


def bench(truth: list[int], classes: int = 3, pictures: bool = True, groups: Any = None) -> Any:
    names = tuple("abcdefghij"[:classes])
    images = torch.arange(len(truth), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    codes = {k: torch.tensor(v) for k, (_, v) in (groups or {}).items()}
    examples = Examples(
        {IMAGES: images} if pictures else {}, torch.tensor(truth), torch.arange(len(truth)) + 100, codes
    )
    task = SimpleNamespace(classes=names)
    told = {k: names for k, (names, _) in (groups or {}).items()}
    dataset = SimpleNamespace(name="toys", groups=told, task=task)
    return SimpleNamespace(task=task, dataset=dataset, feed=lambda split: examples)


TRUTH = [0, 0, 1, 1]
DENSE = population([0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1])
PRUNED = population([0, 0, 0, 0], [0, 0, 2, 1], [0, 0, 2, 0])


def found(probe: Any, one: Population, other: Population, place: Any) -> dict[tuple[str, str], Metric]:
    rows = list(probe.measure_many(one, other, place))
    assert len({(m.name, m.group) for m in rows}) == len(rows)
    return {(m.name, m.group): m for m in rows}


def test_impact_by_hand() -> None:
    rows = found(Impact(), PRUNED, DENSE, bench(TRUTH))
    # recall of class a: 1 1 1 both; of b: 1 .5 1 and 0 .5 0; accuracy 11/12 and 7/12
    assert rows["impact", "a"].value == pytest.approx(100 * (11 - 7) / 12)
    assert rows["impact", "b"].value == pytest.approx(100 * ((1 / 6 - 7 / 12) - (5 / 6 - 11 / 12)))
    assert ("impact", "c") not in rows  # no test example
    known = stats.ttest_ind([0, 0.5, 0], [1, 0.5, 1], equal_var=False).pvalue
    shifted = stats.ttest_ind(
        np.array([0, 0.5, 0]) - 7 / 12, np.array([1, 0.5, 1]) - 11 / 12, equal_var=False
    )
    assert rows["impact_p", "b"].value == pytest.approx(shifted.pvalue)
    assert known < shifted.pvalue
    assert rows["impact_p", "a"].value == 1  # recall 1 in all nets of both: only the mean moved
    assert "recall 100.0 % in all nets of both" in rows["impact_p", "a"].note
    assert (rows["impacted_classes", ""].value, rows["impacted_classes", ""].n) == (0, 2)
    assert rows["impacted_null", ""].value is None
    assert "four or more" in rows["impacted_null", ""].note
    assert "fewer than 8 nets" in rows["detectable_impact", ""].note


def test_a_planted_class_is_counted_with_its_sign() -> None:
    random = np.random.RandomState(8)
    truth = np.repeat(np.arange(10), 100)

    def nets(wrong: np.ndarray) -> Population:
        rows = [np.where(random.rand(1000) < wrong[truth], (truth + 1) % 10, truth) for _ in range(12)]
        return population(*(r.tolist() for r in rows))

    base = np.full(10, 0.1)
    worse = base + 0.3 * (np.arange(10) == 4)
    attribute = {"size": (("large", "small"), (truth >= 5).astype(int).tolist())}
    rows = found(Impact(), nets(worse), nets(base), bench(truth.tolist(), 10, groups=attribute))
    assert rows["impacted_down", ""].value >= 1
    assert rows["impact_p_holm", "e"].value < 0.001
    assert rows["impact", "e"].value == pytest.approx(-27, abs=4)
    assert (
        rows["impacted_classes", ""].value == rows["impacted_down", ""].value + rows["impacted_up", ""].value
    )
    assert (
        rows["impacted_holm", ""].value <= rows["impacted_bh", ""].value <= rows["impacted_classes", ""].value
    )
    # the attribute's values are tested apart: large holds class e
    assert rows["impact", "size=large"].value == pytest.approx(-3, abs=1.5)
    assert (rows["impacted_classes", "size"].n, rows["impacted_down", "size"].value) == (2, 1)
    note = rows["impacted_null", ""].note
    assert "50 splits of the 12 reference nets into halves" in note
    assert f"{10 * rows['impacted_null', ''].value:.1f} % of tests, alpha 5 %" in note


def test_exemplars_are_counted_placed_and_shown() -> None:
    attribute = {"size": (("large", "small"), [0, 1, 1, -1])}
    rows = found(Exemplars(), PRUNED, DENSE, bench(TRUTH, groups=attribute))
    # modal: dense 0 0 1 1, pruned 0 0 2 0
    assert (rows["exemplar_share", ""].value, rows["exemplar_count", ""].value) == (50, 2)
    assert rows["exemplar_ties", ""].value == 0
    assert [rows["exemplar_share", g].value for g in ("a", "b")] == [0, 100]
    assert ("exemplar_share", "c") not in rows
    assert "50.0 % of the test examples are of it" in rows["exemplar_share", "b"].note
    assert [rows["exemplar_share", f"size={g}"].value for g in ("large", "small")] == [0, 100]
    assert rows["exemplar_share", "size=small"].n == 1
    assert rows["reference_on_exemplars", ""].value == pytest.approx(100 * 5 / 6)
    assert rows["subject_on_exemplars", ""].value == pytest.approx(100 * 1 / 6)
    assert rows["reference_elsewhere", ""].value == rows["subject_elsewhere", ""].value == 100
    assert rows["taxicab_mean", ""].value == pytest.approx((0 + 0 + 2 + 2 / 3) / 4)
    first, second = rows["exemplar", "1"], rows["exemplar", "2"]
    assert (first.value, second.value) == (102, 103)
    assert first.note == "true b · dense b · compressed c · taxicab 2.00"
    assert first.artefact.startswith("data:image/png;base64,")
    assert first.artefact != second.artefact


def test_a_task_without_pictures_has_words_and_rows() -> None:
    rows = found(Exemplars(), PRUNED, DENSE, bench(TRUTH, pictures=False))
    assert (rows["exemplar", "1"].value, rows["exemplar", "1"].artefact) == (102, "")
    assert "compressed c" in rows["exemplar", "1"].note
    assert ("exemplar", "1") not in found(Exemplars(shown=0), PRUNED, DENSE, bench(TRUTH))


def test_the_reference_beside_itself_is_all_zero() -> None:
    rows = found(Exemplars(), DENSE, DENSE, bench(TRUTH))
    assert (
        rows["exemplar_share", ""].value,
        rows["exemplar_count", ""].value,
        rows["taxicab_mean", ""].value,
    ) == (0, 0, 0)
    assert (rows["reference_on_exemplars", ""].value, rows["reference_on_exemplars", ""].note) == (
        None,
        "there are no exemplars",
    )
    assert not any(name == "exemplar" for name, _ in rows)
    assert rows["exemplar_share", "a"].value is None  # of no exemplars there are no shares
    rows = found(Impact(), DENSE, DENSE, bench(TRUTH))
    assert {rows["impact", g].value for g in "ab"} == {0}
    assert {rows["impact_p", g].value for g in "ab"} == {1}
    assert rows["impacted_classes", ""].value == 0


def test_one_net_is_no_population_and_the_line_says_so() -> None:
    for probe, name in ((Impact(), "impacted_classes"), (Exemplars(), "exemplar_share")):
        rows = found(probe, population(TRUTH), DENSE, bench(TRUTH))
        assert all(m.value is None for m in rows.values())
        assert (
            rows[name, ""].note
            == "a population of 1 has no spread to compare by; two nets or more are needed"
        )


@pytest.mark.parametrize("kind", [Impact, Exemplars])
def test_faults_of_settings_are_one_line(kind: Any) -> None:
    attribute = {"size": (("large", "small"), [0, 1, 1, 0])}
    with pytest.raises(UserError, match="by: toys has no attribute 'sise'; did you mean size"):
        list(kind(by=["sise"]).measure_many(PRUNED, DENSE, bench(TRUTH, groups=attribute)))
    with pytest.raises(UserError, match="by: 'size' is no list of attributes"):
        kind(by="size")
    with pytest.raises(UserError, match="splits is 0, must be 1 or more"):
        kind(splits=0)
    with pytest.raises(UserError, match="alpha is 1, must be between"):
        Impact(alpha=1)
    with pytest.raises(UserError, match="shown is -1"):
        Exemplars(shown=-1)
    with pytest.raises(UserError, match="of one class an example"):
        list(kind().measure_many(PRUNED, DENSE, bench([[0, 1, 1]] * 4)))


# --- the report


def told(series: str, metrics: list[Metric], **given: Any) -> list[Record]:
    key = f"{series}-0-3"
    rows = figures(series, **given)
    for m in metrics:
        probe = "exemplars" if m.name.startswith(("exemplar", "refer", "subject", "taxi")) else "impact"
        row = record(series=series, moment="populations", probe=probe, metric=m.name, value=m.value, unit=m.unit,
                     group=m.group, n=m.n, note=m.note, key=key, reference="dense-0-3", artefact=m.artefact)  # fmt: skip
        rows.append(row)
    return rows


def measured(one: Population, other: Population) -> list[Metric]:
    return [m for probe in (Impact(), Exemplars()) for m in probe.measure_many(one, other, bench(TRUTH))]


def test_the_section_of_what_is_forgotten(tmp_path: Path) -> None:
    size = {"probe": "cost", "metric": "sparse_bytes", "unit": "bytes"}
    rows = [
        record(), record(series="<b>cut", value=84.0), record(series="small", value=84.0),
        record(**size, value=400.0), record(series="<b>cut", **size, value=110.0),
        record(series="small", **size, value=100.0),
        *told("dense", measured(DENSE, DENSE)), *told("<b>cut", measured(PRUNED, DENSE)),
        *told("small", measured(DENSE, DENSE)),
    ]  # fmt: skip
    (panel,) = panels(Records(rows))
    section = lost.section(panel, "")
    assert "3 nets a population: with fewer than 8" in section.lead
    affected, exemplars = section.tables
    assert [r.label for r in affected.rows] == ["<b>cut", "small"]
    assert exemplars.rows[0].cells[0].plain == "50.0"
    named = {t.title: t for t in section.more}
    assert [r.cells[0].plain for r in named["Impact by class"].rows] == ["+33.3", "−33.3"]
    assert [r.cells[0].plain for r in named["Where exemplars come from"].rows] == ["50.0", "50.0"]
    assert [[c.plain for c in r.cells[:2]] for r in named["At equal bytes"].rows] == [
        ["<b>cut", "110"],
        ["small", "100"],
    ]
    assert [r.label for r in named["Families side by side"].rows] == ["dense", "<b>cut", "small"]
    (shown,) = section.galleries
    assert shown.tiles[0].caption == "true b · dense b · compressed c · taxicab 2.00"
    for table in population_tables(panel):
        assert not any("xemplar" in head or "ffected" in head for head, _ in table.heads)
    page = write_report(Records(rows), tmp_path, "t").read_text()
    assert 'id="forgotten"' in page
    assert "What is forgotten: &lt;b&gt;cut" in page
    assert "<b>cut" not in page
    assert page.count('<img src="data:image/png') == 2


def test_families_far_apart_are_not_set_side_by_side() -> None:
    size = {"probe": "cost", "metric": "sparse_bytes", "unit": "bytes"}
    rows = [
        record(), record(series="cut", value=84.0), record(series="small", value=84.0),
        record(**size, value=400.0), record(series="cut", **size, value=126.0),
        record(series="small", **size, value=100.0),
        *told("dense", measured(DENSE, DENSE)), *told("cut", measured(PRUNED, DENSE)),
        *told("small", measured(DENSE, DENSE)),
    ]  # fmt: skip
    titles = [t.title for t in lost.section(panels(Records(rows))[0], "").more]
    assert "At equal bytes" not in titles
    assert "At equal accuracy" in titles
    bare = [r for r in rows if r.probe != "cost"]
    assert "Families side by side" not in [t.title for t in lost.section(panels(Records(bare))[0], "").more]


def test_a_population_without_figures_has_its_reason_and_no_gallery() -> None:
    rows = [*told("dense", measured(DENSE, DENSE)), *told("cut", measured(PRUNED, DENSE))]
    rows = [dataclasses.replace(r, value=None, note="no population: x") for r in rows]
    section = lost.section(panels(Records([record(), *rows]))[0], "")
    assert not section.galleries
    assert section.tables[0].rows[0].cells[1].plain == "–"


def test_no_populations_no_section() -> None:
    assert lost.section(panels(Records([record()]))[0], "").empty
    assert lost.section(panels(Records([record(), *figures("dense")]))[0], "").empty


@pytest.mark.parametrize(
    ("raw", "corrected", "shown"), [(0.01, 0.05, "**"), (0.05, 0.4, "*"), (0.06, 0.6, "")]
)
def test_impacts_carry_stars_raw_and_corrected(raw: float, corrected: float, shown: str) -> None:
    values = {"impact": -4.0, "impact_p": raw, "impact_p_holm": corrected}
    metrics = [Metric(name, value, "1", group="a", n=9) for name, value in values.items()]
    rows = [record(), *told("dense", metrics), *told("cut", metrics)]
    (table,) = [t for t in lost.section(panels(Records(rows))[0], "").more if t.title == "Impact by class"]
    assert table.rows[0].cells[0].plain.removeprefix("−").lstrip("4.0") == shown


def test_a_class_that_nobody_has_learned_has_not_moved() -> None:
    """Where every net of both populations has recall 0 only the mean moved: no hit, neither there nor in the null."""
    rng = np.random.default_rng(3)
    dense, pruned = 0.8 + 0.02 * rng.standard_normal((8, 5)), 0.75 + 0.02 * rng.standard_normal((8, 5))
    dense[:, 4] = pruned[:, 4] = 0
    found = many.impact(pruned, pruned.mean(), dense, dense.mean())
    assert found.p[4] == 1
    assert found.change[4] == pytest.approx(100 * (dense.mean() - pruned.mean()))
    without = many.null_hits(dense[:, :4], dense.mean(axis=1))
    assert many.null_hits(dense, dense.mean(axis=1)) == without
    pruned[:, 4] = 0.5
    assert many.impact(pruned, pruned.mean(), dense, dense.mean()).p[4] == pytest.approx(2 / math.comb(16, 8))
