"""Exits: who leaves where, at what cost, and what that does; beside the last exit, an oracle and chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric
from compressbench.specs import Count, check_fields

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.exit_criteria.policy import Policy
    from compressbench.views import View


LETTERS = 80


@dataclass(frozen=True)
class Exits:
    """Each exit's accuracy, calibration, cost and share of the examples, per class too; controls; easy and hard images.

    Controls: the last exit for all; an oracle that takes the first exit that is right (the last where none is); and the
    same numbers of examples at the same exits, assigned at random: the mean over all assignments, no draw.

    Attributes:
        images: how many of the easiest and of the hardest are shown; of texts their beginnings.
    """

    images: Count = 8
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject on the whole test split."""
        import torch

        from compressbench import metrics
        from compressbench.exit_criteria.policy import assigned, policy_of, taken
        from compressbench.models.counting import of_exits
        from compressbench.models.exit_policies import answers
        from compressbench.models.exits import exit_names, parts_of

        module = subject.module
        if not hasattr(module, "parts"):
            yield Metric("mean_exit", None, "1", "computed", note="the net has no exits")
            return
        names = exit_names(module)
        logits, labels = answers(subject.parts, bench, "test")
        costs = torch.tensor(of_exits(parts_of(module), bench.task.blank(1)), dtype=torch.float64)
        right = torch.stack([metrics.hits(t, labels) for t in logits], dim=1)
        n, last = len(labels), len(names) - 1
        policy = policy_of(subject.state.policies)
        where = assigned(policy, logits) if policy else torch.full((n,), last)
        share = torch.bincount(where, minlength=last + 1).double() / n
        yield from _each(names, logits, labels, right, costs, share, policy)
        yield from _controls(right, costs, where, share)
        yield from _classes(bench.task.classes, names, labels, right, costs, where)
        if policy and last:
            sure = taken(logits, where).softmax(1).amax(1)
            yield from self._shown(bench, names, labels, taken(logits, where).argmax(1), where, sure)

    def _shown(
        self, bench: Bench, names: Sequence[str], labels: Tensor, said: Tensor, where: Tensor, sure: Tensor
    ) -> Iterable[Metric]:
        """The surest of those that leave first, and the least sure of those that go on to the end."""
        from compressbench.png import strip
        from compressbench.tasks.images.classification import IMAGES
        from compressbench.tasks.text.packing import TEXT, unpacked

        images, classes = bench.feed("test").columns.get(IMAGES), bench.task.classes
        texts = bench.dataset.splits["test"].columns.get(TEXT)
        read = unpacked(texts) if texts is not None else None
        for name, place, sign in (("easiest", int(where.min()), -1), ("hardest", len(names) - 1, 1)):
            rows = (where == place).nonzero().squeeze(1)
            if not len(rows):
                yield Metric(name, None, "examples", note=f"no example leaves at {names[place]}")
                continue
            rows = rows[(sign * sure[rows]).argsort(stable=True)[: self.images]]
            told = "; ".join(
                (f"“{shortened(read[row])}”: " if read else "")
                + f"{classes[y]}"
                + ("" if y == p else f" taken for {classes[p]}")
                for row, y, p in zip(rows.tolist(), labels[rows].tolist(), said[rows].tolist(), strict=True)
            )
            picture = strip(images[rows.to(images.device)].cpu().numpy()) if images is not None else ""
            what = "texts" if read else "examples"
            note = f"at {names[place]}: {told}; test {what} {', '.join(map(str, rows.tolist()))}"
            yield Metric(name, len(rows), "examples", n=len(rows), note=note, artefact=picture)


def shortened(text: str) -> str:
    """A text in one line of at most ``LETTERS``."""
    line = " ".join(text.split())
    return line if len(line) <= LETTERS else f"{line[: LETTERS - 2].rstrip()} …"


def _each(
    names: Sequence[str],
    logits: Sequence[Tensor],
    labels: Tensor,
    right: Tensor,
    costs: Tensor,
    share: Tensor,
    policy: Policy | None,
) -> Iterable[Metric]:
    from compressbench import metrics

    n = len(labels)
    for place, name in enumerate(names):
        yield Metric("exit_top1", metrics.percent(right[:, place]), "%", n=n, group=name)
        judged = (
            policy.calibrated(place, logits[place]) if policy and place < len(names) - 1 else logits[place]
        )
        ece = metrics.calibration_error(judged.log_softmax(1), labels)
        yield Metric("exit_ece", ece, "%", n=n, group=name, note="as the policy judges it")
        yield Metric("exit_macs", float(costs[place]), "MACs", "theoretical", group=name)
        yield Metric("exit_share", 100 * float(share[place]), "%", n=n, group=name)
        if policy and place < len(names) - 1:
            value = policy.thresholds[place]
            finite = value != float("inf")
            yield Metric(
                "exit_threshold",
                value if finite else None,
                "1",
                "computed",
                group=name,
                note="" if finite else "never",
            )
            yield Metric("exit_temperature", policy.temperatures[place], "1", "computed", group=name)


def _controls(right: Tensor, costs: Tensor, where: Tensor, share: Tensor) -> Iterable[Metric]:
    import torch

    n, last = right.shape[0], right.shape[1] - 1
    spent = float((share * costs).sum())
    yield Metric("expected_macs", spent, "MACs", "computed", n=n, note="shares of the exits times their MACs")
    yield Metric(
        "expected_cost", 100 * spent / float(costs[-1]), "%", "computed", n=n, note="of the last exit's MACs"
    )
    yield Metric(
        "mean_exit", float((share * torch.arange(1, last + 2)).sum()), "1", "computed", n=n, note="from 1"
    )
    own = right.gather(1, where[:, None]).squeeze(1)
    yield Metric("exits_top1", 100 * float(own.double().mean()), "%", n=n)
    yield Metric(
        "last_top1", 100 * float(right[:, -1].double().mean()), "%", n=n, note="all at the last exit"
    )
    by_chance = float((share * right.double().mean(0)).sum())
    yield Metric(
        "random_top1", 100 * by_chance, "%", "computed", n=n,
        note="as many examples at each exit, but any: mean over all assignments",
    )  # fmt: skip
    some = right.any(1)
    first = torch.where(some, right.int().argmax(1), last)
    yield Metric(
        "oracle_top1", 100 * float(some.double().mean()), "%", n=n, note="the first exit that is right"
    )
    price = float(costs[first].mean())
    yield Metric(
        "oracle_cost", 100 * price / float(costs[-1]), "%", "computed", n=n, note="of the last exit's MACs"
    )
    over = right[:, :-1].any(1) & ~right[:, -1]
    yield Metric(
        "overthinking",
        100 * float(over.double().mean()),
        "%",
        n=n,
        note="an early exit is right, the last one wrong",
    )


def _classes(
    classes: Sequence[str],
    names: Sequence[str],
    labels: Tensor,
    right: Tensor,
    costs: Tensor,
    where: Tensor,
) -> Iterable[Metric]:
    import torch

    for label, title in enumerate(classes):
        own = labels == label
        count = int(own.sum())
        if not count:
            continue
        here = where[own]
        share = torch.bincount(here, minlength=len(names)).double() / count
        for place, name in enumerate(names):
            yield Metric("class_exit_share", 100 * float(share[place]), "%", n=count, group=f"{name}/{title}")
        cost = 100 * float(costs[here].mean() / costs[-1])
        yield Metric(
            "class_cost", cost, "%", "computed", n=count, group=title, note="of the last exit's MACs"
        )
        change = right[own].gather(1, here[:, None]).double().mean() - right[own][:, -1].double().mean()
        yield Metric(
            "class_change",
            100 * float(change),
            "points",
            n=count,
            group=title,
            note="recall, against the last exit",
        )
