"""Words that can stand for each other: WordNet's, which come with the package."""

from __future__ import annotations

import functools

from compressbench.data.idx import EMBEDDED
from compressbench.data.published import Content, Published
from compressbench.tasks.text.words import Synonyms

WORDNET = Published(
    name="synonyms",
    licence="WordNet 3.0 licence, Princeton University 2006",
    files=(Content("wordnet30_synonyms.tsv", "c4cafad0832c2a6a4f0ffa58c6a9f9bf", 1_926_481),),
    folders=(str(EMBEDDED / "synonyms"),),
)


@functools.cache
def wordnet() -> Synonyms:
    """WordNet 3.0's synonyms of single words: 52,803 words by part of speech, of their six most frequent senses.

    Nouns n, verbs v, adjectives a, adverbs r; words of the most frequent senses come first.

    Raises:
        UserError: the file that came with the package is missing or damaged.
    """
    ((_, data),) = WORDNET.read("")
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for line in data.decode().splitlines():
        word, part, others = line.split("\t")
        found.setdefault(word, {})[part] = tuple(others.split(" "))
    return found
