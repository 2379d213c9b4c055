"""Programs that torch.export makes of a net, for files of its own form and for ExecuTorch."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.hardware.onnx_graph import floating
from compressbench.inputs import Inputs, first
from compressbench.models.attention import unfused_attention
from compressbench.models.quantized import FLOATS, affine, forms_of, quantized, rounded
from compressbench.outputs import forward

Run = Callable[..., Tensor]


def xnnpack_program(module: nn.Module, sample: Inputs) -> bytes:
    """A module for inputs of the sample's very shape, lowered to XNNPACK.

    Raises:
        UserError: ExecuTorch isn't installed, or the net can't be exported.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise UserError(f"ExecuTorch isn't installed ({error}): pip install executorch") from error
    program = exported(module, sample, free=None)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    return lowered.buffer


def method_of(path: Path) -> Run:
    """The forward of a program on disk."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method("forward")

    def run(*batch: Tensor) -> Tensor:
        assert program is not None, "it lives as long as its method"
        return method.execute([_plain(x) for x in batch])[0].clone()

    return run


class Called(nn.Module):
    """A program's or session's forward as a module, so that what decodes modules decodes with it."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs on any device to logits on that device."""
        return self.run(*(x.cpu() for x in inputs)).to(inputs[0].device)


class _Logits(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        return forward(self.net, *inputs).logits


class _Spelled(nn.Module):
    """A rounding layer in elementary operations, which torch.export knows: it can't trace fused fake quantization."""

    def __init__(self, rounding: Any, plain: nn.Module) -> None:
        super().__init__()
        self.plain: Any = plain
        forms: Any = forms_of(rounding)
        self.form = forms["input"]
        if forms["weight"]:
            scale, zero = (getattr(rounding, f"weight_{entry}", None) for entry in ("scale", "zero"))
            self.plain.weight = nn.Parameter(
                rounded(rounding.weight.detach(), forms["weight"], scale, zero), requires_grad=False
            )
        for entry in ("scale", "zero"):
            self.register_buffer(entry, getattr(rounding, f"input_{entry}", None))
        self.__dict__["_latent"] = rounding.weight.detach()

    @property
    def weight(self) -> Tensor:
        """The weight that isn't rounded, as a forward of the user's may read it of the layer."""
        return self.__dict__["_latent"]

    def forward(self, inputs: Tensor) -> Tensor:
        """As the layer."""
        return self.plain(self._rounded(inputs))

    def _rounded(self, x: Tensor) -> Tensor:
        form = self.form
        if not form:
            return x
        if "dtype" in form:
            return x.to(FLOATS[form["dtype"]]).to(x.dtype)
        scale: Any = self.scale
        zero: Any = self.zero
        if form.get("dynamic"):
            scale, zero = affine(x.amin(), x.amax(), form["low"], form["high"])
        return ((x * (1.0 / scale)).round() + zero).clamp(form["low"], form["high"]).sub(zero) * scale


def _spelled(module: nn.Module) -> nn.Module:
    out = floating(module)
    for name, layer in quantized(module).items():
        parent, _, leaf = name.rpartition(".")
        setattr(out.get_submodule(parent), leaf, _Spelled(layer, out.get_submodule(name)))
    return out.eval()


def _plain(images: Tensor) -> Tensor:
    """Laid out image by image, row by row; ``contiguous`` leaves one channel's odd strides, which runtimes trip over."""
    return images.clone(memory_format=torch.contiguous_format)


_WAYS = {
    "data-dependent": "; its forward branches on values, of its input or its tensors: use torch.where, or export to onnx",
    "Constraints violated": "; its forward fixes the number of examples: reshape by -1 or by x.shape[0] as it is",
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch prints the graph that it can't export, and logs why; the error says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(before)


def exported(module: nn.Module, sample: Inputs, free: Sequence[tuple[str, ...]] | None = ()) -> Any:
    """A ``torch.export`` program of a net, rounding spelled out.

    Args:
        free: of each input the names of its dimensions that may differ, from the first; none said: the number of
            examples alone. None: inputs have the sample's very shape.

    Raises:
        UserError: torch can't trace the net.
    """
    n = torch.export.Dim("n", min=1, max=4096)
    known = free or [("n",)] * len(sample)
    shapes = tuple(
        {k: n if k == 0 else torch.export.Dim.DYNAMIC for k, name in enumerate(each) if name}
        for each in known
    )
    try:
        with torch.no_grad(), unfused_attention(), _quiet():
            program = torch.export.export(
                _Logits(_spelled(module)).eval(),
                tuple(map(_plain, sample if free is None else first(sample, 4))),
                dynamic_shapes=None if free is None else {"inputs": shapes},
            )
    except Exception as error:  # it fails in many ways, all with the user's net as the reason
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        way = next((words for sign, words in _WAYS.items() if sign in reason), "")
        reason = reason.partition(" For more information")[0].rstrip(".! ")
        raise UserError(f"torch.export can't trace the net: {reason}{way}") from error
    for graph in (m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)):
        for node in graph.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program
