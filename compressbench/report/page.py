"""The HTML report: one self-contained file, its SVGs beside it; reads nothing but records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressbench.errors import UserError
from compressbench.paths import write_text
from compressbench.records import Records
from compressbench.report import drawing
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
    exits,
    flatness,
    forgetting,
    layers,
    learning,
    methods,
    others,
    populations,
    quality,
    relations,
    robustness,
    targets,
)

ORDER = (
    accuracy.section,
    exits.section,
    flatness.section,
    learning.section,
    methods.section,
    differences.section,
    populations.section,
    connectivity.section,
    forgetting.section,
    relations.section,
    quality.section,
    robustness.section,
    corruptions.section,
    layers.section,
    cost.section,
    targets.section,
    others.section,
)
UNBROKEN = re.compile(r"\b\w+-\w{1,3}\b")  # Top-1, L-L


@dataclass(frozen=True)
class Chapter:
    """One panel of the report."""

    title: str
    anchor: str
    sentences: tuple[str, ...]
    sections: tuple[Section, ...] = field(default_factory=tuple)


def write_report(
    records: Records,
    folder: Path,
    title: str,
    config_yaml: str = "",
    recipes: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> Path:
    """Writes ``folder/report.html`` and its SVGs.

    Args:
        records: any mixture of recipes, models, datasets, scales and seeds; may be empty.
        folder: made if it is not there.
        title: heading of the page.
        config_yaml: shown as it is; empty for none.
        recipes: names of the recipes as they ran, where the records call them by the arms of a sweep.
        missing: sentences on jobs whose records aren't there.

    Returns:
        The path of the page. The same arguments give the same bytes.

    Raises:
        UserError: the folder can't be written.
    """
    found = panels(records)
    chapters = tuple(_chapter(panel, place, len(found)) for place, panel in enumerate(found))
    drawn = [c for chapter in chapters for s in chapter.sections for c in s.charts]
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


def _chapter(panel: Panel, place: int, many: int) -> Chapter:
    anchor = f"p{place + 1}-" if many > 1 else ""
    suffix = f"_{slug(panel.model)}_{slug(panel.dataset)}_{place + 1}" if many > 1 else ""
    with drawing.settings():
        built = [build(panel, suffix) for build in ORDER]
    sections = tuple(replace(s, anchor=anchor + s.anchor) for s in built if not s.empty)
    return Chapter(panel.name, f"p{place + 1}", tuple(summary(panel)), sections)


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
    # The style sheet is ours and matplotlib has escaped the charts' texts; all else passes autoescape.
    style = Markup((here / "page.css").read_text(encoding="utf-8"))
    return drawing.clean(template.render(style=style, inline=lambda chart: Markup(chart.inline), **values))
