"""``compressbench export RUN --state NAME --to FORM``: a state as a file to deploy, checked, with a model card."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.cli import trusting
from compressbench.cli.parser import Parser, a_path
from compressbench.console import say
from compressbench.errors import UserError, nearest
from compressbench.paths import outputs_folder, own_folder, resolved

if TYPE_CHECKING:
    from compressbench.deploying.card import Checked
    from compressbench.hardware.exported import Run
    from compressbench.runs.experiment import Experiment
    from compressbench.runs.plan import Node
    from compressbench.views import View

NOBODY = trusting.Trust()
FORMS = ("onnx", "openvino", "torch_export", "executorch", "safetensors")
LEAST_AGREEMENT = 90.0


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: no run, an unknown state or form, a missing package, a net that the form can't hold.
    """
    parser = Parser(prog="compressbench export", description=__doc__)
    parser.add_argument("run", metavar="RUN", type=a_path, help="a run's folder, the one with config.yaml")
    parser.add_argument("--state", required=True, metavar="NAME", help="of the recipe, e.g. dense")
    parser.add_argument("--to", required=True, metavar="FORM", help=", ".join(FORMS))
    parser.add_argument(
        "--images", action="store_true", help="beside it the test images and labels, as NAME.test.npz"
    )
    parser.add_argument("--output", type=a_path, metavar="DIR", help="RUN/export by default")
    trusting.add_options(parser)
    args = parser.parse_intermixed_args(argv)
    if args.to not in FORMS:
        raise UserError(f"--to: unknown form {args.to!r}; {nearest(args.to, FORMS)}")
    ready = experiment_of(args.run, trusting.of(args))
    view, node = view_of(ready, args.state)
    folder = args.output or own_folder(args.run, "export")
    say(export(ready, view, node, args.to, folder, args.run))
    if args.images:
        say(str(write_images(view, folder, node)))
    return 0


def experiment_of(run: Path, trust: trusting.Trust = NOBODY) -> Experiment:
    """The run made ready again from its ``config.yaml``, which is input: data, that trusts nobody. Nothing is computed.

    Raises:
        UserError: there is none, it names what isn't trusted, or its data or its store are gone.
    """
    from compressbench import specs
    from compressbench.runs.experiment import prepare
    from compressbench.specs.compose import plain_data

    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{run} is no run's folder: it has no config.yaml; a run says where it wrote its report"
        )
    config = plain_data(path)
    if "outputs" not in config or "recipe" not in config:
        raise UserError(f"{path}: not a run's config")
    specs.let_import_from(Path.cwd(), *trust.folders)
    config["trust"] = list(trust.prefixes)
    config["outputs"] = str(_outputs(run, trust.outputs))
    return prepare(config, writable=False)


def _outputs(run: Path, given: str | None) -> Path:
    """The folder whose store holds a run's states: above the run, unless the user names it."""
    if given is not None:
        folder = outputs_folder(given, "--outputs")
        if not (folder / "store").is_dir():
            raise UserError(f"--outputs: no store in {folder}")
        return folder
    above = next((p for p in resolved(run, "RUN").parents if (p / "store").is_dir()), None)
    if above is None:
        raise UserError(f"{run}: no store in a folder above it; --outputs DIR says where it is")
    return above


def view_of(ready: Experiment, name: str) -> tuple[View, Node]:
    """A state of the run, from the store.

    Raises:
        UserError: the recipe has no such state, or the store doesn't hold it any more.
    """
    from compressbench.runs.execute import Executor, Watcher
    from compressbench.store import Damaged
    from compressbench.views import View

    names = [n.name for n in ready.plan.nodes]
    if name not in names:
        raise UserError(f"--state: the run has no state {name!r}; {nearest(name, names)}")
    node = ready.plan.node(name)
    executor = Executor(ready.plan, ready.store, ready.setting, Watcher())
    try:
        state = executor.stored(node)
    except Damaged as error:
        raise UserError(f"--state {name}: {error}; the same run makes it again") from error
    if state is None:
        raise UserError(f"--state {name}: not in {ready.store.root}; the same run makes it again")
    return View(state, replace(executor.bench(), device="cpu", feeds={}), name), node


def export(ready: Experiment, view: View, node: Node, form: str, folder: Path, run: Path) -> str:
    """Writes a state's files and card; returns what is to be said of them.

    Raises:
        UserError: as ``main``; or what was written doesn't do what the state does (it is deleted again).
    """
    from compressbench.deploying.card import card
    from compressbench.deploying.exporting import FORMS as WRITERS
    from compressbench.hardware.early import without_exits

    if view.leaves_early:
        raise UserError(
            f"export: {node.name} leaves early by a policy, which one file can't hold; export the state before its "
            "exits/choose stage, which answers by the last exit"
        )
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
            f"{checked.n} test images; what was written is deleted again"
        )
    files = {p.name: p.stat().st_size for p in paths}
    text = card(
        f"{node.name} of {ready.setting.labels.recipe}",
        form,
        files,
        lineage(ready, node),
        facts(ready),
        ready.dataset,
        records_of(run, node),
        checked,
    )
    about = stem.with_name(f"{stem.name}.{form}.md")
    about.write_text(text, encoding="utf-8")
    return (
        f"{paths[0]}  {sum(files.values()):,} bytes; {checked.runtime}: {checked.top1:.2f} % of {checked.n} test images "
        f"(state {checked.simulated:.2f} %), same class for {checked.agreement:.2f} %\n{about}"
    )


def write_images(view: View, folder: Path, node: Node) -> Path:
    """The test split as ``NAME.test.npz``: its columns (of pictures ``images``, uint8) and ``labels``, to check with."""
    import numpy

    split = view.bench.dataset.splits["test"]
    path = folder / f"{node.name.replace('/', '_')}.test.npz"
    columns: dict[str, Any] = {name: tensor.numpy() for name, tensor in split.tensors().items()}
    numpy.savez_compressed(path, **columns)
    return path


def check(view: View, compute: Run, runtime: str) -> Checked:
    """Runs what was written on the whole test split, beside the state."""
    import torch

    from compressbench.deploying.card import Checked
    from compressbench.metrics import label_loyalty, percent
    from compressbench.outputs import Outputs
    from compressbench.views import BATCH

    task, answers, said = view.bench.task, [], []
    for batch in view.bench.feed("test").batches(BATCH):
        outputs = Outputs(compute(*task.encode(batch)))
        answers.append(task.answers(outputs))
        said.append(task.log_probs(outputs, batch.labels).log_probs)
    found = torch.cat(answers)
    return Checked(
        runtime,
        len(found),
        percent(task.right(found, view.labels)),
        percent(view.right),
        label_loyalty(found, view.answers),
        float((torch.cat(said) - view.log_probs).abs().max()),
    )


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

    labels = ready.setting.labels
    return {
        "Recipe": f"{labels.recipe}, scale {labels.scale}, seed {labels.seed}",
        "Model": labels.model,
        "Hardware": f"{labels.hardware}: {processor()}",
        "Versions": versions(),
    }


def records_of(run: Path, node: Node) -> list[Any]:
    """The run's records of a state, none where it wrote none."""
    from compressbench.report.joint import read

    path = run / "records.jsonl"
    return [r for r in read(path) if r.key == node.key] if path.is_file() else []
