"""Asking: what an artefact says of every example, streamed in batches, and kept, so that a second time is free."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressbench.artefacts.artefact import Arrays, Artefact, in_batches
from compressbench.artefacts.predictions import Predictions
from compressbench.artefacts.preparation import Preparation, fitted
from compressbench.bench import Progress, Silent
from compressbench.comparing.arrays import Floats, Ints
from compressbench.comparing.material import Material, aligned
from compressbench.comparing.sources import Written, in_pieces, stored
from compressbench.errors import UserError
from compressbench.store import digest

VERSION = 1
"""Of what is kept; a change of what is computed raises it."""
BATCH = 64
SILENT = Silent()
VARIED_BATCH, VARIED_ROWS = 16, 64
"""What ``varied`` asks, where nobody says otherwise."""
PACKAGES = ("numpy", "pillow", "torch", "onnxruntime", "openvino", "ai-edge-litert", "transformers", "timm")
"""On whose versions answers may depend."""


@dataclass(frozen=True)
class Said:
    """What an artefact said.

    Attributes:
        scores: float32 (n, classes), in the material's order.
        seconds: that it took, reading and preparing included; of what was kept, when it was asked. 0 of a file of
            predictions.
        rate: examples a second; not-a-number where nothing was timed.
        fed: what it was fed, in words.
        kept: whether it was there already.
    """

    scores: NDArray[np.float32]
    seconds: float
    rate: float
    fed: str
    kept: bool = False


def asked(
    artefact: Artefact | Predictions,
    material: Material,
    preparation: Preparation | None = None,
    threads: int = 1,
    batch: int = BATCH,
    progress: Progress = SILENT,
    keep: Path | None = None,
) -> Said:
    """What an artefact says of all examples; of a file of predictions what it holds of them.

    Args:
        preparation: what pictures become before; needed where the material has pictures. As it is given, its layout too
            (``prepared`` makes one that fits).
        threads: of the runtime.
        batch: examples of a call, where the artefact leaves it open; so many are held at a time.
        keep: a folder in which answers are kept, by all that they depend on; None, or an artefact without an identity:
            nothing is.

    Raises:
        UserError: nothing can be asked of the material, pictures without a preparation, or it fails.
    """
    if isinstance(artefact, Predictions):
        scores = _single(aligned(artefact, material))
        return Said(scores, 0.0, float("nan"), f"nothing: its answers are in {artefact.name}")
    fed = _fed(artefact, material, preparation)
    place = None
    if keep is not None and artefact.identity is not None:
        place = keep / f"{_key(artefact, material, preparation, batch)}.npz"
        found = _kept(place, material.n, fed)
        if found is not None:
            progress.step(material.n, material.n)
            return found
    started = time.perf_counter()
    scores = _scores(artefact, material, preparation, threads, batch, progress)
    seconds = time.perf_counter() - started
    said = Said(scores, seconds, material.n / max(seconds, 1e-9), fed)
    if place is not None:
        _keep(place, said)
    return said


def prepared(artefact: Artefact, given: Preparation | None) -> Preparation | None:
    """The preparation for this artefact: the given one, else its own, in the layout, type and size of its input.

    None where neither is known.
    """
    known = given or artefact.wants.preparation
    return None if known is None else fitted(known, artefact.wants)


def _fed(artefact: Artefact, material: Material, preparation: Preparation | None) -> str:
    """In words, checked as far as can be before anything is opened."""
    if isinstance(material.source, Written) and material.source.reading is not None:
        return f"texts in tokens: {material.source.reading.in_words()}"
    if material.source is None:
        raise UserError(
            f"{artefact.name}: there is nothing to ask it; of {material.name} only labels are known, --data gives them"
        )
    if material.pictures is None:
        return "the arrays as they are: " + ", ".join(
            f"{i.name} {i.dtype} ({', '.join('any' if n is None else str(n) for n in i.shape)})"
            for i in material.source.inputs
        )
    if preparation is None:
        raise UserError(
            f"{artefact.name}: how its pictures are prepared isn't known; --size, --mean, --std and --range say it, or "
            "--preprocess auto finds it on labelled data"
        )
    return f"pictures {preparation.in_words()}"


def _scores(
    artefact: Artefact,
    material: Material,
    preparation: Preparation | None,
    threads: int,
    batch: int,
    progress: Progress,
) -> NDArray[np.float32]:
    scores: NDArray[np.float32] | None = None
    done = 0
    opened = artefact.open(threads)
    progress.step(0, material.n)
    for part in in_batches(artefact, opened, batches(artefact, material, preparation, batch), batch):
        if scores is None:
            scores = np.empty((material.n, part.shape[1]), np.float32)
        scores[done : done + len(part)] = _single(part)
        done += len(part)
        progress.step(done, material.n)
    assert scores is not None
    assert done == material.n
    return scores


def batches(
    artefact: Artefact,
    material: Material,
    preparation: Preparation | None,
    size: int = BATCH,
    rows: Ints | None = None,
) -> Iterator[Arrays]:
    """What the artefact is fed, some examples at a time: of rows in their order, or of all.

    Raises:
        UserError: a picture can't be read, or comes out in another size than the others.
    """
    for part in in_pieces(np.arange(material.n) if rows is None else rows, size):
        if material.pictures is not None:
            assert preparation is not None
            yield (preparation.apply(material.pictures(part)),)
            continue
        assert material.arrays is not None
        arrays = material.arrays(part)
        wanted = artefact.wants.inputs
        named = {i.name for i in wanted} == arrays.keys() or len(arrays) > 1
        yield arrays if named and wanted else tuple(arrays.values())


def _single(scores: Floats) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large for it is infinite, and found as such
        return np.asarray(scores, np.float32)


def varied(
    artefact: Artefact,
    material: Material,
    preparation: Preparation | None = None,
    threads: int = 1,
    batch: int = VARIED_BATCH,
    rows: int = VARIED_ROWS,
    seed: int = 0,
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The same examples asked twice, for ``oddities.varying``: what was varied -> both answers, in the same order.

    ``calls``: nothing; ``batch``: one in a call, or a third as many, whichever changes more; ``neighbours``: others in
    the same call. Where answers change from call to call the other two would say it again, and are left out; so are those
    that a fixed number of examples a call makes impossible.

    Args:
        batch: examples of a call; a model's own where that is fixed.
        rows: so many, drawn by ``seed``, in at least two calls where there are enough.

    Raises:
        UserError: see ``asked``.
    """
    _fed(artefact, material, preparation)
    size = artefact.wants.batch or batch
    random = np.random.RandomState(seed)
    chosen = random.permutation(material.n)[: max(rows, 2 * size)]
    opened = artefact.open(threads)

    place = np.empty(material.n, np.int64)
    place[chosen] = np.arange(len(chosen))

    def said(order: Ints, each: int) -> NDArray[np.float32]:
        fed = batches(artefact, material, preparation, each, order)
        found = np.concatenate([_single(part) for part in in_batches(artefact, opened, fed, each)])
        back = np.empty_like(found)
        back[place[order]] = found
        return back

    once = said(chosen, size)
    found = {"calls": (once, said(chosen, size))}
    if not np.array_equal(*found["calls"], equal_nan=True):
        return found
    if artefact.wants.batch is None and size > 1:
        fewer = said(chosen, max(1, size // 3))
        with contextlib.suppress(
            UserError
        ):  # batch norm in training mode refuses one, and shows with any other size
            one = said(chosen, 1)
            fewer = one if _apart(one, once) > _apart(fewer, once) else fewer
        found["batch"] = (once, fewer)
    if size > 1 and len(chosen) > 2:
        found["neighbours"] = (once, said(random.permutation(chosen), size))
    return found


def _apart(first: Floats, second: Floats) -> float:
    """The largest difference; infinite where one holds numbers and the other none."""
    there = np.isfinite(first) & np.isfinite(second)
    if (np.isfinite(first) != np.isfinite(second)).any():
        return float("inf")
    return float(np.abs(first[there] - second[there]).max(initial=0.0))


def _key(artefact: Artefact, material: Material, preparation: Preparation | None, batch: int) -> str:
    """Of all that answers depend on; not of labels, threads and names."""
    return digest(
        {
            "version": VERSION,
            "artefact": artefact.identity,
            "examples": material.contents,
            "inputs": [] if material.source is None else [i.name for i in material.source.inputs],
            "preparation": None if preparation is None else dataclasses.asdict(preparation),
            "batch": artefact.wants.batch or batch,
            "runtime": versions(),
        }
    )


def versions() -> dict[str, str]:
    """Of the packages that answers may depend on, where they are installed, and of the processor's kind."""
    found = {"machine": platform.machine()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _keep(place: Path, said: Said) -> None:
    """Written aside, then renamed; where that fails, nothing is kept, and nothing else goes wrong."""
    facts: dict[str, Any] = {"key": place.stem, "seconds": said.seconds, "digest": _digest(said.scores)}
    aside = place.with_name(f".{place.stem}-{uuid.uuid4().hex}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(file, scores=said.scores, facts=np.array(json.dumps(facts)))
        os.replace(aside, place)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _kept(place: Path, n: int, fed: str) -> Said | None:
    """What was kept; None where there is nothing, or its bytes are not those that were written."""
    if not place.is_file() or place.is_symlink():
        return None
    try:
        found = stored(place)
        facts = json.loads(str(found["facts"].reshape(-1)[0]))
        scores, seconds = np.array(found["scores"]), float(facts["seconds"])
        sound = facts["key"] == place.stem and facts["digest"] == _digest(scores)
    except (UserError, OSError, LookupError, ValueError, TypeError):
        return None
    if not sound or scores.dtype != np.float32 or scores.ndim != 2 or len(scores) != n:
        return None
    return Said(scores, seconds, n / max(seconds, 1e-9), fed, kept=True)


def _digest(scores: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(scores).data).hexdigest()
