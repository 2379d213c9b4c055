"""Lottery tickets, barriers, published figures, what the clock found."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from rich.console import Console

from cases_report import Page, accuracies, cells, full, lottery, record
from compressbench.errors import UserError
from compressbench.records import Record, Records
from compressbench.report import drawing
from compressbench.report.findings import summary
from compressbench.report.numbers import Spread, with_spread
from compressbench.report.page import write_report
from compressbench.report.panels import FINAL, panels
from compressbench.report.sections.accuracy import accuracy_vs_bits, accuracy_vs_bytes
from compressbench.report.sections.cost import timing_table
from compressbench.report.sections.methods import lecture_table
from compressbench.report.sections.others import leftover_tables
from compressbench.report.speed import speed_of
from compressbench.report.terminal import print_tables


def test_the_hypothesis_is_drawn_and_told(tmp_path):
    rows = lottery(
        {"dense": 500, "ticket": 300, "reinit": 700, "one-shot": 500},
        {"dense": 90, "ticket": 91, "reinit": 92, "one-shot": 89},
    )
    page = write_report(rows, tmp_path, "t").read_text()
    assert (tmp_path / "early_stop_vs_density.svg").is_file()
    assert (tmp_path / "accuracy_by_dense_stop.svg").is_file()
    assert "Speed of learning" in page
    (panel,) = panels(rows)
    told = " ".join(summary(panel))
    assert "ticket 1 of 1 (20.0\u202f%); reinit 0 of 1; one-shot 0 of 1" in told
    assert not leftover_tables(panel, "final")
    plain_rows = Records(r for r in rows if r.series != "ticket")
    assert "minimum validation loss" not in " ".join(summary(panels(plain_rows)[0]))


def test_the_line_between_two_nets_and_its_barrier(tmp_path):
    rows = list(lottery({"dense": 500, "twin": 300}, {"dense": 90, "twin": 91}))
    for place, error in (("0", 10.0), ("0.5", 30.0), ("1", 9.0)):
        given = {"probe": "connectivity", "metric": "error_at", "group": place, "value": error}
        rows.append(record(series="twin", order=1, density=0.2, **given))
    given = {"probe": "connectivity", "metric": "barrier", "value": 20.5, "unit": "points"}
    rows.append(record(series="twin", order=1, density=0.2, **given))
    page = write_report(Records(rows), tmp_path, "t").read_text()
    assert (tmp_path / "error_along_path.svg").is_file()
    assert "Barriers between nets" in page
    assert "20.5" in page
    assert not leftover_tables(panels(Records(rows))[0], "final")


def test_published_figures_stand_on_axes_of_their_own(tmp_path):
    from compressbench.report.published import published
    from compressbench.runs.execute import RunColumns

    columns = RunColumns("lth", "lenet", "digits", "smoke", "cpu", 0)
    block = {
        "magnitude": {
            "source": "Gale 2019",
            "of": "ResNet-50 on ImageNet",
            "points": [[10, 73.9], [50, 76.5]],
        },
        "L0": {"source": "Gale 2019", "of": "ResNet-50 on ImageNet", "note": "did not work there"},
    }
    extra = published(block, columns)
    assert [(r.series, r.density, r.value, r.basis) for r in extra] == [
        ("magnitude", 0.1, 73.9, "published"),
        ("magnitude", 0.5, 76.5, "published"),
        ("L0", 1.0, None, "published"),
    ]
    rows = Records([*full(), *extra, *(replace(r, seed=1) for r in extra)])
    (panel,) = panels(rows)
    assert len(panel.published) == 3
    assert panel.series == panels(full())[0].series
    page = write_report(rows, tmp_path, "t").read_text()
    svg = (tmp_path / "published.svg").read_text()
    assert "Published: ResNet-50 on ImageNet" in svg
    assert "magnitude (published)" in svg
    assert "did not work there" in page
    assert "Versions are mixed" not in page
    assert "Published" not in (tmp_path / "accuracy_vs_density.svg").read_text()


@pytest.mark.parametrize(
    ("figures", "why"),
    [
        ([], "a mapping with source"),
        ({"sourse": "x"}, "unknown key 'sourse'; did you mean source?"),
        ({"points": []}, "source: who published"),
        ({"source": "x", "points": [[10]]}, "is no pair of density in % and value"),
        ({"source": "x", "points": [[0, 1.0]]}, "density 0 is not in (0, 100] %"),
    ],
)
def test_published_figures_are_checked(figures, why):
    from compressbench.report.published import published
    from compressbench.runs.execute import RunColumns

    with pytest.raises(UserError, match=re.escape(why)):
        published({"magnitude": figures}, RunColumns("lth", "lenet", "digits", "smoke", "cpu", 0))


def speedup(
    value: float | None, low: float | None = None, high: float | None = None, **given
) -> list[Record]:
    """A speed-up at batch 1 and the ends of its interval."""
    like = {"probe": "cost", "unit": "x", "n": 40} | given
    batch, note = like.pop("batch", 1), like.pop("note", "")
    rows = [record(**like, metric=f"speedup_b{batch}", value=value, note=note)]
    ends = {"low": low, "high": high}
    return rows + [
        record(**like, metric=f"speedup_{k}_b{batch}", value=v) for k, v in ends.items() if v is not None
    ]


def against_dense(series: str, order: int, density: float, macs: float, speeds, bits: float = 32, **given):
    """A state's rows over seeds; ``speeds`` holds (ratio, low, high) of each."""
    rows = []
    here = {"series": series, "order": order, "density": density}
    for seed, speed in enumerate(speeds):
        rows.append(record(**here, seed=seed, value=80.0))
        rows.append(record(**here, seed=seed, probe="cost", metric="macs", value=macs, unit="MACs"))
        rows.append(
            record(**here, seed=seed, probe="structure", metric="weight_bits", value=bits, unit="bits")
        )
        rows.append(
            record(**here, seed=seed, probe="structure", metric="input_bits", value=bits, unit="bits")
        )
        rows += speedup(*speed, **here, seed=seed, **given)
    return rows


DENSE_ROWS = against_dense("dense", 0, 1.0, 1000, [(1.0,)] * 3, note="the reference itself")


def told_of(rows) -> str:
    (panel,) = panels(Records(rows))
    return " ".join(summary(panel)).replace("\u202f", " ").replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("speeds", "word"),
    [
        ([(1.3, 1.25, 1.36), (1.3, 1.2, 1.4), (1.3, 1.1, 1.5)], "faster"),
        ([(1.01, 1.001, 1.02)], "faster"),
        ([(1.6, 1.5, 1.7), (1.6, 1.5, 1.7), (0.9, 0.8, 0.95)], "not shown"),  # its mean is 1.37
        ([(1.6, 1.5, 1.7), (1.3, 0.99, 1.6)], "not shown"),
        ([(0.8, 0.7, 0.9), (0.9, 0.85, 0.99)], "slower"),
        ([(0.8, 0.7, 0.9), (0.5, 0.4, 1.01)], "not shown"),
        ([(1.8,)], "not shown"),  # no interval: nothing is known, not: no noise
        ([(1.8, 1.7, 1.9), (1.8,)], "not shown"),
    ],
)
def test_faster_slower_or_not_shown_is_what_every_seeds_interval_says(speeds, word):
    rows = DENSE_ROWS[: 7 * len(speeds)] + against_dense("ticket", 1, 0.5, 1000, speeds)
    (panel,) = panels(Records(rows))
    (point,) = panel.series[0].at("final")
    assert speed_of(point, "speedup_b1").verdict == word
    mean = sum(s[0] for s in speeds) / len(speeds)
    assert f"Measured speed of ticket at 50.0 %, batch 1: {word}, {mean:.2f}×" in told_of(rows)


def test_the_interval_stands_beside_the_figure_and_in_no_table_of_its_own():
    speeds = [(1.3, 1.25, 1.36), (1.5, 1.2, 1.6), (1.1, 1.05, 1.15)]
    rows = DENSE_ROWS + against_dense("ticket", 1, 0.5, 1000, speeds)
    (panel,) = panels(Records(rows))
    assert cells(timing_table(panel, "final", ""), "ticket", "50.0")["speed ×"] == "1.30 [1.05–1.60]"
    assert cells(lecture_table(panel, "final"), "ticket", "50.0")["Speed ×, batch 1"] == "1.30 [1.05–1.60]"
    shown = [head for table in leftover_tables(panel, "final") for head, _ in table.heads]
    assert not [head for head in shown if "peed" in head]
    assert "1.30× [1.05–1.60] (n = 3)" in told_of(rows)


SIMULATED = "no speed: rounding is simulated here; deploy it (probe deployed) to time it"


def test_a_simulation_has_no_speed_in_summary_terminal_tables_and_page(tmp_path, capsys):
    rows = DENSE_ROWS + against_dense("int8", 1, 1.0, 1000, [(None,)] * 3, bits=8, note=SIMULATED)
    rows.append(replace(rows[-1], metric="latency_median_b1", unit="ms"))
    rows += against_dense("halved", 2, 0.3, 300, [(1.8, 1.7, 1.9)] * 3)
    (panel,) = panels(Records(rows))
    assert cells(timing_table(panel, "final", ""), "int8", "100")["speed ×"] == "no speed"
    told = told_of(rows)
    assert f"Measured speed of int8 at 100 %, batch 1: {SIMULATED}." in told
    assert f"No ratio, rounded: int8 at 100 % (batch 1): {SIMULATED}." in told
    print_tables(Records(rows), Console(width=80, color_system=None))
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "no speed" in printed.split("Cost, dense")[0]
    assert SIMULATED in printed.split("Cost, dense")[1]
    write_report(Records(rows), tmp_path, "simulated")
    page = Page(tmp_path / "report.html").text
    assert SIMULATED in page
    assert page.count("no speed") > 2


DISTURBED = "no ratio: other processes took at least 37 % of the processors in each of 4 tries"


def test_no_sentence_drops_that_ratios_were_withheld(capsys):
    some = against_dense("ticket", 1, 0.5, 1000, [(1.3, 1.2, 1.4), (1.3, 1.2, 1.4)])
    last = [replace(r, seed=2) for r in against_dense("ticket", 1, 0.5, 1000, [(None,)], note=DISTURBED)]
    rows = [*DENSE_ROWS, *some, *last]
    told = told_of(rows)
    assert f"batch 1: faster, 1.30× [1.20–1.40] (n = 2); at other seeds {DISTURBED}." in told
    every = against_dense("ticket", 1, 0.5, 1000, [(None,)] * 3, note=DISTURBED)
    assert f"Measured speed of ticket at 50.0 %, batch 1: {DISTURBED}." in told_of([*DENSE_ROWS, *every])
    print_tables(Records(rows), Console(width=80, color_system=None))
    assert "1 ratio of them withheld" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_only_what_the_clock_found_faster_is_called_faster():
    like = {"batch": 1}
    dense_zeros = "no speed-up: runs dense"
    rows = [
        *DENSE_ROWS,
        *against_dense("unstructured", 1, 0.1, 1000, [(1.09, 1.05, 1.12)] * 3, note=dense_zeros, **like),
        *against_dense("int8", 2, 1.0, 1000, [(0.8, 0.7, 0.9)] * 3, bits=8, **like),
        *against_dense("wide", 3, 0.5, 500, [(1.1, 0.9, 1.3)] * 3, **like),
        *against_dense("channels", 4, 0.3, 300, [(1.8, 1.7, 1.9)] * 3, **like),
    ]
    told = told_of(rows)
    faster, rest = told.split("what is faster? Batch 1: ")[1].split(". Slower, ", 1)
    assert faster == "channels at 30.0 % 1.80× [1.70–1.90] (n = 3)"
    assert rest.startswith(
        "rounded: int8 at 100 % 0.80× [0.70–0.90] (n = 3) at batch 1. Not shown, parts removed: wide"
    )
    zeros = "Not shown, the zeros are multiplied (runs dense): unstructured at 10.0 %"
    assert f"{zeros} 1.09× [1.05–1.12] (n = 3) at batch 1." in rest
    assert "batch 1: not shown: runs dense." in told, "of the lead"
    alone = [r for r in rows if r.series not in ("channels", "wide")]
    assert "what is faster" not in told_of(alone)


def test_the_summary_follows_what_a_series_varies():
    """A sweep of bits has one density: its smallest state is that of the fewest bits, and it is named by them."""
    rows = DENSE_ROWS[:7] + [
        r
        for order, (bits, top1) in enumerate(((8, 89.5), (4, 89.2), (2, 22.0)), 1)
        for r in against_dense("per channel", order, 1.0, 1000, [(None,)], bits=bits, note=SIMULATED)
        for r in [replace(r, value=top1) if r.probe == "accuracy" else r]
    ]
    rows[0] = replace(rows[0], value=90.0)
    told = told_of(rows)
    assert (
        "The fewest bits at which per channel is on average no more than one point below dense is 4 bits: −0.8"
        in told
    )
    assert "At its fewest bits, 2 bits, it is −68.0 points" in told
    assert "Measured speed of per channel at 2 bits, batch 1: no speed" in told
    assert "densit" not in told


def test_states_of_one_cost_have_no_line_through_them(tmp_path):
    rows = accuracies("dense", 0, 1.0, {0: 90.0, 1: 91.0}, compute=1e9)
    for series in ("one-shot", "other"):
        for order in (1, 2):
            rows += accuracies(series, order, 0.5**order, {0: 80.0 - order, 1: 82.0}, compute=2e9)
    page = write_report(Records(rows), tmp_path, "t").read_text()
    assert "Marks without a line" in page


def test_a_footnote_mark_stands_once(tmp_path):
    rows = accuracies("dense", 0, 1.0, {0: 90.0, 1: 91.0})
    rows += accuracies("ticket", 1, 0.5, {0: 88.0, 1: 89.0})
    for seed in (0, 1):
        given = {"series": "ticket", "order": 1, "density": 0.5, "seed": seed, "unit": "1"}
        rows.append(
            record(**given, probe="mine", metric="thing", value=1.5, note=f"measured {seed + 3} times")
        )
    page = write_report(Records(rows), tmp_path, "t").read_text()
    assert "<sup>a</sup>" in page
    assert "a,a" not in page


def test_seeds_that_agree_exactly_still_show_their_spread():
    assert with_spread(Spread(90.0, 0.0, 3), "%") == ("90.0", "±0.0")
    assert with_spread(Spread(90.0, None, 1), "%") == ("90.0", "")
    assert with_spread(Spread(1234.0, 0.0, 3), "1") == ("1\u202f234", "")
    assert with_spread(Spread(150.0, 0.0, 3), "iterations") == ("150", "")


def test_bits_and_bytes_have_charts_of_their_own(tmp_path):
    rows = []
    for seed in (0, 1):
        for order, (series, bits, size) in enumerate(
            [("dense", 32, 4000), ("ptq", 8, 1100), ("ptq", 4, 600)]
        ):
            here = {"series": series, "order": order, "seed": seed, "density": 1.0}
            rows.append(record(**here, value=90.0 - order))
            rows.append(record(**here, probe="structure", metric="weight_bits", value=bits, unit="bits"))
            rows.append(record(**here, probe="structure", metric="input_bits", value=32, unit="bits"))
            rows.append(record(**here, probe="cost", metric="dense_bytes", value=4000, unit="bytes"))
            packed = size if bits < 32 else None
            rows.append(record(**here, probe="cost", metric="quantized_bytes", value=packed, unit="bytes"))
    panel = panels(Records(rows))[0]
    with drawing.settings():
        bits = accuracy_vs_bits(panel, FINAL, "bits")
        size = accuracy_vs_bytes(panel, FINAL, "bytes")
    assert "mean bits of a weight" in bits.svg
    assert "kB on disk" in size.svg
    write_report(Records(rows), tmp_path, "bits")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "8/32" in page
    assert "against density" not in page, "all states have the same"
    float_only = panels(Records(r for r in rows if r.series == "dense" or r.metric == "top1"))[0]
    with drawing.settings():
        assert accuracy_vs_bits(float_only, FINAL, "bits") is None
        assert accuracy_vs_bytes(float_only, FINAL, "bytes") is None
