"""What the user sees while a run works: the plan, live progress on a terminal or a line a state, then the tables."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from compressbench.bench import Progress, Silent
from compressbench.cli.left import Left
from compressbench.console import clean_line, console
from compressbench.data.load import remarks
from compressbench.runs.execute import MEASURE, Executor, Watcher, in_short

if TYPE_CHECKING:
    from rich.console import Console

    from compressbench.records import Records
    from compressbench.runs.experiment import Experiment
    from compressbench.runs.plan import Node


WIDE = 90
"""Columns from which the live line has room for a bar and all figures."""


class Terminal(Watcher):
    """Live where output goes to a terminal; elsewhere a line for each state that is made and one when it is measured."""

    def __init__(self, to: Console | None = None) -> None:
        self.console = to or console()
        self.left = Left({})
        self.measured = ""

    def say(self, text: str) -> None:
        """A sentence for the user."""
        self.console.print(text, soft_wrap=True)

    def plan(self, ready: Experiment) -> None:
        """Stages with what the store has of each, and the time the rest will take."""
        from compressbench.runs.experiment import unmeasured

        columns = ready.setting.columns
        executor = Executor(ready.plan, ready.store, ready.setting, self)
        missing = {n.name for n in executor.missing_states()}
        results = executor.missing_results()
        total = sum(len(executor.probes_of(m)) for m in ready.plan.measures)
        self.say(
            f"{columns.recipe}: {columns.model} on {columns.dataset}, scale {columns.scale}, seed {columns.seed}, "
            f"hardware {columns.hardware}"
        )
        for remark in remarks(ready.setting.dataset):
            self.say(f"{columns.dataset}: {remark}")
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("state")
        table.add_column("stage", overflow="fold")
        table.add_column("stored", justify="right", no_wrap=True)
        for pattern, nodes in grouped(list(ready.plan.nodes)).items():
            have = sum(n.name not in missing for n in nodes)
            table.add_row(pattern, words(nodes), f"{have}/{len(nodes)}")
        used = {p for m in ready.plan.measures for p in executor.probes_of(m)}
        names = [p for p in (*ready.setting.probes, *ready.setting.asked) if p in used]
        table.add_row("probes", ", ".join(names), f"{total - len(results)}/{total}")
        self.console.print(table)
        silent = {name: why for name, why in unmeasured(ready).items() if name in used}
        for why in dict.fromkeys(silent.values()):
            self.say(f"not measured: {', '.join(n for n, w in silent.items() if w == why)}: {why}")
        if not ready.plan.measures:
            self.say(
                "recipe.compare names no series: states are made and kept, nothing is measured or reported"
            )
        if missing or results:
            from compressbench.runs.estimate import expected, sentence

            answers = executor.missing_answers()
            pieces = expected(ready, executor, missing, results, answers)
            self.left = Left(pieces)
            self.say(sentence(ready, pieces, len(missing), len(results) + len(answers)))
        else:
            self.say("everything is in the store already")

    @contextlib.contextmanager
    def working(self, name: str, words: str) -> Iterator[Progress]:
        """A live line for one piece of work, or a line of its own where there is no terminal."""
        piece, began = (name, words), time.monotonic()
        number = self.left.begin(piece)
        if self.console.is_terminal:
            with self._live(clean_line(f"{number} {name}: {words}"), began) as progress:
                yield progress
        else:
            measuring = words.startswith(MEASURE)
            if not measuring or name != self.measured:
                self.say(
                    clean_line(f"{number} {name}: {'measure' if measuring else words}")
                    + _more(self.left.words())
                )
            self.measured = name if measuring else ""
            yield Silent()
        self.left.end(piece, time.monotonic() - began)

    @contextlib.contextmanager
    def _live(self, text: str, began: float) -> Iterator[Progress]:
        from rich.markup import escape
        from rich.progress import BarColumn, ProgressColumn, TextColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        wide = self.console.width >= WIDE
        what = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        rest = Column(no_wrap=True, overflow="ellipsis")
        columns: list[ProgressColumn] = [TextColumn("{task.description}", table_column=what)]
        columns += [BarColumn(bar_width=12)] if wide else []
        columns += [TextColumn("{task.fields[figures]}", table_column=rest)]
        columns += [TextColumn("{task.fields[left]}", table_column=rest)]
        with Bars(*columns, console=self.console, transient=True, expand=True) as bars:
            task = bars.add_task(escape(text), total=None, figures="", left=self.left.words())
            words = self.left.words

            class Live:
                def step(self, done: int, total: int, **figures: float) -> None:
                    shown = [f"{k} {v:.4g}" for k, v in figures.items()] if wide else []
                    left = words(time.monotonic() - began, done / total if total else 0.0)
                    text = " ".join((f"{done}/{total}", *shown))
                    bars.update(task, completed=done, total=total, figures=text, left=left)

            yield Live()

    def finish(self, records: Records, path: Path) -> None:
        """Tables and where the report is."""
        from compressbench.report.terminal import print_tables

        print_tables(records, self.console)
        self.say(f"report: {path}")


def _more(left: str) -> str:
    return f", {left}" if left else ""


def grouped(nodes: list[Node]) -> dict[str, list[Node]]:
    """Nodes under one line each: the same name but for numbers, e.g. ``level1-4.retrain``."""
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        name = re.sub(r"(?<=@seed)\d+$", "*", node.name)
        groups.setdefault(re.sub(r"(?<=[A-Za-z])\d+(?=\.)|_[^.]*\d[^.]*(?=\.)", "*", name), []).append(node)
    return {(pattern if len(found) > 1 else found[0].name): found for pattern, found in groups.items()}


def words(nodes: list[Node]) -> str:
    """What a group of nodes does, as its first one says it."""
    kinds = [in_short(n) for n in nodes]
    return (
        kinds[0]
        if len(set(kinds)) == 1
        else re.sub(r"(?<=[A-Za-z])\d+(?=\.)", "*", kinds[0]) + (" …" if len(nodes) > 1 else "")
    )
