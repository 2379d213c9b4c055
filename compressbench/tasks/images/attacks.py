"""Attacks on images within an L-infinity ball of encoded pixels, against a prepared module (``models.prepared``).

Goodfellow et al. 2015 (fast gradient sign); Madry et al. 2018 (projected gradient descent); Carlini & Wagner 2017 (the
margin as the loss); Croce & Hein 2020 (difference of logits ratio). The gradient is taken by the input only. An example
that has fallen can be left alone from then on, as the word attacks of the loyalty paper do (Xu et al. 2021), which
saves most of the work: that an example falls at all stays the same or becomes more likely, since the last step needn't
be the worst.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from compressbench.errors import UserError
from compressbench.metrics import named
from compressbench.outputs import Outputs, forward
from compressbench.tasks.task import Surface

Loss = Callable[[Outputs, Tensor], Tensor]
Watch = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Told of every batch of a step: which rows, their images, the logits and the gradient there."""
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


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """(n,) the best other class's score minus the label's: above 0 where another class is named."""
    own = scores.gather(1, labels[:, None]).squeeze(1)
    return scores.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own


def margin_loss(outputs: Outputs, labels: Tensor) -> Tensor:
    """Mean of ``margins`` of the logits: unlike the cross-entropy it has a gradient where the softmax is 1 (Carlini &
    Wagner 2017)."""
    return margins(outputs.logits.float(), labels).mean()


def dlr_loss(outputs: Outputs, labels: Tensor) -> Tensor:
    """Mean difference of logits ratio, ``margins`` over the distance of the first from the third logit.

    Croce & Hein (ICML 2020), equation 6: the same whatever all logits are multiplied by or moved by. Three classes or
    more.
    """
    logits = outputs.logits.float()
    best = logits.sort(dim=1, descending=True).values
    return (margins(logits, labels) / (best[:, 0] - best[:, 2] + 1e-12)).mean()


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
    watch: Watch | None = None,
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
        watch: told of every batch before it is moved.
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
            if watch is not None:
                watch(rows, current, logits, gradient)
            moved = ball.into(current + stride * gradient.sign(), inputs[rows])
            if drop_fallen:
                right = logits.argmax(dim=-1) == labels[rows]
                rows, moved = rows[right], moved[right]
            reached[rows] = moved
            standing.append(rows)
        active = torch.cat(standing)
    return reached


@dataclass(frozen=True)
class Course:
    """What became of images under an attack by gradients, none of them wrong before.

    Attributes:
        images: (n, c, h, w), each when it first fell, or at the end.
        log_probs: (n, classes) float32, what the model says there.
        fallen: (n,) bool, another class was named at any time.
        end: (n, c, h, w), after all steps; the same as ``images`` where what has fallen was left alone.
        flat: (n,) bool, the gradient was 0 everywhere where the attack began.
        rise: (n,) how much ``margins`` of the log-probabilities grew from where it began to ``images``.
    """

    images: Tensor
    log_probs: Tensor
    fallen: Tensor
    end: Tensor
    flat: Tensor
    rise: Tensor


def traced(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss: Loss,
    ball: Ball,
    steps: int,
    step: float,
    start: Tensor | None = None,
    drop_fallen: bool = True,
) -> Course:
    """``pgd``, and what its own forwards said on the way; only what never fell is forwarded once more, at the end."""
    n, device = len(inputs), inputs.device
    reached = inputs.clone() if start is None else start.clone()
    fallen = torch.zeros(n, dtype=torch.bool, device=device)
    flat, seen = torch.zeros_like(fallen), torch.zeros_like(fallen)
    began = torch.zeros(n, device=device)
    said: list[Tensor] = []

    def watch(rows: Tensor, images: Tensor, logits: Tensor, gradient: Tensor) -> None:
        found = logits.float().log_softmax(dim=-1)
        if not said:
            said.append(found.new_zeros(n, found.shape[1]))
        fresh = ~seen[rows]
        if bool(fresh.any()):
            seen[rows] = True
            began[rows[fresh]] = margins(found, labels[rows])[fresh]
            flat[rows[fresh]] = (gradient == 0).flatten(1).all(dim=1)[fresh]
        fell = (named(found) != labels[rows]) & ~fallen[rows]
        reached[rows[fell]], said[0][rows[fell]], fallen[rows[fell]] = images[fell], found[fell], True

    end = pgd(module, inputs, labels, loss, ball, steps, step, reached.clone(), drop_fallen, watch=watch)
    left = (~fallen).nonzero().squeeze(1)
    if len(left) or not said:
        last = log_probs(module, end[left])
        if not said:
            said.append(last.new_zeros(n, last.shape[1]))
        reached[left], said[0][left] = end[left], last
        fallen[left] = named(last) != labels[left]
    rise = torch.where(seen, margins(said[0], labels) - began, 0.0)
    return Course(reached, said[0], fallen, end, flat, rise)


def restarted(first: Course, again: Callable[[Tensor, int], Course], restarts: int, labels: Tensor) -> Course:
    """The best of several starts: what still stands is attacked again, and the image nearest to falling is kept.

    Args:
        first: from the first start.
        again: (rows, number of the start) to the course of those rows from another start.
        restarts: starts in all, 1 or more.
        labels: (n,) true classes.
    """
    best = first
    for number in range(1, restarts):
        rows = (~best.fallen).nonzero().squeeze(1)
        if not len(rows):
            break
        other = again(rows, number)
        nearer = margins(other.log_probs, labels[rows]) > margins(best.log_probs[rows], labels[rows])
        take = other.fallen | nearer
        best = replace(
            best,
            images=best.images.index_copy(0, rows[take], other.images[take]),
            log_probs=best.log_probs.index_copy(0, rows[take], other.log_probs[take]),
            fallen=best.fallen.index_copy(0, rows[take], other.fallen[take]),
            end=best.end.index_copy(0, rows[take], other.end[take]),
        )
    return best


def corners(inputs: Tensor, ball: Ball, generator: torch.Generator) -> Tensor:
    """Inputs with every value moved by ``eps`` up or down, drawn on the CPU: the largest noise of the ball."""
    signs = torch.randint(0, 2, inputs.shape, generator=generator).mul_(2).sub_(1).to(inputs.device)
    return ball.into(inputs + signs * (ball.eps * ball.surface.scale), inputs)


def random_start(inputs: Tensor, ball: Ball, generator: torch.Generator) -> Tensor:
    """Inputs moved by uniform noise within the ball, drawn on the CPU."""
    noise = torch.rand(inputs.shape, generator=generator).mul_(2).sub_(1).to(inputs.device)
    return ball.into(inputs + noise * (ball.eps * ball.surface.scale), inputs)
