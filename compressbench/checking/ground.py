"""What parts are tried on: a small net on small data, trained for a moment, and one of which half is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressbench import specs
from compressbench.bench import Bench
from compressbench.checking.criteria import check_criterion
from compressbench.checking.probes import check_probe
from compressbench.checking.states import check_stage, check_words
from compressbench.checking.targets import check_target
from compressbench.checking.traces import Unfit, alone, differs, twice
from compressbench.data.dataset import Dataset
from compressbench.models.draw import drawn
from compressbench.runs.plan import Context, Node, make
from compressbench.stages.prune import Prune
from compressbench.state import State

TRIED, INIT, DENSE, PRUNED = "tried", "init", "dense", "pruned"
SHORT = "3it"
BATCH = 32


@dataclass(frozen=True)
class Ground:
    """What parts are tried on.

    Attributes:
        bench: on the data that come with the package.
        before: the specs of the stages that made ``states``.
        states: ``init``, ``dense`` (trained a moment) and ``pruned`` (half of it gone).
        trusted: import prefixes of the user's own code.
        folder: an empty one, for stores.
    """

    bench: Bench
    before: Mapping[str, Any]
    states: Mapping[str, State]
    trusted: tuple[str, ...]
    folder: Path

    @property
    def context(self) -> Context:
        """Of plans on this data."""
        return Context(self.bench.dataset.fingerprint, "cpu", 1, self.trusted)


def ground(dataset: Dataset, model: Mapping[str, Any], trusted: tuple[str, ...], folder: Path) -> Ground:
    """Makes what parts are tried on: ``model`` drawn, trained for some iterations, and pruned.

    Raises:
        UserError: the model doesn't fit the data, or can't be trained.
    """
    stages = before(model)
    context = Context(dataset.fingerprint, "cpu", 1, trusted)
    states: dict[str, State] = {}
    for node in make({"stages": stages}, 0, context).nodes:
        bench = Bench(dataset, 0, node.name, say=lambda text: None)
        states[node.name] = node.stage.apply(states.get(node.parent or ""), bench)
    return Ground(Bench(dataset, 0, say=lambda text: None), stages, states, trusted, folder)


def before(model: Mapping[str, Any]) -> dict[str, Any]:
    """The stages that make it, as in a recipe."""
    own = "compressbench"
    return {
        INIT: {specs.TARGET: f"{own}.stages.init.Init", "model": model},
        DENSE: {
            specs.TARGET: f"{own}.stages.train.Train", "length": SHORT, "batch_size": BATCH, "lr": 0.05,
            "optimizer": {specs.TARGET: "torch.optim.SGD", specs.PARTIAL: True},
        },
        PRUNED: {specs.TARGET: f"{own}.stages.prune.Prune", "criterion": "magnitude", "fraction": 0.5},
    }  # fmt: skip


def check_part(spec: Mapping[str, Any], on: Ground) -> str:
    """Tries a stage: its spec as it would stand in a recipe behind the others; of a criterion the scores too.

    It continues the dense net, or the pruned one where it says ``from: pruned``. Returns what else there is to say.

    Raises:
        UserError: its spec is refused, or the first rule that it breaks.
    """
    whole = {**on.before, TRIED: spec if spec.get("from") else {**spec, "from": DENSE}}
    nodes = [n for n in make({"stages": whole}, 0, on.context).nodes if n.name not in on.before]
    states = dict(on.states)
    for node in nodes:
        states[node.name] = _made(node, states, on)
    return ""


def _made(node: Node, states: Mapping[str, State], on: Ground) -> State:
    references = {name: states[name] for name in node.refs}
    bench = replace(alone(on.bench), name=node.local, references=references)
    start = states[node.parent] if node.parent else None
    if isinstance(node.stage, Prune) and start is not None:
        check_words(node.stage)
        dense = {n: start.weights[n] for n in start.facts["prunable"]}
        moved = {n: w * on.states[INIT].weights[n] for n, w in dense.items() if n in on.states[INIT].weights}
        check_criterion(node.stage.criterion, start.with_groups(movement=moved), bench)
        start = start.with_groups(movement=moved)
    return check_stage(node.stage, start, bench, on.folder)


def check_own_probe(spec: Mapping[str, Any], on: Ground) -> str:
    """Tries a probe on the pruned net beside the dense one.

    Raises:
        UserError: its spec is refused, or the first rule that it breaks.
    """
    specs.check(spec, "", on.trusted, parts=("probes",))
    found = check_probe(
        specs.build(spec), on.states[PRUNED], on.states[DENSE], replace(on.bench, name="probe")
    )
    return f"{len(found)} metrics"


def check_own_target(spec: Mapping[str, Any], on: Ground) -> str:
    """Tries a hardware target on the pruned net beside the dense one.

    Raises:
        UserError: its spec is refused, or the first rule that it breaks.
    """
    specs.check(spec, "", on.trusted, parts=("hardware",))
    return check_target(specs.build(spec), on.states[PRUNED], on.states[DENSE], on.bench)


def check_model(model: Mapping[str, Any], dataset: Dataset, trusted: tuple[str, ...], folder: Path) -> str:
    """Tries a model on a data set: drawn twice, trained for some iterations, pruned.

    Raises:
        UserError: its spec is refused, it doesn't fit the data, or the first rule that it breaks.
    """
    stages = before(model)
    nodes = make({"stages": stages}, 0, Context(dataset.fingerprint, "cpu", 1, trusted)).nodes
    bench = Bench(dataset, 0, INIT, say=lambda text: None)
    twice(
        lambda: drawn(nodes[0].stage.model, bench),
        "torch's global generator in __init__, which is seeded for you, alone",
        _drawn,
    )
    states: dict[str, State] = {}
    for node in nodes:
        here = Bench(dataset, 0, node.name, say=lambda text: None)
        states[node.name] = check_stage(node.stage, states.get(node.parent or ""), here, folder)
    return f"{sum(w.numel() for w in states[INIT].weights.values()):,} parameters on {dataset.name}"


def _drawn(one: State, other: State) -> str:
    return differs(dict(one.tensors), dict(other.tensors))


def missing(spec: Any, key: str) -> Any:
    """What stands in for a setting that a YAML leaves open (``???``): a state for a reference, a short length.

    Args:
        spec: the spec that it is a setting of.

    Raises:
        Unfit: nothing is known that could.
    """
    seen = specs.signature(str(spec.get(specs.TARGET))) if specs.is_spec(spec) else None
    annotation = seen.parameters[key].annotation if seen and key in seen.parameters else ""
    if "Ref" in annotation:
        return [INIT, DENSE] if "tuple" in annotation else INIT
    if key == "length":
        return SHORT
    raise Unfit(
        f"{key}: ??? is no value to try it with; --set {key}=VALUE gives one, or a recipe of yours tries it"
    )
