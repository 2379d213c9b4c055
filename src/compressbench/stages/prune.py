"""Prune: a criterion's scores, a scope and a rate make masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench import specs
from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State


@dataclass(frozen=True)
class Prune:
    """Prunes single weights of convolutions and linear layers; biases and norms stay.

    Attributes:
        criterion: spec of a function ``(Given, **settings) -> scores``.
        fraction: share to remove, in [0, 1).
        of: ``left`` (of what is still there: iterative pruning) or ``whole`` (to a density, whatever came before).
        scope: ``global`` or ``layer``.
        rates: own fractions, ``{pattern: fraction}``; ``@output``, ``@conv``, ``@linear`` or globs over names.
    """

    criterion: Mapping[str, Any]
    fraction: float = 0.2
    of: str = "left"
    scope: str = "global"
    rates: Mapping[str, float] = field(default_factory=dict)
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name, value in (("fraction", self.fraction), *((f"rates.{k}", v) for k, v in self.rates.items())):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise UserError(f"{name}: {value!r} is not in [0, 1); 0.2 removes 20 %")
        for name, allowed in (("of", ("left", "whole")), ("scope", ("global", "layer"))):
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"{name}: unknown {getattr(self, name)!r}; {nearest(str(getattr(self, name)), allowed)}"
                )

    def describe(self) -> str:
        """The stage in words."""
        *_, module, function = str(self.criterion[specs.TARGET]).split(".")
        name = function if function == module else f"{module}.{function}"
        own = "".join(f", {k} {v:.0%}" for k, v in self.rates.items())
        base = "what is left" if self.of == "left" else "all weights"
        return f"prune {self.fraction:.4g} of {base} by {name}, {self.scope}{own}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with new masks, its weights zeroed accordingly."""
        from compressbench import pruning

        return pruning.prune(state, bench, self)
