"""Robustness: what is left under attack, and whether the compressed model sides with the reference there."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric
from compressbench.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.tasks.images.attacks import NoGradient
    from compressbench.views import View


@dataclass(frozen=True)
class Robustness:
    """FGSM and PGD in the L-infinity norm, white-box, without targets.

    Which images are attacked depends on the dataset alone, and the random start on the seed alone, so that
    all states of a run are attacked alike.

    Attributes:
        eps: largest change of a pixel, 1 being the full range; a number or a fraction in quotes.
        steps: of PGD.
        step: length of a step of PGD; a quarter of ``eps`` by default.
        examples: test images to attack, drawn once for all; null for all of them.
        random_start: starts PGD somewhere in the ball instead of at the image.
        drop_fallen: stops attacking an image once it has fallen, as the loyalty paper's attack on text does:
            loyalty is then that at the moment of falling. With false every image takes all steps, at several
            times the cost. Examples made against the reference always take all steps, since what has only
            just fallen hardly transfers.
    """

    VERSION: ClassVar[int] = 2  # 2: answers that are no numbers agree with nothing
    eps: float | str = "8/255"
    steps: int = 10
    step: float | str | None = None
    examples: int | None = 512
    random_start: bool = True
    drop_fallen: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 1:
            raise UserError(
                f"robustness: eps is {self.eps}, must be above 0 and at most 1 (the range of a pixel)"
            )
        if self.stride <= 0 or self.steps < 1:
            raise UserError(f"robustness: step is {self.step} and steps {self.steps}, must both be above 0")
        if self.examples is not None and self.examples < 1:
            raise UserError(f"robustness: examples is {self.examples}, must be at least 1, or null for all")

    @property
    def radius(self) -> float:
        """``eps`` as a number."""
        return _number("eps", self.eps)

    @property
    def stride(self) -> float:
        """Length of a step, in pixel units."""
        return self.radius / 4 if self.step is None else _number("step", self.step)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the same images for all states; loyalty is that of both models on the subject's bad examples."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench import metrics
        from compressbench.tasks.images.attacks import NoGradient
        from compressbench.tasks.task import NoSurface

        surface = bench.task.surface(bench.device)
        if isinstance(surface, NoSurface):
            for name in ("clean", "fgsm", "pgd"):
                yield Metric(f"{name}_accuracy", None, "%", note=surface.why)
            return
        same = subject is reference or bool(subject.state.key and subject.state.key == reference.state.key)
        own = _made_against(reference, self) if same else _try(subject, self)
        theirs = _made_against(reference, replace(self, drop_fallen=False))
        if isinstance(own, NoGradient):
            for name in ("clean", "fgsm", "pgd"):
                yield Metric(f"{name}_accuracy", None, "%", note=str(own))
            return
        n, labels = len(own.labels), own.labels.cpu()
        yield Metric("clean_accuracy", metrics.percent(own.clean), "%", n=n)
        for name, images in (("fgsm", own.fgsm), ("pgd", own.pgd)):
            answers = _log_probs(subject, images)
            yield Metric(f"{name}_accuracy", metrics.percent(metrics.hits(answers, labels)), "%", n=n)
            other = answers if same else _log_probs(reference, images)
            agreed = metrics.label_loyalty(metrics.named(answers), metrics.named(other))
            when = "as it fell" if self.drop_fallen and name == "pgd" else "after all steps"
            yield Metric(f"{name}_label_loyalty", agreed, "%", n=n, note=f"each image {when}")
            close = metrics.probability_loyalty(answers, other)
            yield Metric(
                f"{name}_probability_loyalty", close, "%", n=n, note=f"natural logarithm; each image {when}"
            )
        if isinstance(theirs, NoGradient):
            yield Metric("pgd_transfer_accuracy", None, "%", note=f"reference: {theirs}")
        else:
            moved = metrics.percent(metrics.hits(_log_probs(subject, theirs.pgd), labels))
            yield Metric(
                "pgd_transfer_accuracy", moved, "%", n=n, note="on examples made against the reference"
            )


def attacked_rows(count: int, most: int | None) -> Tensor:
    """Which of ``count`` examples are attacked: all, or some that are the same ones in every run and by every attack."""
    from compressbench.data.examples import order

    return order(count, derive_seed("robustness", "examples"))[:most]


def _number(name: str, value: float | str) -> float:
    try:
        return float(Fraction(str(value)))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"robustness: {name} is {value!r}, must be a number or a fraction such as 8/255"
        ) from error


@dataclass(frozen=True)
class Attacked:
    """Bad examples made against one state: encoded (n, c, h, w), their labels, which it got right before."""

    labels: Tensor
    clean: Tensor
    fgsm: Tensor
    pgd: Tensor

    @staticmethod
    def make(view: View, settings: Robustness) -> Attacked:
        """Attacks the state. An image that it gets wrong as it is has fallen already and stays as it is.

        Raises:
            NoGradient: the model passes none.
        """
        import torch

        from compressbench import metrics
        from compressbench.tasks.images import attacks
        from compressbench.tasks.task import Surface

        bench, task = view.bench, view.bench.task
        feed = bench.feed("test")
        rows = attacked_rows(len(feed), settings.examples).sort().values
        examples = feed.take(rows.to(bench.device))
        (images,), labels = task.encode(examples), examples.labels
        clean = metrics.hits(_log_probs(view, images), labels.cpu())
        surface = task.surface(bench.device)
        assert isinstance(surface, Surface)
        ball = attacks.Ball(surface, settings.radius)
        noise = torch.Generator().manual_seed(derive_seed(bench.seed, "robustness", "start"))
        start = attacks.random_start(images, ball, noise) if settings.random_start else images
        standing = clean.nonzero().squeeze(1).to(images.device)
        target, victims = view.fast, images[standing]
        fgsm, pgd = images.clone(), images.clone()
        fgsm[standing] = attacks.fgsm(target, victims, labels[standing], task.loss, ball)
        pgd[standing] = attacks.pgd(
            target,
            victims,
            labels[standing],
            task.loss,
            ball,
            steps=settings.steps,
            step=settings.stride,
            start=start[standing],
            drop_fallen=settings.drop_fallen,
        )
        return Attacked(labels, clean, fgsm, pgd)


_of_references: weakref.WeakKeyDictionary[View, dict[Robustness, Attacked | NoGradient]]
_of_references = weakref.WeakKeyDictionary()


def _made_against(reference: View, settings: Robustness) -> Attacked | NoGradient:
    """Bad examples against a reference, made once for all subjects; or why there are none."""
    known = _of_references.setdefault(reference, {})
    if settings not in known:
        known[settings] = _try(reference, settings)
    return known[settings]


def _try(view: View, settings: Robustness) -> Attacked | NoGradient:
    from compressbench.tasks.images.attacks import NoGradient

    try:
        return Attacked.make(view, settings)
    except NoGradient as error:
        return error


def _log_probs(view: View, images: Tensor) -> Tensor:
    """(n, classes) log-probabilities of encoded images, on the CPU."""
    from compressbench.tasks.images.attacks import log_probs

    return log_probs(view.fast, images).cpu()
