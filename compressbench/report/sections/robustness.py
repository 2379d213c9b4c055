"""Accuracy and loyalty under attack."""

from __future__ import annotations

from compressbench.report.panels import Panel
from compressbench.report.section import Section, both
from compressbench.report.states import Key, Pick, metric_table, of
from compressbench.report.tables import Table

ROBUSTNESS = of(
    "robustness",
    "clean_accuracy",
    "fgsm_accuracy",
    "pgd_accuracy",
    "pgd_transfer_accuracy",
    "fgsm_label_loyalty",
    "pgd_label_loyalty",
    "fgsm_probability_loyalty",
    "pgd_probability_loyalty",
)


def shown(panel: Panel, moment: str) -> set[Key]:
    """What this section shows at a moment."""
    return {c.key for c in ROBUSTNESS}


def section(panel: Panel, suffix: str) -> Section:
    def build(moment: str, pick: Pick) -> Table | None:
        return metric_table(panel, moment, "Accuracy and loyalty under attack", ROBUSTNESS, pick)

    return both(panel, "Under attack", "robustness", build)
