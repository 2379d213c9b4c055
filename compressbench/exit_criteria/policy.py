"""Leaving early: a net in parts, and which rows leave after which part.

A net that can answer early is a row of parts. Part k takes what is alive, the input at first, and gives the logits of
exit k and what is alive after it; the last one gives the logits alone. Three ways to run them answer alike: ``waiting``
(the whole batch goes on until its slowest row is done), ``compacted`` (finished rows leave the batch) and ``queued``
(rows that go on wait before the next part until a batch is full).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressbench import specs
from compressbench.exit_criteria.said import ExitCriterion, Said

POLICY = "exit"
Part = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Policy:
    """When a row leaves.

    Attributes:
        criterion: how sure the net is, see ``exit_criteria``.
        thresholds: one for each exit but the last; infinite for never.
        temperatures: what each exit's logits are divided by before they are judged; the answer keeps them as they are.
    """

    criterion: ExitCriterion
    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...]

    def __post_init__(self) -> None:
        # Rounded to float32, since a single row is compared as a Python number and a batch as a float32 tensor.
        rounded = tuple(torch.tensor(self.thresholds, dtype=torch.float32).tolist())
        object.__setattr__(self, "thresholds", rounded)

    def leaves(self, place: int, judged: Tensor, before: tuple[Tensor, ...]) -> Tensor:
        """(n,) bool: which rows are sure enough at exit ``place``; calibrated logits are judged."""
        return self.sure(judged, before) >= self.thresholds[place]

    def sure(self, judged: Tensor, before: tuple[Tensor, ...]) -> Tensor:
        """(n,) what the criterion says of calibrated logits, after those of the exits before."""
        return self.criterion(Said(judged, before))

    def calibrated(self, place: int, logits: Tensor) -> Tensor:
        """Logits over the exit's temperature."""
        t = self.temperatures[place]
        return logits if t == 1 else logits / t

    def spec(self, criterion: Mapping[str, Any]) -> dict[str, Any]:
        """JSON for a state's policies; ``criterion`` is the spec that it was built from."""
        return {
            POLICY: {
                "criterion": dict(criterion),
                "thresholds": [None if math.isinf(t) else t for t in self.thresholds],
                "temperatures": list(self.temperatures),
            }
        }


def policy_of(policies: Mapping[str, Any]) -> Policy | None:
    """The policy among a state's policies, built; None where it has none."""
    found = policies.get(POLICY)
    if found is None:
        return None
    return Policy(
        specs.build(found["criterion"], "policies.exit.criterion"),
        tuple(math.inf if t is None else float(t) for t in found["thresholds"]),
        tuple(map(float, found["temperatures"])),
    )


@dataclass(frozen=True)
class Answers:
    """What a batch was answered.

    Attributes:
        logits: (n, classes), each row's of the exit that it left by.
        exits: (n,) int64, from 0.
        rows: how many rows each part was run on, in the order in which parts ran; (part, rows).
    """

    logits: Tensor
    exits: Tensor
    rows: tuple[tuple[int, int], ...]


def everything(parts: Sequence[Part], *inputs: Tensor) -> list[Tensor]:
    """Every exit's logits for all rows; nobody leaves."""
    found: list[Tensor] = []
    live: tuple[Tensor, ...] = inputs
    for part in parts:
        logits, *rest = part(*live)
        found.append(logits)
        live = tuple(rest)
    return found


def assigned(policy: Policy, logits: Sequence[Tensor]) -> Tensor:
    """(n,) the exit that each row leaves by, given every exit's logits."""
    exits = torch.full((len(logits[0]),), len(logits) - 1, device=logits[0].device)
    judged = tuple(policy.calibrated(k, t) for k, t in enumerate(logits[:-1]))
    for place in reversed(range(len(judged))):
        exits[policy.leaves(place, judged[place], judged[:place])] = place
    return exits


def taken(logits: Sequence[Tensor], exits: Tensor) -> Tensor:
    """(n, classes) each row's logits at its exit."""
    return torch.stack(list(logits))[exits, torch.arange(len(exits), device=exits.device)]


def compacted(parts: Sequence[Part], policy: Policy, *inputs: Tensor) -> Answers:
    """Rows leave the batch as soon as they are sure; what is alive of the others is gathered, and goes on."""
    last = len(parts) - 1
    live: tuple[Tensor, ...] = inputs
    before: tuple[Tensor, ...] = ()
    rows: Tensor | None = None  # None stands for all of them
    done: list[tuple[Tensor | None, Tensor, int]] = []
    ran: list[tuple[int, int]] = []
    for place, part in enumerate(parts):
        logits, *rest = part(*live)
        count = len(logits)
        ran.append((place, count))
        if place == last:
            done.append((rows, logits, place))
            break
        judged = policy.calibrated(place, logits)
        sure, threshold = policy.sure(judged, before), policy.thresholds[place]
        if count == 1:  # one number is compared faster outside of torch
            leaving, gone = int(sure.item() >= threshold), sure
        else:
            gone = sure >= threshold
            leaving = int(gone.sum())
        if leaving == count:
            done.append((rows, logits, place))
            break
        live = tuple(rest)
        before = (*before, judged)
        if leaving:
            out, stay = _parted(gone, leaving)
            done.append((out if rows is None else rows[out], logits[out], place))
            rows = stay if rows is None else rows[stay]
            live = tuple(_gathered(t, stay) for t in live)
            before = tuple(t[stay] for t in before)
    return _in_order(done, len(inputs[0]), tuple(ran))


def waiting(parts: Sequence[Part], policy: Policy, *inputs: Tensor) -> Answers:
    """The batch stays whole and goes on until its slowest row is sure; each row's answer is that of its own exit."""
    live: tuple[Tensor, ...] = inputs
    count = left = len(inputs[0])
    before: tuple[Tensor, ...] = ()
    open_ = torch.ones(count, dtype=torch.bool, device=inputs[0].device)
    done: list[tuple[Tensor | None, Tensor, int]] = []
    ran: list[tuple[int, int]] = []
    for place, part in enumerate(parts):
        logits, *rest = part(*live)
        ran.append((place, count))
        last = place == len(parts) - 1
        judged = logits if last else policy.calibrated(place, logits)
        gone = open_ if last else open_ & policy.leaves(place, judged, before)
        leaving = left if last else int(gone.sum())
        if leaving:
            out, _ = _parted(gone, leaving)
            done.append((out, logits[out], place))
            open_ = open_ & ~gone
        left -= leaving
        if not left:
            break
        live = tuple(rest)
        before = (*before, judged)
    return _in_order(done, len(inputs[0]), tuple(ran))


def queued(parts: Sequence[Part], policy: Policy, *inputs: Tensor, batch: int) -> Answers:
    """Rows come ``batch`` at a time; those that go on wait before the next part until ``batch`` of them are there.

    The deepest full queue goes first; when no row is left to come, what waits is run as it is, the first part first.
    """
    waits: list[_Queue] = [_Queue() for _ in parts]
    waits[0].add(torch.arange(len(inputs[0]), device=inputs[0].device), inputs, ())
    done: list[tuple[Tensor | None, Tensor, int]] = []
    ran: list[tuple[int, int]] = []
    while any(q.count for q in waits):
        full = [k for k, q in enumerate(waits) if q.count >= batch]
        place = full[-1] if full else next(k for k, q in enumerate(waits) if q.count)
        rows, live, before = waits[place].take(batch)
        logits, *rest = parts[place](*live)
        ran.append((place, len(rows)))
        if place == len(parts) - 1:
            done.append((rows, logits, place))
            continue
        own = policy.calibrated(place, logits)
        gone = policy.leaves(place, own, before)
        leaving = int(gone.sum())
        out, stay = _parted(gone, leaving)
        if leaving:
            done.append((rows[out], logits[out], place))
        if leaving < len(rows):
            judged = (*before, own)
            if leaving:
                rows, judged = rows[stay], tuple(t[stay] for t in judged)
                rest = [_gathered(t, stay) for t in rest]
            waits[place + 1].add(rows, tuple(rest), judged)
    return _in_order(done, len(inputs[0]), tuple(ran))


class _Queue:
    """Rows that wait before a part."""

    def __init__(self) -> None:
        self.held: list[tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]] = []
        self.count = 0

    def add(self, rows: Tensor, live: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> None:
        self.held.append((rows, live, before))
        self.count += len(rows)

    def take(self, most: int) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The first ``most`` rows, or all where fewer wait."""
        picked, found = [], 0
        while self.held and found < most:
            entry = self.held.pop(0)
            if (over := found + len(entry[0]) - most) > 0:
                keep = len(entry[0]) - over
                self.held.insert(0, _part_of(entry, slice(keep, None)))
                entry = _part_of(entry, slice(None, keep))
            picked.append(entry)
            found += len(entry[0])
        self.count -= found
        if len(picked) == 1:
            return picked[0]
        rows, live, before = zip(*picked, strict=True)
        return torch.cat(rows), _joined(live), _joined(before)


def _parted(gone: Tensor, leaving: int) -> tuple[Tensor, Tensor]:
    """(rows that leave, rows that stay), in order, how many leave being known: no GPU is waited for again."""
    if gone.device.type == "cpu":
        return gone.nonzero().squeeze(1), (~gone).nonzero().squeeze(1)
    order = gone.argsort(stable=True)
    return order[len(gone) - leaving :], order[: len(gone) - leaving]


def _part_of(entry: Any, rows: slice) -> Any:
    return entry[0][rows], tuple(t[rows] for t in entry[1]), tuple(t[rows] for t in entry[2])


def _joined(groups: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(tensors) for tensors in zip(*groups, strict=True))


def _gathered(tensor: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a tensor, its memory laid out as it was: ``index_select`` alone forgets ``channels_last``."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return tensor.index_select(0, rows)


def _in_order(
    done: list[tuple[Tensor | None, Tensor, int]], count: int, ran: tuple[tuple[int, int], ...]
) -> Answers:
    if len(done) == 1 and done[0][0] is None:
        _, logits, place = done[0]
        return Answers(logits, torch.full((count,), place, device=logits.device), ran)
    rows = torch.cat([r for r, _, _ in done if r is not None])
    exits = torch.cat([torch.full((len(x),), place, device=x.device) for _, x, place in done])
    back = rows.argsort()
    return Answers(torch.cat([x for _, x, _ in done])[back], exits[back], ran)
