"""The HTML report: one self-contained file, its SVGs beside it; reads nothing but records."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressbench.errors import UserError
from compressbench.paths import write_text
from compressbench.records import Records
from compressbench.report import drawing, first_charts
from compressbench.report.answers import Answer, Tile, answers, asked, spoken_of, tiles
from compressbench.report.described import Lines, described, read_lines
from compressbench.report.drawing import Chart
from compressbench.report.findings import provenance, summary, warnings
from compressbench.report.numbers import counted, grouped, seeds
from compressbench.report.panels import Panel, panels
from compressbench.report.section import Section, slug
from compressbench.report.sections import (
    accuracy,
    connectivity,
    corruptions,
    cost,
    differences,
    distilled,
    exits,
    flatness,
    forgetting,
    layers,
    learning,
    lost,
    loyalty,
    methods,
    next_tokens,
    others,
    overparameterization,
    overview,
    populations,
    projections,
    quality,
    redundancy,
    relations,
    robustness,
    subgroups,
    targets,
    tickets,
    translation,
    windows,
)
from compressbench.report.styles import styles
from compressbench.report.tables import Table

ORDER = (
    overview.section,
    accuracy.section,
    distilled.section,
    exits.section,
    windows.section,
    flatness.section,
    projections.section,
    learning.section,
    overparameterization.section,
    tickets.section,
    methods.section,
    differences.section,
    populations.section,
    lost.section,
    connectivity.section,
    forgetting.section,
    subgroups.section,
    relations.section,
    quality.section,
    next_tokens.section,
    translation.section,
    loyalty.section,
    robustness.section,
    corruptions.section,
    redundancy.section,
    layers.section,
    cost.section,
    targets.section,
    others.section,
)
UNBROKEN = re.compile(r"\b\w+-\w{1,3}\b|[\d.]+ %")  # Top-1, L-L, 80 %


WIDE = 9
"""Columns from which a table takes the width of the window."""


@dataclass(frozen=True)
class Chapter:
    """One panel of the report."""

    title: str
    anchor: str
    sentences: tuple[str, ...]
    sections: tuple[Section, ...] = field(default_factory=tuple)
    spoken_of: str = ""
    tiles: tuple[Tile, ...] = ()
    answers: tuple[Told, ...] = ()
    series: tuple[Named, ...] = ()


@dataclass(frozen=True)
class Told:
    """One answer with its chart and a link to the section that it rests on: (anchor, title), empty for none."""

    anchor: str
    answer: Answer
    chart: Chart | None
    detail: tuple[str, str]


@dataclass(frozen=True)
class Named:
    """One series: the class of all that shows it, its colour and what it is in a line, empty if unknown."""

    key: str
    label: str
    colour: str
    line: str


@dataclass(frozen=True)
class Shown:
    """Which series each row and each column of a table belongs to: their classes, empty for none.

    Attributes:
        wide: whether it takes the width of the window.
        sorts: whether its rows can be put in another order: those of heat maps and single rows can't.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    groups: tuple[str, ...]
    wide: bool
    sorts: bool


def write_report(
    records: Records,
    folder: Path,
    title: str,
    config_yaml: str = "",
    recipes: Sequence[str] = (),
    missing: Sequence[str] = (),
    lines: Lines | None = None,
) -> Path:
    """Writes ``folder/report.html`` and its SVGs.

    Args:
        records: any mixture of recipes, models, datasets, scales and seeds; may be empty.
        folder: made if it is not there.
        title: heading of the page.
        config_yaml: shown as it is; empty for none.
        recipes: names of the recipes as they ran, where the records call them by the arms of a sweep.
        missing: sentences on jobs whose records aren't there.
        lines: what each series is, by series and content address; None for what lies in the folder.

    Returns:
        The path of the page. The same arguments give the same bytes.

    Raises:
        UserError: the folder can't be written.
    """
    found = panels(records)
    lines = read_lines(folder) if lines is None else lines
    chapters = tuple(_chapter(panel, place, len(found), lines) for place, panel in enumerate(found))
    drawn = [told.chart for chapter in chapters for told in chapter.answers if told.chart]
    drawn += [c for chapter in chapters for s in chapter.sections for c in s.charts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = [name for name in ("records.jsonl", "records.csv") if (folder / name).is_file()]
        for chart in drawn:
            write_text(folder / f"{chart.name}.svg", chart.svg)
        page = _render(
            title=title,
            chapters=chapters,
            warnings=[*missing, *warnings(found)],
            provenance=provenance(found, recipes),
            config=config_yaml.strip(),
            beside=beside,
            drawn=[f"{c.name}.svg" for c in drawn],
            facts=_facts(records, found, recipes),
        )
        write_text(folder / "report.html", page)
    except OSError as error:
        raise UserError(f"can't write the report into {folder}: {error.strerror or error}") from error
    return folder / "report.html"


def _facts(records: Records, found: Sequence[Panel], recipes: Sequence[str]) -> list[tuple[str, str]]:
    """The line under the title."""
    if not found:
        return [("Records", "none")]
    one = found[0] if len(found) == 1 else None
    known = {r.seed for r in records}
    ran = list(recipes) or list(dict.fromkeys(r.recipe for r in records))
    facts = [("Recipe" if len(ran) == 1 else "Recipes", ", ".join(ran))]
    facts.append(("Model", one.model if one else counted(len({p.model for p in found}), "model")))
    facts.append(("Dataset", one.dataset if one else counted(len({p.dataset for p in found}), "dataset")))
    facts.append(("Scale", ", ".join(dict.fromkeys(p.scale for p in found))))
    facts.append(("Seeds", seeds(len(known))))
    facts.append(("Records", grouped(len(records))))
    return facts


def _chapter(panel: Panel, place: int, many: int, lines: Lines) -> Chapter:
    anchor = f"p{place + 1}-" if many > 1 else ""
    suffix = f"_{slug(panel.model)}_{slug(panel.dataset)}_{place + 1}" if many > 1 else ""
    with drawing.settings():
        built = [build(panel, suffix) for build in ORDER]
        of = asked(panel)
        charts = first_charts.charts(of, suffix) if of else {}
    sections = tuple(replace(s, anchor=anchor + s.anchor) for s in built if not s.empty)
    titles = {s.anchor: s.title for s in sections}
    told = []
    for answer in answers(of) if of else []:
        to = anchor + answer.detail
        detail = (to, titles[to]) if to in titles else ("", "")
        told.append(Told(anchor + answer.anchor, answer, charts.get(answer.question), detail))
    return Chapter(
        panel.name,
        f"p{place + 1}",
        tuple(summary(panel)),
        sections,
        spoken_of(of) if of else "",
        tuple(tiles(of)) if of else (),
        tuple(told),
        _named(panel, lines),
    )


def _named(panel: Panel, lines: Lines) -> tuple[Named, ...]:
    looks = styles(panel)
    known = {series.label: line for series, line in described(panel, lines)}
    return tuple(
        Named(drawing.series_class(s.label), s.label, looks[s.label].colour, known.get(s.label, ""))
        for s in panel.everything()
    )


def shown(table: Table, labels: Iterable[str]) -> Shown:
    """Which series a table's rows and columns belong to, by their labels."""
    known = set(labels)

    def key(label: str) -> str:
        return drawing.series_class(label) if label in known else ""

    rows, last = [], ""
    for row, span in zip(table.rows, table.spans, strict=True):
        last = key(row.label) if span else last
        rows.append(last)
    groups = tuple(key(label) for label, _ in table.groups)
    over = [name for name, (_, span) in zip(groups, table.groups, strict=True) for _ in range(span)]
    columns = [
        key(name) or over[k] if k < len(over) else key(name) for k, (name, _) in enumerate(table.heads)
    ]
    sorts = not table.heat and len(table.rows) > 2
    return Shown(tuple(rows), tuple(columns), groups, len(table.heads) >= WIDE, sorts)


def _render(**values: object) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    here = Path(__file__).parent
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["mark"] = lambda note, marks: marks[note][0]
    environment.filters["breakable"] = lambda text: Markup(
        UNBROKEN.sub(r'<span class="whole">\g<0></span>', str(escape(text))).replace("_", "_<wbr>")
    )
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    # Style sheets and script are ours and matplotlib has escaped the charts' texts; all else passes autoescape.
    style, dark, script = (
        Markup((here / name).read_text(encoding="utf-8")) for name in ("page.css", "report.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return drawing.clean(
        template.render(
            style=style + dark,
            script=script,
            digest=digest,
            shown=shown,
            inline=lambda chart: Markup(chart.inline),
            **values,
        )
    )
