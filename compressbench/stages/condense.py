"""Stages that leave few pictures in place of many: learned ones, and real ones as their controls.

``train`` names one as ``data:``; with ``in_order: true`` it takes them in their order, at the step sizes they carry.
The net passes through unchanged. Pictures are float32 pixels from 0 to 255, without bounds once they are learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.specs import Count, Positive, check_fields
from compressbench.specs import length as lengths
from compressbench.stages import kernels

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

BEGIN = ("noise", "real", "means")
OF_NETS = {"rates": "step sizes", "steps": "steps", "epochs": "passes", "random_inits": "init"}
"""Settings of ``Chosen`` that say how nets learn, and what of it a kernel doesn't have."""
IN_WORDS = {"noise": "noise", "real": "real pictures", "means": "means of classes"}


def _check_begin(begin: str) -> None:
    if begin not in BEGIN:
        raise UserError(f"begin: unknown {begin!r}; {nearest(str(begin), BEGIN)}")


def _check_loop(length: str, halve: str | None, betas: Sequence[float]) -> None:
    lengths.check(length, "length")
    if halve is not None:
        lengths.check_some(halve, "halve")
    if len(betas) != 2 or not all(isinstance(b, float | int) and 0 <= b < 1 for b in betas):
        raise UserError(f"betas: {list(betas)} are not two numbers in [0, 1)")


def _check_nets(nets: int, random_inits: bool) -> None:
    if nets > 1 and not random_inits:
        raise UserError(f"nets: {nets} nets of one and the same init are one; random_inits: true, or nets: 1")


def _pictures_fit(self: Inducing | Chosen, drawn: Callable[[], State | None], bench: Bench) -> None:
    """Before anything is made.

    Raises:
        UserError: the images don't fit the classes, are more than a kernel takes, or the examples are no pictures.
    """
    from compressbench.condensing.starts import each
    from compressbench.models.kernel_ridge import MOST

    who = f"data/{type(self).__name__.lower()}"
    each(self.images, bench, who)
    if self.kernel is not None and (self.images or 0) > MOST:
        raise UserError(f"{who}: images: {self.images:,}; kernel ridge regression takes {MOST:,} at most")


@dataclass(frozen=True)
class Distilled:
    """Dataset distillation: pictures and step sizes learned through the steps on them (Wang et al. 2018).

    Labels are fixed. The loss is the task's, on real training examples, of the net after ``steps * epochs`` plain
    gradient steps on the pictures; its gradient goes through every one of them.

    Attributes:
        length: of the learning, in epochs of the training split or iterations; ``0it`` leaves pictures and step sizes as
            they begin.
        images: pictures in a set, as many of each class; null for one of each.
        steps: sets; each is one gradient step of a pass.
        epochs: passes over the sets, each with step sizes of its own.
        begin: ``noise`` (normal, in units of a net's input), ``real`` training pictures, ``means`` of classes.
        draw: name that, with the seed, draws noise and real pictures.
        random_inits: a freshly drawn net in each iteration; false trains from the state's own weights each time.
        nets: so many freshly drawn nets in an iteration, their gradients averaged.
        rate: the step sizes to begin with; softplus of what is learned.
        learn_rates: whether step sizes are learned too.
        batch_size: real examples in an iteration.
        lr, betas: of Adam, for pictures and step sizes.
        halve: after how long the rate of Adam is halved, again and again; null for never.
        order: name that, with the seed, draws the order of the real examples.
    """

    length: str
    images: Count | None = None
    steps: Count = 1
    epochs: Count = 3
    begin: str = "noise"
    draw: str = "pictures"
    random_inits: bool = False
    nets: Count = 1
    rate: Positive = 0.02
    learn_rates: bool = True
    batch_size: Count = 1024
    lr: Positive = 0.01
    betas: tuple[float, ...] = (0.5, 0.999)
    halve: str | None = "40ep"
    order: str = "condense"
    VERSION: ClassVar[int] = 2  # 2: points of the curve don't depend on when checkpoints are written

    def __post_init__(self) -> None:
        check_fields(self)
        _check_begin(self.begin)
        _check_loop(self.length, self.halve, self.betas)
        _check_nets(self.nets, self.random_inits)

    def describe(self) -> str:
        """The stage in words."""
        sets = (
            f"{self.steps} x {self.epochs} gradient steps"
            if self.steps > 1
            else f"{self.epochs} gradient steps"
        )
        inits = "random inits" if self.random_inits else "one fixed init"
        return f"learn pictures through {sets}, from {IN_WORDS[self.begin]}, for {inits}, {self.length}"

    def forewarn(self, drawn: Callable[[], State | None], bench: Bench) -> None:
        """Before anything is made: refuses more inner steps than the memory holds.

        Args:
            drawn: gives a fresh draw of the net; None where it begins with more than a draw.

        Raises:
            UserError: what is wanted and what there is.
        """
        from compressbench.condensing.distilled import forewarned

        forewarned(drawn, bench, self)

    def apply(self, state: State, bench: Bench) -> State:
        """The state with pictures and step sizes."""
        from compressbench.condensing.distilled import distilled

        return distilled(state, bench, self)


@dataclass(frozen=True)
class Inducing:
    """Kernel inducing points: pictures on which kernel ridge regression predicts the training set (Nguyen et al. 2021).

    The loss is half the squared error of its answers on real training examples; targets are 1 for the class and 0 for
    others, less 1 / classes.

    Attributes:
        kernel: see ``models.kernels``.
        length, images, begin, draw, batch_size, lr, betas, halve, order: as of ``Distilled``.
        regulariser: added to the kernel's diagonal, relative to its mean.
        learn_labels: whether the pictures' answers are learned too; only kernel ridge regression uses these.
    """

    kernel: Mapping[str, Any]
    length: str
    images: Count | None = None
    begin: str = "real"
    draw: str = "pictures"
    regulariser: Positive = 1e-6
    learn_labels: bool = False
    batch_size: Count = 1024
    lr: Positive = 0.01
    betas: tuple[float, ...] = (0.9, 0.999)
    halve: str | None = None
    order: str = "condense"
    VERSION: ClassVar[int] = 2  # 2: counts what it costs

    def __post_init__(self) -> None:
        check_fields(self)
        _check_begin(self.begin)
        _check_loop(self.length, self.halve, self.betas)
        kernels.check(self.kernel)

    def describe(self) -> str:
        """The stage in words."""
        answers = " and their answers" if self.learn_labels else ""
        return (
            f"learn pictures{answers} for kernel ridge regression ({kernels.in_words(self.kernel)}), "
            f"from {IN_WORDS[self.begin]}, {self.length}"
        )

    forewarn = _pictures_fit

    def apply(self, state: State, bench: Bench) -> State:
        """The state with the pictures."""
        from compressbench.condensing.inducing import inducing

        return inducing(state, bench, self)


@dataclass(frozen=True)
class Chosen:
    """The control: pictures that nobody learned; which draw of them, and which step size, the validation split says.

    Attributes:
        begin: ``real`` training pictures, ``means`` of classes, or ``noise``.
        draws: so many draws are tried; of means there is but one.
        rates: the step sizes that are tried, each for all steps.
        kernel: kernel ridge regression learns from them in place of a net; no steps, step sizes or inits then.
        regulariser: see ``Inducing``.
        images, steps, epochs, draw, random_inits: as of ``Distilled``.
        nets: so many freshly drawn nets whose accuracies are averaged, the same ones for each draw.
    """

    begin: str = "real"
    draws: Count = 20
    rates: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.5)
    images: Count | None = None
    steps: Count = 1
    epochs: Count = 3
    draw: str = "pictures"
    random_inits: bool = False
    nets: Count = 1
    kernel: Mapping[str, Any] | None = None
    regulariser: Positive = 1e-6
    VERSION: ClassVar[int] = 2  # 2: counts what it costs

    def __post_init__(self) -> None:
        check_fields(self)
        _check_begin(self.begin)
        if not self.rates or not all(isinstance(r, float | int) and r > 0 for r in self.rates):
            raise UserError(f"rates: {list(self.rates)} are not one or more numbers above 0")
        _check_nets(self.nets, self.random_inits)
        if self.kernel is None:
            return
        kernels.check(self.kernel)
        usual = {f.name: f.default for f in fields(self)}
        given = vars(self) | {"rates": tuple(self.rates)}
        for name, what in OF_NETS.items():
            if given[name] != usual[name]:
                raise UserError(
                    f"{name}: kernel ridge regression has no {what}; leave {name} out, or kernel: null"
                )

    def describe(self) -> str:
        """The stage in words."""
        many = "" if self.begin == "means" else f", the best of {self.draws} draws"
        return f"{IN_WORDS[self.begin]}{many}, chosen on the validation split"

    forewarn = _pictures_fit

    def apply(self, state: State, bench: Bench) -> State:
        """The state with the pictures and, but for a kernel, their step size."""
        from compressbench.condensing.chosen import chosen

        return chosen(state, bench, self)
