"""Bad examples made against a state, once for all who ask; and how many images are attacked."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from compressbench import metrics
from compressbench.comparing.intervals import wilson
from compressbench.probes.square import attacked_rows, searched
from compressbench.seeds import derive_seed
from compressbench.tasks.images import attacks
from compressbench.tasks.images.attacks import Ball, Course, Loss, NoGradient
from compressbench.tasks.task import Surface

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.probes.robustness import Robustness
    from compressbench.views import View

FIRST_SQUARES = 0.8
KEPT = 4
"""States whose bad examples are kept."""
LOSSES: Mapping[str, Loss] = {"margin": attacks.margin_loss, "dlr": attacks.dlr_loss}


@dataclass(frozen=True)
class Bad:
    """What an attack made of some images; those that were wrong before are as they were.

    Attributes:
        images: (n, c, h, w) encoded.
        log_probs: (n, classes), on the CPU, what the attacked state says of them.
        fallen: (n,) bool, on the CPU: wrong before, or named otherwise under the attack at any time.
    """

    images: Tensor
    log_probs: Tensor
    fallen: Tensor


@dataclass(frozen=True)
class Attacked:
    """Bad examples made against one state, of one portion of the images.

    Attributes:
        place: which portion, from 0.
        rows: (n,) int64, of the test split, rising.
        labels: (n,) on the CPU.
        clean: (n,) bool, on the CPU: right as they are; these are attacked.
        fgsm, pgd, margin: by gradients; None without any, and ``margin`` where it wasn't wanted.
        end: images after all steps of PGD, which transfer better; None where what had fallen was left alone.
        noise: by the name of a noise, its images, and (n,) bool on the CPU: wrong before or there.
        square: (n,) bool and int64, on the CPU: what fell under Square, and its queries; None where it wasn't wanted.
        flat: (n,) bool, on the CPU: no gradient at all by the loss itself, at the image.
        rise: (n,) on the CPU, how much the margin grew under PGD, in nats; 0 of what wasn't attacked.
        doubled: of what stood PGD, bool: it fell or came nearer to falling with twice the eps; None where not tried.
        why: why there is nothing by gradients, in words.
    """

    place: int
    rows: Tensor
    labels: Tensor
    clean: Tensor
    fgsm: Bad | None = None
    pgd: Bad | None = None
    margin: Bad | None = None
    end: Tensor | None = None
    noise: Mapping[str, tuple[Tensor, Tensor]] | None = None
    square: tuple[Tensor, Tensor] | None = None
    flat: Tensor | None = None
    rise: Tensor | None = None
    doubled: Tensor | None = None
    why: str = ""

    @property
    def by_gradient(self) -> dict[str, Bad]:
        """What was made by gradients, by the stem of its metrics."""
        made = {"fgsm": self.fgsm, "pgd": self.pgd, "pgd_margin": self.margin}
        return {name: bad for name, bad in made.items() if bad is not None}

    @property
    def fallen(self) -> Tensor:
        """(n,) bool: wrong as it is, or under anything that was tried on this state itself."""
        found = ~self.clean
        for bad in self.by_gradient.values():
            found = found | bad.fallen
        for _, under in (self.noise or {}).values():
            found = found | under
        return found if self.square is None else found | self.square[0]

    @staticmethod
    def make(view: View, settings: Robustness, place: int = 0, whole: bool = False) -> Attacked:
        """Attacks the state. An image that it gets wrong as it is has fallen already and stays as it is.

        Args:
            place: which portion of the images.
            whole: PGD takes all steps whatever has fallen, so that ``end`` is known.
        """
        bench, task = view.bench, view.bench.task
        feed = bench.feed("test")
        start, stop = bounds(settings, place, len(feed))
        order = attacked_rows(len(feed), stop)[start:]
        rows = order.sort().values
        examples = feed.take(rows.to(bench.device))
        (images,), labels = task.encode(examples), examples.labels
        found = Attacked(place, rows, labels.cpu(), view.right[rows])
        surface = task.surface(bench.device)
        assert isinstance(surface, Surface)
        scene = _Scene(view, settings, Ball(surface, settings.radius), images, labels, found)
        if settings.noise:
            found = replace(found, noise=scene.noise())
        if settings.queries:
            fallen, queries = searched(view, settings.radius, settings.queries, FIRST_SQUARES, start, stop)
            sorting = order.argsort()
            found = replace(found, square=(fallen[sorting], queries[sorting]))
        try:
            return scene.by_gradients(found, whole)
        except NoGradient as error:
            return replace(found, why=str(error))


@dataclass(frozen=True)
class _Scene:
    """All that the attacks on one portion share."""

    view: View
    settings: Robustness
    ball: Ball
    images: Tensor
    labels: Tensor
    portion: Attacked

    @property
    def victims(self) -> Tensor:
        """Places, on the device, of the images that are right as they are."""
        return self.portion.clean.nonzero().squeeze(1).to(self.images.device)

    def drawn(self, *parts: str | int) -> torch.Generator:
        """A CPU generator of this portion; the first one's seeds are those from before there were several."""
        place = (self.portion.place,) if self.portion.place else ()
        return torch.Generator().manual_seed(derive_seed(self.view.bench.seed, "robustness", *parts, *place))

    def start(self, number: int, ball: Ball) -> Tensor:
        """Where PGD starts for the time ``number``, all images of the portion."""
        if not self.settings.random_start:
            return self.images
        noise = self.drawn("start", *((number,) if number else ()))
        return attacks.random_start(self.images, ball, noise)

    def noise(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Noise of the same size: images by its name, and what is wrong there."""
        made = {
            "uniform": attacks.random_start(self.images, self.ball, self.drawn("uniform noise")),
            "corners": attacks.corners(self.images, self.ball, self.drawn("corners")),
        }
        victims = self.victims
        found = {}
        for name, noisy in made.items():
            fallen = ~self.portion.clean
            said = attacks.log_probs(self.view.fast, noisy[victims]).cpu()
            fallen[victims.cpu()] = ~metrics.hits(said, self.portion.labels[victims.cpu()])
            found[name] = noisy, fallen
        return found

    def by_gradients(self, portion: Attacked, whole: bool) -> Attacked:
        """FGSM, PGD from all starts, and PGD on the margin."""
        settings, task, victims = self.settings, self.view.bench.task, self.victims
        labels = self.labels[victims]
        fgsm = attacks.traced(
            self.view.fast, self.images[victims], labels, task.loss, self.ball, steps=1, step=settings.radius
        )
        going_on = whole or not settings.drop_fallen
        pgd = self.pgd(task.loss, going_on)
        margin = None
        if settings.margin is not None and self.portion_classes >= (3 if settings.margin == "dlr" else 2):
            margin = self.bad(
                self.pgd(LOSSES[settings.margin], not settings.drop_fallen), settings.drop_fallen
            )
        n = len(portion.rows)
        end = self.images.clone() if going_on else None
        if end is not None:
            end[victims] = pgd.end
        flat, rise = torch.zeros(n, dtype=torch.bool), torch.zeros(n)
        flat[victims.cpu()], rise[victims.cpu()] = fgsm.flat.cpu(), pgd.rise.cpu()
        doubled = self.doubled(pgd) if settings.doubled and portion.place == 0 else None
        return replace(
            portion,
            fgsm=self.bad(fgsm, True),
            pgd=self.bad(pgd, settings.drop_fallen),
            margin=margin,
            end=end,
            flat=flat,
            rise=rise,
            doubled=doubled,
        )

    @property
    def portion_classes(self) -> int:
        return len(self.view.bench.task.classes)

    def pgd(self, loss: Loss, going_on: bool) -> Course:
        """PGD on the victims, from as many starts as are wanted."""
        settings, victims = self.settings, self.victims
        images, labels = self.images[victims], self.labels[victims]

        def once(rows: Tensor, number: int) -> Course:
            return attacks.traced(
                self.view.fast,
                images[rows],
                labels[rows],
                loss,
                self.ball,
                steps=settings.steps,
                step=settings.stride,
                start=self.start(number, self.ball)[victims[rows]],
                drop_fallen=not going_on,
            )

        first = once(torch.arange(len(victims), device=victims.device), 0)
        return attacks.restarted(first, once, settings.restarts, labels)

    def doubled(self, pgd: Course) -> Tensor:
        """Of what stands: whether twice the eps, in steps twice as long, fells it or brings it nearer to falling."""
        rows = (~pgd.fallen).nonzero().squeeze(1)
        places = self.victims[rows]
        ball = Ball(self.ball.surface, min(1.0, 2 * self.ball.eps))
        further = attacks.traced(
            self.view.fast,
            self.images[places],
            self.labels[places],
            self.view.bench.task.loss,
            ball,
            steps=self.settings.steps,
            step=2 * self.settings.stride,
            start=self.start(0, ball)[places],
        )
        before, after = (
            attacks.margins(said, self.labels[places]) for said in (pgd.log_probs[rows], further.log_probs)
        )
        return (further.fallen | (after > before)).cpu()

    def bad(self, course: Course, at_the_fall: bool) -> Bad:
        """What became of all images of the portion.

        Args:
            at_the_fall: each as it was when it fell; else after all steps.
        """
        victims = self.victims
        there = victims.cpu()
        images, said = self.images.clone(), self.view.log_probs[self.portion.rows]
        fallen = ~self.portion.clean
        fallen[there] = course.fallen.cpu()
        images[victims], said[there] = course.images, course.log_probs.cpu()
        if not at_the_fall:
            later = course.fallen.nonzero().squeeze(1)
            images[victims[later]] = course.end[later]
            said[there[later.cpu()]] = attacks.log_probs(self.view.fast, course.end[later]).cpu()
        return Bad(images, said, fallen)


def bounds(settings: Robustness, place: int, count: int) -> tuple[int, int]:
    """From and to which of the images in the order of attack a portion reaches; of ``count`` there are."""
    size = min(settings.examples or count, count)
    most = size if settings.width is None else min(settings.most or count, count)
    return min(place * size, most), min((place + 1) * size, most)


_known: weakref.WeakKeyDictionary[View, dict[tuple[Robustness, int, bool], Attacked]]
_known = weakref.WeakKeyDictionary()


def of_reference(reference: View, settings: Robustness) -> list[Attacked]:
    """Portions against a reference, made once for all subjects: as many as its worst case wants, see ``width``."""
    found: list[Attacked] = []
    count = len(reference.bench.feed("test"))
    while True:
        found.append(_made(reference, settings, len(found), True))
        start, stop = bounds(settings, len(found), count)
        if start >= stop or settings.width is None or _wide(found) <= settings.width:
            return found


def of_subject(subject: View, settings: Robustness, theirs: Sequence[Attacked]) -> list[Attacked]:
    """The same portions against another state."""
    return [_made(subject, settings, part.place, False) for part in theirs]


def _made(view: View, settings: Robustness, place: int, whole: bool) -> Attacked:
    known = _known.pop(view, {})
    _known[view] = known  # the last in order: those asked for longest ago are forgotten, to save memory
    for old in list(_known)[:-KEPT]:
        del _known[old]
    key = (settings, place, whole)
    if key not in known:
        known[key] = Attacked.make(view, settings, place, whole)
    return known[key]


def _wide(parts: Sequence[Attacked]) -> float:
    """Points between the ends of the interval of what stands everything."""
    fallen = torch.cat([part.fallen for part in parts])
    low, high = wilson(int((~fallen).sum()), len(fallen))
    return 100 * float(high - low)


def answers(view: View, portion: Attacked, images: Tensor, moved: Tensor) -> Tensor:
    """(n, classes) on the CPU, what a state says of images of a portion of which only some were moved.

    Args:
        moved: (n,) bool, on the CPU.
    """
    said = view.log_probs[portion.rows]
    there = moved.nonzero().squeeze(1)
    said[there] = attacks.log_probs(view.fast, images[there.to(images.device)]).cpu()
    return said
