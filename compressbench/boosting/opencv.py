"""OpenCV's cascades of rectangle features (``haarcascade_*.xml`` of OpenCV 2 to 4) read as data, never trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
import torch

from compressbench import specs
from compressbench.boosting.attention import TARGET, face_of, policy, sized
from compressbench.boosting.shipped import found
from compressbench.errors import UserError
from compressbench.files import digest_of
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.stages.boost import Published

DEEPEST = 16
WIDEST = 256
MOST_FEATURES = 100_000
MOST_RECTANGLES = 3
BORDER, LEAST = 1, 10.0
"""OpenCV takes the deviation of a window without its outermost pixels, and asks no window where it is 10 or less."""
EPSILON = np.float32(1e-5)
"""OpenCV lowers every stage's threshold by this."""


@dataclass(frozen=True)
class Read:
    """What a file says.

    Attributes:
        size: height and width of the window.
        stages: features of each stage.
        tensors: see ``models.boosted.CascadeOfFeatures``.
    """

    size: tuple[int, int]
    stages: tuple[int, ...]
    tensors: dict[str, torch.Tensor]


def read(path: Path) -> Read:
    """A cascade of stumps over upright rectangles.

    Raises:
        UserError: it is no such file; has a document type, entities, trees, tilted features; or numbers out of range.
    """
    root = _tree(path)
    cascade = root.find("cascade")
    if root.tag != "opencv_storage" or cascade is None or _text(cascade, "featureType", path) != "HAAR":
        raise UserError(
            f"{path}: is no OpenCV cascade of rectangle features (opencv_storage, featureType HAAR)"
        )
    size = (_whole(cascade, "height", path), _whole(cascade, "width", path))
    if not all(3 <= n <= WIDEST for n in size):
        raise UserError(f"{path}: a window of {size[1]} x {size[0]}; from 3 to {WIDEST} pixels are read")
    rectangles, weights = _features(cascade, size, path)
    chosen, thresholds, votes, stages, least = [], [], [], [], []
    for stage in cascade.iterfind("stages/_"):
        weak = stage.findall("weakClassifiers/_")
        for one in weak:
            nodes, leaves = _numbers(one, "internalNodes", path), _numbers(one, "leafValues", path)
            if len(nodes) != 4 or len(leaves) != 2:
                raise UserError(
                    f"{path}: has trees of several nodes or stages in a tree; cascades of stumps are read, e.g. "
                    "haarcascade_frontalface_default.xml"
                )
            left, right, feature, threshold = nodes
            if (left, right) != (0, -1) or feature != int(feature) or not 0 <= feature < len(rectangles):
                raise UserError(f"{path}: a stump of feature {feature:g}, and there are {len(rectangles)}")
            chosen.append(int(feature))
            thresholds.append(threshold)
            votes.append(leaves)
        if not weak:
            raise UserError(f"{path}: a stage without a feature")
        stages.append(len(weak))
        least.append(float(np.float32(_numbers(stage, "stageThreshold", path)[0]) - EPSILON))
    if not stages or len(chosen) > MOST_FEATURES:
        raise UserError(
            f"{path}: {len(stages)} stages of {len(chosen)} features; 1 to {MOST_FEATURES:,} are read"
        )
    return Read(
        size,
        tuple(stages),
        {
            "rectangles": torch.from_numpy(rectangles[chosen]),
            "weights": torch.from_numpy(weights[chosen]),
            "thresholds": torch.tensor(thresholds, dtype=torch.float32),
            "votes": torch.tensor(votes, dtype=torch.float32),
            "stage_thresholds": torch.tensor(least, dtype=torch.float64),
        },
    )


def published(bench: Bench, settings: Published) -> State:
    """Applies a ``stages.boost.Published``.

    Raises:
        UserError: the file can't be read, or the data are no windows of two classes.
    """
    face = face_of(bench, settings.face)
    path = found(settings.file)
    cascade = read(path)
    model: dict[str, Any] = {
        specs.TARGET: TARGET,
        "stages": list(cascade.stages),
        "most": MOST_RECTANGLES,
        "size": list(cascade.size),
        "shape": list(bench.task.facts()["@shape"]),
        "mean": bench.task.mean[0],  # type: ignore[attr-defined]
        "std": bench.task.std[0],  # type: ignore[attr-defined]
        "face": face,
        "border": BORDER,
        "least": LEAST,
    }
    facts = {
        "examples": 0,
        "macs": 0,
        "seconds": 0.0,
        "flags": [],
        "boosted": {"features": list(cascade.stages)},
        "published": digest_of([path]),
    }
    policies = policy(len(cascade.stages))
    return sized(State(model, {"weights": cascade.tensors}, policies=policies, facts=facts), bench)


def _tree(path: Path) -> ElementTree.Element:
    """The file's elements; document types, and with them entities, are refused before anything is expanded."""
    data = path.read_bytes()
    depth = 0

    def doctype(*_: Any) -> None:
        raise UserError(f"{path}: has a document type (DOCTYPE), which no cascade needs; it isn't read")

    def opened(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise UserError(f"{path}: elements more than {DEEPEST} deep; it is no cascade")

    def closed(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler, parser.EndElementHandler = opened, closed
    try:
        parser.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: is no XML: {error}") from error


def _features(
    cascade: ElementTree.Element, size: tuple[int, int], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    listed = cascade.findall("features/_")
    if not 1 <= len(listed) <= MOST_FEATURES:
        raise UserError(f"{path}: {len(listed)} features; 1 to {MOST_FEATURES:,} are read")
    rectangles = np.zeros((len(listed), MOST_RECTANGLES, 4), np.int16)
    weights = np.zeros((len(listed), MOST_RECTANGLES), np.float32)
    for row, feature in enumerate(listed):
        if (feature.findtext("tilted") or "0").strip() not in ("", "0"):
            raise UserError(f"{path}: has tilted features; upright ones alone are read")
        rects = feature.findall("rects/_")
        if not 1 <= len(rects) <= MOST_RECTANGLES:
            raise UserError(f"{path}: a feature of {len(rects)} rectangles; 1 to {MOST_RECTANGLES} are read")
        for k, rect in enumerate(rects):
            found_ = _values(rect.text or "", path)
            if len(found_) != 5 or any(n != int(n) for n in found_[:4]):
                raise UserError(
                    f"{path}: a rectangle is x, y, width, height and a weight, not {rect.text!r:.40}"
                )
            x, y, w, h = (int(n) for n in found_[:4])
            if not (min(x, y) >= 0 and min(w, h) > 0 and x + w <= size[1] and y + h <= size[0]):
                raise UserError(
                    f"{path}: a rectangle {x}, {y}, {w} x {h} leaves the window of {size[1]} x {size[0]}"
                )
            rectangles[row, k], weights[row, k] = (x, y, w, h), found_[4]
    return rectangles, weights


def _text(element: ElementTree.Element, name: str, path: Path) -> str:
    text = element.findtext(name)
    if text is None:
        raise UserError(f"{path}: {element.tag} has no {name}; it is no OpenCV cascade of this form")
    return text.strip()


def _numbers(element: ElementTree.Element, name: str, path: Path) -> list[float]:
    return _values(_text(element, name, path), path)


def _values(text: str, path: Path) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError as error:
        raise UserError(f"{path}: {text!r:.40} are no numbers") from error
    if not numbers or not all(math.isfinite(n) and abs(n) < 1e9 for n in numbers):
        raise UserError(f"{path}: {text!r:.40}: finite numbers are wanted")
    return numbers


def _whole(element: ElementTree.Element, name: str, path: Path) -> int:
    number = _numbers(element, name, path)[0]
    if number != int(number):
        raise UserError(f"{path}: {name} is {number:g}, no whole number")
    return int(number)
