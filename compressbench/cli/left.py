"""How much time is left of a run: what was expected of its pieces, corrected by how long they really take."""

from __future__ import annotations

import math
from collections.abc import Mapping

from compressbench.runs.estimate import Piece

SOON = 1.0
"""Seconds of work after which what pieces took corrects what was expected of the others."""


class Left:
    """Counts a run's pieces and the time for those that are not done.

    Args:
        expected: seconds of each piece, None where nothing is known of it.
    """

    def __init__(self, expected: Mapping[Piece, float | None]) -> None:
        self.waiting = dict(expected)
        self.total = len(expected)
        self.begun = 0
        self._took: dict[str, list[float]] = {}
        self._expected = self._spent = 0.0
        self._now: float | None = None

    def begin(self, piece: Piece) -> str:
        """Takes a piece as begun; returns its number: ``[3/14]``."""
        self._now = self.waiting.pop(piece, None)
        self.begun += 1
        self.total = max(self.total, self.begun)
        return f"[{self.begun}/{self.total}]"

    def end(self, piece: Piece, seconds: float) -> None:
        """Takes it as done."""
        self._took.setdefault(piece[1], []).append(seconds)
        if self._now is not None:
            self._expected, self._spent = self._expected + self._now, self._spent + seconds
        self._now = None

    def words(self, elapsed: float = 0.0, share: float = 0.0) -> str:
        """What is left, e.g. ``about 2 min left``; empty while nothing is known, ``at least`` where a part isn't.

        Args:
            elapsed: seconds since the piece at work began.
            share: how much of it is done, in [0, 1].
        """
        factor = self._spent / self._expected if self._spent > SOON and self._expected > 0 else 1.0
        known = [self._of(piece, seconds, factor) for piece, seconds in self.waiting.items()]
        if share > 0:
            known.append(elapsed * (1 - share) / share)
        elif self._now is not None:
            known.append(max(0.0, factor * self._now - elapsed))
        seconds = math.fsum(s for s in known if s is not None)
        if not any(known):
            return ""
        return f"{'at least' if None in known else 'about'} {shortly(seconds)} left"

    def _of(self, piece: Piece, expected: float | None, factor: float) -> float | None:
        took = self._took.get(piece[1])
        if took:
            return math.fsum(took) / len(took)
        return None if expected is None else factor * expected


def shortly(seconds: float) -> str:
    """A duration in one figure of a unit: ``40 s``, ``2 min``, ``3 h``, ``5 days``."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{max(1, round(seconds))} s"
