"""Factorisation: is a trained product of two matrices a global minimum? Certificate and closed form."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric
from compressbench.specs import TARGET, Count, Positive, check_fields

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.state import State
    from compressbench.views import View

NAMES = (
    ("columns", "1"),
    ("columns_zero", "1"),
    ("columns_needed", "1"),
    ("objective", "1"),
    ("objective_optimum", "1"),
    ("objective_gap", "1"),
    ("slope", "1"),
    ("curvature_smallest", "1"),
    ("curvature_smallest_widened", "1"),
    ("certificate", "1"),
    ("is_global", "1"),
)
MODEL = "compressbench.models.shallow.Factorised"
OTHER = "of a product of two matrices (model=factorised) trained by least squares on vectors alone"


@dataclass(frozen=True)
class Factorisation:
    """F(U, V) = 1/(2n) ||Y - U V^T X||^2 + decay/2 (||U||^2 + ||V||^2) at a trained state, beside its least value.

    Over any number of columns the least of F is that of a convex problem, 1/(2n) ||Y - M X||^2 + decay ||M||_nuclear,
    which for orthonormal examples (X^T X = I) is solved by lowering the singular values of Y by n decay. Haeffele and
    Vidal (CVPR 2017): a local minimum with an all-zero column is global. ``certificate``: decay less the largest
    singular value of the loss's gradient by M. A stationary point where it is not below 0 is a global minimum; where it
    is, a new all-zero column would find a way down, which ``curvature_smallest_widened`` (the smallest eigenvalue of the
    Hessian, one such column appended) says too. All of it in float64.

    Attributes:
        weight_decay: of the training that made the state, which holds none: with another, ``slope`` isn't near 0.
        tolerance: what counts as 0: of columns relative to the largest singular value of U above V, of the certificate
            relative to the decay, of the slope as it is.
        most: numbers in U and V up to which the Hessian is computed.

    Raises:
        UserError: a setting out of range.
    """

    weight_decay: Positive = 0.05
    tolerance: Positive = 1e-3
    most: Count = 2000
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject alone."""
        why = self._unfit(subject.state, bench)
        if why:
            yield from (Metric(name, None, unit, note=why) for name, unit in NAMES)
            return
        u, v = (subject.state.weights[f"{side}.weight"].double() for side in ("left", "right"))
        feed = bench.feed("train")
        x, y = targets(feed["x"].cpu(), feed.labels.cpu(), len(bench.task.classes))
        problem = Problem(x, y, self.weight_decay)
        yield from self._found(problem, u, v.T)

    def _unfit(self, state: State, bench: Bench) -> str:
        import torch

        if state.model.get(TARGET) != MODEL or state.edits or getattr(bench.task, "targets", "") != "one_hot":
            return OTHER
        x = bench.feed("train")["x"].double().cpu()
        if not torch.allclose(x @ x.T, torch.eye(len(x), dtype=x.dtype), atol=1e-6):
            return "the examples are not orthonormal, so that the optimum has no closed form"
        return ""

    def _found(self, problem: Problem, u: Tensor, v: Tensor) -> Iterable[Metric]:
        n, columns = len(problem.x), u.shape[1]
        optimum, rank = problem.optimum()
        own = problem.value(u, v)
        certificate = problem.certificate(u, v)
        slope = problem.slope(u, v)
        yield Metric("columns", float(columns), "1", "computed")
        yield Metric(
            "columns_zero", float(zero_columns(u, v, self.tolerance)), "1", "computed",
            note="as they are, or after a rotation of the columns, by which the objective stays what it is",
        )  # fmt: skip
        yield Metric(
            "columns_needed", float(rank), "1", "computed", note="rank of the optimum in closed form"
        )
        yield Metric("objective", own, "1", n=n)
        yield Metric("objective_optimum", optimum, "1", "computed", n=n)
        yield Metric("objective_gap", own - optimum, "1", "computed", n=n)
        yield Metric("slope", slope, "1", "computed", n=n, note="length of the gradient by U and V")
        yield from self._curvatures(problem, u, v)
        yield Metric("certificate", certificate, "1", "computed", n=n)
        least = -self.tolerance * problem.decay
        if slope > self.tolerance:
            yield Metric("is_global", None, "1", "computed", note="not yet a stationary point: train longer")
        else:
            yield Metric("is_global", float(certificate >= least), "1", "computed", n=n)

    def _curvatures(self, problem: Problem, u: Tensor, v: Tensor) -> Iterable[Metric]:
        import torch

        wider = [torch.cat((part, torch.zeros(len(part), 1, dtype=part.dtype)), dim=1) for part in (u, v)]
        for name, pair in (("curvature_smallest", (u, v)), ("curvature_smallest_widened", wider)):
            size = sum(part.numel() for part in pair)
            if size > self.most:
                why = f"{size} numbers in U and V, more than {self.most}"
                yield Metric(name, None, "1", "computed", note=why)
                continue
            found = torch.linalg.eigvalsh(problem.hessian(*pair))
            yield Metric(name, float(found[0]), "1", "computed", n=len(problem.x))


@dataclass(frozen=True)
class Problem:
    """F(U, V) = 1/(2n) ||Y - U V^T X||^2 + decay/2 (||U||^2 + ||V||^2).

    Attributes:
        x: (n, features) float64, the examples, orthonormal rows.
        y: (n, classes) float64, what they are to become.
    """

    x: Tensor
    y: Tensor
    decay: float

    def value(self, u: Tensor, v: Tensor) -> float:
        """At (classes, columns) and (features, columns)."""
        return float(self._value(u, v))

    def _value(self, u: Tensor, v: Tensor) -> Tensor:
        error = self.y - self.x @ v @ u.T
        return (error**2).sum() / (2 * len(self.x)) + self.decay / 2 * ((u**2).sum() + (v**2).sum())

    def by_matrix(self, u: Tensor, v: Tensor) -> Tensor:
        """(classes, features) gradient of the loss alone by the matrix M = U V^T."""
        return -(self.y - self.x @ v @ u.T).T @ self.x / len(self.x)

    def slope(self, u: Tensor, v: Tensor) -> float:
        """Length of the whole gradient by U and V."""
        g = self.by_matrix(u, v)
        return float(((g @ v + self.decay * u) ** 2).sum() + ((g.T @ u + self.decay * v) ** 2).sum()) ** 0.5

    def certificate(self, u: Tensor, v: Tensor) -> float:
        """The decay less the largest singular value of the loss's gradient by M."""
        import torch

        return self.decay - float(torch.linalg.svdvals(self.by_matrix(u, v))[0])

    def optimum(self) -> tuple[float, int]:
        """The least value over any number of columns, in closed form, and the rank of its matrix."""
        import torch

        n = len(self.x)
        values = torch.linalg.svdvals(self.y)
        left = (values - n * self.decay).clamp(min=0)
        whole = ((values - left) ** 2).sum() / (2 * n) + self.decay * left.sum()
        return float(whole), int((left > 0).sum())

    def hessian(self, u: Tensor, v: Tensor) -> Tensor:
        """(numbers, numbers) by all of U, then all of V."""
        import torch

        shapes, sizes = (u.shape, v.shape), (u.numel(), v.numel())

        def at(flat: Tensor) -> Tensor:
            one, other = flat.split(sizes)
            return self._value(one.view(shapes[0]), other.view(shapes[1]))

        with warnings.catch_warnings():  # torch's own use of torch.jit.script, with a path of this machine
            warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
            found: Tensor = torch.func.hessian(at)(torch.cat((u.reshape(-1), v.reshape(-1))))
        return (found + found.T) / 2


def zero_columns(u: Tensor, v: Tensor, tolerance: float) -> int:
    """Columns that U and V have beyond the rank of one above the other: a rotation of the columns makes them all zero.

    F doesn't change by it: U R (V R)^T = U V^T, and lengths stay what they are.
    """
    import torch

    found = torch.linalg.svdvals(torch.cat((u, v)))
    return u.shape[1] - int((found > tolerance * found[0]).sum())


def targets(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Examples and one-hot targets, float64."""
    import torch.nn.functional as F

    return x.double(), F.one_hot(labels, classes).double()
