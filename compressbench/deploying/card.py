"""The model card of an exported state: what it is, what was measured, how it is loaded, what the data allow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressbench.console import clean_line
from compressbench.declared import BATCH
from compressbench.paths import nameless

if TYPE_CHECKING:
    from compressbench.data.dataset import Dataset
    from compressbench.records import Record

SHOWN = (
    "top1",
    "bleu",
    "chrf",
    "perplexity",
    "token_top1",
    "nll",
    "label_loyalty",
    "probability_loyalty",
    "parameters",
    "density",
    "weight_bits",
    "macs",
    "simulated_top1",
    "deployed_top1",
    "deployed_gap",
    "deployed_agreement",
    "deployed_speedup",
    "deployed_latency",
    "latency_median",
    "speedup",
)
MARKUP = re.compile(r"[\\`*\[\]!&]")
LOAD = {
    "onnx": (
        "import onnxruntime\n"
        'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
        "session.run(None, inputs)[0]",
    ),
    "openvino": (
        "import openvino\n"
        'exact = {{"INFERENCE_PRECISION_HINT": "f32"}}  # its default computes in bf16 where the processor can\n'
        'model = openvino.Core().compile_model("{file}", "CPU", exact)',
        "model(inputs)[0]",
    ),
    "torch_export": (
        'import torch\ntorch.set_grad_enabled(False)\nmodule = torch.export.load("{file}").module()',
        "module(*map(torch.from_numpy, inputs.values())).numpy()",
    ),
    "executorch": (
        "import torch\nfrom executorch.runtime import Runtime\n"
        'program = Runtime.get().load_program("{file}")\n'
        'method = program.load_method("forward")  # one image a call\n'
        "each = zip(*inputs.values())",
        "torch.cat([method.execute([torch.from_numpy(x[None]) for x in one])[0].clone() for one in each])",
    ),
    "safetensors": (
        "# weights only: load them into the net's own class; what is integers (`…weight|q`) is scale * (q - zero), and\n"
        "# inputs of these layers are rounded alike; the file's metadata holds the net's spec and each layer's bits\n"
        'from safetensors.torch import load_file\ntensors = load_file("{file}")',
        "",
    ),
}
"""Of each form: lines that open a file, and the expression by which it makes ``inputs`` logits; empty where it can't."""


@dataclass(frozen=True)
class Decoded:
    """What is decoded by a written file, beside the state it is of.

    Attributes:
        metric: the main metric, e.g. ``bleu``.
        value, simulated: of the file and of the state.
        same: percent of the examples of which both say the same text.
        n: examples.
        noun: what one of these is, in the singular.
    """

    metric: str
    value: float
    simulated: float
    same: float
    n: int
    noun: str


@dataclass(frozen=True)
class Checked:
    """What a written file computes, beside the state it is of.

    Attributes:
        runtime: in words.
        n: test examples.
        top1, simulated: percent right, of the file and of the state.
        agreement: percent of them on which both name the same class.
        difference: the largest between two log-probabilities.
        noun: what one of these is, in the singular.
        decoded: where answers are decoded, what was said by the file.
    """

    runtime: str
    n: int
    top1: float
    simulated: float
    agreement: float
    difference: float
    noun: str = "image"
    decoded: Decoded | None = None


def card(
    title: str,
    form: str,
    files: Mapping[str, int],
    stages: Sequence[str],
    facts: Mapping[str, str],
    dataset: Dataset,
    records: Iterable[Record],
    checked: Checked,
) -> str:
    """Markdown.

    Args:
        files: bytes by name, the main one first.
        stages: the state's lineage in words.
        facts: rows of the first table, e.g. the recipe and the machine.
        records: of this state.
    """
    main = next(iter(files))
    told, feeding = dataset.task.feeding()
    rows = [*facts.items(), ("Data set", f"{dataset.name}; licence: {dataset.licence or 'not stated'}")]
    rows += [("File", f"{name}, {size:,} bytes") for name, size in files.items()]
    return "\n".join(
        [
            f"# {_line(title)}",
            "",
            *_table(("", ""), rows),
            "",
            "## How it was made",
            "",
            *(f"{place}. {_line(words)}" for place, words in enumerate(stages, 1)),
            "",
            "## Check of this file",
            "",
            f"{checked.runtime}: {checked.top1:.2f} % of {checked.n} test {checked.noun}s right; the state itself, "
            f"simulated in torch, {checked.simulated:.2f} %. Both name the same {_named(checked)} for "
            f"{checked.agreement:.2f} % of them; the largest difference of two log-probabilities is "
            f"{checked.difference:.2g}.{_decoded(checked)}",
            "",
            "## Measured",
            "",
            *_table(("metric", "value", "n", "note"), _figures(records)),
            "",
            "## Input and output",
            "",
            told,
            "",
            "```python",
            *feeding,
            *_asked(form, main, getattr(dataset.task, "decoding", list)()),
            "```",
            "",
            _output(dataset, form),
            "",
        ]
    )


def _decoded(checked: Checked) -> str:
    """A sentence on what the file writes, empty where nothing is decoded."""
    if (said := checked.decoded) is None:
        return ""
    return (
        f" What is decoded by it, greedily, has a {said.metric} of {said.value:.2f} (the state {said.simulated:.2f}); "
        f"of {said.same:.2f} % of {said.n} {said.noun}s it is the same text."
    )


def _asked(form: str, file: str, decoding: Sequence[str]) -> list[str]:
    """Lines of Python that open a file and ask it for ``logits``, or that decode with it."""
    opened, logits = LOAD[form]
    lines = opened.format(file=file).splitlines()
    if not logits:
        return lines
    if not decoding:
        return [*lines, f"logits = {logits}"]
    return [*lines, "def logits_of(inputs):", f"    return {logits}", *decoding]


def _named(checked: Checked) -> str:
    return checked.noun if checked.noun == "token" else "class"


def _output(dataset: Dataset, form: str) -> str:
    """What the file gives; of tokens the names are in the tokenizer."""
    if getattr(dataset.task, "streams", False):
        said = "; `said` is a list of str" if hasattr(dataset.task, "decoding") and LOAD[form][1] else ""
        return (
            f"Output: logits (n, tokens, {len(dataset.classes)}), in the order of the tokenizer's ids{said}."
        )
    names = ", ".join(map(_line, dataset.classes))
    return f"Output: logits (n, {len(dataset.classes)}); classes in order: {names}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(_line(cell).replace('|', '/') for cell in row)} |" for row in rows]


def _line(text: str) -> str:
    """One line that is text and nothing else in Markdown: no tag, no link, no control character, no path of ours."""
    return MARKUP.sub(r"\\\g<0>", nameless(clean_line(text))).replace("<", "&lt;")


def _figures(records: Iterable[Record]) -> list[tuple[str, str, str, str]]:
    found: dict[tuple[str, str], tuple[str, str, str, str]] = {}
    for r in records:
        if (
            BATCH.sub("", r.metric) in SHOWN
            and r.value is not None
            and (not r.group or r.metric.startswith("deployed"))
        ):
            name = f"{r.metric} ({r.group})" if r.group else r.metric
            found.setdefault(
                (r.metric, r.group),
                (name, f"{r.value:.6g} {r.unit}".removesuffix(" 1"), str(r.n or ""), r.note),
            )
    return list(found.values()) or [("nothing", "", "", "")]
