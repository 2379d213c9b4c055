"""Tasks: what a data set's task must say, asked of its own examples and of invented answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.checking.states import check_json
from compressbench.checking.traces import Unfit, differs, quietly, twice, unchanged
from compressbench.data.dataset import Dataset
from compressbench.data.examples import Examples, are_sequences
from compressbench.inputs import Inputs
from compressbench.outputs import Outputs
from compressbench.tasks.task import ASKED, NoSurface, Pieces, Placed, Surface, Task

SOME = 16


def check_dataset(load: Callable[[], Dataset]) -> Dataset:
    """A data set read twice, and its task tried on its own examples.

    Raises:
        Unfit: it prints, is another the second time, or its task breaks a rule (see ``check_task``).
    """
    dataset = twice(load, "numpy.random.RandomState(a seed of yours)", _differ)
    if " at 0x" in repr(dataset.task.identity()):
        raise Unfit(
            "identity() holds an object without a text of its own (… at 0x…), so that every process has other keys; "
            "plain values are wanted"
        )
    quietly(lambda: check_task(dataset))
    return dataset


def _differ(one: Dataset, other: Dataset) -> str:
    if found := differs(dict(one.splits), dict(other.splits)):
        return found
    return "" if one.fingerprint == other.fingerprint else "the task's identity()"


def check_task(dataset: Dataset) -> None:
    """All that a task is asked, on a few of its own training examples and of answers that are invented.

    Raises:
        Unfit: something is missing, or what it gives has not the form that ``compressbench.tasks.task`` says.
    """
    task = dataset.task
    lacking = [name for name in ASKED if not hasattr(task, name)]
    if lacking:
        raise Unfit(
            f"the task {type(task).__name__} has no {', '.join(lacking)}; see compressbench.tasks.task"
        )
    _words(task, dataset.splits)
    some = dataset.split("train").head(SOME).to("cpu")
    with unchanged(examples=some):
        _inputs(task, some)
        if hasattr(task, "lengths"):
            _lengths(task, some)
        if hasattr(task, "said"):
            _said(task, some)
        _shown(task, some)
        _answers(task, some)
    surface = task.surface()
    if isinstance(surface, NoSurface):
        if not surface.why:
            raise Unfit("surface() gives NoSurface without why; a sentence for the reader is wanted")
    elif not isinstance(surface, Surface):
        raise Unfit(f"surface() gives {type(surface).__name__}; Surface(low, high, scale) or NoSurface(why)")
    placed = task.placed(nn.Linear(2, 2))
    if not isinstance(placed, Placed) or not isinstance(placed.module, nn.Module):
        raise Unfit(
            f"placed(module) gives {type(placed).__name__}; Placed(module, tuple) leaves all as it is"
        )


def _words(task: Task, splits: Mapping[str, Examples]) -> None:
    if not isinstance(task.metric, str) or not task.metric.isidentifier():
        raise Unfit(f"metric is {task.metric!r}; the main metric's name is wanted, e.g. top1")
    for name, texts in (("classes", task.classes), ("inputs", task.inputs)):
        if (
            not isinstance(texts, tuple | list)
            or not texts
            or not all(isinstance(t, str) and t for t in texts)
        ):
            raise Unfit(f"{name} are {texts!r:.60}; a tuple of names is wanted")
    facts = task.facts()
    if not isinstance(facts, Mapping) or not all(isinstance(n, str) and n.startswith("@") for n in facts):
        raise Unfit(
            f"facts() gives {facts!r:.60}; names that begin with @ are wanted, e.g. {{'@classes': 10}}"
        )
    check_json(facts, "facts()")
    check_json(task.identity(), "identity()")
    if hasattr(task, "remarks"):
        remarks = task.remarks(splits)
        if not isinstance(remarks, tuple) or not all(isinstance(text, str) and text for text in remarks):
            raise Unfit(f"remarks(splits) gives {remarks!r:.60}; a tuple of sentences is wanted, () for none")
    said = task.in_words()
    if not isinstance(said, str) or not said:
        raise Unfit(f"in_words() gives {said!r}; a few words on an example are wanted, e.g. 'up to 9 words'")
    feeding = task.feeding()
    if not (
        isinstance(feeding, tuple)
        and len(feeding) == 2
        and isinstance(feeding[0], str)
        and all(isinstance(line, str) for line in feeding[1])
    ):
        raise Unfit(f"feeding() gives {feeding!r:.60}; a sentence and a list of lines of Python are wanted")


def _inputs(task: Task, some: Examples) -> None:
    plain = twice(lambda: task.encode(some), "what variation gives")
    _check_inputs(task, plain, len(some), "encode(examples)")
    changes = twice(
        lambda: task.variation(len(some), torch.Generator().manual_seed(3)),
        "the generator that variation is given",
    )
    if not isinstance(changes, tuple) or not all(
        isinstance(t, torch.Tensor) and t.ndim and len(t) == len(some) and t.device.type == "cpu"
        for t in changes
    ):
        raise Unfit(
            f"variation(n, generator) gives {changes!r:.60}; a tuple of tensors on the CPU is wanted, a row an example"
        )
    varied = twice(lambda: task.encode(some, changes), "what variation gives")
    _check_inputs(task, varied, len(some), "encode(examples, variation)")
    varies = task.varies()
    if not isinstance(varies, bool):
        raise Unfit(f"varies() gives {varies!r}; True or False is wanted")
    if not varies and differs(plain, varied):
        raise Unfit(
            "varies() says False, but encode(examples, variation) gives other inputs than encode(examples)"
        )
    blank = task.blank(3)
    _check_inputs(task, blank, 3, "blank(3)", like=plain)
    drawn = twice(
        lambda: task.drawn(3, torch.Generator().manual_seed(3)), "the generator that drawn is given"
    )
    _check_inputs(task, drawn, 3, "drawn(3, generator)", like=plain)
    if all(
        torch.equal(a, b) for a, b in zip(drawn, task.drawn(3, torch.Generator().manual_seed(4)), strict=True)
    ):
        raise Unfit(
            "drawn(3, generator) gives the same for every generator; nets are told apart by these inputs"
        )


def _check_inputs(task: Task, found: Any, count: int, what: str, like: Inputs | None = None) -> None:
    if not isinstance(found, tuple) or not all(isinstance(x, Tensor) for x in found):
        raise Unfit(
            f"{what} gives {type(found).__name__}; a tuple of tensors is wanted, one for each name of inputs"
        )
    if len(found) != len(task.inputs):
        raise Unfit(
            f"{what} gives {len(found)} tensors; inputs names {len(task.inputs)}: {', '.join(task.inputs)}"
        )
    for place, (name, tensor) in enumerate(zip(task.inputs, found, strict=True)):
        if len(tensor) != count:
            raise Unfit(f"{what}: {name} has {len(tensor)} rows for {count} examples")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise Unfit(f"{what}: {name} holds what is not finite")
        if like is not None and (
            tensor.dtype != like[place].dtype
            or (tensor.shape[1:] != like[place].shape[1:] and not hasattr(task, "lengths"))
            or tensor.ndim != like[place].ndim
        ):
            raise Unfit(
                f"{what}: {name} is {tensor.dtype} {tuple(tensor.shape[1:])} an example, "
                f"encode gives {like[place].dtype} {tuple(like[place].shape[1:])}"
            )


def _shown(task: Any, some: Examples) -> None:
    """What it says of dimensions, of texts that a person reads, and of files beside an exported one."""
    axes = getattr(task, "axes", {})
    fits = isinstance(axes, Mapping) and all(
        isinstance(names, tuple) and names[:1] == ("n",) and all(isinstance(n, str) for n in names)
        for names in axes.values()
    )
    if not fits:
        raise Unfit(f"axes is {axes!r:.60}; {{input: ('n', …)}}, names of dimensions by input, is wanted")
    if hasattr(task, "texts"):
        texts = task.texts(some)
        if not isinstance(texts, Mapping) or not all(
            len(column) == len(some) and all(isinstance(t, str) for t in column) for column in texts.values()
        ):
            raise Unfit(f"texts(examples) gives {texts!r:.60}; {{column: a text of each example}} is wanted")
    files: Any = getattr(task, "beside", dict)()
    if not isinstance(files, Mapping) or not all(isinstance(content, bytes) for content in files.values()):
        raise Unfit(f"beside() gives {files!r:.60}; {{file name: bytes}} is wanted")


def _lengths(task: Any, some: Examples) -> None:
    """``lengths`` are one number an example, its own: the same one in other company."""
    found = twice(lambda: task.lengths(some), "the examples")
    form = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    if not isinstance(found, Tensor) or found.shape != (len(some),) or found.dtype != torch.int64:
        raise Unfit(
            f"lengths gives {form} for {len(some)} examples; int64 (n,), one number an example, is wanted"
        )
    if bool((found < 0).any()):
        raise Unfit(f"lengths gives {int(found.min())}; a length is 0 or more")
    alone = torch.cat([task.lengths(some.take([place])) for place in range(len(some))])
    if not torch.equal(alone, found):
        place = int((alone != found).nonzero()[0])
        raise Unfit(
            f"lengths gives {int(found[place])} of example {place}, and {int(alone[place])} of it alone; a length is the "
            "example's own, whatever the company"
        )


class _Speaks(nn.Module):
    """Logits that a token of the last input and its example's second one decide: enough to decode something by."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Embedding(classes, 4), nn.Linear(4, classes)

    def forward(self, *inputs: Tensor) -> Tensor:
        own = inputs[0][:, 1:2] if inputs[0].ndim == 2 and not inputs[0].is_floating_point() else inputs[-1]
        return self.last(self.first(inputs[-1]) + self.first(own))


def _said(task: Any, some: Examples) -> None:
    """What is decoded of an example is its own: the same one in other company."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = _Speaks(len(task.classes)).eval()
    found = twice(lambda: task.said(module, task.encode(some)), "the module and its inputs")
    if not isinstance(found, Tensor) or found.ndim != 2 or found.dtype != torch.int64:
        form = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise Unfit(f"said gives {form}; int64 (n, places) is wanted, -1 after the end")
    _rows(found, len(some), "said")
    if int(found.min()) < -1 or int(found.max()) >= len(task.classes):
        raise Unfit(f"said gives {int(found.min())} to {int(found.max())}; classes or -1 are wanted")
    for place in range(len(some)):
        alone = task.said(module, task.encode(some.take([place])))[0]
        if alone[alone >= 0].tolist() != found[place][found[place] >= 0].tolist():
            raise Unfit(f"said gives something else of example {place} than of it alone")
    right = task.right(found, some.labels)
    _rows(right, len(some), "right of what said gives")


def _answers(task: Task, some: Examples) -> None:
    count, labels = len(some), some.labels
    draw = torch.Generator().manual_seed(5)
    places = labels.shape[1:] if are_sequences(labels) else ()
    logits = torch.randn(count, *places, len(task.classes), generator=draw).requires_grad_()
    outputs = Outputs(logits)
    loss = task.loss(outputs, labels)
    if not isinstance(loss, Tensor) or loss.shape != () or not torch.isfinite(loss):
        raise Unfit(
            f"loss gives {loss!r:.60}; a finite tensor without dimensions is wanted, the mean over the batch"
        )
    if not loss.requires_grad:
        raise Unfit("loss has no gradient to the logits; nothing could be trained by it")
    loss.backward()
    assert logits.grad is not None
    if not torch.isfinite(logits.grad).all() or not logits.grad.any():
        raise Unfit("loss: the gradient to the logits is zero or not finite")
    with torch.no_grad():
        said = Outputs(logits.detach())
        answers = task.answers(said)
        _rows(answers, count, "answers")
        right = task.right(answers, labels)
        _rows(right, count, "right")
        if right.dtype != torch.bool or right.ndim != 1:
            raise Unfit(
                f"right gives {right.dtype} of shape {tuple(right.shape)}; bool, one an example, is wanted"
            )
        lost = task.right(task.answers(Outputs(torch.full_like(said.logits, torch.nan))), labels)
        if bool(lost.any()):
            raise Unfit(
                f"{int(lost.sum())} of {count} answers are right where the logits are NaN; "
                "compressbench.metrics.named(logits) gives the classes with -1 there"
            )
        _pieces(task.log_probs(said, labels), count)


def _rows(found: Any, count: int, what: str) -> None:
    if not isinstance(found, Tensor) or found.ndim < 1 or len(found) != count:
        form = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise Unfit(f"{what} gives {form} for {count} examples; a tensor with a row an example is wanted")


def _pieces(found: Any, count: int) -> None:
    if not isinstance(found, Pieces):
        raise Unfit(f"log_probs gives {type(found).__name__}; Pieces(log_probs, owners, labels) is wanted")
    if found.log_probs.ndim != 2 or not len(found.log_probs) == len(found.owners) == len(found.labels):
        shapes = ", ".join(str(tuple(t.shape)) for t in (found.log_probs, found.owners, found.labels))
        raise Unfit(f"log_probs: shapes {shapes}; (pieces, classes), (pieces,) and (pieces,) are wanted")
    if not torch.allclose(found.log_probs.exp().sum(1), torch.ones(len(found.log_probs)), atol=1e-3):
        raise Unfit("log_probs: the probabilities of a piece don't sum to 1; log_softmax(-1) makes them")
    for name, tensor, most in (
        ("owners", found.owners, count),
        ("labels", found.labels, found.log_probs.shape[1]),
    ):
        if tensor.dtype != torch.int64 or tensor.min() < 0 or tensor.max() >= most:
            raise Unfit(
                f"log_probs: {name} are {tensor.dtype}, {tensor.min()} to {tensor.max()}; int64, 0 to {most - 1}"
            )
