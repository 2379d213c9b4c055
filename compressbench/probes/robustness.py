"""Robustness: what is left under attack, and whether the compressed model sides with the reference there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError, nearest
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.probes.attacked import Attacked
    from compressbench.views import View

MARGINS = ("margin", "dlr")
FLAT = 0.05
"""Share of images without any gradient from which on a state is warned of."""
NEARER = 0.75
"""Share of what stands that twice the eps must bring nearer to falling; half of it would be chance."""
FEW = 8
"""Standing images from which on that share says anything."""
NOISES = "noise"
NAMES = {
    "clean": "as they are",
    NOISES: "noise",
    "fgsm": "FGSM",
    "pgd": "PGD",
    "pgd_margin": "PGD on the margin",
    "pgd_transfer": "PGD on the dense model",
    "square": "Square",
}
"""What worst cases are over, by the stem of the metric; the order is that of the records."""


@dataclass(frozen=True)
class Robustness:
    """Attacks in the L-infinity norm without targets, by gradients, by scores, by what fools the reference, by noise.

    Which images are attacked depends on the dataset alone, how many on the reference alone, and all random numbers on
    the seed alone, so that all states of a run are attacked alike.

    Attributes:
        eps: largest change of a pixel, 1 being the full range; a number or a fraction in quotes.
        steps: of PGD.
        step: length of a step of PGD; a quarter of ``eps`` by default.
        examples: test images to attack at first, drawn once for all; null for all of them.
        random_start: starts PGD somewhere in the ball instead of at the image.
        drop_fallen: stops attacking an image once it has fallen, as the loyalty paper's attack on text does:
            loyalty is then that at the moment of falling. With false every image takes all steps, at several
            times the cost. Examples made against the reference always take all steps, since what has only
            just fallen hardly transfers.
        restarts: starts of PGD; from the second on, of what still stands.
        margin: a second PGD on a loss without softmax, which a saturated one can't fool: ``margin`` (Carlini & Wagner),
            ``dlr`` (Croce & Hein; three classes or more), or null for none.
        noise: tries noise of the same size too, uniform in the ball and at its corners.
        queries: of the Square attack an image, see the probe ``square``; 0 for none.
        doubled: whether PGD with twice the ``eps`` is tried on what stands of the first ``examples``, for a warning.
        width: as many images again are attacked until the 95 % interval of the reference's worst case is at most so
            many points wide; null for ``examples`` alone.
        most: images at most; null for the whole test split.
    """

    VERSION: ClassVar[int] = (
        3  # 2: answers that are no numbers agree with nothing; 3: more attacks, worst case
    )
    eps: float | str = "8/255"
    steps: int = 10
    step: float | str | None = None
    examples: int | None = 512
    random_start: bool = True
    drop_fallen: bool = True
    restarts: int = 1
    margin: str | None = "margin"
    noise: bool = True
    queries: int = 0
    doubled: bool = True
    width: float | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.radius <= 1:
            raise UserError(
                f"robustness: eps is {self.eps}, must be above 0 and at most 1 (the range of a pixel)"
            )
        if self.stride <= 0 or self.steps < 1:
            raise UserError(f"robustness: step is {self.step} and steps {self.steps}, must both be above 0")
        for name, least in (("examples", 1), ("most", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise UserError(f"robustness: {name} is {given}, must be at least {least}, or null for all")
        if self.restarts < 1 or (self.restarts > 1 and not self.random_start):
            raise UserError(
                f"robustness: restarts is {self.restarts}, must be at least 1, and 1 without random_start: "
                "all starts would be the same"
            )
        if self.margin is not None and self.margin not in MARGINS:
            raise UserError(
                f"robustness: margin is {self.margin!r}; {nearest(str(self.margin), MARGINS)}, or null for none"
            )
        if self.queries < 0:
            raise UserError(f"robustness: queries is {self.queries}, must be at least 1, or 0 for no Square")
        if self.width is not None and not 0 < self.width <= 100:
            raise UserError(
                f"robustness: width is {self.width}, must be points above 0, at most 100, or null"
            )

    @property
    def radius(self) -> float:
        """``eps`` as a number."""
        return _number("eps", self.eps)

    @property
    def stride(self) -> float:
        """Length of a step, in pixel units."""
        return self.radius / 4 if self.step is None else _number("step", self.step)

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import no_surface

        return no_surface(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the same images for all states; loyalty is that of both models on the subject's bad examples."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        import torch

        from compressbench.probes.attacked import of_reference, of_subject
        from compressbench.probes.square import queried
        from compressbench.tasks.task import NoSurface

        surface = bench.task.surface(bench.device)
        if isinstance(surface, NoSurface):
            for name in ("clean", "fgsm", "pgd", "worst_case"):
                yield Metric(f"{name}_accuracy", None, "%", note=surface.why)
            return
        same = subject.is_of_the_state_of(reference)
        theirs = of_reference(reference, self)
        own = theirs if same else of_subject(subject, self, theirs)
        under = _right(subject, own, theirs, same)
        yield from standing(under, _worst(own, under), self, len(bench.feed("test")))
        yield from _missing(own, theirs, self, len(bench.task.classes))
        if self.queries:
            yield queried(torch.cat([part.square[1] for part in own if part.square]), self.queries)
        yield from _loyalties(own, reference, self, same)
        yield from _warnings(own, under)


def _number(name: str, value: float | str) -> float:
    try:
        return float(Fraction(str(value)))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"robustness: {name} is {value!r}, must be a number or a fraction such as 8/255"
        ) from error


def standing(
    under: Mapping[str, Tensor],
    worst: Tensor,
    settings: Robustness,
    count: int,
    group: str = "",
) -> Iterable[Metric]:
    """Accuracy under each attack, and under all of them with Wilson's 95 % interval.

    Args:
        under: by the stem of the metric, (n,) bool: right there; of noise by ``noise, KIND``.
        worst: (n,) bool: right under everything.
        count: examples of the test split.
        group: of the metrics.
    """
    from compressbench import metrics
    from compressbench.comparing.intervals import share

    n = len(worst)
    for name, right in under.items():
        stem, _, kind = name.partition(", ")
        place = ", ".join(x for x in (group, kind) if x)
        note = "on examples made against the reference" if stem == "pgd_transfer" else ""
        yield Metric(f"{stem}_accuracy", metrics.percent(right), "%", n=n, group=place, note=note)
    found = share(int(worst.sum()), n)
    tried = ", ".join(words for stem, words in NAMES.items() if stem in under)
    note = f"right under all of: {tried}"
    if settings.width is not None and found.high - found.low > settings.width:
        note += f"; its 95 % interval is wider than {settings.width:g} points"
        note += "" if n < count else ": these are all images there are"
    yield Metric("worst_case_accuracy", found.value, "%", n=n, group=group, note=note)
    yield Metric("worst_case_low", found.low, "%", n=n, group=group)
    yield Metric("worst_case_high", found.high, "%", n=n, group=group)


def _right(
    subject: View, own: Sequence[Attacked], theirs: Sequence[Attacked], same: bool
) -> dict[str, Tensor]:
    """What the subject gets right, by attack, in the order of the records."""
    import torch

    from compressbench import metrics
    from compressbench.probes.attacked import answers

    labels = torch.cat([part.labels for part in own])
    under = {"clean": torch.cat([part.clean for part in own])}
    noises = {kind: torch.cat([~p.noise[kind][1] for p in own if p.noise]) for kind in own[0].noise or ()}
    if noises:
        under[NOISES] = torch.stack(list(noises.values())).all(dim=0)
        under |= {f"{NOISES}, {kind}": right for kind, right in noises.items()}
    for name in _made_of_all(own):
        said = torch.cat([part.by_gradient[name].log_probs for part in own])
        under[name] = metrics.hits(said, labels)
    if all(part.end is not None for part in theirs):
        moved = []
        for part in theirs:
            assert part.end is not None
            # What never fell is where it was when it was last asked; only of the rest the end isn't known.
            known = part.pgd.fallen if same and part.pgd is not None else part.clean
            moved.append(answers(subject, part, part.end, part.clean & known))
        under["pgd_transfer"] = metrics.hits(torch.cat(moved), labels)
    if own[0].square is not None:
        under["square"] = torch.cat([~part.square[0] for part in own if part.square])
    return {name: right for stem in NAMES for name, right in under.items() if name.partition(", ")[0] == stem}


def _why(parts: Sequence[Attacked]) -> str:
    """Why there is nothing by gradients; a portion of which nothing was attacked can't tell."""
    return next((part.why for part in parts if part.why), "")


def _made_of_all(parts: Sequence[Attacked]) -> list[str]:
    return [name for name in parts[0].by_gradient if all(name in part.by_gradient for part in parts)]


def _worst(own: Sequence[Attacked], under: Mapping[str, Tensor]) -> Tensor:
    """(n,) bool: right under everything; an example that fell on the way of an attack counts as fallen too."""
    import torch

    fallen = torch.cat([part.fallen for part in own])
    return ~fallen & under["pgd_transfer"] if "pgd_transfer" in under else ~fallen


def _missing(
    own: Sequence[Attacked], theirs: Sequence[Attacked], settings: Robustness, classes: int
) -> Iterable[Metric]:
    """Metrics without a figure, and why."""
    if why := _why(own):
        for name in ("fgsm", "pgd", *(["pgd_margin"] if settings.margin else [])):
            yield Metric(f"{name}_accuracy", None, "%", note=why)
    elif settings.margin and own[0].margin is None:
        few = f"{settings.margin} needs more than {classes} classes"
        yield Metric("pgd_margin_accuracy", None, "%", note=few)
    if why := _why(theirs):
        yield Metric("pgd_transfer_accuracy", None, "%", note=f"reference: {why}")


def _loyalties(
    own: Sequence[Attacked], reference: View, settings: Robustness, same: bool
) -> Iterable[Metric]:
    import torch

    from compressbench import metrics
    from compressbench.probes.attacked import answers

    for name in ("fgsm", "pgd"):
        if name not in _made_of_all(own):
            continue
        made = [(part, part.by_gradient[name]) for part in own]
        said = torch.cat([bad.log_probs for _, bad in made])
        other = said if same else torch.cat([answers(reference, p, bad.images, p.clean) for p, bad in made])
        agreed, n = metrics.label_loyalty(metrics.named(said), metrics.named(other)), len(said)
        when = "as it fell" if settings.drop_fallen and name == "pgd" else "after all steps"
        yield Metric(f"{name}_label_loyalty", agreed, "%", n=n, note=f"each image {when}")
        close = metrics.probability_loyalty(said, other)
        note = f"natural logarithm; each image {when}"
        yield Metric(f"{name}_probability_loyalty", close, "%", n=n, note=note)


def _warnings(own: Sequence[Attacked], under: Mapping[str, Tensor]) -> Iterable[Metric]:
    """Signs that attacks by gradients fail, after Athalye et al. (2018) and Carlini et al. (2019), each 1 or 0."""
    import torch

    if why := _why(own):
        yield _warning("zero", why, len(under["clean"]))
        return
    victims = torch.cat([part.clean for part in own])
    flat = torch.cat([part.flat for part in own if part.flat is not None])[victims]
    rise = torch.cat([part.rise for part in own if part.rise is not None])[victims]
    n = int(victims.sum())
    if not n:
        yield Metric("gradient_warning", None, "1", group="zero", note="it gets no image right as it is")
        return
    none = int(flat.sum())
    yield _warning(
        "zero",
        f"the gradient is exactly 0 at {none} of {n} images that it gets right: no attack that follows it moves them"
        if none > FLAT * n
        else "",
        n,
    )
    yield _warning("shattered", _shattered(rise, under), n)
    yield _warning("masked", masked(under), len(victims))
    doubled = next((part.doubled for part in own if part.doubled is not None), None)
    if doubled is not None:
        few = len(doubled) < FEW
        share = float(doubled.double().mean()) if len(doubled) else 1.0
        yield _warning(
            "no effect of eps",
            f"twice the eps brings only {int(doubled.sum())} of {len(doubled)} images that stand PGD nearer to falling"
            if not few and share < NEARER
            else "",
            int(own[0].clean.sum()),
        )


def _warning(kind: str, why: str, n: int) -> Metric:
    return Metric("gradient_warning", float(bool(why)), "1", n=n, group=kind, note=why)


def _shattered(rise: Tensor, under: Mapping[str, Tensor]) -> str:
    from compressbench.comparing.fragility import outdone

    steps, one = (float(under[name].double().mean()) for name in ("pgd", "fgsm"))
    if outdone(steps, one, len(under["pgd"])):
        return f"PGD leaves {100 * steps:.0f} % right and one step of FGSM {100 * one:.0f} %: its steps lead nowhere"
    mean = float(rise.double().mean())
    if mean <= 0:
        return (
            f"the loss doesn't rise along the steps of PGD: the margin changes by {mean:.2g} nats on average"
        )
    return ""


def masked(under: Mapping[str, Tensor]) -> str:
    """Why its own gradients mislead: they find far less than what needs none of them; empty where they don't.

    Args:
        under: as for ``standing``.
    """
    from compressbench.comparing.fragility import outdone

    own = [under[name] for name in ("pgd", "pgd_margin") if name in under]
    others = {name: under[name] for name in ("pgd_transfer", "square") if name in under}
    if not own or not others:
        return ""
    n = len(own[0])
    best = float(own[0].logical_and(own[-1]).double().mean())
    shares = {name: float(right.double().mean()) for name, right in others.items()}
    name = min(shares, key=lambda x: shares[x])
    if not outdone(best, shares[name], n):
        return ""
    return (
        f"its own gradients leave {100 * best:.0f} % right, {NAMES[name]} only {100 * shares[name]:.0f} %: they are "
        "masked, and robustness that PGD shows isn't there"
    )
