"""Least squares on vectors: a net's answer is to be the label itself, -1 or +1, or the unit vector of the class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compressbench.data.examples import Examples
    from compressbench.inputs import Inputs
    from compressbench.outputs import Outputs
    from compressbench.tasks.task import NoSurface, Pieces, Placed

TARGETS = ("signs", "one_hot")


@dataclass(frozen=True)
class LeastSquares:
    """Half the squared distance of the answer to the target, mean over examples; the column ``x`` (n, features).

    Attributes:
        classes: names in label order.
        features: numbers of an example.
        targets: ``signs``: two classes, the answer is the difference of the two logits over 2 (a net of one output f
            gives (-f, f)), the target -1 or +1; ``one_hot``: the answer is all logits, the target the class's unit
            vector.
    """

    classes: tuple[str, ...]
    features: int
    targets: str = "signs"
    metric: str = "top1"
    inputs: tuple[str, ...] = ("x",)

    def encode(self, examples: Examples, variation: Inputs | None = None) -> Inputs:
        """Float32 (n, features), as they are."""
        return (examples["x"].float(),)

    def varies(self) -> bool:
        """Never."""
        return False

    def variation(self, n: int, generator: torch.Generator) -> Inputs:
        """Nothing."""
        return ()

    def blank(self, n: int) -> Inputs:
        """Zeros (n, features)."""
        import torch

        return (torch.zeros(n, self.features),)

    def drawn(self, n: int, generator: torch.Generator) -> Inputs:
        """Gaussian (n, features) of length about 1."""
        import torch

        return (torch.randn(n, self.features, generator=generator) / self.features**0.5,)

    def placed(self, module: nn.Module) -> Placed:
        """As it is."""
        from compressbench.tasks.task import Placed

        return Placed(module, tuple)

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Half the squared distance, mean over the batch; no unit of likelihood."""
        return self.distances(outputs, labels).mean()

    def distances(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """(n,) half the squared distance of each answer to its target."""
        import torch.nn.functional as F

        logits = outputs.logits
        if self.targets == "signs":
            return ((logits[:, 1] - logits[:, 0]) / 2 - (2 * labels - 1)) ** 2 / 2
        return ((logits - F.one_hot(labels, len(self.classes))) ** 2).sum(1) / 2

    def answers(self, outputs: Outputs) -> Tensor:
        """(n,) the class whose target is nearest; -1, which is no class, where a logit is no number."""
        from compressbench.metrics import named

        return named(outputs.logits)

    def right(self, answers: Tensor, labels: Tensor) -> Tensor:
        """(n,) bool, the class is the label."""
        return answers == labels

    def log_probs(self, outputs: Outputs, labels: Tensor) -> Pieces:
        """(n, classes): what a class's probability is if answers are targets plus Gaussian noise of variance 1."""
        import torch
        import torch.nn.functional as F

        from compressbench.tasks.task import Pieces

        found = F.log_softmax(outputs.logits.float(), dim=-1)
        return Pieces(found, torch.arange(len(found), device=found.device), labels)

    def surface(self, device: str = "cpu") -> NoSurface:
        """None."""
        from compressbench.tasks.task import NoSurface

        return NoSurface("these points are made for a theorem; nothing says how far one may be moved")

    def facts(self) -> Mapping[str, Any]:
        """``@classes``, ``@features``."""
        return {"@classes": len(self.classes), "@features": self.features}

    def feeding(self) -> tuple[str, list[str]]:
        """The points as they are."""
        return f"Input `x`: float32 (n, {self.features}):", ['inputs = {"x": x}']

    def in_words(self) -> str:
        """How many numbers."""
        return f"{self.features} numbers"

    def identity(self) -> tuple[Any, ...]:
        """All of it."""
        return ("least squares", self.classes, self.features, self.targets)


def least_squares(
    train: Examples, classes: tuple[str, ...], name: str = "dataset", targets: str = "signs"
) -> LeastSquares:
    """The task of a data set whose column ``x`` holds vectors.

    Raises:
        UserError: there is no such column, or the targets are unknown or don't fit the classes.
    """
    if targets not in TARGETS:
        raise UserError(f"dataset.task.targets: unknown {targets!r}; {nearest(str(targets), TARGETS)}")
    points = train.columns.get("x")
    if getattr(points, "ndim", 0) != 2:
        raise UserError(
            f"dataset {name}: least squares is of a column x (examples, features), which it lacks"
        )
    if targets == "signs" and len(classes) != 2:
        raise UserError(
            f"dataset {name}: signs are of two classes, and it has {len(classes)}; targets: one_hot"
        )
    return LeastSquares(classes, int(train["x"].shape[1]), targets)
