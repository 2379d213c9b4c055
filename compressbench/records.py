"""Records: every number is one row. Reports read only these.

The schema is versioned: ``SCHEMA`` changes when a column is added, dropped or changes its meaning.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, overload

from compressbench.console import clean
from compressbench.declared import impossible, is_timing
from compressbench.errors import UserError
from compressbench.paths import write_text

SCHEMA = 2
READS = (1, 2)
"""Schema 1 has no column ``overrides``."""
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
SAID = "text: "
"""What the ``artefact`` of an example that is a text begins with."""
NUMBERS = ("seed", "order", "density", "compute", "value", "n")
ENCODINGS = ("dense_bytes", "sparse_bytes", "quantized_bytes", "huffman_bytes")
"""Metrics of ``cost`` that are bytes of one state, each in another form."""


@dataclass(frozen=True)
class Metric:
    """One figure that a probe yields.

    Attributes:
        name: e.g. ``top1``, ``recall``, ``latency_median_b64``.
        value: the figure; ``None`` when it could not be had, and then ``note`` says why.
        unit: ``%``, ``points``, ``nats``, ``bytes``, ``ms``, ``s``, ``x`` (times), ``1``, ``MACs`` …
        basis: ``measured``, ``computed``, ``theoretical``, ``on disk`` or ``modelled``.
        n: examples (or repetitions, for a timing) that the figure rests on.
        group: the class or the layer it belongs to; empty for the whole.
        note: a sentence for the reader, e.g. ``no speed-up: runs dense``.
        artefact: a picture that goes with it, as a ``data:image/png;base64,`` address, or a text behind ``SAID``; empty
            for none.
    """

    name: str
    value: float | None
    unit: str
    basis: str = "measured"
    n: int = 0
    group: str = ""
    note: str = ""
    artefact: str = ""


@dataclass(frozen=True)
class Record:
    """One row of ``records.jsonl`` / ``records.csv``. See ``docs/records.md`` for the columns."""

    recipe: str
    model: str
    dataset: str
    scale: str
    hardware: str
    seed: int
    series: str
    moment: str
    state: str
    order: int
    density: float
    compute: float
    probe: str
    metric: str
    group: str
    value: float | None
    unit: str
    basis: str
    n: int
    note: str
    key: str
    reference: str
    dtype: str
    versions: str
    machine: str
    artefact: str = ""
    overrides: str = ""
    schema: int = SCHEMA

    @property
    def is_timing(self) -> bool:
        """True for a figure that a second run can't repeat exactly; ``declared.is_timing`` says which are."""
        return is_timing(self.metric, self.unit)


COLUMNS = tuple(f.name for f in fields(Record))


class Records(Sequence[Record]):
    """An immutable table of records with the few verbs a notebook needs."""

    def __init__(self, rows: Iterable[Record] = ()) -> None:
        self.rows = tuple(rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        return Records(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.rows)

    def __add__(self, other: Records) -> Records:
        return Records((*self.rows, *other.rows))

    def where(self, **columns: Any) -> Records:
        """Rows whose named columns equal the given values (or one of them, for a list, set or tuple)."""
        unknown = set(columns) - set(COLUMNS)
        if unknown:
            raise UserError(
                f"records have no column {', '.join(sorted(unknown))}; known: {', '.join(COLUMNS)}"
            )
        tests = [(k, set(v) if isinstance(v, list | tuple | set) else {v}) for k, v in columns.items()]
        return Records(r for r in self.rows if all(getattr(r, k) in allowed for k, allowed in tests))

    def values(self, column: str = "value") -> list[Any]:
        """One column, in row order."""
        return [getattr(r, column) for r in self.rows]

    def dicts(self) -> list[dict[str, Any]]:
        """Rows as plain dictionaries (``pandas.DataFrame(records.dicts())``)."""
        return [asdict(r) for r in self.rows]

    def _repr_html_(self) -> str:
        import html

        shown = ("series", "state", "seed", "density", "probe", "metric", "group", "value", "unit", "n")
        head = "".join(f"<th>{c}</th>" for c in shown)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(getattr(r, c)))}</td>" for c in shown) + "</tr>"
            for r in self.rows[:200]
        )
        more = f"<p>{len(self.rows) - 200} more rows</p>" if len(self.rows) > 200 else ""
        return f"<table><tr>{head}</tr>{body}</table>{more}"

    def __repr__(self) -> str:
        return f"Records({len(self.rows)} rows)"


def write_jsonl(records: Iterable[Record], path: Path) -> None:
    """One JSON object a line; not-a-number is written as null (JSON has none)."""
    rows = []
    for record in records:
        row = asdict(record)
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row[name] = None
        rows.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
    write_text(path, "".join(line + "\n" for line in rows))


def write_csv(records: Iterable[Record], path: Path) -> None:
    """The same rows with a header line, RFC 4180 quoting; a text that a spreadsheet takes for a formula gets a ``'``."""
    import io

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: no_formula(v) for k, v in asdict(r).items()} for r in records)
    write_text(path, buffer.getvalue())


def no_formula(value: Any) -> Any:
    """A cell of a CSV file: a text that a spreadsheet takes for a formula gets a ``'``, and none steers a terminal."""
    if isinstance(value, str):
        value = clean(value)
        if value.lstrip().startswith(FORMULA):
            return f"'{value}"
    return value


def read_jsonl(path: Path) -> Records:
    """Records of one file, those of an earlier schema with the columns that it lacked.

    Raises:
        UserError: the file can't be read, a line is no record, one holds what no run can have measured (see
            ``declared.impossible``), or its schema is none that this version knows.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read records {path}: {error}") from error
    rows = []
    lines = text.removesuffix("\n").split("\n") if text else []  # splitlines would cut at what JSON may hold
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line, parse_constant=_no_constant)
            if row.get("schema") not in READS or isinstance(row["schema"], bool):
                raise UserError(
                    f"{path}:{number}: record schema {row.get('schema')!r}, this version reads 1 to {SCHEMA}"
                )
            record = Record(**{**row, "schema": SCHEMA})
            _check_numbers(record)
            rows.append(record)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not a record ({error})") from error
    return Records(rows)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _check_numbers(row: Record) -> None:
    """Refuses numbers that no run can have measured.

    Raises:
        ValueError: names the column.
    """
    for column in NUMBERS:
        held = getattr(row, column)
        metric, unit = (row.metric, row.unit) if column == "value" else ("", "")
        if why := impossible(str(metric), str(unit), held):
            told = str(held) if isinstance(held, float) or abs(held) < 10**20 else "a number of many digits"
            raise ValueError(f"{column} {told}{f' of {metric}' if metric else ''} {why}")
    for column in ("density", "compute", "n"):
        held = getattr(row, column)
        if isinstance(held, int | float) and held < 0:
            raise ValueError(f"{column} {held} is below 0")
