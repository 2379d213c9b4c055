"""Distillation: objectives with a teacher, which is another state of the recipe, or several as one ensemble.

What is learned (``compressbench.labels``), by which distance (``compressbench.distances``) and where else to mimic
(``compressbench.features``) are choices of their own. Bucila et al. 2006; Hinton, Vinyals, Dean 2015; Romero et al. 2015.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.distances.kl import kl
from compressbench.errors import UserError, nearest
from compressbench.features.pooled import pooled
from compressbench.inputs import Inputs
from compressbench.labels.lesson import Lesson
from compressbench.labels.soft import soft
from compressbench.models.composite import guide_of
from compressbench.models.prepared import prepared
from compressbench.models.theseus import rows_of
from compressbench.outputs import Outputs, forward, tapped
from compressbench.seeds import derive_seed
from compressbench.specs import NonNegative, Positive, Ref, Share, within
from compressbench.training.objectives import Batch, Objective, labelled_loss
from compressbench.walking import put_back, walk

Distance = Callable[[Tensor, Tensor], Tensor]
Labels = Callable[[Lesson], Tensor]
Feature = Callable[[Tensor, Tensor], Tensor]
BLOCK = 256


class Guide(Protocol):
    """How a teacher answers a batch."""

    def __call__(self, batch: Batch) -> Outputs: ...


def distill(
    bench: Bench,
    teacher: tuple[Ref, ...],
    temperature: Positive = 4.0,
    share: Share = 0.9,
    distance: Distance = kl,
    labels: Labels = soft,
) -> Objective:
    """``share`` T² distance(student / T, teacher / T) + (1 - share) task loss, T the temperature, of logits.

    The teacher sees the very inputs that the student sees, augmentation included, in evaluation mode. Where the training
    augments nothing its logits are computed once for the whole training set. The task's loss is over the examples that
    have a label.

    Args:
        teacher: a state with the same classes; of several the probabilities are averaged (Bucila et al. 2006).
        temperature: T above 0; both logits are divided by it.
        share: of the teacher, in [0, 1] (alpha of Hinton et al. 2015); the rest goes to the labels.
        distance: what is small where both say the same, see ``compressbench.distances``.
        labels: what the student learns of the teacher's answer, see ``compressbench.labels``.

    Raises:
        UserError: a setting out of range, no teacher, or labels of which the distance is infinite.
    """
    return _Distilled(bench, teacher, temperature, share, distance, labels)


def mimic(
    bench: Bench,
    teacher: tuple[Ref, ...],
    points: Mapping[str, str],
    feature: Feature = pooled,
    beta: NonNegative = 10.0,
    regressor: bool = False,
    alone: bool = False,
    temperature: Positive = 4.0,
    share: Share = 0.9,
    distance: Distance = kl,
    labels: Labels = soft,
) -> Objective:
    """``distill`` plus ``beta`` times how far intermediate tensors are from the teacher's, mean over the points.

    Neither net is changed: a point is any module by its path, and what it gives is read by a hook.

    Args:
        teacher: one state; an ensemble has no tensors of its own to follow.
        points: modules of the student, each with the teacher's module that it is to follow.
        feature: the distance of two such tensors, see ``compressbench.features``.
        beta: 0 or more.
        regressor: the student's tensor goes through a learnt 1x1 convolution (or linear layer) to the teacher's channels
            first; it is trained with the student and left behind (FitNets).
        alone: the features only, as in the first stage of FitNets; ``share`` and the labels then count nothing.

    Raises:
        UserError: a setting out of range, a module that is not there, or tensors that don't fit each other.
    """
    if not points:
        raise UserError("points: at least one is wanted, {module of the student: module of the teacher}")
    within("NonNegative", beta, "beta")
    if alone and not beta > 0:
        raise UserError("beta: with alone: true a number above 0 is wanted, nothing else is learned")
    if not isinstance(teacher, str) and len(teacher) > 1:
        raise UserError(f"teacher: {len(teacher)} states; to mimic tensors one is wanted")
    base = _Distilled(bench, teacher, temperature, share, distance, labels)
    points = {str(own): str(other) for own, other in points.items()}
    return _Mimicking(base, points, feature, beta, regressor, alone)


def patient(
    bench: Bench,
    teacher: tuple[Ref, ...],
    every: int = 2,
    strategy: str = "skip",
    beta: NonNegative = 0.13,
    temperature: Positive = 4.0,
    share: Share = 0.9,
    distance: Distance = kl,
    labels: Labels = soft,
) -> Objective:
    """``mimic`` of a net's layers by one with its first layers: patient distillation (PKD, Sun et al., EMNLP 2019).

    All of the student's layers but the last, which the logits guide, follow one of the teacher's: the state of the first
    token, scaled to length 1 (``features.pooled``); ``beta`` times the squared distance, mean over layers and examples.

    Args:
        teacher: one state, with blocks in a row.
        every: as in the stage ``shrink/first_blocks`` that made the student: of 12 layers 2 leaves 6.
        strategy: ``skip``: each follows the last of ``every`` layers (2, 4, 6, 8, 10 of 12); ``last``: those before the
            teacher's last (7 to 11 of 12).
        beta: 0 or more, of the whole squared distance. The published code averages it over the width too, so its beta is
            this one times the width: its 10 to 1,000 are 0.013 to 1.3 here at a width of 768, 0.026 to 2.6 at 384.

    Raises:
        UserError: a setting out of range, or the teacher has too few blocks in a row.
    """
    if strategy not in ("skip", "last"):
        raise UserError(f"strategy: {strategy!r} is unknown; {nearest(str(strategy), ('skip', 'last'))}")
    if every < 2:
        raise UserError(f"every: {every} is less than 2; 2 is for a student of half the depth")
    within("NonNegative", beta, "beta")
    if not isinstance(teacher, str) and len(teacher) > 1:
        raise UserError(f"teacher: {len(teacher)} states; to mimic layers one is wanted")
    base = _Distilled(bench, teacher, temperature, share, distance, labels)
    points: dict[str, str] = {}
    for names in rows_of(base.module):
        kept = len(names) // every
        for place in range(kept - 1):
            other = (place + 1) * every - 1 if strategy == "skip" else len(names) - kept + place
            points[names[place]] = names[other]
    if not points:
        raise UserError(
            f"every: the teacher has no {2 * every} blocks in a row, and the last guides no other"
        )
    return _Mimicking(base, points, pooled, beta, regressor=False, alone=False, blocks=True)


class _Distilled:
    """The loss of ``distill``; holds the teacher."""

    def __init__(
        self,
        bench: Bench,
        teacher: tuple[Ref, ...] | Ref,
        temperature: float,
        share: float,
        distance: Distance,
        labels: Labels,
    ) -> None:
        within("Positive", temperature, "temperature")
        within("Share", share, "share")
        self.bench, self.temperature, self.share = bench, temperature, share
        self.distance, self.taught = distance, labels
        self.module = guide_of(bench, teacher)
        names = (teacher,) if isinstance(teacher, str) else teacher
        self.teacher_macs = sum(bench.references[n].facts.get("forward_macs", 0) for n in names)
        self.kept: dict[str, Tensor] = {}
        self.said: tuple[Inputs, Tensor] | None = None
        sample = bench.task.encode(bench.feed("train").head(8))
        self.fast = prepared(self.module, *sample)
        self._try(sample)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        return self.of(batch, self.answers(batch))

    def macs(self, examples: int, plain: bool) -> int:
        """Multiply-accumulates of the teacher's forwards in a training on so many examples."""
        return self.teacher_macs * (len(self.bench.feed("train")) if plain else examples)

    def answers(self, batch: Batch) -> Tensor:
        """(n, classes): the teacher's logits, from the table where the inputs are as they lie in the data set."""
        if batch.plain:
            return self.whole()[batch.rows]
        if self.said is None or self.said[0] is not batch.inputs:  # a stepper may ask twice about one batch
            with _undisturbed(self.bench.device):
                self.said = batch.inputs, forward(self.fast, *batch.inputs).logits.float()
        return self.said[1]

    def whole(self) -> Tensor:
        """(N, classes): the teacher's logits for the whole training set."""
        if "whole" not in self.kept:
            encode, rows, parts = self.bench.task.encode, [], []
            with _undisturbed(self.bench.device):
                for places, batch in walk(self.bench.task, self.bench.feed("train"), BLOCK):
                    rows.append(places)
                    parts.append(forward(self.fast, *encode(batch)).logits.float())
            self.kept["whole"] = put_back(rows, parts)
        return self.kept["whole"]

    def of(self, batch: Batch, answers: Tensor) -> Tensor:
        """The loss, given the teacher's logits."""
        own = batch.outputs.logits.float()
        if own.shape != answers.shape:
            raise UserError(
                f"teacher: it has {answers.shape[1]} outputs an example, the student {own.shape[1]}; "
                "the same classes are wanted"
            )
        loss = self._soft(own, answers, batch.labels, batch.rows) if self.share > 0 else own.sum() * 0
        if self.share < 1:
            loss = self.share * loss + (1 - self.share) * labelled_loss(self.bench, batch)
        return loss

    def _soft(self, own: Tensor, answers: Tensor, known: Tensor, rows: Tensor) -> Tensor:
        t = self.temperature
        with torch.no_grad():
            wanted = self.taught(
                Lesson(answers, known, rows, t, self.bench, self.module, self.whole, self.kept)
            )
        return self.distance(own / t, wanted / t) * t**2

    def _try(self, sample: Inputs) -> None:
        """Asks once, so that what can't work is said before the training begins."""
        known, rows = (
            self.bench.feed("train").labels[:8],
            torch.arange(len(sample[0]), device=self.bench.device),
        )
        with torch.no_grad():
            answers = forward(self.fast, *sample).logits.float()
        classes = len(self.bench.task.classes)
        if answers.shape[1] != classes:
            raise UserError(
                f"teacher: it has {answers.shape[1]} outputs an example, the student {classes}; "
                "the same classes are wanted"
            )
        if self.share > 0 and not bool(
            torch.isfinite(self._soft(torch.zeros_like(answers), answers, known, rows))
        ):
            raise UserError(
                "distance: it is infinite where the labels give a class no probability at all; "
                "kl, cross_entropy or js take such labels"
            )


class _Mimicking:
    """The loss of ``mimic``. ``taps`` and ``begin`` are read by the loop, see ``training.objectives``."""

    def __init__(
        self,
        base: _Distilled,
        points: Mapping[str, str],
        feature: Feature,
        beta: float,
        regressor: bool,
        alone: bool,
        blocks: bool = False,
    ) -> None:
        self.base, self.points, self.feature = base, points, feature
        self.blocks = blocks
        self.beta, self.regressor, self.alone = beta, regressor, alone
        self.taps = tuple(points)
        self.maps: dict[str, nn.Module] = {}
        self.said: tuple[Inputs, Outputs] | None = None
        self.guide = base.bench.task.placed(base.module)
        with tapped(self.guide.module, tuple(points.values())):
            pass  # raises here, before any training, where the teacher has no such module

    def begin(self, module: nn.Module) -> Mapping[str, nn.Parameter]:
        """Draws the regressors for a student, and tries the features on a few examples."""
        bench = self.base.bench
        if self.blocks:
            _all_there(module, self.taps)
        sample = bench.task.encode(bench.feed("train").head(2))
        with torch.no_grad(), tapped(module.eval(), self.taps) as compute:
            own = compute(*sample).taps
        wanted = self._wanted(sample).taps
        found: dict[str, nn.Parameter] = {}
        for number, (point, other) in enumerate(self.points.items()):
            if self.regressor:
                seed = derive_seed(bench.seed, bench.name, "regressor", number)
                made = _regressor(own[point], wanted[other], seed).to(bench.device)
                self.maps[point] = made
                found |= {f"regressor{number}.{n}": p for n, p in made.named_parameters()}
        with torch.no_grad():
            self._far(own, wanted)
        return found

    def macs(self, examples: int, plain: bool) -> int:
        """Multiply-accumulates of the teacher's forwards in a training on so many examples; none is computed once."""
        return self.base.macs(examples, plain=False)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of a batch whose ``outputs.taps`` hold the student's features."""
        wanted = self._wanted(batch.inputs)
        loss = self.beta * self._far(batch.outputs.taps, wanted.taps)
        return loss if self.alone else loss + self.base.of(batch, wanted.logits.float())

    def _wanted(self, inputs: Inputs) -> Outputs:
        if self.said is None or self.said[0] is not inputs:
            with (
                _undisturbed(self.base.bench.device),
                tapped(self.guide.module, tuple(self.points.values())) as compute,
            ):
                self.said = inputs, compute(*self.guide.inputs(inputs))
        return self.said[1]

    def _far(self, own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
        far = []
        for point, other in self.points.items():
            try:
                mapped = self._mapped(point, own[point])
                with torch.autocast(
                    mapped.device.type, enabled=False
                ):  # a loss is computed in full precision
                    far.append(self.feature(mapped.float(), wanted[other].float()))
            except UserError as error:
                raise UserError(f"{error} ({point} to the teacher's {other})") from error
        return torch.stack(far).mean()

    def _mapped(self, point: str, features: Tensor) -> Tensor:
        if point not in self.maps:
            return features
        return self.maps[point](features)


def _all_there(module: nn.Module, blocks: Iterable[str]) -> None:
    """Refuses a student without the blocks that are to follow a teacher's."""
    parts = dict(module.named_modules())
    for name in blocks:
        if name not in parts or not any(True for _ in parts[name].children()):
            raise UserError(
                f"the student has no {name}; a stage shrink/first_blocks with the same every makes it of its teacher"
            )


def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher || student) of logits (n, classes) divided by T, in nats, mean over examples.

    Its gradient by a student's logit is T (q - p) / n; as T grows it nears that of half the squared distance of
    logits with zero mean, divided by the number of classes.
    """
    return kl(student / temperature, teacher / temperature) * temperature**2


@contextlib.contextmanager
def _undisturbed(device: str) -> Iterator[None]:
    """The teacher answers as it is measured, in full precision and without gradients, however its student is trained."""
    with torch.no_grad(), torch.autocast(device.partition(":")[0], enabled=False):
        yield


def _regressor(own: Tensor, other: Tensor, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        width = other.shape[1] if other.ndim == 4 else other.shape[-1]
        if own.ndim == 4:
            return nn.Conv2d(own.shape[1], width, 1, device="cpu")
        return nn.Linear(own.shape[-1], width, device="cpu")
