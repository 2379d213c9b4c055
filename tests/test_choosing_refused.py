"""Records that can't be, or that disagree, and bad input."""

from __future__ import annotations

import json
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
from cases_report import record
from compressbench.deploying.choice import Choice, Figure
from compressbench.deploying.choosing import advise
from compressbench.deploying.elsewhere import Elsewhere, read, records
from compressbench.deploying.limits import Limits, Verdict, encoded_in_words, timed_anew, verdicts
from compressbench.deploying.measured import choices
from compressbench.errors import Unmet, UserError
from compressbench.records import Records, read_jsonl, write_jsonl

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
