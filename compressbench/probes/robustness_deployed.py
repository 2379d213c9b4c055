"""Robustness deployed: what is left under attack of what a runtime really executes for a state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.hardware.exits import lower
from compressbench.hardware.target import HardwareTarget, Lowered, Unsupported
from compressbench.probes.deployed import check_runtimes
from compressbench.probes.robustness import NOISES, Robustness, masked, standing
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.views import View


@dataclass(frozen=True)
class RobustnessDeployed:
    """A state lowered to each runtime: its accuracy there on bad examples made on the simulation in torch, and under
    the Square attack on the runtime's own scores.

    Every figure of a runtime has its name as the group. With the settings of ``robustness`` the same bad examples are
    used, and nothing is attacked twice.

    Attributes:
        runtimes: hardware targets by name.
        attack: as the probe ``robustness`` attacks.
    """

    runtimes: Mapping[str, HardwareTarget]
    attack: Robustness = field(default_factory=Robustness)
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_runtimes(self.runtimes)
        if not isinstance(self.attack, Robustness):
            raise UserError("attack: the settings of a probe robustness are wanted, with its _target_")

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.probes.unfit import no_surface

        return no_surface(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the images that ``robustness`` attacks, for each runtime."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        from compressbench.tasks.task import NoSurface

        surface = bench.task.surface(bench.device)
        for name, target in self.runtimes.items():
            if isinstance(surface, NoSurface):
                yield Metric("worst_case_accuracy", None, "%", group=name, note=surface.why)
                continue
            lowered = lower(target, subject)
            if isinstance(lowered, Unsupported):
                yield Metric("worst_case_accuracy", None, "%", group=name, note=lowered.why)
            elif lowered.price is not None:
                why = "a modelled device: nothing runs on it"
                yield Metric("worst_case_accuracy", None, "%", group=name, note=why)
            else:
                yield from self._on(name, scores_of(lowered), subject, reference, bench)

    def _on(
        self, name: str, scores: Callable[[Tensor], Tensor], subject: View, reference: View, bench: Bench
    ) -> Iterable[Metric]:
        """Figures on one runtime."""
        import torch

        from compressbench import metrics
        from compressbench.probes.attacked import FIRST_SQUARES, bounds, of_reference, of_subject
        from compressbench.probes.square import attacked_rows, queried, search

        attack, feed = self.attack, bench.feed("test")
        theirs = of_reference(reference, attack)
        same = subject.is_of_the_state_of(reference)
        own = theirs if same else of_subject(subject, attack, theirs)
        why = next((part.why for part in own if part.why), "")
        transfers = all(part.end is not None for part in theirs)
        under: dict[str, list[Tensor]] = {}
        queries = []
        for part, other in zip(own, theirs, strict=True):
            (images,) = bench.task.encode(feed.take(part.rows.to(bench.device)))
            clean = scores(images)
            bad = {f"{NOISES}, {kind}": (x, part.clean) for kind, (x, _) in (part.noise or {}).items()}
            if not why:
                bad |= {kind: (made.images, part.clean) for kind, made in part.by_gradient.items()}
            if other.end is not None and transfers:
                bad["pgd_transfer"] = other.end, other.clean
            found = {"clean": metrics.hits(clean, part.labels)}
            for kind, (made, moved) in bad.items():
                said, there = clean.clone(), moved.nonzero().squeeze(1)
                if len(there):  # runtimes take no batch of nothing
                    said[there] = scores(made[there.to(made.device)])
                found[kind] = metrics.hits(said, part.labels)
            if attack.queries:
                start, stop = bounds(attack, part.place, len(feed))
                order = attacked_rows(len(feed), stop)[start:]
                sorting = order.argsort()
                before = torch.empty_like(clean)
                before[sorting] = clean
                fallen, asked = search(
                    subject,
                    lambda x: scores(x).to(x.device),
                    order,
                    before.to(bench.device),
                    attack.radius,
                    attack.queries,
                    FIRST_SQUARES,
                    start,
                )
                found["square"] = ~fallen[sorting]
                queries.append(asked)
            for kind, right in found.items():
                under.setdefault(kind, []).append(right)
        whole = {kind: torch.cat(parts) for kind, parts in under.items()}
        noises = [right for kind, right in whole.items() if kind.startswith(NOISES)]
        if noises:
            whole = {"clean": whole["clean"], NOISES: torch.stack(noises).all(dim=0), **whole}
        yield from standing(whole, torch.stack(list(whole.values())).all(dim=0), attack, len(feed), name)
        if queries:
            yield queried(torch.cat(queries), attack.queries, name)
        if why:
            yield Metric("pgd_accuracy", None, "%", group=name, note=why)
            return
        told, n = masked(whole), len(whole["clean"])
        yield Metric("gradient_warning", float(bool(told)), "1", n=n, group=f"{name}, masked", note=told)


def scores_of(lowered: Lowered) -> Callable[[Tensor], Tensor]:
    """From encoded images to the log-probabilities (n, classes) that a runtime gives, on the CPU."""
    import torch

    from compressbench.inputs import on
    from compressbench.tasks.images.attacks import BATCH

    device = lowered.inputs[0].device

    def scores(images: Tensor) -> Tensor:
        parts = []
        for batch in images.split(BATCH):
            result: Any = lowered.run(*on((batch,), device))
            parts.append(result.detach().float().log_softmax(dim=-1).cpu())
        return torch.cat(parts)

    return scores
