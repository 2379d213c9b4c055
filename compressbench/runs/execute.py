"""Execution: each state and each probe's result is made once, kept, and never made again."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compressbench import specs
from compressbench.bench import Bench, Progress, Silent
from compressbench.declared import is_timing
from compressbench.errors import Diverged, Incomplete, UserError
from compressbench.hardware.turns import is_disturbed
from compressbench.paths import given_path
from compressbench.records import Metric, Record
from compressbench.runs import provenance
from compressbench.runs.plan import FLOOR, Context, Measure, Node, Plan, lineage
from compressbench.runs.predictions import (
    LABELS,
    LOG_PROBS,
    checked_log_probs,
    packed_labels,
    predictions_key,
    unpacked_labels,
)
from compressbench.specs import trust
from compressbench.specs.trust import IN_A_STATE, as_first_named, check_target
from compressbench.store import Damaged, Store, digest, file_digest
from compressbench.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.data.dataset import Dataset
    from compressbench.populations import Population
    from compressbench.state import State
    from compressbench.views import View


ANSWERS = "answers"
MEASURE = "measure "
"""How the words begin that a ``Watcher`` is told of a probe; its name follows."""


@dataclass(frozen=True)
class RunColumns:
    """Columns that are the same in all records of a run."""

    recipe: str
    model: str
    dataset: str
    scale: str
    hardware: str
    seed: int
    overrides: str = ""


@dataclass(frozen=True)
class Setting:
    """All that executing a plan needs beside the plan.

    Attributes:
        asked: probes of single moments only.
        retime: whether results that hold timings are measured anew.
        log_probs_up_to: classes; of more, log-probabilities of populations are not kept, labels are.
    """

    dataset: Dataset
    context: Context
    columns: RunColumns
    probes: Mapping[str, Mapping[str, Any]]
    target: Mapping[str, Any] | None
    checkpoint_seconds: float = 20.0
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    retime: bool = False
    log_probs_up_to: int = 1000

    def probe(self, name: str) -> Mapping[str, Any]:
        """The spec of a probe by name."""
        return self.probes[name] if name in self.probes else self.asked[name]


class Watcher:
    """Told what happens; the terminal's live view is one, this one is silent."""

    def working(self, name: str, words: str) -> AbstractContextManager[Progress]:
        """Called around each piece of work that is really done, with its state's name and what is done."""
        return nullcontext(Silent())

    def say(self, text: str) -> None:
        """A sentence for the user: a damaged entry, a wait for another process."""


class Executor:
    """Works through one plan on one store."""

    def __init__(self, plan: Plan, store: Store, setting: Setting, watcher: Watcher) -> None:
        self.plan, self.store, self.setting, self.watcher = plan, store, setting, watcher
        self.history = History(store)
        self._nodes = {n.name: n for n in plan.nodes}
        self._states: dict[str, State] = {}
        self._views: dict[tuple[str, str], View] = {}
        self._base: Bench | None = None
        self._known_facts: dict[str, dict[str, Any]] = {}
        self._known_results: dict[str, dict[str, Any]] = {}
        self._result_keys: dict[tuple[tuple[str, ...], int, str], str] = {}
        self._read_by: dict[str, dict[str, list[str]]] = {}
        self._many: dict[str, tuple[bool, bool]] = {}
        self._measured: set[str] = set()
        self._no_floor: dict[str, bool] = {}
        self._lost: dict[str, Diverged] = {}

    def missing_states(self) -> list[Node]:
        """Nodes whose state is not in the store (damaged ones are dropped here, and said)."""
        return [n for n in self.plan.nodes if self._facts(n) is None]

    def missing_results(self) -> list[tuple[Measure, str]]:
        """Pairs of a measure and a probe's name whose result is not in the store, or has expired there."""
        return [(m, p) for m in self.plan.measures for p in self.probes_of(m) if self._lasting(m, p) is None]

    def probes_of(self, measure: Measure) -> list[str]:
        """Names of the probes of a measure, in the evaluation's order; none for a floor that is no other state."""
        if self._is_no_floor(measure):
            return []
        names = [p for p in self.setting.probes if measure.probes is None or p in measure.probes]
        names += [p for p in self.setting.asked if measure.probes is not None and p in measure.probes]
        return [p for p in names if self._takes(p)[bool(measure.members)]]

    def _takes(self, probe: str) -> tuple[bool, bool]:
        """Whether a probe measures single states, and whether it measures populations."""
        if probe not in self._many:
            kind = self._kind(probe)
            many = hasattr(kind, "measure_many")
            self._many[probe] = (hasattr(kind, "measure") or not many, many)
        return self._many[probe]

    def _kind(self, probe: str) -> Any:
        target = str(self.setting.probe(probe)[specs.TARGET])
        return trust.locate(target, f"evaluation.probes.{probe}")

    def run(self) -> Iterator[Record]:
        """Makes every state in order, measures each as soon as it and its reference are there; yields records.

        Records come in the order of the plan's measures whatever was in the store already. While it works, no other
        process prunes what the plan needs; what vanishes all the same is made again.

        Raises:
            Incomplete: a state or a result could not be had in the end.
        """
        keys = [n.key for n in self.plan.nodes]
        keys += [self._result_key(m, p) for m in self.plan.measures for p in self.probes_of(m)]
        members = self._unanswered()
        keys += [self._predictions_key(n, what) for n in members for what in (LABELS, LOG_PROBS)]
        self._forewarned()
        with self.store.needed(keys):
            waiting = list(self.plan.measures)
            done: set[str] = set()
            own, without = self._own(), set[str]()
            for node in self.plan.nodes:
                if not without.isdisjoint((node.parent, *node.refs)):
                    without.add(node.name)
                    continue
                if self._facts(node) is None:
                    try:
                        self.state(node.name)
                    except UserError as error:
                        if node.name in own:
                            raise
                        without.add(node.name)
                        if node.key not in self._lost:
                            self.watcher.say(str(error))
                        continue
                done.add(node.name)
                if node.name in members:
                    self._answer(node.name)
                for measure in [m for m in waiting if done.issuperset(m.needs)]:
                    for probe in self.probes_of(measure):
                        self.result(measure, probe)
                    waiting.remove(measure)
                self._forget(done)
        for measure in filter(self._is_no_floor, self.plan.measures):
            self.watcher.say(self._why_no_floor(measure))
        yield from self.records()
        if self.store.without_key:
            self.watcher.say(
                f"{self.store.without_key} stored results are of an earlier version and hold no key: taken as named"
            )
        lacking = [
            f"{probe} of {m.state}"
            for m in self.plan.measures
            for probe in self.probes_of(m)
            if self._result_key(m, probe) not in self._known_results
            or self._nodes[m.state].key not in self._known_facts
        ]
        if lacking:
            raise Incomplete(
                f"{counted(len(lacking), 'result')} could not be had, e.g. {lacking[0]}; run it again"
            )

    def _forewarned(self) -> None:
        """Asks stages that may want too much (``forewarn``) before anything is made.

        They may ask for a fresh draw of their net; where it begins otherwise than with a draw there is none.

        Raises:
            UserError: what a stage says, with its name.
        """
        for node in self.plan.nodes:
            if not hasattr(node.stage, "forewarn") or self._facts(node) is not None:
                continue
            top = node
            while top.parent:
                top = self._nodes[top.parent]
            bench = replace(self.bench(), seed=node.seed, name=top.local)
            try:
                node.stage.forewarn(functools.partial(_fresh, top, bench), bench)
            except UserError as error:
                raise type(error)(f"stage {node.name}: {error}") from error

    def _own(self) -> set[str]:
        """States that the run can't do without; the others are company in lanes."""
        asked = [n.name for n in self.plan.nodes if n.name == n.local]
        asked += [name for m in self.plan.measures for name in m.needs]
        return {n.name for n in lineage(self.plan.nodes, asked)}

    def records(self) -> Iterator[Record]:
        """Records of all results that were had in this run or are in the store."""
        columns = asdict(self.setting.columns)
        for measure in self.plan.measures:
            node = self._nodes[measure.state]
            for name in measure.needs:
                if self._nodes[name].key not in self._known_facts:
                    self._facts(self._nodes[name])
            facts = self._known_facts.get(node.key)
            if self._is_no_floor(measure) and (body := self.store.read_facts(node.key)):
                yield self._without_floor(measure, columns, body)
            for probe in self.probes_of(measure):
                result = self._known_results.get(self._result_key(measure, probe)) or self._result(
                    measure, probe
                )
                if result is None or facts is None:
                    continue
                made = result["provenance"]
                for row in result["metrics"]:
                    metric = Metric(**row)
                    yield Record(
                        **columns,
                        **self._place(measure, facts),
                        probe=probe,
                        metric=metric.name,
                        group=metric.group,
                        value=metric.value,
                        unit=metric.unit,
                        basis=metric.basis,
                        n=metric.n,
                        note=metric.note,
                        dtype=made["dtype"],
                        versions=made["versions"],
                        machine=made["machine"],
                        artefact=metric.artefact,
                    )

    def _place(self, measure: Measure, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that say which state a record is of, and what it is compared with.

        A population's density is the mean of its members', its compute their sum.
        """
        own = [self._known_facts.get(self._nodes[n].key, facts) for n in measure.members] or [facts]
        return {
            "series": measure.series,
            "moment": measure.moment,
            "state": measure.state,
            "order": measure.order,
            "density": math.fsum(f["density"] for f in own) / len(own),
            "compute": math.fsum(float(f["macs"]) for f in own),
            "key": self._key_of(measure.members, measure.state),
            "reference": self._key_of(measure.references, measure.reference),
        }

    def _key_of(self, members: Sequence[str], state: str) -> str:
        """The key of a state, or of the population of its members."""
        keys = [self._nodes[n].key for n in members]
        return digest({"population": keys}) if keys else self._nodes[state].key

    def _is_no_floor(self, measure: Measure) -> bool:
        """Whether a measure is of a floor that is the same state as its reference; False while that isn't known."""
        if measure.series != FLOOR:
            return False
        if measure.state not in self._no_floor:
            pair = [self._nodes[name] for name in (measure.state, measure.reference)]
            try:
                one, other = (self.store.read_facts(n.key, self._made_by(n)) for n in pair)
                if one is None or other is None:
                    return False
                alike = all(one[part] == other[part] for part in ("model", "edits", "policies", "tensors"))
            except Damaged:
                return False
            self._no_floor[measure.state] = alike
        return self._no_floor[measure.state]

    def _why_no_floor(self, measure: Measure) -> str:
        seeds = [self._nodes[name].seed for name in (measure.state, measure.reference)]
        return (
            f"no floor: {measure.reference} of seed {seeds[0]} is the very state of seed {seeds[1]}, its weights don't "
            "depend on the seed; recipe.compare.floor=false leaves the floor out"
        )

    def _without_floor(self, measure: Measure, columns: Mapping[str, Any], body: Mapping[str, Any]) -> Record:
        """The one row of a floor that is none: it says why."""
        made, facts = body["provenance"], body["facts"]
        return Record(
            **columns,
            **self._place(measure, facts),
            probe="loyalty",
            metric="label_loyalty",
            group="",
            value=None,
            unit="%",
            basis="measured",
            n=0,
            note=self._why_no_floor(measure),
            dtype=facts.get("dtype", "fp32"),
            versions=made["versions"],
            machine=made["machine"],
        )

    def state(self, name: str) -> State:
        """A state by name: from memory, from the store, or made now by one process alone."""
        if name in self._states:
            return self._states[name]
        node = self._nodes[name]
        state = self._load(node)
        if state is None:
            with self.store.lock(
                node.key, lambda: self.watcher.say(f"{name}: waiting, another process is making it")
            ):
                state = self._load(node)
                if state is None:
                    state = self._make(node)
        self._states[name] = state
        return state

    def result(self, measure: Measure, probe: str) -> dict[str, Any]:
        """A probe's result: from the store, or measured now by one process alone."""
        found = self._lasting(measure, probe)
        if found is not None:
            return found
        key = self._result_key(measure, probe)
        with self.store.lock(
            key, lambda: self.watcher.say(f"{measure.state}: another process measures {probe}")
        ):
            found = self._lasting(measure, probe)
            if found is None:
                found = self._measure(measure, probe)
                self._measured.add(key)
                self.store.save_result(key, found)
                self._known_results[key] = found
        return found

    def bench(self) -> Bench:
        """The bench that stages and probes get copies of; the first call imports torch."""
        if self._base is None:
            import torch

            from compressbench.runs.allocator import keep_freed_memory

            context, dataset = self.setting.context, self.setting.dataset
            if context.device.startswith("cuda") and not torch.cuda.is_available():
                raise UserError(
                    f"hardware: device {context.device} asked for, but torch finds no GPU; try hardware=cpu"
                )
            torch.set_num_threads(context.threads)
            keep_freed_memory()
            target = specs.build(self.setting.target, "hardware.target") if self.setting.target else None
            if context.device.startswith("cuda"):
                torch.backends.cudnn.allow_tf32 = False  # what is measured in float32 is float32
            self._base = Bench(
                dataset,
                self.setting.columns.seed,
                device=context.device,
                target=target,
                launch=context.launch,
            )
        return self._base

    def _make(self, node: Node) -> State:
        if node.key in self._lost:
            raise Diverged(f"stage {node.name}: {self._lost[node.key]}")
        began = time.monotonic()
        self.bench()
        before = self.state(node.parent) if node.parent else None
        if before is not None and self._goes_in_lanes(node):
            with ExitStack() as locks:
                return self._make_in_lanes([(node, before), *self._company(node, before, locks)], began)
        with self.watcher.working(node.name, in_short(node)) as progress:
            making = self._making(node, progress)
            try:
                state = node.stage.apply(before, making.bench)
            except UserError as error:
                raise type(error)(f"stage {node.name}: {error}") from error
        return self._kept_state(making, before, state, time.monotonic() - began)

    def _make_in_lanes(self, pairs: Sequence[tuple[Node, State]], began: float) -> State:
        """The first node's state; those of the others are made beside it and kept.

        Args:
            pairs: nodes, and the states that they continue.
        """
        from compressbench.training import lanes

        (first, _), width = pairs[0], self.setting.context.lanes
        words = f"{in_short(first)}; {len(pairs)} of {width} lanes"
        with self.watcher.working(first.name, words) as progress:
            making = [self._making(n, progress) for n, _ in pairs]
            before, stages = [state for _, state in pairs], [n.stage for n, _ in pairs]
            try:
                found = lanes.train(before, [m.bench for m in making], stages, width)
            except UserError as error:
                raise type(error)(f"stage {first.name}: {error}") from error
        seconds = (time.monotonic() - began) / len(pairs)
        made = [
            end if isinstance(end, Diverged) else self._kept_state(m, old, end, seconds)
            for m, old, end in zip(making, before, found, strict=True)
        ]
        for (node, _), end in zip(pairs, made, strict=True):
            if isinstance(end, Diverged) and node is not first:
                self._lost[node.key] = end
                self.watcher.say(f"{node.name}: {end}")
        if isinstance(made[0], Diverged):
            raise Diverged(f"stage {first.name}: {made[0]}") from made[0]
        return made[0]

    def _goes_in_lanes(self, node: Node) -> bool:
        alike = not hasattr(self.setting.dataset.task, "lengths")
        return self.setting.context.lanes > 1 and alike and getattr(node.stage, "goes_in_lanes", bool)()

    def _company(self, node: Node, before: State, locks: ExitStack) -> list[tuple[Node, State]]:
        """Trainings of a node's shape that are still to be done and could be done now, as many as there are lanes for.

        Each is locked; one that another process is making is left to it.
        """
        from compressbench.training import lanes

        found: list[tuple[Node, State]] = []
        alike, shape = _without_refs(node), lanes.shape(before, node.stage)
        for other in self.plan.nodes:
            if len(found) == self.setting.context.lanes - 1:
                break
            taken = {node.key, *self._lost, *(n.key for n, _ in found)}
            if (
                other.key in taken
                or type(other.stage) is not type(node.stage)
                or _without_refs(other) != alike
            ):
                continue
            if self._facts(other) is not None or other.parent is None:
                continue
            needed = [n for n in lineage(self.plan.nodes, [other.name]) if n is not other]
            if any(hasattr(n.stage, "goes_in_lanes") and self._facts(n) is None for n in needed):
                continue
            try:
                state = self.state(other.parent)
            except UserError:  # said when its own turn comes
                continue
            if lanes.shape(state, other.stage) != shape:
                continue
            if locks.enter_context(self.store.attempt(other.key)) and self._facts(other) is None:
                found.append((other, state))
        return found

    def _making(self, node: Node, progress: Progress) -> _Making:
        """The surroundings of one stage at work."""
        told: list[str] = []

        def say(text: str) -> None:
            told.append(text)
            self.watcher.say(text)

        bench = replace(
            self.bench(),
            seed=node.seed,
            name=node.local,
            references={ref: self.state(ref) for ref in node.refs},
            checkpoints=self.store.checkpoints(node.key),
            checkpoint_seconds=self.setting.checkpoint_seconds,
            progress=progress,
            say=say,
        )
        return _Making(node, bench, told)

    def _kept_state(self, making: _Making, before: State | None, state: State, seconds: float) -> State:
        """Checks and stores what a stage made, and says what there is to say of it."""
        from compressbench.runs.flags import checked

        node, context = making.node, self.setting.context
        try:
            state = checked(before, state)
        except UserError as error:
            raise type(error)(f"stage {node.name}: {error}") from error
        self.store.save(
            node.key,
            state,
            {
                **self._provenance(node),
                "stage": node.spec,
                "versions": provenance.versions(),
                "machine": provenance.machine(context.device, context.threads),
                "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )
        self._known_facts[node.key] = dict(state.facts)
        self.store.drop_checkpoints(node.key)
        self.history.add(history_key(self.plan, node, context), seconds)
        known = before.facts.get("flags", []) if before else []
        for flag in state.facts.get("flags", []):
            if flag not in known and f"{node.local}: {flag}" not in making.told:
                self.watcher.say(f"{node.name}: {flag}")
        for name in state.facts.get("empty_layers", []):
            self.watcher.say(f"{node.name}: layer {name} is empty, nothing is left in it")
        return replace(state, key=node.key)

    def _measure(self, measure: Measure, probe: str) -> dict[str, Any]:
        built = specs.build(self.setting.probe(probe), f"evaluation.probes.{probe}")
        began = time.monotonic()
        with self.watcher.working(measure.state, f"{MEASURE}{probe}") as progress:
            bench = replace(self.bench(), name=f"probe {probe}", progress=progress)
            try:
                if measure.members:
                    pair = self._population(measure.members), self._population(measure.references)
                    metrics = [asdict(metric) for metric in built.measure_many(*pair, bench)]
                    if why := self._not_apart(measure.needs):
                        metrics = [{**m, "value": None, "note": why} for m in metrics]
                else:
                    subject, reference = self._view(measure.state), self._view(measure.reference)
                    metrics = [asdict(metric) for metric in built.measure(subject, reference, bench)]
            except UserError as error:
                raise UserError(f"probe {probe} on {measure.state}: {error}") from error
        self.history.add(f"probe {probe} {digest(self.setting.context.digest())}", time.monotonic() - began)
        context = self.setting.context
        return {
            "metrics": [_finite(m) for m in metrics],
            "provenance": {
                "versions": provenance.versions(),
                "machine": provenance.machine(context.device, context.threads),
                "dtype": self._dtype(self._nodes[measure.state]),
                "disturbed": any(is_disturbed(m["note"]) for m in metrics),
            },
        }

    def _dtype(self, node: Node) -> str:
        facts = self._known_facts.get(node.key) or (self._facts(node) or {}).get("facts", {})
        return str(facts.get("dtype", "fp32"))

    def _view(self, name: str) -> View:
        from compressbench.views import View

        key = (name, self._nodes[name].key)
        if key not in self._views:
            self._views[key] = View(self.state(name), self.bench(), name)
        return self._views[key]

    def _population(self, names: Sequence[str]) -> Population:
        from compressbench.populations import Member, Population

        return Population(
            [
                Member(
                    name,
                    self._nodes[name].seed,
                    functools.partial(self._predictions, name, LABELS),
                    functools.partial(self._predictions, name, LOG_PROBS),
                )
                for name in names
            ]
        )

    def _not_apart(self, names: Sequence[str]) -> str:
        """Why states of several seeds are no population, in words; empty where each is another net."""
        seen: dict[str, str] = {}
        for name in dict.fromkeys(names):
            node = self._nodes[name]
            body = self.store.read_facts(node.key, self._made_by(node))
            if body is None:
                continue
            net = digest([node.local, *(body[part] for part in ("model", "edits", "policies", "tensors"))])
            if net in seen:
                return f"no population: {name} is the very state of {seen[net]}, its weights don't depend on the seed"
            seen[net] = name
        return ""

    def _unanswered(self) -> set[str]:
        """Members of populations whose predictions are needed for a result that isn't in the store."""
        lacking = [
            m
            for m in self.plan.measures
            if m.members
            for p in self.probes_of(m)
            if self._lasting(m, p) is None
        ]
        return {name for m in lacking for name in m.needs}

    def missing_answers(self) -> list[str]:
        """Members of populations that must still be asked, in the plan's order."""
        needed = self._unanswered()
        return [n.name for n in self.plan.nodes if n.name in needed and self._lacking(n.name)]

    def _lacking(self, name: str) -> list[str]:
        """Which of a state's predictions are not in the store; log-probabilities of many classes are no loss."""
        few = len(self.setting.dataset.classes) <= self.setting.log_probs_up_to
        few = few and not getattr(self.setting.dataset.task, "streams", False)
        kept = (LABELS, LOG_PROBS) if few else (LABELS,)
        return [what for what in kept if self._kept(name, what) is None]

    def _answer(self, name: str) -> None:
        """Keeps what a state answers on the test split, asked by one process alone; it need not stay in memory then."""
        if not self._lacking(name):
            return
        first = self._predictions_key(name, LABELS)
        with self.store.lock(first, lambda: self.watcher.say(f"{name}: another process asks it for answers")):
            if not (lacking := self._lacking(name)):
                return
            began = time.monotonic()
            with self.watcher.working(name, f"{MEASURE}{ANSWERS}"):
                for what in lacking:
                    self.store.save_predictions(
                        self._predictions_key(name, what), {what: self._told(name, what)}
                    )
            self.history.add(
                f"probe {ANSWERS} {digest(self.setting.context.digest())}", time.monotonic() - began
            )

    def _predictions(self, name: str, what: str) -> Tensor:
        """A state's labels or log-probabilities on the test split, as kept.

        Raises:
            UserError: there are too many classes for log-probabilities to be kept.
            Incomplete: they could not be had.
        """
        classes = len(self.setting.dataset.classes)
        if what == LOG_PROBS and classes > self.setting.log_probs_up_to:
            raise UserError(
                f"log-probabilities of {classes:,} classes are not kept; set log_probs_up_to={classes} or more"
            )
        found = self._kept(name, what)
        if found is None:
            self._answer(name)
            found = self._kept(name, what)
        if found is None:
            raise Incomplete(f"{name}: its predictions could not be kept; run it again")
        return found

    def _told(self, name: str, what: str) -> Tensor:
        """What a state answers, as it is kept."""
        view = self._view(name)
        if what == LABELS:
            return packed_labels(view.answers, len(self.setting.dataset.classes))
        return view.log_probs.half()

    def _kept(self, name: str, what: str) -> Tensor | None:
        """What is in the store of a state's answers, None where there is nothing, or nothing whole."""
        dataset, key = self.setting.dataset, self._predictions_key(name, what)
        shape = len(dataset.split("test")), len(dataset.classes)
        try:
            tensors = self.store.load_predictions(key)
            if tensors is None:
                return None
            if what not in tensors:
                raise Damaged(f"{key} holds no {what}")
            return (unpacked_labels if what == LABELS else checked_log_probs)(tensors[what], *shape)
        except Damaged as error:
            self.watcher.say(f"{name}: its stored predictions are damaged and will be made again ({error})")
            if self.store.writable:
                self.store.discard_predictions(key)
            return None

    def _predictions_key(self, name: str, what: str) -> str:
        return predictions_key(self._nodes[name].key, self.setting.context, what)

    def _forget(self, done: set[str]) -> None:
        """Drops from memory what nothing later needs; the store has it."""
        later = [n for n in self.plan.nodes if n.name not in done]
        needed = {r for n in later for r in (*n.refs, *([n.parent] if n.parent else []))}
        needed |= {m.reference for m in self.plan.measures}
        self._states = {k: v for k, v in self._states.items() if k in needed}
        self._views = {k: v for k, v in self._views.items() if k[0] in needed}

    def _facts(self, node: Node) -> dict[str, Any] | None:
        try:
            body = self.store.read_facts(node.key, self._made_by(node))
            if body is not None:
                if any(node.name == m.state or node.name in m.members for m in self.plan.measures):
                    _check_facts(body["facts"])
                self._known_facts[node.key] = body["facts"]
            return body
        except Damaged as error:
            self._repair(node, error)
            return None

    def _load(self, node: Node) -> State | None:
        try:
            return self.stored(node)
        except Damaged as error:
            self._repair(node, error)
            return None

    def stored(self, node: Node) -> State | None:
        """A node's state from the store, None if it isn't there.

        Raises:
            Damaged: it is not what was written.
            UserError: it names what a state may not name; a store file is input, and may name no more than a config.
        """
        state = self.store.load(node.key, self._made_by(node))
        if state is not None:
            for place, spec in specs.walk([state.model, state.edits, state.policies]):
                check_target(
                    str(spec[specs.TARGET]),
                    self.setting.context.trusted,
                    f"{self.store.state_folder(node.key)} {place}",
                    IN_A_STATE,
                )
        return state

    def _provenance(self, node: Node) -> dict[str, Any]:
        parent = self._nodes[node.parent].key if node.parent else ""
        return {"name": node.name, "seed": node.seed, "parent": parent}

    def _made_by(self, node: Node) -> Callable[[Mapping[str, Any]], bool]:
        """Whether a provenance is this node's; as another seed's floor it bears a mark behind its name."""

        def same(told: Mapping[str, Any]) -> bool:
            name = str(told["name"]).partition("@")[0]
            return {**told, "name": name} == {**told, **self._provenance(node), "name": node.local}

        return same

    def _repair(self, node: Node, error: Damaged) -> None:
        self.watcher.say(f"{node.name}: the stored state is damaged and will be made again ({error})")
        if self.store.writable:
            self.store.discard(node.key)

    def _result(self, measure: Measure, probe: str) -> dict[str, Any] | None:
        key = self._result_key(measure, probe)
        try:
            found = self.store.load_result(key)
            if found is not None:
                _check_result(found)
                self._known_results[key] = found
            return found
        except Damaged as error:
            self.watcher.say(
                f"{measure.state}: the stored result of {probe} is damaged and will be made again ({error})"
            )
            if self.store.writable:
                self.store.discard_result(key)
            return None

    def _lasting(self, measure: Measure, probe: str) -> dict[str, Any] | None:
        """A stored result; none where its timings were disturbed, or are asked for anew, and this run hasn't yet."""
        found = self._result(measure, probe)
        if found is None or self._result_key(measure, probe) in self._measured:
            return found
        again = found["provenance"].get("disturbed") or (self.setting.retime and _holds_timings(found))
        return None if again else found

    def _result_key(self, measure: Measure, probe: str) -> str:
        asked = (measure.needs, len(measure.members), probe)
        if asked not in self._result_keys:
            self._result_keys[asked] = self._new_result_key(measure, probe)
        return self._result_keys[asked]

    def _new_result_key(self, measure: Measure, probe: str) -> str:
        spec = self.setting.probe(probe)
        return digest(
            {
                "probe": as_first_named(spec),
                "version": getattr(self._kind(probe), "VERSION", 1),
                "code": specs.sources_digest([spec, self.setting.target]),
                "subject": self._key_of(measure.members, measure.state),
                "reference": self._key_of(measure.references, measure.reference),
                "context": self.setting.context.digest(),
                "seed": self.setting.columns.seed,
                "target": as_first_named(self.setting.target),
                **self._files_of(probe),
            }
        )

    def _files_of(self, probe: str) -> dict[str, list[str]]:
        """The content of what a probe reads beside the data set; nothing where it reads nothing."""
        if probe not in self._read_by:  # gigabytes, at times
            self._read_by[probe] = self._read_files(probe)
        return self._read_by[probe]

    def _read_files(self, probe: str) -> dict[str, list[str]]:
        if not hasattr(self._kind(probe), "files"):
            return {}
        where = f"evaluation.probes.{probe}"
        paths = specs.build(self.setting.probe(probe), where).files()
        try:
            return {"files": [file_digest(given_path(p, where)) for p in paths]} if paths else {}
        except OSError as error:
            raise UserError(f"{where}: can't read {error.filename}: {error.strerror}") from error


@dataclass(frozen=True)
class _Making:
    """A stage at work.

    Attributes:
        told: what it said.
    """

    node: Node
    bench: Bench
    told: list[str]


def _fresh(top: Node, bench: Bench) -> State | None:
    """What a node begins with, where that is a draw and no work."""
    draws = getattr(type(top.stage), "DRAWS", False)
    return top.stage.apply(None, bench) if draws else None


def _without_refs(node: Node) -> Any:
    """A node's settings but for the states that they refer to."""
    return specs.map_refs(node.spec, lambda ref, many, _: "*")


def _check_facts(facts: Any) -> None:
    """Refuses a state's facts that no record could be made of.

    Raises:
        Damaged: the first such fact.
    """
    for name in ("density", "macs"):
        value = facts.get(name) if isinstance(facts, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Damaged(f"its {name} is {value!r}")


def _check_result(found: Mapping[str, Any]) -> None:
    """Refuses a result that no record could be made of.

    Raises:
        Damaged: what is wrong.
    """
    try:
        rows = [Metric(**row) for row in found["metrics"]]
        made = found["provenance"]
        texts = [made["dtype"], made["versions"], made["machine"]]
        texts += [t for m in rows for t in (m.name, m.unit, m.basis, m.group, m.note, m.artefact)]
        figures = [x for m in rows for x in (m.value, m.n) if x is not None]
    except (KeyError, TypeError) as error:
        raise Damaged(f"it is no list of metrics: {error}") from error
    if not all(isinstance(t, str) for t in texts) or not all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in figures
    ):
        raise Damaged("it is no list of metrics")


def _holds_timings(result: Mapping[str, Any]) -> bool:
    return any(is_timing(m["name"], m["unit"]) and m["basis"] == "measured" for m in result["metrics"])


def _finite(metric: dict[str, Any]) -> dict[str, Any]:
    value = metric["value"]
    if value is not None and not (value == value and abs(value) != float("inf")):
        note = f"{metric['note']}; " if metric["note"] else ""
        return {**metric, "value": None, "note": f"{note}not a finite number ({value})"}
    return {**metric, "value": None if value is None else float(value)}


def in_short(node: Node) -> str:
    """What a node's stage does, as it says it itself."""
    return node.stage.describe() if hasattr(node.stage, "describe") else type(node.stage).__name__


def history_key(plan: Plan, node: Node, context: Context) -> str:
    """What a stage's duration is filed under: the stage without its name, on the same model and machine setting."""
    top = node
    while top.parent:
        top = plan.node(top.parent)
    settings = {k: v for k, v in node.spec.items() if not isinstance(v, list)}
    return f"stage {digest([settings, top.spec, context.digest()])}"


class History:
    """How long things took, for the estimate; a loss of it costs nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.path = store.root / "history.json"

    def read(self) -> dict[str, float]:
        """Seconds by key, smoothed."""
        import json

        try:
            found = json.loads(self.path.read_bytes()) if self.path.is_file() else {}
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {
            k: float(v)
            for k, v in found.items()
            if isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf
        }

    def add(self, key: str, seconds: float) -> None:
        """One more duration: a moving average, so that one bad moment does not last."""
        old = self.read()
        old[key] = seconds if key not in old else 0.5 * (old[key] + seconds)
        with suppress(OSError):
            self.store.write_json(self.path, old)
