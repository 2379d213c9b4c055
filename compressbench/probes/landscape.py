"""The loss as a function of a net's weights: its value, gradient, curvature, and how far it stays flat.

All of it is of the net in evaluation mode, on fixed examples, by every parameter that is trained; weights that a mask
holds at zero stay there. Sources: Foret et al. 2021; Keskar et al. 2017; Hochreiter & Schmidhuber 1997.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compressbench.data.examples import known
from compressbench.errors import UserError
from compressbench.inputs import Inputs, first, on, rows
from compressbench.models.equivalent import rescaled
from compressbench.outputs import forward
from compressbench.records import Metric
from compressbench.tasks.task import Task
from compressbench.training.sam import uphill
from compressbench.walking import walk

if TYPE_CHECKING:
    from compressbench.views import View

BLOCK = 250
NEARER = 40
LEAST = 8
"""Products before a top eigenvalue may count as found: a start has little of its vector, and a wrong one looks
settled."""


class NoCurvature(UserError):
    """The loss has no second derivative that could be had."""


@dataclass(frozen=True)
class Landscape:
    """The mean task loss of a module over examples, by its parameters.

    Attributes:
        module: in evaluation mode; ``moved`` changes its parameters and puts them back exactly.
        params: what is moved, by name.
        masks: multipliers of those that have one, by name.
        batches: encoded inputs and labels, moderately large.
        forward_mode: whether all that the module computes has a derivative in forward mode, the cheaper way to a product.
    """

    module: nn.Module
    params: Mapping[str, nn.Parameter]
    masks: Mapping[str, Tensor]
    batches: Sequence[tuple[Inputs, Tensor]]
    task: Task
    forward_mode: bool = True

    @property
    def examples(self) -> int:
        """How many."""
        return sum(len(labels) for _, labels in self.batches)

    def loss(self) -> float:
        """Nats, mean over the examples."""
        with torch.no_grad():
            return math.fsum(
                float(self.task.loss(forward(self.module, *x), y)) * len(y) for x, y in self.batches
            ) / (self.examples)

    def gradient(self) -> Tensor:
        """(parameters,) of the loss."""
        params = list(self.params.values())
        total = torch.zeros(sum(p.numel() for p in params), device=params[0].device)
        with torch.enable_grad():
            for inputs, labels in self.batches:
                loss = self.task.loss(forward(self.module, *inputs), labels)
                found = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
                total += self.flat(found) * len(labels)
        return self.held(total) / self.examples

    def product(self, vector: Tensor) -> Tensor:
        """(parameters,) Hessian times vector, exact: the gradient's derivative along it.

        Raises:
            NoCurvature: something in the net has no second derivative.
        """
        total = torch.zeros_like(vector)
        along = self.held(vector)
        for inputs, labels in self.batches:
            found = (
                self._forward(inputs, labels, along)
                if self.forward_mode
                else self._twice(inputs, labels, along)
            )
            total += self.flat(found) * len(labels)
        return self.held(total) / self.examples

    def _forward(self, inputs: Inputs, labels: Tensor, along: Tensor) -> list[Tensor]:
        """Forward over reverse."""
        at = {n: p.detach() for n, p in self.params.items()}

        def loss(named: dict[str, Tensor]) -> Tensor:
            return self.task.loss(forward(lambda *x: self._called(named, x), *inputs), labels)

        found: dict[str, Tensor] = torch.func.jvp(torch.func.grad(loss), (at,), (self.named(along),))[1]
        return [found[n] for n in at]

    def _twice(self, inputs: Inputs, labels: Tensor, along: Tensor) -> list[Tensor]:
        """Reverse over reverse; fused attention kernels have no second derivative, plain ones have."""
        params = list(self.params.values())
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss = self.task.loss(forward(self.module, *inputs), labels)
            try:
                first = torch.autograd.grad(
                    loss, params, create_graph=True, allow_unused=True, materialize_grads=True
                )
                slope = sum(((g * v).sum() for g, v in zip(first, self.shaped(along), strict=True)), loss * 0)
                return list(torch.autograd.grad(slope, params, allow_unused=True, materialize_grads=True))
            except (NotImplementedError, RuntimeError) as error:
                raise NoCurvature(f"no second derivative: {str(error).splitlines()[0]}") from error

    def _called(self, named: dict[str, Tensor], inputs: Inputs) -> Any:
        buffers = dict(self.module.named_buffers())
        return torch.func.functional_call(self.module, (named, buffers), inputs)

    def flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """One vector of a tensor for each parameter."""
        return torch.cat([t.reshape(-1) for t in tensors])

    def shaped(self, vector: Tensor) -> list[Tensor]:
        """A tensor for each parameter of one vector."""
        parts = vector.split([p.numel() for p in self.params.values()])
        return [v.view(p.shape) for v, p in zip(parts, self.params.values(), strict=True)]

    def held(self, vector: Tensor) -> Tensor:
        """The vector, zero where a mask holds a weight."""
        if not self.masks:
            return vector
        return self.flat([t * self.masks[n] if n in self.masks else t for n, t in self.named(vector).items()])

    def movable(self) -> Tensor:
        """(parameters,) 1 for what can move, 0 where a mask holds a weight."""
        return self.held(torch.ones_like(self.weights()))

    @property
    def free(self) -> int:
        """Weights that can move."""
        return int(self.movable().sum())

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """``shaped`` by name."""
        return dict(zip(self.params, self.shaped(vector), strict=True))

    def weights(self) -> Tensor:
        """(parameters,) as they are."""
        return self.flat([p.detach() for p in self.params.values()])

    @contextlib.contextmanager
    def moved(self, move: Tensor) -> Iterator[None]:
        """Inside, the parameters are those plus ``move``; afterwards they are what they were, bit by bit."""
        params: list[Tensor] = list(self.params.values())
        before = [p.detach().clone() for p in params]
        with torch.no_grad():
            torch._foreach_add_(params, self.shaped(move))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, before)

    def loss_at(self, move: Tensor) -> float:
        """The loss where the parameters are moved; infinite where it is not a number."""
        with self.moved(move):
            value = self.loss()
        return value if math.isfinite(value) else math.inf


def random_direction(landscape: Landscape, generator: torch.Generator) -> Tensor:
    """(parameters,) a Gaussian draw of length 1, zero where masks hold."""
    size = sum(p.numel() for p in landscape.params.values())
    drawn = landscape.held(torch.randn(size, generator=generator).to(landscape.weights().device))
    return drawn / drawn.norm()


def ascent(landscape: Landscape, gradient: Tensor, rho: float, adaptive: bool = False) -> float:
    """Loss at the first-order worst place within a radius minus the loss itself, in nats (Foret et al. 2021).

    Args:
        gradient: ``landscape.gradient()``.
        rho: the radius; relative to the weights where ``adaptive`` (Kwon et al. 2021).
    """
    params = [p.detach() for p in landscape.params.values()]
    moves = uphill(params, landscape.shaped(gradient), rho, adaptive)
    return landscape.loss_at(landscape.flat(moves)) - landscape.loss()


@dataclass(frozen=True)
class Extreme:
    """The largest eigenvalue found, its vector, an estimate of its error, and the number of products it took."""

    value: float
    vector: Tensor
    error: float
    products: int


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, tolerance: float = 0.01, most: int = 40
) -> Extreme:
    """Largest eigenvalue of a symmetric operator, by Lanczos with every vector kept orthogonal to all before.

    It stops after ``LEAST`` products or more, when two in a row say that min(r, r² / gap) is within ``tolerance`` of the
    value, r the residual of the largest Ritz value and gap its distance to the next (Parlett 1980); or after
    ``most``. That estimates the error to *an* eigenvalue; a larger one of which the start has nearly nothing may
    still be missed.

    Args:
        start: (n,) not zero.
    """
    settled = 0
    for step in krylov(product, start):
        size = step.size
        values, vectors = torch.linalg.eigh(step.inner)
        top = float(values[-1])
        residual = step.beta * abs(float(vectors[-1, -1]))
        gap = top - float(values[-2]) - residual if size > 1 else 0.0
        error = min(residual, residual**2 / gap) if gap > 0 else residual
        settled = settled + 1 if size > 1 and error <= tolerance * abs(top) else 0
        done = settled >= 2 and size >= LEAST
        if done or size >= most or step.last:
            vector = vectors[:, -1].to(start.dtype).to(start.device) @ torch.stack(list(step.basis))
            return Extreme(top, vector, error, size)
    raise AssertionError("the last step says that it is")


@dataclass(frozen=True)
class Krylov:
    """An operator as it is in the space of its first powers on a vector.

    Attributes:
        inner: (size, size) float64, tridiagonal.
        basis: ``size`` vectors of length 1, orthogonal to each other.
        beta: length of what the operator adds to the space.
        last: whether there is no more to add.
    """

    inner: Tensor
    basis: Sequence[Tensor]
    beta: float
    last: bool

    @property
    def size(self) -> int:
        """Products taken."""
        return len(self.inner)


def krylov(product: Callable[[Tensor], Tensor], start: Tensor) -> Iterator[Krylov]:
    """Lanczos' recurrence of a symmetric operator, every vector kept orthogonal to all before; a step a product.

    Args:
        start: (n,) not zero.
    """
    basis = [(start / start.norm())]
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        new = product(basis[-1])
        alphas.append(float(new @ basis[-1]))
        for _ in range(2):  # Gram-Schmidt twice: once is not enough in single precision
            stacked = torch.stack(basis)
            new = new - (stacked @ new) @ stacked
        beta = float(new.norm())
        size = len(alphas)
        inner = torch.zeros(size, size, dtype=torch.float64)
        inner += torch.diag(torch.tensor(alphas, dtype=torch.float64))
        for k, b in enumerate(betas):
            inner[k, k + 1] = inner[k + 1, k] = b
        last = size >= len(start) or beta <= 1e-7 * max(abs(a) for a in alphas)
        yield Krylov(inner, tuple(basis), beta, last)
        if last:
            return
        betas.append(beta)
        basis.append(new / beta)


def trace(landscape: Landscape, generator: torch.Generator, samples: int) -> list[float]:
    """Estimates of the Hessian's trace, one a sample: z H z for z of +1 and -1 (Hutchinson 1990)."""
    found = []
    for _ in range(samples):
        z = (
            torch.randint(0, 2, landscape.weights().shape, generator=generator).to(landscape.weights()) * 2
            - 1
        )
        z = landscape.held(z)
        found.append(float(z @ landscape.product(z)))
    return found


def keskar(
    landscape: Landscape,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
    dimensions: int | None = None,
) -> float:
    """Epsilon-sharpness, 100 (max L(w + A z) - L(w)) / (1 + L(w)) over |z_i| <= epsilon (|(A⁺ w)_i| + 1), in %.

    Keskar, Mudigere, Nocedal, Smelyanskiy, Tang, ICLR 2017, metric 2.1. The maximum is searched by projected gradient
    ascent, the best place on the way counts; what is found is a lower bound.

    Args:
        epsilon: 1e-3 or 5e-4 in the paper.
        steps: gradients.
        dimensions: of a random subspace, columns of A of length 1; None for all, A the identity.

    Raises:
        UserError: more dimensions than weights that can move.
    """
    if dimensions is not None and dimensions > landscape.free:
        raise UserError(f"dimensions: {dimensions} is more than the {landscape.free} weights that can move")
    columns = (
        None
        if dimensions is None
        else torch.stack([random_direction(landscape, generator) for _ in range(dimensions)])
    )

    def to_weights(z: Tensor) -> Tensor:
        return landscape.held(z if columns is None else z @ columns)

    def from_weights(w: Tensor) -> Tensor:
        return w if columns is None else columns @ w

    at = from_weights(landscape.weights())
    if columns is not None:
        at = torch.linalg.solve(columns @ columns.T, at)
    box = epsilon * (at.abs() + 1)
    base = landscape.loss()
    best, z = base, torch.zeros_like(at)
    for step in range(steps):
        with landscape.moved(to_weights(z)):
            slope = from_weights(landscape.gradient())
        # The first steps go to a corner, as the linear part asks; later ones move within the box.
        length = 2.0 if step == 0 else 1.0 / step
        z = torch.clamp(z + length * box * slope.sign(), -box, box)
        best = max(best, landscape.loss_at(to_weights(z)))
    return 100 * (best - base) / (1 + base)


def extent(landscape: Landscape, direction: Tensor, rise: float, farthest: float, refine: int = 8) -> float:
    """How far one can go along a direction before the loss has risen by ``rise``; ``farthest`` where it never does.

    The distance doubles until the loss is too high, then the interval is halved ``refine`` times: a ridge narrower than
    the doubling steps is not seen.

    Args:
        direction: (parameters,) of length 1.
        rise: nats.
        farthest: length.
    """
    limit = landscape.loss() + rise
    low, high = 0.0, farthest / 2**10
    while landscape.loss_at(direction * high) <= limit:
        low, high = high, 2 * high
        if low >= farthest:
            return farthest
    for _ in range(NEARER if low == 0 else 0):  # the first step already rose too much: shorten it
        if landscape.loss_at(direction * high / 2) <= limit:
            low = high / 2
            break
        high /= 2
    for _ in range(refine):
        middle = (low + high) / 2
        if landscape.loss_at(direction * middle) <= limit:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def landscape_of(
    module: nn.Module,
    masks: Mapping[str, Tensor],
    batches: Sequence[tuple[Inputs, Tensor]],
    task: Task,
) -> Landscape:
    """The landscape of a module that is in evaluation mode.

    Raises:
        UserError: a module without parameters, which has none.
    """
    params = {n: p for n, p in module.named_parameters() if p.is_floating_point() and p.numel()}
    if not params:
        raise UserError("the model has no parameters: its loss has no sharpness")
    for parameter in params.values():
        parameter.requires_grad_(True)
    device = next(iter(params.values())).device
    multipliers = {
        n: torch.empty_like(params[n], dtype=torch.float32).copy_(m) for n, m in masks.items() if n in params
    }
    placed = [(on(x, device), y.to(device)) for x, y in batches]
    made = Landscape(module.eval(), params, multipliers, placed, task)
    return replace(made, forward_mode=_differentiable_forwards(made))


def _differentiable_forwards(landscape: Landscape) -> bool:
    inputs, labels = landscape.batches[0]
    try:
        landscape._forward(first(inputs, 2), labels[:2], landscape.weights())
    except (NotImplementedError, RuntimeError):
        return False
    return True


Form = tuple[str, tuple[Landscape, str] | str]
Names = Sequence[tuple[str, str]]
Measured = Callable[[Landscape, str, str], Iterable[Metric]]


def of_both(view: View, examples: int, factor: float, names: Names, measure: Measured) -> Iterator[Metric]:
    """A probe's metrics of both ``forms``; those of the second are called ``…_rescaled``.

    Args:
        names: names and units of the metrics of which a landscape that can't be had has no value.
        measure: takes a landscape, the suffix of its metrics, and what is to be noted of it.

    Raises:
        UserError: a model without parameters.
    """
    for suffix, found in forms(view, examples, factor):
        if isinstance(found, str):
            yield from without(found, names, suffix)
        else:
            place, note = found
            yield from measure(place, suffix, note)


def without(why: str, names: Names, suffix: str) -> Iterator[Metric]:
    """Metrics that could not be had."""
    for name, unit in names:
        yield Metric(f"{name}{suffix}", None, unit, note=why)


def noted(*sentences: str) -> str:
    """A note of those that aren't empty."""
    return "; ".join(filter(None, sentences))


def forms(view: View, examples: int, factor: float) -> Iterator[Form]:
    """A state's landscape, then that of the same function with rescaled weights; suffix of the metrics first.

    What can't be had is the reason why. The second comes with a sentence that says what was scaled.

    Raises:
        UserError: a model without parameters.
    """
    place = as_it_is(view, examples)
    if isinstance(place, str):
        yield from (("", place), ("_rescaled", place))
        return
    yield "", (place, "")
    found = rescaled(place.module, factor, first(place.batches[0][0], 8))
    if isinstance(found, str):
        yield "_rescaled", found
        return
    other, count = found
    relus = f"{count} ReLU{'s' if count > 1 else ''}"
    note = f"layers before and after {relus} scaled by {factor:g} and its inverse, same function"
    yield "_rescaled", (landscape_of(other, view.state.masks, place.batches, view.bench.task), note)


def as_it_is(view: View, examples: int) -> Landscape | str:
    """A state's landscape on the first training examples that have a label, or why it has none.

    Raises:
        UserError: a model without parameters.
    """
    if any("quantize" in edit for edit in view.state.edits):
        return "its layers round: the loss is a staircase by the weights, without a slope"
    task, module = view.bench.task, copy.deepcopy(view.module)
    placed = task.placed(module)
    batches = [
        (placed.inputs(task.encode(batch)), batch.labels)
        for _, batch in walk(view.bench.task, view.bench.feed("train"), BLOCK, examples)
    ]
    batches = [(rows(x, known(y)), y[known(y)]) for x, y in batches if bool(known(y).any())]
    if not batches:
        return f"none of the first {examples} training examples has a label"
    return landscape_of(placed.module, view.state.masks, batches, task)
