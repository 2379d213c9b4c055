"""Reading: how texts become the numbers that a model is called with; what pictures have in ``preparation``."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.artefacts.artefact import Input, Wanted
from compressbench.errors import UserError

if TYPE_CHECKING:
    from compressbench.tasks.text.tokens import Tokenizer

IDS, MASK, KINDS = "input_ids", "attention_mask", "token_type_ids"
SETTINGS = "tokenizer_config.json"
UNBOUNDED = 100_000
"""A longest input above this is none: transformers writes 10^30 where there is no bound."""


@dataclass(frozen=True)
class Reading:
    """A tokenizer and what is made of its tokens.

    Attributes:
        tokenizer: as data.
        longest: tokens of an example, special ones included; longer ones are cut. None: never.
        width: tokens that every example is filled up to; None: as many as the longest of a batch has.
        names: of the inputs, in the order in which they are given.
    """

    tokenizer: Tokenizer
    longest: int | None = None
    width: int | None = None
    names: tuple[str, ...] = (IDS, MASK)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What is given."""
        return tuple(Input(name, (None, self.width), "int64") for name in self.names)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all that it does."""
        told = (self.tokenizer.digest, self.tokenizer.pad, self.longest, self.width, self.names)
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def apply(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """{name: int64 (texts, tokens)}."""
        found = list(self.tokenizer.encoded(texts, seconds, self.longest))
        width = self.width or max((len(ids) for ids, _ in found), default=1)
        ids = np.full((len(found), width), self.tokenizer.pad, np.int64)
        mask, kinds = np.zeros_like(ids), np.zeros_like(ids)
        for row, (own, kind) in enumerate(found):
            count = min(len(own), width)
            ids[row, :count], mask[row, :count], kinds[row, :count] = own[:count], 1, kind[:count]
        made = {IDS: ids, MASK: mask, KINDS: kinds}
        return {name: made[name] for name in self.names}

    def fitted(self, wants: Wanted) -> Reading:
        """The same, giving what an artefact takes, as long as it takes it."""
        known = {i.name: i for i in wants.inputs}
        names = tuple(name for name in (IDS, MASK, KINDS) if name in known) or self.names
        shape = known[names[0]].shape if names[0] in known else ()
        width = shape[1] if len(shape) == 2 else None
        longest = self.longest if width is None else min(width, self.longest or width)
        return dataclasses.replace(self, names=names, width=width or self.width, longest=longest)

    def in_words(self) -> str:
        """What is done to a text."""
        cut = f", cut at {self.longest}" if self.longest else ""
        filled = f", filled up to {self.width}" if self.width else ""
        return f"{self.tokenizer.size:,} kinds of tokens{cut}{filled}"


def of_task(task: Any) -> Reading | None:
    """A task's own, of texts or pairs that are classified; None of another task."""
    from compressbench.tasks.text.classification import TextClassification

    if not isinstance(task, TextClassification):
        return None
    return Reading(task.tokenizer, task.length, names=task.inputs)


def of_folder(folder: Path, most: int | None = None) -> Reading | None:
    """That of the ``tokenizer.json`` in a folder; None where there is none.

    Texts are cut where that file says, or where ``tokenizer_config.json`` says that the model's inputs end.

    Args:
        most: tokens that the model can take, where that is known.

    Raises:
        UserError: it can't be read.
    """
    from compressbench.files import a_file, json_of
    from compressbench.tasks.text.tokens import FILE
    from compressbench.tasks.text.tokens import of_folder as tokenizer_of

    if not (folder / FILE).is_file():
        return None
    a_file(folder / FILE)
    tokenizer = tokenizer_of(folder)
    told = json.loads(tokenizer.json).get("truncation") or {}
    settings = json_of(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    bounds = [told.get("max_length"), settings.get("model_max_length"), most]
    known = [b for b in bounds if isinstance(b, int) and not isinstance(b, bool) and 0 < b <= UNBOUNDED]
    return Reading(tokenizer, min(known, default=None))


def wanted_by(artefact: Any, otherwise: Reading | None) -> Reading:
    """How texts are read for an artefact: as itself says, else as the data's own models do.

    Raises:
        UserError: neither is known.
    """
    own = getattr(artefact, "reading", None) or otherwise
    if own is None:
        raise UserError(
            f"{artefact.name}: how texts become its inputs isn't known: no tokenizer.json lies beside it; put its own "
            "there, or name a data set (dataset=NAME) on whose tokens it was trained"
        )
    return own.fitted(artefact.wants)
