"""What kinds of work a plan holds: pieces that run the same code on states of the same form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from compressbench import specs
from compressbench.runs.execute import Executor
from compressbench.runs.plan import Measure, Node, Plan
from compressbench.stages.init import Init
from compressbench.stages.rewind import LearningRate, Reinit, Weights
from compressbench.stages.train import Train

VALUES = (Init, Train, Weights, LearningRate, Reinit)
"""Stages that give a net other values and leave its form."""


def groups(path: Path) -> frozenset[str]:
    """What a recipe's file composes: the groups of its defaults, wherever it puts them, ``stage/prune`` for one."""
    listed = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
    found = [group for item in listed if isinstance(item, dict) for group in item]
    return frozenset(group.removeprefix("override ").partition("@")[0] for group in found)


def covering(paths: Iterable[Path]) -> list[str]:
    """Names of recipes that together use all groups that any does: again and again the one with most that is new."""
    all_of = {path.stem: groups(path) for path in sorted(paths)}
    left, chosen = set().union(*all_of.values()), []
    while left:
        chosen.append(max(all_of, key=lambda name: len(all_of[name] & left)))
        left -= all_of[chosen[-1]]
    return sorted(chosen)


def skeleton(value: Any) -> Any:
    """A setting without its numbers, also those in texts; 0 is kept apart, for it turns things off."""
    if isinstance(value, Mapping):
        return {str(k): skeleton(v) for k, v in value.items() if k != "name"}
    if isinstance(value, list | tuple):
        inner = [skeleton(v) for v in value]
        return [v for i, v in enumerate(inner) if v not in inner[:i]]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return "#" if value else "0"
    return re.sub(r"\A[\d./]+(it|ep)?\Z", "#", str(value))


def of_spec(spec: Mapping[str, Any]) -> str:
    """A spec's kind: import paths, words and switches, not the names of states nor the sizes of numbers."""
    bare = specs.map_refs(dict(spec), lambda ref, many, _: ["state"] if many else "state")
    return json.dumps(skeleton(bare), sort_keys=True)


def lineage(plan: Plan, name: str) -> list[Node]:
    """The nodes that a state came through, its own first."""
    out = [plan.node(name)]
    while out[-1].parent:
        out.append(plan.node(out[-1].parent))
    return out


def net(node: Node) -> str:
    """The import path of the net that a first stage draws; empty where it draws none itself."""
    return str(((node.spec.get("model") or {}).get("build") or {}).get(specs.TARGET, ""))


def form(plan: Plan, name: str | None) -> str:
    """What a state is made of: the net that it began as, and the classes of the stages that changed its form."""
    if name is None:
        return "nothing"
    nodes = lineage(plan, name)
    return f"{net(nodes[-1])} {sorted({type(n.stage).__name__ for n in nodes if not isinstance(n.stage, VALUES)})}"


def of_stage(plan: Plan, node: Node) -> str:
    """A stage's kind: its spec's, and the form of what it continues."""
    return f"stage {of_spec(node.spec)} on {form(plan, node.parent)}"


def of_probe(plan: Plan, measure: Measure, spec: Mapping[str, Any]) -> str:
    """A measurement's kind: its probe's, and the form of what it measures."""
    return f"probe {of_spec(spec)} on {form(plan, measure.state)}"


def of_estimate(plan: Plan, node: Node) -> str:
    """The kind of a training whose time is guessed from a trial: how each iteration goes, and with which net."""
    stage = node.stage
    parts = {"objective": stage.objective, "reparametrise": stage.reparametrise, "stepper": stage.stepper}
    return f"estimate {of_spec(parts)} of {net(lineage(plan, node.name)[-1])}"


def stages(plan: Plan) -> Iterator[tuple[str, Node]]:
    """Each state to be, behind its kind."""
    return ((of_stage(plan, node), node) for node in plan.nodes)


def probes(executor: Executor) -> Iterator[tuple[str, Measure, str]]:
    """Each measurement, as its kind, its measure and its probe's name."""
    for measure in executor.plan.measures:
        for probe in executor.probes_of(measure):
            yield of_probe(executor.plan, measure, executor.setting.probe(probe)), measure, probe


def trainings(plan: Plan) -> Iterator[tuple[str, Node]]:
    """Each training, behind the kind of its estimate."""
    return ((of_estimate(plan, node), node) for node in plan.nodes if isinstance(node.stage, Train))
