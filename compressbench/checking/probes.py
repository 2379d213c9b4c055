"""Probes: figures in the declared form that can be repeated, of states that are afterwards what they were."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from compressbench.bench import Bench
from compressbench.checking.traces import Unfit, alone, differs, twice, unchanged
from compressbench.declared import declared, impossible, is_timing
from compressbench.models.build import module_of
from compressbench.populations import Population
from compressbench.records import Metric, Record
from compressbench.state import State
from compressbench.views import View

BASES = ("measured", "computed", "theoretical", "on disk", "modelled")
LIMIT = 64
T = TypeVar("T", Record, Metric)


def check_probe(probe: Any, subject: State, reference: State, bench: Bench) -> list[Metric]:
    """What a probe yields of a state beside its reference, measured twice.

    Raises:
        Unfit: it is no probe; it prints, trains or changes a state or a view, can't be repeated; or a metric has not the
            declared form.
    """
    many = callable(getattr(probe, "measure_many", None))
    single = callable(getattr(probe, "measure", None))
    if not many and not single:
        raise Unfit(f"{type(probe).__name__} has no measure(subject, reference, bench), which yields Metrics")

    def measured() -> list[Metric]:
        own = alone(bench)
        views = View(subject, own, "pruned"), View(reference, own, "dense")
        with unchanged(subject=subject, reference=reference, data=dict(bench.dataset.splits)):
            parts = [probe.measure(*views, own)] if single else []
            parts += [probe.measure_many(*(Population.of([view]) for view in views), own)] if many else []
            for found in parts:
                if not isinstance(found, Iterable):
                    raise Unfit(
                        f"measure returned {type(found).__name__}; it yields (or returns a list of) Metrics"
                    )
            told = [list(found) for found in parts]
        for view in views:
            check_view(view, bench)
        for rows in told:
            check_metrics(rows)
        return [row for rows in told for row in rows]

    return twice(measured, "bench.generator('…')", _differ)


def _differ(one: Sequence[Metric], other: Sequence[Metric]) -> str:
    pair = [lasting(rows) for rows in (one, other)]
    names = [[(m.name, m.group, m.basis) for m in rows] for rows in pair]
    if names[0] != names[1]:
        return "which metrics there are"
    for a, b in zip(*pair, strict=True):
        if not is_timing(a.name, a.unit) and a != b:
            return f"{a.name}{f' of {a.group}' if a.group else ''}"
    return ""


def lasting(rows: Iterable[T]) -> list[T]:
    """Without the ends of intervals, which are missing where others disturbed a timing."""
    return [
        r for r in rows if not re.search(r"_(low|high)_b\d+$", r.metric if isinstance(r, Record) else r.name)
    ]


def check_view(view: View, bench: Bench) -> None:
    """That a view which a probe has used is what a new one of the same state is.

    Raises:
        Unfit: its module was trained or changed, or what it says.
    """
    if "module" in vars(view):
        if view.module.training:
            raise Unfit(
                f"leaves {view.label}.module in training mode; others use it: module_of(state) makes one"
            )
        fresh = module_of(view.state, view.bench.device).state_dict()
        if found := differs(fresh, dict(view.module.state_dict())):
            raise Unfit(
                f"changes weights of a view's module ({found}); it is shared by all probes: module_of(subject.state) "
                "makes one to train or change"
            )
    fresh_view = View(view.state, alone(bench), view.label)
    if "_whole" in vars(view) and (found := differs(fresh_view.log_probs, view.log_probs, "log_probs")):
        raise Unfit(f"changes a view's {found} in place; it is shared by all probes")
    if "fast" in vars(view):
        expected, now = (v.log_probs_of("test", LIMIT) for v in (fresh_view, view))
        if differs(expected, now):
            raise Unfit("changes a view's module `fast`; it is shared by all probes")


def check_metrics(found: Sequence[Any]) -> None:
    """That metrics have the declared form: a name, a number or why there is none, a unit, a basis, each of them once.

    Raises:
        Unfit: the first fault.
    """
    if not found:
        raise Unfit("yields nothing; where a figure can't be had: Metric(name, None, unit, note='why')")
    seen = set()
    for one in found:
        check_metric(one)
        place = (one.name, one.group, one.basis)
        if place in seen:
            raise Unfit(
                f"yields {one.name}{f' of {one.group}' if one.group else ''} twice; another name, or a group of its own"
            )
        seen.add(place)


def check_metric(one: Any) -> None:
    """That one metric has the declared form.

    Raises:
        Unfit: the first fault.
    """
    if not isinstance(one, Metric):
        raise Unfit(
            f"yields a {type(one).__name__}; compressbench.records.Metric(name, value, unit) is wanted"
        )
    if not isinstance(one.name, str) or not one.name.strip():
        raise Unfit(f"a metric's name is {one.name!r}; a word such as top1 is wanted")
    if one.value is None and not one.note:
        raise Unfit(f"{one.name}: None without a note; note='…' says why there is no figure")
    if one.value is not None and (isinstance(one.value, bool) or not isinstance(one.value, int | float)):
        raise Unfit(f"{one.name}: the value is a {type(one.value).__name__}; a number is wanted: float(x)")
    if not isinstance(one.unit, str) or not one.unit.strip():
        raise Unfit(f"{one.name}: no unit; '%', 'ms', 'bytes' …, and '1' for a plain number")
    if why := impossible(one.name, one.unit, one.value):
        raise Unfit(
            f"{one.name}: {one.value!r} {why}; where there is no figure: None, with a note that says why"
        )
    known = declared(one.name)
    if known is not None and known.unit != one.unit:
        raise Unfit(f"{one.name}: the unit is {one.unit!r}; compressbench has this metric in {known.unit!r}")
    if one.basis not in BASES:
        raise Unfit(f"{one.name}: the basis is {one.basis!r}; one of {', '.join(BASES)} is wanted")
    if isinstance(one.n, bool) or not isinstance(one.n, int) or one.n < 0:
        raise Unfit(
            f"{one.name}: n is {one.n!r}; how many examples or repetitions it rests on, a whole number"
        )
    try:
        back = Metric(**json.loads(json.dumps(asdict(one))))
    except (TypeError, ValueError) as error:
        raise Unfit(f"{one.name}: can't be stored as JSON: {error}") from error
    if back != one:
        raise Unfit(f"{one.name}: comes back from JSON another; name, unit, group and note are texts")
