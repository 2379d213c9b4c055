"""Composites: several nets as one module; a ``take`` stage gets one of them out again.

Both keep their members in ``members``, and their spec says what each is: ``members``, specs of modules, and ``edits``,
what was cut from each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressbench.bench import Bench
from compressbench.errors import UserError
from compressbench.models.build import module_of
from compressbench.models.cutting import replay
from compressbench.outputs import Outputs, forward, tapped
from compressbench.specs import Ref
from compressbench.state import State

STUDENT = "student"
Edits = Sequence[Sequence[Mapping[str, Any]]]


class Ensemble(nn.Module):
    """The mean of its members' probabilities, as logarithms (Bucila et al. 2006; Lakshminarayanan et al. 2017).

    Args:
        members: nets with the same classes; at least one.
        edits: what was cut from each, in the members' order; empty for nothing.

    Raises:
        UserError: there is no member.
    """

    def __init__(self, members: Sequence[nn.Module], edits: Edits = ()) -> None:
        super().__init__()
        self.members = _replayed(members, edits)

    def forward(self, *inputs: Tensor) -> Tensor:
        """A net's inputs to log-probabilities (n, classes)."""
        logs = [forward(member, *inputs).logits.log_softmax(dim=1) for member in self.members]
        if len(logs) == 1:
            return logs[0]
        mean = logs[0].exp()
        for log in logs[1:]:
            mean = mean + log.exp()
        return (mean / len(logs)).clamp(min=torch.finfo(mean.dtype).tiny).log()


class Online(nn.Module):
    """Students that learn together, and a head on the concatenation of their feature maps (Xie et al. 2019).

    The head is batch norm, ReLU, mean over places, and a linear layer. In training the outputs carry each student's own
    logits as taps ``student0``, ``student1`` …; in evaluation the head alone answers.

    Args:
        members: the students; of equal or unlike kinds, their maps of equal height and width.
        at: the module of each whose output is the feature map: one path for all, or one for each.
        shape: (channels, height, width) of an image.
        classes: number of logits.
        edits: what was cut from each, in the members' order; empty for nothing.

    Raises:
        UserError: no member, a module that is not there, or feature maps that can't be put together.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        at: str | Sequence[str],
        shape: Sequence[int],
        classes: int,
        edits: Edits = (),
    ) -> None:
        super().__init__()
        self.members = _replayed(members, edits)
        self.at = (at,) * len(self.members) if isinstance(at, str) else tuple(at)
        if len(self.at) != len(self.members):
            raise UserError(
                f"at: {len(self.at)} paths for {len(self.members)} students; one each, or one for all"
            )
        was = [m.training for m in self.members]
        with torch.no_grad():
            maps = [m for _, m in self.eval()._answers(torch.zeros(1, *shape))]
        for member, training in zip(self.members, was, strict=True):
            member.train(training)
        self.training = True
        if len({m.shape[2:] for m in maps}) > 1:
            sizes = ", ".join(str(tuple(m.shape[1:])) for m in maps)
            raise UserError(f"at: the students' features are {sizes}; equal height and width are wanted")
        width = sum(m.shape[1] for m in maps)
        self.norm: nn.Module = nn.BatchNorm2d(width) if maps[0].ndim == 4 else nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, classes)
        nn.init.kaiming_normal_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        """(n, c, h, w) to logits (n, classes) of the head; in training with the students' as taps."""
        found = self._answers(x)
        joined = torch.relu(self.norm(torch.cat([features for _, features in found], dim=1)))
        head = self.fc(joined.mean(dim=(2, 3)) if joined.ndim == 4 else joined)
        if not self.training:
            return head
        return Outputs(head, {f"{STUDENT}{k}": logits for k, (logits, _) in enumerate(found)})

    def _answers(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        out = []
        for member, at in zip(self.members, self.at, strict=True):
            with tapped(member, (at,)) as compute:
                found = compute(x)
            out.append((found.logits, found.taps[at]))
        return out


class Cascade(nn.Module):
    """Nets in a row; by itself it answers by the last one. Its parts are whole nets, each asked anew with the input.

    Args:
        members: nets with the same classes, the cheapest first.
        edits: what was cut from each, in the members' order; empty for nothing.

    Raises:
        UserError: there is no member.
    """

    def __init__(self, members: Sequence[nn.Module], edits: Edits = ()) -> None:
        super().__init__()
        self.members = _replayed(members, edits)

    def forward(self, *inputs: Tensor) -> Tensor:
        """A net's inputs to the last net's logits; in training, or inside ``every_exit``, all nets compute."""
        if self.training or self.__dict__.get("_every"):
            return [forward(member, *inputs).logits for member in self.members][-1]
        return forward(self.members[-1], *inputs).logits

    def parts(self) -> list[nn.Module]:
        """The members, each giving its logits and the input on."""
        last = len(self.members) - 1
        return [_Asked(member, place < last).eval() for place, member in enumerate(self.members)]

    def exit_names(self) -> list[str]:
        """What each is called."""
        return [f"net {place + 1}" for place in range(len(self.members))]


class _Asked(nn.Module):
    def __init__(self, net: nn.Module, goes_on: bool) -> None:
        super().__init__()
        self.net, self.goes_on = net, goes_on

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.net(*inputs)
        logits = found if isinstance(found, Tensor | fx.Proxy) else forward(lambda *_: found, *inputs).logits
        return (logits, *inputs) if self.goes_on else (logits,)  # type: ignore[return-value,arg-type]


def guide_of(bench: Bench, teacher: tuple[Ref, ...] | Ref) -> nn.Module:
    """The teacher's module on the device, evaluation mode; of several states their ensemble.

    Raises:
        UserError: there is none.
    """
    names = (teacher,) if isinstance(teacher, str) else tuple(teacher)
    if not names:
        raise UserError("teacher: the ensemble is empty; name at least one state")
    modules = [module_of(bench.references[name], bench.device) for name in names]
    return modules[0] if len(modules) == 1 else Ensemble(modules).to(bench.device).eval()


def member_of(state: State, place: int) -> State:
    """A composite's member as a state of its own: spec, edits, weights, masks, scales; facts are the composite's.

    Raises:
        UserError: the state is no composite, or has no such member.
    """
    members = state.model.get("members")
    if not isinstance(members, Sequence) or isinstance(members, str):
        raise UserError(
            "there is nothing to take: the net has no members; an ensemble or online students have"
        )
    if not 0 <= place < len(members):
        raise UserError(f"member: {place} is not from 0 to {len(members) - 1}")
    if state.edits:
        raise UserError(
            "a composite that was cut as a whole can't be taken apart; take a member first, then cut it"
        )
    prefix = f"members.{place}."
    tensors = {
        group: {n.removeprefix(prefix): t for n, t in named.items() if n.startswith(prefix)}
        for group, named in state.tensors.items()
        if group != "optimizer"
    }
    edits = state.model.get("edits") or ()
    own = tuple(edits[place]) if edits else ()
    return State(model=members[place], tensors={}, edits=own, facts=state.facts).with_groups(**tensors)


def _replayed(members: Sequence[nn.Module], edits: Edits) -> nn.ModuleList:
    if not members:
        raise UserError("members: the ensemble is empty; at least one is wanted")
    if edits and len(edits) != len(members):
        raise UserError(f"edits: {len(edits)} for {len(members)} members")
    return nn.ModuleList(replay(m, edits[k]) if edits else m for k, m in enumerate(members))
