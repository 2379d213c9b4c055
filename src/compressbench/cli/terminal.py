"""What the user sees while a run works: the plan, live progress on a terminal, then the tables."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from compressbench.bench import Progress, Silent
from compressbench.console import clean_line, console
from compressbench.execute import Executor, Watcher

if TYPE_CHECKING:
    from rich.console import Console

    from compressbench.experiment import Experiment
    from compressbench.plan import Node
    from compressbench.records import Records


class Terminal(Watcher):
    """Live where output goes to a terminal, quiet otherwise (the plan, sentences and tables stay)."""

    def __init__(self, to: Console | None = None) -> None:
        self.console = to or console()
        self.todo = 0
        self.done = 0

    def say(self, text: str) -> None:
        """A sentence for the user."""
        self.console.print(text, soft_wrap=True)

    def plan(self, ready: Experiment) -> None:
        """Stages with what the store has of each, and the time the rest will take."""
        labels = ready.setting.labels
        executor = Executor(ready.plan, ready.store, ready.setting, self)
        missing = {n.name for n in executor.missing_states()}
        results = executor.missing_results()
        total = sum(len(executor.probes_of(m)) for m in ready.plan.measures)
        self.todo = len(missing) + len(results)
        self.say(
            f"{labels.recipe}: {labels.model} on {labels.dataset}, scale {labels.scale}, seed {labels.seed}, "
            f"hardware {labels.hardware}"
        )
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("state")
        table.add_column("stage", overflow="fold")
        table.add_column("stored", justify="right", no_wrap=True)
        for pattern, nodes in grouped(list(ready.plan.nodes)).items():
            have = sum(n.name not in missing for n in nodes)
            table.add_row(pattern, words(nodes), f"{have}/{len(nodes)}")
        names = ", ".join((*ready.setting.probes, *ready.setting.asked))
        table.add_row("probes", names, f"{total - len(results)}/{total}")
        self.console.print(table)
        if self.todo:
            from compressbench.estimate import estimate

            self.say(estimate(ready, executor, missing, results))
        else:
            self.say("everything is in the store already")

    @contextlib.contextmanager
    def working(self, name: str, words: str) -> Iterator[Progress]:
        """A live line for one piece of work."""
        self.done += 1
        if not self.console.is_terminal:
            yield Silent()
            return
        from rich.markup import escape
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        text = escape(clean_line(f"[{self.done}/{self.todo}] {name}: {words}"))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
        )
        with Bars(*columns, TimeRemainingColumn(), console=self.console, transient=True) as bars:
            task = bars.add_task(text, total=None, figures="")

            class Live:
                def step(self, done: int, total: int, **figures: float) -> None:
                    shown = f"{done}/{total} " + " ".join(f"{k} {v:.4g}" for k, v in figures.items())
                    bars.update(task, completed=done, total=total, figures=shown)

            yield Live()

    def finish(self, records: Records, path: Path) -> None:
        """Tables and where the report is."""
        from compressbench.report.terminal import print_tables

        print_tables(records, self.console)
        self.say(f"report: {path}")


def grouped(nodes: list[Node]) -> dict[str, list[Node]]:
    """Nodes under one line each: the same name but for numbers, e.g. ``level1-4.retrain``."""
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(re.sub(r"(?<=[A-Za-z])\d+(?=\.)|_[^.]*\d[^.]*(?=\.)", "*", node.name), []).append(
            node
        )
    return {(pattern if len(found) > 1 else found[0].name): found for pattern, found in groups.items()}


def words(nodes: list[Node]) -> str:
    """What a group of nodes does, as its first one says it."""
    kinds = [n.stage.describe() if hasattr(n.stage, "describe") else type(n.stage).__name__ for n in nodes]
    return (
        kinds[0]
        if len(set(kinds)) == 1
        else re.sub(r"(?<=[A-Za-z])\d+(?=\.)", "*", kinds[0]) + (" …" if len(nodes) > 1 else "")
    )
