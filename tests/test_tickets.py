"""Winning tickets: the verdict on one mask, shares of many with their interval, and references of a moment."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from cases_report import record
from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.draw import drawn
from compressbench.probes.tickets import Tickets, change_and_low, first_at
from compressbench.pruning.unstructured import units_of
from compressbench.records import Record, Records
from compressbench.report.page import write_report
from compressbench.report.panels import Panel, panels
from compressbench.report.sections import tickets
from compressbench.runs.plan import _own_reference, make
from compressbench.scopes.count import count
from compressbench.specs import build
from compressbench.state import State
from compressbench.views import View
from conftest import MLP
from test_plan import CONTEXT, PRUNE, RECIPE, TRAIN

WEIGHT = {"_target_": "compressbench.grains.weight.weight"}
OWN = "own dense net"


# so many weights -------------------------------------------------------------------------------------------------------


def units(shapes: dict[str, tuple[int, int]], seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    scores = {n: torch.rand(shape, generator=generator) for n, shape in shapes.items()}
    grain = build(WEIGHT, "grain")
    return scores, {n: units_of(s, torch.ones_like(s, dtype=torch.bool), grain) for n, s in scores.items()}


@pytest.mark.parametrize("shapes", [{"a": (6, 7), "b": (5, 4)}, {"a": (60, 70), "b": (50, 40)}])
def test_so_many_weights_stay_however_large_the_net_is(shapes: dict[str, tuple[int, int]]) -> None:
    scores, of = units(shapes)
    stay = count(of, None, "left", {}, keep=13)
    every = np.concatenate([scores[n].numpy().ravel() for n in shapes])
    kept = np.concatenate([stay[n].numpy() for n in shapes])
    assert kept.sum() == 13
    assert set(every[kept]) == set(np.sort(every)[-13:])


def test_a_tensor_with_a_rate_of_its_own_is_not_among_them() -> None:
    _, of = units({"a": (6, 7), "b": (5, 4)})
    stay = count(of, None, "left", {"b": 0.5}, keep=13)
    assert (int(stay["a"].sum()), int(stay["b"].sum())) == (13, 10)


@pytest.mark.parametrize(
    ("fraction", "keep", "words"),
    [(0.5, 3, "set fraction=null"), (None, 0, "1 or more"), (None, True, "1 or more"), (None, 99, "only 62 are left")],
)  # fmt: skip
def test_what_can_not_stay_is_refused(fraction: float | None, keep: int, words: str) -> None:
    _, of = units({"a": (6, 7), "b": (5, 4)})
    with pytest.raises(UserError, match=words):
        count(of, fraction, "left", {}, keep=keep)


# the verdict on one mask ----------------------------------------------------------------------------------------------


def newcombe_low(both: int, first: int, second: int, neither: int, level: float) -> float:
    """Newcombe's method 10 with scipy's Wilson intervals."""
    n = both + first + second + neither
    p, q = (both + first) / n, (both + second) / n
    own = scipy.stats.binomtest(both + first, n).proportion_ci(level, "wilson")
    other = scipy.stats.binomtest(both + second, n).proportion_ci(level, "wilson")
    table = both * neither - first * second
    over = max(table - n / 2, 0) if table > 0 else table
    phi = over / math.sqrt((both + first) * (second + neither) * (both + second) * (first + neither))
    x, y = p - own.low, other.high - q
    return p - q - math.sqrt(x * x - 2 * phi * x * y + y * y)


@pytest.mark.parametrize("counts", [(1600, 60, 90, 250), (1500, 120, 80, 300), (50, 30, 5, 15)])
def test_the_lower_end_is_that_of_the_one_sided_interval(counts: tuple[int, int, int, int]) -> None:
    both, first, second, neither = counts
    own = [True] * (both + first) + [False] * (second + neither)
    dense = [True] * both + [False] * first + [True] * second + [False] * neither
    change, low = change_and_low(own, dense, 0.95)
    assert change == pytest.approx(100 * (first - second) / sum(counts))
    assert low == pytest.approx(100 * newcombe_low(*counts, level=0.90))


def test_the_first_iteration_that_reaches_it() -> None:
    curve = [
        {"step": 5, "a": 60.0},
        {"step": 10, "a": 80.0},
        {"step": 15, "a": 70.0},
        {"step": 20, "a": 90.0},
    ]
    assert [first_at(curve, "a", x) for x in (0.0, 80.0, 80.5, 95.0)] == [5, 10, 20, None]


@pytest.fixture(scope="module")
def net(digits) -> tuple[State, Bench]:
    bench = Bench(digits, seed=0, name="init")
    return drawn(MLP, bench), bench


def curved(state: State, bench: Bench, accuracies: list[float]) -> View:
    points = [
        {"step": 10 * (k + 1), "validation_loss": 1.0, "validation_top1": a} for k, a in enumerate(accuracies)
    ]
    return View(state.with_facts(curve=points), bench)


def verdict(subject: View, reference: View, bench: Bench, **settings) -> dict[str, float | None]:
    return {m.name: m.value for m in Tickets(**settings).measure(subject, reference, bench)}


def test_a_net_beside_itself_wins_and_one_that_learns_later_does_not(net) -> None:
    state, bench = net
    dense = curved(state, bench, [20.0, 88.5, 90.0])  # 88, the dense net's 90 less 2, is reached at 20
    same = verdict(curved(state, bench, [20.0, 88.0, 80.0]), dense, bench)
    late = verdict(curved(state, bench, [20.0, 87.9, 99.0]), dense, bench)
    never = verdict(curved(state, bench, [20.0, 87.9, 87.9]), dense, bench)
    assert (same["ticket_change"], same["ticket_reached"], same["ticket_dense_reached"]) == (0, 20, 20)
    assert [same[k] for k in ("ticket_as_accurate", "ticket_in_time", "ticket_wins")] == [1, 1, 1]
    assert [late[k] for k in ("ticket_as_accurate", "ticket_in_time", "ticket_wins")] == [1, 0, 0]
    assert late["ticket_reached"] == 30
    assert (never["ticket_reached"], never["ticket_wins"]) == (None, 0)
    assert same["ticket_net_weights"] == 64 * 300 + 300 * 100 + 100 * 10 == same["ticket_kept_weights"]


def test_a_net_of_lower_accuracy_does_not_win_whatever_its_curve(net) -> None:
    state, bench = net
    reference = curved(state, bench, [90.0])
    labels = reference.labels.numpy()
    right = float(np.mean(reference.answers.numpy() == labels))
    rarest = int(np.bincount(labels, minlength=10).argmin())
    only = {**state.weights, "fc.weight": torch.zeros_like(state.weights["fc.weight"])}
    only["fc.bias"] = torch.nn.functional.one_hot(
        torch.tensor(rarest), 10
    ).float()  # it names one class for all
    found = verdict(curved(state.with_groups(weights=only), bench, [90.0]), reference, bench, margin=0.1)
    share = float(np.mean(labels == rarest))
    assert found["ticket_change"] == pytest.approx(100 * (share - right))
    assert found["ticket_in_time"] == 1
    assert (found["ticket_as_accurate"], found["ticket_wins"]) == (0, 0)


def test_it_must_be_shown_to_be_as_accurate(net) -> None:
    """Equal answers on 797 images leave room for a loss of 0.01 points: seen is none, shown is not."""
    state, bench = net
    dense = curved(state, bench, [90.0])
    found = verdict(dense, dense, bench, margin=0.01)
    assert found["ticket_change"] == 0
    assert (found["ticket_as_accurate"], found["ticket_in_time"], found["ticket_wins"]) == (0, 1, 0)


def test_without_a_curve_only_accuracy_is_judged(net) -> None:
    state, bench = net
    found = verdict(View(state, bench), curved(state, bench, [90.0]), bench)
    assert found["ticket_as_accurate"] == 1
    assert (found["ticket_reached"], found["ticket_in_time"], found["ticket_wins"]) == (None, None, None)


@pytest.mark.parametrize("settings", [{"margin": 0.0}, {"margin": 100.0}, {"level": 0.5}, {"level": 1.0}])
def test_settings_that_judge_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        Tickets(**settings)


# shares of many masks -------------------------------------------------------------------------------------------------


def judged(
    wins: dict[int, list[float]], seeds: int = 2, series: str = "random, equal size", kept=100
) -> list[Record]:
    """Verdicts by width, one a draw and seed."""
    rows, order = [], 0
    for width, own in wins.items():
        for value in own:
            order += 1
            for seed in range(seeds):
                given = {
                    "series": series,
                    "moment": OWN,
                    "order": order,
                    "seed": seed,
                    "density": kept / width,
                    "probe": "tickets",
                    "reference": f"dense-{width}-{order}-{seed}",
                }
                for metric in ("ticket_wins", "ticket_as_accurate", "ticket_in_time"):
                    note = "margin 2 points, one-sided 95 % interval"
                    rows.append(record(**given, metric=metric, value=value, unit="1", note=note))
                rows.append(record(**given, metric="ticket_net_weights", value=float(width), unit="1"))
                rows.append(record(**given, metric="ticket_kept_weights", value=float(kept), unit="1"))
    return rows


def panel_of(rows: list[Record]) -> Panel:
    dense = [record(seed=s) for s in range(2)]
    (panel,) = panels(Records([*dense, *rows]))
    return panel


@pytest.mark.parametrize(("hits", "n"), [(0, 8), (8, 8), (3, 12), (7, 32)])
def test_the_interval_of_a_share_is_scipys(hits: int, n: int) -> None:
    known = scipy.stats.binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert tickets.Share(1000, 100.0, hits, n).ends == pytest.approx((100 * known.low, 100 * known.high))


def test_all_win_in_the_wide_net_and_none_in_the_narrow_one() -> None:
    panel = panel_of(judged({1000: [0.0] * 4, 4000: [1.0] * 4}))
    (series,) = panel.series
    found = tickets.shares(series, OWN)
    assert [(s.weights, s.hits, s.n, s.kept) for s in found] == [(1000, 0, 8, 100.0), (4000, 8, 8, 100.0)]
    section = tickets.section(panel, "")
    table, trend = section.tables
    assert [row.cells[-1].text.replace("\N{NO-BREAK SPACE}", " ") for row in table.rows] == [
        "0 of 8, 0 % [0–32]",
        "8 of 8, 100 % [68–100]",
    ]
    assert trend.rows[0].cells[-1].text == "more"
    assert "margin 2 points" in section.lead
    assert any("the dense net that it was taken from" in note for note in table.notes)
    assert len(section.charts) == 1, "kept weights are equal, densities are not"


@pytest.mark.parametrize(
    ("narrow", "wide", "said"),
    [([1, 1, 1, 1], [0, 0, 0, 0], "fewer"), ([1, 0, 1, 0], [1, 0, 1, 1], "can’t be told")],
)
def test_what_the_interval_of_the_difference_says(narrow: list[float], wide: list[float], said: str) -> None:
    panel = panel_of(judged({1000: narrow, 4000: wide}))
    trend = tickets.trend_table(panel, OWN)
    assert trend is not None
    assert trend.rows[0].cells[-1].text == said


def test_masks_of_equal_density_have_a_chart_of_their_own() -> None:
    rows = [*judged({1000: [0.0, 1.0]}, kept=100), *judged({4000: [1.0, 1.0]}, kept=400)]
    for k, row in enumerate(rows):  # the second width's draws come after the first's
        if "dense-4000" in row.reference:
            rows[k] = replace(row, order=row.order + 2, key=f"wide-{row.key}")
    charts = tickets.section(panel_of(rows), "").charts
    assert [c.name for c in charts] == ["tickets_density_own-dense-net"]


def test_nets_of_no_weights_have_no_share_and_leave_the_report_whole() -> None:
    rows = judged({1: [1.0] * 2, 1000: [0.0] * 2, 4000: [1.0] * 2})
    none = [replace(r, value=0.0) if (r.metric, r.value) == ("ticket_net_weights", 1) else r for r in rows]
    section = tickets.section(panel_of(none), "")
    assert [row.cells[0].text.replace("\N{NARROW NO-BREAK SPACE}", "") for row in section.tables[0].rows] == [
        "1000",
        "4000",
    ]


def test_the_dense_net_trained_again_is_the_ceiling_in_both_charts() -> None:
    again = [
        row for width in (1000, 4000) for row in judged({width: [1.0, 0.0]}, series="dense again", kept=width)
    ]
    again = [replace(r, order=r.order + 2 * ("dense-4000" in r.reference)) for r in again]
    again = [replace(r, key=f"again-{r.reference}") for r in again]
    sized = judged({1000: [0.0] * 2, 4000: [1.0] * 2})
    shared = [replace(r, order=r.order, series="masks") for r in again]
    shared = [replace(r, value=r.value / 10) if r.metric == "ticket_kept_weights" else r for r in shared]
    section = tickets.section(panel_of([*sized, *shared, *again]), "")
    assert [c.name for c in section.charts] == ["tickets_size_own-dense-net", "tickets_density_own-dense-net"]
    for chart in section.charts:
        assert "what even an equal net reaches: dense again." in chart.caption
    table = section.tables[0]
    cells = [
        row.cells[-1].text.replace("\N{NO-BREAK SPACE}", " ")
        for row in table.rows
        if row.label == "dense again"
    ]
    assert [x.partition(",")[0] for x in cells] == ["2 of 4", "2 of 4"]
    assert any("even an equal net" in note for note in table.notes)
    assert not any("even an equal net" in n for n in tickets.section(panel_of(sized), "").tables[0].notes)


def test_differences_of_several_kinds_hold_together() -> None:
    """0 of 4 against 4 of 4 is apart at 95 %, and not where six kinds are looked at together."""
    few = {1000: [0.0] * 4, 4000: [1.0, 1.0, 1.0, 0.0]}
    alone = tickets.trend_table(panel_of(judged(few, seeds=1)), OWN)
    kinds = [row for k in range(6) for row in judged(few, seeds=1, series=f"kind {k}")]
    together = tickets.trend_table(panel_of(kinds), OWN)
    assert alone is not None
    assert together is not None

    def newcombe(level: float) -> float:
        low = scipy.stats.binomtest(3, 4).proportion_ci(level, "wilson").low
        high = scipy.stats.binomtest(0, 4).proportion_ci(level, "wilson").high
        return 0.75 - math.hypot(0.75 - low, high)

    assert newcombe(0.95) > 0 > newcombe(1 - 0.05 / 6), "the case is planted as it is meant"
    assert alone.rows[0].cells[-1].text == "more"
    assert {row.cells[-1].text for row in together.rows} == {"can’t be told"}
    assert "for the 6 rows together, 99.17 % each" in together.notes[-1]
    assert "together" not in alone.notes[-1]


def test_an_equal_net_passes_in_half_of_all_cases_at_1_645_standard_errors() -> None:
    """What the probe's docstring says, by simulation: 2,000 images, both nets right on 85 %, answers of their own."""
    generator = np.random.default_rng(0)
    margin = 1.645 * 100 * math.sqrt(2 * 0.85 * 0.15 / 2000)
    lows = []
    for _ in range(200):
        own, dense = (generator.random((2, 2000)) < 0.85).tolist()
        lows.append(change_and_low(own, dense, 0.95)[1])
    share = np.mean(np.array(lows) > -margin)
    assert 0.4 < share < 0.6
    assert np.mean(np.array(lows) > -2 * margin) > 0.9


def test_names_from_records_are_text_on_the_page(tmp_path) -> None:
    rows = judged({1000: [0.0] * 2, 4000: [1.0] * 2}, series="<b>random</b>")
    path = write_report(Records([*[record(seed=s) for s in range(2)], *rows]), tmp_path, "t")
    page = path.read_text(encoding="utf-8")
    assert "Winning tickets" in page
    assert "<b>random</b>" not in page
    assert "&lt;b&gt;random&lt;/b&gt;" in page


# a reference beside each state ----------------------------------------------------------------------------------------


def two_widths(reference: str, series: str = "width_*.train", key: str = "own_reference") -> dict:
    recipe = copy.deepcopy(RECIPE)
    recipe["stages"]["width"] = {
        "_target_": "compressbench.stages.repeat.ForEach",
        "values": {"a": "1ep", "b": "2ep"},
        "set": "whole.length",
        "stages": {
            "whole": {**TRAIN, "from": "init"},
            "prune": PRUNE,
            "train": TRAIN,
        },
    }
    recipe["compare"]["moments"] = {OWN: {key: reference, "series": {"masks": series}}}
    return recipe


def test_each_state_of_a_moment_is_beside_the_reference_of_its_own_block() -> None:
    plan = make(two_widths("whole"), 0, CONTEXT)
    found = [(m.series, m.state, m.reference, m.order) for m in plan.measures if m.moment == OWN]
    assert found == [
        ("masks", "width_a.train", "width_a.whole", 1),
        ("masks", "width_b.train", "width_b.whole", 2),
    ]


def test_a_moment_of_one_reference_is_as_it_was() -> None:
    plan = make(two_widths("dense", key="reference"), 0, CONTEXT)
    found = [(m.series, m.state, m.reference) for m in plan.measures if m.moment == OWN]
    assert found == [
        ("dense", "dense", "dense"),
        ("masks", "width_a.train", "dense"),
        ("masks", "width_b.train", "dense"),
    ]


def test_a_reference_is_sought_outwards_the_nearest_first() -> None:
    names = ["dense", "w.dense", "w.draw.train", "v.draw.train"]
    assert _own_reference("dense", "w.draw.train", names) == "w.dense"
    assert _own_reference("dense", "v.draw.train", names) == "dense"


@pytest.mark.parametrize(
    ("reference", "series", "words"),
    [
        ("whole", "level*.retrain", "level1.retrain has no state 'whole'"),
        ("nowhere", "width_*.train", "no state 'nowhere'"),
    ],
)  # fmt: skip
def test_a_state_without_such_a_reference_is_refused(reference: str, series: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(two_widths(reference, series), 0, CONTEXT)
