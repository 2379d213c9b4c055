"""Optimal Brain Damage as in 1989: the diagonal Hessian by one backward recursion (LeCun, Denker, Solla).

Levenberg-Marquardt form: terms with f'' are dropped, so nothing is negative. Cross terms between units are dropped
at every layer, so it is exact only for the last linear layer; weights that are shared sum over their uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from compressbench.criteria.curvature import deletion_costs
from compressbench.criteria.given import Given, Saliency
from compressbench.criteria.gradients import batches, differentiable, finite
from compressbench.errors import UserError

Step = Callable[[Tensor], Tensor]

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
POINTWISE: tuple[Any, ...] = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout, _BatchNorm)
POINTWISE += (F.relu, torch.relu, torch.tanh, torch.sigmoid, "relu", "tanh", "sigmoid", "contiguous")
MOVING: tuple[Any, ...] = (nn.Flatten, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MOVING += (F.max_pool2d, torch.max_pool2d, torch.flatten, "flatten", "reshape", "view")
AVERAGING: tuple[Any, ...] = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
KNOWN = "linear, convolution, ReLU, tanh, pooling, batch norm and flatten, one after another"


def through_weights(layer: nn.Module, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """(curvature of the inputs, of the weight, summed over the batch): sum of w^2 ``above``, of x^2 ``above``.

    A linear layer and a convolution are bilinear in weight and input, so both sums are the ordinary gradients of the
    same layer on squared weights and squared inputs.
    """
    squares = x.square().requires_grad_(True)
    weight = layer.weight.detach().square().requires_grad_(True)  # type: ignore[operator]
    y = functional_call(layer, {"weight": weight}, (squares,))
    below, own = torch.autograd.grad(y, (squares, weight), above)
    return below, own


def through_function(step: Step, x: Tensor, above: Tensor) -> Tensor:
    """f'(x)^2 ``above``, for a function of each entry by itself."""
    slope = _vector_jacobian(step, x, torch.ones_like(above))
    return slope.square() * above


def _vector_jacobian(step: Step, x: Tensor, above: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_(True)
    y = step(leaf.clone())  # a copy, since the step may work in place, which a leaf doesn't allow
    return torch.autograd.grad(y, leaf, above)[0]


def through_average(step: Step, x: Tensor, above: Tensor) -> Tensor:
    """Sum of J^2 ``above``, J the Jacobian of a pooling whose outputs are means of n inputs each: entries 1/n."""
    one = torch.ones_like(x[:1, :1]).requires_grad_(True)
    pooled = step(one)
    share = torch.stack(
        [torch.autograd.grad(part, one, retain_graph=True)[0].amax() for part in pooled.flatten()]
    )
    return _vector_jacobian(step, x, above * share.view(pooled.shape))


def recursion(module: nn.Module, inputs: Tensor, seed: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Diagonal curvature of every weight of linear layers and convolutions, summed over the batch, by name.

    Args:
        module: a chain of supported layers, in evaluation mode.
        inputs: (n, ...).
        seed: from the outputs (n, classes) to the second derivative of the loss in each of them.

    Raises:
        UserError: a layer that is not supported, a branch, or a forward that can't be traced.
    """
    chain = _chain(module)
    names = {id(p): name for name, p in module.named_parameters()}
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        taken = [inputs]
        for node in chain:
            taken.append(_step(module, node)(taken[-1].clone()))
    above = seed(taken.pop())
    for node in reversed(chain):
        x, kind, step = taken.pop(), _kind(module, node), _step(module, node)
        if isinstance(kind, WEIGHTED):
            above, own = through_weights(kind, x, above)
            name = names[id(kind.weight)]
            found[name] = found[name] + own if name in found else own
        elif _is(kind, POINTWISE):
            above = through_function(step, x, above)
        elif _is(kind, MOVING):
            above = _vector_jacobian(step, x, above)
        else:
            above = through_average(step, x, above)
    return found


def _kind(module: nn.Module, node: fx.Node) -> Any:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else node.target


def _is(kind: Any, known: tuple[Any, ...]) -> bool:
    if isinstance(kind, nn.Module):
        return isinstance(kind, tuple(k for k in known if isinstance(k, type)))
    return any(kind is k or (isinstance(k, str) and kind == k) for k in known)


def _step(module: nn.Module, node: fx.Node) -> Step:
    kind = _kind(module, node)
    if node.op == "call_method":
        return lambda x: getattr(x, kind)(*node.args[1:], **node.kwargs)
    return lambda x: kind(x, *node.args[1:], **node.kwargs)


def _chain(module: nn.Module) -> list[fx.Node]:
    """The calls of a traced forward, each fed by the one before alone."""
    try:
        nodes = list(fx.symbolic_trace(module).graph.nodes)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"criterion obd_recursion: {type(module).__name__} can't be traced ({reason}); use obd_fisher"
        ) from error
    before, *calls, last = nodes
    for node in calls:
        kind = _kind(module, node) if node.op.startswith("call") else None
        if not (isinstance(kind, WEIGHTED) or _is(kind, POINTWISE + MOVING + AVERAGING)):
            raise _refusal(node, kind)
        if node.all_input_nodes != [before] or node.args[:1] != (before,):
            raise _refusal(node, kind, "a branch")
        before = node
    if last.args != (before,):
        raise UserError(
            f"criterion obd_recursion: {type(module).__name__} doesn't return its last layer's output; use obd_fisher"
        )
    return calls


def _refusal(node: fx.Node, kind: Any, why: str = "") -> UserError:
    what = type(kind).__name__ if isinstance(kind, nn.Module) else node.name
    inside = list(node.meta.get("nn_module_stack") or {})
    place = f"{node.target} ({what})" if node.op == "call_module" else what
    within = f" in {inside[-1]}" if inside and node.op != "call_module" else ""
    return UserError(
        f"criterion obd_recursion: {why or 'no rule'} at {place}{within}; it knows {KNOWN}; use obd_fisher"
    )


def _only(inputs: Sequence[Tensor]) -> Tensor:
    if len(inputs) != 1:
        raise UserError(
            f"criterion obd_recursion: the net takes {len(inputs)} inputs, it knows chains of one; use obd_fisher"
        )
    return inputs[0]


def cross_entropy_seed(logits: Tensor) -> Tensor:
    """p (1 - p): the diagonal of the Hessian of softmax and cross-entropy in the logits, whatever the label."""
    p = logits.softmax(1)
    return p * (1 - p)


def obd_recursion(given: Given, examples: int = 1024, split: str = "train") -> Saliency:
    """h w^2 / 2 with h from the recursion, mean over examples.

    Args:
        examples: how many are drawn; all there are if fewer.
        split: ``train`` or ``validation``.

    Raises:
        UserError: see ``gradients.batches`` and ``recursion``; scores that are not finite.
    """
    module, parameters = differentiable(given)
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    for inputs, labels, share in batches(given, examples, split):
        for name, own in recursion(module, _only(inputs), cross_entropy_seed).items():
            total[name] += own * share / len(labels)
    return Saliency(
        finite(deletion_costs(given.weights, {n: h.cpu() for n, h in total.items()}), "obd_recursion"),
        predicts_loss=True,
    )
