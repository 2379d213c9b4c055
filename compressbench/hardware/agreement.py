"""Whether what was lowered answers as the net does: checked on true inputs, at two batch sizes, before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from compressbench.errors import UserError
from compressbench.inputs import Inputs, first

if TYPE_CHECKING:
    from compressbench.views import View

Answers = Callable[..., Tensor | Sequence[Tensor]]
NEAR = 1e-2
"""Of the spread of logits, the furthest that float arithmetic in another order may move one."""
FAR = 0.25
"""Of the spread, how far integer kernels and half floats may move logits on average."""
FEW = 8


class Otherwise(UserError):
    """What was lowered answers otherwise than the net."""


def two_sizes(batches: Sequence[int]) -> tuple[int, ...]:
    """The batch sizes, and another one where they are all the same."""
    return tuple(batches) if len(set(batches)) > 1 else (*batches, 3 if batches[0] == FEW else FEW)


def apart(one: Tensor, other: Tensor, rounds: bool) -> float:
    """Distance of answers (n, classes) over the spread of the first: on average where they round, else the largest."""
    if one.shape != other.shape:
        return float("inf")
    one, other = one.double(), other.double()
    spread = torch.maximum(one.std(unbiased=False), 1e-4 * one.abs().max()).clamp(min=1e-12)
    distance = (one - other).abs()
    return float((distance.mean() if rounds else distance.max()) / spread)


def check(
    wanted: Answers,
    found: Answers,
    inputs: Inputs,
    sizes: Sequence[int],
    who: str,
    rounds: bool = False,
    hint: str = "",
) -> None:
    """Compares all answers on the first so many of the inputs.

    Args:
        inputs: encoded examples, as many as the largest size.
        sizes: batch sizes, two or more.
        rounds: whether integer kernels or half floats are at work.
        hint: what may be the reason, and what to do.

    Raises:
        Otherwise: they differ, or the other can't take a batch size.
    """
    for size in sizes:
        with torch.no_grad():
            own = _several(wanted(*first(inputs, size)))
        try:
            there = _several(found(*first(inputs, size)))
        except Exception as error:  # a runtime's own errors have no common base
            raise Otherwise(f"{who} fails at batch {size}: {reason_of(error)}{_after(hint)}") from error
        if len(own) != len(there):
            raise Otherwise(f"{who} gives {len(there)} tensors at batch {size}, the state {len(own)}")
        limit = FAR if rounds else NEAR
        far = next((d for a, b in zip(own, there, strict=True) if not (d := apart(a, b, rounds)) <= limit), 0)
        if far != 0:  # one that is no number is none either
            how = "another shape" if far == float("inf") else f"logits {far:.2g} of their spread apart"
            raise Otherwise(f"{who} answers otherwise than the state at batch {size}: {how}{_after(hint)}")


def with_state(
    view: View,
    run: Callable[..., object],
    inputs: Inputs,
    batches: Sequence[int],
    who: str,
    rounds: bool = False,
) -> None:
    """``check`` of what was lowered against the state's module, built anew where the inputs are.

    Args:
        batches: sizes to be timed; another one is checked too.

    Raises:
        Otherwise: they differ.
    """
    from compressbench.models.build import module_of
    from compressbench.outputs import forward

    module = module_of(view.state, str(inputs[0].device))
    found = cast("Answers", run)
    check(lambda *x: forward(module, *x).logits, found, inputs, two_sizes(batches), who, rounds, HINT)


def reason_of(error: Exception) -> str:
    """The first line of a runtime's error that says more than where it was raised."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [
        line for line in lines if line and not line.startswith("Exception from ") and not line.endswith(":")
    ]
    return (told or [type(error).__name__])[0][:200]


@dataclass(frozen=True)
class Tally:
    """What was said there of a split, beside what a state says of it, piece by piece.

    Attributes:
        n: pieces: examples, or tokens where each is one.
        right, own, alike: percent of them: right there; right by the state; the same there and by the state.
        difference: the largest between two log-probabilities.
    """

    n: int
    right: float
    own: float
    alike: float
    difference: float


def tally(view: View, run: Answers) -> Tally:
    """Of the whole test split, batch by batch; nothing is kept, so that answers may be of any size."""
    from compressbench.outputs import Outputs, forward
    from compressbench.views import BATCH
    from compressbench.walking import walk

    task, device = view.bench.task, view.bench.device
    n, right, own, alike, furthest = 0, 0, 0, 0, 0.0
    for _, batch in walk(task, view.bench.feed("test"), BATCH):
        inputs = task.encode(batch)
        with torch.inference_mode():
            here = task.log_probs(forward(view.fast, *inputs), batch.labels)
            found = cast("Tensor", run(*(x.cpu() for x in inputs))).to(device)
            there = task.log_probs(Outputs(found), batch.labels)
        one, other = (x.log_probs.argmax(dim=1) for x in (here, there))
        one[here.log_probs.isnan().any(dim=1)] = -1  # what is no number is neither right nor alike
        other[there.log_probs.isnan().any(dim=1)] = -2
        n += len(one)
        right += int((other == there.labels).sum())
        own += int((one == here.labels).sum())
        alike += int((one == other).sum())
        furthest = max(furthest, float((here.log_probs - there.log_probs).abs().max()) if len(one) else 0.0)
    share = 100 / max(1, n)
    return Tally(n, share * right, share * own, share * alike, furthest)


def _after(hint: str) -> str:
    return f"; {hint}" if hint else ""


HINT = "a forward may not read values or batch sizes as numbers, nor branch on them"


def _several(answer: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [answer.float()] if isinstance(answer, Tensor) else [t.float() for t in answer]
