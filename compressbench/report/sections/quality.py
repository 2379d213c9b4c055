"""Calibration and other losses."""

from __future__ import annotations

from compressbench.report.panels import Panel
from compressbench.report.section import Section, both
from compressbench.report.states import Key, Pick, metric_table, of
from compressbench.report.tables import Table

QUALITY = (*of("accuracy", "top5", "nll", "ece"), *of("forgetting", "forgotten", "learned"))


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in QUALITY} | {("accuracy", "n", False)}


def section(panel: Panel, suffix: str) -> Section:
    def build(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Calibration and forgotten examples", QUALITY, pick)

    return both(panel, "Calibration and other losses", "quality", build)
