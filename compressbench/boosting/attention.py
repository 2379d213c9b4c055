"""An attentional cascade (Viola & Jones 2001): stages of AdaBoost, each trained on what the ones before let through.

A stage grows feature by feature. Its threshold, at first half of the sum of all alpha, is lowered until the wanted share
of the validation split's faces passes; it is done when few enough of the validation split's other windows do. The next
stage's negatives are windows without a face that all stages so far took for one.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressbench import specs
from compressbench.boosting.adaboost import LEAST_ERROR, Sorted, Stump, boost, bound, initial, reweighted
from compressbench.boosting.rectangles import MOST, Features, all_of, every, joined
from compressbench.condensing import memory
from compressbench.data.coarse import place_of
from compressbench.data.examples import Examples
from compressbench.data.transfer import carrying, source
from compressbench.errors import UserError
from compressbench.exit_criteria.policy import Policy
from compressbench.models.boosted import SURE, begun, lookups, values
from compressbench.models.build import module_of
from compressbench.models.counting import count
from compressbench.seeds import derive_seed
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.bench import Bench, Progress
    from compressbench.stages.boost import Boost, First, Matched

TARGET = "compressbench.models.boosted.CascadeOfFeatures"
CRITERION = {specs.TARGET: "compressbench.exit_criteria.max_probability.max_probability", specs.PARTIAL: True}
GAP = 1e-6
"""A stage's threshold stands so far below the votes of the last face that is to pass: rounding rejects none."""
BATCH = 4096
CHUNK = 256
LEAST = 1.0
"""Grey levels: a window whose standard deviation is this or less is no face, unasked."""


@dataclass(frozen=True)
class Windows:
    """Windows as training sees them.

    Attributes:
        whole: float32 (n, (h + 1)(w + 1)), integral images.
        scale: float32 (n,), see ``models.boosted.inverse_scale``; 0 where a window is too flat to be asked.
        faces: bool (n,).
    """

    whole: Tensor
    scale: Tensor
    faces: np.ndarray

    def of(self, features: Features, size: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """float32 (features, rows): what features are on some of the windows."""
        whole, scale = self.whole[rows], self.scale[rows]
        found = np.empty((len(features), len(rows)), np.float32)
        for start in range(0, len(features), CHUNK):
            some = features.take(np.arange(start, min(start + CHUNK, len(features))))
            places, coefficients = lookups(
                torch.from_numpy(some.rectangles), torch.from_numpy(some.weights), size
            )
            found[start : start + len(some)] = values(whole, scale, places, coefficients).T.numpy()
        return found


@dataclass(frozen=True)
class Grown:
    """A stage.

    Attributes:
        stumps, rectangles: its weak classifiers, and what they look at.
        threshold: of the votes.
        detection, false_positives: shares of the validation split's faces, and of its other windows, that pass, of those
            that came in.
        bound: of the weighted training error at the unlowered threshold.
        negatives: windows without a face that it was trained on.
    """

    stumps: list[Stump]
    rectangles: Features
    threshold: float = 0.0
    detection: float = 0.0
    false_positives: float = 0.0
    bound: float = 1.0
    negatives: int = 0

    def votes(self, found: np.ndarray) -> np.ndarray:
        """(n,) of its features' values (features, n)."""
        total = np.zeros(found.shape[1])
        for stump, own in zip(self.stumps, found, strict=True):
            total += np.where(stump.says(own), np.float32(stump.alpha), np.float32(0)).astype(np.float64)
        return total


@dataclass
class _Course:
    """What is left to be told apart, and what was spent."""

    train: np.ndarray
    faces: np.ndarray
    others: np.ndarray
    macs: int = 0
    examples: int = 0
    used: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class _Rounds:
    """Says how far boosting is, by rounds of all stages; a stage that is done early jumps ahead."""

    progress: Progress
    place: int
    stages: int
    features: int

    def step(self, rounds: int, negatives: int) -> None:
        done, total = self.place * self.features + rounds, self.stages * self.features
        self.progress.step(done, total, stage=self.place + 1, negatives=negatives)


def trained(bench: Bench, settings: Boost) -> State:
    """Applies a ``stages.boost.Boost``.

    Raises:
        UserError: the data are no grey windows of two classes, or lack faces or windows without one.
    """
    began = time.monotonic()
    face = face_of(bench, settings.face)
    examples = source(bench, settings.data)
    shape = bench.task.facts()["@shape"]
    known = windows(bench, examples, face, "the training windows")
    checked = windows(bench, held_out(bench), face, "the validation split")
    size, rows = shape[1:], np.arange(len(known.faces))
    course = _Course(
        rows[~known.faces & _asked(known)],
        np.flatnonzero(checked.faces & _asked(checked)),
        np.flatnonzero(~checked.faces & _asked(checked)),
    )
    like = bench.references[settings.like].facts.get("boosted") if settings.like else None
    if settings.like and like is None:
        raise UserError(
            f"like: {settings.like} is no cascade of features; name a state that a boost stage made"
        )
    all_features, stages, flags = every(*size), [], []
    for place in range(settings.stages):
        if len(course.train) < (1 if place == 0 else settings.fewest):
            if place == 0:
                raise UserError(
                    "boost: there is no window without a face to learn from; the train split needs some of both kinds"
                )
            flags.append(
                f"a cascade without negatives left: after {place} of {settings.stages} stages {len(course.train)} of the "
                f"training windows without a face still pass, fewer than {settings.fewest}; it ends there"
            )
            break
        if not len(course.others):
            flags.append(
                f"after {place} of {settings.stages} stages no validation window without a face passes any more; it ends"
            )
            break
        random = np.random.RandomState(derive_seed(bench.seed, bench.name, "stage", place) % 2**32)
        draws = list(like["features"]) if like else [settings.features]
        wanted = math.prod(like["detection"]) if like else settings.detection
        told = _Rounds(bench.progress, place, settings.stages, sum(draws))
        stage = _grown(
            known, checked, course, all_features, size, random, settings, draws, wanted, bool(like), told
        )
        if stage is None:
            flags.append(
                f"stage {place + 1}: no feature tells faces from the rest better than chance; it ends there"
            )
            break
        stages.append(stage)
        course.train = course.train[_passing(stage, known, course.train, size)]
    if not stages:
        raise UserError(
            "boost: no feature tells faces from the rest better than chance; are the labels mixed up?"
        )
    made = _state(bench, face, shape, size, stages, flags, course, time.monotonic() - began)
    took = np.unique(np.concatenate([rows[known.faces], *course.used]))
    return carrying(made, examples.take(torch.from_numpy(took)))


def first(state: State, bench: Bench, settings: First) -> State:
    """Applies a ``stages.boost.First``: the cascade without its last stages.

    Raises:
        UserError: the state is no cascade of features.
    """
    boosted = state.facts.get("boosted")
    if boosted is None:
        raise UserError("boost/first: the net is no cascade of features; put it behind a boost stage")
    sizes = list(state.model["stages"])
    keep = max(1, math.ceil(settings.share * len(sizes) - 1e-9))
    count_, model = sum(sizes[:keep]), {**state.model, "stages": sizes[:keep]}
    weights = {n: (t[:keep] if n == "stage_thresholds" else t[:count_]) for n, t in state.weights.items()}
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    own = {name: value[:keep] for name, value in boosted.items()}
    made = State(model, {"weights": weights}, policies=policy(keep), facts={**state.facts, "boosted": own})
    return sized(made, bench)


def matched(state: State, bench: Bench, settings: Matched) -> State:
    """Applies a ``stages.boost.Matched``.

    Raises:
        UserError: the state is no single stage that was boosted; the other one wasn't boosted.
    """
    own = state.facts.get("boosted", {})
    theirs = bench.references[settings.like].facts.get("boosted", {})
    if len(own.get("false_positives", ())) != 1:
        raise UserError(
            "boost/matched: the net is no single stage that was boosted; put it behind boost/monolithic"
        )
    if not theirs.get("false_positives"):
        raise UserError(f"like: {settings.like} was not boosted; name a state that a boost stage made")
    checked = windows(bench, held_out(bench), state.model["face"], "the validation split")
    (stage,) = module_of(state).parts()  # type: ignore[operator]
    votes = np.concatenate(
        [
            stage.sums(checked.whole[k : k + BATCH], checked.scale[k : k + BATCH]).numpy()
            for k in range(0, len(checked.faces), BATCH)
        ]
    )
    faces, others = (votes[kind & _asked(checked)] for kind in (checked.faces, ~checked.faces))
    threshold = strict(others, math.prod(theirs["false_positives"]))
    told = {
        **own,
        "detection": [_share(faces >= threshold)],
        "false_positives": [_share(others >= threshold)],
    }
    weights = {n: t.clone() for n, t in state.weights.items()}
    weights["stage_thresholds"] = torch.tensor([threshold], dtype=torch.float64)
    return sized(State(state.model, {"weights": weights}, facts={**state.facts, "boosted": told}), bench)


def strict(votes: np.ndarray, rate: float) -> float:
    """The least threshold that lets no more than ``rate`` of windows without a face pass.

    Args:
        votes: (windows,), one or more.
        rate: share in [0, 1]; so many windows, rounded down.
    """
    allowed = math.floor(rate * len(votes) + 1e-9)
    ranked = np.sort(votes)[::-1]
    return float(ranked[allowed]) + GAP if allowed < len(ranked) else float(ranked[-1]) - GAP


def policy(stages: int) -> dict[str, Any]:
    """The policy of a cascade: what a stage rejects leaves; none of a single stage."""
    if stages < 2:
        return {}
    early = stages - 1
    return Policy(specs.build(CRITERION, "criterion"), (SURE,) * early, (1.0,) * early).spec(CRITERION)


def sized(state: State, bench: Bench) -> State:
    """A state with the facts that its size gives."""
    counts = count(module_of(state), bench.task.blank(1))
    return state.with_facts(
        density=1.0,
        prunable={},
        drawn={},
        whole=0,
        whole_parameters=0,
        forward_macs=counts.macs,
        dtype="fp32",
    )


def face_of(bench: Bench, wanted: str) -> int:
    """Which of two classes is the face.

    Raises:
        UserError: there are other numbers of classes, or none of this name.
    """
    classes = bench.task.classes
    if len(classes) != 2:
        raise UserError(
            f"boost: {bench.dataset.name} has {len(classes)} classes; two are wanted, the one that is looked for and the "
            "rest (dataset.coarse merges classes)"
        )
    return place_of(wanted, classes, f"face: {bench.dataset.name} has")


def held_out(bench: Bench) -> Examples:
    """The validation split, on the CPU.

    Raises:
        UserError: none was held out.
    """
    if "validation" not in bench.dataset.splits:
        raise UserError("boost: stages' thresholds are set on the validation split, and none was held out")
    return bench.dataset.split("validation").to("cpu")


def windows(bench: Bench, examples: Examples, face: int, what: str) -> Windows:
    """A split's windows.

    Raises:
        UserError: they aren't grey pictures, or there is no face among them.
    """
    shape = bench.task.facts().get("@shape")
    if shape is None or shape[0] != 1:
        raise UserError("boost: grey windows are wanted (one channel)")
    mean, std = bench.task.mean[0], bench.task.std[0]  # type: ignore[attr-defined]
    found = [
        begun(bench.task.encode(batch)[0], mean, std, tuple(shape[1:]), 0, LEAST)
        for batch in examples.batches(BATCH)
    ]
    faces = examples.labels.numpy() == face
    if not faces.any():
        raise UserError(f"boost: there is no face among {what}")
    return Windows(torch.cat([w for w, _ in found]), torch.cat([s for _, s in found]), faces)


def _asked(known: Windows) -> np.ndarray:
    asked: np.ndarray = known.scale.numpy() > 0
    return asked


def _grown(
    known: Windows,
    checked: Windows,
    course: _Course,
    all_features: Features,
    size: Sequence[int],
    random: np.random.RandomState,
    settings: Boost,
    draws: Sequence[int],
    wanted: float,
    whole: bool,
    told: _Rounds,
) -> Grown | None:
    """One stage.

    Args:
        draws: features taken of each draw of candidates, at most; the weights go on from one draw to the next.
        whole: it takes as many features as it may, whatever passes.
    """
    negatives = course.train
    if settings.negatives is not None and settings.negatives < len(negatives):
        negatives = np.sort(random.choice(negatives, settings.negatives, replace=False))
    course.used.append(negatives)
    rows = np.concatenate([np.flatnonzero(known.faces & _asked(known)), negatives])
    faces = known.faces[rows]
    candidates_ = _candidates(settings, len(all_features))
    _fits(candidates_, len(rows))
    stumps: list[Stump] = []
    taken: list[Features] = []
    on_faces, on_others = np.zeros(len(course.faces)), np.zeros(len(course.others))
    threshold, false_positives = 0.0, 1.0
    weights = initial(faces)
    if candidates_ == len(all_features):
        draws = [sum(draws)]  # all of them each time: nothing is drawn
    for many in draws:
        if stumps and stumps[-1].error <= LEAST_ERROR:
            break
        candidates = _drawn(all_features, candidates_, random)
        ranked = Sorted.of(known.of(candidates, size, rows))
        course.macs += len(rows) * candidates.look_ups
        for stump in itertools.islice(boost(ranked, faces, weights), many):
            weights = reweighted(weights, stump, ranked.values[stump.feature], faces)
            own = candidates.take(np.array([stump.feature]))
            stumps.append(stump)
            taken.append(own)
            told.step(len(stumps), len(negatives))
            course.macs += ranked.values.size
            course.examples += len(rows)
            alone = Grown([stump], own)
            on_faces += alone.votes(checked.of(own, size, course.faces))
            on_others += alone.votes(checked.of(own, size, course.others))
            threshold = lowered(on_faces, 0.5 * sum(float(np.float32(s.alpha)) for s in stumps), wanted)
            false_positives = _share(on_others >= threshold)
            if not whole and false_positives <= settings.false_positives:
                break
            weights /= weights.sum()
        del ranked  # before the next draw's is made
    if not stumps:
        return None
    found, passed = on_faces >= threshold, on_others >= threshold
    course.faces, course.others = course.faces[found], course.others[passed]
    return Grown(
        stumps, joined(taken), threshold, _share(found), false_positives, bound(stumps), len(negatives)
    )


def _share(passes: np.ndarray) -> float:
    """Of windows, those that pass; 0 where there are none."""
    return float(passes.mean()) if len(passes) else 0.0


def forewarned(bench: Bench, settings: Boost) -> None:
    """Refuses windows with too many features, and candidates that the memory can't hold, before anything is made.

    Where another state's windows are meant, how many these are isn't known yet: then the stage itself refuses.

    Raises:
        UserError: see above.
    """
    face = face_of(bench, settings.face)
    shape = bench.task.facts().get("@shape")
    if shape is None or shape[0] != 1:
        return  # refused when windows are read
    listed = all_of(*shape[1:])
    if settings.data is None:
        labels = bench.dataset.split("train").labels
        faces = int((labels == face).sum())
        others = len(labels) - faces
        _fits(_candidates(settings, listed), faces + min(others, settings.negatives or others))


def _candidates(settings: Boost, listed: int) -> int:
    return min(settings.candidates or listed, listed)


def _fits(candidates: int, rows: int) -> None:
    wanted, there = candidates * rows * Sorted.BYTES, memory.available("cpu")
    if there is not None and wanted > there:
        raise UserError(
            f"boost: {candidates:,} candidates on {rows:,} windows need about {wanted / 1e9:,.1f} GB at once; "
            f"{there / 1e9:,.1f} GB are free, enough for {there // (rows * Sorted.BYTES):,} candidates; set candidates "
            "or negatives lower"
        )


def _drawn(every_one: Features, wanted: int, random: np.random.RandomState) -> Features:
    if wanted == len(every_one):
        return every_one
    return every_one.take(np.sort(random.choice(len(every_one), wanted, replace=False)))


def lowered(votes: np.ndarray, half: float, wanted: float) -> float:
    """The threshold that lets ``wanted`` of the faces pass: half of all alpha where that does, else below a face's votes.

    Args:
        votes: (faces,) of the validation split's faces that came in.
        half: half of the sum of all alpha.
        wanted: share of the faces, in (0, 1]; so many that it is reached, rounded up.
    """
    need = math.ceil(wanted * len(votes) - 1e-9)
    if need < 1:
        return half
    last = float(np.sort(votes)[len(votes) - need])
    return min(half, last - GAP)


def _passing(stage: Grown, known: Windows, rows: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Bool, the windows that a stage lets through."""
    passes = [
        stage.votes(known.of(stage.rectangles, size, rows[k : k + BATCH])) >= stage.threshold
        for k in range(0, len(rows), BATCH)
    ]
    return np.concatenate(passes) if passes else np.zeros(0, bool)


def _state(
    bench: Bench,
    face: int,
    shape: Sequence[int],
    size: Sequence[int],
    stages: Sequence[Grown],
    flags: Sequence[str],
    course: _Course,
    seconds: float,
) -> State:
    stumps = [s for stage in stages for s in stage.stumps]
    alphas = torch.tensor([s.alpha for s in stumps])
    below = torch.tensor([s.polarity > 0 for s in stumps])
    none = torch.zeros(len(stumps))
    weights = {
        "rectangles": torch.from_numpy(np.concatenate([s.rectangles.rectangles for s in stages])),
        "weights": torch.from_numpy(np.concatenate([s.rectangles.weights for s in stages])),
        "thresholds": torch.tensor([s.threshold for s in stumps]),
        "votes": torch.stack([torch.where(below, alphas, none), torch.where(below, none, alphas)], 1),
        "stage_thresholds": torch.tensor([s.threshold for s in stages], dtype=torch.float64),
    }
    model = {
        specs.TARGET: TARGET,
        "stages": [len(s.stumps) for s in stages],
        "most": MOST,
        "size": list(size),
        "shape": list(shape),
        "mean": bench.task.mean[0],  # type: ignore[attr-defined]
        "std": bench.task.std[0],  # type: ignore[attr-defined]
        "face": face,
        "border": 0,
        "least": LEAST,
    }
    facts = {
        "examples": course.examples,
        "macs": course.macs,
        "seconds": seconds,
        "flags": list(flags),
        "boosted": {
            "features": [len(s.stumps) for s in stages],
            "detection": [s.detection for s in stages],
            "false_positives": [s.false_positives for s in stages],
            "bound": [s.bound for s in stages],
            "negatives": [s.negatives for s in stages],
        },
    }
    return sized(State(model, {"weights": weights}, policies=policy(len(stages)), facts=facts), bench)
