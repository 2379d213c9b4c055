"""Advice, gates, imported timings: pure functions first, then the commands as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressbench.choosing import Choice, Limits, advise, broken, choices
from compressbench.elsewhere import Elsewhere, read, records
from compressbench.errors import UserError
from compressbench.records import Records, read_jsonl, write_jsonl
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


def rows(**states: dict[str, float]) -> Records:
    """Records of states: figures by name, of two seeds."""
    found = []
    for order, (series, figures) in enumerate(states.items()):
        for seed in (0, 1):
            for probe, metric, key, unit, group in (
                ("accuracy", "top1", "accuracy", "%", ""),
                ("loyalty", "label_loyalty", "loyalty", "%", ""),
                ("cost", "dense_bytes", "bytes", "bytes", ""),
                ("targets", "latency_b1", "latency", "ms", "board"),
                ("forgetting", "recall_change", "recall", "points", "cat"),
            ):
                if key in figures:
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
                            value=figures[key] + seed,
                            unit=unit,
                            group=group,
                        )
                    )
    return Records(found)


THREE = rows(
    dense={"accuracy": 90, "loyalty": 99, "bytes": 1000, "latency": 9, "recall": 0},
    small={"accuracy": 88, "loyalty": 95, "bytes": 100, "latency": 3, "recall": -5},
    worse={"accuracy": 80, "loyalty": 90, "bytes": 200, "latency": 4, "recall": -20},
)


def test_figures_are_means_over_seeds() -> None:
    small = next(c for c in choices(THREE, "board") if c.name == "small")
    assert small.figures == {
        "accuracy": 88.5,
        "drop": 2.0,
        "class drop": 4.5,
        "loyalty": 95.5,
        "bytes": 100.5,
        "latency": 3.5,
    }
    assert small.seeds == 2
    assert "latency" not in next(c for c in choices(THREE) if c.name == "small").figures


def test_a_state_that_the_target_cannot_run_is_no_choice_for_it() -> None:
    found = [
        Choice("runs", "r", "runs", {"accuracy": 80.0, "latency": 5.0}, 1),
        Choice("best", "r", "best", {"accuracy": 90.0}, 1, note="only integers run here"),
    ]
    advice = advise(found, Limits(needed=("latency",)))
    assert [c.name for c in advice.kept] == ["runs"]
    assert advice.out == {"best": "latency not known (only integers run here)"}
    assert len(advise(found, Limits()).kept) == 2


def test_advice_names_what_is_beaten_and_what_breaks_a_limit() -> None:
    advice = advise(choices(THREE, "board"), Limits(max_latency=5))
    assert [c.name for c in advice.kept] == ["small"]
    assert advice.out == {
        "dense": "latency 9.5 ms is above 5",
        "worse": "small is at least as good in all",
    }
    both = advise(choices(THREE, "board"), Limits())
    assert [c.name for c in both.kept] == ["dense", "small"]


def test_equal_states_keep_one() -> None:
    twin = [Choice(name, "r", name, {"accuracy": 80.0, "bytes": 10.0}, 1) for name in ("a", "b")]
    assert [c.name for c in advise(twin, Limits()).kept] == ["a"]


def test_a_figure_that_is_missing_dominates_nothing_and_breaks_its_limit() -> None:
    found = [
        Choice("timed", "r", "timed", {"accuracy": 80.0, "latency": 5.0}, 1),
        Choice("untimed", "r", "untimed", {"accuracy": 90.0}, 1, note="doesn't fit"),
    ]
    assert len(advise(found, Limits()).kept) == 2
    assert broken(found[1], Limits(max_latency=9)) == ["latency not known (doesn't fit)"]


def test_limits_that_nothing_keeps_to_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"nearest comes small: 100 bytes is above 99"):
        advise(choices(THREE, "board"), Limits(max_bytes=99))
    with pytest.raises(UserError, match="nothing was measured on 'phone'; "):
        choices(THREE, "phone")
    with pytest.raises(UserError, match="not timed at batch 8"):
        choices(THREE, "board", 8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_jsonl(THREE, folder / "records.jsonl")
    return folder


def test_the_gate_opens_and_closes(run: Path, command) -> None:
    fine = command(
        "gate",
        str(run),
        "--state",
        "small",
        "--max-drop",
        "2.5",
        "--max-class-drop",
        "5",
        "--min-loyalty",
        "95",
    )
    assert fine.returncode == 0, fine.stderr
    assert "ok      small: within all limits" in fine.stdout
    shut = command("gate", str(run), "--max-drop", "2.5", "--max-class-drop", "3")
    assert shut.returncode == 1
    assert "BROKEN  small: class drop 4.5 points is above 3" in shut.stdout
    assert "dense" not in shut.stdout
    assert "2 of 2 states break a limit" in shut.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("gate", "RUN"), "no limit given"),
        (
            ("gate", "RUN", "--state", "smal", "--max-drop", "1"),
            "no compressed state 'smal' was measured; did you mean",
        ),
        (("gate", "RUN", "--max-drop", "much"), "invalid number value: 'much'"),
        (("gate", "RUN", "--max-drop", "nan"), "invalid number value: 'nan'"),
        (("gate", "nowhere", "--max-drop", "1"), "no such file or folder"),
        (("advise", "RUN", "--max-latency", "5"), "on which target?"),
        (("advise", "RUN", "--target", "boards"), "nothing was measured on 'boards'"),
        (("advise", "RUN", "--max-bytes", "5"), "nearest comes small"),
        (("advise", "RUN", "--export", "onnyx"), "unknown form 'onnyx'"),
        (("timings", "import", "nowhere.csv", "--run", "RUN", "--device", "d"), "nowhere.csv: can't be read"),
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
    assert "beaten by none on board (measured); means over 2 seeds" in done.stdout
    assert "worse: accuracy 80.5 % is below 85" in done.stdout


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
    assert advice.stdout.split("small")[1].split()[4] == "3", advice.stdout
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
    from dataclasses import replace

    both = Records([*THREE, *(replace(r, model="other", value=(r.value or 0) / 2) for r in THREE)])
    found = {c.name: c.figures["accuracy"] for c in choices(both)}
    assert len(found) == 6
    assert sorted(found.values()) == [40.25, 44.25, 45.25, 80.5, 88.5, 90.5]
    thin = Records([*THREE, *(replace(r, density=0.05, value=1.0) for r in THREE if r.series == "small")])
    names = [c.name for c in choices(thin)]
    assert len(set(names)) == len(names) == 4
    assert any("5 %" in name for name in names)


def test_latencies_of_two_machines_are_not_averaged() -> None:
    from dataclasses import replace

    both = Records([*THREE, *(replace(r, machine="another", seed=r.seed + 5) for r in THREE)])
    with pytest.raises(UserError, match="board has latencies of several kinds"):
        choices(both, "board")


def test_a_seed_without_a_figure_is_no_pass() -> None:
    lacking = Records(r for r in THREE if not (r.seed == 1 and r.metric == "top1" and r.series == "small"))
    small = next(c for c in choices(lacking) if c.name == "small")
    assert broken(small, Limits(max_drop=50)) == ["drop known for 1 of 2 seeds only"]


def test_a_series_whose_name_ends_in_dense_is_gated(tmp_path: Path, command) -> None:
    odd = rows(dense={"accuracy": 90}, **{"not: dense": {"accuracy": 10}})
    write_jsonl(odd, tmp_path / "records.jsonl")
    done = command("gate", str(tmp_path), "--max-drop", "1")
    assert done.returncode == 1, done.stderr


def test_the_nearest_is_no_state_of_which_nothing_is_known() -> None:
    found = [
        Choice("unknown", "r", "unknown", {"accuracy": 10.0}, 1),
        Choice("close", "r", "close", {"accuracy": 84.0, "latency": 9.0}, 1),
    ]
    with pytest.raises(UserError, match="nearest comes close"):
        advise(found, Limits(min_accuracy=85, max_latency=0.01))


def test_latencies_of_one_machine_are_compared_by_the_ratio_in_turns() -> None:
    """A state with early exits is timed over a mixture, its reference alone by single forwards, at another moment."""
    like = {"probe": "cost", "unit": "ms", "hardware": "cpu", "reference": "d"}
    rows = [
        record(key="d", value=90.0),
        record(key="d", **{**like, "metric": "latency_median_b1", "value": 2.0}),
        record(key="d", **{**like, "metric": "speedup_b1", "value": 1.0, "unit": "x"}),
        record(series="exits", key="e", order=1, value=89.0),
        record(series="exits", key="e", order=1, **{**like, "metric": "latency_median_b1", "value": 3.0}),
        record(
            series="exits", key="e", order=1, **{**like, "metric": "speedup_b1", "value": 1.25, "unit": "x"}
        ),
    ]
    found = {c.name: c.figures["latency"] for c in choices(Records(rows), "cpu")}
    assert found == {"dense": 2.0, "exits": 1.6}
