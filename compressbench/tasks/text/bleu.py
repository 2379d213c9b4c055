"""BLEU and chrF by sacrebleu (Post 2018), an interval of BLEU, and tokens said twice in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Score:
    """One of sacrebleu's scores.

    Attributes:
        score: from 0 to 100.
        signature: how it was computed, as sacrebleu writes it.
        length_ratio: words said over words of the references; of BLEU alone.
    """

    score: float
    signature: str
    length_ratio: float = 0.0


def bleu_of(said: Sequence[str], wanted: Sequence[str]) -> Score:
    """Corpus BLEU by sacrebleu with its own defaults (13a tokens, case kept, exponential smoothing)."""
    metric = _sacrebleu().BLEU()
    found = metric.corpus_score(list(said), [list(wanted)])
    ratio = found.sys_len / found.ref_len if found.ref_len else 0.0
    return Score(float(found.score), str(metric.get_signature()), ratio)


def chrf_of(said: Sequence[str], wanted: Sequence[str]) -> Score:
    """chrF2 by sacrebleu with its own defaults."""
    metric = _sacrebleu().CHRF()
    return Score(float(metric.corpus_score(list(said), [list(wanted)]).score), str(metric.get_signature()))


def interval(said: Sequence[str], wanted: Sequence[str], draws: int, seed: int) -> tuple[float, float]:
    """2.5 and 97.5 percentiles of BLEU over sentences drawn with replacement; the draws are those of a seed and a count.

    Koehn (2004).
    """
    metrics = _sacrebleu()
    each = metrics.BLEU(effective_order=True)
    found = [each.sentence_score(a, [b]) for a, b in zip(said, wanted, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in found], np.int64)
    random = np.random.RandomState(seed % 2**32)
    scores = []
    for _ in range(draws):
        *parts, own, other = counts[random.randint(0, len(counts), len(counts))].sum(axis=0).tolist()
        half = len(parts) // 2
        scores.append(
            metrics.BLEU.compute_bleu(parts[:half], parts[half:], own, other, smooth_method="exp").score
        )
    low, high = np.percentile(scores, (2.5, 97.5))
    return float(low), float(high)


def repeated(said: Tensor) -> tuple[int, int]:
    """(tokens that are the same as the one before, tokens) in rows of tokens (n, places), -1 after the end."""
    there = said >= 0
    again = (said[:, 1:] == said[:, :-1]) & there[:, 1:]
    return int(again.sum()), int(there.sum())


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise UserError("BLEU needs sacrebleu: pip install 'compressbench[text]'") from error
    return metrics
