"""Records of a comparison, so that ``report``, ``gate`` and ``advise`` read its folder like any run's.

The reference is the series ``dense``, each other model a series of its name, the first floor the series ``floor``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from compressbench.comparing.comparison import Calibrated, Comparison, Floor
from compressbench.comparing.confidence import AtThreshold
from compressbench.comparing.groups import Group
from compressbench.comparing.intervals import Estimate
from compressbench.console import clean_line
from compressbench.records import Metric, Record
from compressbench.runs.plan import DENSE, FINAL, FLOOR
from compressbench.showing.account import Account, Expense, Layers
from compressbench.showing.document import document
from compressbench.showing.figures import has_interval
from compressbench.store import digest

RECIPE, SCALE = "compare", "as given"
ANSWERED = ("counts", "accuracy", "classes", "answered", "calibration", "thresholds", "shapes", "flips")
"""Parts of the document that hang on answers alone, by which a state without an address is known."""
SURE_OF = "at {:g}"
"""The group of what is done at a threshold."""


@dataclass(frozen=True)
class _Of:
    """A probe's metrics."""

    probe: str
    metrics: tuple[Metric, ...]


def records_of(account: Account, seed: int | None = None, hardware: str = "cpu") -> list[Record]:
    """One row a figure; a figure that could not be had is left out, but for one that can't be timed.

    Args:
        seed: column of it; the account's own by default.
        hardware: name of the target.
    """
    made = account.provenance
    keys = keys_of(account)
    series = series_of(account)
    found: list[Record] = []

    def add(order: int, name: str, key: str, told: Iterable[_Of]) -> None:
        for of in told:
            for metric in of.metrics:
                found.append(
                    Record(
                        recipe=RECIPE,
                        model=_label(account.names[0]),
                        dataset=_label(account.comparisons[0].data),
                        scale=SCALE,
                        hardware=hardware,
                        seed=made.seed if seed is None else seed,
                        series=name,
                        moment=FINAL,
                        state=_label(account.names[order]) if name != FLOOR else FLOOR,
                        order=order if name != FLOOR else 0,
                        density=1.0,
                        compute=0.0,
                        probe=of.probe,
                        metric=metric.name,
                        group=metric.group,
                        value=metric.value,
                        unit=metric.unit,
                        basis=metric.basis,
                        n=metric.n,
                        note=metric.note,
                        key=key,
                        reference=keys[0],
                        dtype="",
                        versions=made.versions,
                        machine=made.machine,
                    )
                )

    add(0, series[0], keys[0], _of_reference(account))
    for place in range(len(account.comparisons)):
        add(place + 1, series[place + 1], keys[place + 1], _of_other(account, place))
    floors = next((c.floors for c in account.comparisons if c.floors), ())
    if floors:
        add(0, FLOOR, digest([keys[0], floors[0].name]), [_floor(floors[0])])
    return found


def keys_of(account: Account) -> tuple[str, ...]:
    """Content addresses of the artefacts, the reference's first.

    Of one that has none, a function without a name, it is made of all that was found of its answers, so that equal ones
    still are equal states.
    """
    given = account.provenance.keys or ("",) * len(account.names)
    told = [{part: one[part] for part in ANSWERED} for one in document(account)["comparisons"]]
    whole = [
        [account.names[0], told],
        *([name, one] for name, one in zip(account.names[1:], told, strict=True)),
    ]
    return tuple(key or digest(one) for key, one in zip(given, whole, strict=True))


def series_of(account: Account) -> tuple[str, ...]:
    """The artefacts' series: ``dense`` for the reference, the others' names, none of them one that means something."""
    found = [DENSE]
    for name in account.names[1:]:
        told = _label(name)
        while told in (*found, DENSE, FLOOR):
            told = f"{told} (other)"
        found.append(told)
    return tuple(found)


def _label(text: str) -> str:
    """One printable line, as records have them."""
    return clean_line(text).strip() or "nameless"


def _of_reference(account: Account) -> Iterator[_Of]:
    first = account.comparisons[0]
    if first.accuracy is not None:
        yield _Of(
            "accuracy", tuple(_accuracy(first.accuracy.before, first.calibrated and first.calibrated[0]))
        )
        yield _Of(
            "forgetting",
            tuple(Metric("recall", g.before, "%", n=g.n, group=_label(g.name)) for g in first.by_class),
        )
        for name, groups in first.by_group.items():
            yield _Of(
                _by(name),
                tuple(Metric("recall", g.before, "%", n=g.n, group=_label(g.name)) for g in groups),
            )
    yield _Of("compare", tuple(_thresholds([(t.threshold, t.before) for t in first.thresholds])))
    yield from _beside(account, 0)


def _of_other(account: Account, place: int) -> Iterator[_Of]:
    found = account.comparisons[place]
    if found.accuracy is not None:
        yield _Of(
            "accuracy", tuple(_accuracy(found.accuracy.after, found.calibrated and found.calibrated[1]))
        )
        whole = [
            Metric(name, 100 * count / found.labelled, "%", n=found.labelled)
            for name, count in (("forgotten", found.accuracy.test.lost), ("learned", found.accuracy.test.won))
        ]
        yield _Of("forgetting", (*whole, *_groups(found.by_class)))
        for name, groups in found.by_group.items():
            yield _Of(_by(name), tuple(_groups(groups)))
    yield _Of(
        "loyalty", tuple(_loyalty(found.loyalty, found.distances.loyalty, found.distances.loyalty_base2))
    )
    yield _Of("compare", tuple(_compared(found)))
    yield _Of("flips", tuple(_flips(account, found)))
    yield from _beside(account, place + 1)
    layers = account.layers_of(place)
    if layers is not None:
        yield _Of("noise", tuple(_noise(layers)))


def _accuracy(top1: Estimate, sure: Calibrated | None) -> Iterator[Metric]:
    yield Metric("top1", top1.value, "%", n=top1.n)
    if sure is not None:
        yield from _known("nll", sure.loss, "nats", top1.n)
        yield from _known("ece", sure.error, "%", top1.n)
        yield from _known("ece_adaptive", sure.adaptive, "%", top1.n)
        yield from _known("brier", sure.brier, "1", top1.n)
        if sure.temperature is not None:
            yield Metric("temperature", sure.temperature.value, "1", n=sure.temperature.fitted_on)
    yield Metric("n", float(top1.n), "examples", n=top1.n)


def _groups(groups: Sequence[Group]) -> Iterator[Metric]:
    for g in groups:
        name = _label(g.name)
        yield Metric("recall", g.after, "%", n=g.n, group=name)
        yield Metric("recall_change", g.change.value, "points", n=g.n, group=name)
        yield Metric("forgotten", 100 * g.lost / g.n, "%", n=g.n, group=name)
        yield Metric("learned", 100 * g.won / g.n, "%", n=g.n, group=name)


def _by(attribute: str) -> str:
    """The probe of an attribute's sub-groups."""
    return f"forgetting by {_label(attribute)}"


def _loyalty(labels: Estimate, natural: Estimate, binary: Estimate | None) -> Iterator[Metric]:
    yield from _known("label_loyalty", labels.value, "%", labels.n)
    yield from _known("probability_loyalty", natural.value, "%", natural.n, note="natural logarithm")
    if binary is not None:
        yield from _known("probability_loyalty_base2", binary.value, "%", binary.n, note="base 2")


def _floor(found: Floor) -> _Of:
    told = [
        Metric(m.name, m.value, m.unit, n=m.n, note=_label(found.name))
        for m in _loyalty(found.loyalty, found.probability_loyalty, None)
    ]
    return _Of("loyalty", tuple(told))


def _compared(found: Comparison) -> Iterator[Metric]:
    apart, n = found.distances, found.distances.kl.n
    moved = found.changed
    for name, mask in (
        ("changed", moved.changed),
        ("right_to_wrong", moved.right_to_wrong),
        ("wrong_to_right", moved.wrong_to_right),
        ("wrong_to_another", moved.wrong_to_another),
    ):
        of = found.n if name == "changed" else found.labelled
        if of:
            yield Metric(name, 100 * int(mask.sum()) / of, "%", n=of)
    if found.accuracy is not None:
        yield from _ended("accuracy_drop", found.accuracy.drop, "points")
    yield from _ended("kl", apart.kl, "nats")
    for q, value in apart.kl_quantiles.items():
        if value is not None:
            yield Metric(f"kl_{str(q).removesuffix('.0').replace('.', '_')}", value, "nats", n=n)
    yield from _known("total_variation", apart.total_variation.value, "1", apart.total_variation.n)
    yield from _known("top5_overlap", apart.overlap.value, "%", apart.overlap.n)
    yield from _known("rank_correlation", apart.rank.value, "1", apart.rank.n)
    yield from _thresholds([(t.threshold, t.after) for t in found.thresholds])
    for f in found.floors:
        yield from _known("floor_loyalty", f.loyalty.value, "%", f.loyalty.n, _label(f.name))
    yield Metric("oddities", float(len(found.findings)), "1", n=found.n, note=_oddities(found))


def _thresholds(found: Iterable[tuple[float, AtThreshold]]) -> Iterator[Metric]:
    for threshold, at in found:
        group = SURE_OF.format(threshold)
        yield from _known("coverage", at.coverage.value, "%", at.coverage.n, group)
        if at.error is not None:
            yield from _known("error_answered", at.error.value, "%", at.error.n, group)


def _oddities(found: Comparison) -> str:
    return _label("; ".join(f.words for f in found.findings)) if found.findings else ""


def _flips(account: Account, found: Comparison) -> Iterator[Metric]:
    alike = len({f.id for f in found.flips}) < len(found.flips)
    for flip in found.flips:
        before, after = account.class_name(flip.reference), account.class_name(flip.other)
        label = f", label {account.class_name(flip.label)}" if flip.label >= 0 else ""
        told = f"{flip.kind}: {before} {flip.reference_confidence:.3f} to {after} {flip.other_confidence:.3f}{label}"
        name = _label(f"{flip.id} (row {flip.row})" if alike else flip.id)
        yield from _known("flip", flip.weight, "1", 1, name, _label(told))


def _beside(account: Account, place: int) -> Iterator[_Of]:
    """Of any artefact, the reference is the first: what it costs, and what it is under attack."""
    if account.cost is not None and account.cost.expenses:
        paid = account.cost.expenses
        yield _Of("cost", tuple(_sizes(paid[place], paid[0])))
        yield _Of("targets", tuple(_timings(paid[place])))
    told: list[Metric] = []
    for attack in account.fragility.attacks if account.fragility else ():
        name = _label(attack.name)
        for metric, values in (("attacked_top1", attack.accuracy), ("attacked_loyalty", attack.loyalty)):
            value = values[place] if values else None
            if value is not None:
                told += _known(
                    metric, value.value, "%", value.n, name, _label(attack.note) if attack.note else ""
                )
    if told:
        yield _Of("fragility", tuple(told))


def _sizes(own: Expense, first: Expense) -> Iterator[Metric]:
    if own.bytes is not None:
        yield Metric("dense_bytes", float(own.bytes), "bytes", "on disk", note="the file as given")
        if first.bytes and own.bytes:
            yield Metric("compression_ratio", first.bytes / own.bytes, "x", "on disk")


def _timings(own: Expense) -> Iterator[Metric]:
    runtime = _label(own.runtime)
    if own.bytes is not None:
        yield Metric("file_bytes", float(own.bytes), "bytes", "on disk", group=runtime)
    for t in own.timings:
        note = _label(t.note) if t.note else ""
        yield from _known(f"latency_b{t.batch}", t.latency.value, "ms", t.latency.n, runtime, note)
        yield from _known(f"throughput_b{t.batch}", t.throughput.value, "examples/s", t.throughput.n, runtime)
        if t.speedup is None:
            continue
        yield from _known(f"speedup_b{t.batch}", t.speedup.value, "x", t.speedup.n, runtime)
        if has_interval(t.speedup):
            yield from _known(f"speedup_low_b{t.batch}", t.speedup.low, "x", t.speedup.n, runtime)
            yield from _known(f"speedup_high_b{t.batch}", t.speedup.high, "x", t.speedup.n, runtime)
    if own.peak_memory is not None and own.timings:
        yield Metric(
            f"peak_memory_b{own.timings[0].batch}", float(own.peak_memory), "bytes", group=runtime, n=1
        )


def _noise(found: Layers) -> Iterator[Metric]:
    for layer in found.layers:
        for name, value in (("noise_made", layer.made), ("noise_arrived", layer.arrived)):
            yield from _known(name, value, "dB", found.n, _label(layer.name))


def _ended(name: str, value: Estimate, unit: str) -> Iterator[Metric]:
    """A figure and the ends of its interval."""
    yield from _known(name, value.value, unit, value.n)
    if has_interval(value):
        yield Metric(f"{name}_low", value.low, unit, n=value.n)
        yield Metric(f"{name}_high", value.high, unit, n=value.n)


def _known(name: str, value: float, unit: str, n: int, group: str = "", note: str = "") -> Iterator[Metric]:
    if math.isfinite(value):
        yield Metric(name, value, unit, n=n, group=group, note=note)
