"""Train: the thin stage around the one loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench import specs
from compressbench.errors import UserError, nearest
from compressbench.specs import Ref, trust
from compressbench.specs import length as lengths

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State


def _partial(target: str, **settings: Any) -> dict[str, Any]:
    return {specs.TARGET: target, specs.PARTIAL: True, **settings}


def _in_words(spec: Mapping[str, Any]) -> str:
    """A spec by its last name and its settings: ``distill: teacher dense, temperature 4``."""
    name = str(spec[specs.TARGET]).rpartition(".")[2].replace("_", " ")
    told = ", ".join(f"{k} {_short(v)}" for k, v in specs.settings_of(spec).items() if v is not None)
    return f"{name}: {told}" if told else name


def _short(value: Any) -> str:
    if specs.is_spec(value):
        return _in_words(value)
    if isinstance(value, Mapping):
        return " ".join(f"{k}:{_short(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


RETURNS = {"schedule": "float", "stepper": "Stepper", "objective": "Objective", "averager": "float | None"}
"""What the shipped functions at each of these places return, as written."""
BY_ELEMENT = tuple(f"torch.optim.{name}" for name in ("SGD", "Adam", "AdamW"))
"""Optimisers that treat each weight by itself, so that those of several nets may be moved at once."""
IN_LANES = tuple(
    f"{trust.OWN}.training.reparametrisations.{name}" for name in ("gradual.gradual", "edge_popup.edge_popup")
)
"""Methods that a training in lanes may have."""


def _check_part(name: str, spec: Any) -> None:
    """Refuses what can't be a part of a training; of a user's own functions nothing is known.

    Raises:
        UserError: it is no spec, or one of something else.
    """
    if spec is None and name == "averager":
        return
    if not specs.is_spec(spec):
        raise UserError(f"{name}: {spec!r} is no spec with {specs.TARGET}; choose one by its YAML")
    target = str(spec[specs.TARGET])
    own = target.startswith(f"{trust.OWN}.")
    seen = specs.signature(target) if own else None
    if name == "optimizer":
        wrong = own or target.startswith("torch.nn.")
    else:
        wrong = target.startswith("torch.") or (seen is not None and seen.returns != RETURNS[name])
    if wrong:
        raise UserError(f"{name}: {target} can't stand here; it is no {name}")


@dataclass(frozen=True)
class Train:
    """Trains a state; masks hold, batches come in an order that all trainings of a seed share.

    Attributes:
        length: of the whole training, ``4ep`` or ``500it``: what the schedule spans.
        start: where in that training this stage begins (late rewinding starts at the rewind point).
        stop: where it ends; a training that stops short keeps its optimiser state.
        batch_size: examples a step; the last, smaller batch of an epoch is left out.
        lr: the peak learning rate.
        optimizer, schedule, stepper, objective: specs of functions, see ``compressbench.training``.
        averager: a spec of which weights on the way are averaged into the trained net, see ``training.averagers``; null
            for the last ones alone.
        only: a glob of names: the parameters that are trained, e.g. ``exits.*`` on a frozen trunk; null for all. Norms in
            parts where nothing is trained keep their statistics.
        warmup: linear warm-up length, null for none.
        weight_decay, decay: decay to ``weights`` (two or more dimensions) or to ``all``.
        order: name that, with the seed, draws the order of the batches.
        data: a state that carries a data set made on the way (``stages.transfer``, ``stages.condense``), in place of the
            train split.
        in_order: examples of ``data`` come in their own order, at the step sizes that they carry (``data/distilled``)
            times ``lr``.
        clip: largest norm of the whole gradient; a longer one is scaled down to it. Null for any.
        augment: whether the data set's augmentation is applied.
        precision: ``fp32``, ``tf32`` (matrix units; on the CPU it is fp32) or ``bf16`` (autocast); in the records.
        validate: how often the validation split is evaluated for the curve, null for never.
        follow: how often the loss on the whole training set is put into the curve, from before the first step on; null
            for never. In evaluation mode, examples as they are.
        reparametrise: what the training computes with in place of its weights, and prunes on the way: specs of
            methods by name, applied in order, see ``compressbench.training.reparametrisations``.
        checkpoint: weights of a training done elsewhere (.safetensors or weights-only .pt); taken instead of training.
    """

    length: str
    batch_size: int
    lr: float
    optimizer: Mapping[str, Any]
    start: str | None = None
    stop: str | None = None
    schedule: Mapping[str, Any] = field(
        default_factory=lambda: _partial("compressbench.training.schedules.constant")
    )
    stepper: Mapping[str, Any] = field(
        default_factory=lambda: _partial("compressbench.training.steppers.plain")
    )
    objective: Mapping[str, Any] = field(
        default_factory=lambda: _partial("compressbench.training.objectives.task_loss")
    )
    warmup: str | None = None
    weight_decay: float = 0.0
    decay: str = "weights"
    clip: float | None = None
    order: str = "train"
    augment: bool = True
    precision: str = "fp32"
    validate: str | None = "1ep"
    reparametrise: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    data: Ref | None = None
    averager: Mapping[str, Any] | None = None
    only: str | None = None
    follow: str | None = None
    in_order: bool = False
    VERSION: ClassVar[int] = 3  # 3: a teacher's forwards count as training cost

    def __post_init__(self) -> None:
        for name in ("length", "start", "stop", "warmup", "validate", "follow"):
            value = getattr(self, name)
            if value is not None or name == "length":
                (lengths.check_some if name == "length" else lengths.check)(value, name)
        for name, allowed in (("precision", ("fp32", "tf32", "bf16")), ("decay", ("weights", "all"))):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"{name}: unknown {getattr(self, name)!r}; {nearest(getattr(self, name), allowed)}"
                )
        for name in ("optimizer", *RETURNS):
            _check_part(name, getattr(self, name))
        if self.batch_size < 1:
            raise UserError(f"batch_size: {self.batch_size} is less than 1")
        if not self.lr > 0:
            raise UserError(f"lr: {self.lr} is not above 0")
        for name, spec in self.reparametrise.items():
            if not specs.is_spec(spec):
                raise UserError(
                    f"reparametrise.{name}: {spec!r} is no method; add one by the defaults list, "
                    f"e.g. - /reparametrise@stages.train.reparametrise.{name}: gradual"
                )
        if self.clip is not None and (isinstance(self.clip, bool) or not self.clip > 0):
            raise UserError(f"clip: {self.clip!r} is not above 0; null for none")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay: {self.weight_decay} is below 0")
        if self.in_order and self.data is None:
            raise UserError("in_order: the step sizes are those of data, and none is named")

    def built(self, name: str) -> Any:
        """One of the nested specs, built."""
        return specs.build(getattr(self, name), name)

    def methods(self) -> dict[str, Any]:
        """The reparametrisations, built but for the module."""
        return {
            name: specs.build({**spec, specs.PARTIAL: True}, f"reparametrise.{name}")
            for name, spec in self.reparametrise.items()
        }

    def goes_in_lanes(self) -> bool:
        """Whether several of these can go at once, see ``training.lanes``; otherwise each goes by itself."""
        made_here = f"{trust.OWN}.training."
        objective, stepper = (str(spec[specs.TARGET]) for spec in (self.objective, self.stepper))
        return (
            self.checkpoint is None
            and self.data is None
            and str(self.optimizer[specs.TARGET]) in BY_ELEMENT
            and stepper.startswith(made_here)
            and objective.startswith(made_here)
            and not objective.endswith(".mimic")
            and {str(spec[specs.TARGET]) for spec in self.reparametrise.values()} <= {*IN_LANES}
            and (not self.reparametrise or (stepper.endswith(".plain") and self.clip is None))
        )

    def beside(self, lanes: int, launch: str) -> dict[str, Any]:
        """What of the way it is launched rounds otherwise, and so is part of its key."""
        if self.checkpoint:
            return {}
        found: dict[str, Any] = {"lanes": lanes} if lanes > 1 and self.goes_in_lanes() else {}
        return found | ({"launch": launch} if launch == "compiled" else {})

    def files(self) -> tuple[str, ...]:
        """Files whose content is part of the key."""
        return (self.checkpoint,) if self.checkpoint else ()

    def describe(self) -> str:
        """The stage in words."""
        if self.checkpoint:
            return f"take the trained weights of {self.checkpoint}"
        part = " ".join(f"{word} {v}" for word, v in (("from", self.start), ("to", self.stop)) if v)
        optimizer = str(self.optimizer[specs.TARGET]).rpartition(".")[2]
        methods = "".join(f", {name.replace('_', ' ')}" for name in self.reparametrise)
        methods += f", data of {self.data}" if self.data else ""
        methods += " in its order, at its step sizes" if self.in_order else ""
        methods += f", only {self.only}" if self.only else ""
        stepper = _in_words(self.stepper)
        methods += f", {stepper}" if stepper != "plain" else ""
        methods += f", {_in_words(self.averager)}" if self.averager else ""
        own = _in_words(self.objective)
        methods += f"; {own}" if own != "task loss" else ""
        return (
            f"train {self.length}{', ' + part if part else ''} "
            f"({optimizer}, lr {self.lr:g}, batch {self.batch_size}{methods})"
        )

    def apply(self, state: State, bench: Bench) -> State:
        """The trained state."""
        from compressbench.training import loop

        if self.checkpoint:
            return loop.adopt(state, self.checkpoint)
        return loop.train(state, bench, self)
