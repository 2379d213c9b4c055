"""Sets of texts: WordNet's definitions, which come with the package, GLUE's and others' files, a user's own tables.

A text is kept as its UTF-8 bytes, a row of a ragged column; what a model reads is made of it by the task.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressbench.data.dataset import Raw
from compressbench.data.examples import Examples
from compressbench.data.idx import EMBEDDED
from compressbench.data.published import Content, Published
from compressbench.data.splits import allocate, pick
from compressbench.data.tables import Table, column, named, read_table, text_of
from compressbench.errors import UserError
from compressbench.paths import given_path
from compressbench.tasks.text.packing import SECOND, TEXT, packed

KINDS = (
    "act", "animal", "artifact", "communication", "food", "location", "person", "plant", "state", "substance",
)  # fmt: skip
SENTIMENTS = ("negative", "positive")
RELATIONS = ("entailment", "neutral", "contradiction")
QUESTIONS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
NEWS = ("World", "Sports", "Business", "Sci/Tech")
GLOSSES = Published(
    name="glosses",
    licence="WordNet 3.0 licence, Princeton University 2006",
    files=(
        Content("small_train.tsv", "cef0da414dc4de1984872d2d502ac888", 1_011_151),
        Content("small_test.tsv", "18f43d897651268d88f2ed0fce337338", 204_592),
    ),
    folders=(str(EMBEDDED / "glosses"),),
)
UNLABELLED = "text"
"""The one class of texts without labels."""
MOST_GROUPS, LONGEST_GROUP = 1000, 200
"""How many sub-groups an attribute of a user's table may make, and the characters of a sub-group's name."""


def glosses() -> Raw:
    """Which of ten kinds of thing does a definition of WordNet's describe: 10,000 + 2,000; comes with the package.

    Attribute ``kind``: a hypernym, by which the frequent ones are sub-groups (ill health, municipality, fish …); those of
    fewer than 20 test definitions are one, ``other``.
    """
    tables = [_tsv(data.decode()) for _, data in GLOSSES.read("")]
    names, counts = np.unique(tables[1]["kind"], return_counts=True)
    frequent = set(names[counts >= 20].tolist())
    parts, kinds = [], []
    for table in tables:
        parts.append(examples(table["gloss"], _numbers(table["class"], KINDS, "glosses")))
        kinds.append(np.array([kind if kind in frequent else "other" for kind in table["kind"]]))
    return Raw(
        parts[0], parts[1], KINDS, GLOSSES.licence, {"train": {"kind": kinds[0]}, "test": {"kind": kinds[1]}}
    )


def examples(texts: Iterable[str], labels: np.ndarray, seconds: Iterable[str] | None = None) -> Examples:
    """Examples of one text, or of two."""
    columns = {TEXT: packed(texts)} if seconds is None else {TEXT: packed(texts), SECOND: packed(seconds)}
    return Examples.of(labels, None, **columns)


def sst2(data_dir: str) -> Raw:
    """SST-2 (Socher et al. 2013): is a sentence of a film review positive? GLUE's files, 67,349 + 872.

    ``train.tsv`` and ``dev.tsv`` (sentence, label) in ``data_dir/SST-2``, ``data_dir/sst2``, ``data_dir/text/sst2`` or
    ``data_dir``, plain, ``.gz`` or ``.xz``. The test split is GLUE's dev, whose labels are published.

    Raises:
        UserError: a file is missing or not as published.
    """
    folder = folder_of("sst2", data_dir, ("SST-2", "sst2", "text/sst2", ""), "train.tsv")
    parts = []
    for name in ("train.tsv", "dev.tsv"):
        path = file_of("sst2", folder, name)
        table = read_table(path)
        labels = _numbers(column(table, "label", path, "label"), ("0", "1"), str(path))
        parts.append(examples(column(table, "sentence", path, "sentence"), labels))
    return Raw(parts[0], parts[1], SENTIMENTS, "none stated; Socher et al. 2013")


def mnli(data_dir: str, test: str = "matched") -> Raw:
    """MNLI (Williams et al. 2018): does a premise entail a hypothesis? GLUE's files; attribute ``genre``.

    ``train.tsv`` and ``dev_matched.tsv`` or ``dev_mismatched*.tsv`` in ``data_dir/MNLI``, ``data_dir/mnli``,
    ``data_dir/text/mnli`` or ``data_dir``; columns premise or sentence1, hypothesis or sentence2, label or gold_label.

    Args:
        test: ``matched`` or ``mismatched``.

    Raises:
        UserError: a file is missing or not as published.
    """
    if test not in ("matched", "mismatched"):
        raise UserError(f"mnli: test is {test!r}, must be matched or mismatched")
    folder = folder_of("mnli", data_dir, ("MNLI", "mnli", "text/mnli", ""), "train.tsv")
    parts, genres = [], []
    for name in ("train.tsv", f"dev_{test}.tsv"):
        path = file_of("mnli", folder, name)
        table = read_table(path)
        found = [
            next((table[c] for c in names if c in table), None)
            for names in (("premise", "sentence1"), ("hypothesis", "sentence2"), ("gold_label", "label"))
        ]
        first, second, told = (
            column(table, names, path, "MNLI") if got is None else got
            for names, got in zip(("premise", "hypothesis", "label"), found, strict=True)
        )
        known = [i for i, label in enumerate(told) if label != "-"]  # on which the annotators didn't agree
        labels = _numbers([told[i] for i in known], RELATIONS, str(path))
        parts.append(examples((first[i] for i in known), labels, (second[i] for i in known)))
        genre = table.get("genre", [""] * len(told))
        genres.append(np.array([genre[i] or "not told" for i in known]))
    return Raw(parts[0], parts[1], RELATIONS, "OANC and others, free use; Williams et al. 2018",
               {"train": {"genre": genres[0]}, "test": {"genre": genres[1]}})  # fmt: skip


def trec(data_dir: str) -> Raw:
    """TREC (Li and Roth 2002): what does a question ask for, of six kinds? 5,452 + 500; attribute ``fine``, of fifty.

    ``train.tsv`` and ``test.tsv`` (question, label, fine_label), or the published ``train_5500.label`` and
    ``TREC_10.label``, in ``data_dir/trec``, ``data_dir/text/trec`` or ``data_dir``.

    Raises:
        UserError: a file is missing or not as published.
    """
    folders = ("trec", "TREC", "text/trec", "")
    published = folder_of("trec", data_dir, folders, "train_5500.label", needed=False)
    parts, fine = [], []
    if published is not None:
        for name in ("train_5500.label", "TREC_10.label"):
            path = file_of("trec", published, name)
            lines = text_of(path, "latin-1").splitlines()
            labels = [line.partition(" ")[0] for line in lines]
            parts.append(
                examples(
                    (line.partition(" ")[2] for line in lines),
                    _numbers([label.partition(":")[0] for label in labels], QUESTIONS, str(path)),
                )
            )
            fine.append(np.array(labels))
    else:
        folder = folder_of("trec", data_dir, folders, "train.tsv")
        for name in ("train.tsv", "test.tsv"):
            path = file_of("trec", folder, name)
            table = read_table(path)
            kinds = _numbers(column(table, "label", path, "label"), QUESTIONS, str(path))
            parts.append(examples(column(table, "question", path, "question"), kinds))
            fine.append(np.array(table.get("fine_label", [""] * len(kinds))))
    return Raw(parts[0], parts[1], QUESTIONS, "for research; Li and Roth 2002",
               {"train": {"fine": fine[0]}, "test": {"fine": fine[1]}})  # fmt: skip


def agnews(data_dir: str) -> Raw:
    """AG News (Zhang et al. 2015): of four kinds, which is a piece of news?

    ``train.csv`` and ``test.csv`` without a header (class 1 to 4, title, description), or ``train10k.tsv`` and
    ``test.tsv`` (text, label), in ``data_dir/ag_news_csv``, ``agnews``, ``text/agnews`` or ``data_dir`` itself.

    Raises:
        UserError: a file is missing or not as published.
    """
    folders = ("ag_news_csv", "agnews", "text/agnews", "")
    published = folder_of("agnews", data_dir, folders, "train.csv", needed=False)
    parts = []
    if published is not None:
        import csv

        for name in ("train.csv", "test.csv"):
            path = file_of("agnews", published, name)
            try:
                rows = list(csv.reader(io.StringIO(text_of(path), newline=None), strict=True))
            except csv.Error as error:
                raise UserError(f"dataset agnews: {path} is no CSV ({error})") from error
            odd = next((i for i, row in enumerate(rows, 1) if len(row) != 3), None)
            if odd is not None:
                raise UserError(f"{path}: row {odd} isn't class, title, description")
            labels = _numbers([row[0] for row in rows], ("1", "2", "3", "4"), str(path))
            parts.append(examples((f"{row[1]} {row[2]}" for row in rows), labels))
        return Raw(parts[0], parts[1], NEWS, "non-commercial; Zhang et al. 2015")
    folder = folder_of("agnews", data_dir, folders, "test.tsv")
    for name in ("train10k.tsv", "test.tsv"):
        path = file_of("agnews", folder, name)
        table = read_table(path)
        labels = _numbers(column(table, "label", path, "label"), NEWS, str(path))
        parts.append(examples(column(table, "text", path, "text"), labels))
    return Raw(parts[0], parts[1], NEWS, "non-commercial; Zhang et al. 2015")


def text_file(
    train: str | None = None,
    test: str | None = None,
    text: str = "text",
    second: str | None = None,
    label: str | None = "label",
    attributes: Sequence[str] = (),
    test_fraction: float | None = None,
    split_seed: int = 0,
    licence: str = "the user's own",
) -> Raw:
    """A user's own table: TSV, CSV or JSON lines (see ``tables.read_table``). Classes are the labels of train, sorted.

    Args:
        train, test: the files; ``train`` must be given.
        text, second, label: columns; ``second`` for pairs, ``label`` null where nobody asks for classes.
        attributes: columns by which probes group.
        test_fraction: without ``test``: the share of every class that becomes the test split.
        split_seed: which examples these are.

    Raises:
        UserError: a file or a column is missing, a row has no label, test has a label that train lacks, an
            attribute's values are no names of sub-groups, or a setting is wrong.
    """
    if train is None:
        raise UserError("text_file: train names no file; dataset.read.train=PATH.tsv, .csv or .jsonl")
    if (test is None) == (test_fraction is None):
        raise UserError("text_file: either test (a file) or test_fraction (a share of train) is wanted")
    paths = [given_path(p, f"text_file: {s}") for p, s in ((train, "train"), (test, "test")) if p is not None]
    tables = [read_table(path) for path in paths]
    told = [
        [UNLABELLED] * len(column(t, text, p, "text")) if label is None else column(t, label, p, "label")
        for t, p in zip(tables, paths, strict=True)
    ]
    for labels, path in zip(told, paths, strict=True):
        if "" in labels:
            raise UserError(
                f"{path}: row {labels.index('') + 1:,} has no label in {label!r} (the first row is 1)"
            )
    classes = tuple(sorted(set(told[0]), key=_in_order))
    if label is not None and len(classes) < 2:
        raise UserError(
            f"{paths[0]}: column {label!r} holds {len(classes)} different labels; two or more are wanted"
        )
    parts, kept = [], []
    for table, path, labels in zip(tables, paths, told, strict=True):
        seconds = column(table, second, path, "second") if second else None
        parts.append(
            examples(column(table, text, path, "text"), _numbers(labels, classes, str(path)), seconds)
        )
        kept.append({a: _attribute(column(table, a, path, "attributes"), a, path) for a in attributes})
    if test_fraction is None:
        return Raw(parts[0], parts[1], classes, licence, {"train": kept[0], "test": kept[1]})
    return _cut(parts[0], kept[0], classes, licence, test_fraction, split_seed)


def _cut(
    whole: Examples,
    attributes: Mapping[str, np.ndarray],
    classes: tuple[str, ...],
    licence: str,
    share: Any,
    seed: int,
) -> Raw:
    """A stratified share of a table as the test split."""
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share < 1:
        raise UserError(f"text_file: test_fraction is {share!r}, must be between 0 and 1")
    counts = np.bincount(whole.labels, minlength=len(classes))
    if counts.min() < 2:
        least = classes[int(counts.argmin())]
        raise UserError(f"text_file: class {least[:40]!r} has one example; test_fraction needs two of each")
    size = min(max(round(share * len(whole)), len(classes)), len(whole) - len(classes))
    chosen = pick(
        whole.labels, allocate(counts, size, counts * 0 + 1, counts - 1), np.random.RandomState(seed)
    )
    rest = np.setdiff1d(np.arange(len(whole)), chosen)
    return Raw(
        whole.take(rest), whole.take(chosen), classes, licence,
        {part: {a: v[rows] for a, v in attributes.items()} for part, rows in (("train", rest), ("test", chosen))},
    )  # fmt: skip


def _attribute(cells: Sequence[str], name: str, path: Path) -> np.ndarray:
    """(n,) names of sub-groups; the array is as wide as the longest name, so that texts would fill the memory.

    Raises:
        UserError: these are no names of sub-groups: too many, or too long.
    """
    known = set(cells)
    if len(known) > MOST_GROUPS or max(map(len, known), default=0) > LONGEST_GROUP:
        raise UserError(
            f"{path}: column {name!r} (attributes) makes no groups: {len(known):,} different texts of up to "
            f"{max(map(len, known)):,} characters; {MOST_GROUPS:,} of {LONGEST_GROUP} are the most"
        )
    return np.array(list(cells))


def _in_order(label: str) -> tuple[int, float, str]:
    """Numbers by size, before words; what is not finite, as ``nan``, is a word."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)


def _numbers(labels: Sequence[str], classes: Sequence[str], where: str) -> np.ndarray:
    """(n,) int64.

    Raises:
        UserError: a label is none of the classes.
    """
    places = {name: k for k, name in enumerate(classes)}
    odd = next((label for label in labels if label not in places), None)
    if odd is not None:
        raise UserError(f"{where}: label {odd[:40]!r} is none of the classes: {named(classes, 8)}")
    return np.array([places[label] for label in labels], np.int64)


def _tsv(text: str) -> Table:
    names, *rows = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    return {name: list(cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)}


def folder_of(
    name: str, data_dir: str, folders: Sequence[str], file: str, needed: bool = True
) -> Path | None:
    """The first of some folders that holds a file, plain or compressed.

    Raises:
        UserError: none does.
    """
    places = [given_path(data_dir, "data_dir") / folder for folder in folders]
    for place in places:
        if any((place / f"{file}{suffix}").is_file() for suffix in ("", ".gz", ".xz")):
            return place
    if not needed:
        return None
    raise UserError(
        f"dataset {name} not found: no {file} in {', '.join(map(str, places))}; data_dir=FOLDER says where it is"
    )


def file_of(name: str, folder: Path | None, file: str) -> Path:
    """A file of a set, plain or compressed; of MNLI's mismatched dev there is a shorter one, ``_1000``."""
    assert folder is not None
    stem, _, suffix = file.rpartition(".")
    for told in (file, f"{stem}_1000.{suffix}"):
        for end in ("", ".gz", ".xz"):
            if (folder / f"{told}{end}").is_file():
                return folder / f"{told}{end}"
    raise UserError(f"dataset {name}: {folder / file} is missing")
