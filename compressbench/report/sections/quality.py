"""Calibration and other losses."""

from __future__ import annotations

from compressbench.report.panels import Panel
from compressbench.report.section import Section, both
from compressbench.report.states import Pick, metric_table
from compressbench.report.tables import Table

QUALITY = (
    ("accuracy", "top5"),
    ("accuracy", "nll"),
    ("accuracy", "ece"),
    ("forgetting", "forgotten"),
    ("forgetting", "learned"),
)


def section(panel: Panel, suffix: str) -> Section:
    def build(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Calibration and forgotten examples", QUALITY, pick)

    return both(panel, "Calibration and other losses", "quality", build)
