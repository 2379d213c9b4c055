"""Movement: weights that training drew towards zero go (Sanh, Wolf, Rush 2020)."""

from __future__ import annotations

from compressbench.criteria.given import Given, Scores
from compressbench.errors import UserError


def movement(given: Given) -> Scores:
    """The state's tensor group ``movement``, -sum over steps of g w: large where |w| was made to grow.

    Raises:
        UserError: the state has none: its training did not sum it up.
    """
    found = given.state.group("movement")
    missing = [name for name in given.weights if name not in found]
    if missing:
        raise UserError(
            f"criterion movement: the state has no movement of {missing[0]}; it is summed up in training: add "
            "+reparametrise@recipe.stages.NAME.reparametrise.movement=movement to the train stage just before"
        )
    return {name: found[name] for name in given.weights}
