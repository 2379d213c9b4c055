"""Words that tables, charts and sentences share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
    "quantized_bytes": "As codes",
    "huffman_bytes": "Huffman-coded",
    "compression_ratio": "Ratio",
    "density_all": "Density, all",
    "train_macs": "Training MACs",
    "train_examples": "Examples",
    "train_seconds": "Training time",
    "train_cost_ratio": "Of reference",
    "machine_load": "Load",
    "parameters": "Parameters",
    "early_stop_iteration": "Early stop",
    "early_stop_validation_top1": "Validation top-1 then",
    "validation_top1_by_reference_stop": "By dense’s stop",
    "final_validation_top1": "At the end",
    "iterations": "Iterations",
    "barrier": "Barrier",
    "shifted_top1": "Shifted top-1",
    "square_accuracy": "Square",
    "square_queries": "#Q",
    "layers_in_float": "Layers in float",
    "compile_seconds": "Compiled in",
    "entropy": "Entropy",
    "entropy_share": "Entropy, share",
    "relation_agreement": "Agreement",
    "relation_confusion": "Confusion",
    "rescaling_mean": "Mean",
    "rescaling_median": "Median",
    "rescaling_hard": "Median, hard",
    "rescaling_easy": "Median, easy",
    "rescaling_rank_correlation": "Rank correlation",
    "artefact_bytes": "File",
    "sam_sharpness": "SAM sharpness",
    "adaptive_sharpness": "Adaptive sharpness",
    "keskar_sharpness": "Keskar’s sharpness",
    "hessian_largest": "Largest eigenvalue",
    "hessian_trace": "Trace",
    "extent_random": "Extent, random",
    "extent_random_relative": "Extent, random, of weights",
    "extent_gradient": "Extent, gradient",
    "extent_gradient_relative": "Extent, gradient, of weights",
    "generalisation_gap": "Generalisation gap",
    "gradient_norm": "Gradient norm",
    "exit_top1": "Exit’s top-1",
    "exit_share": "Share",
    "expected_cost": "MACs",
    "mean_exit": "Mean exit",
}
LOYALTY = (
    "L-L: label loyalty, the share of examples on which a state predicts what its dense model predicts. "
    "P-L: probability loyalty, 100 × the mean over examples of 1 − √JS; with the natural logarithm its range "
    "is 16.7 to 100, with base 2 (beside it) 0 to 100."
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


def as_share(value: float, unit: str) -> float:
    """A density as a share in [0, 1], whether a probe gave it as such or in percent."""
    return value / 100 if unit == "%" else value


def merged(notes: Iterable[str]) -> Mapping[str, str]:
    """Note -> what to print for it: notes that differ in their numbers alone become one, with the range.

    A number inside a name (``layer3.0.conv2``) is part of the name.
    """
    alike: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        alike.setdefault(NUMBER.sub("#", note), []).append(note)
    return {note: _ranged(pattern, found) for pattern, found in alike.items() for note in found}


NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\w)")


def each_once(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes as they are printed one after the other: those that differ in their numbers alone stand once."""
    told = list(notes)
    return tuple(dict.fromkeys(merged(told)[note] for note in told))


def _ranged(pattern: str, notes: list[str]) -> str:
    if len(notes) == 1:
        return notes[0]
    slots = zip(*(NUMBER.findall(note) for note in notes), strict=True)
    shown = []
    for slot in slots:
        low, high = min(slot, key=float), max(slot, key=float)
        shown.append(low if float(low) == float(high) else f"{low} to {high}")
    parts = pattern.split("#")
    if len(parts) != len(shown) + 1:
        return notes[0]
    return "".join(a + b for a, b in zip(parts, [*shown, ""], strict=True))
