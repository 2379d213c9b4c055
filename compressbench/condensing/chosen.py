"""The controls: pictures that nobody learned, with the draw and the step size that do best on the validation split."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressbench import specs
from compressbench.condensing.distilled import OfTask, start_of, whole
from compressbench.condensing.inducing import points_of
from compressbench.condensing.starts import RATES, begun, each, examples
from compressbench.condensing.unrolled import trained
from compressbench.data.transfer import carrying
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.kernel_ridge import answer_macs, fit_macs, flat, ridge_answers
from compressbench.outputs import Outputs
from compressbench.tasks.images.classification import IMAGES
from compressbench.training.launching import exact
from compressbench.training.spent import Spent

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.examples import Examples
    from compressbench.stages.condense import Chosen
    from compressbench.state import State

WHO = "data/chosen"
BATCH = 1000


def chosen(state: State, bench: Bench, settings: Chosen) -> State:
    """Applies a ``stages.condense.Chosen``.

    Raises:
        UserError: there is no validation split to choose on, or the images don't fit the classes.
    """
    of_class = each(settings.images, bench, WHO)
    if "validation" not in bench.dataset.splits:
        raise UserError(
            f"{WHO} chooses on the validation split, and {bench.dataset.name} has none; dataset.validation=0.1"
        )
    began = time.monotonic()
    best: tuple[float, Examples] | None = None
    draws = settings.draws if settings.begin != "means" else 1  # all means are the same ones
    for draw in range(draws):
        name = f"{settings.draw}.{draw}"
        begin = begun(bench, settings.begin, settings.steps, of_class, name, WHO).to(bench.device)
        plain = examples(begin.pixels, begin.labels)
        with exact(False, bench.device):
            for share, data in _scored(state, bench, settings, plain):
                if best is None or share > best[0]:
                    best = share, data
        bench.progress.step(draw + 1, draws, best=100 * best[0] if best else 0.0)
    assert best is not None
    share, data = best
    if settings.kernel is None and len(settings.rates) > 1:
        rate = float(data[RATES][0, 0])
        if rate >= 0.999 * max(settings.rates) or rate <= 1.001 * min(settings.rates):
            bench.say(
                f"{bench.name}: the best step size is {rate:g}, the end of rates: a longer list may hold a better one"
            )
    macs, seen = _once(state, bench, settings, len(data), data.columns[IMAGES][0].numel())
    spent = Spent(draws * macs, draws * seen, time.monotonic() - began)
    return spent.added_to(carrying(state, data)).with_facts(chosen_validation=100 * share)


def _once(state: State, bench: Bench, settings: Chosen, images: int, size: int) -> tuple[int, int]:
    """MACs and examples of judging one draw: what its trainings or its fit take, and the validation split's answers."""
    validation, classes = len(bench.feed("validation")), len(bench.task.classes)
    if settings.kernel is not None:
        return fit_macs(images, size, classes) + answer_macs(validation, images, size, classes), images
    trainings = len(settings.rates) * settings.nets  # several nets are of random inits alone
    taken = settings.epochs * images
    return trainings * (3 * taken + validation) * state.facts.get("forward_macs", 0), trainings * taken


def _scored(state: State, bench: Bench, settings: Chosen, data: Examples) -> Iterator[tuple[float, Examples]]:
    """Share of right validation answers after learning from pictures, for each step size; one alone by a kernel."""
    if settings.kernel is not None:
        kernel = specs.build(settings.kernel, "kernel")
        points, targets = points_of(data, bench)
        yield (
            _right(
                bench,
                lambda x: ridge_answers(kernel, points, targets, settings.regulariser, flat(x.double())),
            ),
            data,
        )
        return
    module = module_of(state, bench.device)
    whole(state, module, WHO)
    loss = OfTask(module, bench.task)
    (inputs,) = bench.task.encode(data)
    sets = list(zip(inputs.chunk(settings.steps), data.labels.chunk(settings.steps), strict=True))
    images = len(data) // settings.steps
    for rate in settings.rates:
        rates = torch.full((settings.epochs, settings.steps), float(rate), device=bench.device)
        shares = []
        for place in range(settings.nets):
            start = start_of(state, module, bench, str(place) if settings.random_inits else "")
            weights = trained(loss, start, sets, rates, graph=False)

            def answers(x: Tensor, weights: dict[str, Tensor] = weights) -> Tensor:
                return loss.logits(weights, x)

            shares.append(_right(bench, answers))
        column = rates.t().repeat_interleave(images, 0)
        yield sum(shares) / len(shares), data.with_column(RATES, column)


def _right(bench: Bench, answers: Callable[[Tensor], Tensor]) -> float:
    """Share of the validation split that is answered rightly."""
    split, task = bench.feed("validation"), bench.task
    right = 0
    with torch.no_grad():
        for part in split.batches(BATCH):
            (inputs,) = task.encode(part)
            right += int(task.right(task.answers(Outputs(answers(inputs))), part.labels).sum())
    return right / len(split)
