"""What a training does beyond gradient descent on all examples at one rate: what theorems on that don't cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressbench.specs import TARGET, settings_of

if TYPE_CHECKING:
    from compressbench.stages.train import Train

FOLLOWED = "followed"
"""The fact of a state that says what the training losses of its curve are of."""
PLAIN = {
    "schedule": "compressbench.training.schedules.constant",
    "stepper": "compressbench.training.steppers.plain",
    "objective": "compressbench.training.objectives.task_loss",
}


def beyond(settings: Train, examples: int) -> list[str]:
    """In words, one for each thing; empty for w -= lr x the gradient of the mean loss over all examples.

    Args:
        settings: of the training.
        examples: of the set that it trains on.
    """
    found = []
    if settings.batch_size != examples:
        found.append(f"batches of {settings.batch_size} of {examples} examples")
    if settings.optimizer[TARGET] != "torch.optim.SGD":
        found.append(f"optimizer {_name(settings.optimizer[TARGET])}")
    found += [f"{name} {value}" for name, value in settings_of(settings.optimizer).items() if value]
    for name, plain in PLAIN.items():
        target = getattr(settings, name)[TARGET]
        if target != plain:
            found.append(f"{name} {_name(target)}")
    for name in ("weight_decay", "warmup", "clip"):
        if getattr(settings, name):
            found.append(f"{name} {getattr(settings, name)}")
    if settings.averager is not None:
        found.append(f"averager {_name(settings.averager[TARGET])}")
    if settings.reparametrise:
        found.append(f"reparametrise {', '.join(settings.reparametrise)}")
    if settings.in_order:
        found.append("step sizes of its data set's own")
    return found


def _name(target: str) -> str:
    return str(target).rpartition(".")[2]
