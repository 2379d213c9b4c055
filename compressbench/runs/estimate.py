"""How long a plan will take: from what like work took before, else from a few timed iterations."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from compressbench import specs
from compressbench.errors import UserError
from compressbench.runs.execute import ANSWERS, MEASURE, Executor, history_key, in_short
from compressbench.runs.plan import Measure, Node
from compressbench.specs.length import steps
from compressbench.stages.init import Init
from compressbench.stages.prune import Prune
from compressbench.stages.quantize import Cast, Mixed, Quantize
from compressbench.stages.rewind import LearningRate, RandomMask, Reinit, Weights
from compressbench.stages.shrink import Channels
from compressbench.stages.train import Train
from compressbench.stages.transfer import Few, Munge, Pictures
from compressbench.store import digest
from compressbench.wording import counted

if TYPE_CHECKING:
    from compressbench.runs.experiment import Experiment

_KEEPS_LAYERS = (
    Init,
    Train,
    Prune,
    Weights,
    LearningRate,
    Reinit,
    RandomMask,
    Channels,
    Quantize,
    Mixed,
    Cast,
    Few,
    Munge,
    Pictures,
)
TRIAL = 8
TRIALS_SECONDS = 15.0
"""Once trials have taken so long, and where a training is hardly longer than its trial, its time stays unknown."""
QUICK = 64
Piece = tuple[str, str]
"""A state's name and what is done: as ``Watcher.working`` is told."""


def estimate(
    ready: Experiment, executor: Executor, missing: Collection[str], results: Collection[tuple[Measure, str]]
) -> str:
    """A sentence: the number of things to do and the time for them."""
    return sentence(ready, expected(ready, executor, missing, results), len(missing), len(results))


def sentence(ready: Experiment, pieces: Mapping[Piece, float | None], states: int, results: int) -> str:
    """The same of what ``expected`` gave."""
    unknown = [words.startswith(MEASURE) for (_, words), seconds in pieces.items() if seconds is None]
    counts = ((unknown.count(False), "training"), (unknown.count(True), "measurement"))
    open_ends = [counted(n, what) for n, what in counts if n]
    more = f", and {' and '.join(open_ends)} whose time is not known yet" if open_ends else ""
    paper = "; this is the paper's own protocol" if ready.setting.columns.scale == "paper" else ""
    total = in_words(sum(seconds or 0.0 for seconds in pieces.values()))
    return f"to do: {counted(states, 'state')}, {counted(results, 'measurement')}; about {total}{more}{paper}"


def expected(
    ready: Experiment,
    executor: Executor,
    missing: Collection[str],
    results: Collection[tuple[Measure, str]],
    answers: Collection[str] = (),
) -> dict[Piece, float | None]:
    """Seconds of each missing piece in the order in which they come, None where nothing is known of it.

    Args:
        answers: states that populations still need to be asked.
    """
    history, context = executor.history.read(), ready.setting.context
    spent = 0.0
    per_step: dict[str, float] = {}
    pieces: dict[Piece, float | None] = {}
    for node in [n for n in ready.plan.nodes if n.name in missing]:
        piece = (node.name, in_short(node))
        known = history.get(history_key(ready.plan, node, context))
        pieces[piece] = known or 0.0
        if known is None and isinstance(node.stage, Train) and not node.stage.checkpoint:
            pieces[piece] = None
            split = len(ready.dataset.split("train"))
            on_other_data = node.stage.data is not None and (
                str(node.stage.length).endswith("ep") or node.stage.batch_size > split or node.stage.in_order
            )
            if on_other_data or not _same_layers(ready, node):
                continue
            stage = node.stage
            methods = {n: m[specs.TARGET] for n, m in stage.reparametrise.items()}
            rounds = _rounding(ready, node) is not None
            kind = [methods, stage.objective, stage.stepper, rounds]
            model = digest([_top(ready, node).spec, stage.batch_size, stage.precision, *kind])
            if model not in per_step and (spent > TRIALS_SECONDS or _iterations(stage, ready) <= 2 * TRIAL):
                continue
            if model not in per_step:
                began = time.monotonic()
                per_step[model] = _trial(ready, executor, node)
                spent += time.monotonic() - began
            pieces[piece] = per_step[model] * _iterations(stage, ready)
    for measure, probe in results:
        pieces[measure.state, f"{MEASURE}{probe}"] = history.get(f"probe {probe} {digest(context.digest())}")
    for name in answers:
        pieces[name, f"{MEASURE}{ANSWERS}"] = history.get(f"probe {ANSWERS} {digest(context.digest())}")
    return pieces


def making(ready: Experiment, executor: Executor) -> float | None:
    """Seconds that all states of a run take, as they took before; None where a training's isn't known.

    What is measured of them isn't in it: how long a probe took is remembered of all recipes together.
    """
    history, context = executor.history.read(), ready.setting.context
    total = 0.0
    for node in ready.plan.nodes:
        known = history.get(history_key(ready.plan, node, context))
        if known is None and isinstance(node.stage, Train) and not node.stage.checkpoint:
            return None
        total += known or 0.0
    return total


def in_words(seconds: float) -> str:
    """A duration for people."""
    for size, word in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {word}"
    return f"{round(seconds)} seconds" if seconds >= 2 else "a second or two"


def _top(ready: Experiment, node: Node) -> Node:
    while node.parent:
        node = ready.plan.node(node.parent)
    return node


def _same_layers(ready: Experiment, node: Node) -> bool:
    """Whether a fresh draw of the model can stand in for the state that this node trains, and for its teachers."""
    for start in (node, *map(ready.plan.node, node.refs)):
        at = start
        while at.parent:
            at = ready.plan.node(at.parent)
            if not isinstance(at.stage, _KEEPS_LAYERS):
                return False
        if not isinstance(at.stage, Init):
            return False
    return True


def _rounding(ready: Experiment, node: Node) -> Quantize | None:
    """A quick stand-in for the quantize stage that this node's state went through, None if there was none."""
    found = node.stage
    while not isinstance(found, Quantize | Mixed | Cast):
        if not node.parent:
            return None
        node = ready.plan.node(node.parent)
        found = node.stage
    if isinstance(found, Quantize):
        return replace(found, examples=QUICK, bias_correction=False, rounding="nearest")
    return Quantize(examples=QUICK)


def _iterations(stage: Train, ready: Experiment) -> int:
    per_epoch = len(ready.dataset.split("train")) // stage.batch_size
    begin = steps(stage.start, per_epoch) if stage.start else 0
    return max(0, steps(stage.stop or stage.length, per_epoch) - begin)


def _trial(ready: Experiment, executor: Executor, node: Node) -> float:
    """Seconds an iteration of this training, measured over a few iterations on a throw-away draw of the model."""
    top = _top(ready, node)
    bench = replace(executor.bench(), seed=node.seed, name="estimate")
    state = top.stage.apply(None, bench)
    drawn = {ref: _top(ready, ready.plan.node(ref)).stage.apply(None, bench) for ref in node.refs}
    bench = replace(bench, references=drawn)
    rounding = _rounding(ready, node)
    state = rounding.apply(state, bench) if rounding else state
    # Two batches of data: a teacher answers for the whole set once, which would be most of so short a trial's time.
    feed, few = bench.feed("train"), 2 * node.stage.batch_size
    bench = replace(bench, feeds={**bench.feeds, "train": feed.head(few)})
    trial = replace(
        node.stage, start=None, stop=None, length="2it", validate=None, warmup=None, data=None, averager=None
    )
    try:
        trial.apply(state, bench)
        began = time.monotonic()
        replace(trial, length=f"{TRIAL}it").apply(state, bench)
        return (time.monotonic() - began) / TRIAL
    except UserError as error:
        raise type(error)(f"stage {node.name}: {error}") from error
