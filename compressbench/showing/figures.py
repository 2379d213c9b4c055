"""The table of figures: one row a figure, one column an artefact. Terminal, page and JSON all read this one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from compressbench.comparing import words
from compressbench.comparing.comparison import Calibrated, Comparison
from compressbench.comparing.gate import MEASURES
from compressbench.comparing.intervals import Estimate, share
from compressbench.showing.account import Account, Expense, Timing

MISSING = "–"
Value = Estimate | None


@dataclass(frozen=True)
class Figure:
    """One row.

    Attributes:
        name: stable, as in ``gate.MEASURES`` where it is there.
        title: for people.
        unit: ``%``, ``points``, ``nats``, ``bytes``, ``ms``, ``examples/s``, ``x`` or empty.
        better: 1 where more is better, -1 where less is, 0 where neither.
        values: one an artefact, the reference's first; None where there is none.
        notes: what belongs to each value, e.g. which class; empty for nothing.
        brief: whether it is shown where there is little room.
    """

    name: str
    title: str
    unit: str
    better: int
    values: tuple[Value, ...]
    notes: tuple[str, ...]
    brief: bool = False

    @property
    def known(self) -> bool:
        """Whether any artefact has it."""
        return any(is_known(v) for v in self.values)


@dataclass(frozen=True)
class _Row:
    name: str
    title: str
    unit: str
    of: Callable[[Comparison], Value]
    reference: Callable[[Comparison], Value] = lambda _: None
    note: Callable[[Comparison], str] = lambda _: ""
    brief: bool = False
    better: int = 0


def figures(account: Account) -> tuple[Figure, ...]:
    """Every row of which any artefact has a figure."""
    rows = [*(_figure(row, account.comparisons) for row in ROWS), *_costs(account)]
    return tuple(row for row in rows if row.known)


def is_known(value: Value) -> bool:
    """Whether there is a number at all."""
    return value is not None and value.known


def bare(value: float | None, n: int = 0) -> Value:
    """A figure without an interval; None of None."""
    return None if value is None else Estimate(float(value), math.nan, math.nan, n)


def has_interval(value: Estimate) -> bool:
    """Whether both ends are numbers."""
    return math.isfinite(value.low) and math.isfinite(value.high)


def text_of(value: Value, unit: str) -> str:
    """A figure without its interval: ``91.60``, ``1.2 MB``; a dash where there is none."""
    if value is None or not value.known:
        return MISSING
    if unit == "bytes":
        return bytes_in_words(value.value)
    if has_interval(value):
        return words.signed(value) if unit == "points" else words.figure(value, "")
    number = value.value
    if number == int(number) and abs(number) < 1e6:
        return f"{int(number):,}"
    return f"{number:.3g}" if abs(number) < 1e4 else f"{number:,.0f}"


def interval_of(value: Value) -> str:
    """``91.04 to 92.13``; empty where there is none."""
    if value is None or not value.known or not has_interval(value):
        return ""
    decimals = words.decimals_of(value)
    return f"{value.low:z.{decimals}f} to {value.high:z.{decimals}f}"


def n_of(values: Iterable[Value]) -> str:
    """``10,000``, or ``9,998 to 10,000`` where figures of a row rest on different numbers; empty for none."""
    found = sorted({v.n for v in values if v is not None and v.known and v.n})
    if not found:
        return ""
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def bytes_in_words(count: float) -> str:
    """``1.23 MB``, in powers of ten."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.3g} {unit}"
    return f"{count:,.0f} B"


def _figure(row: _Row, comparisons: Sequence[Comparison]) -> Figure:
    known = MEASURES.get(row.name)
    return Figure(
        row.name,
        row.title,
        row.unit,
        known.better if known else row.better,
        (row.reference(comparisons[0]), *(row.of(c) for c in comparisons)),
        ("", *(row.note(c) for c in comparisons)),
        row.brief,
    )


def _gate(name: str) -> Callable[[Comparison], Value]:
    """What a gate would see, with its interval."""

    def of(found: Comparison) -> Value:
        value = found.figures[name]
        return value if isinstance(value, Estimate) else bare(value, found.n)

    return of


def _moved(kind: str) -> Callable[[Comparison], Value]:
    """Share of the labelled examples."""
    return lambda found: (
        share(int(getattr(found.changed, kind).sum()), found.labelled, found.level)
        if found.labelled
        else None
    )


def _sure(what: Callable[[Calibrated], float], whose: int) -> Callable[[Comparison], Value]:
    """Of the examples that have a label and an answer."""

    def of(found: Comparison) -> Value:
        if found.calibrated is None:
            return None
        shapes = found.shapes
        n = found.labelled if shapes is None else sum((shapes.reference, shapes.other)[whose].counts)
        return bare(what(found.calibrated[whose]), n)

    return of


def _temperature(whose: int) -> Callable[[Comparison], Value]:
    """Of the examples that it was fitted on."""

    def of(found: Comparison) -> Value:
        fitted = found.calibrated[whose].temperature if found.calibrated else None
        return bare(fitted.value, fitted.fitted_on) if fitted else None

    return of


def _quantile(at: float) -> Callable[[Comparison], Value]:
    return lambda found: bare(found.distances.kl_quantiles.get(at), found.distances.kl.n)


def _worst_class(found: Comparison) -> str:
    tested = [g for g in found.by_class if not g.rare]
    return min(tested, key=lambda g: g.change.value).name if tested else ""


def _worst_group(found: Comparison) -> str:
    tested = [(a, g) for a, each in found.by_group.items() for g in each if not g.rare]
    if not tested:
        return ""
    attribute, group = min(tested, key=lambda pair: pair[1].change.value)
    return f"{attribute}: {group.name}"


def _covered(at: float, whose: str) -> Callable[[Comparison], Value]:
    def found_of(found: Comparison) -> Value:
        return next((getattr(t, whose).coverage for t in found.thresholds if t.threshold == at), None)

    return found_of


ROWS: tuple[_Row, ...] = (
    _Row(
        "accuracy",
        "Accuracy",
        "%",
        _gate("accuracy"),
        lambda c: c.accuracy.before if c.accuracy else None,
        brief=True,
    ),
    _Row("accuracy_drop", "Accuracy lost", "points", _gate("accuracy_drop"), brief=True),
    _Row("loyalty", "Same answer as the reference", "%", _gate("loyalty"), brief=True),
    _Row("changed", "Answers changed", "%", _gate("changed")),
    _Row("right_to_wrong", "– from right to wrong", "%", _gate("right_to_wrong")),
    _Row("wrong_to_right", "– from wrong to right", "%", _moved("wrong_to_right")),
    _Row("wrong_to_another", "– from wrong to another wrong", "%", _moved("wrong_to_another")),
    _Row("worse_class", "Lost by the worst class", "points", _gate("worse_class"), note=_worst_class, brief=True),
    _Row("worse_group", "Lost by the worst sub-group", "points", _gate("worse_group"), note=_worst_group, brief=True),
    _Row("probability_loyalty", "Probability loyalty", "%", _gate("probability_loyalty"), brief=True),
    _Row(
        "probability_loyalty_base2",
        "Probability loyalty, base 2",
        "%",
        lambda c: c.distances.loyalty_base2,
        better=1,
    ),
    _Row("kl", "KL from the reference, mean", "nats", _gate("kl"), brief=True),
    _Row("kl_50", "KL, median", "nats", _quantile(50.0), better=-1),
    _Row("kl_90", "KL, worst of 10", "nats", _quantile(90.0), better=-1),
    _Row("kl_99", "KL, worst of 100", "nats", _quantile(99.0), brief=True),
    _Row("kl_99.9", "KL, worst of 1,000", "nats", _quantile(99.9)),
    _Row("total_variation", "Total variation, mean", "", _gate("total_variation")),
    _Row("top5_overlap", "Top-5 overlap", "%", _gate("top5_overlap")),
    _Row("rank_correlation", "Rank correlation of scores", "", _gate("rank_correlation")),
    _Row(
        "calibration_error",
        "Calibration error",
        "%",
        _sure(lambda s: s.error, 1),
        _sure(lambda s: s.error, 0),
        brief=True,
    ),
    _Row(
        "calibration_error_adaptive",
        "Calibration error, bins of equal numbers",
        "%",
        _sure(lambda s: s.adaptive, 1),
        _sure(lambda s: s.adaptive, 0),
        better=-1,
    ),
    _Row("nll", "Loss (NLL)", "nats", _sure(lambda s: s.loss, 1), _sure(lambda s: s.loss, 0), better=-1),
    _Row("brier", "Brier score", "", _sure(lambda s: s.brier, 1), _sure(lambda s: s.brier, 0), better=-1),
    _Row("temperature", "Best temperature", "", _temperature(1), _temperature(0), brief=True),
    _Row(
        "coverage_90", "Surer than 0.9", "%", _covered(0.9, "after"), _covered(0.9, "before")
    ),
    _Row("findings", "Oddities", "", _gate("findings")),
)  # fmt: skip
"""In the order in which they are shown."""


def _costs(account: Account) -> Iterable[Figure]:
    if account.cost is None or not account.cost.expenses:
        return
    paid = account.cost.expenses
    none = ("",) * len(paid)

    def row(
        name: str, title: str, unit: str, better: int, of: Callable[[Expense], Value], brief: bool
    ) -> Figure:
        return Figure(name, title, unit, better, tuple(of(e) for e in paid), none, brief)

    yield row("bytes", "On disk", "bytes", -1, lambda e: bare(e.bytes), True)
    yield row("peak_memory", "Peak memory", "bytes", -1, lambda e: bare(e.peak_memory), False)
    for place, batch in enumerate(batches(paid)):
        for name, title, unit, better in (
            ("latency", "Latency", "ms", -1),
            ("throughput", "Throughput", "examples/s", 1),
            ("speedup", "Speed-up", "x", 1),
        ):
            yield row(
                f"{name}_b{batch}",
                f"{title}, batch {batch}",
                unit,
                better,
                lambda e, name=name, batch=batch: getattr(timing_of(e, batch), name, None),  # type: ignore[misc]
                place == 0 and name != "throughput",
            )


def batches(paid: Iterable[Expense]) -> tuple[int, ...]:
    """Batch sizes that anything was timed at, the smallest first."""
    return tuple(sorted({t.batch for e in paid for t in e.timings}))


def timing_of(expense: Expense, batch: int) -> Timing | None:
    """An artefact's timing at a batch size; None where it has none."""
    return next((t for t in expense.timings if t.batch == batch), None)
