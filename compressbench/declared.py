"""What every metric is, said once: its title, its unit, which way is better, whether it is a timing.

A name that ends in ``_b`` and a whole number is of that batch size; its family is declared once, as ``…_b#``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

TIMING_UNITS = frozenset({"s", "ms", "examples/s", "tokens/s", "mJ"})
"""Units by which a metric that nobody declared, a user's own, counts as a timing."""
SLACK = 1e-6
NEVER_BELOW = frozenset(
    {"bytes", "ms", "s", "examples/s", "tokens/s", "examples", "iterations", "queries", "MACs"}
)
"""Units of which nothing is below 0."""
MOST = 1e300
"""No figure is larger: sums and products of such ones still are numbers."""
SHARES = frozenset(
    {
        "top1", "top5", "majority_top1", "recall", "forgotten", "learned", "label_loyalty", "clean_accuracy",
        "fgsm_accuracy", "pgd_accuracy", "fgsm_label_loyalty", "pgd_label_loyalty", "pgd_transfer_accuracy",
        "square_accuracy", "shifted_top1", "simulated_top1", "deployed_top1", "deployed_agreement", "exit_top1",
        "exits_top1", "last_top1", "random_top1", "oracle_top1", "population_top1", "modal_disagreement",
        "modal_ties", "changed", "right_to_wrong", "wrong_to_right", "wrong_to_another", "top5_overlap",
        "coverage", "error_answered", "floor_loyalty", "attacked_top1", "attacked_loyalty", "corrupted_top1",
        "corrupted_label_loyalty", "shifted_label_loyalty", "noise_accuracy", "pgd_margin_accuracy",
        "worst_case_accuracy", "worst_case_low", "worst_case_high", "autoattack_accuracy",
        "natural_adversarial_top1", "natural_adversarial_clean_top1", "selective_top1", "error_above",
        "ece_tempered", "unlabelled_label_loyalty", "population_label_loyalty", "floor_label_loyalty",
        "floor_label_loyalty_low", "floor_label_loyalty_high", "autoattack_low", "autoattack_high",
        "exemplar_share", "exemplar_ties", "exemplar_null", "reference_on_exemplars", "reference_elsewhere",
        "subject_on_exemplars", "subject_elsewhere", "group_training_share", "group_error", "group_fpr",
        "substitution_clean_accuracy", "substitution_accuracy", "substitution_accuracy_low",
        "substitution_accuracy_high", "substitution_changed", "substitution_transfer_accuracy",
        "negative_directions", "patterns_flipped", "picture_false_positives", "window_share", "reaching",
        "opencv_agreement",
        "group_fnr", "token_top1", "flipped", "never_diverges", "exact_match", "repeated_tokens",
        "separator_by_chance", "pairs_kept", "pairs_expected", "squares_kept",
        *(f"{name}{end}" for end in ("", "_low", "_high") for name in (
            "separator_one", "separator_best", "separator_near", "separator_all", "separator_margin", "all_pairs_kept",
            "negative_curvature", "detection_rate", "false_positive_rate", "balanced_top1",
        )),
        "distilled_outside", "chosen_validation",
    }
)  # fmt: skip
"""Metrics that are shares of examples: from 0 to 100 %."""
CHANGES = frozenset(
    {
        "recall_change", "class_change", "deployed_gap", "accuracy_drop", "accuracy_drop_low", "accuracy_drop_high",
        "coverage_change", "coverage_change_low", "coverage_change_high",
    }
)  # fmt: skip
"""Metrics that are differences of such shares."""
EXAMPLES = frozenset({"exemplar", "forgotten_example", "substitution_example", "distilled_picture"})
"""Metrics of single examples, many records of one name: the value is the row in the source, which measures nothing."""
BATCH = re.compile(r"_b([1-9][0-9]*)\Z", re.ASCII)


@dataclass(frozen=True)
class Declared:
    """One metric, or the family of one for all batch sizes.

    Attributes:
        title: its heading.
        unit: that every probe yields it in.
        better: 1 where more is better, -1 where less is, 0 where neither.
        timing: what a second run can't repeat exactly, and another machine not at all: kept apart by machine.
    """

    title: str
    unit: str
    better: int = 0
    timing: bool = False


def batch_of(metric: str) -> int | None:
    """The batch size that a metric's name ends in, ``None`` where it has none."""
    hit = BATCH.search(metric)
    return int(hit[1]) if hit else None


def declared(metric: str) -> Declared | None:
    """A metric's declaration, ``None`` for one that nobody declared."""
    return METRICS.get(metric) or METRICS.get(BATCH.sub("_b#", metric))


def title_of(metric: str) -> str:
    """A metric's heading, with its batch size; one that nobody declared has its name for it."""
    known, batch = declared(metric), batch_of(metric)
    if known is None:
        return metric.replace("_", " ")
    return known.title if batch is None else f"{known.title}, batch {batch}"


def unit_of(metric: str) -> str:
    """The unit that every probe yields a metric in; empty for one that nobody declared."""
    known = declared(metric)
    return known.unit if known else ""


def is_timing(metric: str, unit: str) -> bool:
    """True for a figure that a second run can't repeat exactly: what its declaration says.

    A metric that nobody declared, or one in another unit than the declared one, goes by its unit.
    """
    known = declared(metric)
    return known.timing if known and known.unit == unit else unit in TIMING_UNITS


def impossible(metric: str, unit: str, value: object) -> str:
    """Why no run can have measured a value, in words; empty where one can, and for what is no number.

    Of every metric numbers are finite and at most 1e300. Of declared ones, in their own unit: shares of examples lie
    within 0 and 100 %, their changes within 100 points; latencies and ratios (ms of a batch, x) are above 0; bytes,
    times, rates and counts aren't below it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not -MOST <= value <= MOST:  # true of nan too
        return (
            "is no finite number" if isinstance(value, float) and not math.isfinite(value) else "is too large"
        )
    known = declared(metric)
    if known is None or known.unit != unit:
        return ""
    if metric in SHARES and not -SLACK <= value <= 100 + SLACK:
        return "is not within 0 and 100 %"
    if metric in CHANGES and not -100 - SLACK <= value <= 100 + SLACK:
        return "is not within 100 points"
    if (unit == "x" or (unit == "ms" and batch_of(metric))) and value <= 0:
        return "is not above 0"
    if unit in NEVER_BELOW and value < 0:
        return "is below 0"
    return ""


def _latencies(name: str, title: str) -> Mapping[str, Declared]:
    """The median of wall-clock times, and their minimum."""
    return {
        f"{name}_b#": Declared(title, "ms", -1, timing=True),
        f"{name}_min_b#": Declared(f"{title}, least", "ms", -1, timing=True),
    }


def _ratios(name: str, title: str) -> Mapping[str, Declared]:
    """A ratio of timings taken in turns, and the ends of its 95 % interval."""
    return {
        f"{name}_b#": Declared(title, "x", 1, timing=True),
        f"{name}_low_b#": Declared(f"{title}, at least", "x", 1, timing=True),
        f"{name}_high_b#": Declared(f"{title}, at most", "x", 1, timing=True),
    }


def _spread_of(name: str, title: str) -> Mapping[str, Declared]:
    """A mean in percent, the spread about it, the lowest and the highest."""
    return {
        name: Declared(title, "%", 1),
        f"{name}_sd": Declared(f"{title}, spread", "points"),
        f"{name}_low": Declared(f"{title}, lowest", "%", 1),
        f"{name}_high": Declared(f"{title}, highest", "%", 1),
    }


def _with_ends(name: str, title: str, better: int = 1) -> Mapping[str, Declared]:
    """A share in percent, and the ends of its 95 % interval."""
    return {
        name: Declared(title, "%", better),
        f"{name}_low": Declared(f"{title}, at least", "%", better),
        f"{name}_high": Declared(f"{title}, at most", "%", better),
    }


def _by_subgroup(name: str, title: str) -> Mapping[str, Declared]:
    """A rate of sub-groups, its spread over nets, and its normalised change with the ends of its 95 % interval."""
    return {
        name: Declared(title, "%", -1),
        f"{name}_sd": Declared(f"{title}, spread", "points"),
        f"{name}_change": Declared(f"{title}, normalised change", "%", -1),
        f"{name}_change_low": Declared(f"{title}, change, at least", "%", -1),
        f"{name}_change_high": Declared(f"{title}, change, at most", "%", -1),
    }


def _rescaled(found: Mapping[str, Declared]) -> Mapping[str, Declared]:
    """Metrics of a place in weight space, and of the same function with weights rescaled around each ReLU."""
    more = {f"{n}_rescaled": Declared(f"{d.title}, rescaled", d.unit, d.better) for n, d in found.items()}
    return {**found, **more}


METRICS: Mapping[str, Declared] = {
    # accuracy
    "top1": Declared("Top-1", "%", 1),
    "top5": Declared("Top-5", "%", 1),
    "nll": Declared("NLL", "nats", -1),
    "ece": Declared("Calibration error", "%", -1),
    "n": Declared("Examples", "examples"),
    "majority_top1": Declared("Top-1 of the commonest class", "%"),
    # of translations: accuracy, translation
    "bleu": Declared("BLEU", "1", 1),
    "bleu_low": Declared("BLEU, at least", "1", 1),
    "bleu_high": Declared("BLEU, at most", "1", 1),
    "chrf": Declared("chrF", "1", 1),
    "exact_match": Declared("Exact matches", "%", 1),
    "repeated_tokens": Declared("Tokens said twice in a row", "%", -1),
    "length_ratio": Declared("Words said over words wanted", "1"),
    # of texts: accuracy, next_tokens
    "perplexity": Declared("Perplexity", "1", -1),
    "token_top1": Declared("Top-1 of tokens", "%", 1),
    "data_complexity": Declared("Complexity of targets", "nats"),
    "data_faithfulness": Declared("Unfaithfulness of targets", "nats", -1),
    "bits_per_byte": Declared("Bits per byte", "bits", -1),
    "flipped": Declared("Top token flipped", "%", -1),
    "first_divergence": Declared("First other token", "tokens", 1),
    "first_divergence_median": Declared("First other token, median", "tokens", 1),
    "never_diverges": Declared("Never another token", "%", 1),
    # confidence
    "ece_tempered": Declared("Calibration error, tempered", "%", -1),
    "nll_tempered": Declared("NLL, tempered", "nats", -1),
    "selective_top1": Declared("Top-1 of the surest", "%", 1),
    "error_above": Declared("Wrong above", "%", -1),
    "coverage_change": Declared("Answered, change", "points"),
    "coverage_change_low": Declared("Answered, change, at least", "points"),
    "coverage_change_high": Declared("Answered, change, at most", "points"),
    # forgetting
    "recall": Declared("Recall", "%", 1),
    "recall_change": Declared("Recall change", "points", 1),
    "forgotten": Declared("Forgotten", "%", -1),
    "learned": Declared("Learned", "%", 1),
    # loyalty
    "label_loyalty": Declared("L-L", "%", 1),
    "probability_loyalty": Declared("P-L", "%", 1),
    "probability_loyalty_base2": Declared("P-L base 2", "%", 1),
    "unlabelled_label_loyalty": Declared("L-L, unlabelled", "%", 1),
    "unlabelled_probability_loyalty": Declared("P-L, unlabelled", "%", 1),
    "population_label_loyalty": Declared("L-L to the dense net of its seed", "%", 1),
    "population_probability_loyalty": Declared("P-L to the dense net of its seed", "%", 1),
    **_spread_of("floor_label_loyalty", "L-L of two dense nets"),
    **_spread_of("floor_probability_loyalty", "P-L of two dense nets"),
    # agreement
    "population_top1": Declared("Top-1", "%", 1),
    "population_top1_sd": Declared("Top-1, spread", "points"),
    "modal_disagreement": Declared("Modal label differs", "%", -1),
    "modal_ties": Declared("Ties", "%"),
    # impact, exemplars
    "impact": Declared("Impact", "points", 1),
    "impact_p": Declared("p", "1"),
    "impact_p_holm": Declared("p, Holm", "1"),
    "impact_p_bh": Declared("p, Benjamini-Hochberg", "1"),
    "impacted_classes": Declared("Affected", "1", -1),
    "impacted_down": Declared("Affected, down", "1", -1),
    "impacted_up": Declared("Affected, up", "1"),
    "impacted_holm": Declared("Affected, Holm", "1", -1),
    "impacted_bh": Declared("Affected, Benjamini-Hochberg", "1", -1),
    "impacted_null": Declared("Affected by chance", "1"),
    "detectable_impact": Declared("Seen from", "points", -1),
    "exemplar_share": Declared("Exemplars", "%", -1),
    "exemplar_count": Declared("Exemplars, number", "1", -1),
    "exemplar_ties": Declared("Exemplars by ties", "%"),
    "exemplar_null": Declared("Exemplars by chance", "%"),
    "reference_on_exemplars": Declared("Dense on exemplars", "%"),
    "reference_elsewhere": Declared("Dense elsewhere", "%"),
    "subject_on_exemplars": Declared("Compressed on exemplars", "%"),
    "subject_elsewhere": Declared("Compressed elsewhere", "%"),
    "taxicab_mean": Declared("Taxicab, mean", "1", -1),
    "exemplar": Declared("Exemplar", "1"),
    "forgotten_example": Declared("Forgotten", "1"),
    # pictures
    "distilled_pictures": Declared("Pictures", "examples"),
    "distilled_outside": Declared("Pixels outside black and white", "%"),
    "step_size_mean": Declared("Step size, mean", "1"),
    "chosen_validation": Declared("Validation, of the one chosen", "%", 1),
    "distilled_picture": Declared("Picture", "1"),
    # subgroups
    "group_training_share": Declared("Share in training", "%"),
    **_by_subgroup("group_error", "Error"),
    **_by_subgroup("group_fpr", "False positives"),
    **_by_subgroup("group_fnr", "False negatives"),
    # deletion
    **_with_ends("deletion_accuracy", "With parts deleted"),
    "deleted": Declared("Deleted", "1"),
    # robustness, square, shifted
    "clean_accuracy": Declared("Clean", "%", 1),
    "fgsm_accuracy": Declared("FGSM", "%", 1),
    "pgd_accuracy": Declared("PGD", "%", 1),
    "fgsm_label_loyalty": Declared("FGSM L-L", "%", 1),
    "pgd_label_loyalty": Declared("PGD L-L", "%", 1),
    "fgsm_probability_loyalty": Declared("FGSM P-L", "%", 1),
    "pgd_probability_loyalty": Declared("PGD P-L", "%", 1),
    "pgd_transfer_accuracy": Declared("PGD transfer", "%", 1),
    "noise_accuracy": Declared("Noise", "%", 1),
    "pgd_margin_accuracy": Declared("PGD, margin", "%", 1),
    "worst_case_accuracy": Declared("Worst case", "%", 1),
    "worst_case_low": Declared("Worst case, at least", "%", 1),
    "worst_case_high": Declared("Worst case, at most", "%", 1),
    "gradient_warning": Declared("Gradients mislead", "1", -1),
    "autoattack_accuracy": Declared("AutoAttack", "%", 1),
    "autoattack_low": Declared("AutoAttack, at least", "%", 1),
    "autoattack_high": Declared("AutoAttack, at most", "%", 1),
    "natural_adversarial_top1": Declared("Natural adversarial", "%", 1),
    "natural_adversarial_clean_top1": Declared("Clean, the same classes", "%", 1),
    "natural_adversarial_relative_change": Declared("Change relative to clean", "%", 1),
    "square_accuracy": Declared("Square", "%", 1),
    "square_queries": Declared("#Q", "queries", 1),
    "shifted_top1": Declared("Shifted top-1", "%", 1),
    "shifted_label_loyalty": Declared("Shifted L-L", "%", 1),
    "shifted_probability_loyalty": Declared("Shifted P-L", "%", 1),
    # substitution
    "substitution_clean_accuracy": Declared("Before", "%", 1),
    **_with_ends("substitution_accuracy", "Words exchanged"),
    "substitution_queries": Declared("#Q", "queries", 1),
    "substitution_queries_low": Declared("#Q, at least", "queries", 1),
    "substitution_queries_high": Declared("#Q, at most", "queries", 1),
    "substitution_changed": Declared("Words changed", "%", 1),
    "substitution_transfer_accuracy": Declared("Transfer", "%", 1),
    "substitution_example": Declared("Example", "1"),
    # corruptions
    "corrupted_top1": Declared("Corrupted top-1", "%", 1),
    "corruption_error_ratio": Declared("mCE", "%", -1),
    "relative_corruption_error": Declared("Relative mCE", "%", -1),
    "corruption_relative_change": Declared("Relative change", "%", 1),
    "corrupted_label_loyalty": Declared("Corrupted L-L", "%", 1),
    "corrupted_probability_loyalty": Declared("Corrupted P-L", "%", 1),
    # structure
    "parameters": Declared("Parameters", "1", -1),
    "prunable": Declared("Prunable", "1"),
    "nonzero": Declared("Nonzero, prunable", "1", -1),
    "empty_layers": Declared("Empty layers", "1", -1),
    "density": Declared("Density", "%"),
    "density_all": Declared("Density, all", "%"),
    "layer_density": Declared("Density of a layer", "%"),
    "weight_bits": Declared("Weight bits", "bits", -1),
    "input_bits": Declared("Input bits", "bits", -1),
    # learning
    "early_stop_iteration": Declared("Early stop", "iterations", -1),
    "early_stop_validation_top1": Declared("Validation top-1 then", "%", 1),
    "final_validation_top1": Declared("At the end", "%", 1),
    "validation_top1_by_reference_stop": Declared("By dense’s stop", "%", 1),
    "iterations": Declared("Iterations", "iterations"),
    # parts, random_separators, projected_pairs
    "features": Declared("Features", "1"),
    "trees": Declared("Trees", "1"),
    "nodes": Declared("Nodes", "1", -1),
    **_with_ends("separator_one", "One random direction nearly separates"),
    **_with_ends("separator_best", "The best of D features nearly separates"),
    **_with_ends("separator_near", "Some combination nearly separates"),
    **_with_ends("separator_all", "Some combination separates all"),
    **_with_ends("separator_margin", "... with a margin near the limit’s"),
    "separator_by_chance": Declared("Separates labels thrown by a coin", "%"),
    "pairs_kept": Declared("Distances kept", "%", 1),
    "pairs_expected": Declared("Distances kept, expected", "%"),
    "squares_kept": Declared("Squared distances kept", "%", 1),
    **_with_ends("all_pairs_kept", "All squared distances kept"),
    "enough_dimensions": Declared("Johnson-Lindenstrauss dimensions", "1", -1),
    "enough_dimensions_pairs": Declared("Johnson-Lindenstrauss dimensions, of distances", "1", -1),
    # connectivity
    "barrier": Declared("Barrier", "points", -1),
    "error_at": Declared("Error on the line", "%", -1),
    # fitting, straight_line, negative_curvature, two_layer, factorisation
    "fitted_loss": Declared("Training loss", "1", -1),
    "fitted_loss_at": Declared("Training loss at a step", "1", -1),
    "fitted_steps": Declared("Steps", "iterations"),
    "epochs_to_loss": Declared("Epochs to a loss", "epochs", -1),
    "line_loss": Declared("Training loss on the line", "1", -1),
    "line_rise": Declared("Largest rise", "1", -1),
    "line_monotone": Declared("Falls all along", "1", 1),
    "line_length": Declared("Length of the line", "1"),
    "line_length_relative": Declared("Length, of the start’s weights", "%"),
    "dimensions": Declared("Weights", "1"),
    **_with_ends("negative_curvature", "Negative curvature", -1),
    "negative_directions": Declared("Eigenvalues below 0", "%", -1),
    "eigenvalue_smallest": Declared("Smallest eigenvalue", "1", 1),
    "eigenvalue_largest": Declared("Largest eigenvalue found", "1"),
    "width": Declared("Width", "1"),
    "patterns_flipped": Declared("Patterns flipped", "%"),
    "neuron_move_largest": Declared("Largest move of a neuron", "1"),
    "lambda0": Declared("λ₀ of H∞", "1"),
    "gram_smallest": Declared("Smallest eigenvalue of its own Gram matrix", "1"),
    "loss_halved_in": Declared("Loss halves in", "iterations", -1),
    "loss_halved_in_proven": Declared("Proven to halve in", "iterations", -1),
    "loss_proven_at": Declared("Proven bound at a step", "1"),
    "columns": Declared("Columns", "1"),
    "columns_zero": Declared("All-zero columns, up to a rotation", "1"),
    "columns_needed": Declared("Rank of the optimum", "1"),
    "objective": Declared("Objective", "1", -1),
    "objective_optimum": Declared("Optimum, closed form", "1"),
    "objective_gap": Declared("Above the optimum", "1", -1),
    "slope": Declared("Length of the gradient", "1", -1),
    "curvature_smallest": Declared("Smallest curvature", "1"),
    "curvature_smallest_widened": Declared("The same, one zero column more", "1"),
    "certificate": Declared("Certificate", "1", 1),
    "is_global": Declared("Global minimum", "1", 1),
    # relations, rescaling
    "entropy": Declared("Entropy", "nats"),
    "entropy_share": Declared("Entropy, share", "%"),
    "relation": Declared("Relation", "1"),
    "relation_agreement": Declared("Agreement", "1", 1),
    "relation_confusion": Declared("Confusion", "1"),
    "rescaling_mean": Declared("Mean", "1"),
    "rescaling_median": Declared("Median", "1"),
    "rescaling_hard": Declared("Median, hard", "1"),
    "rescaling_easy": Declared("Median, easy", "1"),
    "rescaling_rank_correlation": Declared("Rank correlation", "1"),
    # loss_increase
    "loss_increase": Declared("Loss increase", "nats", -1),
    "predicted_loss_increase": Declared("Predicted loss increase", "nats"),
    "prediction_log2_ratio": Declared("Predicted over measured, log2", "1"),
    # sharpness, hessian, flat_region
    **_rescaled(
        {
            "train_loss": Declared("Training loss", "nats", -1),
            "gradient_norm": Declared("Gradient norm", "1"),
            "sam_sharpness": Declared("SAM sharpness", "nats", -1),
            "adaptive_sharpness": Declared("Adaptive sharpness", "nats", -1),
            "keskar_sharpness": Declared("Keskar’s sharpness", "%", -1),
            "hessian_largest": Declared("Largest eigenvalue", "1", -1),
            "hessian_trace": Declared("Trace", "1", -1),
            "extent_random": Declared("Extent, random", "1", 1),
            "extent_random_relative": Declared("Extent, random, of weights", "%", 1),
            "extent_gradient": Declared("Extent, gradient", "1", 1),
            "extent_gradient_relative": Declared("Extent, gradient, of weights", "%", 1),
        }
    ),
    "generalisation_gap": Declared("Generalisation gap", "nats", -1),
    # compute
    "train_examples": Declared("Examples", "examples", -1),
    "train_macs": Declared("Training MACs", "MACs", -1),
    "train_seconds": Declared("Training time", "s", -1, timing=True),
    "train_cost_ratio": Declared("Of reference", "1", -1),
    # validation
    "validation_accuracy": Declared("Validation", "%", 1),
    "validation_lost": Declared("Lost on validation", "points", -1),
    "validation_allowed": Declared("May be lost on validation", "points"),
    "validation_within": Declared("Lost few enough", "1", 1),
    # tickets
    "ticket_change": Declared("Beside its dense net", "points", 1),
    "ticket_change_low": Declared("At least", "points", 1),
    "ticket_as_accurate": Declared("As accurate", "1", 1),
    "ticket_in_time": Declared("No later", "1", 1),
    "ticket_wins": Declared("Winning ticket", "1", 1),
    "ticket_reached": Declared("Reached at", "iterations", -1),
    "ticket_dense_reached": Declared("Dense reached at", "iterations", -1),
    "ticket_net_weights": Declared("Weights of the net", "1"),
    "ticket_kept_weights": Declared("Weights kept", "1"),
    # cost
    "nonzero_parameters": Declared("Nonzero", "1", -1),
    "macs": Declared("MACs", "MACs", -1),
    "macs_nonzero": Declared("MACs nonzero", "MACs", -1),
    "dense_bytes": Declared("Dense", "bytes", -1),
    "sparse_bytes": Declared("Sparse-encoded", "bytes", -1),
    "quantized_bytes": Declared("As codes", "bytes", -1),
    "huffman_bytes": Declared("Huffman-coded", "bytes", -1),
    "compression_ratio": Declared("Ratio", "x", 1),
    "machine_load": Declared("Load", "load", -1, timing=True),
    "latency_median_b#": Declared("Latency, median", "ms", -1, timing=True),
    "latency_p90_b#": Declared("Latency, 90th percentile", "ms", -1, timing=True),
    "throughput_b#": Declared("Throughput", "examples/s", 1, timing=True),
    "token_throughput_b#": Declared("Tokens", "tokens/s", 1, timing=True),
    **_ratios("speedup", "Speed-up"),
    # targets
    **_latencies("latency", "Latency"),
    "energy_b#": Declared("Energy", "mJ", -1, timing=True),
    "peak_memory_b#": Declared("Peak memory", "bytes", -1, timing=True),
    "load_seconds": Declared("Made ready in", "s", -1, timing=True),
    "file_bytes": Declared("File", "bytes", -1),
    "layer_time": Declared("Time of a layer", "ms", -1, timing=True),
    # deployed
    "simulated_top1": Declared("Simulated top-1", "%", 1),
    "deployed_top1": Declared("Deployed top-1", "%", 1),
    "deployed_gap": Declared("Deployed − simulated", "points"),
    "deployed_agreement": Declared("Same class", "%", 1),
    "layers_in_float": Declared("Layers in float", "1", -1),
    "compile_seconds": Declared("Compiled in", "s", -1, timing=True),
    "artefact_bytes": Declared("File", "bytes", -1),
    **_latencies("deployed_latency", "Latency, deployed"),
    **_latencies("simulated_latency", "Latency, simulated"),
    **_latencies("reference_fp32_latency", "Latency, reference in fp32"),
    **_latencies("reference_bf16_latency", "Latency, reference in bf16"),
    **_ratios("deployed_speedup", "Speed-up, deployed"),
    **_ratios("deployed_speedup_over_bf16", "Speed-up over bf16"),
    **_ratios("deployed_over_simulated", "Over the simulation"),
    # exits, batching
    "exit_top1": Declared("Exit’s top-1", "%", 1),
    "exit_ece": Declared("Exit’s calibration error", "%", -1),
    "exit_macs": Declared("MACs until the exit", "MACs", -1),
    "exit_share": Declared("Share", "%"),
    "exit_threshold": Declared("Threshold", "1"),
    "exit_temperature": Declared("Temperature", "1"),
    "exits_top1": Declared("Top-1 by the policy", "%", 1),
    "last_top1": Declared("Top-1 at the last exit", "%", 1),
    "random_top1": Declared("Top-1, exits at random", "%", 1),
    "oracle_top1": Declared("Top-1, oracle", "%", 1),
    "expected_macs": Declared("MACs by the policy", "MACs", -1),
    "expected_cost": Declared("MACs", "%", -1),
    "oracle_cost": Declared("MACs, oracle", "%", -1),
    "mean_exit": Declared("Mean exit", "1", -1),
    "overthinking": Declared("Overthinking", "%", -1),
    "class_exit_share": Declared("Share of a class", "%"),
    "class_cost": Declared("MACs of a class", "%", -1),
    "class_change": Declared("Recall against the last exit", "points", 1),
    "easiest": Declared("Easiest", "examples"),
    "hardest": Declared("Hardest", "examples"),
    "exit_throughput_b#": Declared("Throughput by exits", "examples/s", 1, timing=True),
    **_ratios("exit_speedup", "Speed-up by exits"),
    "exit_cost_b#": Declared("MACs computed", "%", -1),
    # windows, opencv
    **_with_ends("detection_rate", "Faces found"),
    **_with_ends("false_positive_rate", "False positives", -1),
    **_with_ends("balanced_top1", "Balanced top-1"),
    "picture_false_positives": Declared("False positives of a picture", "%", -1),
    "window_macs": Declared("MACs a window", "MACs", -1),
    "window_share": Declared("Share of all MACs", "%", -1),
    "window_features": Declared("Features a window", "1", -1),
    "all_features": Declared("Features in all", "1"),
    "kind_features": Declared("Features of a kind of window", "1", -1),
    "reaching": Declared("Windows that reach a stage", "%"),
    "opencv_agreement": Declared("As OpenCV decides", "%", 1),
    # compare, flips, fragility, noise
    "ece_adaptive": Declared("Calibration error, bins of equal numbers", "%", -1),
    "brier": Declared("Brier score", "1", -1),
    "temperature": Declared("Best temperature", "1"),
    "changed": Declared("Changed", "%", -1),
    "right_to_wrong": Declared("Right to wrong", "%", -1),
    "wrong_to_right": Declared("Wrong to right", "%", 1),
    "wrong_to_another": Declared("Wrong to another wrong", "%", -1),
    "accuracy_drop": Declared("Accuracy lost", "points", -1),
    "accuracy_drop_low": Declared("Accuracy lost, at least", "points", -1),
    "accuracy_drop_high": Declared("Accuracy lost, at most", "points", -1),
    "kl": Declared("KL", "nats", -1),
    "kl_low": Declared("KL, at least", "nats", -1),
    "kl_high": Declared("KL, at most", "nats", -1),
    "kl_50": Declared("KL, median", "nats", -1),
    "kl_90": Declared("KL, worst of 10", "nats", -1),
    "kl_99": Declared("KL, worst of 100", "nats", -1),
    "kl_99_9": Declared("KL, worst of 1,000", "nats", -1),
    "kl_max": Declared("KL, worst", "nats", -1),
    "total_variation": Declared("Total variation", "1", -1),
    "top5_overlap": Declared("Top-5 overlap", "%", 1),
    "rank_correlation": Declared("Rank correlation", "1", 1),
    "coverage": Declared("Answered", "%"),
    "error_answered": Declared("Wrong of these", "%", -1),
    "floor_loyalty": Declared("L-L of the floor", "%", 1),
    "oddities": Declared("Oddities", "1", -1),
    "flip": Declared("Both sure", "1"),
    "attacked_top1": Declared("Top-1 under attack", "%", 1),
    "attacked_loyalty": Declared("L-L under attack", "%", 1),
    "noise_made": Declared("Signal to noise made here", "dB", 1),
    "noise_arrived": Declared("Signal to noise arrived here", "dB", 1),
}
