"""Choosing by records: what dominates, what a seed tells, what can't be told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cases_choosing import (
    THREE,
    one,
    rows,
    run,  # noqa: F401
    state,
)
from compressbench.deploying.choice import Choice, Figure
from compressbench.deploying.choosing import advise, dominates
from compressbench.deploying.elsewhere import Elsewhere, derived, records
from compressbench.deploying.limits import Limits, Verdict, verdicts
from compressbench.deploying.measured import choices
from compressbench.errors import CantTell, Unmet, UserError
from compressbench.records import Record, Records, write_jsonl


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
