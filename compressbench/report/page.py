"""The HTML report: one self-contained file, its SVGs beside it; reads nothing but records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from compressbench.errors import UserError
from compressbench.paths import write_text
from compressbench.records import Records
from compressbench.report import charts
from compressbench.report.accuracy import accuracy_table, difference_tables
from compressbench.report.charts import Chart
from compressbench.report.deployed import deployed_tables
from compressbench.report.exits import Picture, exit_tables, moment_of, pictures, policies
from compressbench.report.findings import provenance, summary, warnings
from compressbench.report.flatness import flatness_tables
from compressbench.report.heat import forgetting_table, layer_table
from compressbench.report.learning import carried, carriers
from compressbench.report.numbers import counted, grouped, seeds
from compressbench.report.panels import Panel, Point, Series, panels
from compressbench.report.populations import population_tables
from compressbench.report.states import (
    CONNECTED,
    LEARNING,
    QUALITY,
    RELATED,
    RESCALED,
    ROBUSTNESS,
    STRUCTURE,
    Pick,
    compute_table,
    every,
    lecture_table,
    leftover_tables,
    metric_table,
    size_table,
    some,
    thinned,
    timing_table,
)
from compressbench.report.students import gain_tables
from compressbench.report.tables import Table
from compressbench.report.targets import family_table, target_tables
from compressbench.report.trade_off import trade_off_tables

T = TypeVar("T")
UNBROKEN = re.compile(r"\b\w+-\w{1,3}\b")  # Top-1, L-L
RELATING = (
    "Entropy: of a net’s own answers, softened: 0 for one class alone, high for dense answers. Relation: how close two "
    "classes lie in what the last layer reads. Agreement: correlation of a net’s relations with the dense net’s, its "
    "teacher’s. Confusion: rank correlation of its relations with how likely the dense net, softened, thinks the one "
    "class on examples of the other."
)
RESCALING = (
    "Rescaling: the gradient of the true class’s logit under the teacher’s soft labels over that under the label "
    "alone; hard and easy: the quarters of examples whose true class the teacher, softened, thinks least and most likely."
)
FLAT = (
    "Sharpness: how much the training loss rises nearby. Extent: how far the weights can move before it has risen by 0.1 "
    "nats. Rescaled: layers before a ReLU made larger and those after it smaller, which leaves the function as it is; "
    "what changes then is a property of how the weights are written, not of the net (Dinh et al. 2017)."
)
EARLY = (
    "Examples leave as soon as the net is sure, by thresholds that were chosen on the validation split. Times are of the "
    "real mixture of images, with finished examples really leaving the batch; MACs are what the exits’ shares promise."
)
LEARNED = (
    (
        "early_stop_iteration",
        ("Early stop against density", "iteration of minimum validation loss", "Lower is faster."),
        "early_stop_vs_density",
    ),
    (
        "validation_top1_by_reference_stop",
        (
            "Accuracy by the dense net’s early stop",
            "validation top-1, %",
            "At the iteration of the dense net’s own early stop, or the last validation before it.",
        ),
        "accuracy_by_dense_stop",
    ),
)


@dataclass(frozen=True)
class Section:
    """One heading with its charts and tables; ``more`` is folded away."""

    title: str
    anchor: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    more: tuple[Table, ...] = ()
    lead: str = ""
    pictures: tuple[Picture, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.charts or self.tables or self.more)


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
    suffix = f"_{_slug(panel.model)}_{_slug(panel.dataset)}_{place + 1}" if many > 1 else ""
    builders = (
        _accuracy,
        _early,
        _flat,
        _learned,
        _side_by_side,
        _paired,
        _many,
        _connected,
        _forgotten,
        _related,
        _quality,
        _attacked,
        _layers,
        _cost,
        _targets,
        _others,
    )
    with charts.drawing():
        built = [build(panel, suffix) for build in builders]
    sections = tuple(replace(s, anchor=anchor + s.anchor) for s in built if not s.empty)
    return Chapter(panel.name, f"p{place + 1}", tuple(summary(panel)), sections)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:40] or "unnamed"


def _moment_suffix(panel: Panel, moment: str) -> str:
    """Empty for the first moment; its place keeps names apart that differ in nothing a file name can hold."""
    place = panel.moments.index(moment)
    if place == 0:
        return ""
    name = _slug(moment)
    return f"_{name}" if [_slug(m) for m in panel.moments].count(name) == 1 else f"_{name}-{place}"


def _accuracy(panel: Panel, suffix: str) -> Section:
    drawn: list[Chart | None] = []
    shown, tables = [], []
    for moment in panel.moments:
        tail = _moment_suffix(panel, moment) + suffix
        gains = charts.gain_vs_parameters(panel, moment, f"gain_vs_parameters{tail}")
        drawn += gains
        shown += gain_tables(panel, moment)
        bits = charts.accuracy_vs_bits(panel, moment, f"accuracy_vs_bits{tail}")
        varied = len({round(p.density, 3) for s in panel.series for p in s.at(moment)}) > 1
        single = not varied and all(len(s.at(moment)) == 1 for s in panel.series if s.at(moment))
        by_method = None
        if single and not (bits or gains):
            by_method = charts.accuracy_by_method(panel, moment, f"accuracy_by_method{tail}")
        if by_method is not None:
            drawn.append(by_method)
        elif varied or not (bits or gains or policies(panel, moment)):
            drawn += [
                charts.accuracy_vs_density(panel, moment, f"accuracy_vs_density{tail}"),
                charts.change_vs_density(panel, moment, f"change_vs_density{tail}"),
            ]
            tables.append(accuracy_table(panel, moment))
        drawn += [
            bits,
            charts.accuracy_vs_bytes(panel, moment, f"accuracy_vs_bytes{tail}"),
            None if gains else charts.accuracy_vs_compute(panel, moment, f"accuracy_vs_compute{tail}"),
        ]
    drawn += charts.published(panel, f"published{suffix}")
    shown += [t for m in panel.moments for t in trade_off_tables(panel, m)]
    return Section(
        "Accuracy against size and training cost", "accuracy", _kept(drawn), tuple(shown), _kept(tables)
    )


def _early(panel: Panel, suffix: str) -> Section:
    """Early exits: accuracy against time and cost, who leaves where, throughput against batch size."""
    moment = moment_of(panel)
    machines = [(e, f"_{place}" if place else "") for place, e in enumerate(panel.environments)]
    drawn = [
        *(
            charts.accuracy_vs_exit_time(panel, moment, e, f"accuracy_vs_exit_time{suffix}{tail}")
            for e, tail in machines
        ),
        charts.accuracy_vs_exit_macs(panel, moment, f"accuracy_vs_exit_macs{suffix}"),
        *(
            chart
            for e, tail in machines
            for chart in charts.exit_throughput(panel, moment, e, f"exit_throughput{suffix}{tail}")
        ),
    ]
    tables = tuple(exit_tables(panel, moment))
    return Section("Early exits", "exits", _kept(drawn), tables, (), EARLY, tuple(pictures(panel, moment)))


def _flat(panel: Panel, suffix: str) -> Section:
    """Flatness of the trained nets and what it goes along with."""
    drawn = [
        *charts.drop_vs_flatness(panel, f"drop_vs_curvature{suffix}"),
        *charts.accuracy_vs_dense(panel, f"accuracy_vs_dense{suffix}"),
    ]
    return Section("Flatness", "flatness", tuple(drawn), tuple(flatness_tables(panel)), (), FLAT)


def _learned(panel: Panel, suffix: str) -> Section:
    """Speed of learning: early-stop iteration, and accuracy by the dense net's early stop, of what was trained since."""
    moment = panel.moments[0]

    def own(series: Series, point: Point) -> bool:
        return not carried(panel, series, point)

    def shown(pick: Pick) -> Pick:
        return lambda series, at: [p for p in pick(series, at) if own(series, p)]

    drawn = [
        charts.metric_vs_density(panel, moment, ("learning", metric), words, f"{stem}{suffix}", own)
        for metric, words, stem in LEARNED
    ]
    if not _kept(drawn):
        return Section("Speed of learning", "learning")
    short = thinned(panel, moment)
    tables = [metric_table(panel, moment, "Speed of learning", LEARNING, shown(some if short else every))]
    more = (
        [_all_levels(metric_table(panel, moment, "Speed of learning", LEARNING, shown(every)))]
        if short
        else []
    )
    lead = (
        "Early stop: the iteration of minimum validation loss; nothing was stopped or chosen by it. By the lottery "
        "ticket hypothesis a subnetwork, trained alone, reaches the dense net’s accuracy in as many iterations or fewer."
    )
    if left := carriers(panel, moment):
        lead += f" Left out are states of {', '.join(left)} that were not trained since an earlier state."
    return Section("Speed of learning", "learning", _kept(drawn), _kept(tables), _kept(more), lead)


def _connected(panel: Panel, suffix: str) -> Section:
    """Error barriers on the line between two nets."""
    drawn = [
        charts.error_along_path(panel, m, f"error_along_path{_moment_suffix(panel, m)}{suffix}")
        for m in panel.moments
    ]
    tables = [metric_table(panel, m, "Error barrier", CONNECTED) for m in panel.moments]
    return Section("Barriers between nets", "connectivity", _kept(drawn), _kept(tables))


def _side_by_side(panel: Panel, suffix: str) -> Section:
    return _both(panel, "Methods side by side", "methods", lambda m, pick: lecture_table(panel, m, pick))


def _paired(panel: Panel, suffix: str) -> Section:
    lead = (
        "Each seed’s difference is taken first, then mean and spread over seeds: what seeds share cancels. "
        "Whether a difference matters is for a study to say, by a rule that was fixed before it ran."
    )
    tables = tuple(t for m in panel.moments for t in difference_tables(panel, m))
    return Section("Differences paired by seed", "differences", (), tables, (), lead)


def _many(panel: Panel, suffix: str) -> Section:
    tables = population_tables(panel)
    return Section("Populations", "populations", (), tuple(tables[:1]), tuple(tables[1:]))


def _forgotten(panel: Panel, suffix: str) -> Section:
    drawn, tables, more = [], [], []
    for moment in panel.moments:
        first, rest = forgetting_table(panel, moment)
        if moment == panel.moments[0]:
            drawn.append(charts.forgetting(panel, moment, f"forgetting{suffix}"))
            tables.append(first)
        else:
            more.append(first)
        more.append(rest)
    return Section(
        "What was forgotten, class by class", "forgetting", _kept(drawn), _kept(tables), _kept(more)
    )


def _related(panel: Panel, suffix: str) -> Section:
    """What a student may learn from soft labels: relations between the classes, and weights of the examples."""

    def relations(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Answers and relations between classes", RELATED, pick)

    def rescaled(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Rescaling of each example’s gradient", RESCALED, pick)

    title, anchor = "Relations between classes", "relations"
    both = [_both(panel, title, anchor, build) for build in (relations, rescaled)]
    chart = charts.class_relations(panel, panel.moments[0], f"class_relations{suffix}")
    tables, more = ([t for s in both for t in part(s)] for part in (lambda s: s.tables, lambda s: s.more))
    lead = " ".join(
        words for section, words in zip(both, (RELATING, RESCALING), strict=True) if section.tables
    )
    return Section(title, anchor, _kept([chart]), tuple(tables), tuple(more), lead)


def _quality(panel: Panel, suffix: str) -> Section:
    def build(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Calibration and forgotten examples", QUALITY, pick)

    return _both(panel, "Calibration and other losses", "quality", build)


def _attacked(panel: Panel, suffix: str) -> Section:
    def build(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Accuracy and loyalty under attack", ROBUSTNESS, pick)

    return _both(panel, "Under attack", "robustness", build)


def _layers(panel: Panel, suffix: str) -> Section:
    moment = panel.moments[0]
    chart = charts.layer_density(panel, moment, f"layer_density{suffix}")
    first, rest = layer_table(panel, moment)
    if all(r.value == 100 for r in panel.rows if r.metric == "layer_density"):
        chart = first = rest = None  # nothing went anywhere
    counts = metric_table(panel, moment, "Counts", STRUCTURE)
    return Section("Where the weights went", "layers", _kept([chart]), _kept([first]), _kept([rest, counts]))


def _cost(panel: Panel, suffix: str) -> Section:
    moment = panel.moments[0]
    short = thinned(panel, moment)
    tables = _costs(panel, moment, some if short else every)
    more = [compute_table(panel, moment)]
    if short:
        more += [_all_levels(t) for t in _costs(panel, moment, every)]
    lead = (
        "Three kinds of cost, never mixed: what the arithmetic needs in theory, what a file takes, "
        "what a clock said."
    )
    return Section("Cost", "cost", (), _kept(tables), _kept(more), lead if _kept(tables) else "")


def _costs(panel: Panel, moment: str, pick: Pick) -> list[Table | None]:
    found = [size_table(panel, moment, pick)]
    for environment in panel.environments:
        found.append(timing_table(panel, moment, environment, pick))
        found += deployed_tables(panel, moment, environment, pick)
    return list(dict.fromkeys(found))


def _targets(panel: Panel, suffix: str) -> Section:
    moment = panel.moments[0]
    found = [target_tables(panel, moment, environment) for environment in panel.environments]
    choice = [family_table(panel, moment, environment) for environment in panel.environments]
    tables = tuple(dict.fromkeys(t for t in (*choice, *(t for shown, _ in found for t in shown)) if t))
    layers = tuple(dict.fromkeys(t for _, folded in found for t in folded))
    names = dict.fromkeys(
        r.group for r in panel.rows if r.probe == "targets" and r.metric.startswith("throughput")
    )
    drawn = [
        charts.throughput_vs_batch(panel, moment, n, e, f"throughput_{_slug(n)}_{place}{suffix}")
        for n in names
        for place, e in enumerate(panel.environments)
    ]
    return Section("Every hardware target", "targets", _kept(drawn), tables, layers)


def _others(panel: Panel, suffix: str) -> Section:
    first, *rest = panel.moments
    more = [t for m in rest for t in leftover_tables(panel, m)]
    return Section("Other measurements", "other", (), tuple(leftover_tables(panel, first)), tuple(more))


def _both(panel: Panel, title: str, anchor: str, build: Callable[[str, Pick], Table | None]) -> Section:
    """A table at the first moment, all its levels and the other moments folded away below."""
    moment, *rest = panel.moments
    short = thinned(panel, moment)
    more = [_all_levels(build(moment, every))] if short else []
    more += [build(m, every) for m in rest]
    return Section(title, anchor, (), _kept([build(moment, some if short else every)]), _kept(more))


def _all_levels(table: Table | None) -> Table | None:
    return table and replace(table, title=f"{table.title}, all levels")


def _kept(items: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(x for x in items if x is not None)


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
    return charts.clean(template.render(style=style, inline=lambda chart: Markup(chart.inline), **values))
