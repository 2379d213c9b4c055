"""Galleries: single examples are shown as pictures with their lines, and stay out of series and averages."""

from __future__ import annotations

import dataclasses

from compressbench.png import PREFIX
from compressbench.records import Records
from compressbench.report.gallery import gallery
from compressbench.report.page import Chapter, _render
from compressbench.report.panels import conflicts, panels
from compressbench.report.section import Section
from test_report import record

DOT = PREFIX + "AAAA"


def example(row: int, note: str = "true A · dense B", artefact: str = DOT, **more):
    return dataclasses.replace(
        record(probe="forgetting", metric="forgotten_example", value=float(row), unit="1", **more),
        note=note,
        artefact=artefact,
    )


def test_examples_are_in_no_series_and_no_conflict() -> None:
    rows = [record(), example(3), example(5), example(5)]
    (panel,) = panels(Records(rows))
    assert [r.value for r in panel.examples] == [3, 5]
    assert not conflicts(rows)
    assert not panel.split
    assert all(r.metric != "forgotten_example" for r in panel.rows)


def test_a_gallery_shows_escaped_lines_and_no_foreign_address() -> None:
    rows = [example(3, "true <b>A</b> · dense B"), example(4, artefact="https://elsewhere/x.png")]
    shown = gallery("Forgotten", rows, "the first two")
    assert shown is not None
    assert [t.source for t in shown.tiles] == [DOT, ""]
    section = Section("S", "s", galleries=(shown,))
    assert not section.empty
    page = _render(
        title="t",
        chapters=[Chapter("c", "c", (), (section,))],
        warnings=[], provenance=[], config="", beside=[], drawn=[], facts=[("Records", "2")],
    )  # fmt: skip
    assert page.count("<img") == 1
    assert "true &lt;b&gt;A&lt;/b&gt;</span>" in page
    assert "<b>Test example 3</b>" in page
    assert "elsewhere" not in page


def test_no_examples_no_gallery() -> None:
    assert gallery("Forgotten", []) is None
    assert gallery("Forgotten", [dataclasses.replace(example(1), value=None)]) is None
    assert len(gallery("Forgotten", [example(k) for k in range(9)], most=4).tiles) == 4
