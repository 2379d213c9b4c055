"""Next-token prediction: of every token of a text but the first, how likely was it after those before it?"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compressbench.errors import UserError
from compressbench.ragged import Ragged
from compressbench.tasks.text import sequences
from compressbench.tasks.text.packing import TEXT, of_cut, unpacked
from compressbench.tasks.text.tokens import FILE, Tokenizer, of_folder, trained

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compressbench.data.examples import Examples
    from compressbench.inputs import Inputs
    from compressbench.outputs import Outputs
    from compressbench.tasks.task import NoSurface, Pieces, Placed
    from compressbench.views import View

LARGEST = 690.0
"""Nats a token whose perplexity can still be written."""
IDS, BYTES = "ids", "bytes"
LONGEST = 4096
BEGINNINGS = ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>")
"""What a text begins with where its tokenizer puts nothing before it."""


@dataclass(frozen=True)
class NextToken:
    """Prediction of each next token, a text an example (column ``text``).

    An example is ``[begin] a b c [end]``: the inputs are all tokens but the last, the labels all but the first, -1
    where there is none. Longer texts are cut.

    Attributes:
        tokenizer: as data; trained on the training split, or a model folder's.
        length: tokens that a model sees at most; one more is predicted than seen.
    """

    tokenizer: Tokenizer
    length: int = 64
    metric: str = "perplexity"
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    streams: bool = True
    noun: ClassVar[str] = "text"

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """Batches hold any number of texts, as long as the longest of them; so are the logits."""
        return dict.fromkeys((*self.inputs, "logits"), ("n", "tokens"))

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The tokens by their ids."""
        return self.tokenizer.names

    def prepared(self, examples: Examples) -> Examples:
        """Examples with the columns ``ids`` (int32, ragged: what is seen) and ``bytes`` (int64: UTF-8 bytes of the
        text, 0 of one that was cut), and labels int64 (n, length): the token after each, -1 where there is none.
        """
        texts = unpacked(examples[TEXT])
        begin = self._begin()
        seen, labels = [], np.full((len(texts), self.length), -1, np.int64)
        sizes = np.zeros(len(texts), np.int64)
        for row, (found, _) in enumerate(self.tokenizer.encoded(texts)):
            ids = np.array([*begin, *found], np.int32)
            whole, ids = len(ids) <= self.length + 1, ids[: self.length + 1]
            seen.append(ids[:-1] if len(ids) > 1 else ids)
            labels[row, : len(ids) - 1] = ids[1:]
            sizes[row] = len(texts[row].encode()) if whole else 0
        columns = {**examples.columns, IDS: Ragged.of(seen), BYTES: sizes}
        return replace(examples, columns=columns, labels=labels)

    def remarks(self, splits: Mapping[str, Examples]) -> tuple[str, ...]:
        """How many texts were cut, where any was."""
        cut = {
            name: (split[BYTES] == 0) & (np.diff(split[TEXT].starts) > 0) for name, split in splits.items()
        }
        return of_cut(cut, self.length)

    def _begin(self) -> tuple[int, ...]:
        """What is put before a text, where the tokenizer puts nothing there itself, and at most an end behind it."""
        (alone, _), *_ = self.tokenizer.encoded([""])
        if alone and alone[0] != self.tokenizer.end:
            return ()
        known = (self.tokenizer.id_of(name) for name in BEGINNINGS)
        return (next((k for k in known if k is not None), self.tokenizer.pad),)

    def beginning(self, text: str) -> list[int]:
        """The ids of a text that is to go on: without what the tokenizer ends texts with."""
        (found, _), *_ = self.tokenizer.encoded([text])
        ids = [*self._begin(), *found]
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.end else ids

    def lengths(self, examples: Examples) -> Tensor:
        """int64 (n,), tokens of each example that a model sees."""
        import torch

        return torch.as_tensor(examples[IDS].starts).diff()

    def encode(self, examples: Examples, variation: Inputs | None = None) -> Inputs:
        """``input_ids`` and ``attention_mask``, int64 (n, tokens of the longest); the mask is 1 where a token is."""
        ids, there = examples[IDS].padded(self.tokenizer.pad)
        return ids.long(), there.long()

    def varies(self) -> bool:
        """Never: texts are trained on as they are."""
        return False

    def variation(self, n: int, generator: torch.Generator) -> Inputs:
        """Nothing."""
        return ()

    def blank(self, n: int) -> Inputs:
        """Rows of padding, all looked at."""
        return sequences.blank(self.tokenizer, self.length, n)

    def drawn(self, n: int, generator: torch.Generator) -> Inputs:
        """Random tokens, of random lengths."""
        return sequences.drawn(self.tokenizer, self.length, n, generator)

    def placed(self, module: nn.Module) -> Placed:
        """As it is."""
        from compressbench.tasks.task import Placed

        return Placed(module, tuple)

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the batch's tokens, in nats.

        Args:
            labels: (n, at least as many as the logits), -1 where there is none.
        """
        return sequences.token_loss(outputs.logits, labels[:, : outputs.logits.shape[1]])

    def log_probs(self, outputs: Outputs, labels: Tensor) -> Pieces:
        """(tokens, vocabulary) log-probabilities, a piece a token that has a label."""
        return sequences.token_pieces(outputs.logits, labels[:, : outputs.logits.shape[1]])

    def answers(self, outputs: Outputs) -> Tensor:
        """(n, length) the likeliest next token at each place; -1 after the last and where a logit is no number."""
        import torch.nn.functional as F

        from compressbench.metrics import named

        logits = outputs.logits
        said = named(logits.flatten(0, 1)).view(logits.shape[:2])
        return F.pad(said, (0, self.length - said.shape[1]), value=-1)

    def right(self, answers: Tensor, labels: Tensor) -> Tensor:
        """(n,) bool, every next token was the likeliest."""
        return ((answers == labels) | (labels < 0)).all(1)

    def overall(self, view: View) -> float:
        """Perplexity over all tokens of the test split: e to the mean negative log-likelihood."""
        return math.exp(min(-float(view.told.likelihood.mean()), LARGEST))

    def surface(self, device: str = "cpu") -> NoSurface:
        """None that a pixel's attack could use."""
        return sequences.no_surface()

    def facts(self) -> Mapping[str, Any]:
        """``@classes``, ``@vocabulary``, ``@length``, ``@pad``; what a wrapped model asks for: ``@form`` and others."""
        shared = sequences.shared_facts(self.tokenizer, self.length, "causal", self.inputs)
        return {**shared, "@classes": self.tokenizer.size}

    def feeding(self) -> tuple[str, list[str]]:
        """Tokenized by the tokenizer beside the file; what the task puts before a text is put there too."""
        begin = list(self._begin())
        ids, mask = "f.ids", "f.attention_mask"
        if begin:
            ids, mask = f"{begin} + {ids}", f"{[1] * len(begin)} + {mask}"
        return f"Inputs `input_ids` and `attention_mask` int64 (n, up to {self.length}):", [
            "import numpy",
            "import tokenizers",
            "t = tokenizers.Tokenizer.from_file('tokenizer.json')",
            f"t.enable_truncation({self.length - len(begin)})",
            f"t.enable_padding(pad_id={self.tokenizer.pad})",
            "found = t.encode_batch(texts)",
            f"inputs = {{'input_ids': numpy.array([{ids} for f in found], 'int64'),",
            f"          'attention_mask': numpy.array([{mask} for f in found], 'int64')}}",
        ]

    def beside(self) -> Mapping[str, bytes]:
        """The tokenizer, as its library reads it; it cuts and fills up by itself."""
        return {FILE: self.tokenizer.bounded(self.length).encode()}

    def texts(self, examples: Examples) -> Mapping[str, list[str]]:
        """What a person reads of each example: ``text``."""
        return {TEXT: unpacked(examples[TEXT])}

    def in_words(self) -> str:
        """The most tokens."""
        return f"texts of up to {self.length} tokens"

    def identity(self) -> tuple[Any, ...]:
        """With the tokenizer's digest."""
        return ("next token", self.tokenizer.digest, self.tokenizer.pad, self.length)


def next_token(
    train: Examples,
    classes: tuple[str, ...],
    name: str = "dataset",
    length: int = 64,
    vocabulary: int = 8000,
    tokenizer: str | None = None,
) -> NextToken:
    """The task of predicting each next token of a data set's texts; their classes, if any, aren't asked for.

    Args:
        train: with a column ``text``.
        length: tokens that a model sees at most.
        vocabulary: how many ids are trained at most, on the training split.
        tokenizer: a folder with a ``tokenizer.json``, as models on the Hugging Face hub have it; null trains one.

    Raises:
        UserError: there are no texts, a setting is out of range, or the folder has no tokenizer.
    """
    if not isinstance(train.columns.get(TEXT), Ragged):
        raise UserError(f"dataset {name}: no texts; a text task needs the column {TEXT!r}")
    if type(length) is not int or not 2 <= length <= LONGEST:
        raise UserError(f"dataset.task: length is {length!r}, must be 2 to {LONGEST} tokens")
    if tokenizer is not None:
        return NextToken(of_folder(tokenizer), length)
    return NextToken(trained(unpacked(train[TEXT]), vocabulary), length)
