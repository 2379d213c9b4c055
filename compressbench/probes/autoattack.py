"""AutoAttack: the standard ensemble of attacks without settings (Croce & Hein, ICML 2020), by its library."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, reason
from compressbench.records import Metric
from compressbench.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.tasks.task import Surface
    from compressbench.views import View

TARGETS, FEWEST = 9, 4
"""Classes that the targeted attacks aim at, as published; and how many a net must have for their loss."""


@dataclass(frozen=True)
class Autoattack:
    """APGD on the cross-entropy, targeted APGD, targeted FAB and Square, in the L-infinity norm, one after the other.

    What stands one goes on to the next. With fewer than ten classes fewer are aimed at than the nine published.

    Attributes:
        eps: largest change of a pixel, 1 being the full range; a number or a fraction in quotes.
        examples: test images to attack, the first of those that ``robustness`` attacks; null for all.
    """

    VERSION: ClassVar[int] = 1
    eps: float | str = "8/255"
    examples: int | None = 128

    def __post_init__(self) -> None:
        try:
            radius = float(Fraction(str(self.eps)))
        except (ValueError, ZeroDivisionError) as error:
            raise UserError(
                f"autoattack: eps is {self.eps!r}, must be a number or a fraction such as 8/255"
            ) from error
        if not 0 < radius <= 1:
            raise UserError(
                f"autoattack: eps is {self.eps}, must be above 0 and at most 1 (the range of a pixel)"
            )
        if self.examples is not None and self.examples < 1:
            raise UserError(f"autoattack: examples is {self.examples}, must be at least 1, or null for all")

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import no_surface

        return no_surface(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject: accuracy after all four attacks, with Wilson's 95 % interval."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, bench), subject=subject)

    def _measured(self, subject: View, bench: Bench) -> Iterable[Metric]:
        from compressbench.comparing.intervals import share
        from compressbench.probes.square import attacked_rows
        from compressbench.tasks.images.attacks import NoGradient
        from compressbench.tasks.task import NoSurface

        surface, feed = bench.task.surface(bench.device), bench.feed("test")
        classes = len(bench.task.classes)
        why = surface.why if isinstance(surface, NoSurface) else ""
        if not why and classes < FEWEST:
            why = f"AutoAttack's targeted loss needs {FEWEST} classes, this data set has {classes}"
        if not why:
            examples = feed.take(attacked_rows(len(feed), self.examples).to(bench.device))
            seed = derive_seed(bench.seed, "autoattack") % 2**31
            try:
                standing, told = stood(subject.fast, examples.labels, *self._pictures(bench, examples), seed)
            except (NoGradient, RuntimeError) as error:
                why = reason(error)
        if why:
            yield Metric("autoattack_accuracy", None, "%", note=why)
            return
        found = share(int(standing.sum()), len(standing))
        if classes <= TARGETS:
            told = [f"{classes - 1} target classes instead of {TARGETS}", *told]
        yield Metric("autoattack_accuracy", found.value, "%", n=found.n, note="; ".join(told))
        yield Metric("autoattack_low", found.low, "%", n=found.n)
        yield Metric("autoattack_high", found.high, "%", n=found.n)

    def _pictures(self, bench: Bench, examples: Any) -> tuple[Tensor, Surface, float]:
        """Pixels in [0, 1] as the library wants them, what turns them into inputs, and the radius."""
        (images,) = bench.task.encode(examples)
        surface: Any = bench.task.surface(bench.device)
        pixels = ((images - surface.low) / surface.scale).clamp(0, 1)
        return pixels, surface, float(Fraction(str(self.eps)))


def stood(
    module: nn.Module, labels: Tensor, pixels: Tensor, surface: Surface, eps: float, seed: int
) -> tuple[Tensor, list[str]]:
    """(n,) bool, right after AutoAttack's standard version; and what the library warns of.

    Args:
        module: of encoded images.
        pixels: (n, c, h, w) in [0, 1].
        surface: how pixels become encoded images.

    Raises:
        UserError: the library isn't installed.
        NoGradient: the module passes none.
    """
    import torch

    from compressbench.tasks.images.attacks import BATCH, loss_gradient, margin_loss

    attack_class = _library()
    logits = on_pixels(module, surface)
    loss_gradient(logits, pixels[:1], labels[:1], margin_loss)  # says so in our words where there is none
    devices = [pixels.device.index or 0] if pixels.is_cuda else []
    with torch.random.fork_rng(devices=devices), _heard() as told, _traced_on():
        attack = attack_class(logits, norm="Linf", eps=eps, seed=seed, device=pixels.device)
        targets = min(TARGETS, logits(pixels[:1]).shape[1] - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        _, named = attack.run_standard_evaluation(pixels, labels, batch_size=BATCH)
    return (named == labels).cpu(), told


def on_pixels(module: nn.Module, surface: Surface) -> nn.Module:
    """The module as one from pixels in [0, 1] to logits."""
    from torch import nn

    from compressbench.outputs import forward

    class OnPixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, pixels: Tensor) -> Tensor:
            return forward(self.inner, surface.low + pixels * surface.scale).logits.float()

    return OnPixels().eval()


def _library() -> Any:
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise UserError(
            f"autoattack: the library isn't installed ({error}): pip install 'compressbench[robust]'"
        ) from error
    return AutoAttack


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """What the library warns of, each once, instead of on the terminal."""
    told: list[str] = []
    logger = logging.getLogger("auto-attack")

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            words = record.getMessage().split(" See ")[0].strip().rstrip(".")
            if words not in told:
                told.append(words)

    ear, before = Ear(logging.WARNING), logger.propagate
    logger.addHandler(ear)
    logger.propagate = False
    try:
        yield told
    finally:
        logger.removeHandler(ear)
        logger.propagate = before


@contextlib.contextmanager
def _traced_on() -> Iterator[None]:
    """Keeps a debugger's or a coverage tool's trace, which the library turns off."""
    before = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(before)
