"""Recipes: planned at every scale, run twice from nothing and once from the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressbench.checking.probes import check_metric, lasting
from compressbench.checking.states import check_json, check_state, states_differ
from compressbench.checking.traces import Unfit, differs, twice
from compressbench.records import Metric, Record, Records
from compressbench.report.published import BASIS as PUBLISHED
from compressbench.runs.execute import Watcher
from compressbench.runs.experiment import Experiment, execute, prepare
from compressbench.runs.plan import Context, Plan, make
from compressbench.specs.trust import prefixes

METRIC = ("value", "unit", "basis", "n", "group", "note", "artefact")
Compose = Callable[[str], Mapping[str, Any]]
"""From a scale's name to the recipe's resolved config at it."""


class Forbidden(Watcher):
    """Of a run of which all is in the store: no work is to be done."""

    def working(self, name: str, words: str) -> Any:
        """Refuses it.

        Raises:
            Unfit: always.
        """
        raise Unfit(f"{name} is made again on a store that holds it ({words})")


def check_recipe(name: str, composed: Compose, scales: tuple[str, ...], folder: Path) -> Records:
    """A recipe's records: planned at all scales, run twice at ``smoke`` below ``folder``, and once more from the store.

    Raises:
        Unfit: it can't be planned or repeated, or what it leaves is not sound.
    """
    for scale in scales:
        plan = planned(composed(scale))
        if not plan.measures:
            raise Unfit(f"scale={scale}: compare names no series; nothing would be measured")
    config = dict(composed("smoke"))
    if config["recipe"].get("name") != name:
        raise Unfit(
            f"its name is {config['recipe'].get('name')!r}; name: {name} is wanted, as its file is called"
        )
    folders = iter((folder / "a", folder / "b"))

    def run() -> tuple[Experiment, Records]:
        ready = prepare({**config, "outputs": str(next(folders))})
        return ready, execute(ready, Watcher(), [])

    experiment, records = twice(run, "bench.generator('…')", runs_differ)
    check_run(experiment, records)
    warm = prepare({**config, "outputs": str(folder / "a")})
    if list(execute(warm, Forbidden(), [])) != list(records):
        raise Unfit("its records from the store are others than those of the run that filled it")
    return records


def planned(config: Mapping[str, Any]) -> Plan:
    """The plan of a resolved config, whatever its data.

    Raises:
        UserError: a stage, a setting or a reference is wrong.
    """
    return make(config["recipe"], 0, Context("", "cpu", 1, prefixes(config.get("trust"))))


def check_run(experiment: Experiment, records: Records) -> None:
    """That all states of a run are sound, and all its records of the declared form.

    Raises:
        Unfit: naming the state or the record.
    """
    for node in experiment.plan.nodes:
        state = experiment.store.load(node.key)
        if state is None:
            raise Unfit(f"{node.name} is not in the store after the run")
        try:
            check_state(state)
        except Unfit as error:
            raise Unfit(f"{node.name}: {error}") from error
    for record in records:
        check_json(asdict(record), f"a record of {record.state}")
        if record.basis != PUBLISHED:  # somebody else's figure, beside ours
            check_metric(Metric(record.metric, **{name: getattr(record, name) for name in METRIC}))


def runs_differ(one: tuple[Experiment, Records], other: tuple[Experiment, Records]) -> str:
    """Where two runs of a recipe differ: keys, states bit by bit, records but for timings; empty where they don't."""
    (first, records), (second, again) = one, other
    keys = [[(n.name, n.key) for n in e.plan.nodes] for e in (first, second)]
    if found := differs(keys[0], keys[1]):
        return f"keys ({found})"
    for name, key in keys[0]:
        states = [e.store.load(key) for e in (first, second)]
        if states[0] is None or states[1] is None:
            return f"whether {name} was stored"
        if found := states_differ(states[0], states[1]):
            return f"{name} ({found})"
    rows = [[plain(row) for row in lasting(table)] for table in (records, again)]
    if len(rows[0]) != len(rows[1]):
        return "how many records there are"
    for a, b in zip(*rows, strict=True):
        if a != b:
            return f"{a['metric']} of {a['state']}{', ' if a['group'] else ''}{a['group']}"
    return ""


def plain(record: Record) -> dict[str, Any]:
    """A record without what two runs can't share: the value of a timing, and notes on how busy the machine was."""
    row = asdict(record)
    return {**row, "value": None, "note": "", "n": 0} if record.is_timing else row
