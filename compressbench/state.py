"""State: what a stage maps to what. Data only; the module is rebuilt from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]
UNFINISHED = ("optimizer", "objective", "average")
"""Groups that only a training which stopped short leaves, for the one that goes on."""


@dataclass(frozen=True)
class State:
    """A model at one point of an experiment.

    Attributes:
        model: spec (import path and arguments, JSON) that builds the ``nn.Module``.
        tensors: groups of named tensors on the CPU, ``{"weights": {...}, "masks": {...}, "optimizer": {...}}``;
            a later family adds a group (``scales``) without touching the store. Weights hold parameters and
            buffers under the module's ``state_dict`` names; masks hold a bool tensor per pruned parameter.
        edits: structural edits, JSON, replayed in order when the module is rebuilt.
        policies: how the model is used (an exit threshold …), JSON.
        facts: what happened on the way, JSON: ``examples`` and ``macs`` spent in training on the whole
            lineage, ``seconds``, validation ``curve``, flags.
        key: content address given by the executor; empty for a state not in a store.
    """

    model: Mapping[str, Any]
    tensors: Mapping[str, Tensors]
    edits: tuple[Mapping[str, Any], ...] = ()
    policies: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    @property
    def weights(self) -> Tensors:
        """Parameters and buffers by ``state_dict`` name; pruned entries are already zero."""
        return self.tensors.get("weights", {})

    @property
    def masks(self) -> Tensors:
        """Bool tensors, True where a weight is kept; a parameter without an entry is dense."""
        return self.tensors.get("masks", {})

    def group(self, name: str) -> Tensors:
        """Named tensors of one group, empty if there are none."""
        return self.tensors.get(name, {})

    def with_groups(self, **groups: Tensors) -> State:
        """A copy with whole groups replaced; an empty group is dropped."""
        merged = {**self.tensors, **groups}
        return replace(self, tensors={name: dict(group) for name, group in merged.items() if group}, key="")

    def settled(self) -> State:
        """A copy that no training goes on with: nothing but the net is kept."""
        return self.with_groups(**{name: {} for name in UNFINISHED})

    def with_facts(self, **facts: Any) -> State:
        """A copy with facts replaced by name."""
        return replace(self, facts={**self.facts, **facts}, key="")
