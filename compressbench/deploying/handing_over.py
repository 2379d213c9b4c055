"""Handing a state over: its files written, checked against the state on the whole test split, and a card beside them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.deploying.card import LOAD
from compressbench.errors import UserError

if TYPE_CHECKING:
    from compressbench.deploying.card import Checked, Decoded
    from compressbench.hardware.exported import Run
    from compressbench.runs.experiment import Experiment
    from compressbench.runs.plan import Node
    from compressbench.views import View

FORMS = tuple(LOAD)
"""The names of ``exporting.FORMS``, without torch."""
LEAST_AGREEMENT = 90.0


def export(ready: Experiment, view: View, node: Node, form: str, folder: Path, run: Path) -> str:
    """Writes a state's files and card; returns what is to be said of them.

    Raises:
        UserError: a missing package, a net that the form can't hold, a folder with another state's tokenizer, or what was
            written doesn't do what the state does (it is deleted again).
    """
    from compressbench.deploying.card import card
    from compressbench.deploying.exporting import FORMS as WRITERS
    from compressbench.hardware.exits import without_exits
    from compressbench.runs.finished import records_of

    if view.leaves_early:
        raise UserError(
            f"export: {node.name} leaves early by a policy, which one file can't hold; export the state before its "
            "exits/choose stage, which answers by the last exit"
        )
    if hasattr(view.module, "at_once"):  # see models.nat
        raise UserError(
            f"export: {node.name} tells a length first and says as many tokens then, which is no single forward; nets "
            "that answer by one, or write token by token, can be exported"
        )
    if hasattr(view.bench.task, "said") and not hasattr(view.bench.task, "decoding"):
        raise UserError(
            f"export: what {node.name} says is decoded, and its task has no decoding(), lines of Python that do so with "
            "an exported file"
        )
    beside = _beside(view, folder)  # before anything is written
    view = without_exits(view)
    folder.mkdir(parents=True, exist_ok=True)
    sample = view.bench.task.encode(view.bench.feed("test").head(8))
    stem = folder / node.name.replace("/", "_")
    try:
        paths, compute, runtime = WRITERS[form](view, stem, sample)
    except UserError:
        with contextlib.suppress(OSError):  # not empty: the user's own
            folder.rmdir()
        raise
    checked = check(view, compute, runtime)
    if not checked.agreement >= LEAST_AGREEMENT:
        for path in paths:
            path.unlink(missing_ok=True)
        raise UserError(
            f"export: {runtime} and the state name the same class for only {checked.agreement:.1f} % of "
            f"{checked.n} test {checked.noun}s; what was written is deleted again"
        )
    for path, content in beside.items():
        path.write_bytes(content)
    files = {p.name: p.stat().st_size for p in paths}
    text = card(
        f"{node.name} of {ready.setting.columns.recipe}",
        form,
        files,
        lineage(ready, node),
        facts(ready),
        ready.dataset,
        [r for r in records_of(run) if r.key == node.key],
        checked,
    )
    about = stem.with_name(f"{stem.name}.{form}.md")
    about.write_text(text, encoding="utf-8")
    return (
        f"{paths[0]}  {sum(files.values()):,} bytes; {checked.runtime}: {checked.top1:.2f} % of {checked.n} test "
        f"{checked.noun}s (state {checked.simulated:.2f} %), same class for {checked.agreement:.2f} %\n{about}"
    )


def _beside(view: View, folder: Path) -> dict[Path, bytes]:
    """What a task's examples can't be encoded without, as a tokenizer: contents of the files that the folder lacks.

    Raises:
        UserError: the folder holds another file of the name, or a link, through which nothing is written.
    """
    contents: Any = getattr(view.bench.task, "beside", dict)()
    files = {folder / name: content for name, content in contents.items()}
    for path, content in files.items():
        if path.is_symlink():
            raise UserError(
                f"export: {path} is a link, through which nothing is written; choose another --output folder"
            )
        if path.exists() and not (path.is_file() and path.read_bytes() == content):
            raise UserError(
                f"export: {path} is another one than this state's; choose another --output folder"
            )
    return {path: content for path, content in files.items() if not path.exists()}


def write_examples(view: View, folder: Path, node: Node) -> Path:
    """The test split, to check with: its columns (of pictures ``images``, uint8) and ``labels`` as ``NAME.test.npz``.

    Of texts ``NAME.test.jsonl``: an object a line, with the texts and the name of the label.
    """
    import numpy

    split, task = view.bench.dataset.splits["test"], view.bench.task
    if hasattr(task, "texts"):
        columns = dict(task.texts(split))
        if split.labels.ndim == 1:
            columns["label"] = [task.classes[k] for k in split.labels.tolist()]
        lines = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        path = folder / f"{node.name.replace('/', '_')}.test.jsonl"
        path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), "utf-8")
        return path
    path = folder / f"{node.name.replace('/', '_')}.test.npz"
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in split.tensors().items()}
    numpy.savez_compressed(path, **arrays)
    return path


def check(view: View, compute: Run, runtime: str) -> Checked:
    """Runs what was written on the whole test split, beside the state."""
    from compressbench.deploying.card import Checked
    from compressbench.hardware.agreement import tally
    from compressbench.metrics import label_loyalty, percent
    from compressbench.outputs import Outputs
    from compressbench.views import BATCH
    from compressbench.walking import put_back, walk
    from compressbench.wording import noun_of

    if view.streams:
        told = tally(view, compute)
        decoded = _decoded(view, compute) if hasattr(view.bench.task, "said") else None
        return Checked(runtime, told.n, told.right, told.own, told.alike, told.difference, "token", decoded)
    task, rows, answers, said = view.bench.task, [], [], []
    for places, batch in walk(view.bench.task, view.bench.feed("test"), BATCH):
        rows.append(places)
        outputs = Outputs(compute(*task.encode(batch)))
        answers.append(task.answers(outputs))
        said.append(task.log_probs(outputs, batch.labels).log_probs)
    found = put_back(rows, answers)
    return Checked(
        runtime,
        len(found),
        percent(task.right(found, view.labels)),
        percent(view.right),
        label_loyalty(found, view.answers),
        float((put_back(rows, said) - view.log_probs).abs().max()),
        noun_of(task),
    )


def _decoded(view: View, compute: Run) -> Decoded:
    """What is decoded of the whole test split by what was written, beside what the state says."""
    from compressbench.deploying.card import Decoded
    from compressbench.hardware.exported import Called
    from compressbench.wording import noun_of

    task: Any = view.bench.task
    file = Called(compute)
    there = view.saying(view.decoded(lambda _, inputs: task.said(file, inputs)))
    own, found = (task.spelled(one.answers) for one in (view, there))
    same = 100 * sum(a == b for a, b in zip(own, found, strict=True)) / max(1, len(own))
    return Decoded(task.metric, task.overall(there), task.overall(view), same, len(own), noun_of(task))


def lineage(ready: Experiment, node: Node) -> list[str]:
    """The stages that made a state, first to last, in words."""
    chain = [node]
    while chain[0].parent:
        chain.insert(0, ready.plan.node(chain[0].parent))
    return [
        f"{n.name}: {n.stage.describe() if hasattr(n.stage, 'describe') else type(n.stage).__name__}"
        for n in chain
    ]


def facts(ready: Experiment) -> dict[str, str]:
    """What the card says first."""
    from compressbench.runs.provenance import processor, versions

    columns = ready.setting.columns
    return {
        "Recipe": f"{columns.recipe}, scale {columns.scale}, seed {columns.seed}",
        "Model": columns.model,
        "Hardware": f"{columns.hardware}: {processor()}",
        "Versions": versions(),
    }
