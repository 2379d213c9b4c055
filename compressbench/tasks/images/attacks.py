"""Attacks on images within an L-infinity ball of encoded pixels, against a prepared module (``models.prepared``).

Goodfellow et al. 2015 (fast gradient sign); Madry et al. 2018 (projected gradient descent). The gradient is
taken by the input only. An example that has fallen can be left alone from then on, as the word attacks of
the loyalty paper do (Xu et al. 2021), which saves most of the work: that an example falls at all stays the
same or becomes more likely, since the last step needn't be the worst.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.outputs import Outputs, forward
from compressbench.tasks.task import Surface

Loss = Callable[[Outputs, Tensor], Tensor]
BATCH = 64


class NoGradient(UserError):
    """The model's output doesn't depend on its input in a way that a gradient can follow."""


@dataclass(frozen=True)
class Ball:
    """How far an attack may go.

    Attributes:
        surface: bounds of valid pixels and size of a pixel unit, in encoded units.
        eps: largest change of a pixel, 1.0 being the full range.
    """

    surface: Surface
    eps: float

    def into(self, inputs: Tensor, centre: Tensor) -> Tensor:
        """The nearest valid images within ``eps`` of the centre."""
        reach = self.eps * self.surface.scale
        near = centre + torch.minimum(torch.maximum(inputs - centre, -reach), reach)
        return torch.minimum(torch.maximum(near, self.surface.low), self.surface.high)


def log_probs(module: nn.Module, inputs: Tensor) -> Tensor:
    """(n, classes) log-probabilities of encoded images, float32, without gradients, a batch at a time."""
    with torch.inference_mode():
        parts = [forward(module, part).logits.float().log_softmax(dim=-1) for part in inputs.split(BATCH)]
        return torch.cat(parts)


def loss_gradient(module: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Gradient of the summed loss by the inputs, same shape, and the logits (n, classes) it came from.

    Args:
        loss: (outputs, labels) to the mean over the batch.

    Raises:
        NoGradient: the logits carry none.
    """
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        outputs = forward(module, leaf)
        if not outputs.logits.requires_grad:
            raise NoGradient(
                f"{type(module).__name__} passes no gradient to its input; this attack needs one"
            )
        # Sum, not mean: divided by the batch size, a small gradient could underflow to 0 in a large batch alone.
        total = loss(outputs, labels) * len(labels)
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return (torch.zeros_like(inputs) if gradient is None else gradient), outputs.logits.detach()


def fgsm(module: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss, ball: Ball) -> Tensor:
    """One step of ``eps`` in the direction of the gradient's sign: images like ``inputs`` (n, c, h, w)."""
    return pgd(module, inputs, labels, loss, ball, steps=1, step=ball.eps)


def pgd(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: Loss,
    ball: Ball,
    steps: int,
    step: float,
    start: Tensor | None = None,
    drop_fallen: bool = False,
    batch: int = BATCH,
) -> Tensor:
    """Projected gradient ascent on the loss, without targets: images like ``inputs`` (n, c, h, w).

    Args:
        inputs: encoded images, valid pixels.
        labels: (n,) true classes.
        steps: gradient steps.
        step: length of each, in pixel units (1.0 is the full range).
        start: where to start, e.g. from ``random_start``; the inputs themselves by default.
        drop_fallen: leaves an example as it is once the model gets it wrong.
        batch: examples a forward; those still attacked are gathered, so that batches stay full.
    """
    reached = inputs.clone() if start is None else start.clone()
    stride = step * ball.surface.scale
    active = torch.arange(len(inputs), device=inputs.device)
    for _ in range(steps):
        if not len(active):
            break
        standing = []
        for rows in active.split(batch):
            current = reached[rows]
            gradient, logits = loss_gradient(module, current, labels[rows], loss)
            moved = ball.into(current + stride * gradient.sign(), inputs[rows])
            if drop_fallen:
                right = logits.argmax(dim=-1) == labels[rows]
                rows, moved = rows[right], moved[right]
            reached[rows] = moved
            standing.append(rows)
        active = torch.cat(standing)
    return reached


def random_start(inputs: Tensor, ball: Ball, generator: torch.Generator) -> Tensor:
    """Inputs moved by uniform noise within the ball, drawn on the CPU."""
    noise = torch.rand(inputs.shape, generator=generator).mul_(2).sub_(1).to(inputs.device)
    return ball.into(inputs + noise * (ball.eps * ball.surface.scale), inputs)
