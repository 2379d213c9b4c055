"""Execution: each state and each probe's result is made once, kept, and never made again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compressbench import provenance, specs
from compressbench.bench import Bench, Progress, Silent
from compressbench.errors import UserError
from compressbench.plan import Context, Measure, Node, Plan
from compressbench.records import Metric, Record
from compressbench.store import Damaged, Store, digest

if TYPE_CHECKING:
    from compressbench.data.dataset import Dataset
    from compressbench.state import State
    from compressbench.views import View


@dataclass(frozen=True)
class Labels:
    """Columns that are the same in all records of a run."""

    recipe: str
    model: str
    dataset: str
    scale: str
    hardware: str
    seed: int


@dataclass(frozen=True)
class Setting:
    """All that executing a plan needs beside the plan; ``asked`` are probes of single moments only."""

    dataset: Dataset
    context: Context
    labels: Labels
    probes: Mapping[str, Mapping[str, Any]]
    target: Mapping[str, Any] | None
    checkpoint_seconds: float = 20.0
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def probe(self, name: str) -> Mapping[str, Any]:
        """The spec of a probe by name."""
        return self.probes[name] if name in self.probes else self.asked[name]


class Watcher:
    """Told what happens; the terminal's live view is one, this one is silent."""

    def working(self, name: str, words: str) -> AbstractContextManager[Progress]:
        """Called around each piece of work that is really done."""
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

    def missing_states(self) -> list[Node]:
        """Nodes whose state is not in the store (damaged ones are dropped here, and said)."""
        return [n for n in self.plan.nodes if self._facts(n) is None]

    def missing_results(self) -> list[tuple[Measure, str]]:
        """Pairs of a measure and a probe's name whose result is not in the store."""
        return [(m, p) for m in self.plan.measures for p in self.probes_of(m) if self._result(m, p) is None]

    def probes_of(self, measure: Measure) -> list[str]:
        """Names of the probes that a measure asks for, in the evaluation's order."""
        if measure.probes is None:
            return list(self.setting.probes)
        return [p for p in (*self.setting.probes, *self.setting.asked) if p in measure.probes]

    def run(self) -> Iterator[Record]:
        """Makes every state in order, measures each as soon as it and its reference are there; yields records.

        Records come in the order of the plan's measures whatever was in the store already.
        """
        waiting = list(self.plan.measures)
        done: set[str] = set()
        for node in self.plan.nodes:
            if self._facts(node) is None:
                self.state(node.name)
            done.add(node.name)
            for measure in [m for m in waiting if m.state in done and m.reference in done]:
                for probe in self.probes_of(measure):
                    self.result(measure, probe)
                waiting.remove(measure)
            self._forget(done)
        yield from self.records()

    def records(self) -> Iterator[Record]:
        """Records of all results that are in the store."""
        labels = asdict(self.setting.labels)
        for measure in self.plan.measures:
            body = self._facts(self._nodes[measure.state])
            for probe in self.probes_of(measure):
                result = self._result(measure, probe)
                if result is None or body is None:
                    continue
                facts, made = body["facts"], result["provenance"]
                for row in result["metrics"]:
                    metric = Metric(**row)
                    yield Record(
                        **labels,
                        series=measure.series,
                        moment=measure.moment,
                        state=measure.state,
                        order=measure.order,
                        density=facts["density"],
                        compute=float(facts["macs"]),
                        probe=probe,
                        metric=metric.name,
                        group=metric.group,
                        value=metric.value,
                        unit=metric.unit,
                        basis=metric.basis,
                        n=metric.n,
                        note=metric.note,
                        key=self._nodes[measure.state].key,
                        reference=self._nodes[measure.reference].key,
                        dtype=made["dtype"],
                        versions=made["versions"],
                        machine=made["machine"],
                        artefact=metric.artefact,
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
        found = self._result(measure, probe)
        if found is not None:
            return found
        key = self._result_key(measure, probe)
        with self.store.lock(
            key, lambda: self.watcher.say(f"{measure.state}: another process measures {probe}")
        ):
            found = self._result(measure, probe)
            if found is None:
                found = self._measure(measure, probe)
                self.store.save_result(key, found)
        return found

    def bench(self) -> Bench:
        """The bench that stages and probes get copies of; the first call imports torch."""
        if self._base is None:
            import torch

            from compressbench.allocator import keep_freed_memory
            from compressbench.tasks.classification import Classification

            context, dataset = self.setting.context, self.setting.dataset
            if context.device.startswith("cuda") and not torch.cuda.is_available():
                raise UserError(
                    f"hardware: device {context.device} asked for, but torch finds no GPU; try hardware=cpu"
                )
            torch.set_num_threads(context.threads)
            keep_freed_memory()
            target = specs.build(self.setting.target, "hardware.target") if self.setting.target else None
            task = Classification(dataset.classes, dataset.mean, dataset.std)
            self._base = Bench(dataset, task, self.setting.labels.seed, device=context.device, target=target)
        return self._base

    def _make(self, node: Node) -> State:
        bench = replace(
            self.bench(),
            seed=node.seed,
            name=node.local,
            references={ref: self.state(ref) for ref in node.refs},
            checkpoints=self.store.checkpoints(node.key),
            checkpoint_seconds=self.setting.checkpoint_seconds,
            say=self.watcher.say,
        )
        from compressbench.early import outlived

        before = self.state(node.parent) if node.parent else None
        words = node.stage.describe() if hasattr(node.stage, "describe") else type(node.stage).__name__
        with self.watcher.working(node.name, words) as progress:
            bench = replace(bench, progress=progress)
            began = time.monotonic()
            try:
                state = outlived(before, node.stage.apply(before, bench))
            except UserError as error:
                raise type(error)(f"stage {node.name}: {error}") from error
        context = self.setting.context
        self.store.save(
            node.key,
            state,
            {
                "name": node.name,
                "seed": node.seed,
                "stage": node.spec,
                "parent": self._nodes[node.parent].key if node.parent else "",
                "versions": provenance.versions(),
                "machine": provenance.machine(context.device, context.threads),
                "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )
        self.store.drop_checkpoints(node.key)
        self.history.add(history_key(self.plan, node, context), time.monotonic() - began)
        known = before.facts.get("flags", []) if before else []
        for flag in state.facts.get("flags", []):
            if flag not in known:
                self.watcher.say(f"{node.name}: {flag}")
        for name in state.facts.get("empty_layers", []):
            self.watcher.say(f"{node.name}: layer {name} is empty, nothing is left in it")
        return replace(state, key=node.key)

    def _measure(self, measure: Measure, probe: str) -> dict[str, Any]:
        built = specs.build(self.setting.probe(probe), f"evaluation.probes.{probe}")
        subject, reference = self._view(measure.state), self._view(measure.reference)
        words = f"measure {probe}"
        began = time.monotonic()
        with self.watcher.working(measure.state, words) as progress:
            bench = replace(self.bench(), name=f"probe {probe}", progress=progress)
            try:
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
                "dtype": subject.state.facts.get("dtype", "fp32"),
            },
        }

    def _view(self, name: str) -> View:
        from compressbench.views import View

        key = (name, self._nodes[name].key)
        if key not in self._views:
            self._views[key] = View(self.state(name), self.bench(), name)
        return self._views[key]

    def _forget(self, done: set[str]) -> None:
        """Drops from memory what nothing later needs; the store has it."""
        later = [n for n in self.plan.nodes if n.name not in done]
        needed = {r for n in later for r in (*n.refs, *([n.parent] if n.parent else []))}
        needed |= {m.reference for m in self.plan.measures}
        self._states = {k: v for k, v in self._states.items() if k in needed}
        self._views = {k: v for k, v in self._views.items() if k[0] in needed}

    def _facts(self, node: Node) -> dict[str, Any] | None:
        try:
            return self.store.read_facts(node.key)
        except Damaged as error:
            self._repair(node, error)
            return None

    def _load(self, node: Node) -> State | None:
        try:
            state = self.store.load(node.key)
        except Damaged as error:
            self._repair(node, error)
            return None
        if state is not None:  # a store file is input: it may name no more than a config may
            for place, spec in specs.walk([state.model, state.edits, state.policies]):
                specs.check_target(
                    str(spec[specs.TARGET]), self.setting.context.trusted, f"store {node.key} {place}"
                )
        return state

    def _repair(self, node: Node, error: Damaged) -> None:
        self.watcher.say(f"{node.name}: the stored state is damaged and will be made again ({error})")
        self.store.discard(node.key)

    def _result(self, measure: Measure, probe: str) -> dict[str, Any] | None:
        key = self._result_key(measure, probe)
        try:
            return self.store.load_result(key)
        except Damaged as error:
            self.watcher.say(
                f"{measure.state}: the stored result of {probe} is damaged and will be made again ({error})"
            )
            (self.store.root / "results" / f"{key}.json").unlink(missing_ok=True)
            return None

    def _result_key(self, measure: Measure, probe: str) -> str:
        spec = self.setting.probe(probe)
        kind = specs.locate(str(spec[specs.TARGET]), f"evaluation.probes.{probe}")
        return digest(
            {
                "probe": spec,
                "version": getattr(kind, "VERSION", 1),
                "code": specs.sources_digest([spec, self.setting.target]),
                "subject": self._nodes[measure.state].key,
                "reference": self._nodes[measure.reference].key,
                "context": self.setting.context.digest(),
                "seed": self.setting.labels.seed,
                "target": self.setting.target,
            }
        )


def _finite(metric: dict[str, Any]) -> dict[str, Any]:
    value = metric["value"]
    if value is not None and not (value == value and abs(value) != float("inf")):
        note = f"{metric['note']}; " if metric["note"] else ""
        return {**metric, "value": None, "note": f"{note}not a finite number ({value})"}
    return {**metric, "value": None if value is None else float(value)}


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
            found = json.loads(self.path.read_bytes())
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    def add(self, key: str, seconds: float) -> None:
        """One more duration: a moving average, so that one bad moment does not last."""
        old = self.read()
        old[key] = seconds if key not in old else 0.5 * (old[key] + seconds)
        self.store.write_json(self.path, old)
