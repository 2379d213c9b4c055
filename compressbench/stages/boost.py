"""Cascades of rectangle features: Boost trains one, Published reads one, First and Matched change one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.specs import Count, Ref, Share, check_fields

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State


@dataclass(frozen=True)
class Boost:
    """AdaBoost over rectangle features, in stages that each pass on what looks like a face (Viola & Jones, CVPR 2001).

    A stage grows until ``false_positives`` or ``features`` is reached; its threshold is lowered until ``detection`` of
    the validation split's faces pass. The next one's negatives are training windows without a face that passed so far.
    The state carries all windows that it was trained on as a data set.

    Attributes:
        face: the class that is looked for, by name or number, of two.
        stages: at most; the cascade ends earlier where fewer than ``fewest`` negatives are left, or none that the
            validation split could measure a stage by.
        features: of a stage at most.
        detection: share of the validation faces that came in which a stage lets pass, at least.
        false_positives: share of the validation split's other windows that came in which a stage may let pass.
        candidates: features looked through, drawn anew for each stage from all that fit; null for all.
        negatives: windows without a face that a stage is trained on; null for all that there are.
        fewest: negatives without which no further stage is begun.
        like: a state of boosting: then a stage takes as many features as that one has in all, looks through candidates
            drawn anew after as many features as each stage of that one has, and lets as many of the validation faces
            pass as all its stages together; what else passes then is free.
        data: a state whose data set is meant instead of the train split.
    """

    face: str
    stages: Count = 10
    features: Count = 100
    detection: Share = 0.99
    false_positives: Share = 0.4
    candidates: Count | None = None
    negatives: Count | None = 1000
    fewest: Count = 20
    like: Ref | None = None
    data: Ref | None = None
    BEGINS: ClassVar[bool] = True
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_fields(self)
        if not str(self.face):
            raise UserError("face: the class that is looked for is wanted")
        if self.detection == 0:
            raise UserError("detection: 0 would find no face; a share above 0 is wanted")
        if self.like is not None and self.stages != 1:
            raise UserError(
                "like: one stage takes as many features as the other state has in all; stages: 1 is wanted"
            )

    @property
    def promised(self) -> tuple[float, float]:
        """(share of the faces, share of the other windows) that pass all stages, if each keeps to what is asked of it."""
        return self.detection**self.stages, self.false_positives**self.stages

    def describe(self) -> str:
        """The stage in words."""
        some = f", {self.candidates:,} features drawn for each" if self.candidates else ""
        if self.like:
            return f"one stage of AdaBoost with as many features as {self.like}, without a cascade{some}"
        found, taken = self.promised
        return (
            f"AdaBoost in up to {self.stages} stages, each letting {100 * self.detection:g} % of the faces pass and "
            f"at most {100 * self.false_positives:g} % of the rest (all: {100 * found:.3g} and {100 * taken:.2g} %){some}"
        )

    def forewarn(self, drawn: Callable[[], State | None], bench: Bench) -> None:
        """Before anything is made; no net is asked for.

        Raises:
            UserError: windows with too many features; candidates that the memory can't hold.
        """
        from compressbench.boosting.attention import forewarned

        forewarned(bench, self)

    def apply(self, state: State | None, bench: Bench) -> State:
        """The cascade."""
        from compressbench.boosting.attention import trained

        return trained(bench, self)


@dataclass(frozen=True)
class Matched:
    """A single stage's threshold, set anew: as strict as another state on windows of the validation split without a face.

    Attributes:
        like: a state of boosting, whose stages together let a share of these windows pass; no more pass here.
    """

    like: Ref
    VERSION: ClassVar[int] = 1

    def describe(self) -> str:
        """The stage in words."""
        return f"its threshold set to let as few other validation windows pass as {self.like}"

    def apply(self, state: State, bench: Bench) -> State:
        """The stricter stage, or the laxer one."""
        from compressbench.boosting.attention import matched

        return matched(state, bench, self)


@dataclass(frozen=True)
class Published:
    """A cascade that somebody else trained: OpenCV's XML, of stumps over upright rectangles, read as data.

    Windows of another size than its own are scaled to it.

    Attributes:
        file: a path, or the name of a file that comes with OpenCV.
        face: the class that is looked for, of two.
    """

    file: str
    face: str
    BEGINS: ClassVar[bool] = True
    VERSION: ClassVar[int] = 2

    def files(self) -> tuple[str, ...]:
        """Files whose content is part of the key."""
        from compressbench.boosting.shipped import found

        return (str(found(self.file)),)

    def in_key(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The stage's spec as its key has it: the file's content counts, and not where it lies."""
        return {**spec, "file": Path(self.file).name}

    def describe(self) -> str:
        """The stage in words."""
        return f"read {Path(self.file).name}"

    def apply(self, state: State | None, bench: Bench) -> State:
        """The cascade."""
        from compressbench.boosting.opencv import published

        return published(bench, self)


@dataclass(frozen=True)
class First:
    """The first stages of a cascade alone: cheaper, and less strict.

    Attributes:
        share: of the stages, rounded up.
    """

    share: Share
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if self.share == 0:
            raise UserError("share: 0 leaves no stage; a share above 0 is wanted")

    def describe(self) -> str:
        """The stage in words."""
        return f"the first {100 * self.share:g} % of the stages alone"

    def apply(self, state: State, bench: Bench) -> State:
        """The shorter cascade."""
        from compressbench.boosting.attention import first

        return first(state, bench, self)
