"""The tour as one HTML page without a script: a slide a section, its picture drawn by the report's charts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compressbench.console import clean
from compressbench.records import Record, Records
from compressbench.report import drawing, first_charts
from compressbench.report.answers import asked
from compressbench.report.page import ORDER
from compressbench.report.panels import Panel, panels
from compressbench.report.tour_rows import Part, Picture
from compressbench.report.tour_told import Told, scale_of

FIRST = "first"
"""The first page's charts, as a picture's section."""
LONGEST = 200
SIDES = 2
"""Galleries whose titles begin alike that are one picture: before and after."""
IDS = re.compile(r"""(\bid="|href="#|url\(#)(chart-)""")
"""Where a chart names its parts."""
SECTIONS = {build.__module__.rpartition(".")[2]: build for build in ORDER}
"""Files below ``report/sections`` -> what draws theirs."""


@dataclass(frozen=True)
class Drawn:
    """One picture: an SVG element of ours, or images; and what is said below it. Of none, why.

    Attributes:
        svg: empty where there are images, and where there is no picture.
        rows: what is said below each gallery of images, and these: of each its address and its name.
        caption: what is seen, or why nothing is.
    """

    svg: str
    caption: str
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()

    @property
    def images(self) -> tuple[tuple[str, str], ...]:
        """Those of all rows."""
        return tuple(image for _, images in self.rows for image in images)


def picture(records: Sequence[Record], wanted: Picture | None) -> Drawn:
    """The chart that answers a slide, of the net and data that most records are of."""
    found = panels(Records(records))
    if not found:
        return Drawn("", "There are no records to draw.")
    panel = max(found, key=lambda p: len(p.rows) + len(p.populations))
    with drawing.settings():
        if wanted is None:
            return _any(panel)
        charts, images = _offered(panel, wanted.section)
    for chart in charts:
        if wanted.chart and chart.name.startswith(wanted.chart):
            return Drawn(chart.inline, f"{chart.title}. {chart.caption}")
    if alike := [one for one in images if one.caption.startswith(wanted.chart)][:SIDES]:
        return Drawn(
            "", " ".join(one.caption for one in alike), tuple(row for one in alike for row in one.rows)
        )
    return Drawn("", f"The records hold nothing to draw of it: {wanted.shows}.")


def _picture(records: Sequence[Record], wanted: Picture | None) -> Drawn:
    """``picture``, or why there is none: whatever is wrong with one slide's records, the others have their pages."""
    try:
        return picture(records, wanted)
    except Exception as error:  # records are others' files: what they may break can't be listed
        why = " ".join(str(error).split())[:LONGEST]
        return Drawn("", f"Its records can’t be drawn: {type(error).__name__}: {why}")


def _of_slide(name: str, drawn: Drawn) -> Drawn:
    """A picture whose ids no other slide's picture has: several slides show a chart of one name."""
    return replace(drawn, svg=IDS.sub(rf"\g<1>{name}-\g<2>", drawn.svg))


def _offered(panel: Panel, section: str) -> tuple[Sequence[drawing.Chart], Sequence[Drawn]]:
    """The charts of a section and its images, strips before galleries."""
    if section == FIRST:
        of = asked(panel)
        return tuple(first_charts.charts(of, "").values()) if of else (), ()
    built = SECTIONS[section](panel, "")
    strips = [_shown(f"{p.title}. {p.caption}", ((p.source, p.title),)) for p in built.pictures]
    galleries = [
        _shown(
            f"{g.title}. {g.lead}".strip(),
            tuple((t.source, f"{t.name}: {t.caption}") for t in g.tiles if t.source),
        )
        for g in built.galleries
    ]
    return built.charts, [*strips, *(one for one in galleries if one.images)]


def _shown(caption: str, images: tuple[tuple[str, str], ...]) -> Drawn:
    return Drawn("", caption, ((caption, images),))


def _any(panel: Panel) -> Drawn:
    for build in ORDER:
        for chart in build(panel, "").charts:
            return Drawn(chart.inline, f"{chart.title}. {chart.caption}")
    return Drawn("", "The records hold nothing to draw.")


def page(lecture: Sequence[Part], known: Sequence[Told], times: Mapping[str, str], docs: str) -> str:
    """The page; the same records give the same bytes.

    Args:
        known: what is known of each slide, in order.
        times: how long each takes, in words, by its name.
        docs: where the results' page is, seen from this one; empty where that isn't known.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = Path(__file__).parent
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Style sheets are ours and matplotlib has escaped the charts' texts; all else passes autoescape.
    style = Markup("".join(_text(here / name) for name in ("page.css", "report.css", "tour.css")))
    by_name = {told.slide.name: told for told in known}
    template = environment.from_string(_text(here / "tour.html.j2"))
    rendered = template.render(
        style=style,
        lecture=lecture,
        known=by_name,
        times=times,
        drawn={
            name: _of_slide(name, _picture(told.records, told.slide.picture))
            for name, told in by_name.items()
            if told.runs
        },
        inline=lambda one: Markup(one.svg),
        seen=sum(bool(told.runs) for told in known),
        scale_of=scale_of,
        docs=docs,
    )
    return clean(rendered)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
