"""What two artefacts are asked: examples of a folder, of arrays, of a data set; their labels, classes and sub-groups."""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressbench.artefacts.predictions import IDS, Answers, Predictions
from compressbench.artefacts.reading import of_task as of_task_of_texts
from compressbench.artefacts.reading import wanted_by
from compressbench.comparing.answers import NONE
from compressbench.comparing.arrays import Floats, Ints
from compressbench.comparing.classes import places
from compressbench.comparing.groups import coded
from compressbench.comparing.sources import (
    Encoded,
    Folder,
    Source,
    Stacked,
    Written,
    listed,
    seen,
    small,
    source_of,
    stored,
)
from compressbench.data.attributes import read_attributes
from compressbench.data.folder import SUFFIXES
from compressbench.data.splits import pick, seats
from compressbench.errors import UserError, nearest
from compressbench.seeds import derive_seed
from compressbench.wording import counted

if TYPE_CHECKING:
    from compressbench.artefacts.preparation import Preparation

DATASET = "dataset="
INPUTS = ("x", "images", "inputs")
"""What an array of inputs may be called, beside a model's own name for it."""
LABELS = ("y", "labels")
OWN_IDS = ("id", "ids")
NAMES = ("classes", "class_names")
"""What an array of the names of classes may be called."""
SPLITS = ("test", "val", "validation", "train")
"""Folders that are no classes but splits; the first one there is asked."""
MOST_GROUPS = 1000
"""A column with more values than this, or another one in each row, makes no groups."""
NO_LABELS = "--no-labels"
SIDE = 96
"""Pixels of a thumbnail's longer side."""
TEXTS = ("text", "sentence", "sentence1", "premise", "question", "review", "content", "gloss")
SECONDS = ("second", "sentence2", "hypothesis", "text_pair")
"""What a column of texts may be called, and that of the other texts of pairs."""
NAMED = ("label", "labels", "y", "class")
"""What a column of a table with the labels may be called."""
TABLES = (".tsv", ".csv", ".jsonl")
GIVEN = ("text", "second", "label", "id")
"""Columns of a table that may be named."""
KNOWN = "a folder of pictures, arrays in .npz or .npy, texts in .csv, .tsv or .jsonl, or dataset=NAME"

Group = tuple[Ints, tuple[str, ...]]
"""(n,) numbers of groups, -1 where not known, and the groups' names."""


@dataclass(frozen=True)
class Material:
    """Examples, in an order that is theirs.

    Attributes:
        name: in words.
        ids: (n,) texts, each once: a relative path, a row's number, or what an id column says.
        labels: int64 (n,), -1 where not known; None where there are none at all.
        classes: names of the labels' classes, in order; None where nobody tells.
        groups: name -> the sub-groups that an attribute makes.
        source: where the examples lie; None where only their labels are known, and nothing can be asked.
        rows: (n,) where in the source each one lies.
        facts: what a model config may ask for (``Task.facts``), of a data set.
        preparation: of the pictures of a data set, as its own models are trained.
        whole: the material that this one is a part of, in whose order files of predictions are.
    """

    name: str
    ids: NDArray[np.str_]
    labels: Ints | None
    classes: tuple[str, ...] | None
    groups: Mapping[str, Group] = field(default_factory=dict)
    source: Source | None = None
    rows: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    facts: Mapping[str, Any] = field(default_factory=dict)
    preparation: Preparation | None = None
    whole: Material | None = None

    @property
    def n(self) -> int:
        """How many examples."""
        return len(self.ids)

    @property
    def pictures(self) -> Callable[[Ints], list[NDArray[np.uint8]]] | None:
        """Rows (of this material, int64) to their pictures, uint8 (height, width, channels); None where it has none."""
        return None if self.source is None or self.source.inputs else self._read

    @property
    def arrays(self) -> Callable[[Ints], dict[str, NDArray[Any]]] | None:
        """Rows to {name: (rows, ...)}, fed as they are; None where it has none."""
        return None if self.source is None or not self.source.inputs else self._read

    def _read(self, rows: Ints) -> Any:
        assert self.source is not None
        return self.source.read(self.rows[rows])

    @functools.cached_property
    def contents(self) -> str:
        """SHA-256 (hex) of what is asked: the examples alone, in their order. Files are read for it, once."""
        return hashlib.sha256(b"").hexdigest() if self.source is None else self.source.digest(self.rows)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that a comparison depends on: contents, ids, labels, classes and groups."""
        found = hashlib.sha256(self.contents.encode())
        found.update(repr((self.ids.tolist(), self.classes)).encode())
        found.update(b"none" if self.labels is None else np.asarray(self.labels, np.int64).tobytes())
        for name, (codes, names) in sorted(self.groups.items()):
            found.update(repr((name, names)).encode())
            found.update(np.asarray(codes, np.int64).tobytes())
        return found.hexdigest()

    @property
    def texts(self) -> Callable[[int], str] | None:
        """A row to its text, of a pair two lines; None where examples are no texts."""
        source = self.source
        return (lambda row: source.shown(int(self.rows[row]))) if isinstance(source, Written) else None

    def thumbnail(self, row: int) -> NDArray[np.uint8] | None:
        """uint8 (h, w, 1 or 3), at most ``SIDE`` pixels a side; None where an example is no picture.

        Of inputs that are fed as they are it is the first, where it may be a picture, its range spread.
        """
        only = np.array([row])
        if self.pictures is not None:
            return small(self.pictures(only)[0], SIDE)
        if self.arrays is None or self.texts is not None:
            return None
        found = seen(next(iter(self.arrays(only).values()))[0])
        return None if found is None else small(found, SIDE)

    def taken(self, rows: Ints) -> Material:
        """These rows, in this order."""
        return replace(
            self,
            ids=self.ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            groups={name: (codes[rows], names) for name, (codes, names) in self.groups.items()},
            rows=self.rows[rows],
            whole=self.whole or self,
        )

    def unlabelled(self) -> Material:
        """Without labels, as ``--no-labels`` asks for it."""
        return replace(
            self, labels=None, classes=None, whole=None if self.whole is None else self.whole.unlabelled()
        )


def labels_of(material: Material, what: str) -> Ints:
    """Its labels.

    Args:
        what: needs them, e.g. ``--margin``.

    Raises:
        UserError: it has none.
    """
    if material.labels is None:
        raise UserError(f"{what}: labels are needed, and {material.name} has none")
    return material.labels


def limited(material: Material, n: int, seed: int = 0) -> Material:
    """At most ``n`` examples, as many of each class as its share is, drawn by ``seed``.

    A larger draw holds a smaller one. Examples without a label are a class of their own. The order is kept.

    Raises:
        UserError: ``n`` is below 1.
    """
    if n < 1:
        raise UserError(f"--limit {n}: one example is the least")
    if n >= material.n:
        return material
    strata = np.zeros(material.n, np.int64) if material.labels is None else material.labels + 1
    _, strata = np.unique(strata, return_inverse=True)
    shares = seats(np.bincount(strata), n)
    return material.taken(pick(strata, shares, np.random.RandomState(derive_seed(seed, "limit") % 2**32)))


def read(
    given: str | Path | Sequence[str],
    inputs: Sequence[str] = (),
    labelled: bool = True,
    trusted: Iterable[str] = (),
    config_dir: str | None = None,
) -> Material:
    """The material that a user names.

    Args:
        given: a folder of pictures, a ``.npz`` or ``.npy``, or ``dataset=NAME`` and further overrides, as words or as one
            text; ``split=NAME`` among them names another split than test.
        inputs: names of the reference's inputs, under which arrays are looked for first.
        labelled: whether labels are wanted at all (``--no-labels``).
        trusted, config_dir: the user's own code that a dataset's config may name, and their own configs.

    Raises:
        UserError: one line: nothing there, nothing in it, nothing that is read, damaged, or it doesn't fit.
    """
    words = [str(given)] if isinstance(given, str | Path) else list(given)
    if len(words) == 1 and not _there(words[0]) and DATASET in words[0]:
        try:
            words = shlex.split(words[0])
        except ValueError as error:
            raise UserError(f"--data: {words[0]!r}: {error}") from error
    if any(w.startswith(DATASET) for w in words):
        found = of_dataset(words, trusted, config_dir)
    elif words and _is_table(words[0]):
        found = of_table(Path(words[0]).expanduser(), words[1:], labelled)
    elif len(words) != 1:
        raise UserError(f"--data {' '.join(words)[:100]}: {KNOWN} is wanted")
    else:
        path = Path(words[0]).expanduser()
        if not _there(words[0]):
            raise UserError(f"--data {words[0][:100]}: no such file or folder; {KNOWN} is wanted")
        found = of_folder(path, labelled) if path.is_dir() else of_arrays(path, inputs, labelled)
    return found if labelled else found.unlabelled()


def _is_table(text: str) -> bool:
    return _there(text) and any(s in TABLES for s in Path(text).suffixes[-2:]) and Path(text).is_file()


def of_table(path: Path, words: Sequence[str] = (), labelled: bool = True) -> Material:
    """Texts in a table, a row each (see ``data.tables``): columns of texts, labels and ids; the rest makes groups.

    Labels are numbered as numbers where all are, else as they are sorted. How texts are read is the artefacts' to say.

    Args:
        words: ``text=COLUMN``, ``second=COLUMN``, ``label=COLUMN``, ``id=COLUMN``, where they are called otherwise than
            ``TEXTS``, ``SECONDS``, ``NAMED`` and ``OWN_IDS``.

    Raises:
        UserError: it is no table, has no rows, no texts or no such column, or ids stand twice.
    """
    from compressbench.data.tables import read_table

    told = dict(w.partition("=")[::2] for w in words if "=" in w)
    odd = next((w for w in words if w.partition("=")[0] not in GIVEN or not w.partition("=")[2]), None)
    if odd is not None:
        raise UserError(f"--data {path}: {odd[:60]!r}; columns are named by text=, second=, label= and id=")
    table = read_table(path, "--data")

    def column(given: str, known: Sequence[str]) -> str | None:
        name = told.get(given) or next((n for n in known if n in table), None)
        if name is not None and name not in table:
            raise UserError(f"--data {path}: has no column {name!r}; {nearest(name, table)}")
        return name

    text, second = column("text", TEXTS), column("second", SECONDS)
    if text is None:
        raise UserError(f"--data {path}: has no column {TEXTS[0]!r}; text=COLUMN names that of the texts, "
                        f"of {', '.join(table)[:200]}")  # fmt: skip
    if not table[text]:
        raise UserError(f"--data {path}: holds no rows")
    n = len(table[text])
    given, own = column("label", NAMED), column("id", OWN_IDS)
    labels, classes = None, None
    if given is not None and labelled:
        labels, classes = numbered(_as_numbers(table[given]), n, f"--data {path}: {given}")
    rest = {k: v for k, v in table.items() if k not in (text, second, given, own)}
    return Material(
        name=path.name,
        ids=_ids(None if own is None else np.array(table[own]), n, str(path)),
        labels=labels,
        classes=classes,
        groups=_groups_of_cells(rest, n),
        source=Written(tuple(table[text]), None if second is None else tuple(table[second])),
        rows=np.arange(n),
    )


def _as_numbers(column: Sequence[str]) -> NDArray[Any]:
    try:
        return np.array([int(cell) for cell in column])
    except ValueError:
        return np.array(list(column))


def read_by(material: Material, artefact: Any) -> Material:
    """The same examples as an artefact reads them: of texts in its own tokens, else as they are.

    Raises:
        UserError: how it reads texts isn't known.
    """
    if not isinstance(material.source, Written) or isinstance(artefact, Predictions):
        return material
    reading = wanted_by(artefact, material.source.reading)
    return replace(material, source=replace(material.source, reading=reading))


def named_as(material: Material, names: Sequence[str]) -> Material:
    """Its labels numbered as these classes are, where all of its own have their names, capitals aside; else as it is."""
    places = {name.casefold(): k for k, name in enumerate(names)}
    own = [name.casefold() for name in material.classes or ()]
    if material.labels is None or not own or len(set(own)) < len(own) or not places.keys() >= set(own):
        return material
    table = np.array([*(places[name] for name in own), NONE], np.int64)
    return replace(material, labels=table[material.labels], classes=tuple(names))


def _there(text: str) -> bool:
    try:
        return bool(text.strip()) and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def of_folder(path: Path, labelled: bool = True) -> Material:
    """A folder of pictures: in class folders, whose names sorted are the labels, or without, and so without labels.

    Of one with the folders train and test (val, validation) in it, test is taken. Ids are paths below the folder.

    Raises:
        UserError: see ``sources.listed``.
    """
    split = next((path / name for name in SPLITS[:-1] if (path / name).is_dir()), None)
    base = split if split is not None and _only_splits(path) else path
    paths, labels, classes = listed(base)
    return Material(
        name=str(path) if base == path else f"{path}, {base.name}",
        ids=np.array([p.relative_to(base).as_posix() for p in paths]),
        labels=None if labels is None or not labelled else np.array(labels, np.int64),
        classes=classes,
        source=Folder(base, tuple(paths)),
        rows=np.arange(len(paths)),
    )


def attributed(material: Material, root: Path, file: Path) -> Material:
    """A folder's pictures with the sub-groups that a CSV file says: ``path`` below ``root``, and a column an attribute.

    Args:
        root: the folder that was given; where its test part is compared, rows of its other parts are passed over.

    Raises:
        UserError: these are no pictures of a folder, or see ``data.attributes.read_attributes``.
    """
    if not isinstance(material.source, Folder):
        raise UserError(
            f"--attributes {file}: goes with a folder of pictures; arrays and data sets bring their own columns"
        )
    own = [path.relative_to(root).as_posix() for path in material.source.paths]
    others = [root / name for name in SPLITS if root / name != material.source.base]
    beside = (
        path.relative_to(root).as_posix()
        for folder in ([] if material.source.base == root else others)
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
    )
    groups = _groups(read_attributes(file, own, "--attributes", beside), material.n)
    return replace(material, groups={**material.groups, **groups})


def _only_splits(path: Path) -> bool:
    inner = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return all(p.name in SPLITS for p in inner) and any(q.is_dir() for p in inner for q in p.iterdir())


def of_arrays(path: Path, inputs: Sequence[str] = (), labelled: bool = True) -> Material:
    """Arrays: inputs under a model's names, or ``INPUTS``; ``LABELS``, ``OWN_IDS``, ``NAMES``; the rest makes groups.

    uint8 with four dimensions, or (n, h, w), are pictures; all else is fed as it is. Labels that are text are numbered
    as they are sorted. A ``.npy`` holds inputs alone.

    Raises:
        UserError: no inputs in it, or other numbers of labels, ids or rows of another input.
    """
    with path.open("rb") as file:
        if file.read(6)[:4] not in (b"PK\x03\x04", b"PK\x05\x06", b"\x93NUM"):
            raise UserError(f"--data {path}: is nothing that holds examples; {KNOWN} is wanted")
    arrays = stored(path)
    names = [n for n in inputs if n in arrays]
    if not inputs or len(names) < len(inputs):
        names = [n for n in INPUTS if n in arrays][:1]
    if not names:
        own = [n for n in inputs if n not in INPUTS]
        raise UserError(
            f"--data {path}: holds {', '.join(arrays)[:200] or 'nothing'}; inputs are wanted under "
            f"{', '.join([*own, *INPUTS[:-1]])} or {INPUTS[-1]}"
        )
    source = source_of({n: arrays[n] for n in names}, str(path))
    n = len(arrays[names[0]])
    odd = next((m for m in names if len(arrays[m]) != n), None)
    if odd is not None:
        raise UserError(f"--data {path}: {names[0]} has {n:,} rows and {odd} {len(arrays[odd]):,}")
    if not n:
        raise UserError(f"--data {path}: {names[0]} holds no examples")
    given, own_ids, called = (
        next((k for k in known if k in arrays), None) for known in (LABELS, OWN_IDS, NAMES)
    )
    labels, classes = (None, None)
    if given is not None and labelled:
        labels, classes = numbered(arrays[given], n, f"--data {path}: {given}")
    if called is not None and classes is None:
        classes = _texts(arrays[called].ravel())
        if labels is not None and labels.max() >= len(classes):
            raise UserError(
                f"--data {path}: label {labels.max()}, and {called} names {len(classes)} classes, from 0"
            )
    rest = {k: a for k, a in arrays.items() if k not in (*names, given, own_ids, called)}
    return Material(
        name=path.name,
        ids=_ids(None if own_ids is None else arrays[own_ids], n, str(path)),
        labels=labels,
        classes=classes,
        groups=_groups(rest, n),
        source=source,
        rows=np.arange(n),
    )


def numbered(given: NDArray[Any], n: int, where: str) -> tuple[Ints, tuple[str, ...] | None]:
    """Labels as int64 (n,), and the classes' names where labels are texts, which are numbered as they are sorted.

    -1, not-a-number and an empty text are none.

    Raises:
        UserError: not one an example, no whole numbers, or none known.
    """
    if given.shape not in ((n,), (n, 1)):
        raise UserError(f"{where} is {given.shape}; one label for each of {n:,} examples is wanted")
    column = given.ravel()
    if column.dtype.kind in "US":
        texts = np.array(_texts(column))
        names, codes = np.unique(texts, return_inverse=True)
        kept = [str(name) for name in names if name]
        labels = codes - 1 if len(kept) < len(names) else codes
        return _some(labels.astype(np.int64), where), tuple(kept)
    values = np.where(np.isnan(column), NONE, column) if column.dtype.kind == "f" else column
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.floor(values))).all():
        raise UserError(f"{where} holds what are no whole numbers; numbers of classes, from 0, are wanted")
    least, most = values.min(), values.max()
    if least < NONE or most >= 2**63:
        odd = str(least if least < NONE else most)[:40]
        raise UserError(f"{where} holds {odd}; classes are numbered from 0, and -1 is none")
    return _some(np.array(values, np.int64), where), None


def _some(labels: Ints, where: str) -> Ints:
    if not (labels != NONE).any():
        raise UserError(f"{where}: all labels are unknown; {NO_LABELS} compares without")
    return labels


def _texts(column: NDArray[Any]) -> tuple[str, ...]:
    return tuple(t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t) for t in column.tolist())


def _ids(given: NDArray[Any] | None, n: int, where: str) -> NDArray[np.str_]:
    if given is None:
        return np.arange(n).astype(str)
    if given.shape not in ((n,), (n, 1)):
        raise UserError(f"--data {where}: ids are {given.shape}; one for each of {n:,} examples is wanted")
    ids = np.array(_texts(given.ravel()))
    found, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise UserError(
            f"--data {where}: the id {str(found[counts.argmax()])[:60]!r} stands in {counts.max()} rows"
        )
    return ids


def _groups(arrays: Mapping[str, NDArray[Any]], n: int) -> dict[str, Group]:
    """Columns of whole numbers, truth values or texts, that have fewer values than rows."""
    found: dict[str, Group] = {}
    for name, array in arrays.items():
        if array.shape not in ((n,), (n, 1)) or array.dtype.kind not in "iubUS":
            continue
        column = array.ravel()
        codes, names = coded(np.array(_texts(column)) if column.dtype.kind == "S" else column)
        if len(names) <= MOST_GROUPS and (len(names) < n or n == 1):
            found[name] = (codes.astype(np.int64), names)
    return found


def _groups_of_cells(columns: Mapping[str, Sequence[str]], n: int) -> dict[str, Group]:
    """``_groups`` of a table's columns; no array is made, which would be as wide as a column's longest text."""
    found: dict[str, Group] = {}
    for name, cells in columns.items():
        known = set(cells)
        if len(known) <= MOST_GROUPS and (len(known) < n or n == 1):
            names = tuple(sorted(known))
            place = {cell: k for k, cell in enumerate(names)}
            found[name] = np.array([place[cell] for cell in cells], np.int64), names
    return found


def of_dataset(words: Sequence[str], trusted: Iterable[str] = (), config_dir: str | None = None) -> Material:
    """A split of what a dataset's config reads, in its source's order; ids are numbers of rows there.

    Args:
        words: overrides such as ``dataset=cifar10`` and ``dataset.test_size=500``; ``split=NAME``, else test.

    Raises:
        UserError: the config can't be composed or read, there is no such split, or labels are not one class an example.
    """
    from compressbench.artefacts.preparation import of_task
    from compressbench.data.load import load
    from compressbench.specs.compose import composed
    from compressbench.tasks.images.classification import IMAGES, Classification

    splits = [w.removeprefix("split=") for w in words if w.startswith("split=")]
    overrides = [w for w in words if not w.startswith("split=")]
    dataset = load(composed(overrides, config_dir)["dataset"], trusted)
    split = splits[-1] if splits else "test"
    examples = dataset.split(split)
    examples = examples.take(np.argsort(examples.rows, kind="stable"))
    labels = examples.labels
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            f"--data {dataset.name}: labels are {labels.dtype} {labels.shape}; one class an example is asked for"
        )
    reading = of_task_of_texts(dataset.task)
    source: Source
    if isinstance(dataset.task, Classification):
        source = Stacked(examples[IMAGES], "NCHW")
    elif reading is not None:
        columns = [tuple(texts) for texts in dataset.task.texts(examples).values()]  # type: ignore[attr-defined]
        source = Written(columns[0], columns[1] if len(columns) > 1 else None, reading)
    else:
        source = Encoded.of(dataset.task, examples)
    return Material(
        name=f"{dataset.name}, {split}",
        ids=np.asarray(examples.rows).astype(str),
        labels=_some(labels.astype(np.int64), f"--data {dataset.name}"),
        classes=tuple(dataset.classes),
        groups={
            name: (np.asarray(codes, np.int64), tuple(map(str, dataset.groups[name])))
            for name, codes in examples.groupings.items()
        },
        source=source,
        rows=np.arange(len(examples)),
        facts=dict(dataset.task.facts()),
        preparation=of_task(dataset.task),
    )


def of_predictions(predictions: Predictions) -> Material:
    """What a file of predictions says of the examples itself, where no data are given: ids, and labels if it has any.

    Nothing can be asked of it.
    """
    answers = predictions.answers
    n = len(answers)
    return Material(
        name=f"the examples of {predictions.name}",
        source=None if answers.texts is None else Written(answers.texts),
        ids=np.arange(n).astype(str) if answers.ids is None else answers.ids,
        labels=answers.labels,
        classes=answers.classes,
        rows=np.arange(n),
    )


def mapped(material: Material, given: str, outputs: int) -> Material:
    """Its labels in the numbering of a model's outputs, which has other classes too, as ``--classes`` says.

    Args:
        given: ``imagenet``, or a file (see ``classes.places``).
        outputs: how many the model has; of 1,001 for ImageNet the first is none of its classes.

    Raises:
        UserError: it has no labels, or one of its classes is nowhere among the outputs, or is where another one is.
    """
    labels = labels_of(material.whole or material, "--classes")
    classes = material.classes or tuple(str(k) for k in range(int(labels.max()) + 1))
    where, names = places(classes, given, outputs)
    table = np.array([*where, NONE], np.int64)

    def moved(part: Material) -> Material:
        assert part.labels is not None
        return replace(part, labels=table[part.labels], classes=names)

    return replace(moved(material), whole=None if material.whole is None else moved(material.whole))


def aligned(predictions: Predictions | Answers, material: Material) -> Floats:
    """(n, classes) answers in the material's order: by their ids, or, where they have none, by their place.

    Of a part of some material (``limited``) the file may be of the whole. An id is the material's own; or, of all alike,
    the last part of a path, that without its suffix, or the same number.

    Raises:
        UserError: one line: ids that the material lacks, examples that the file lacks, or another number of rows.
    """
    answers = predictions.answers if isinstance(predictions, Predictions) else predictions
    name = predictions.name if isinstance(predictions, Predictions) else "the answers"
    if answers.ids is None:
        return _by_place(answers, material, name)
    for base in [material] if material.whole is None else [material, material.whole]:
        found = _by_id(answers.ids, base.ids)
        if found is not None:
            order = found if base is material else found[_places(base.ids, material.ids)]
            if (order < 0).any():
                missing = str(material.ids[np.flatnonzero(order < 0)[0]])
                raise UserError(
                    f"{name}: {counted(int((order < 0).sum()), 'example')} of {material.name} have no answer in it, "
                    f"first {missing[:60]!r}"
                )
            return answers.values[order]
    known = (material.whole or material).ids
    odd = next((str(i) for i in answers.ids if i not in set(known.tolist())), "")
    raise UserError(
        f"{name}: its id {odd[:60]!r} is none of {material.name}; {nearest(odd, known[:10_000].tolist())}"
    )


def _by_place(answers: Answers, material: Material, name: str) -> Floats:
    if len(answers) == material.n:
        return answers.values
    whole = material.whole
    if whole is not None and len(answers) == whole.n:
        return answers.values[_places(whole.ids, material.ids)]
    told = f"{material.n:,}" if whole is None else f"{material.n:,} of {whole.n:,}"
    raise UserError(
        f"{name}: has {len(answers):,} rows for {told} examples ({material.name}); an id column (called {IDS[0]}) "
        "says which is which"
    )


def _places(known: NDArray[np.str_], wanted: NDArray[np.str_]) -> Ints:
    """Where each of ``wanted`` stands among ``known``, which has it."""
    order = np.argsort(known)
    return order[np.searchsorted(known, wanted, sorter=order)]


def _by_id(own: NDArray[np.str_], known: NDArray[np.str_]) -> Ints | None:
    """(len(known),) the row of ``own`` that is of each known id, -1 for none; None where some of ``own`` are unknown."""
    for form in (str, lambda i: i.rpartition("/")[2], _stem, _number):
        mine, theirs = [form(i) for i in own.tolist()], [form(i) for i in known.tolist()]
        row = {i: k for k, i in enumerate(mine)}
        if len(row) == len(mine) and len(set(theirs)) == len(theirs) and set(theirs) >= row.keys():
            return np.array([row.get(i, -1) for i in theirs], np.int64)
    return None


def _stem(text: str) -> str:
    name = text.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _number(text: str) -> str:
    stem = _stem(text)
    return str(int(stem)) if stem.isascii() and stem.isdigit() else stem
