"""Calibration, other losses, and what a user's threshold does."""

from __future__ import annotations

from dataclasses import replace

from compressbench.report.drawing import (
    Chart,
    bands,
    bars,
    by_group,
    canvas,
    dots,
    draw,
    finish,
    lowest_at,
    main_of,
    when,
)
from compressbench.report.numbers import Spread
from compressbench.report.panels import Panel, Series, beside_lead
from compressbench.report.section import Section, both, kept
from compressbench.report.states import Column, Key, Pick, metric_table, of, some
from compressbench.report.styles import INK
from compressbench.report.tables import Table

PROBE = "confidence"
QUALITY = (
    *of("accuracy", "top5", "token_top1", "nll", "ece"),
    *of(PROBE, "ece_adaptive", "brier", "temperature", "ece_tempered", "nll_tempered"),
    *of("forgetting", "forgotten", "learned"),
)
THRESHOLD, COVERAGE = "confidence ", "at "
"""How the groups of what thresholds do, and of accuracy on a part of the examples, begin."""
BY_GROUP = ("selective_top1", "coverage", "error_above", "coverage_change")
ENDS = ("coverage_change_low", "coverage_change_high")
LEAD = (
    "Temperature: what logits are divided by so that probabilities mean what they say, fitted on the validation split "
    "alone; above 1 a net is too sure. A user who keeps only answers above a threshold of confidence gets fewer or other "
    "answers after compression, though accuracy may be the same."
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment; ends of single intervals are in the records."""
    groups = {(PROBE, metric, True) for metric in (*BY_GROUP, *ENDS)}
    return {c.key for c in QUALITY} | {("accuracy", "n", False)} | groups


def section(panel: Panel, suffix: str) -> Section:
    def build(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Calibration and forgotten examples", QUALITY, pick)

    moment, *rest = panel.moments
    plain = both(panel, "Calibration and other losses", "quality", build)
    drawn = kept(
        [
            selective(panel, moment, f"selective_accuracy{suffix}"),
            answered_change(panel, moment, f"coverage_change{suffix}"),
        ]
    )
    first = kept([thresholds_table(panel, moment)])
    more = kept([selective_table(panel, moment), *(thresholds_table(panel, m) for m in rest)])
    return replace(
        plain,
        charts=drawn,
        tables=(*plain.tables, *first),
        more=(*more, *plain.more),
        lead=LEAD if first else "",
    )


def _groups(panel: Panel, moment: str, start: str) -> list[str]:
    """Groups of the probe that begin so, in the order of its records."""
    found = dict.fromkeys(
        r.group for r in panel.rows if r.probe == PROBE and r.moment == moment and r.group.startswith(start)
    )
    return list(found)


def thresholds_table(panel: Panel, moment: str) -> Table | None:
    """Share that is answered at each threshold, and the error among these."""
    groups = _groups(panel, moment, THRESHOLD)
    wanted = [
        Column(PROBE, metric, f"{words} {group.removeprefix(THRESHOLD)}", group=group)
        for metric, words in (("coverage", "Answered from"), ("error_above", "Wrong from"))
        for group in groups
    ]
    return metric_table(panel, moment, "At thresholds of confidence", wanted, some) if wanted else None


def selective_table(panel: Panel, moment: str) -> Table | None:
    """Accuracy on the part of the examples of which a net is surest."""
    wanted = [
        Column(PROBE, "selective_top1", group, group=group) for group in _groups(panel, moment, COVERAGE)
    ]
    title = "Accuracy on what a net is surest of"
    return metric_table(panel, moment, title, wanted, some) if wanted else None


def selective(panel: Panel, moment: str, name: str) -> Chart | None:
    """Accuracy against the share of examples that are answered, the least sure ones left out first."""
    lines: list[tuple[Series, list[tuple[float, Spread]]]] = []
    for series in (*panel.dense.values(), *panel.series):
        dense = series in panel.dense.values()
        point = next(iter(series.at(moment)), None) if dense else beside_lead(panel, series, moment)
        if point is None:
            continue
        places = []
        for group in _groups(panel, moment, COVERAGE):
            reading = point.reading(PROBE, "selective_top1", group)
            if reading and reading.spread:
                places.append((float(group.split()[1]), reading.spread))
        whole = main_of(panel, point)
        if places and whole:
            lines.append((series, sorted([*places, (100.0, whole)], key=lambda x: -x[0])))
    if not lines:
        return None
    figure, axes = canvas(f"Accuracy on what a net is surest of{when(moment)}")
    counts = draw(panel, axes, lines)
    axes.invert_xaxis()
    axes.set_xlabel("examples answered, % (the surest first, fewer →)")
    axes.set_ylabel("accuracy on these, %")
    caption = f"Each at the lead’s lowest density, or its own. Black: the dense model. {bands(counts)}"
    return finish(figure, axes, panel, name, caption, drawn=[series for series, _ in lines])


def answered_change(panel: Panel, moment: str, name: str) -> Chart | None:
    """Change of the share that is answered, a row a threshold."""
    lines = by_group(panel, moment, PROBE, "coverage_change")
    if not lines:
        return None
    names = [g for g in _groups(panel, moment, THRESHOLD) if any(g in found for _, _, found in lines)]
    figure, axes = canvas(f"Answers above a threshold, change{when(moment)}", rows=len(names))
    counts = dots(panel, axes, lines, names)
    axes.axvline(0, color=INK, linewidth=1.2)
    axes.set_xlabel("points of coverage, against the dense model of the same seed")
    return finish(figure, axes, panel, name, f"{lowest_at(panel, lines)}. {bars(counts)}", lines)
