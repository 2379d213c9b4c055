"""What only the models themselves can answer: cost, fragility, and where an error came from."""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from compressbench.artefacts import told
from compressbench.artefacts.artefact import Arrays, Artefact, Given, in_batches, size_of
from compressbench.artefacts.function import Function
from compressbench.artefacts.predictions import Predictions
from compressbench.artefacts.preparation import Preparation
from compressbench.bench import Progress
from compressbench.comparing import asking
from compressbench.comparing import costs as timing
from compressbench.comparing import fragility as trying
from compressbench.comparing import hidden as within
from compressbench.comparing import layers as tracing
from compressbench.comparing.answers import answers, label_loyalty
from compressbench.comparing.arrays import Floats, Ints
from compressbench.comparing.inside import SPARSE as ZEROS
from compressbench.comparing.intervals import Estimate, share
from compressbench.comparing.material import Material, limited, read_by
from compressbench.comparing.oddities import Finding
from compressbench.comparing.probabilities import kind_of
from compressbench.conducting.wishes import Wishes
from compressbench.errors import UserError, reason
from compressbench.runs import provenance
from compressbench.showing.account import (
    Attack,
    Cost,
    Expense,
    Fragility,
    Layer,
    Layers,
    Restored,
    Timing,
)
from compressbench.wording import counted

if TYPE_CHECKING:
    from torch import nn

    from compressbench.conducting.conduct import Answered

BATCHES = (1, 64)
SPOILT, ATTACKED, FEWEST = 500, 100, 16
"""Examples that are spoilt, and those that are attacked; fewer where that would take longer than ``PATIENCE``."""
PATIENCE = 60.0
"""Seconds for all that is spoilt, and for all attacks by queries."""
TRACED, TRACED_PIXELS = 32, 32 * 1024
"""Examples that layers are compared on, and how many pixels these may have together; two are the least."""
ALIKE = 0.02
"""Ratios of speeds nearer to 1 than this are called alike."""
WATCHED, AT_A_TIME = 32, 4
"""Examples on which what layers are fed is looked at, and those of a call."""
WORST = 3
"""So many of the worst layers are left alone, one more each time."""


# a pixel beside --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Beside:
    """Pictures moved to the right by a pixel, the left column repeated."""

    source: Any

    @property
    def inputs(self) -> Any:
        return self.source.inputs

    def read(self, rows: Ints) -> Any:
        return [np.concatenate([p[:, :1], p[:, :-1]], axis=1) for p in self.source.read(rows)]

    def digest(self, rows: Ints) -> str:
        return f"beside {self.source.digest(rows)}"


def shifted(asked_of: Material) -> Material:
    """The same pictures, moved by one pixel."""
    return dataclasses.replace(asked_of, name=f"{asked_of.name}, moved", source=_Beside(asked_of.source))


@contextmanager
def in_half(one: Answered, given: Given) -> Iterator[Artefact | None]:
    """The same model with its weights rounded to float16, computed as before; None where they can't be reached."""
    import torch

    if type(one.artefact).__name__ == "Onnx":
        import onnx
        from onnx import numpy_helper

        model = onnx.load(str(one.artefact.files[0]))
        for place, tensor in enumerate(model.graph.initializer):
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                with np.errstate(over="ignore"):
                    rounded = values.astype(np.float16).astype(np.float32)
                model.graph.initializer[place].CopyFrom(numpy_helper.from_array(rounded, tensor.name))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / one.artefact.name
            onnx.save(model, str(path))
            yield cast("Artefact", told.read(str(path), given))
        return
    module = None if isinstance(one.artefact, Predictions) else one.artefact.differentiable()
    if module is None or isinstance(one.artefact, Predictions):
        yield None
        return
    rounded_module = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*rounded_module.parameters(), *rounded_module.buffers()):
            if tensor.dtype == torch.float32:
                tensor.copy_(tensor.half())
    yield Function(rounded_module, one.artefact.name, one.artefact.wants)


# cost -----------------------------------------------------------------------------------------------------------------


def costs(
    answered: Sequence[Answered], asked_of: Material, wishes: Wishes, progress: Progress
) -> Cost | None:
    """Bytes, times in turns and what was executed; None where no artefact can be asked."""
    runs = [one for one in answered if not isinstance(one.artefact, Predictions)]
    if not runs:
        return None
    timings: dict[int, list[Timing]] = {id(one): [] for one in runs}
    opened = [one.artefact.open(wishes.threads) for one in runs]  # type: ignore[union-attr]
    fixed = {one.artefact.wants.batch for one in runs} - {None}  # type: ignore[union-attr]
    sizes = sorted(n for n in fixed if n) or [b for b in BATCHES if b <= asked_of.n] or [asked_of.n]
    if len(fixed) > 1:
        sizes = []
    for place, batch in enumerate(sizes):
        progress.step(place, len(sizes))
        makers = [_maker(one, asked_of) for one in runs]
        for one, time in zip(runs, timing.times(opened, makers, int(batch)), strict=True):
            timings[id(one)].append(_timing(time))
    expenses = []
    for one in answered:
        if id(one) not in timings:
            expenses.append(Expense("predictions", None, note="a file of predictions: its model isn't here"))
            continue
        executed = one.held.executed.in_words() if one.held and one.held.executed else ""
        expenses.append(
            Expense(
                one.artefact.form,
                size_of(one.artefact),
                None if wishes.quick else _peak(one, asked_of),
                tuple(timings[id(one)]),
                executed,
            )
        )
    return Cost(
        tuple(expenses), provenance.machine("cpu", wishes.threads), tuple(_cost_words(answered, expenses))
    )


def _peak(one: Answered, asked_of: Material) -> int | None:
    """Bytes that loading and two forwards of one example add to a process of its own; None where that can't be seen."""
    if type(one.artefact).__name__ != "Onnx" or len(one.artefact.files) != 1:
        return None
    import torch

    from compressbench.hardware.memory import peak_bytes

    batch = one.artefact.wants.batch or 1  # type: ignore[union-attr]
    fed = _maker(one, asked_of)(batch)
    arrays = list(fed.values()) if isinstance(fed, dict) else list(fed)
    inputs = tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
    return peak_bytes("onnxruntime", one.artefact.files[0].read_bytes(), inputs)[0]


def _maker(one: Answered, asked_of: Material) -> Callable[[int], Arrays]:
    def make(count: int) -> Arrays:
        rows = np.arange(count) % asked_of.n
        some = read_by(asked_of, one.artefact)
        return next(asking.batches(one.artefact, some, one.preparation, count, rows))  # type: ignore[arg-type]

    return make


def _timing(time: timing.Time) -> Timing:
    def rate(seconds: float) -> float:
        return time.batch / seconds if seconds > 0 else math.nan

    faster = time.faster
    return Timing(
        time.batch,
        Estimate(1000 * time.median, 1000 * time.low, 1000 * time.high, time.n),
        Estimate(rate(time.median), rate(time.high), rate(time.low), time.n),
        None if faster is None else Estimate(faster.median, faster.low, faster.high, faster.rounds),
        time.disturbed,
    )


def _cost_words(answered: Sequence[Answered], expenses: Sequence[Expense]) -> list[str]:
    first = expenses[0]
    words = []
    for one, found in zip(answered[1:], expenses[1:], strict=True):
        name = one.artefact.name
        if first.bytes and found.bytes:
            words.append(
                f"{name} has {found.bytes:,} bytes on disk, {first.bytes / found.bytes:.2g} times fewer than "
                f"the reference's {first.bytes:,}."
                if found.bytes < first.bytes
                else f"{name} has {found.bytes:,} bytes on disk, no fewer than the reference's {first.bytes:,}."
            )
        for time in found.timings:
            ratio = time.speedup
            if ratio is None:
                why = time.note or "the reference can't be timed beside it"
                words.append(f"Whether {name} is faster at batch {time.batch} can't be told: {why}.")
            else:
                sure = "surely " if ratio.low > 1 or ratio.high < 1 else "not surely "
                way = "faster" if ratio.value > 1 else "slower"
                same = abs(ratio.value - 1) < ALIKE
                words.append(
                    f"At batch {time.batch} {name} runs at {ratio.value:.2f} times the reference's speed "
                    f"(95 % interval {ratio.low:.2f} to {ratio.high:.2f}, {ratio.n} rounds in turns): "
                    f"{'as fast' if same else sure + way}."
                )
        held = one.held
        if (
            held is not None
            and held.zeros >= ZEROS
            and found.bytes
            and first.bytes
            and found.bytes >= 0.95 * first.bytes
        ):
            words.append(
                f"{held.zeros:.0f} % of the weights of {name} are zero, and are stored and multiplied all the same: they "
                "save nothing here."
            )
        if found.executed:
            words.append(f"What {name} executes: {found.executed}.")
    return words


# fragility ------------------------------------------------------------------------------------------------------------


def fragility(
    answered: Sequence[Answered], asked_of: Material, wishes: Wishes, progress: Progress
) -> tuple[Fragility, list[tuple[Finding, ...]]]:
    """Spoilt, noisy and attacked pictures; and masked gradients, of each of the others."""
    nothing: list[tuple[Finding, ...]] = [() for _ in answered[1:]]
    if any(isinstance(one.artefact, Predictions) for one in answered):
        return Fragility(
            words=("Not tested here: a file of predictions can't be asked anything else.",)
        ), nothing
    if asked_of.texts is not None:
        why = "Not tested here: what is spoilt and attacked are pictures, and the data are texts."
        return Fragility(words=(why,)), nothing
    if asked_of.pictures is None:
        return Fragility(words=("Not tested here: the data are arrays that are fed as they are.",)), nothing
    each = sum(1 / one.said.rate for one in answered)
    spoilt = min(
        SPOILT, max(FEWEST, int(PATIENCE / (each * (2 + len(trying.KINDS) * len(trying.SEVERITIES)))))
    )
    attacked = min(ATTACKED, max(FEWEST, int(PATIENCE / (each * (trying.QUERIES + 4 * trying.STEPS)))))
    some = limited(asked_of, spoilt, wishes.seed)
    geometry = _geometry(answered)
    if geometry is None:
        return Fragility(words=("Not tested here: the models take pictures of different sizes.",)), nothing
    pictures = geometry.apply(some.pictures(np.arange(some.n))) if some.pictures else np.zeros(0)
    labels = some.labels if some.labels is not None and (some.labels >= 0).all() else None
    kinds = [kind_of(one.said.scores, one.shown.kind).name for one in answered]
    found = trying.fragile(
        pictures,
        labels,
        [one.artefact.name for one in answered],
        [_ask(one, wishes) for one in answered],
        [_with_gradients(one) for one in answered],
        kinds,
        min(attacked, some.n),
        wishes.seed,
        progress.step,
    )
    attacks = tuple(
        Attack(
            t.name, t.right if labels is not None else (), () if labels is not None else (None, *t.right[1:])
        )
        for t in found.trials
    )
    worst = "; ".join(
        f"{n} {w.value:.1f} % ({w.low:.1f} to {w.high:.1f})"
        for n, w in zip(found.names, found.worst, strict=True)
    )
    of = "right" if labels is not None else "of their own clean answers kept"
    words = [f"Under every attack and noise together, {of}: {worst}; n = {found.worst[0].n}, 95 % intervals."]
    words += [f"{said}." for said in found.said]
    return Fragility(attacks, tuple(words)), [tuple(f) for f in found.findings[1:]]


def _geometry(answered: Sequence[Answered]) -> Preparation | None:
    """Resizing and cropping alone, to uint8, where all do the same."""
    parts = {
        (p.resize, p.crop, p.interpolation, p.channels, p.floor)
        for one in answered
        if (p := one.preparation) is not None
    }
    if len(parts) != 1:
        return None
    resize, crop, interpolation, channels, floor = parts.pop()
    return Preparation(
        resize,
        crop,
        (0.0, 255.0),
        layout="NHWC",
        dtype="uint8",
        channels=channels,
        interpolation=interpolation,
        floor=floor,
    )


def _ask(one: Answered, wishes: Wishes) -> trying.Ask:
    assert one.preparation is not None
    preparation = dataclasses.replace(one.preparation, resize=None, crop=None)
    opened = one.artefact.open(wishes.threads)  # type: ignore[union-attr]

    def ask(pictures: Any) -> Floats:
        parts = ((preparation.apply(pictures[at : at + 128]),) for at in range(0, len(pictures), 128))
        return np.concatenate(list(in_batches(one.artefact, opened, parts, 128)))  # type: ignore[arg-type]

    return ask


def _with_gradients(one: Answered) -> nn.Module | None:
    """From floats (n, c, h, w) in [0, 1] to what the artefact says, where it has gradients."""
    import torch
    from torch import nn

    module = one.artefact.differentiable()  # type: ignore[union-attr]
    preparation = one.preparation
    if module is None or preparation is None or preparation.channels == 1:
        return None

    class Prepared(nn.Module):
        def __init__(self, inner: nn.Module, p: Preparation) -> None:
            super().__init__()
            self.inner, self.p = inner, p

        def forward(self, x: Any) -> Any:
            low, high = self.p.span
            x = low + x * (high - low)
            x = x.flip(1) if self.p.order == "BGR" else x
            mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.p.mean, self.p.std))
            x = (x - mean) / std
            return self.inner(x.movedim(1, -1) if self.p.layout == "NHWC" else x)

    return Prepared(module, preparation).eval()


# within ---------------------------------------------------------------------------------------------------------------


def hidden(
    first: Answered, other: Answered, asked_of: Material, wishes: Wishes
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Layers of the other that are fed what was cut off, of ONNX models and torch modules; and what can't be told."""
    some = limited(asked_of, WATCHED, wishes.seed)
    try:
        one, two = (_fed(each, some) for each in (first, other))
    except Exception as error:  # a runtime refuses to show what is within a graph in ways of its own
        return (), (f"What the layers of {other.artefact.name} are fed can't be looked at: {reason(error)}.",)
    return within.cut_off(one, two, other.artefact.name), ()


def _fed(one: Answered, some: Material) -> tuple[within.Fed, ...]:
    artefact = one.artefact
    if isinstance(artefact, Predictions) or some.source is None:
        return ()
    some = read_by(some, artefact)
    size = artefact.wants.batch or AT_A_TIME
    rows = np.arange(some.n - some.n % size if some.n >= size else 0)
    fed = asking.batches(artefact, some, one.preparation, size, rows)
    if type(artefact).__name__ == "Onnx":
        names = [i.name for i in artefact.wants.inputs]
        feeds = (x if isinstance(x, Mapping) else dict(zip(names, x, strict=True)) for x in fed)
        return within.of_graph(artefact.files[0], feeds) if len(rows) else ()
    module = artefact.differentiable()
    if module is None or not len(rows):
        return ()
    import torch

    arrays = (list(x.values()) if isinstance(x, Mapping) else list(x) for x in fed)
    return within.of_module(module, ([torch.from_numpy(np.ascontiguousarray(a)) for a in x] for x in arrays))


# layers ---------------------------------------------------------------------------------------------------------------


def layers(first: Answered, other: Answered, asked_of: Material, wishes: Wishes) -> Layers:
    """Where the error of one comparison came from."""
    kinds = {type(one.artefact).__name__ for one in (first, other)}
    if (
        asked_of.source is None
        or isinstance(first.artefact, Predictions)
        or isinstance(other.artefact, Predictions)
    ):
        return Layers(words=("Can't be told: a file of predictions has no layers.",))
    asked_of, theirs = (read_by(asked_of, one.artefact) for one in (first, other))
    if asked_of.source.inputs and asked_of.contents != theirs.contents:  # type: ignore[union-attr]
        return Layers(words=("Can't be told: the two read texts in other tokens.",))
    some = limited(asked_of, _traced(asked_of), wishes.seed)
    try:
        if kinds == {"Onnx"}:
            return _of_graphs(first, other, some, asked_of, wishes)
        modules = [one.artefact.differentiable() for one in (first, other)]  # type: ignore[union-attr]
        if any(m is None for m in modules):
            return Layers(words=("Can't be told: the two are not of one form whose layers can be seen.",))
        return _of_modules(modules, first, some)
    except (UserError, RuntimeError, ValueError, KeyError) as error:
        return Layers(words=(f"Can't be told: {str(error).splitlines()[0][:200]}.",))


def _traced(asked_of: Material) -> int:
    """So many examples that what all layers give can be held."""
    if asked_of.pictures is None:
        return TRACED
    high, wide = asked_of.pictures(np.array([0]))[0].shape[:2]
    return max(2, min(TRACED, TRACED_PIXELS // (high * wide)))


def _of_modules(modules: Sequence[Any], first: Answered, some: Material) -> Layers:
    import torch

    fed = next(asking.batches(first.artefact, some, first.preparation, some.n))  # type: ignore[arg-type]
    arrays = list(fed.values()) if isinstance(fed, dict) else list(fed)
    found = tracing.of_modules(
        modules[0], modules[1], [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
    )
    return Layers(tuple(Layer(x.name, x.made, x.arrived) for x in found), (), some.n, _layer_words(found))


def _of_graphs(
    first: Answered, other: Answered, some: Material, asked_of: Material, wishes: Wishes
) -> Layers:
    one, two = (a.artefact.files[0] for a in (first, other))
    fed = next(asking.batches(first.artefact, some, first.preparation, some.n))  # type: ignore[arg-type]
    names = [i.name for i in first.artefact.wants.inputs]  # type: ignore[union-attr]
    feeds = dict(fed) if isinstance(fed, dict) else dict(zip(names, fed, strict=True))
    found = tracing.of_graphs(one, two, feeds)
    worst = tracing.worst_first(found)[: WORST if not math.isinf(min(x.made for x in found)) else 0]
    restored = []
    tried = limited(asked_of, SPOILT, wishes.seed)
    wanted = answers(asking.asked(first.artefact, tried, first.preparation, wishes.threads).scores).labels
    for count in range(1, len(worst) + 1):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mixed.onnx"
            tracing.left_alone(one, two, worst[:count], path)
            mixed = told.read(str(path), wishes.given)
            said = answers(asking.asked(mixed, tried, other.preparation, wishes.threads).scores).labels
        accuracy = None
        if tried.labels is not None:
            known = tried.labels >= 0
            accuracy = share(int((said == tried.labels)[known].sum()), int(known.sum()))
        restored.append(Restored(tuple(x.name for x in worst[:count]), accuracy, label_loyalty(wanted, said)))
    return Layers(
        tuple(Layer(x.name, x.made, x.arrived) for x in found), tuple(restored), some.n, _layer_words(found)
    )


def _layer_words(found: Sequence[tracing.Layer]) -> tuple[str, ...]:
    if not found:
        return ("Can't be told: the two have no layers of the same name.",)
    finite = [x for x in found if math.isfinite(x.made)]
    if not finite:
        return ("Not one layer of those that can be compared differs.",)
    worst = tracing.worst_first(finite)[:3]
    told = ", ".join(f"{x.name} {x.made:.0f} dB" for x in worst)
    return (f"Most noise is made in {told} ({counted(len(found), 'layer')} compared; fewer dB, more noise).",)
