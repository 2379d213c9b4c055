"""Metrics: tensors in, numbers out. Shares are in percent unless a name says otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def percent(hits: Tensor) -> float:
    """Share of True in a bool tensor, in percent; not-a-number for an empty one."""
    return 100 * int(hits.sum()) / hits.numel() if hits.numel() else math.nan


def hits(scores: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """(n,) bool: is the label among the ``k`` highest scores?

    Ties go to the lower class, as ``argmax`` does, so that a constant model is right about one class only; a
    score that is not a number is never right.

    Args:
        scores: (n, classes), logits or (log-)probabilities.
        labels: (n,) int64.
    """
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(dim=1)
    return (rank < k) & ~scores.isnan().any(dim=1)


def negative_log_likelihood(log_probs: Tensor, labels: Tensor) -> float:
    """Mean of -log p(label) in nats; (n, classes) log-probabilities, (n,) labels."""
    return float(-log_probs.double().gather(1, labels[:, None]).mean())


def calibration_error(log_probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent (Guo et al., ICML 2017).

    The mean gap between confidence and accuracy over equal-width bins (a, b] of confidence, each weighted by
    its share of the examples.
    """
    return calibration_error_of(log_probs.double().exp().amax(dim=1), hits(log_probs, labels), bins)


def calibration_error_of(confidence: Tensor, hit: Tensor, bins: int = 15) -> float:
    """As ``calibration_error``, from float64 (n,) confidences and bool (n,), what was right."""
    right = hit.double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place, confidence - right)
    return 100 * float(gap.abs().sum()) / len(right)


@dataclass(frozen=True)
class Flips:
    """What one model gets wrong that another gets right, in percent of ``n`` examples.

    Attributes:
        recall: share that the subject gets right.
        reference: share that the reference gets right.
        forgotten: share that the reference gets right and the subject wrong.
        learned: the other way round.
    """

    n: int
    recall: float
    reference: float
    forgotten: float
    learned: float


def flips(subject: Tensor, reference: Tensor) -> Flips:
    """Counts over two (n,) bool tensors that say which examples each model gets right."""
    return Flips(
        n=len(subject),
        recall=percent(subject),
        reference=percent(reference),
        forgotten=percent(reference & ~subject),
        learned=percent(subject & ~reference),
    )


def js_distance(p: Tensor, q: Tensor, base: float = math.e) -> Tensor:
    """(n,) square roots of the Jensen-Shannon divergence, as ``scipy.spatial.distance.jensenshannon``.

    Args:
        p, q: (n, classes) probabilities, zeros allowed; each row is divided by its sum.
        base: of the logarithm; with 2 the distance of disjoint distributions is 1, with e it is sqrt(ln 2).

    A row that holds what is no number (NaN) is as far from all others as disjoint ones are.
    """
    p, q = p.double(), q.double()
    p, q = p / p.sum(dim=1, keepdim=True), q / q.sum(dim=1, keepdim=True)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    divergence = divergence.masked_fill(middle.isnan().any(dim=1), math.log(2))
    return (divergence.clamp(0, math.log(2)) / math.log(base)).sqrt()


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p / q).log(), torch.zeros_like(p)).sum(dim=1)


def named(scores: Tensor) -> Tensor:
    """(n,) the class that each row of (n, classes) scores names, the lower one of equals; -1 where a score is NaN."""
    return scores.argmax(dim=1).masked_fill(scores.isnan().any(dim=1), -1)


def label_loyalty(one: Tensor, other: Tensor) -> float:
    """Share of examples on which two models name the same class (Xu et al., EMNLP 2021); (n,) classes.

    Below 0 stands for none (see ``named``), with which nothing agrees.
    """
    return percent((one == other) & (one >= 0))


def probability_loyalty(log_p: Tensor, log_q: Tensor, base: float = math.e) -> float:
    """100 x the mean over examples of 1 - sqrt(D_JS(P || Q)) (Xu et al., EMNLP 2021).

    The authors' code takes the natural logarithm, with which disjoint distributions score 16.74 %; with base
    2 they score 0 %. Identical ones score exactly 100 %. The root is taken per example, once.

    Args:
        log_p, log_q: (n, classes) log-probabilities.
    """
    return 100 * float((1 - js_distance(log_p.double().exp(), log_q.double().exp(), base)).mean())


def pearson(one: Tensor, other: Tensor) -> float:
    """Correlation of two (n,) tensors, in [-1, 1]; not-a-number for fewer than two values or where one is constant.

    Constant up to rounding: a spread below 1e-9 of the largest value is none.
    """
    one, other = one.double(), other.double()
    if len(one) < 2 or _constant(one) or _constant(other):
        return math.nan
    one, other = one - one.mean(), other - other.mean()
    # the root of the product, not the product of two roots: exactly 1 for a tensor with itself
    return float((one @ other / ((one @ one) * (other @ other)).sqrt()).clamp(-1, 1))


def spearman(one: Tensor, other: Tensor) -> float:
    """Correlation of the ranks of two (n,) tensors, equal values at their mean rank; else as ``pearson``."""
    return pearson(ranks(one), ranks(other))


def ranks(x: Tensor) -> Tensor:
    """(n,) ranks from 1, float64; equal values share the mean of their places."""
    _, place, count = x.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[place]


def _constant(x: Tensor) -> bool:
    return float(x.max() - x.min()) <= 1e-9 * float(x.abs().max())


def corruption_errors(errors: Tensor, reference: Tensor) -> Tensor:
    """(kinds,) corruption errors in percent (Hendrycks & Dietterich, ICLR 2019) from (kinds, severities) errors.

    The sum of a kind's errors over the severities, over the reference's: above 100 % where it errs more. The paper's
    reference is AlexNet, here it is whatever model is given. Not-a-number for a kind of which the reference gets all
    right.
    """
    return _share_of(errors.double().sum(dim=1), reference.double().sum(dim=1))


def relative_corruption_errors(
    errors: Tensor, clean: float, reference: Tensor, reference_clean: float
) -> Tensor:
    """(kinds,) as ``corruption_errors``, of what the errors exceed those on clean images by.

    Not-a-number for a kind of which the reference loses nothing.
    """
    return corruption_errors(errors.double() - clean, reference.double() - reference_clean)


def relative_change(right: float, clean: float, reference: float, reference_clean: float) -> float:
    """Hooker's change in percent: the share of its clean accuracy that a model keeps, over the reference's, less 1.

    Below 0 where corruption costs it more than the reference. Not-a-number where either has nothing right.
    """
    if min(clean, reference, reference_clean) <= 0:
        return math.nan
    return 100 * ((right / clean) / (reference / reference_clean) - 1)


def _share_of(over: Tensor, under: Tensor) -> Tensor:
    return torch.where(under > 0, 100 * over / under, torch.full_like(under, math.nan))
