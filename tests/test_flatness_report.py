"""Flatness in the report: what belongs together, rank correlations, matched dense accuracy; from records alone."""

from __future__ import annotations

import random

import pytest

from cases_report import Page, accuracies, record
from compressbench.records import Records
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.sections.flatness import (
    at_matched,
    drops,
    flatness_tables,
    interval,
    measured_at,
    outcomes,
    rank_correlation,
    settings,
    widest,
)


def test_rank_correlation_against_scipy() -> None:
    from scipy.stats import spearmanr

    drawing = random.Random(0)
    for digits in (0, 1, 3):
        pairs = [(round(drawing.gauss(0, 1), digits), round(drawing.gauss(0, 1), digits)) for _ in range(40)]
        assert rank_correlation(pairs) == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    assert rank_correlation([(1, 2), (2, 4), (5, 9)]) == pytest.approx(1)
    assert rank_correlation([(1, 2), (1, 4), (1, 9)]) is None
    assert rank_correlation([(1, 2), (2, 1)]) is None


def test_an_interval_holds_what_it_should() -> None:
    steep = [(k, k + (k % 3)) for k in range(20)]
    low, high = interval(steep)
    assert 0.8 < low < rank_correlation(steep) <= high <= 1
    drawing = random.Random(1)
    loose = [(drawing.random(), drawing.random()) for _ in range(20)]
    low, high = interval(loose)
    assert low < 0 < high
    assert interval(loose) == (low, high)
    assert interval([(1.0, 1.0)] * 5) is None


def test_accuracy_at_a_matched_dense_accuracy() -> None:
    curve = [(80.0, 40.0), (90.0, 60.0), (85.0, 45.0)]
    assert at_matched(curve, 82.5) == pytest.approx(42.5)
    assert at_matched(curve, 90.0) == 60.0
    assert at_matched(curve, 90.1) is None
    assert at_matched(curve, 79.0) is None
    assert at_matched([(80.0, 40.0)], 80.0) is None


ARMS = {
    "SGD": (90, 4),
    "SGD, half as long": (86, 9),
    "SGD, twice as long": (92, 3),
    "SGD + SAM": (91, 1),
    "Adam": (88, 6),
}


def flat_records(seeds: int = 2) -> Records:
    """Planted: the drop at 20 % density is five times the largest eigenvalue, that at 50 % as much as it."""
    rows = []
    for seed in range(seeds):
        for moment in ("final", "trained"):
            rows += accuracies("dense", 0, 1.0, {seed: 90.0 + seed}, moment=moment, state="sgd.train")
        for arm, (dense, sharp) in ARMS.items():
            name = arm.replace(" ", "_")
            here = {"moment": "trained", "series": arm, "order": 1, "seed": seed, "state": f"{name}.train"}
            here["compute"] = 1e9 * {"SGD, half as long": 1, "SGD, twice as long": 4}.get(arm, 2)
            own = {k: here[k] for k in ("moment", "state", "compute")}
            rows += accuracies(arm, 1, 1.0, {seed: dense + seed}, **own)
            for suffix, factor in (("", 1), ("_rescaled", 10)):
                rows.append(
                    record(
                        **here,
                        probe="hessian",
                        metric=f"hessian_largest{suffix}",
                        value=sharp * factor,
                        unit="1",
                    )
                )
            rows.append(
                record(**here, probe="sharpness", metric="generalisation_gap", value=sharp / 10, unit="nats")
            )
            for order, (density, factor) in enumerate(((0.5, 1), (0.2, 5)), 1):
                after = {seed: dense + seed - factor * sharp}
                tuned = {seed: dense + seed - 0.1 * sharp}
                rows += accuracies(arm, order, density, after, state=f"{name}.at{order}")
                rows += accuracies(f"{arm}, fine-tuned", order, density, tuned, state=f"{name}.tuned{order}")
        rows += accuracies("pruned at random", 1, 0.2, {seed: 11.0})
    return Records(rows)


def test_what_became_of_each_net() -> None:
    (panel,) = panels(flat_records())
    assert measured_at(panel) == "trained"
    assert [s.label for s in settings(panel, "trained")] == list(ARMS)
    found = {o.name: o for o in outcomes(panel, "trained")}
    assert set(found) == {
        "50.0 % density",
        "20.0 % density",
        "50.0 % density, fine-tuned",
        "20.0 % density, fine-tuned",
    }
    for name, factor in (("50.0 % density", 1), ("20.0 % density", 5), ("20.0 % density, fine-tuned", 0.1)):
        lost = drops(panel, "trained", found[name])
        assert {
            arm: pytest.approx({0: factor * sharp, 1: factor * sharp}) for arm, (_, sharp) in ARMS.items()
        } == lost
    assert {o.name for o in widest(panel, "trained")} >= {"20.0 % density"}


def test_tables_tell_the_planted_correlation_and_the_matched_difference() -> None:
    (panel,) = panels(flat_records())
    tables = {t.title: t for t in flatness_tables(panel)}
    assert list(tables)[:2] == [
        "Flatness of the trained nets",
        "Flatness of the same functions, weights rescaled",
    ]
    ranks = tables["Rank correlation with what is lost"]
    assert [h for h, _ in ranks.heads][-1] == "Generalisation gap"
    assert {c.text for row in ranks.rows for c in row.cells} == {"+1.00"}
    assert [row.label for row in ranks.rows] == ["Largest eigenvalue", "Largest eigenvalue, rescaled"]
    matched = tables["At the same dense accuracy"]
    assert [row.label for row in matched.rows] == ["SGD + SAM", "Adam"]
    heads = [h for h, _ in matched.heads]
    # SGD at 91 dense lies half way between 90 - 5 x 4 and 92 - 5 x 3: SAM has 91 - 5 x 1
    assert matched.rows[0].cells[heads.index("20.0 % density")].text == "+12.5"
    assert matched.rows[0].cells[heads.index("20.0 % density")].n == 2


def test_series_of_several_nets_go_by_their_order() -> None:
    rows = []
    for moment, suffix in (("trained", "train"), ("final", "train"), ("rounded", "round")):
        rows += accuracies("dense", 0, 1.0, {0: 90.0}, moment=moment, state="base.train")
        for order, (rate, sharp) in enumerate((("0p01", 1), ("0p03", 2), ("0p1", 3), ("0p3", 4)), 1):
            state = f"rate_{rate}.{suffix}"
            lost = 2 * sharp if moment == "rounded" else 0
            rows += accuracies("learning rate", order, 1.0, {0: 90.0 - lost}, moment=moment, state=state)
            here = {"moment": moment, "series": "learning rate", "order": order, "state": state}
            if moment == "trained":
                rows.append(
                    record(**here, probe="hessian", metric="hessian_trace", value=float(sharp), unit="1")
                )
            if moment == "rounded":
                rows.append(record(**here, probe="structure", metric="weight_bits", value=3.0, unit="bits"))
    (panel,) = panels(Records(rows))
    assert [s.label for s in settings(panel, "trained")] == [
        f"learning rate, {r}" for r in ("0.01", "0.03", "0.1", "0.3")
    ]
    (outcome,) = outcomes(panel, "trained")
    assert outcome.name == "3 bits"
    assert drops(panel, "trained", outcome) == {
        f"learning rate, {rate}": {0: 2.0 * k} for k, rate in enumerate(("0.01", "0.03", "0.1", "0.3"), 1)
    }
    tables = {t.title: t for t in flatness_tables(panel)}
    assert tables["Rank correlation with what is lost"].rows[0].cells[0].text == "+1.00"
    assert "At the same dense accuracy" not in tables


def trained(
    series: str, state: str, order: int = 1, sharp: float = 1.0, moment: str = "trained", **given
) -> list:
    here = {"moment": moment, "series": series, "order": order, "state": state, **given}
    return [
        record(**here, value=90.0 - sharp),
        record(**here, probe="hessian", metric="hessian_trace", value=sharp, unit="1"),
    ]


def test_only_what_stands_in_the_same_block_is_what_became_of_a_net() -> None:
    """The pruned states of a net that wasn't measured are nobody's, whatever their series is called."""
    rows = accuracies("dense", 0, 1.0, {0: 90.0}, state="sgd.train")
    for arm in ("SGD", "Adam"):
        rows += trained(arm, f"{arm.lower()}.train")
        rows += accuracies(arm, 1, 0.2, {0: 70.0}, state=f"{arm.lower()}.at.prune")
    rows += accuracies("SGD, half as long", 1, 0.2, {0: 41.0}, state="half.at.prune")
    rows += accuracies("Adam, half as long", 1, 0.2, {0: 41.0}, state="adam_half.at.prune")
    (panel,) = panels(Records(rows))
    assert [o.name for o in outcomes(panel, "trained")] == ["20.0 % density"]


def test_the_same_level_at_two_moments_is_two_outcomes() -> None:
    rows = accuracies("dense", 0, 1.0, {0: 90.0}, state="sgd.train")
    for arm in ("SGD", "Adam"):
        rows += trained(arm, f"{arm.lower()}.train")
        for moment, after in (("pruned", 50.0), ("final", 80.0)):
            rows += accuracies(arm, 1, 0.2, {0: after}, moment=moment, state=f"{arm.lower()}.{moment}")
    (panel,) = panels(Records(rows))
    assert {o.name for o in outcomes(panel, "trained")} == {"20.0 % density, pruned", "20.0 % density, final"}


def test_nets_of_nested_branches_have_names_of_their_own() -> None:
    rows = accuracies("dense", 0, 1.0, {0: 90.0}, moment="trained", state="base")
    for order, rate in enumerate(("0p01", "1em05", "0p3"), 1):
        rows += trained("SGD", f"arm_sgd.rate_{rate}.train", order)
    (panel,) = panels(Records(rows))
    assert [s.label for s in settings(panel, "trained")] == ["SGD, 0.01", "SGD, 1e-05", "SGD, 0.3"]


def test_a_dense_net_that_no_series_has_is_listed_too() -> None:
    rows = trained("dense", "dense", 0, moment="final")
    for order, density in enumerate((0.5, 0.2), 1):
        rows += trained("magnitude", f"magnitude_{order}.prune", order, moment="final", density=density)
    (panel,) = panels(Records(rows))
    assert [s.label for s in settings(panel, "final")] == ["dense", "magnitude, 1", "magnitude, 2"]
    assert flatness_tables(panel)[0].title == "Flatness of the nets"


def test_the_page_has_a_section_and_charts(tmp_path) -> None:
    text = Page(write_report(flat_records(), tmp_path, "flat")).text
    assert "Flatness of the trained nets" in text
    assert {p.name for p in tmp_path.glob("*.svg")} >= {"drop_vs_curvature_0.svg", "accuracy_vs_dense_0.svg"}
    assert "mathdefault" not in (tmp_path / "drop_vs_curvature_0.svg").read_text()
    plain = Records(accuracies("dense", 0, 1.0, {0: 90.0}) + accuracies("ticket", 1, 0.5, {0: 80.0}))
    assert "Flatness of" not in Page(write_report(plain, tmp_path / "b", "plain")).text
