"""A file of predictions: what a phone, a server, an API answered. Logits or probabilities, one row an example.

``.npz``, ``.npy``, ``.csv`` (or separated by tabs or semicolons) and ``.parquet``. No pickle is opened.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from compressbench.artefacts.artefact import Given
from compressbench.errors import UserError, nearest, reason
from compressbench.files import HEADER, UNPACKED, a_file, digest_of

KINDS = ("logits", "probabilities")
VALUES = ("logits", "probabilities", "probs", "log_probs", "predictions", "outputs", "answers", "scores")
"""What the array of answers, or the one column of lists, may be called."""
IDS = ("id", "ids", "index", "name", "names", "file", "filename", "path", "example", "key", "row")
LABELS = ("y", "label", "labels", "target", "targets", "true", "true_label")
TEXTS = ("text", "sentence", "texts")
"""What a column of the examples' texts may be called."""
FLAG = "--answers"
NEAR = 5e-3
"""How far the rows of probabilities may be from a sum of 1: float16 and printed decimals are not exact."""


@dataclass(frozen=True)
class Answers:
    """What was answered.

    Attributes:
        values: (n, classes) float32 or float64, as the file has them; rows may hold what is no number.
        kind: ``logits`` (log-probabilities are some) or ``probabilities``.
        ids: (n,) text, which example a row is of; None: in the data's order.
        labels: (n,) int64, where the file holds true labels beside the answers; else None.
        classes: names of the columns, where it has any.
        texts: (n,) what a person reads of each example, where the file tells.
    """

    values: np.ndarray
    kind: str
    ids: np.ndarray | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    texts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Predictions:
    """A file of answers, read and checked. It can't be asked anything else: no timing, no attack, no other pictures.

    Attributes:
        kind: of file, in words.
    """

    path: Path
    kind: str
    answers: Answers

    @property
    def name(self) -> str:
        """The file's."""
        return self.path.name

    @property
    def form(self) -> str:
        """In words."""
        rows, classes = self.answers.values.shape
        return f"predictions, {self.kind}, {rows:,} rows of {classes:,} {self.answers.kind}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The file. Its bytes are not a model's."""
        return (self.path,)

    @functools.cached_property
    def identity(self) -> str:
        """Of the file, and what its numbers are taken for."""
        return digest_of(self.files, "predictions", self.answers.kind)


Columns = tuple[np.ndarray, Any, Any, tuple[str, ...] | None, str]
"""Values, ids, labels, names of the classes, and what the values are called."""


def npz(path: Path, given: Given) -> Predictions:
    """Arrays by name: the answers under one of ``VALUES`` (or the only table of floats), ids and labels beside them.

    Raises:
        UserError: see ``made``; or there is no such array, or several.
    """
    arrays = dict(_members(path))
    tables = [n for n, a in arrays.items() if a.ndim == 2 and a.dtype.kind == "f"]
    called = [n for n in VALUES if n in arrays]
    if given.output is not None:
        if given.output not in arrays:
            raise UserError(
                f"--output: {path.name} has no array {given.output!r}; {nearest(given.output, arrays)}"
            )
        called = [given.output]
    names = called[:1] or tables
    if len(names) != 1:
        raise UserError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}; answers (examples, classes) are wanted under "
            f"{' or '.join(VALUES[:2])}, or --output NAME"
        )
    ids, labels = (next((arrays[n] for n in known if n in arrays), None) for known in (IDS, LABELS))
    return made(path, ".npz", (arrays[names[0]], ids, labels, None, names[0]), given)


def npy(path: Path, given: Given) -> Predictions:
    """One array (examples, classes), in the data's order.

    Raises:
        UserError: see ``made``.
    """
    with a_file(path).open("rb") as file:
        array = _array(file, path.stat().st_size, str(path))
    return made(path, ".npy", (array, None, None, None, ""), given)


def _members(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a ``.npz``, none larger than the file says, nor all together than is read."""
    try:
        with zipfile.ZipFile(a_file(path)) as archive:
            infos = archive.infolist()
            if sum(i.file_size for i in infos) > UNPACKED:
                raise UserError(f"{path}: unpacks to more than the {UNPACKED:,} bytes that are read")
            for info in infos:
                if not info.filename.endswith(".npy"):
                    raise UserError(
                        f"{path}: holds {info.filename}, no array; numpy.savez writes what is wanted"
                    )
                with archive.open(info) as member:
                    name = info.filename.removesuffix(".npy")
                    yield name, _array(member, info.file_size, f"{path}: {name}")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{path}: a damaged file: {reason(error)}") from error


def _array(file: Any, size: int, where: str) -> np.ndarray:
    """One array of numbers or text."""
    shape, fortran, dtype = header_of(file, size, where)
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    text = file.read(wanted)
    if len(text) < wanted:
        raise UserError(f"{where}: ends too early; is it whole?")
    found: np.ndarray = np.ndarray(shape, dtype, buffer=text, order="F" if fortran else "C")
    return found.astype(dtype.newbyteorder("="), copy=False)


def header_of(file: Any, size: int, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """What a file, read from its beginning, says of the one array in it; the array's bytes are next.

    It is held against the bytes that there are before anything is made.

    Args:
        size: bytes of the file, the header among them.
        where: names it in an error.

    Returns:
        shape, whether the first dimension's numbers lie side by side, and numpy's type.

    Raises:
        UserError: it is no array as numpy saves it, holds what only a pickle could, or says more than there is.
    """
    form = np.lib.format
    try:
        version = form.read_magic(file)
        read = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}.get(version)
        if read is None:
            raise UserError(f"{where}: an array in format {version}, which isn't read")
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError, TypeError, SyntaxError, TokenError, RecursionError) as error:
        raise UserError(f"{where}: no array as numpy saves it: {reason(error)}") from error
    if dtype.kind not in "fiubUS":
        raise UserError(f"{where}: holds {dtype}; numbers are wanted, and no pickle is opened")
    count = int(np.prod(shape, dtype=object))
    if min(shape, default=0) < 0 or count * dtype.itemsize > min(size, UNPACKED):
        raise UserError(f"{where}: says it holds {shape} {dtype}, more than its {size:,} bytes; is it whole?")
    return shape, fortran, dtype


def table(path: Path, given: Given) -> Predictions:
    """Text with a column for each class, one for ids and one for labels if they are called so (``IDS``, ``LABELS``).

    Raises:
        UserError: see ``made``; or a line has too few or too many values, or one that is no number.
    """
    try:
        with a_file(path, UNPACKED).open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(HEADER)
            file.seek(0)
            return _table(path, csv.reader(file, delimiter=max(",;\t", key=first.count)), given)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no text of UTF-8: {reason(error)}") from error


def _table(path: Path, rows: Any, given: Given) -> Predictions:
    """What a reader of lines gives."""
    try:
        head = next(rows)
        named = not all(_is_number(word) for word in head)
        names = [word.strip() for word in head] if named else [f"column {k + 1}" for k in range(len(head))]
        if named and len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise UserError(f"{path}: has two columns called {twice!r}")
        place = {n: k for k, n in enumerate(names)} if named else {}
        ids, labels, text = (_place(place, known) for known in (IDS, LABELS, TEXTS))
        columns = [k for k in range(len(names)) if k not in (ids, labels, text)]
        values, told_ids, told_labels, texts = [], [], [], []
        for cells in itertools.chain([] if named else [head], rows):
            if not cells:
                continue
            line = rows.line_num
            if len(cells) != len(names):
                raise UserError(f"{path}: line {line} has {len(cells)} values, {len(names)} are wanted")
            values.append(_numbers([cells[k] for k in columns], [names[k] for k in columns], line, path))
            told_ids += [cells[ids]] if ids is not None else []
            told_labels += [cells[labels]] if labels is not None else []
            texts += [cells[text]] if text is not None else []
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num}: {error}") from error
    except StopIteration:
        raise UserError(f"{path}: holds nothing") from None
    classes = tuple(names[k] for k in columns) if named else None
    found = np.stack(values) if values else np.zeros((0, len(columns)))
    told_ids_ = told_ids if ids is not None else None
    return made(path, ".csv", (found, told_ids_, told_labels or None, classes, ""), given, texts or None)


def lines(path: Path, given: Given) -> Predictions:
    """JSON lines: an object a row, with a number for each class or a list under one of ``VALUES``; else as ``table``.

    Raises:
        UserError: see ``made``; a line is no object, or has other names than the first.
    """
    try:
        with a_file(path, UNPACKED).open(encoding="utf-8-sig") as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no text of UTF-8: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: a line is no JSON: {reason(error)}") from error
    odd = next(
        (k for k, row in enumerate(rows, 1) if not isinstance(row, dict) or row.keys() != rows[0].keys()),
        None,
    )
    if odd is not None or not rows:
        raise UserError(f"{path}: line {odd or 1} is no object with the names of the first line")
    place = {n: k for k, n in enumerate(rows[0])}
    names = list(rows[0])
    ids, labels, text = (_place(place, known) for known in (IDS, LABELS, TEXTS))
    rest = [n for n in names if place[n] not in (ids, labels, text)]
    called = next((n for n in (given.output or "", *VALUES) if n in rest), "")
    try:
        values = np.array([row[called] if called else [row[n] for n in rest] for row in rows], np.float64)
    except (TypeError, ValueError, OverflowError):  # the last: a whole number of hundreds of digits
        raise UserError(
            f"{path}: {called or ', '.join(rest)[:100]} hold what are no numbers, or lists of unlike length"
        ) from None
    told = [None if k is None else [row[names[k]] for row in rows] for k in (ids, labels, text)]
    texts = None if told[2] is None else [str(t) for t in told[2]]
    return made(
        path, ".jsonl", (values, told[0], told[1], None if called else tuple(rest), called), given, texts
    )


def _place(place: dict[str, int], known: Sequence[str]) -> int | None:
    lower = {n.lower(): k for n, k in place.items()}
    return next((lower[n] for n in known if n in lower), None)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str], names: Sequence[str], line: int, path: Path) -> np.ndarray:
    try:
        return np.array([float(c) for c in cells])
    except ValueError:
        name, odd = next((n, c) for n, c in zip(names, cells, strict=True) if not _is_number(c))
        raise UserError(f"{path}: line {line}, {name}: {odd[:40]!r} is no number") from None


def parquet(path: Path, given: Given) -> Predictions:
    """Columns as in ``table``, or one column of lists under one of ``VALUES``. An extra: ``compressbench[parquet]``.

    Raises:
        UserError: see ``made``; or pyarrow isn't installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{path}: pyarrow isn't installed ({error}): pip install 'compressbench[parquet]', or give .csv or .npz"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(a_file(path), memory_map=False) as file:
            groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
            if max(sum(g.total_byte_size for g in groups), 8 * file.metadata.num_rows) > UNPACKED:
                raise UserError(f"{path}: unpacks to more than the {UNPACKED:,} bytes that are read")
            return made(path, ".parquet", _columns(path, file.read(), given), given)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: a damaged file, or no parquet: {reason(error)}") from error


def _columns(path: Path, found: Any, given: Given) -> Columns:
    """What a table of pyarrow's holds."""
    import pyarrow

    names = found.column_names
    if len(set(names)) < len(names):
        raise UserError(f"{path}: has two columns of one name")
    place = {n: k for k, n in enumerate(names)}
    ids, labels = (_place(place, known) for known in (IDS, LABELS))
    rest = [n for n in names if place[n] not in (ids, labels)]
    lists = [n for n in rest if pyarrow.types.is_list(found.schema.field(n).type)]
    lists += [n for n in rest if pyarrow.types.is_fixed_size_list(found.schema.field(n).type)]
    own, true = (found.column(k).to_pylist() if k is not None else None for k in (ids, labels))
    if lists:
        name = given.output or (lists[0] if len(lists) == 1 else next((n for n in VALUES if n in lists), ""))
        if name not in lists:
            raise UserError(
                f"{path}: has lists in {', '.join(lists)}; --output NAME says which are the answers"
            )
        return _listed(found.column(name), path, name), own, true, None, name
    odd = next((n for n in rest if not _numeric(found.schema.field(n).type)), None)
    if odd is not None or not rest:
        raise UserError(f"{path}: its column {odd} holds no numbers; ids are called {' or '.join(IDS[:3])}")
    values = np.stack([np.asarray(found.column(n).cast("float64")) for n in rest], axis=1)
    return values, own, true, tuple(rest), ""


def _numeric(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind))


def _listed(column: Any, path: Path, name: str) -> np.ndarray:
    """A column of lists of one length as a table."""
    from pyarrow import compute

    lengths = {n.as_py() or 0 for n in compute.unique(compute.list_value_length(column))}
    if len(lengths) != 1 or min(lengths) < 1:
        raise UserError(f"{path}: the lists in {name} are not all of one length")
    try:
        flat = column.combine_chunks().flatten().cast("float64")
    except Exception as error:  # pyarrow's own errors
        raise UserError(f"{path}: the lists in {name} hold no numbers: {reason(error)}") from error
    return np.asarray(flat).reshape(-1, *lengths)


def made(
    path: Path, kind: str, columns: Columns, given: Given, texts: Sequence[str] | None = None
) -> Predictions:
    """Answers, checked.

    Args:
        texts: what a person reads of each row's example, where the file tells.

    Raises:
        UserError: no rows, one column, text, nothing but NaN; ids that are missing or stand twice, labels that are no
            whole numbers; neither logits nor probabilities, and no flag that says which.
    """
    values, ids, labels, classes, called = columns
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        raise UserError(
            f"{path}: holds {values.dtype} {values.shape}; numbers (examples, classes) are wanted"
        )
    if not len(values):
        raise UserError(f"{path}: holds no rows")
    if values.shape[1] < 2:
        raise UserError(
            f"{path}: has one number an example; a column for each class is wanted, of two classes too"
        )
    values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
    if np.isnan(values).all():
        raise UserError(f"{path}: all its answers are no numbers (NaN)")
    kept = _ids(path, ids, len(values)), _labels(path, labels, len(values))
    told = None if texts is None else tuple(texts)
    answers = Answers(values, _kind(path, values, called, given), *kept, classes, told)
    return Predictions(path, kind, answers)


def _kind(path: Path, values: np.ndarray, called: str, given: Given) -> str:
    if given.answers is not None:
        if given.answers not in KINDS:
            raise UserError(f"{FLAG}: {given.answers!r}; {nearest(given.answers, KINDS)}")
        if given.answers == "probabilities" and told(values) != "probabilities":
            raise UserError(f"{path}: rows are no probabilities: not all between 0 and 1 with a sum of 1")
        return given.answers
    if called in ("logits", "log_probs"):
        return "logits"
    found = told(values)
    if found in KINDS:
        return found
    hint = "percentages? Divide them by 100" if found == "percentages" else "their sums are not 1"
    raise UserError(
        f"{path}: all answers are between 0 and 1 or 100, {hint}; {FLAG} logits takes them as they are"
    )


def told(values: np.ndarray) -> str:
    """What a table of answers is, by its rows that are numbers: ``probabilities``, ``logits``, or neither.

    Probabilities are between 0 and 1 and sum to 1; ``percentages`` to 100; ``shares`` lie between 0 and 1 and don't. Only
    rows whose numbers are all finite count; with none, they are logits.
    """
    highest, least, most = -np.inf, np.inf, -np.inf
    for start in range(0, len(values), 4096):
        rows = values[start : start + 4096]
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            continue
        if rows.min() < -1e-6:
            return "logits"
        sums = rows.sum(axis=1, dtype=np.float64)
        highest, least, most = max(highest, rows.max()), min(least, sums.min()), max(most, sums.max())
    if highest < 0:
        return "logits"
    if highest <= 1 + 1e-6:
        return "probabilities" if max(1 - least, most - 1) <= NEAR else "shares"
    return "percentages" if highest <= 100 + 1e-3 and max(100 - least, most - 100) <= 100 * NEAR else "logits"


def _ids(path: Path, given: Any, count: int) -> np.ndarray | None:
    if given is None:
        return None
    each = np.asarray(given, object).ravel()
    ids = np.array([i.decode("utf-8", "replace") if isinstance(i, bytes) else str(i) for i in each])
    if len(ids) != count:
        raise UserError(f"{path}: has {len(ids)} ids for {count} rows")
    found, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{path}: the id {str(found[counts.argmax()])[:60]!r} stands in {counts.max()} rows")
    return ids


def _labels(path: Path, given: Any, count: int) -> np.ndarray | None:
    if given is None:
        return None
    try:
        numbers = np.asarray(given, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: its labels are not the numbers of the classes, from 0") from None
    if (
        len(numbers) != count
        or not ((numbers >= 0) & (numbers < 2**53) & (numbers == np.floor(numbers))).all()
    ):
        raise UserError(f"{path}: its labels are not one whole number, 0 or more, for each of {count} rows")
    return numbers.astype(np.int64)
