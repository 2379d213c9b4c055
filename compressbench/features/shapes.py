"""What feature losses say of tensors that don't fit each other."""

from __future__ import annotations

from torch import Tensor

from compressbench.errors import UserError


def alike(student: Tensor, teacher: Tensor, places_only: bool = False) -> None:
    """Refuses tensors of unlike shapes; with ``places_only`` the channels may differ.

    Raises:
        UserError: both shapes, and what helps.
    """
    own, other = tuple(student.shape[1:]), tuple(teacher.shape[1:])
    if (own[1:] if places_only else own) == (other[1:] if places_only else other) and len(own) == len(other):
        return
    fits = own[1:] == other[1:] and len(own) == len(other)
    help_ = "regressor: true maps the channels" if fits else "points of equal height and width are wanted"
    raise UserError(f"points: the student's features are {own}, the teacher's {other}; {help_}")
