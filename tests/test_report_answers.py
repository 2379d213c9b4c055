"""The report's first page: every figure of its sentences recomputed from the records by numpy and scipy."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cases_report import Page, accuracies, full, record
from compressbench.records import Record, Records
from compressbench.report import described
from compressbench.report.answers import (
    ACCURATE,
    AGREES,
    FRAGILE,
    PAYS,
    SMALLER,
    TAKE,
    Answer,
    answers,
    asked,
    spoken_of,
    tiles,
)
from compressbench.report.drawing import series_class, settings, spread_apart
from compressbench.report.estimates import class_changes, over_seeds
from compressbench.report.first_charts import charts
from compressbench.report.joint import gather, joint_report
from compressbench.report.page import write_report
from compressbench.report.panels import panels
from compressbench.report.picks import states_of, unbeaten
from compressbench.report.section import Picture, Section

DENSE = {0: 90.0, 1: 91.0, 2: 90.5, 3: 90.2}


def plain(text: str) -> str:
    return text.replace("\u202f", " ").replace("\u00a0", " ").replace("−", "-")


def told(rows: list[Record] | Records) -> dict[str, Answer]:
    (panel,) = panels(Records(rows))
    of = asked(panel)
    assert of is not None
    return {a.question: a for a in answers(of)}


def words(rows: list[Record] | Records, question: str) -> str:
    return plain(" ".join(told(rows)[question].sentences))


def changed(
    by: list[float], series: str = "ticket", order: int = 1, density: float = 0.5, **more
) -> list[Record]:
    """A series whose accuracy differs from dense by so much at each seed."""
    values = {seed: DENSE[seed] + d for seed, d in enumerate(by)}
    return accuracies(series, order, density, values, **more)


def dense(seeds: int = 4) -> list[Record]:
    return accuracies("dense", 0, 1.0, {s: DENSE[s] for s in range(seeds)})


def student(values: list[float]) -> tuple[float, float]:
    x = np.asarray(values)
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return x.mean() - half, x.mean() + half


@pytest.mark.parametrize(
    ("by", "verdict"),
    [
        ([-0.3, -0.2, -0.4, -0.3], "Yes, within one point"),
        ([-3.0, -2.8, -3.3, -2.9], "No, more than a point is lost"),
        ([-0.9, -0.1, -1.6, +0.2], "Can’t be told: the interval is wide"),
        ([-0.95, -0.5, -0.99, -1.4], "Something is lost; how much can’t be told"),
    ],
)
def test_accuracy_over_seeds_has_students_interval_and_claims_no_more(by, verdict):
    found = told([*dense(), *changed(by)])[ACCURATE]
    low, high = student(by)
    assert found.verdict == verdict
    text = plain(found.sentences[0])
    assert f"{np.mean(by):+.1f} points" in text
    ends = re.search(r"interval ([+-][\d.]+) to ([+-]?[\d.]+), n = 4 seeds of 500 examples", text)
    assert ends
    assert [float(x) for x in ends.groups()] == [pytest.approx(x, abs=0.051) for x in (low, high)]


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Method 10 of Newcombe 1998, written out once more."""
    n, z = both + first + second + neither, stats.norm.ppf(0.975)

    def score(k):
        p = k / n
        roots = np.roots([1 + z**2 / n, -(2 * p + z**2 / n), p**2])
        return min(roots), max(roots)

    p, q = (both + first) / n, (both + second) / n
    (l1, u1), (l2, u2) = score(both + first), score(both + second)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    over = both * neither - first * second
    over = max(over - n / 2, 0) if over > 0 else over
    phi = over / math.sqrt(margins)
    low = p - q - math.sqrt((p - l1) ** 2 - 2 * phi * (p - l1) * (u2 - q) + (u2 - q) ** 2)
    high = p - q + math.sqrt((u1 - p) ** 2 - 2 * phi * (u1 - p) * (q - l2) + (q - l2) ** 2)
    return 100 * low, 100 * high


def test_one_seed_has_the_paired_interval_of_its_examples_and_says_so():
    """Of 500: dense right on 450, the state on 442; 20 only dense, 12 only the state."""
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0}), *accuracies("ticket", 1, 0.5, {0: 88.4})]
    state = {"series": "ticket", "order": 1, "density": 0.5, "probe": "forgetting"}
    rows += [record(**state, metric="forgotten", value=4.0), record(**state, metric="learned", value=2.4)]
    text = plain(told(rows)[ACCURATE].sentences[0])
    low, high = newcombe(430, 12, 20, 38)
    assert f"-1.6 points (95 % interval {low:+.1f} to {high:+.1f}, n = 500 examples; one seed)" in text
    apart = plain(told(rows[:2])[ACCURATE].sentences[0])
    assert "taken as if each net had its own" in apart
    wide = [float(x) for x in re.search(r"interval (\S+) to (\S+),", apart).groups()]
    assert wide[0] < low
    assert wide[1] > high


def test_one_seed_of_unknown_examples_cant_be_told():
    rows = [*accuracies("dense", 0, 1.0, {0: 90.0}, n=0), *accuracies("ticket", 1, 0.5, {0: 89.9}, n=0)]
    found = told(rows)[ACCURATE]
    assert found.verdict == "Can’t be told: one seed"
    assert "no interval" in found.sentences[0]


def loyal(series: str, by_seed: dict[int, float], order: int = 0, density: float = 1.0) -> list[Record]:
    return accuracies(series, order, density, by_seed, probe="loyalty", metric="label_loyalty")


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ([97.0, 97.5, 96.8, 97.2], "More than a net trained again would"),
        ([89.0, 88.5, 89.5, 89.2], "Less than a net trained again would"),
        ([94.0, 96.5, 92.9, 95.9], "Can’t be told from training again"),
    ],
)
def test_agreement_is_read_against_the_floor_of_the_same_seeds(own, verdict):
    floor = [94.0, 93.5, 94.2, 93.8]
    rows = [*dense(), *changed([0.0] * 4), *loyal("ticket", dict(enumerate(own)), 1, 0.5)]
    rows += accuracies("floor", 0, 1.0, DENSE) + loyal("floor", dict(enumerate(floor)))
    found = told(rows)[AGREES]
    assert found.verdict == verdict
    gap = np.asarray(own) - floor
    low, high = student(gap)
    text = plain(" ".join(found.sentences))
    assert f"{np.mean(own):.1f} % of examples" in text
    assert f"agree on {np.mean(floor):.1f} %" in text
    ends = re.search(r"beside them \(95 % interval (\S+) to (\S+), n = 4 seeds", text)
    assert ends
    assert [float(x) for x in ends.groups()] == [pytest.approx(x, abs=0.051) for x in (low, high)]


def test_without_a_floor_agreement_cant_be_judged_and_a_population_is_one():
    rows = [*dense(), *changed([0.0] * 4), *loyal("ticket", {s: 95.0 + s / 10 for s in range(4)}, 1, 0.5)]
    assert told(rows)[AGREES].verdict == "Can’t be told"
    ends = (("", 92.0), ("_low", 90.5), ("_high", 93.9))
    many = [
        record(
            series="dense", moment="populations", probe="loyalty", metric=f"floor_label_loyalty{end}", value=v
        )
        for end, v in ends
    ]
    found = told([*rows, *many])[AGREES]
    assert found.verdict == "More than any pair of dense nets"
    assert "92.0 % on average, 90.5 to 93.9 %" in plain(found.sentences[-1])


def recalls(changes: dict[str, list[float]]) -> list[Record]:
    state = {
        "series": "ticket",
        "order": 1,
        "density": 0.5,
        "probe": "forgetting",
        "unit": "points",
        "n": 100,
    }
    return [
        record(**state, metric="recall_change", group=name, seed=s, value=v)
        for name, by in changes.items()
        for s, v in enumerate(by)
    ]


def test_who_pays_is_students_test_with_holms_correction():
    changes = {
        "cat": [-15.0, -14.5, -15.5, -15.2],
        "dog": [-2.0, -0.1, -3.0, +1.0],
        "cow": [-1.0, -1.4, -0.7, -1.1],
        "owl": [0.5, -0.5, 0.2, 0.0],
    }
    ps = {name: stats.ttest_1samp(by, 0).pvalue for name, by in changes.items()}
    order = sorted(ps, key=ps.get)
    holm, most = {}, 0.0
    for place, name in enumerate(order):
        most = max(most, min(1, (len(order) - place) * ps[name]))
        holm[name] = most
    sure = [n for n in changes if holm[n] <= 0.05 and np.mean(changes[n]) < 0]
    assert sure == ["cat", "cow"]
    assert ps["cow"] < 0.05 / 2
    rows = [*dense(), *changed([0.0] * 4), *recalls(changes)]
    for one in class_changes(asked(panels(Records(rows))[0]).taken.point):
        assert (one.p, one.p_holm) == (pytest.approx(ps[one.name]), pytest.approx(holm[one.name]))
        assert (one.change.low, one.change.high) == pytest.approx(student(changes[one.name]))
    found = told(rows)[PAYS]
    text = plain(" ".join(found.sentences))
    assert found.verdict == "2 classes of 4"
    assert (
        "2 are shown to have lost recall (4 classes tested, Student’s test over seeds, Holm’s correction)"
        in text
    )
    assert text.index("“cat”") < text.index("“cow”")
    assert "“dog”" not in text
    assert plain(found.figure[0]) == f"{np.mean(changes['cat']):.1f} points"


def test_a_class_of_one_seed_is_tested_by_mcnemar_with_the_paired_interval():
    """Of 100 of a class dense is right on 80; 30 only dense, 5 only the state."""
    here = {"series": "ticket", "order": 1, "density": 0.5, "probe": "forgetting", "group": "cat", "n": 100}
    figures = {"recall": 55.0, "recall_change": -25.0, "forgotten": 30.0, "learned": 5.0}
    rows = [*dense(1), *changed([0.0]), *(record(**here, metric=m, value=v) for m, v in figures.items())]
    (one,) = class_changes(asked(panels(Records(rows))[0]).taken.point)
    assert one.p == pytest.approx(stats.binomtest(5, 35).pvalue)
    assert (one.change.low, one.change.high) == pytest.approx(newcombe(50, 5, 30, 15))
    assert one.lost


def test_a_loss_that_all_classes_test_alone_would_show_is_not_claimed_of_many():
    """p = 0.017 alone, and not after the correction for twenty."""
    loss = [-1.0, -1.4, -0.7, -2.1]
    assert 0.05 / 20 < stats.ttest_1samp(loss, 0).pvalue < 0.05
    changes = {"cow": loss} | {f"c{k}": [0.5, -0.5, 0.2, -0.3] for k in range(19)}
    found = told([*dense(), *changed([0.0] * 4), *recalls(changes)])[PAYS]
    assert found.verdict == "No class is shown to lose"
    assert "likely less than it seems" in found.sentences[0]


def test_populations_say_who_pays_and_their_own_floor():
    there = {"series": "channels", "moment": "populations", "n": 500}
    rows = [*dense(), *changed([0.0] * 4), *recalls({"cat": [-1.0, 1.0, 0.5, -0.5]})]
    for metric, value, unit in (
        ("impacted_holm", 3.0, "1"), ("impacted_classes", 5.0, "1"), ("impacted_null", 0.5, "1"),
        ("exemplar_share", 7.25, "%"), ("exemplar_null", 4.0, "%"),
    ):  # fmt: skip
        rows.append(record(**there, probe="impact", metric=metric, value=value, unit=unit))
    found = told(rows)[PAYS]
    assert found.verdict == "3 groups at most, over populations"
    last = plain(found.sentences[-1])
    assert "channels: 3 of 500 classes changed" in last
    assert "5 at p ≤ 0.05, 0.500 between halves" in last
    there |= {"probe": "impact", "group": "fine", "n": 20}
    for metric, value in (("impacted_holm", 7.0), ("impacted_classes", 8.0)):
        rows.append(record(**there, metric=metric, value=value, unit="1"))
    more = told(rows)[PAYS]
    assert more.verdict == "10 groups at most, over populations"
    assert "7 of 20 values of fine changed" in plain(more.sentences[-1])
    assert "sees little" not in plain(more.sentences[-1])
    there |= {"probe": "agreement", "group": "", "n": 3}
    few = told([*rows, record(**there, metric="population_top1", value=90.0)])[PAYS]
    assert "With 3 nets each, fewer than 8, this test sees little" in plain(few.sentences[-1])
    assert "7.2 % of 500 examples against 4.0 % between halves of the dense nets" in last


def attacked(series: str, by: list[float], order: int = 0, density: float = 1.0) -> list[Record]:
    return accuracies(
        series, order, density, dict(enumerate(by)), probe="robustness", metric="pgd_accuracy", n=256
    )


def test_fragility_says_first_how_far_dense_nets_are_apart():
    nets, floor = [40.0, 52.0, 45.0, 47.0], [44.0, 50.0, 41.0, 55.0]
    state = [37.0, 48.5, 42.0, 44.0]
    rows = [*dense(), *changed([0.0] * 4), *accuracies("floor", 0, 1.0, DENSE)]
    rows += [*attacked("dense", nets), *attacked("floor", floor), *attacked("ticket", state, 1, 0.5)]
    found = told(rows)[FRAGILE]
    gaps = [abs(a - b) for a, b in itertools.combinations([*nets, *floor], 2)]
    first, second = (plain(s) for s in found.sentences)
    assert first.startswith(f"Two dense nets are {np.mean(gaps):.1f} points apart")
    assert f"at most {max(gaps):.1f} (28 pairs)" in first
    change = np.asarray(state) - nets
    assert student(change)[1] < 0
    assert f"{change.mean():.1f} points" in second
    assert found.verdict == "Can’t be told from how dense nets differ"
    hit = [
        *attacked("dense", nets),
        *attacked("floor", floor),
        *attacked("ticket", [x - 30 for x in nets], 1, 0.5),
    ]
    hit = [replace(r, value=r.value + r.seed / 10) if r.series == "ticket" else r for r in hit]
    worse = told([*dense(), *changed([0.0] * 4), *accuracies("floor", 0, 1.0, DENSE), *hit])[FRAGILE]
    assert worse.verdict == "More fragile than dense, by more than dense nets differ"


def test_the_worst_case_is_asked_before_pgd_and_warnings_are_said():
    there = {"series": "ticket", "order": 1, "density": 0.5, "probe": "robustness", "n": 256}
    rows = [*dense(1), *changed([0.0]), *attacked("dense", [40.0]), *attacked("ticket", [39.0], 1, 0.5)]
    rows += [
        record(probe="robustness", metric="worst_case_accuracy", value=30.0, n=256),
        record(**there, metric="worst_case_accuracy", value=10.0),
        record(
            **there,
            metric="gradient_warning",
            value=1.0,
            unit="1",
            group="masked",
            note="PGD is worse than Square",
        ),
        record(**there, metric="gradient_warning", value=0.0, unit="1", group="zero", note="never said"),
    ]
    found = told(rows)[FRAGILE]
    assert plain(found.figure[0]) == "-20.0 points"
    assert "worst of the attacks" in found.figure[1]
    assert found.sentences[-1] == "ticket: PGD is worse than Square."
    assert "isn’t known: there is only one" in found.sentences[0]
    assert "whether another training would be too can’t be told" in found.sentences[1]


def sized(series: str, order: int, density: float, bytes_: float, **more) -> list[Record]:
    there = {
        "series": series,
        "order": order,
        "density": density,
        "probe": "cost",
        "unit": "bytes",
        "basis": "on disk",
    }
    return [
        record(**there, seed=s, metric=metric, value=value)
        for s in range(4)
        for metric, value in (("dense_bytes", 8000.0), ("sparse_bytes", bytes_))
    ] + [
        record(**there | {"unit": "x", "basis": "measured"}, seed=s, metric=m, value=v)
        for s in range(4)
        for m, v in more.items()
    ]


def bought() -> list[Record]:
    """Dense; a: small and right; b: smaller, but two points below; c: larger, and shown to be faster."""
    rows = [*dense(), *sized("dense", 0, 1.0, 16000.0)]
    rows += changed([-0.3, -0.2, -0.4, -0.3], "a") + sized("a", 1, 0.5, 2000.0, speedup_b1=1.0)
    rows += changed([-2.3, -2.2, -2.4, -2.3], "b") + sized("b", 1, 0.5, 1000.0)
    fast = {"speedup_b1": 2.0, "speedup_low_b1": 1.8, "speedup_high_b1": 2.2}
    return rows + changed([-0.1, -0.2, 0.0, -0.1], "c") + sized("c", 1, 0.5, 5000.0, **fast)


def test_the_smallest_file_within_a_point_is_taken_and_the_fastest_named():
    found = told(bought())
    (panel,) = panels(Records(bought()))
    of = asked(panel)
    assert of.taken.series.label == "a"
    assert found[TAKE].verdict == "a"
    text = plain(" ".join(found[TAKE].sentences))
    assert "smallest file of 2 states" in text
    assert "4.00 times smaller" in text
    assert "Where time counts: c, 2.00× [1.80–2.20] (n = 4) at -0.1 points" in text
    assert plain(found[SMALLER].sentences[0]).startswith(
        "a takes 2.00 kB (zeros left out), its dense net 8.00 kB: 4.00"
    )
    titles = {t.title: plain(t.figure) for t in tiles(of)}
    assert titles["Smallest file within one point"] == "2.00 kB"
    assert titles["Measured speed against dense"] == "1.00×"
    assert "chosen after looking" in spoken_of(of)
    assert [s.series.label for s in unbeaten(states_of(panel, "final"))] == ["b", "a", "c"]


def test_nothing_within_a_point_means_the_dense_net_and_nothing_better_is_said():
    far = [r for r in bought() if r.series in ("dense", "b")]
    assert told(far)[TAKE].verdict == "The dense net"
    (panel,) = panels(Records(far))
    assert "No state" in spoken_of(asked(panel))
    even = [
        *dense(),
        *changed([-0.1, 0.1, 0.0, 0.05]),
        *sized("dense", 0, 1.0, 16000.0),
        *sized("ticket", 1, 0.5, 8000.0),
    ]
    assert told(even)[TAKE].verdict == "Nothing here is shown to be better"


def test_runs_dense_is_never_faster():
    rows = [
        replace(r, note="no speed-up: runs dense") if r.metric.startswith("speedup") else r for r in bought()
    ]
    assert "None of these is shown to be faster than dense." in told(rows)[TAKE].sentences


# labels at the lines --------------------------------------------------------------------------------------------------


def test_labels_are_spread_as_little_as_can_be():
    from scipy.optimize import minimize

    assert spread_apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread_apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    wanted, gap = [0.30, 0.31, 0.33, 0.36, 0.70, 0.71], 0.06
    best = minimize(
        lambda y: np.sum((y - wanted) ** 2),
        np.linspace(0, 1, 6),
        constraints=[{"type": "ineq", "fun": lambda y, k=k: y[k + 1] - y[k] - gap} for k in range(5)],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert spread_apart(wanted, gap) == pytest.approx(best.x, abs=1e-4)
    for crowd in ([0.99] * 8, [0.0] * 8, [0.0, 0.0, 1.0, 1.0]):
        found = spread_apart(crowd, 0.1)
        assert min(np.diff(found)) >= 0.1 - 1e-9
        assert min(found) >= 0
        assert max(found) <= 1 + 1e-9


def texts(svg: str) -> list[str]:
    return [
        e.text.replace("\u200b", "") for e in ET.fromstring(svg).iter() if e.tag.endswith("}text") and e.text
    ]


@pytest.mark.parametrize("many", [3, 9])
def test_names_stand_at_the_lines_or_over_small_charts_and_in_no_legend(tmp_path, many):
    names = [f"series {k}" for k in range(many)]
    rows = [*dense(2)]
    for k, name in enumerate(names):
        rows += changed([-0.1 * k, -0.2], name, 1, 0.5) + changed([-0.2 * k, -0.4], name, 2, 0.25)
    write_report(Records(rows), tmp_path, "names")
    svg = (tmp_path / "accuracy_vs_density.svg").read_text(encoding="utf-8")
    assert 'id="chart-accuracy_vs_density-legend' not in svg
    found = texts(svg)
    assert sorted(t for t in found if t in names) == names
    assert len(re.findall(r'id="chart-accuracy_vs_density-axes_\d+"', svg)) == (9 if many == 9 else 1)
    groups = [e for e in ET.fromstring(svg).iter() if e.tag.endswith("}g") and e.get("class")]
    for name in names:
        own = [g for g in groups if g.get("class") == series_class(name)]
        assert any(name in texts(ET.tostring(g, encoding="unicode")) for g in own)
        assert any(e.tag.endswith("}path") for g in own for e in g.iter())


def test_classes_of_many_series_stand_in_small_charts(tmp_path):
    rows = [*dense(1)]
    for k in range(9):
        here = {
            "series": f"series {k}",
            "order": 1,
            "density": 0.5,
            "probe": "forgetting",
            "metric": "recall_change",
        }
        rows += changed([-0.1], f"series {k}")
        rows += [
            record(**here, group=g, value=v, unit="points", n=50)
            for g, v in (("cat", -3.0 - k), ("dog", 1.0))
        ]
    write_report(Records(rows), tmp_path, "many")
    svg = (tmp_path / "forgetting.svg").read_text(encoding="utf-8")
    assert "legend" not in svg
    assert len(re.findall(r'id="chart-forgetting-axes_\d+"', svg)) == 9
    assert [t for t in texts(svg) if t.startswith("series")] == [f"series {k}" for k in range(9)]


# the page -------------------------------------------------------------------------------------------------------------


def test_answers_link_to_sections_that_are_there_and_hold_a_chart_each(tmp_path):
    path = write_report(full(), tmp_path, "page")
    page, text = Page(path), path.read_text(encoding="utf-8")
    for anchor in ("as-accurate", "agrees", "who-pays", "more-fragile", "smaller-faster", "take"):
        part = re.search(rf'<section class="answer" id="{anchor}">(.*?)</section>', text, re.S)
        assert part, anchor
        assert "<svg" in part[1], anchor
        to = re.search(r'<p class="to"><a href="#([^"]+)"', part[1])
        assert to, anchor
        assert page.ids[to[1]] == 1


def test_series_can_be_hidden_and_tables_sorted_without_anything_from_elsewhere(tmp_path):
    path = write_report(full(), tmp_path, "page")
    text = path.read_text(encoding="utf-8")
    boxes = re.findall(r'data-series="(s-[0-9a-f]{10})"', text)
    assert boxes == [series_class(s) for s in ("dense", "ticket", "random", "one-shot", "floor")]
    body = text[text.index("</head>") : text.index("<script>")]
    for name in boxes[1:4]:
        svg = "".join(re.findall(r"<svg.*?</svg>", body, re.S))
        assert svg.count(f'class="{name}"') >= 10
        assert re.search(rf'<tr class="[^"]*{name}"', body)
        assert re.search(rf'<td class="{name}"', body)
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert f"script-src &#39;sha256-{digest}&#39;".replace("&#39;", "'") in policy.replace("&#39;", "'")
    assert "default-src 'none'" in policy
    assert "innerHTML" not in script
    assert not re.search(r"https?:", script)
    tables = re.findall(r"<table[^>]*>", body)
    assert any("data-sorts" in t for t in tables)
    assert not any("data-sorts" in t and "heat" in t for t in tables)


def test_charts_on_the_page_take_their_ink_from_it_and_those_beside_it_do_not(tmp_path):
    path = write_report(full(), tmp_path, "page")
    page = path.read_text(encoding="utf-8")
    inline = re.findall(r"<svg.*?</svg>", page, re.S)
    assert inline
    assert all("var(--ink, " in svg for svg in inline)
    assert not any(re.search(r"(?:fill|stroke): #ffffff", svg) for svg in inline)
    assert "var(" not in (tmp_path / "first_changes.svg").read_text(encoding="utf-8")


def test_a_section_of_pictures_alone_is_shown_and_an_empty_one_is_not():
    assert Section("a", "a").empty
    assert not Section("a", "a", pictures=(Picture("t", "data:image/png;base64,", "c"),)).empty


def test_hostile_names_stay_text_on_the_first_page(tmp_path):
    bad = "</script><script>alert(1)</script>"
    rows = Records(replace(r, series=bad) if r.series == "ticket" else r for r in full())
    lines = {(bad, r.key): f"{bad}<b>" for r in rows if r.series == bad}
    page = Page(write_report(rows, tmp_path, "page", lines=lines))
    assert page.tags["script"] == 1
    assert page.tags["b"] == sum(bool(a.figure[0]) for a in told(rows).values())
    assert f"{bad}<b>" in page.text


# seeds that agree exactly ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "known"), [((0.0, 0.0), False), ((-0.1, 0.1), True), ((1.0,) * 6, True)])
def test_a_few_seeds_that_agree_exactly_have_no_interval(values, known):
    """A net answers a whole number of examples rightly: two that do so alike are no proof of a width of zero."""
    found = over_seeds(values, "points", 872)
    assert found.known is known
    assert ("no interval" in found.ends()) is not known


# each series in a line ------------------------------------------------------------------------------------------------


def test_lines_are_found_again_beside_records_and_by_a_joint_report(tmp_path):
    rows = full(moments=("final",))
    one = [
        described.Described(
            "ticket", "prune, then train ×3", tuple({r.key for r in rows if r.series == "ticket"})
        )
    ]
    from compressbench.records import write_jsonl

    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        write_jsonl(Records(r for r in rows if r.seed == seed), tmp_path / name / "records.jsonl")
        described.write_lines(described.lines_of(one), tmp_path / name)
    page = joint_report([tmp_path / "a", tmp_path / "b"], tmp_path / "joint")
    assert "prune, then train ×3" in Page(page).text
    assert gather([tmp_path / "joint"]).lines == described.lines_of(one)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema": 2, "series": []}',
        '{"schema": 1, "series": [1]}',
        '{"schema": 1, "series": [{"series": 1, "line": "x", "keys": ["k"]}]}',
        '{"schema": 1, "series": [{"series": "s", "line": "x", "keys": [{}]}]}',
        "[" * 100_000,
    ],
)
def test_a_file_of_another_form_gives_no_lines(tmp_path, text):
    (tmp_path / described.FILE).write_text(text)
    assert described.read_lines(tmp_path) == {}


def test_lines_name_no_folder(tmp_path):
    """Where weights were read from is the user's own affair; both in what is written and in what others wrote."""
    line = "build net with the weights in /home/ann/secret/minilm, then train 1ep"
    told = {("s", "k"): "build net with the weights in …/minilm, then train 1ep"}
    own = described.lines_of([described.Described("s", line, ("k",))])
    assert own == told, "what a run's own page shows"
    described.write_lines(own, tmp_path)
    assert described.read_lines(tmp_path) == told
    row = {"series": "s", "line": line, "keys": ["k"]}
    (tmp_path / described.FILE).write_text(json.dumps({"schema": 1, "series": [row]}))
    assert described.read_lines(tmp_path) == told


def test_long_lines_are_cut_and_control_characters_go(tmp_path):
    row = {"series": "s", "line": "x\x1b[31m" + "y" * 5000, "keys": ["k"]}
    (tmp_path / described.FILE).write_text(json.dumps({"schema": 1, "series": [row]}))
    (line,) = described.read_lines(tmp_path).values()
    assert len(line) <= described.LONGEST
    assert "\x1b" not in line


def test_charts_hold_the_floor_and_have_no_empty_ones():
    (panel,) = panels(full(moments=("final",)))
    with settings():
        found = charts(asked(panel), "")
    assert set(found) == {ACCURATE, AGREES, PAYS, FRAGILE, SMALLER, TAKE}
    assert "floor" in found[AGREES].caption
    assert all(len(texts(c.svg)) > 3 for c in found.values())
