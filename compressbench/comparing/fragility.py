"""More fragile? The same pictures spoilt, noisy or attacked, each model asked what it says then.

Everything is done to uint8 pictures of the size that the models take, so that any artefact can be asked: the attacks by
queries need nothing else, those by gradients are made on a model that has some and tried on all (transfer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.comparing.answers import answers
from compressbench.comparing.arrays import Floats, Ints
from compressbench.comparing.intervals import Estimate, share
from compressbench.comparing.oddities import WRONG, Finding
from compressbench.comparing.probabilities import log_probabilities

if TYPE_CHECKING:
    from torch import Tensor, nn

Ask = Callable[[Any], Floats]
"""uint8 pictures (n, height, width, channels) to scores (n, classes)."""
KINDS = ("gaussian_noise", "shot_noise", "impulse_noise", "gaussian_blur", "contrast")
SEVERITIES = (2, 4)
EPS = 4
"""Of attacks: pixels out of 255 that each value may change by."""
QUERIES, STEPS = 200, 10
ATTACKS = "attack"


@dataclass(frozen=True)
class Trial:
    """What was done to the pictures, and what each model then got right.

    Attributes:
        name: in words.
        kind: ``clean``, ``corruption``, ``noise`` or ``attack``.
        right: of each model, percent of the examples; without labels, of its own clean answers kept.
        n: examples.
    """

    name: str
    kind: str
    right: tuple[Estimate, ...]
    n: int


@dataclass(frozen=True)
class Fragility:
    """All trials.

    Attributes:
        names: of the models, the reference first.
        worst: of each, percent right under every attack.
        findings: masked gradients.
        said: what was not tested, and why.
    """

    names: tuple[str, ...]
    trials: tuple[Trial, ...]
    worst: tuple[Estimate, ...]
    findings: tuple[tuple[Finding, ...], ...]
    said: tuple[str, ...] = ()


def fragile(
    pictures: Any,
    labels: Ints | None,
    names: Sequence[str],
    asks: Sequence[Ask],
    modules: Sequence[nn.Module | None],
    kinds: Sequence[str],
    attacked: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fragility:
    """Tries all of it.

    Args:
        pictures: uint8 (n, height, width, channels), of the size that the models take.
        labels: int64 (n,), all known; None: what each model says of the clean picture stands for it.
        asks: of each model.
        modules: of each, a module from floats (n, channels, height, width) in [0, 1] to scores, with gradients, or None.
        kinds: what the scores of each are, ``logits`` or ``probabilities``.
        attacked: examples that are attacked, the first ones.
        progress: told (done, total).
    """
    import torch

    from compressbench.tasks.images.attacks import NoGradient
    from compressbench.tasks.images.corruptions import corrupted

    clean = [answers(ask(pictures)).labels for ask in asks]
    truths = [labels if labels is not None else own for own in clean]
    total = 2 + len(KINDS) * len(SEVERITIES) + len(asks) + sum(m is not None for m in modules)
    trials = [_trial("clean", "clean", clean, truths)]
    progress(1, total)
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pictures, -1, 1)))
    for kind in KINDS:
        for severity in SEVERITIES:
            spoilt = _pictures(corrupted(tensor, kind, severity))
            said = [answers(ask(spoilt)).labels for ask in asks]
            trials.append(
                _trial(f"{kind.replace('_', ' ')}, severity {severity}", "corruption", said, truths)
            )
            progress(len(trials), total)
    few, some = tensor[:attacked], [truth[:attacked] for truth in truths]
    signs = torch.randint(0, 2, few.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    noisy = _pictures((few.int() + EPS * signs).clamp(0, 255).to(torch.uint8))
    said = [answers(ask(noisy)).labels for ask in asks]
    trials.append(_trial(f"noise of {EPS}/255", "noise", said, some))
    fallen = [own[:attacked] != truth for own, truth in zip(clean, some, strict=True)]
    by_query = []
    for place, (name, ask, kind) in enumerate(zip(names, asks, kinds, strict=True)):
        moved = _square(few, torch.from_numpy(some[place]), ask, kind, seed)
        said = [answers(each(_pictures(moved))).labels for each in asks]
        trials.append(_trial(f"square attack on {name}, {QUERIES} queries", ATTACKS, said, some))
        by_query.append(float(np.mean(said[place] == some[place])))
        fallen = [f | (s != truth) for f, s, truth in zip(fallen, said, some, strict=True)]
        progress(len(trials), total)
    by_gradient: list[float | None] = [None] * len(asks)
    without = [name for name, module in zip(names, modules, strict=True) if module is None]
    for place, module in enumerate(modules):
        if module is None:
            continue
        try:
            moved = _pgd(module, few, torch.from_numpy(some[place]))
        except NoGradient:
            without.append(names[place])
            continue
        said = [answers(each(_pictures(moved))).labels for each in asks]
        trials.append(_trial(f"PGD made on {names[place]}, {STEPS} steps", ATTACKS, said, some))
        by_gradient[place] = float(np.mean(said[place] == some[place]))
        fallen = [f | (s != truth) for f, s, truth in zip(fallen, said, some, strict=True)]
        progress(len(trials), total)
    worst = tuple(share(int((~f).sum()), len(f)) for f in fallen)
    others = tuple(
        f"{name} has no gradients here: it is attacked by queries and by what was made on others"
        for name in without
    )
    return Fragility(
        tuple(names), tuple(trials), worst, _masked(names, trials, by_gradient, len(few)), others
    )


def _trial(name: str, kind: str, said: Sequence[Ints], truths: Sequence[Ints]) -> Trial:
    n = len(said[0])
    return Trial(
        name,
        kind,
        tuple(share(int((s == t[:n]).sum()), n) for s, t in zip(said, truths, strict=True)),
        n,
    )


def _pictures(images: Tensor) -> Any:
    return np.ascontiguousarray(np.moveaxis(images.numpy(), 1, -1))


def _square(images: Tensor, labels: Tensor, ask: Ask, kind: str, seed: int) -> Tensor:
    """Pictures after the attack by queries, uint8."""
    import torch

    from compressbench.tasks.images.square import square

    def scores(x: Tensor) -> Tensor:
        found = ask(_pictures((x * 255).round().to(torch.uint8)))
        return torch.from_numpy(log_probabilities(found, kind)).float()

    generator = torch.Generator().manual_seed(seed)
    found = square(scores, images.float() / 255, labels, _ball(), QUERIES, generator)
    return (found.images * 255).round().clamp(0, 255).to(torch.uint8)


def _pgd(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Pictures after the attack by gradients, uint8."""
    import torch
    import torch.nn.functional as F

    from compressbench.tasks.images.attacks import pgd

    found = pgd(
        module,
        images.float() / 255,
        labels,
        lambda outputs, wanted: F.cross_entropy(outputs.logits.float(), wanted),
        _ball(),
        STEPS,
        EPS / 255 / 4,
    )
    return (found * 255).round().clamp(0, 255).to(torch.uint8)


def _ball() -> Any:
    import torch

    from compressbench.tasks.images.attacks import Ball
    from compressbench.tasks.task import Surface

    return Ball(Surface(low=torch.tensor(0.0), high=torch.tensor(1.0), scale=torch.tensor(1.0)), EPS / 255)


def outdone(own: float, other: float, n: int) -> bool:
    """Whether an attack leaves so much more right than another, on the same ``n`` examples, that it must be failing.

    More than three standard errors of the difference and more than 5 points; both shares are in [0, 1].
    """
    error = float(np.sqrt((own * (1 - own) + other * (1 - other)) / max(1, n)))
    return own - other > 3 * error and own - other > 0.05


def _masked(
    names: Sequence[str], trials: Sequence[Trial], by_gradient: Sequence[float | None], n: int
) -> tuple[tuple[Finding, ...], ...]:
    """Of each model, whether its own gradients find far less than what needs none of them."""
    found: list[tuple[Finding, ...]] = []
    for place, (name, own) in enumerate(zip(names, by_gradient, strict=True)):
        others = [
            (t.right[place].value / 100, t.name)
            for t in trials
            if t.kind == ATTACKS and not t.name.startswith(f"PGD made on {name},")
        ]
        if own is None or not others:
            found.append(())
            continue
        best, by = min(others)
        if outdone(own, best, n):
            found.append(
                (
                    Finding(
                        "gradients masked",
                        f"{name} stands attacks by its own gradients ({100 * own:.0f} % right) better than what needs "
                        f"none of them ({by}: {100 * best:.0f} %): its gradients are masked, and robustness that PGD "
                        "shows isn't there",
                        100 * (own - best),
                        n,
                        WRONG,
                    ),
                )
            )
        else:
            found.append(())
    return tuple(found)
