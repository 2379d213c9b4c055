"""Sets of sentence pairs, a source and its translation: Multi30k, a user's own files, and phrases made up here.

Both columns hold UTF-8 bytes (see ``data.texts``). There are no labels before the task has made tokens of the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressbench.data.dataset import Raw
from compressbench.data.examples import Examples
from compressbench.data.tables import column, read_table, text_of
from compressbench.data.texts import file_of, folder_of
from compressbench.errors import UserError
from compressbench.paths import given_path
from compressbench.tasks.text.packing import TARGET, TEXT, packed

TESTS = ("2016_flickr", "2017_flickr", "2017_mscoco", "2018_flickr")
TABLES = (".tsv", ".csv", ".jsonl")


def pairs(sources: Sequence[str], targets: Sequence[str]) -> Examples:
    """Examples of a source and a target each; labels (n, 1), -1: not known before there are tokens."""
    nothing = np.full((len(sources), 1), -1, np.int64)
    return Examples({TEXT: packed(sources), TARGET: packed(targets)}, nothing, np.arange(len(sources)))


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, plain, ``.gz`` or ``.xz``; an empty line is an empty text.

    Only a line feed ends a line: the other characters that end one in Python's sense are found within sentences.

    Raises:
        UserError: it can't be read.
    """
    text = text_of(path)
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def multi30k(data_dir: str, source: str = "en", target: str = "de", test: str = "2016_flickr") -> Raw:
    """Multi30k (Elliott et al. 2016): captions of pictures, English and German, 29,000 + 1,014 + 1,000.

    ``train``, ``val`` and ``test_…``, each ``.en`` and ``.de``, one sentence a line, plain, ``.gz`` or ``.xz``, in
    ``data_dir/multi30k``, ``data_dir/text/multi30k`` or ``data_dir``. Validation is the published ``val``.

    Args:
        source, target: languages, by the files' endings.
        test: ``2016_flickr``, ``2017_flickr``, ``2017_mscoco`` or ``2018_flickr``.

    Raises:
        UserError: a file is missing, or the two of a split don't have as many lines.
    """
    if test not in TESTS:
        raise UserError(f"multi30k: test is {test!r}, must be one of {', '.join(TESTS)}")
    folder = folder_of("multi30k", data_dir, ("multi30k", "text/multi30k", ""), f"train.{source}")
    train, validation, held = (
        _aligned(*(file_of("multi30k", folder, f"{part}.{language}") for language in (source, target)))
        for part in ("train", "val", f"test_{test}")
    )
    licence = "non-commercial research and education; Elliott et al. 2016"
    return Raw(train, held, (), licence, validation=validation)


def parallel_file(
    train: str | None = None,
    test: str | None = None,
    train_target: str | None = None,
    test_target: str | None = None,
    text: str = "text",
    target: str = TARGET,
    test_fraction: float | None = None,
    split_seed: int = 0,
    licence: str = "the user's own",
) -> Raw:
    """A user's own sentence pairs: two files of as many lines, or one table (TSV, CSV, JSON lines) of two columns.

    Args:
        train, test: sources, one a line, or tables; ``train`` must be given.
        train_target, test_target: their translations, one a line; null where ``train`` and ``test`` are tables.
        text, target: columns of a table.
        test_fraction: without ``test``: the share of the pairs that becomes the test split.
        split_seed: which these are.

    Raises:
        UserError: a file or a column is missing, two files have unlike numbers of lines, or a setting is wrong.
    """
    if train is None:
        raise UserError("parallel_file: train names no file; dataset.read.train=PATH")
    if (test is None) == (test_fraction is None):
        raise UserError("parallel_file: either test (a file) or test_fraction (a share of train) is wanted")
    if test is None and test_target is not None:
        raise UserError("parallel_file: test_target without test")
    found = [_of_file("train", train, train_target, text, target)]
    if test is not None:
        return Raw(found[0], _of_file("test", test, test_target, text, target), (), licence)
    if (
        not isinstance(test_fraction, int | float)
        or isinstance(test_fraction, bool)
        or not 0 < test_fraction < 1
    ):
        raise UserError(f"parallel_file: test_fraction is {test_fraction!r}, must be between 0 and 1")
    whole = found[0]
    if len(whole) < 2:
        raise UserError(f"{train}: {len(whole)} sentence pairs; test_fraction needs two or more")
    size = min(max(round(test_fraction * len(whole)), 1), len(whole) - 1)
    held = np.sort(np.random.RandomState(split_seed).permutation(len(whole))[:size])
    return Raw(whole.take(np.setdiff1d(np.arange(len(whole)), held)), whole.take(held), (), licence)


def _of_file(setting: str, path: str, other: str | None, text: str, target: str) -> Examples:
    place = given_path(path, f"parallel_file: {setting}")
    if other is not None:
        return _aligned(place, given_path(other, f"parallel_file: {setting}_target"))
    if not any(place.name.endswith((form, f"{form}.gz", f"{form}.xz")) for form in TABLES):
        raise UserError(
            f"parallel_file: {place} is no table by its name ({', '.join(TABLES)}); its translations, one a line, are "
            f"wanted as {setting}_target"
        )
    table = read_table(place)
    return pairs(column(table, text, place, "text"), column(table, target, place, "target"))


def _aligned(one: Path, other: Path) -> Examples:
    """Two files, line by line.

    Raises:
        UserError: they have unlike numbers of lines, or none.
    """
    sources, targets = lines_of(one), lines_of(other)
    if len(sources) != len(targets):
        raise UserError(
            f"{one} has {len(sources):,} lines, {other} {len(targets):,}; one each is wanted, in order"
        )
    if not sources:
        raise UserError(f"{one} and {other} are empty")
    return pairs(sources, targets)


NOUNS = (
    ("dog", "Hund", 0), ("cat", "Katze", 1), ("house", "Haus", 2), ("tree", "Baum", 0), ("bird", "Vogel", 0),
    ("child", "Kind", 2), ("woman", "Frau", 1), ("man", "Mann", 0), ("flower", "Blume", 1), ("horse", "Pferd", 2),
)  # fmt: skip
ADJECTIVES = (
    ("old", "alt"), ("small", "klein"), ("red", "rot"), ("new", "neu"), ("beautiful", "schön"), ("quiet", "still"),
)  # fmt: skip
VERBS = (("sees", "sieht"), ("finds", "findet"), ("seeks", "sucht"), ("paints", "malt"), ("loves", "liebt"))
TIMES = (("", ""), ("today", "heute"), ("again", "wieder"), ("in the morning", "am Morgen"))
SUBJECT = (("der", "die", "das"), ("ein", "eine", "ein"))
OBJECT = (("den", "die", "das"), ("einen", "eine", "ein"))
ENDINGS = {"der": "e", "die": "e", "das": "e", "ein": "", "eine": "e", "den": "en", "einen": "en"}


def phrases(train: int = 2000, test: int = 200, seed: int = 0) -> Raw:
    """Made up here: English clauses and German ones of a small grammar. No training pair is in test.

    Article and adjective agree with the German noun's gender and case, and an adverb of time comes before the subject
    and turns the verb round it, so that no translation word by word is right.

    Args:
        train, test: how many pairs.
        seed: which.

    Raises:
        UserError: more than the grammar yields.
    """
    sizes = (2, len(ADJECTIVES) + 1, len(NOUNS), len(VERBS), 2, len(ADJECTIVES) + 1, len(NOUNS), len(TIMES))
    total = int(np.prod(sizes))
    if not all(type(n) is int and n > 0 for n in (train, test)) or train + test > total:
        raise UserError(f"phrases: train {train!r} and test {test!r}; together 2 to {total:,} are to be had")
    chosen = np.random.RandomState(seed).permutation(total)[: train + test]
    made = [_phrase(*(int(part) for part in np.unravel_index(place, sizes))) for place in chosen]
    first, second = (
        pairs([a for a, _ in part], [b for _, b in part]) for part in (made[:train], made[train:])
    )
    return Raw(first, second, (), "made up here")


def _phrase(
    which: int, first: int, subject: int, verb: int, other: int, second: int, thing: int, time: int
) -> Any:
    def noun(place: int, adjective: int, article: int, cases: Any) -> tuple[str, str]:
        english, german, gender = NOUNS[place]
        told = cases[article][gender]
        old, new = ADJECTIVES[adjective - 1] if adjective else ("", "")
        if new:
            new += ENDINGS[told] or ("er" if gender == 0 else "es")
        before = ("the", "an" if (old or english)[0] in "aeiou" else "a")[article]
        return _joined(before, old, english), _joined(told, new, german)

    who, what = noun(subject, first, which, SUBJECT), noun(thing, second, other, OBJECT)
    does, when = VERBS[verb], TIMES[time]
    german = (when[1], does[1], who[1], what[1]) if when[1] else (who[1], does[1], what[1])
    english = (when[0], who[0], does[0], what[0])
    return tuple(f"{t[0].upper()}{t[1:]}." for t in (_joined(*english), _joined(*german)))


def _joined(*words: str) -> str:
    return " ".join(filter(None, words))
