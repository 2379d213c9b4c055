"""Prune: a criterion's scores, a scope and a rate make masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench import specs
from compressbench.errors import UserError, nearest
from compressbench.specs import Criterion, Grain, Scope

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

OF = {"left": "what is left", "whole": "all weights", "more": "all weights, beside what is gone,"}


def _short(name: str) -> dict[str, Any]:
    return {specs.TARGET: f"compressbench.{name}", specs.PARTIAL: True}


@dataclass(frozen=True)
class Prune:
    """Prunes weights of convolutions and linear layers; biases and norms stay.

    Attributes:
        criterion: spec of a function ``(Given, **settings) -> scores``, or its plain name.
        fraction: share to remove, in [0, 1); null where the scope fixes it (N:M).
        of: ``left`` (of what is still there: iterative pruning), ``whole`` (to a density, whatever came before) or
            ``more`` (that share of the whole on top of what is gone: 0.1 nine times leaves 10 %).
        scope: among which weights the lowest scores are sought: ``global``, ``layer``, ``erk``, ``n_m``.
        grain: what goes together: ``weight``, ``block``, ``kernel``, ``row``, ``column``, ``layer``.
        rates: own fractions, ``{pattern: fraction}``: ``@input``, ``@output``, ``@conv``, ``@linear``, or globs.
    """

    criterion: Criterion
    fraction: float | None = 0.2
    of: str = "left"
    scope: Scope = field(default_factory=lambda: _short("scopes.global_.global_"))
    grain: Grain = field(default_factory=lambda: _short("grains.weight.weight"))
    rates: Mapping[str, float] = field(default_factory=dict)
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.rates, Mapping):
            raise UserError(f"rates: {self.rates!r} is no mapping; {{}} has no rates of their own")
        for name, value in (("fraction", self.fraction), *((f"rates.{k}", v) for k, v in self.rates.items())):
            if value is None and name == "fraction":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise UserError(f"{name}: {value!r} is not in [0, 1); 0.2 removes 20 %")
        if self.of not in OF:
            raise UserError(f"of: unknown {self.of!r}; {nearest(str(self.of), tuple(OF))}")

    def describe(self) -> str:
        """The stage in words."""
        own = "".join(f", {k} {v:.0%}" for k, v in self.rates.items())
        base = OF[self.of]
        share = "" if self.fraction is None else f"{self.fraction:.4g} of {base} "
        grain = "" if (g := in_words(self.grain)) == "weight" else f"{g}s, "
        return f"prune {share}by {in_words(self.criterion)}, {grain}{in_words(self.scope)}{own}"

    def apply(self, state: State, bench: Bench) -> State:
        """The state with new masks, its weights zeroed accordingly."""
        from compressbench.pruning import unstructured

        return unstructured.prune(state, bench, self)


def in_words(spec: Mapping[str, Any]) -> str:
    """A criterion, scope or grain: its name and the settings that are given."""
    *_, module, function = str(spec[specs.TARGET]).split(".")
    name = (function if function == module else f"{module}.{function}").rstrip("_")
    settings = ", ".join(f"{k} {v}" for k, v in specs.settings_of(spec).items())
    return f"{name} ({settings})" if settings else name
