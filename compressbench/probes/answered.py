"""Answers that are no numbers: such examples are wrong and said; where there are no others, nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from compressbench.records import Metric
from compressbench.wording import NO_FIGURE, NUMBERS

if TYPE_CHECKING:
    from compressbench.views import View


def answered(metrics: Iterable[Metric], **views: View) -> Iterator[Metric]:
    """The metrics of views' answers on the test split, with what is to be said of answers that are no numbers.

    A metric that such answers leave undefined has no value; where a view answers nothing else, none has.

    Args:
        views: by what they are called: ``subject``, ``reference``.
    """
    told = []
    for name, view in views.items():
        lost = view.unanswered
        if lost == len(view.labels):
            whose = "" if name == "subject" else f" of the {name}"
            yield from _none(metrics, f"{NO_FIGURE}all {lost} answers{whose} {NUMBERS}")
            return
        if lost:
            whose = "" if name == "subject" else f"of the {name}’s, "
            told.append(f"{whose}{lost} of {len(view.labels)} answers {NUMBERS}")
    if not told:
        yield from metrics
        return
    for metric in metrics:
        undefined = metric.value is not None and math.isnan(metric.value)
        words = "; ".join(told) + ("" if undefined else " and count as wrong")
        note = "; ".join(x for x in (metric.note, words) if x)
        yield replace(metric, value=None if undefined else metric.value, note=note)


def _none(metrics: Iterable[Metric], why: str) -> Iterator[Metric]:
    for metric in metrics:
        yield metric if metric.unit == "examples" else replace(metric, value=None, note=why)
