"""Words that tables, charts and sentences share."""

from __future__ import annotations

from collections.abc import Iterable

from compressbench.report.numbers import between
from compressbench.report.panels import FINAL, Reading

NAMES = {
    "top1": "Top-1",
    "top5": "Top-5",
    "nll": "NLL",
    "ece": "Calibration error",
    "forgotten": "Forgotten",
    "learned": "Learned",
    "recall_change": "Recall change",
    "label_loyalty": "L-L",
    "probability_loyalty": "P-L",
    "probability_loyalty_base2": "P-L base 2",
    "clean_accuracy": "Clean",
    "fgsm_accuracy": "FGSM",
    "pgd_accuracy": "PGD",
    "fgsm_label_loyalty": "FGSM L-L",
    "pgd_label_loyalty": "PGD L-L",
    "fgsm_probability_loyalty": "FGSM P-L",
    "pgd_probability_loyalty": "PGD P-L",
    "pgd_transfer_accuracy": "PGD transfer",
    "nonzero_parameters": "Nonzero",
    "macs": "MACs",
    "macs_nonzero": "MACs nonzero",
    "dense_bytes": "Dense",
    "sparse_bytes": "Sparse-encoded",
    "density_all": "Density, all",
    "train_macs": "Training MACs",
    "train_examples": "Examples",
    "train_seconds": "Training time",
    "train_cost_ratio": "Of dense",
}
LOYALTY = (
    "L-L: label loyalty, the share of examples on which a state predicts what its dense model predicts. "
    "P-L: probability loyalty, 100 × the mean over examples of 1 − √JS; with the natural logarithm its range is "
    "16.7 to 100, with base 2 (beside it) 0 to 100."
)


def title_of(metric: str) -> str:
    """A metric's heading."""
    return NAMES.get(metric, metric.replace("_", " "))


def examples(readings: Iterable[Reading | None]) -> str:
    """How many examples figures rest on: ``500`` or ``100–500``."""
    return between(n for r in readings if r is not None for n in r.examples)


def difference_unit(unit: str) -> str:
    return "points" if unit == "%" else unit


def moment_name(moment: str) -> str:
    return "final" if moment == FINAL else f"at “{moment}”"
