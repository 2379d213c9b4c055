"""Timings in turns: clocks that are simulated, others that disturb, intervals that scipy computes too."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.hardware import turns
from compressbench.hardware.memory import peak_bytes
from compressbench.hardware.target import Lowered, Timing
from compressbench.hardware.torch_cpu import TorchCPU, time_in_turns
from compressbench.hardware.turns import (
    in_turns,
    is_disturbed,
    others,
    processor_seconds,
    ratio,
    share_of_others,
    undisturbed,
)
from compressbench.models.draw import drawn
from compressbench.probes.cost import DENSE, Cost
from compressbench.probes.deployed import Deployed
from compressbench.probes.speedups import speedup
from compressbench.probes.targets import Targets
from compressbench.records import Metric
from compressbench.report import speed
from compressbench.state import State
from compressbench.views import View
from conftest import MLP, Command


@pytest.fixture(autouse=True)
def _as_it_is(_alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here timings last as long as they do for users."""
    monkeypatch.setattr(turns, "LEAST_TICKS", 2)


@pytest.fixture(scope="module")
def net(place: Bench) -> State:
    return drawn(MLP, place)


class Machine:
    """A processor whose time is simulated: forwards take what they take, and preemptions take wall-clock time alone."""

    def __init__(self, preempted: Callable[[int, float], float] = lambda call, cpu: 0.0) -> None:
        self.wall = self.cpu = 0.0
        self.calls = 0
        self.preempted = preempted

    def forward(self, seconds: float) -> Callable[[], float]:
        """A timer of a forward of so many seconds of processor time."""

        def once() -> float:
            waits = self.preempted(self.calls, seconds)
            self.calls += 1
            self.cpu += seconds
            self.wall += seconds + waits
            return seconds + waits

        return once

    def time(self, *forwards: float, seconds: float = 0.4) -> list[turns.Turns]:
        timers = [self.forward(f) for f in forwards]
        return in_turns(timers, seconds, 5, clock=lambda: self.wall, spent=lambda: self.cpu)


def timings_of(found: list[turns.Turns], by_cpu: bool) -> list[Timing]:
    return [Timing(1, t.seconds, t.estimates(by_cpu)) for t in found]


def named(metrics: Any) -> dict[str, Metric]:
    return {m.name: m for m in metrics}


def test_preempted_calls_do_not_bias_the_ratio_at_one_thread() -> None:
    """Longer calls are preempted more often: here whatever runs over 10 ms waits eight times as long each time."""
    machine = Machine(lambda call, cpu: 8 * cpu if cpu > 0.01 else 0.0)
    reference, subject = timings_of(machine.time(0.0135, 0.009), by_cpu=True)
    found = named(speedup("speedup", reference, subject))
    assert reference.median / subject.median == pytest.approx(13.5), "by the wall clock"
    assert found["speedup_b1"].value == pytest.approx(1.5)
    assert found["speedup_low_b1"].value == pytest.approx(1.5)
    assert reference.minimum == pytest.approx(9 * 0.0135), "latencies stay those of the wall clock"


def test_with_more_threads_a_turn_counts_by_its_fastest_call() -> None:
    machine = Machine(lambda call, cpu: 0.05 if call % 3 else 0.0)
    reference, subject = timings_of(machine.time(0.0015, 0.001), by_cpu=False)
    assert reference.estimates == pytest.approx([0.0015] * len(reference.estimates))
    assert named(speedup("speedup", reference, subject))["speedup_b1"].value == pytest.approx(1.5)


def test_a_speed_up_is_the_median_of_the_ratios_of_each_turn() -> None:
    """Neither the ratio of the means (2.36) nor that of the medians (1.5): one round was slow for both."""
    reference, subject = (
        Timing(1, (9.0,), t) for t in ((2.0, 4.0, 3.0, 30.0, 2.2), (1.0, 4.0, 2.0, 10.0, 0.44))
    )
    found = named(speedup("deployed_speedup", reference, subject, "here", "a note"))
    assert found["deployed_speedup_b1"] == Metric(
        "deployed_speedup_b1", 2.0, "x", n=5, group="here", note="a note"
    )
    assert set(found) == {f"deployed_speedup{end}_b1" for end in ("", "_low", "_high")}


@pytest.mark.parametrize("rounds", [5, 25, 61])
def test_the_interval_is_the_bootstrap_of_the_median(rounds: int) -> None:
    """Of an odd number of rounds each resample's median is one of the ratios, by chances that the binomial gives."""
    draw = np.random.default_rng(rounds)
    reference, subject = draw.gamma(20, 0.1, rounds), draw.gamma(20, 0.07, rounds)
    found = ratio(reference.tolist(), subject.tolist())
    assert found is not None
    ordered = np.sort(reference / subject)
    assert found.median == pytest.approx(ordered[rounds // 2])

    def at_most(value: float) -> float:
        """The chance that the median of a resample is no larger."""
        return float(binom.sf(rounds // 2, rounds, np.mean(ordered <= value + 1e-12)))

    # 0.025 within twice the error of 1,000 resamples
    assert at_most(found.low) >= 0.015
    assert at_most(found.low - 1e-9) <= 0.035
    assert at_most(found.high) >= 0.965
    assert at_most(found.high - 1e-9) <= 0.985
    assert found == ratio(reference.tolist(), subject.tolist()), "the same draws each time"
    assert found.rounds == rounds


def test_ratios_that_make_no_sense() -> None:
    assert ratio([1.0, 0.0], [1.0, 1.0]) is None
    with pytest.raises(ValueError, match="hold 1 and 2 rounds"):
        ratio([1.0], [1.0, 2.0])
    coarse = list(speedup("speedup", Timing(1, (1.0,), (0.0,)), Timing(1, (1.0,), (1.0,))))
    assert [(m.value, m.note) for m in coarse] == [
        (None, "no ratio: the clock is too coarse for so short a forward")
    ]


def disturbed(*shares: float | None) -> tuple[Any, list[float | None]]:
    """A watch that tells these shares, one a try, and those it has told."""
    told: list[float | None] = []

    def watch() -> Callable[[], float | None]:
        def share() -> float | None:
            told.append(shares[min(len(told), len(shares) - 1)])
            return told[-1]

        return share

    return watch, told


@pytest.mark.parametrize(
    ("shares", "tries", "result"),
    [
        ((0.0,), 1, 0),
        ((0.05,), 1, 0),
        # a share of a try, of the look after it, of the next try …
        ((0.051, 0.01, 0.2, 0.05, 0.04), 3, 2),
        ((0.4, 0, 0.37, 0, 0.9, 0, 0.5), 4, 1),
        ((0.37, 0.06), 1, 0),
        ((0.378, None), 1, 0),
        ((0.37, 0.0, None), 2, 0),
        ((0.4, 0.0, 0.37, 0.9), 2, 1),
    ],
)
def test_what_others_disturb_is_timed_again_when_they_leave(shares: Any, tries: int, result: int) -> None:
    watch, told = disturbed(*shares)
    count, slept = itertools.count(), []
    measured, words = undisturbed(lambda: next(count), watch, slept.append)
    assert len(told) == len(shares) == tries + len(slept)
    assert next(count) == tries
    assert measured == result
    if shares[-1] is not None and shares[-1] <= 0.05:
        assert words == ""
    else:
        when = f"in each of {tries} tries" if tries > 1 and shares[-1] else "and went on"
        assert words == f"other processes took at least 37 % of the processors {when}"


def test_others_who_go_on_are_waited_for_as_long_as_the_measurement_took() -> None:
    watch, told = disturbed(0.37)
    slept: list[float] = []
    undisturbed(lambda: time.sleep(1.1), watch, slept.append)
    assert len(told) == 1 + len(slept)
    assert all(s > turns.least_window(0.01) for s in slept)
    assert sum(slept) == pytest.approx(1.1, abs=0.3)


def test_where_nobody_counts_the_others_timings_and_ratios_say_so_and_are_kept(
    monkeypatch: pytest.MonkeyPatch, net: State, place: Bench
) -> None:
    """macOS has no /proc/stat."""
    watch, told = disturbed(None)
    said = "not known whether others took part of the processors"
    assert undisturbed(lambda: 1, watch) == (1, said)
    assert len(told) == 1, "once: another try would know no more"
    monkeypatch.setattr(turns, "others", watch)
    bench = replace(place, target=TorchCPU(1, (1,), 0.01))
    subject, reference = View(replace(net, key="a"), bench), View(replace(net, key="b"), bench)
    for probe in (Cost(), Targets({"here": bench.target}), Deployed({"here": bench.target})):
        found = named(probe.measure(subject, reference, bench))
        timed = {
            n: m for n, m in found.items() if ("latency" in n or "speedup" in n) and "reference" not in n
        }
        assert len(timed) >= 5
        for metric in timed.values():
            assert metric.value is not None
            assert metric.note.endswith(said)
            assert not is_disturbed(metric.note), "or each run would measure it again"


def test_a_ratio_that_was_disturbed_each_time_is_withheld(
    monkeypatch: pytest.MonkeyPatch, net: State, place: Bench
) -> None:
    watch, told = disturbed(0.37)
    monkeypatch.setattr(turns, "others", watch)
    bench = replace(place, target=TorchCPU(1, (1,), 0.01))
    subject, reference = View(replace(net, key="a"), bench), View(replace(net, key="b"), bench)
    words = "other processes took at least 37 % of the processors and went on"
    probes = (Cost(), Targets({"here": bench.target}), Deployed({"here": bench.target}))
    for probe, name in zip(probes, ("speedup_b1", "speedup_b1", "deployed_speedup_b1"), strict=True):
        told.clear()
        found = named(probe.measure(subject, reference, bench))
        assert len(told) >= 2, "the measurement, and looks whether others leave"
        assert found[name].value is None
        assert found[name].note.startswith(f"no ratio: {words}")
        assert not [n for n in found if "_low_b" in n or "_high_b" in n]
        latency = next(m for n, m in found.items() if "latency" in n)
        assert latency.value is not None
        assert latency.note.endswith(words)
        assert is_disturbed(latency.note)


def test_the_share_of_others_is_what_the_processors_did_for_no_one_here() -> None:
    assert share_of_others(busy=1.5, own=0.9, window=1.0, cores=2, tick=0.01) == pytest.approx(0.59 / 2)
    assert share_of_others(busy=1.01, own=1.0, window=1.0, cores=2, tick=0.01) == pytest.approx(0), (
        "a tick: no proof"
    )
    assert share_of_others(busy=0.5, own=1.0, window=1.0, cores=2, tick=0.01) == 0
    assert share_of_others(busy=9.0, own=0.0, window=1.0, cores=2, tick=0.01) == 1


def test_processor_seconds_are_read_of_the_processors_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice; guest is part of user."""
    monkeypatch.setattr(turns, "_tick", lambda: 0.01)
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 3 4000 500 6 7 800 90 9\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 5\n"
    )
    assert processor_seconds(stat, (0,)) == pytest.approx(0.01 * (100 + 20 + 3 + 6 + 7 + 800))
    assert processor_seconds(stat, (0, 1)) == pytest.approx(0.01 * (936 + 6))
    assert processor_seconds(stat, (0, 7)) is None
    assert processor_seconds(tmp_path / "none", (0,)) is None
    assert others(tmp_path / "none")() is None


def test_our_own_work_is_not_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that does nothing but what this process does: the training of a minute ago and the forwards now."""
    stat, cpu, wall = tmp_path / "stat", [0.0], [0.0]
    clock = SimpleNamespace(process_time=lambda: cpu[0], perf_counter=lambda: wall[0])
    monkeypatch.setattr(turns, "time", clock)
    monkeypatch.setattr(turns, "_usable", lambda: (0, 1))
    monkeypatch.setattr(turns, "_tick", lambda: 0.01)

    def work(own: float, by_others: float) -> None:
        cpu[0] += own
        wall[0] += 1.0
        ticks = [int(w) for w in stat.read_text().split()[1:2]] if stat.is_file() else [0]
        total = ticks[0] + round(100 * (own + by_others))
        stat.write_text(f"cpu0 {total} 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\n")

    work(50, 0)
    share = others(stat)
    work(1.0, 0)
    assert share() == 0
    share = others(stat)
    work(1.0, 0.5)
    assert share() == pytest.approx(0.49 / 2)


def counted(
    monkeypatch: pytest.MonkeyPatch, stat: Path, window: float, own: float, busy: float
) -> Callable[[], float | None]:
    """A watch on one processor with 100 ticks a second, in whose time so much was worked."""
    cpu, wall = [0.0], [0.0]
    clock = SimpleNamespace(process_time=lambda: cpu[0], perf_counter=lambda: wall[0])
    monkeypatch.setattr(turns, "time", clock)
    monkeypatch.setattr(turns, "_usable", lambda: (0,))
    monkeypatch.setattr(turns, "_tick", lambda: 0.01)
    stat.write_text("cpu0 500 0 0 0 0 0 0 0\n")
    share = others(stat)
    cpu[0], wall[0] = own, window
    stat.write_text(f"cpu0 {500 + int(100 * busy + 1e-9)} 0 0 0 0 0 0 0\n")
    return share


def test_a_window_too_short_for_the_ticks_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 0.11 s others that took 14 % are one tick of 10 ms, as is what a quiet machine's clock may lag behind."""
    assert counted(monkeypatch, tmp_path / "stat", 0.11, 0.09, 0.09 + 0.0154)() is None
    assert counted(monkeypatch, tmp_path / "stat", 0.39, 0.3, 0.3 + 0.0546)() is None
    share = counted(monkeypatch, tmp_path / "stat", 0.41, 0.35, 0.35 + 0.0574)()
    assert share is not None
    assert share > turns.DISTURBED
    quiet = counted(monkeypatch, tmp_path / "stat", 0.41, 0.405, 0.41 + 0.01)()
    assert quiet is not None
    assert quiet <= turns.DISTURBED, "a tick more than was worked"


def test_turns_last_as_long_as_the_ticks_need() -> None:
    """Two ticks in 5 % of the time: 0.4 s at 100 ticks a second, however few seconds were asked for."""
    assert turns.least_window(0.01) == pytest.approx(0.4)
    assert turns.least_window(0.001) == pytest.approx(0.04)
    machine = Machine()
    machine.time(0.002, 0.001, seconds=0.01)
    assert machine.wall >= turns.least_window(turns._tick())
    longer = Machine()
    longer.time(0.002, 0.001, seconds=3.0)
    assert 3.0 <= longer.wall < 3.2


def test_a_system_that_does_not_count_our_own_work_counts_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert counted(monkeypatch, tmp_path / "stat", 1.0, 0.9, 0.0)() is None
    assert counted(monkeypatch, tmp_path / "stat", 1.0, 0.9, 0.88)() == 0
    assert counted(monkeypatch, tmp_path / "stat", 1.0, 0.0, 0.0)() == 0


def test_at_one_thread_processor_time_is_what_a_forward_takes() -> None:
    """The clock is that of all threads of the process, as some runtimes work on one of their own."""
    import threading

    def spin() -> None:
        until = turns.time.process_time() + 0.01
        while turns.time.process_time() < until:
            pass

    def elsewhere() -> object:
        worker = threading.Thread(target=spin)
        worker.start()
        return worker.join()

    import torch

    lowered = Lowered(lambda x: elsewhere(), (torch.zeros(1, 1),), "a runtime with a worker")
    (one,) = time_in_turns([lowered], 1, 1, 0.05)
    assert statistics.median(one.turns) == pytest.approx(0.01, rel=0.3)
    assert len(one.turns) >= 5


def test_a_simulation_is_not_timed_and_says_what_would_be(net: State, place: Bench) -> None:
    from compressbench.stages.quantize import Quantize

    bench = replace(place, target=TorchCPU(1, (1,), 0.01))
    small = View(replace(Quantize(weights=8, inputs=8).apply(net, bench), key="int8"), bench)
    reference = View(replace(net, key="dense"), bench)
    said = "no speed: rounding is simulated here; deploy it (probe deployed) to time it"
    cost = named(Cost().measure(small, reference, bench))
    assert {(m.value, m.note) for n, m in cost.items() if "_b1" in n} == {(None, said)}
    assert "speedup_b1" in cost
    (there,) = Targets({"here": bench.target}).measure(small, reference, bench)
    assert (there.value, there.note) == (None, said)
    other = named(Cost().measure(reference, small, bench))["speedup_b1"]
    assert (other.value, other.note) == (None, f"reference: {said}")
    deployed = named(Deployed({"here": bench.target}).measure(small, reference, bench))["deployed_speedup_b1"]
    assert (deployed.value, deployed.note) == (None, "no speed: this runtime simulates the rounding too")
    assert deployed.note.startswith(speed.NO_SPEED)
    assert said.startswith(speed.NO_SPEED)


def test_the_report_knows_the_probes_words() -> None:
    assert speed.RUNS_DENSE == DENSE
    assert speed.DISTURBED == turns.OTHERS
    assert speed.ends_of("deployed_speedup_over_bf16_b64") == (
        "deployed_speedup_over_bf16_low_b64",
        "deployed_speedup_over_bf16_high_b64",
    )
    for name in ("speedup_b1", "exit_speedup_b16"):
        assert [speed.whose_end(end) for end in speed.ends_of(name)] == [name] * 2
        assert speed.whose_end(name) == ""


def test_a_modelled_ratio_is_exact_and_has_no_interval() -> None:
    one, two = (Timing(1, (s,), basis="modelled") for s in (3.0, 2.0))
    (only,) = speedup("speedup", one, two)
    assert (only.name, only.value, only.basis) == ("speedup_b1", 1.5, "modelled")


@pytest.mark.parametrize("runtime", ["os", "compressbench", "", "openvino.runtime"])
def test_peak_memory_starts_no_other_program(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="peak memory: runtime"):
        peak_bytes(runtime, b"", (torch.zeros(1, 1),))


@pytest.mark.slow
def test_disturbed_timings_expire_and_all_are_measured_anew_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressbench.cli.run import composed
    from compressbench.runs.execute import Executor, Watcher
    from compressbench.runs.experiment import execute, prepare

    known = composed(["scale=smoke", f"outputs={tmp_path}", "recipe=one_shot"])
    config = {
        **known,
        "recipe": {
            "name": "drawn",
            "stages": {"init": known["recipe"]["stages"]["init"]},
            "compare": {"reference": "init", "series": {"same": "init"}},
        },
        "evaluation": {
            "probes": {
                "cost": {"_target_": "compressbench.probes.cost.Cost"},
                "structure": {"_target_": "compressbench.probes.structure.Structure"},
            }
        },
        "hardware": {
            "name": "cpu",
            "device": "cpu",
            "threads": 1,
            "target": {
                "_target_": "compressbench.hardware.torch_cpu.TorchCPU",
                "batches": [1],
                "seconds": 0.01,
            },
        },
    }

    def left(**given: Any) -> list[str]:
        ready = prepare({**config, **given})
        missing = Executor(ready.plan, ready.store, ready.setting, Watcher()).missing_results()
        return sorted({probe for _, probe in missing})

    def run(**given: Any) -> list[str]:
        rows = execute(prepare({**config, **given}), Watcher(), [])
        return [r.note for r in rows if r.metric == "latency_median_b1"]

    watch, told = disturbed(0.37)
    monkeypatch.setattr(turns, "others", watch)
    assert left() == ["cost", "structure"]
    assert all(is_disturbed(note) for note in run())
    tries = len(told)
    assert left() == ["cost"], "what others disturbed expires; what is no timing lasts"
    assert all(is_disturbed(note) for note in run())
    assert len(told) == 2 * tries, "once a run"
    quiet, told = disturbed(0.0)
    monkeypatch.setattr(turns, "others", quiet)
    assert not any(is_disturbed(note) for note in run())
    assert left() == []
    assert left(retime=True) == ["cost"]
    tries = len(told)
    run()
    assert len(told) == tries
    run(retime=True)
    assert len(told) == 2 * tries
    with pytest.raises(UserError, match="retime: 'yes' is not true or false"):
        prepare({**config, "retime": "yes"})


def test_retime_is_a_flag_of_the_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(config: Any, *_: Any, **__: Any) -> None:
        asked.append(config["retime"])
        raise UserError("enough")

    monkeypatch.setattr("compressbench.runs.experiment.prepare", refuse)
    for args in ((), ("--retime",)):
        assert command("run", "recipe=one_shot", "scale=smoke", *args).stderr == "compressbench: enough\n"
    assert asked == [False, True]
