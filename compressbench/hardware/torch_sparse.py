"""This machine's processor, torch eager, zeros skipped where that is measured to pay: layer by layer, CSR or dense.

A linear layer is a sparse matrix (CSR) times its inputs; a convolution the same on its unfolded patches. Each layer of
the state is timed both ways on what really enters it, at each batch size, and runs the faster way.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.hardware.onnxruntime_cpu import shortened
from compressbench.hardware.target import Lowered, Timing, Unsupported, check_threads
from compressbench.hardware.torch_cpu import check_batches, examples, threads, time_in_turns
from compressbench.wording import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.inputs import Inputs
    from compressbench.views import View

REPEATS = 5


@dataclass(frozen=True)
class TorchSparse:
    """torch eager in fp32 with sparse layers where they are faster here.

    Attributes:
        threads: of torch.
        batches: sizes to time; the choice is made for each.
        seconds: of timing for each batch size, for all states in turns.
        densest: layers with more weights than this share left aren't tried.
    """

    VERSION: ClassVar[int] = 2
    threads: int = 1
    batches: tuple[int, ...] = (1, 64)
    seconds: float = 0.5
    densest: float = 0.5

    def __post_init__(self) -> None:
        check_batches(self.batches, self.seconds)
        check_threads(self.threads, "hardware: threads")
        if not 0 <= self.densest <= 1:
            raise UserError(f"hardware: densest is {self.densest}, must be in [0, 1]")

    def lower(self, view: View) -> Lowered | Unsupported:
        """The state's module, prepared for inference, with the layers chosen for each batch size."""
        import torch

        from compressbench.hardware import agreement
        from compressbench.inputs import first, on
        from compressbench.models.build import module_of
        from compressbench.models.prepared import prepared
        from compressbench.models.quantized import quantized
        from compressbench.outputs import forward

        inputs = on(examples(view, max(agreement.FEW, *self.batches)), "cpu")
        module = module_of(view.state, "cpu").requires_grad_(False)
        dense = prepared(module, *first(inputs, 8))
        rounding = set(quantized(module))
        began = time.perf_counter()
        chosen: dict[int, tuple[str, ...]] = {}
        forms: dict[tuple[str, ...], Callable[..., Any]] = {(): dense}
        with threads(self.threads), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its CSR support a beta
            for batch in self.batches:
                names = faster_sparse(module, first(inputs, batch), self.densest, rounding)
                if names and names not in forms:
                    forms[names] = with_sparse(module, names)
                if names and not _pays(forms[names], dense, first(inputs, batch)):
                    names = ()
                chosen[batch] = names
        took = time.perf_counter() - began
        known = sorted(chosen)

        def run(*batch: Tensor) -> object:
            near = max((b for b in known if b <= len(batch[0])), default=known[0])
            with torch.inference_mode():
                return forward(forms[chosen[near]], *batch).logits

        try:
            agreement.with_state(view, run, inputs, self.batches, "torch, sparse,", bool(rounding))
        except agreement.Otherwise as wrong:
            return Unsupported(str(wrong))
        told = [
            f"batch {batch}: "
            + (f"{counted(len(names), 'layer')} sparse ({shortened(names)})" if names else "dense")
            for batch, names in chosen.items()
        ]
        words = f"torch eager, fp32, CSR where it is faster; {'; '.join(told)}"
        return Lowered(
            run,
            inputs,
            words,
            skips_zeros=any(chosen.values()),
            compile_seconds=took,
            simulated=bool(rounding),
        )

    def time(self, lowered: Sequence[Lowered], batch: int) -> list[Timing]:
        """Wall-clock seconds of forwards at one batch size, the states in turns."""
        return time_in_turns(lowered, batch, self.threads, self.seconds)


def faster_sparse(module: nn.Module, inputs: Inputs, densest: float, without: set[str]) -> tuple[str, ...]:
    """Layers that are faster as a sparse product on what enters them here.

    Args:
        without: layers that aren't tried (those that round).
    """
    layers = {name: part for name, part in _sparse_able(module, densest).items() if name not in without}
    seen: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, n=name: seen.setdefault(n, given[0].clone()))
        for name, layer in layers.items()
    ]
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        name
        for name, layer in layers.items()
        if name in seen and _is_faster(sparse(layer), layer, (seen[name],))
    )


def with_sparse(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy whose named layers are sparse products."""
    import copy

    out = copy.deepcopy(module).eval()
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(out.get_submodule(parent), leaf, sparse(out.get_submodule(name)))
    return out


def sparse(layer: Any) -> nn.Module:
    """A linear layer or plain convolution as a product with its CSR weight; the same function."""
    import torch
    from torch import nn

    class Product(nn.Module):
        """(out, in) CSR times columns."""

        def __init__(self) -> None:
            super().__init__()
            self.csr = layer.weight.detach().flatten(1).to_sparse_csr()
            self.bias = layer.bias

        def forward(self, x: Tensor) -> Tensor:
            if isinstance(layer, nn.Linear):
                flat = x.reshape(-1, x.shape[-1])
                result = torch.sparse.mm(self.csr, flat.t()).t()
                result = result if self.bias is None else result + self.bias
                return result.reshape(*x.shape[:-1], -1).contiguous()
            n, _, height, width = x.shape
            columns = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            across = columns.permute(1, 0, 2).reshape(columns.shape[1], -1)
            result = torch.sparse.mm(self.csr, across)
            result = result if self.bias is None else result + self.bias[:, None]
            sizes = [
                (size + 2 * p - d * (k - 1) - 1) // s + 1
                for size, p, d, k, s in zip(
                    (height, width),
                    layer.padding,
                    layer.dilation,
                    layer.kernel_size,
                    layer.stride,
                    strict=True,
                )
            ]
            return result.reshape(-1, n, *sizes).transpose(0, 1).contiguous()

    return Product()


def _sparse_able(module: nn.Module, densest: float) -> Mapping[str, Any]:
    from torch import nn

    found = {}
    for name, part in module.named_modules():
        if not name or type(part) not in (nn.Linear, nn.Conv2d):
            continue
        if isinstance(part, nn.Conv2d) and (
            part.groups > 1 or part.padding_mode != "zeros" or isinstance(part.padding, str)
        ):
            continue
        if int(part.weight.count_nonzero()) <= densest * part.weight.numel():
            found[name] = part
    return found


def _pays(one: Callable[..., Any], other: Callable[..., Any], inputs: Inputs) -> bool:
    """Whether the whole net is faster with its sparse layers; not where something else in it reads their weights."""
    try:
        return _is_faster(one, other, inputs)
    except Exception:  # a net of a user's own, or one of torch's fast paths, may want the dense weight
        return False


def _is_faster(one: Callable[..., Any], other: Callable[..., Any], inputs: Inputs) -> bool:
    """Whether a function's fastest run of a few, in turns, is faster than the other's."""
    taken: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for place, run in enumerate((one, other)):
            begin = time.perf_counter()
            run(*inputs)
            taken[place].append(time.perf_counter() - begin)
    return min(taken[0]) < min(taken[1])
