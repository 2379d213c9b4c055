"""Advice, gates, imported timings: pure functions first, then the commands as a user gives them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from compressbench.deploying.choosing import (
    Choice,
    Figure,
    Limits,
    Verdict,
    advise,
    choices,
    dominates,
    encoded_in_words,
    timed_anew,
    verdicts,
)
from compressbench.deploying.elsewhere import Elsewhere, derived, read, records
from compressbench.errors import CantTell, Unmet, UserError
from compressbench.records import Record, Records, read_jsonl, write_jsonl
from test_report import record

BENCHMARK_APP = """[Step 1/11] Parsing and validating input arguments
[ INFO ] Parsing input parameters
[Step 2/11] Loading OpenVINO Runtime
[ INFO ] OpenVINO:
[ INFO ] Build ................................. 2026.4.1-1234-abc
[Step 4/11] Reading model files
[ INFO ] Loading model files
[ INFO ] Read model /tmp/export/int8.xml took 5.10 ms
[Step 5/11] Resizing model to match image sizes and given batch
[ INFO ] Model batch size: 4
[Step 11/11] Dumping statistics report
[ INFO ] Execution Devices: [ CPU ]
[ INFO ] Count:               812 iterations
[ INFO ] Duration:            60001.12 ms
[ INFO ] Latency:
[ INFO ]    Median:           1.23 ms
[ INFO ]    Average:          1.30 ms
[ INFO ] Throughput:          3200.00 FPS
"""
PERF_TEST = """Session creation time cost: 0.02 s
First inference time cost: 3 ms
Total inference time cost: 1.5 s
Total inference requests: 1000
Average inference time cost: 1.5 ms
Total inference run time: 1.51 s
P50 Latency: 0.00142 s
P90 Latency: 0.0016 s
"""


def rows(**states: dict[str, float | tuple[float, ...]]) -> Records:
    """Records of states: a figure by its name, of two seeds (the second is 1 more) or of as many as a tuple has."""
    found = []
    for order, (series, figures) in enumerate(states.items()):
        for probe, metric, key, unit, group in (
            ("accuracy", "top1", "accuracy", "%", ""),
            ("loyalty", "label_loyalty", "loyalty", "%", ""),
            ("cost", "dense_bytes", "bytes", "bytes", ""),
            ("cost", "huffman_bytes", "huffman", "bytes", ""),
            ("targets", "latency_b1", "latency", "ms", "board"),
            ("targets", "speedup_b1", "speedup", "x", "board"),
            ("targets", "speedup_low_b1", "low", "x", "board"),
            ("targets", "speedup_high_b1", "high", "x", "board"),
            ("targets", "file_bytes", "file", "bytes", "board"),
            ("forgetting", "recall_change", "recall", "points", "cat"),
            ("forgetting", "recall_change", "dog", "points", "dog"),
            ("forgetting", "recall_change", "owl", "points", "owl"),
        ):
            if key not in figures:
                continue
            given = figures[key]
            values = given if isinstance(given, tuple) else (given, given + 1)
            for seed, value in enumerate(values):
                found.append(
                    record(
                        series=series,
                        state=series,
                        order=order,
                        seed=seed,
                        key=f"{series}{seed}",
                        reference=f"dense{seed}",
                        probe=probe,
                        metric=metric,
                        value=value,
                        unit=unit,
                        group=group,
                    )
                )
    return Records(found)


THREE = rows(
    dense={
        "accuracy": 90, "loyalty": 99, "bytes": 1000, "recall": 0, "dog": 0,
        "latency": (8.0, 8.0), "speedup": (1.0, 1.0),
    },
    small={
        "accuracy": 88, "loyalty": 95, "bytes": 100, "recall": -5, "dog": -1,
        "latency": (5.0, 1.0), "speedup": (2.0, 4.0), "low": (1.9, 3.9), "high": (2.1, 4.1),
    },
    worse={
        "accuracy": 80, "loyalty": 90, "bytes": 200, "recall": -20, "dog": -21,
        "latency": (1.0, 1.0), "speedup": (1.6, 1.6), "low": (1.5, 1.5), "high": (1.7, 1.7),
    },
)  # fmt: skip


def one(name: str, seed: int = 0, **figures: float) -> Choice:
    """A choice of one seed; what is exact."""
    found = {
        k: Figure({seed: v}, {seed: (v, v)}, {seed: ("modelled", 1.0)} if k == "latency" else {})
        for k, v in figures.items()
    }
    return Choice(name, "r", name, found, (seed,))


def means(choice: Choice) -> dict[str, float]:
    return {name: choice.figures[name].mean for name in choice.known}


def test_figures_are_by_seed_and_latencies_are_the_references_over_the_ratio_in_turns() -> None:
    small = next(c for c in choices(THREE, "board") if c.name == "small")
    assert {name: figure.by_seed for name, figure in small.figures.items()} == {
        "accuracy": {0: 88, 1: 89},
        "drop": {0: 2, 1: 2},
        "class drop": {0: 5, 1: 4},  # of cat: the class that comes last loses least
        "loyalty": {0: 95, 1: 96},
        "bytes": {0: 100, 1: 101},
        "latency": {0: 4.0, 1: 2.0},  # 8 ms over 2 and 4; its own, 5 and 1 ms, are of other moments
    }
    assert small.figures["latency"].within == {0: (8 / 2.1, 8 / 1.9), 1: (8 / 4.1, 8 / 3.9)}
    assert small.seeds == (0, 1)
    assert "latency" not in next(c for c in choices(THREE) if c.name == "small").figures
    worse = next(c for c in choices(THREE) if c.name == "worse")
    assert worse.figures["class drop"].by_seed == {0: 21, 1: 20}, "the last class loses most here"


def test_a_state_that_the_target_cannot_run_is_no_choice_for_it() -> None:
    best = Figure({}, why={0: "only integers run here"})
    found = [
        one("runs", accuracy=80.0, latency=5.0),
        Choice("best", "r", "best", {"accuracy": Figure({0: 90.0}), "latency": best}, (0,)),
    ]
    advice = advise(found, Limits(needed=("latency",)))
    assert [c.name for c in advice.kept] == ["runs"]
    assert advice.out == {"best": "can't tell: latency not known (only integers run here)"}
    assert len(advise(found, Limits()).kept) == 2


def test_advice_names_what_is_beaten_and_what_breaks_a_limit() -> None:
    advice = advise(choices(THREE, "board"), Limits(max_latency=5.5))
    assert [c.name for c in advice.kept] == ["small"]
    assert advice.out == {
        "dense": "latency 8 ms at worst (seed 0; no interval; mean 8, n=2) is above 5.5",
        "worse": "small is at least as good in all",
    }
    assert [c.name for c in advice.beaten] == ["worse"]
    both = advise(choices(THREE, "board"), Limits())
    assert [c.name for c in both.kept] == ["dense", "small"]
    assert both.unranked == ()


def test_equal_states_keep_one() -> None:
    twin = [one(name, accuracy=80.0, bytes=10.0, latency=3.0) for name in ("b", "a")]
    assert [c.name for c in advise(twin, Limits()).kept] == ["a"]


def test_a_figure_that_is_missing_dominates_nothing_and_is_no_pass() -> None:
    untimed = Figure({}, why={0: "doesn't fit"})
    found = [
        one("timed", accuracy=80.0, latency=5.0),
        Choice("untimed", "r", "untimed", {"accuracy": Figure({0: 90.0}), "latency": untimed}, (0,)),
    ]
    assert len(advise(found, Limits()).kept) == 2
    assert verdicts(found[1], Limits(max_latency=9)) == [Verdict(None, "latency not known (doesn't fit)")]
    with pytest.raises(
        CantTell, match=r"can't tell: no state is known to keep .* of untimed: latency not kn"
    ):
        advise(found, Limits(max_latency=4))


def test_limits_that_nothing_keeps_to_name_the_nearest() -> None:
    with pytest.raises(Unmet, match=r"nearest comes small: 101 bytes .* is above 99"):
        advise(choices(THREE, "board"), Limits(max_bytes=99))
    with pytest.raises(UserError, match="nothing was measured on 'phone'; "):
        choices(THREE, "phone")
    with pytest.raises(UserError, match="not timed at batch 8; it was at 1"):
        choices(THREE, "board", 8)


# ---- each seed, and what can't be told ------------------------------------------------------------------------------


def test_a_limit_is_judged_at_the_worst_seed() -> None:
    """Seeds that gain 5, gain 5 and lose 12.8: on average they gain 0.93."""
    found = rows(
        dense={"accuracy": (80.0, 80.0, 80.0), "latency": (4.0,) * 3, "speedup": (1.0,) * 3},
        pruned={
            "accuracy": (85.0, 85.0, 67.2), "latency": (1.0, 1.0, 12.0), "speedup": (4.0, 4.0, 4 / 11),
            "low": (3.9, 3.9, 0.36), "high": (4.1, 4.1, 0.37),
        },
    )  # fmt: skip
    pruned = next(c for c in choices(found, "board") if c.name == "pruned")
    drop, latency = verdicts(pruned, Limits(max_drop=1.0)), verdicts(pruned, Limits(max_latency=5.0))
    assert drop == [
        Verdict(False, "drop 12.8 points at worst (seed 2; mean 0.9333, n=3) is above 1")
    ]  # (-5 - 5 + 12.8) / 3
    assert latency == [
        Verdict(
            False,
            "latency 11 ms at worst (seed 2; 95 % 10.81 to 11.11; mean 4.333, n=3) is above 5",
        )
    ]  # 4 / 0.37, 4 / 0.36, (1 + 1 + 11) / 3
    assert verdicts(pruned, Limits(min_accuracy=67.2)) == [
        Verdict(True, "accuracy 67.2 % at worst (seed 2; mean 79.07, n=3)")
    ]
    assert verdicts(pruned, Limits(min_accuracy=67.21))[0].kept is False


@pytest.mark.parametrize(("limit", "kept"), [(4.1, False), (4.2, None), (4.4, None), (4.5, True)])
def test_an_interval_that_holds_the_limit_tells_nothing(limit: float, kept: bool | None) -> None:
    """10 ms over 2.35, between 2.25 and 2.4: 4.26 ms, from 4.17 to 4.44."""
    found = rows(
        dense={"accuracy": (90.0,), "latency": (10.0,), "speedup": (1.0,)},
        small={"accuracy": (88.0,), "latency": (4.3,), "speedup": (2.35,), "low": (2.25,), "high": (2.4,)},
    )
    small = next(c for c in choices(found, "board") if c.name == "small")
    assert [v.kept for v in verdicts(small, Limits(max_latency=limit))] == [kept]


def test_a_seed_without_a_figure_is_no_pass_but_one_that_breaks_is_a_break() -> None:
    lacking = Records(r for r in THREE if not (r.seed == 1 and r.metric == "top1" and r.series == "small"))
    small = next(c for c in choices(lacking) if c.name == "small")
    assert verdicts(small, Limits(max_drop=50)) == [Verdict(None, "drop not known for seed 1")]
    assert verdicts(small, Limits(max_drop=1))[0].kept is False
    gone = Records(r for r in THREE if not (r.seed == 1 and r.series == "small"))  # its seed 1 diverged
    small = next(c for c in choices(gone) if c.name == "small")
    assert verdicts(small, Limits(max_drop=50)) == [Verdict(None, "drop not known for seed 1")]


@pytest.mark.parametrize("note", ["no ratio: other processes took at least 9 % of", "no speed: simulated"])
def test_a_ratio_that_was_withheld_gives_no_latency(note: str) -> None:
    def withheld(r: Record) -> Record:
        return replace(r, value=None, note=note) if r.metric == "speedup_b1" and r.seed == 1 else r

    found = Records(withheld(r) if r.series == "small" else r for r in THREE)
    small = next(c for c in choices(found, "board") if c.name == "small")
    assert small.figures["latency"].by_seed == {0: 4.0}
    assert verdicts(small, Limits(max_latency=9)) == [Verdict(None, f"latency not known for seed 1 ({note})")]


def test_what_others_disturbed_is_no_figure() -> None:
    """An old record's ratio on a busy machine; a reference that was disturbed when it was timed."""
    busy = "busy machine: load 9.0 on 2 cores"
    for disturbed, why in (
        (lambda r: r.series == "small" and r.metric == "speedup_b1", busy),
        (
            lambda r: r.series == "dense" and r.metric == "latency_b1",
            f"its reference: {busy}",
        ),
    ):
        found = Records(replace(r, note=busy) if disturbed(r) else r for r in THREE)
        small = next(c for c in choices(found, "board") if c.name == "small")
        assert not small.figures["latency"].by_seed
        assert small.figures["latency"].why[0].startswith(why)


def test_only_a_difference_in_latency_that_the_intervals_carry_counts() -> None:
    """int8 is 1.11 x faster in turns; its absolute latency, of another moment, is the higher one."""

    def beside(low: float, high: float) -> list[str]:
        found = rows(
            dense={"accuracy": (90.0,), "bytes": (100,), "latency": (2.0,), "speedup": (1.0,)},
            int8={
                "accuracy": (90.0,), "bytes": (100,), "latency": (2.3,), "speedup": (1.11,),
                "low": (low,), "high": (high,),
            },
        )  # fmt: skip
        return [c.name for c in advise(choices(found, "board"), Limits()).kept]

    assert beside(1.08, 1.14) == ["int8"]
    assert beside(0.98, 1.14) == ["int8", "dense"], "neither is shown to be faster"


def test_without_an_interval_or_seeds_a_latency_ranks_nothing_and_is_said() -> None:
    found = rows(
        dense={"accuracy": (90.0,), "latency": (2.0,), "speedup": (1.0,)},
        old={"accuracy": (80.0,), "latency": (9.0,), "speedup": (0.25,)},
    )
    advice = advise(choices(found, "board"), Limits())
    assert [c.name for c in advice.kept] == ["dense", "old"]
    assert advice.unranked == ("dense", "old")
    seeds = rows(
        dense={"accuracy": (90.0,) * 3, "latency": (2.0, 6.0, 2.0), "speedup": (1.0,) * 3},
        old={"accuracy": (80.0,) * 3, "latency": (9.0,) * 3, "speedup": (0.25, 0.3, 0.2)},
        even={"accuracy": (80.0,) * 3, "latency": (9.0,) * 3, "speedup": (0.9, 1.2, 1.1)},
        quick={"accuracy": (70.0,) * 3, "latency": (9.0,) * 3, "speedup": (2.0, 2.1, 2.2)},
    )
    advice = advise(choices(seeds, "board"), Limits())
    assert [c.name for c in advice.kept] == ["dense", "even", "quick"], "even may be the faster one"
    assert advice.unranked == ()
    assert advice.out == {"old": "dense is at least as good in all"}


def test_latencies_over_different_references_are_not_compared() -> None:
    """Two models: what each took was measured at moments of its own."""
    both = Records(
        [*THREE, *(replace(r, model="other", key=f"o{r.key}", reference=f"o{r.reference}") for r in THREE)]
    )
    advice = advise(choices(both, "board"), Limits())
    assert len(advice.kept) == 4
    assert len(advice.unranked) == 6
    modelled = Records(replace(r, basis="modelled") if r.probe == "targets" else r for r in both)
    assert advise(choices(modelled, "board"), Limits()).unranked == ()


@pytest.mark.parametrize("probe", ["cost", "deployed"])
def test_every_probe_is_read_by_its_ratio_in_turns(probe: str) -> None:
    names = {"cost": ("latency_median", "speedup"), "deployed": ("deployed_latency", "deployed_speedup")}
    latency, ratio = names[probe]
    renamed = {
        "latency_b1": f"{latency}_b1",
        "speedup_b1": f"{ratio}_b1",
        "speedup_low_b1": f"{ratio}_low_b1",
        "speedup_high_b1": f"{ratio}_high_b1",
    }
    where = {"hardware": "board", "group": ""} if probe == "cost" else {}
    found = Records(
        replace(r, probe=probe, metric=renamed[r.metric], **where) if r.metric in renamed else r
        for r in THREE
    )
    small = next(c for c in choices(found, "board") if c.name == "small")
    assert small.figures["latency"].by_seed == {0: 4.0, 1: 2.0}
    assert small.figures["latency"].within == {0: (8 / 2.1, 8 / 1.9), 1: (8 / 4.1, 8 / 3.9)}


def worst_case(**given: float | tuple[float, ...]) -> dict[str, float | tuple[float, ...]]:
    return {"accuracy": (90.0,) * 3, "speedup": (2.0,) * 3, "low": (1.9,) * 3, "high": (2.1,) * 3} | given


def state(found: Records, name: str) -> Choice:
    return next(c for c in choices(found, "board") if c.name == name)


BESIDE = {"accuracy": (90.0,) * 3, "latency": (4.0,) * 3, "speedup": (1.0,) * 3}


@pytest.mark.parametrize(
    ("own", "limit", "kept", "said"),
    [
        (11, 3, None, "latency 2 ms (seed 0; 95 % 1.905 to 2.105, n=1) by its ratio, but 11 ms where it was timed"),
        (1.0, 1.5, None, "but 1 ms where it was timed itself: one is above 1.5, the other isn't"),
        (2.2, 3, True, "latency 2 ms"),
        (2.2, 1.5, False, "is above 1.5"),
    ],
)  # fmt: skip
def test_two_timings_of_a_state_that_disagree_about_the_limit_tell_nothing(
    own: float, limit: float, kept: bool | None, said: str
) -> None:
    """4 ms over 2 (1.9 to 2.1): 2 ms (1.905 to 2.105); and what the state took where it was timed itself."""
    found = rows(
        dense={"accuracy": (90.0,), "latency": (4.0,), "speedup": (1.0,)},
        small={"accuracy": (88.0,), "latency": (own,), "speedup": (2.0,), "low": (1.9,), "high": (2.1,)},
    )
    (told,) = verdicts(state(found, "small"), Limits(max_latency=limit))
    assert told.kept is kept
    assert said in told.words


def test_a_timing_of_itself_that_was_disturbed_says_nothing_against_its_ratio() -> None:
    found = rows(
        dense={"accuracy": (90.0,), "latency": (4.0,), "speedup": (1.0,)},
        small={"accuracy": (88.0,), "latency": (11.0,), "speedup": (2.0,), "low": (1.9,), "high": (2.1,)},
    )
    busy = "other processes took at least 34 % of the processors in each of 4 tries"
    noted = [replace(r, note=busy) if (r.series, r.metric) == ("small", "latency_b1") else r for r in found]
    assert verdicts(state(Records(noted), "small"), Limits(max_latency=3))[0].kept is True
    again = [replace(r, value=2.1) for r in found if (r.series, r.metric) == ("small", "latency_b1")]
    assert state(Records([*noted, *again]), "small").figure("latency").own == {0: 2.1}


@pytest.mark.parametrize(
    ("limit", "kept", "said"),
    [
        (2.11, True, "latency 2 ms (seed 0; no interval, n=1)"),
        (2.09, None, "(seed 0; no interval, n=1): that is within 5 % of the limit, 2.09"),
        (1.91, None, "within 5 % of the limit, 1.91"),
        (1.9, False, "latency 2 ms (seed 0; no interval, n=1) is above 1.9"),
    ],
)
@pytest.mark.parametrize("ratio", [{"speedup": (2.0,)}, {}])
def test_a_latency_without_an_interval_says_so_and_tells_nothing_near_the_limit(
    limit: float, kept: bool | None, said: str, ratio: dict[str, tuple[float, ...]]
) -> None:
    """2 ms: 4 over 2, or timed itself and by no ratio; 5 % of 2.11 and of 1.9 are less than what lies between."""
    found = rows(
        dense={"accuracy": (90.0,), "latency": (4.0,), "speedup": (1.0,)},
        small={"accuracy": (88.0,), "latency": (2.0,), **ratio},
    )
    (told,) = verdicts(state(found, "small"), Limits(max_latency=limit))
    assert (told.kept, said in told.words) == (kept, True), told.words


def test_an_interval_whose_ends_are_crossed_is_wide_all_the_same() -> None:
    found = rows(
        dense={"accuracy": (90.0,), "latency": (4.0,), "speedup": (1.0,)},
        small={"accuracy": (88.0,), "latency": (2.0,), "speedup": (2.0,), "low": (4.0,), "high": (1.0,)},
    )
    assert state(found, "small").figure("latency").within == {0: (1.0, 4.0)}


def test_advice_counts_seeds_whose_ratio_was_withheld_as_not_known() -> None:
    """As the gate does; only of what was timed elsewhere are seeds that nobody timed no gap."""
    busy = "other processes took at least 34 % of the processors in each of 4 tries"
    found = rows(dense=BESIDE, small=worst_case(latency=(2.0,) * 3))

    def withheld(r: Record) -> Record:
        if r.series == "dense" or r.seed == 0 or r.probe != "targets":
            return r
        return replace(r, value=None if "speedup" in r.metric else 11.0, note=busy)

    limits = Limits(max_latency=3, needed=("latency",), enough=("latency",))
    lost = state(Records(withheld(r) for r in found), "small")
    assert verdicts(lost, limits) == [Verdict(None, f"latency not known for seeds 1, 2 ({busy})")]
    gone = Records(r for r in found if r.seed == 0 or r.series == "dense" or r.probe != "targets")
    assert verdicts(state(gone, "small"), limits)[0].kept is None, "not timed at all"
    phone = records([Elsewhere("small", 1, 2.0)], found, "", "phone", "f.csv")
    (abroad,) = (c for c in choices(Records([*found, *derived(phone)]), "phone") if c.name == "small")
    assert abroad.figure("latency").by_seed == {0: 2.0}
    assert verdicts(abroad, limits)[0].kept is True
    assert verdicts(abroad, replace(limits, enough=()))[0].kept is None
    broke = [replace(r, seed=1, key="small1", value=None, note=f"{r.note}; it broke") for r in phone]
    (abroad,) = (c for c in choices(Records([*found, *phone, *broke]), "phone") if c.name == "small")
    assert verdicts(abroad, limits)[0].kept is None, "a reason why there is none is no seed that nobody timed"


def test_advice_says_within_the_limits_of_no_state_whose_ratio_was_withheld(run: Path, command) -> None:
    busy = "other processes took at least 34 % of the processors in each of 4 tries"

    def withheld(r: Record) -> Record:
        lost = (r.series, r.seed, r.metric) == ("small", 1, "speedup_b1")
        return replace(r, value=None, note=busy) if lost else r

    write_jsonl(map(withheld, THREE), run / "records.jsonl")
    asked = ("--target", "board", "--max-latency", "5.5")
    done = command("advise", str(run), *asked)
    assert "\nworse " in done.stdout
    assert "\nsmall " not in done.stdout
    assert f"small: can't tell: latency not known for seed 1 ({busy})" in done.stdout
    assert command("gate", str(run), "--state", "small", *asked).returncode == 1


def test_a_latency_that_may_be_the_higher_one_is_not_as_good() -> None:
    """4 ms between 1.9 and 10, and 2.67 between 2.5 and 2.8: the intervals overlap. 8 ms is the reference's."""
    found = rows(
        dense={"accuracy": (70.0,), "latency": (8.0,), "speedup": (1.0,)},
        wide={
            "accuracy": (90.0,), "latency": (4.0,), "speedup": (2.0,), "low": (0.8,), "high": (8 / 1.9,),
        },
        narrow={
            "accuracy": (89.0,), "latency": (2.67,), "speedup": (3.0,), "low": (8 / 2.8,), "high": (3.2,),
        },
        lucky={
            "accuracy": (88.0,), "latency": (2.6,), "speedup": (3.1,), "low": (0.9,), "high": (8.0,),
        },
    )  # fmt: skip
    wide, narrow, lucky = (state(found, name) for name in ("wide", "narrow", "lucky"))
    assert not dominates(wide, narrow)
    assert not dominates(narrow, lucky), "its point is the higher one"
    assert not dominates(wide, lucky), "by its upper end and its point"
    assert dominates(narrow, state(found, "dense"))
    assert [c.name for c in advise(choices(found, "board"), Limits()).kept] == ["wide", "narrow", "lucky"]


@pytest.mark.parametrize("figure", ["accuracy", "loyalty"])
def test_a_better_mean_beats_nothing_whose_worst_seed_is_better(figure: str) -> None:
    """Means of 89.1 and 89.07; worst seeds of 77.3 and 89."""
    wild, calm = (95.0, 95.0, 77.3), (89.0, 89.0, 89.2)
    found = rows(wild={figure: wild}, calm={figure: calm}, low={figure: (88.0, 77.0, 95.0)})
    kept = advise(choices(found), Limits())
    assert {c.name for c in kept.kept} == {"wild", "calm"}
    assert kept.out == {"low": "wild is at least as good in all"}  # 86.7 on average, 77 at worst


def test_a_state_that_lacks_a_seed_beats_nothing() -> None:
    """Its training diverged at seed 2; at seed 1 the ratio was withheld."""
    found = rows(dense=BESIDE, small=worst_case(latency=(2.0,) * 3), other=worst_case(latency=(3.0,) * 3))
    slower = [replace(r, value=1.5) if r.series == "other" and "speedup" in r.metric else r for r in found]
    assert dominates(state(Records(slower), "small"), state(Records(slower), "other"))
    lost = [r for r in slower if (r.series, r.seed, r.metric) != ("small", 2, "top1")]
    assert not dominates(state(Records(lost), "small"), state(Records(lost), "other"))
    busy = "no ratio: other processes took at least 34 %"
    lost = [
        replace(r, value=None, note=busy)
        if (r.series, r.seed) == ("small", 1) and r.metric == "speedup_b1"
        else r
        for r in slower
    ]
    assert not dominates(state(Records(lost), "small"), state(Records(lost), "other"))


# ---- records that can't be, or that disagree ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("top1", (20.0, None)),
        ("label_loyalty", (20.0,)),
        ("recall_change", (-50.0,)),
        ("dense_bytes", (99.0,)),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_two_values_of_one_figure_are_refused(
    metric: str, values: tuple[float | None, ...], first: bool
) -> None:
    for value in values:
        again = [
            replace(r, value=value) for r in THREE if (r.metric, r.series, r.seed) == (metric, "small", 1)
        ]
        both = Records([*again, *THREE] if first else [*THREE, *again])
        with pytest.raises(UserError, match=f"small: records disagree: {metric} (of cat )?of seed 1 is "):
            choices(both)
    same = [replace(r, note="again") for r in THREE if r.metric == metric]
    assert [c.figures for c in choices(Records([*THREE, *same]))] == [c.figures for c in choices(THREE)]


def test_a_state_of_two_recipes_has_one_accuracy() -> None:
    """What drops are counted from."""
    like = [replace(r, recipe="other") for r in THREE if r.series == "dense"]
    found = choices(Records([*THREE, *like]))
    assert [c.name for c in found if c.series == "dense"] == ["dense"], "the very same state stands once"
    with pytest.raises(
        UserError, match="dense: records disagree: top1 of seed 0 is 90 and 40 for one and the"
    ):
        choices(Records([*THREE, *(replace(r, value=40.0) for r in like)]))


def test_timings_that_were_taken_twice_count_by_their_median() -> None:
    again = [
        replace(r, value=4.0) for r in THREE if (r.metric, r.series, r.seed) == ("speedup_b1", "small", 0)
    ]
    assert state(Records([*THREE, *again]), "small").figure("latency").by_seed[0] == 8 / 3  # of 2 and 4


@pytest.mark.parametrize(("metric", "unit"), [("dense_bytes", "kB"), ("top1", "1"), ("latency_b1", "s")])
def test_a_figure_in_another_unit_is_refused(metric: str, unit: str) -> None:
    odd = Records(replace(r, unit=unit) if r.metric == metric else r for r in THREE)
    with pytest.raises(UserError, match=f"{metric} of seed 0 is in '{unit}', must be in "):
        choices(odd, "board")


def test_a_figure_that_is_no_number_is_none() -> None:
    odd = Records(replace(r, value=float("nan")) if r.metric == "top1" else r for r in THREE)
    assert verdicts(state(odd, "small"), Limits(min_accuracy=1)) == [
        Verdict(None, "accuracy not known (it is nan)")
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"value": "NaN"}, "NaN is no number of JSON"),
        ({"value": "-Infinity"}, "-Infinity is no number of JSON"),
        ({"value": "1e400"}, "value inf of top1 is no finite number"),
        ({"value": "2e300"}, r"value 2e\+300 of top1 is too large"),
        ({"value": f"1{'0' * 400}"}, "value a number of many digits of top1 is too large"),
        ({"value": "150"}, "value 150 of top1 is not within 0 and 100 %"),
        ({"value": "-0.5"}, "value -0.5 of top1 is not within 0 and 100 %"),
        ({"value": "101", "metric": '"label_loyalty"'}, "not within 0 and 100 %"),
        ({"value": "-101", "metric": '"recall_change"', "unit": '"points"'}, "not within 100 points"),
        ({"value": "-2", "metric": '"speedup_b1"', "unit": '"x"'}, "value -2 of speedup_b1 is not above 0"),
        ({"value": "0", "metric": '"deployed_speedup_low_b64"', "unit": '"x"'}, "is not above 0"),
        ({"value": "0.0", "metric": '"latency_median_b1"', "unit": '"ms"'}, "is not above 0"),
        ({"value": "-1", "metric": '"dense_bytes"', "unit": '"bytes"'}, "value -1 of dense_bytes is below 0"),
        ({"n": f"1{'0' * 400}"}, "n a number of many digits is too large"),
        ({"n": "-3"}, "n -3 is below 0"),
        ({"density": "NaN"}, "NaN is no number of JSON"),
        ({"density": "-1.0"}, "density -1.0 is below 0"),
        ({"compute": "1e308"}, r"compute 1e\+308 is too large"),
    ],
)
def test_what_no_run_can_have_measured_is_refused_at_reading(
    given: dict[str, str], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "records.jsonl"
    write_jsonl(THREE[:2], path)
    first, second = path.read_text().splitlines()
    for column, token in given.items():
        before = json.dumps(json.loads(second)[column])
        assert f'"{column}": {before}' in second
        second = second.replace(f'"{column}": {before}', f'"{column}": {token}')
    path.write_text(f"{first}\n{second}\n")
    with pytest.raises(UserError, match=rf"records\.jsonl:2: not a record \(.*{said}"):
        read_jsonl(path)


def test_what_can_be_is_read(tmp_path: Path) -> None:
    """At the ends of what is possible, in units and metrics of a user's own, and what isn't bounded."""
    like = THREE[0]
    held = [
        replace(like, value=100.0),
        replace(like, value=0.0),
        replace(like, metric="mine", value=-3.0),
        replace(like, metric="keskar_sharpness", value=250.0),
        replace(like, metric="recall_change", unit="points", value=-100.0),
        replace(like, metric="speedup_b1", unit="x", value=1e-9),
        replace(like, metric="relation", unit="1", value=-1.0),
        replace(like, metric="train_seconds", unit="s", value=0.0),
        replace(like, metric="top1", unit="1", value=250.0),
        replace(like, value=None),
    ]
    write_jsonl(held, tmp_path / "records.jsonl")
    assert list(read_jsonl(tmp_path / "records.jsonl")) == held


@pytest.mark.parametrize("verb", ["gate", "advise", "report"])
def test_records_that_cannot_be_are_one_line(verb: str, run: Path, command) -> None:
    path = run / "records.jsonl"
    path.write_text(path.read_text().replace('"value": 88,', '"value": NaN,', 1))
    done = command(verb, str(run), *(("--max-drop", "1") if verb == "gate" else ()))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "records.jsonl:" in done.stderr
    assert "not a record (NaN is no number of JSON)" in done.stderr


def test_bytes_say_what_they_are_of() -> None:
    found = rows(
        dense={"accuracy": 90, "bytes": 1000, "latency": 8.0, "file": 1200},
        coded={"accuracy": 89, "bytes": 900, "huffman": 76_646, "latency": 8.0, "file": 300},
        small={"accuracy": 88, "bytes": 900, "huffman": 80, "latency": 8.0},
    )
    by_name = {c.name: c for c in choices(found)}
    assert by_name["small"].figures["bytes"].by_seed == {0: 80, 1: 81}
    assert verdicts(by_name["small"], Limits(max_bytes=80)) == [
        Verdict(
            False,
            "81 bytes (Huffman-coded) at worst (seed 1; mean 80, n=2) is above 80",
        )
    ]
    assert by_name["coded"].figures["bytes"].words == "dense, as safetensors"
    on_board = {c.name: c.figure("bytes") for c in choices(found, "board")}
    assert on_board["coded"].by_seed == {0: 300, 1: 301}
    assert on_board["coded"].words == "the file that board reads"
    assert on_board["small"].by_seed == {}, "never beside another's file"


def test_seeds_of_one_state_may_differ_a_little_in_density_and_settings_of_one_seed_may_not_be_mixed() -> (
    None
):
    near = Records(replace(r, density=0.2 + 0.01 * r.seed) if r.series == "small" else r for r in THREE)
    small = next(c for c in choices(near) if c.series == "small")
    assert small.figures["accuracy"].by_seed == {0: 88, 1: 89}
    twice = Records([*THREE, *(replace(r, key="again") for r in THREE if r.series == "small")])
    with pytest.raises(UserError, match="small: seed 0 was run twice"):
        choices(twice)


def test_a_limit_is_shown_in_digits_that_tell() -> None:
    told = verdicts(one("x", drop=1.00004), Limits(max_drop=1.0))
    assert told == [Verdict(False, "drop 1.00004 points (seed 0, n=1) is above 1")]
    exact = rows(dense={"accuracy": (89.8,)}, small={"accuracy": (88.8,)})  # 89.8 - 88.8 > 1 in binary
    small = next(c for c in choices(exact) if c.name == "small")
    assert verdicts(small, Limits(max_drop=1.0)) == [Verdict(True, "drop 1 points (seed 0, n=1)")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_jsonl(THREE, folder / "records.jsonl")
    return folder


def test_the_gate_opens_and_closes(run: Path, command) -> None:
    kept = ("--max-drop", "2.5", "--max-class-drop", "5", "--min-loyalty", "95")
    fine = command("gate", str(run), "--state", "small", *kept)
    assert fine.returncode == 0, fine.stderr
    assert (
        "ok         small: loyalty 95 % at worst (seed 0; mean 95.5, n=2); drop 2 points at worst (seed 0; mean 2, "
        "n=2); class drop 5 points at worst (seed 0; mean 4.5, n=2)"
    ) in fine.stdout
    shut = command("gate", str(run), "--max-drop", "2.5", "--max-class-drop", "4.5")
    assert shut.returncode == 1
    assert (
        "BROKEN     small: class drop 5 points at worst (seed 0; mean 4.5, n=2) is above 4.5" in shut.stdout
    )
    assert "dense" not in shut.stdout
    assert "2 of 2 states break a limit" in shut.stdout


def test_the_gate_refuses_what_it_cannot_tell(run: Path, command) -> None:
    lacking = [r for r in THREE if not (r.seed == 1 and r.metric == "top1" and r.series == "small")]
    write_jsonl(lacking, run / "records.jsonl")
    open_ = command("gate", str(run), "--state", "small", "--max-drop", "2.5", "--min-loyalty", "95")
    assert open_.returncode == 1
    assert open_.stderr == "compressbench: can't tell: small: drop not known for seed 1\n"
    assert "can't tell small: drop not known for seed 1" in open_.stdout
    both = command("gate", str(run), "--max-drop", "2.5")
    assert both.returncode == 1
    assert "1 of 2 states breaks a limit, of 1 more it can't be told" in both.stdout
    assert both.stderr == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("gate", "RUN"), "no limit given"),
        (
            ("gate", "RUN", "--state", "smal", "--max-drop", "1"),
            "no compressed state 'smal' was measured; did you mean",
        ),
        (("gate", "RUN", "--max-drop", "much"), "'much' is not a finite number"),
        (("gate", "RUN", "--max-drop", "nan"), "'nan' is not a finite number"),
        (("gate", "nowhere", "--max-drop", "1"), "no such file or folder"),
        (("advise", "RUN", "--max-latency", "5"), "on which target?"),
        (("advise", "RUN", "--target", "boards"), "nothing was measured on 'boards'"),
        (("gate", "RUN", "--state", "dense", "--max-drop", "1"), "'dense' is the dense model, with which"),
        (("advise", "RUN", "--export", "onnyx"), "unknown form 'onnyx'"),
        (
            ("timings", "import", "nowhere.csv", "--run", "RUN", "--device", "d"),
            "nowhere.csv: there is no such file",
        ),
        (("timings", "import", "nowhere.csv", "--run", "x", "--device", "d"), "x holds no records.jsonl"),
        (("timings", "import", "nowhere.csv", "--run", "RUN", "--device", "../d"), "is no name"),
        (("timings", "import", "nowhere.csv", "--run", "RUN", "--device", "a\u2028b"), "is no name"),
        (
            ("timings", "import", "nowhere.csv", "--run", "RUN", "--device", "d" * 300),
            "at most 80 characters",
        ),
        (("calibrate", "--output", "/dev/null/x.yaml"), "can't write /dev/null/x.yaml"),
    ],
)
def test_bad_input_is_one_line(args: tuple[str, ...], said: str, run: Path, command) -> None:
    done = command(*(str(run) if a == "RUN" else a for a in args))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_advice_as_a_user_asks_for_it(run: Path, command) -> None:
    done = command("advise", str(run), "--target", "board", "--min-accuracy", "85")
    assert done.returncode == 0, done.stderr
    assert "beaten by none on board (measured); means over n seeds" in done.stdout
    assert "worse: accuracy 80 % at worst (seed 0; mean 80.5, n=2) is below 85" in done.stdout
    line = next(x for x in done.stdout.splitlines() if x.startswith("small "))
    assert line.split() == [
        "small",
        "2",
        "88.50",
        "2.00",
        "95.50",
        "100",
        "3",
        "(1.951–4.211)",
    ]  # 8/4.1, 8/1.9
    assert "small: 100 bytes, dense, as safetensors" in done.stdout
    none = command("advise", str(run), "--max-bytes", "5")
    assert none.returncode == 1
    assert "no state keeps to the limits; nearest comes small: 101 bytes" in none.stderr
    unknown = command("advise", str(run), "--max-drop", "2", "--min-loyalty", "99.5")
    assert unknown.returncode == 1


def test_what_tools_print() -> None:
    assert read(BENCHMARK_APP, "x") == [Elsewhere("int8", 4, 1.23, 812, "OpenVINO 2026.4.1, benchmark_app")]
    assert read(PERF_TEST, "x") == [Elsewhere("", 1, 1.42, 1000, "ONNX Runtime, perf_test")]
    average = "\n".join(line for line in PERF_TEST.splitlines() if not line.startswith("P"))
    assert read(average, "x")[0].ms == 1.5
    assert "an average" in read(average, "x")[0].runtime


def test_tables_of_ones_own() -> None:
    expected = [Elsewhere("small", 1, 2.5, 100, "TFLite"), Elsewhere("small", 8, 12.0)]
    assert read("state,batch,ms,n,runtime\nsmall,1,2.5,100,TFLite\nsmall,8,12,,\n", "x") == expected
    listed = [
        {"state": "small", "batch": 1, "ms": 2.5, "n": 100, "runtime": "TFLite"},
        {"state": "small", "batch": 8, "ms": 12},
    ]
    assert read(json.dumps(listed), "x") == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "none of the known forms"),
        ("", "none of the known forms"),
        ("state,batch,ms\nsmall,1,fast\n", "row 1: could not convert string to float: 'fast'"),
        ("state,batch,ms\nsmall,1,-3\n", "must be above 0"),
        ("state,batch,ms\nsmall,0,3\n", "must be above 0"),
        ("state,batch,ms\nsmall,1.5,3\n", "1.5 is no whole number"),
        ("state,batch,ms\nsmall,1,1e-320\n", "must be above 0"),
        ("state,batch,ms\nsmall,1,2\nsmall,1,3\n", "two rows for state 'small' at batch 1"),
        ('[{"state": "a", "batch": Infinity, "ms": 1}]', "cannot convert float infinity"),
        ('[{"state": "a", "batch": true, "ms": 1}]', "True is no number"),
        ("[" * 100_000, "recursion|nested|valid JSON"),
        ("[Step 1] Latency Median: 0.00 ms", "must be above 0"),
        ("[Step 1] Latency Median: 1.2.3 ms", "could not convert"),
        ("Total inference requests: 3\nP50 Latency: 1e999 s", "must be above 0"),
        ("Total inference requests: 3\nP50 Latency: -1 s", "must be above 0"),
        ("state,batch,ms\nsmall,1,nan\n", "must be above 0"),
        ("state,batch,ms,who\nsmall,1,3,me\n", "unknown column 'who'"),
        ("[1, 2]", "a list of objects"),
        ("[{", "line 1: no valid JSON"),
    ],
)
def test_a_malformed_table(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(text, "file.csv")


def test_imported_timings_are_records_like_any_other(run: Path, tmp_path: Path, command) -> None:
    table = tmp_path / "phone.csv"
    table.write_text("state,batch,ms\ndense,1,8\nsmall,1,2\n")
    done = command("timings", "import", str(table), "--run", str(run), "--device", "Pixel 8")
    assert done.returncode == 0, done.stderr
    found = read_jsonl(next((run / "timings").glob("pixel-8-*")) / "records.jsonl")
    speed = found.where(state="small", metric="speedup_b1")[0]
    assert (speed.value, speed.group, speed.basis, speed.unit) == (4.0, "Pixel 8", "measured", "x")
    assert speed.machine == "Pixel 8"
    assert "read from phone.csv" in speed.note
    assert "not timed in turns" in speed.note
    ranks = command("advise", str(run), "--target", "Pixel 8")
    assert ranks.returncode == 0, ranks.stderr
    assert (
        "with intervals or seeds: dense, small. Absolute latencies are of different moments" in ranks.stdout
    )
    table.write_text("state,batch,ms\nsmall,1,1\n")
    assert command("timings", "import", str(table), "--run", str(run), "--device", "Pixel 8").returncode == 0
    again = read_jsonl(next((run / "timings").glob("pixel-8-*")) / "records.jsonl")
    assert [r.value for r in again.where(state="small", metric="latency_b1")] == [1.0]
    assert [r.value for r in again.where(state="small", metric="speedup_b1")] == [8.0], "of what is there now"
    (run / "config.yaml").write_text("a: run\n")
    measured = (run / "records.jsonl").read_bytes()
    assert command("report", str(run)).returncode == 0
    assert (run / "records.jsonl").read_bytes() == measured, "what a run measured stays as it is"
    table.write_text("\ufeffstate,batch,ms\nsmall,1,3\n", encoding="utf-8")  # as Excel writes it
    assert command("timings", "import", str(table), "--run", str(run), "--device", "Pixel 8").returncode == 0
    advice = command("advise", str(run), "--target", "Pixel 8", "--max-latency", "4")
    assert advice.returncode == 0, advice.stderr
    line = next(x for x in advice.stdout.splitlines() if x.startswith("small "))
    assert line.split()[-2:] == ["3", "(n=1)"], "an absolute latency can keep to a limit"
    assert "Within the limits at every seed (latencies: at those that have one) and beaten" in advice.stdout
    gate = command("gate", str(run), "--target", "Pixel 8", "--max-latency", "4", "--state", "small")
    assert gate.returncode == 1
    assert "can't tell: small: latency not known for seed 1" in gate.stderr
    assert "Can't tell how fast these are beside" not in advice.stdout, "it is the only one"
    assert command("timings", "import", str(table), "--run", str(run), "--device", "Pixel 8+").returncode == 0
    assert len(list((run / "timings").iterdir())) == 2, "another name is another device"
    taken = command("timings", "import", str(table), "--run", str(run), "--device", "board")
    assert taken.returncode == 2
    assert "is a target of this run already" in taken.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Pixel 8" in page


def test_timings_of_another_state_are_refused() -> None:
    found = [Elsewhere("small", 1, 2.0)]
    with pytest.raises(UserError, match="its timings are of 'small', not of 'worse'"):
        records(found, THREE, "worse", "d", "f.csv")
    with pytest.raises(UserError, match="the run has no state 'tiny'"):
        records([Elsewhere("tiny", 1, 2.0)], THREE, "", "d", "f.csv")
    with pytest.raises(UserError, match="doesn't say which state"):
        records([Elsewhere("", 1, 2.0)], THREE, "", "d", "f.csv")


def test_settings_of_a_sweep_and_models_are_never_averaged() -> None:
    """Two models with states of the same names, and one series at two densities."""
    halves = (replace(r, model="other", key=f"o{r.key}", value=(r.value or 0) / 2) for r in THREE)
    both = Records([*THREE, *halves])
    found = {c.name: c.figures["accuracy"].mean for c in choices(both)}
    assert len(found) == 6
    assert sorted(found.values()) == [40.25, 44.25, 45.25, 80.5, 88.5, 90.5]
    small = [replace(r, density=0.05, key=f"t{r.key}", value=1.0) for r in THREE if r.series == "small"]
    thin = Records([*THREE, *small])
    names = [c.name for c in choices(thin)]
    assert len(set(names)) == len(names) == 4
    assert any("5 %" in name for name in names)


def test_latencies_of_two_machines_are_not_averaged() -> None:
    both = Records([*THREE, *(replace(r, machine="another", seed=r.seed + 5) for r in THREE)])
    with pytest.raises(UserError, match="board has latencies of several kinds"):
        choices(both, "board")


def test_a_series_whose_name_ends_in_dense_is_gated(tmp_path: Path, command) -> None:
    odd = rows(dense={"accuracy": 90}, **{"not: dense": {"accuracy": 10}})
    write_jsonl(odd, tmp_path / "records.jsonl")
    done = command("gate", str(tmp_path), "--max-drop", "1")
    assert done.returncode == 1, done.stderr


def test_the_nearest_is_no_state_of_which_nothing_is_known() -> None:
    found = [one("unknown", accuracy=10.0), one("close", accuracy=84.0, latency=9.0)]
    with pytest.raises(Unmet, match="nearest comes close"):
        advise(found, Limits(min_accuracy=85, max_latency=0.01))


def test_latencies_of_one_machine_are_compared_by_the_ratio_in_turns() -> None:
    """A state with early exits is timed over a mixture, its reference alone by single forwards, at another moment."""
    like = {"probe": "cost", "unit": "ms", "hardware": "cpu", "reference": "d"}
    ratio = {**like, "metric": "speedup_b1", "unit": "x"}
    rows = [
        record(key="d", value=90.0),
        record(key="d", **{**like, "metric": "latency_median_b1", "value": 2.0}),
        record(key="d", **{**ratio, "value": 1.0}),
        record(series="exits", key="e", order=1, value=89.0),
        record(series="exits", key="e", order=1, **{**like, "metric": "latency_median_b1", "value": 3.0}),
        record(series="exits", key="e", order=1, **{**ratio, "value": 1.25}),
    ]
    found = {c.name: c.figures["latency"].by_seed for c in choices(Records(rows), "cpu")}
    assert found == {"dense": {0: 2.0}, "exits": {0: 1.6}}


def test_where_a_timing_here_leaves_it_open_the_way_out_is_named(tmp_path: Path, command) -> None:
    busy = "other processes took at least 34 % of the processors in each of 4 tries"
    lost = [
        replace(r, value=None if "speedup" in r.metric else r.value, note=busy)
        if r.probe == "targets" and r.series == "small"
        else r
        for r in THREE
    ]
    write_jsonl(lost, tmp_path / "records.jsonl")
    limit = ("--target", "board", "--max-latency", "9")
    anew = "; the same run with --retime times it anew"
    assert command("gate", str(tmp_path), *limit, "--state", "small").stderr.endswith(f"{anew}\n")
    assert command("advise", str(tmp_path), "--target", "board", "--max-latency", "0.1").returncode == 1
    assert anew not in command("gate", str(tmp_path), "--max-drop", "50").stderr
    assert timed_anew(one("x", latency=5.0), Limits(max_latency=5.0)) == ""  # exact, and kept
    point = Figure({0: 5.0}, bare=frozenset({0}))
    assert timed_anew(Choice("x", "r", "x", {"latency": point}, (0,)), Limits(max_latency=5.0)) == anew
    abroad = replace(point, elsewhere=True)
    assert timed_anew(Choice("x", "r", "x", {"latency": abroad}, (0,)), Limits(max_latency=5.0)) == ""


def test_an_encoding_that_no_exporter_writes_is_said_once(tmp_path: Path, command) -> None:
    found = rows(
        dense={"accuracy": 90, "bytes": 1000},
        a={"accuracy": 89, "bytes": 900, "huffman": 80},
        b={"accuracy": 88, "bytes": 900, "huffman": 70},
    )
    write_jsonl(found, tmp_path / "records.jsonl")
    for verb, more in (("gate", ("--max-bytes", "100")), ("advise", ())):
        assert command(verb, str(tmp_path), *more).stdout.count("no exporter writes") == 1, verb
    assert "no exporter writes" not in command("gate", str(tmp_path), "--max-drop", "50").stdout
    assert encoded_in_words([c for c in choices(found) if c.series == "dense"]) == []
