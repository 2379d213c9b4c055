"""What early exits are made of: when to leave, and the heads that answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressbench import specs
from compressbench.checking.traces import Unfit, twice
from compressbench.errors import UserError
from compressbench.exit_criteria.said import Said
from compressbench.models.exits import takes


def check_exit_criterion(spec: Mapping[str, Any], trusted: tuple[str, ...] = ()) -> str:
    """Tries a criterion by which examples leave on invented logits.

    Raises:
        UserError: its spec is refused; or it can't be repeated, gives no finite number an example, looks at other rows or
            the order of classes, or is less sure of surer answers.
    """
    specs.check(spec, "", trusted, given=("said",))
    criterion = specs.build(spec)
    draw = torch.Generator().manual_seed(0)
    before, logits = torch.randn(64, 10, generator=draw), torch.randn(64, 10, generator=draw)
    told: Tensor = twice(
        lambda: criterion(Said(logits, (before,))), "nothing: it is a function of what was said"
    )
    if not isinstance(told, Tensor) or told.shape != (64,) or not torch.isfinite(told.double()).all():
        raise Unfit(
            f"gives {told!r:.60} for 64 examples; a finite number each is wanted, larger where it is surer"
        )
    if not torch.equal(criterion(Said(logits[7:20], (before[7:20],))), told[7:20]):
        raise Unfit("what it says of an example depends on the others of the batch")
    turned = criterion(Said(logits.flip(1), (before.flip(1),)))
    if not torch.allclose(turned.double(), told.double(), atol=1e-6):
        raise Unfit("what it says depends on the order of the classes")
    if not bool((criterion(Said(10 * logits, (10 * logits,))) >= told - 1e-6).all()):
        raise Unfit(
            "it is less sure of logits that are ten times as large, on which two exits agree; larger is surer"
        )
    return ""


def check_exit_head(spec: Mapping[str, Any], trusted: tuple[str, ...] = ()) -> str:
    """Tries an exit's head on an invented feature map or, where it takes none, on tokens with a mask.

    Raises:
        UserError: its spec is refused; or it is no module, gives no logits, or looks at other rows.
    """
    specs.check(spec, "", trusted, given=("shape", "classes"))
    whole = {**spec, specs.PARTIAL: False}
    shape = [6, 7, 7]
    try:
        head = specs.build(whole, shape=shape, classes=10)
    except UserError:
        shape = [7, 6]
        head = specs.build(whole, shape=shape, classes=10)
    if not isinstance(head, nn.Module):
        raise Unfit(f"gives a {type(head).__name__}; a torch.nn.Module is wanted")
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(7) < torch.tensor([[7], [3], [1], [5], [2]])).long()
    read = takes(head)
    if set(read) - {1}:
        raise Unfit(f"TAKES is {read}; of the inputs beside the value a head reads the mask, (1,), or none")
    given = (x, mask)[: 1 + len(read)]
    with torch.no_grad():
        logits = twice(lambda: head.eval()(*given), "nothing: evaluation draws nothing at random")
        if logits.shape != (5, 10):
            raise Unfit(f"gives {tuple(logits.shape)} for 5 examples of 10 classes; (5, 10) is wanted")
        if not torch.allclose(head(*(t[1:3] for t in given)), logits[1:3], atol=1e-5):
            raise Unfit("what it says of an example depends on the others of the batch")
        if read and not torch.allclose(head(x + 9 * (mask == 0)[..., None], mask), logits, atol=1e-5):
            raise Unfit("what it says depends on tokens that the mask hides")
    return ""
