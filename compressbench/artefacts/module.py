"""A torch module as what answers: the forms that end in one share this."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.artefacts.artefact import Arrays, Wanted, fed, in_order, table
from compressbench.errors import UserError, reason

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class OpenModule:
    """A module in evaluation mode, asked without gradients.

    Attributes:
        module: or any function of tensors; ``outputs.forward`` finds its logits.
        name: of the artefact, for what goes wrong.
        threads: of torch, while it answers.
    """

    module: Callable[..., Any]
    wants: Wanted
    name: str
    threads: int

    @property
    def runtime(self) -> Any:
        """The module."""
        return self.module

    def answers(self, inputs: Arrays) -> np.ndarray:
        """(n, classes), see ``artefact.Opened``."""
        import torch

        from compressbench.outputs import forward

        arrays = in_order(self.wants, inputs, self.name)
        if self.wants.inputs:
            arrays = tuple(fed(w, a, self.name) for w, a in zip(self.wants.inputs, arrays, strict=True))
        with torch_threads(self.threads), torch.inference_mode():
            try:
                found = forward(self.module, tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))
                logits = found.logits.detach().cpu()
            except UserError:
                raise
            except Exception as error:  # a module fails in as many ways as there are modules
                raise UserError(f"{self.name}: fails on {_shapes(arrays)}: {reason(error)}") from error
            exact = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        return table(exact.numpy(), len(arrays[0]), self.name)


def _shapes(arrays: tuple[np.ndarray, ...]) -> str:
    return ", ".join(f"{a.dtype} {a.shape}" for a in arrays)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch, and those that there were afterwards."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def frozen(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, its parameters without gradients, so that those of inputs are cheap."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()
