"""Latencies that a user measured elsewhere, on a phone or a board, read from a table or a tool's own output.

Three forms are known: a CSV with the columns ``state``, ``batch`` and ``ms`` (and, if known, ``n`` and ``runtime``) or a
JSON list of such rows; what OpenVINO's ``benchmark_app`` prints; what ``onnxruntime_perf_test`` prints.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from compressbench.declared import batch_of
from compressbench.errors import UserError, nearest
from compressbench.records import Record

COLUMNS = ("state", "batch", "ms", "n", "runtime")
WANTED = ("state", "batch", "ms")
PROBE = "targets"
APART = "not timed in turns"
"""In the note of a ratio of latencies that were taken at different moments."""
READ = "read from"
"""In the note of what was measured elsewhere."""
LEAST, MOST = 1e-6, 1e9


@dataclass(frozen=True)
class Elsewhere:
    """One latency.

    Attributes:
        state: of the recipe, as the file says it; empty where it doesn't.
        batch: examples a forward.
        ms: milliseconds of a forward, the median where the tool gives one.
        n: forwards that it rests on; 0 where that isn't said.
        runtime: in words.
    """

    state: str
    batch: int
    ms: float
    n: int = 0
    runtime: str = ""

    def __post_init__(self) -> None:
        whole = all(type(x) is int for x in (self.batch, self.n))
        if (
            not whole
            or not 1 <= self.batch <= MOST
            or not 0 <= self.n <= MOST
            or not LEAST <= self.ms <= MOST
        ):
            raise ValueError(
                f"batch {self.batch}, ms {self.ms}, n {self.n}: must be above 0 and finite, batch and n whole"
            )


def read(text: str, name: str) -> list[Elsewhere]:
    """The latencies in a file's content.

    Args:
        name: of the file, for errors.

    Raises:
        UserError: none of the known forms, or a row of them that is malformed.
    """
    try:
        if "[Step" in text and "Latency" in text:
            return [_benchmark_app(text, name)]
        if "inference time cost" in text.lower() or "Total inference requests" in text:
            return [_perf_test(text, name)]
        rows = _json(text, name) if text.lstrip().startswith(("[", "{")) else _csv(text, name)
        found = [_row(row, f"{name}, row {place}") for place, row in enumerate(rows, 1)]
    except (ValueError, OverflowError, RecursionError, csv.Error) as error:
        raise UserError(f"{name}: {str(error)[:160]}") from error
    spots = [(one.state, one.batch) for one in found]
    if twice := next((s for s in spots if spots.count(s) > 1), None):
        raise UserError(f"{name}: two rows for state {twice[0]!r} at batch {twice[1]}")
    return found


def records(
    found: Iterable[Elsewhere], run: Iterable[Record], state: str, device: str, name: str
) -> list[Record]:
    """One record a latency; see ``derived``.

    Args:
        run: the run's records, which know the states.
        state: that the file is of, where its rows don't say; else only checked.
        device: its name, which becomes the target's.
        name: of the file.

    Raises:
        UserError: the file is of another state, or of one that the run doesn't have.
    """
    known: dict[str, Record] = {}
    for row in run:
        known.setdefault(row.state, row)
    made: list[tuple[Elsewhere, Record]] = []
    for one in found:
        if state and one.state and one.state != state:
            raise UserError(f"{name}: its timings are of {one.state!r}, not of {state!r}")
        own = one.state or state
        if not own:
            raise UserError(f"{name}: doesn't say which state it is of; --state NAME does")
        if own not in known:
            raise UserError(f"{name}: the run has no state {own!r}; {nearest(own, known)}")
        said = "; ".join(x for x in (one.runtime, f"measured on {device}, {READ} {name}") if x)
        like = replace(
            known[own], probe=PROBE, group=device, basis="measured", n=one.n, note=said, artefact=""
        )
        like = replace(like, hardware=device, machine=device)
        made.append((one, replace(like, metric=f"latency_b{one.batch}", value=one.ms, unit="ms")))
    return [row for _, row in made]


def derived(latencies: Iterable[Record]) -> list[Record]:
    """The latencies of one device with throughputs, and ratios to dense's where that was timed at the same batch.

    Both were timed at moments of their own, which the ratio's note says.
    """
    rows = list(latencies)
    dense = {(r.seed, r.metric): r.value for r in rows if r.series == "dense"}
    out = []
    for row in rows:
        batch = batch_of(row.metric)
        assert batch is not None
        assert row.value is not None
        rate = 1000 * batch / row.value
        out += [row, replace(row, metric=f"throughput_b{batch}", value=rate, unit="examples/s")]
        base = dense.get((row.seed, row.metric))
        if base is not None:
            note = f"{row.note}; {APART}"
            out.append(replace(row, metric=f"speedup_b{batch}", value=base / row.value, unit="x", note=note))
    return out


def is_elsewhere(row: Record) -> bool:
    """Whether a record is a latency that ``records`` made of a file."""
    return row.probe == PROBE and row.machine == row.group and READ in row.note


def _csv(text: str, name: str) -> list[Mapping[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    heads = set(rows[0]) if rows else set()
    if not set(WANTED) <= heads:
        raise UserError(
            f"{name}: none of the known forms: a CSV with columns {', '.join(WANTED)}, a JSON list of such rows, or the "
            "output of benchmark_app or onnxruntime_perf_test"
        )
    return list(rows)


def _json(text: str, name: str) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}, line {error.lineno}: no valid JSON: {error.msg}") from error
    rows = rows if isinstance(rows, list) else [rows]
    if not rows or not all(isinstance(row, dict) and set(WANTED) <= set(row) for row in rows):
        raise UserError(f"{name}: a list of objects with {', '.join(WANTED)} is wanted")
    return rows


def _row(row: Mapping[str, Any], where: str) -> Elsewhere:
    for column in row:
        if column not in COLUMNS:
            raise UserError(f"{where}: unknown column {column!r}; {nearest(str(column), COLUMNS)}")
    try:
        values = [_number(row.get(c)) for c in ("batch", "ms", "n")]
        batch, ms, n = values[0], values[1], values[2] if row.get("n") not in (None, "") else 0.0
        state = "" if row["state"] is None else str(row["state"]).strip()
        return Elsewhere(state, _whole(batch), ms, _whole(n), str(row.get("runtime") or ""))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: {str(error)[:160]}") from error


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is no number")
    return float(value if value not in (None, "") else 0)


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def _benchmark_app(text: str, name: str) -> Elsewhere:
    """``[ INFO ]    Median:        1.23 ms``, ``Count: 812 iterations``, the batch from the shapes it prints."""
    median = re.search(r"Median:\s*([0-9.]+)\s*ms", text)
    if median is None:
        raise UserError(f"{name}: benchmark_app's output has no median; run it with -hint none or -api sync")
    iterations = re.search(r"Count:\s*(\d+)\s*iterations", text)
    batch = re.search(r"Model batch size:\s*(\d+)", text)
    version = re.search(r"Build\D*([0-9]+\.[0-9.]+)", text)
    model = re.search(r"(\S+)\.(?:xml|onnx)\b", text)
    return Elsewhere(
        PurePath(model[1]).name if model else "",
        int(batch[1]) if batch else 1,
        float(median[1]),
        int(iterations[1]) if iterations else 0,
        f"OpenVINO {version[1]}, benchmark_app" if version else "OpenVINO, benchmark_app",
    )


def _perf_test(text: str, name: str) -> Elsewhere:
    """``P50 Latency: 0.00123 s``, else ``Average inference time cost: 1.23 ms``; one request is one forward."""
    half = re.search(r"P50 Latency:\s*([0-9.eE+-]+)\s*s", text)
    average = re.search(r"Average inference time cost[^:]*:\s*([0-9.]+)\s*ms", text)
    if half is None and average is None:
        raise UserError(f"{name}: onnxruntime_perf_test's output has no latency")
    requests = re.search(r"Total inference requests:\s*(\d+)", text)
    model = re.search(r"(\S+)\.onnx\b", text)
    ms = 1000 * float(half[1]) if half else float(average[1])  # type: ignore[index]
    words = "ONNX Runtime, perf_test" + ("" if half else ", an average")
    return Elsewhere(
        PurePath(model[1]).name if model else "", 1, ms, int(requests[1]) if requests else 0, words
    )
