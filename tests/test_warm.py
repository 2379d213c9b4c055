"""A run that an earlier version stored (60753dd, before examples and tasks were nouns): nothing of it is made again.

``fixtures/warm`` holds its recipe, its store and ``run.json``: keys of its states, and its figures as they were then.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compressbench.cli.run import composed
from compressbench.runs.execute import Executor, Watcher
from compressbench.runs.experiment import Experiment, prepare
from compressbench.state import State
from compressbench.store import Store

HERE = Path(__file__).parent / "fixtures" / "warm"
PROBES = ("accuracy", "exits")
"""Those of the stored run whose VERSION is what it was; loyalty, forgetting and robustness measure more since."""
SETTINGS = ["+model.build.width=2"]


def ready_in(outputs: Path) -> Experiment:
    given = ["recipe=warm", "scale=smoke", "evaluation=none", "model=resnet8", "hardware=cpu1"]
    given += [f"+probe@evaluation.probes.{p}={p}" for p in PROBES]
    return prepare(composed([*given, *SETTINGS, f"outputs={outputs}"], str(HERE)))


def told() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "run.json").read_text())
    return found


def test_states_have_the_keys_that_they_had(tmp_path: Path) -> None:
    assert {n.name: n.key for n in ready_in(tmp_path).plan.nodes} == told()["keys"]


def test_nothing_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(HERE / "store", tmp_path / "store")
    ready = ready_in(tmp_path)

    def refused(self: Any, key: str, *_: Any) -> None:
        raise AssertionError(f"{key} is made again")

    monkeypatch.setattr(Store, "save", refused)
    monkeypatch.setattr(Store, "save_result", refused)
    rows = Executor(ready.plan, ready.store, ready.setting, Watcher()).run()
    assert [[r.series, r.state, r.probe, r.metric, r.group, r.value, r.n] for r in rows] == [
        row for row in told()["figures"] if row[2] in PROBES
    ]


def test_stages_go_on_from_what_was_stored(tmp_path: Path) -> None:
    """What is exact on every processor, made anew from the stored states: the draw, the mask, the few examples."""
    shutil.copytree(HERE / "store", tmp_path / "store")
    ready = ready_in(tmp_path)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    stored = {n.name: executor.state(n.name) for n in ready.plan.nodes}
    bench = executor.bench()
    for name in ("init", "cut", "few"):
        node = ready.plan.node(name)
        before: State | None = stored[node.parent] if node.parent else None
        made = node.stage.apply(before, replace(bench, name=node.local, seed=node.seed))
        for group, named in stored[name].tensors.items():
            assert made.group(group).keys() == named.keys()
            assert all(torch.equal(t, made.group(group)[n]) for n, t in named.items()), (name, group)
