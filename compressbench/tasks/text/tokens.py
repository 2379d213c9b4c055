"""Tokens: texts as numbered pieces of words, by the ``tokenizers`` library. No tokenizer runs code."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressbench.errors import UserError, reason
from compressbench.paths import a_folder

PAD, UNKNOWN, BEGIN, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, BEGIN, END, MASK)
ENDS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>")
FILE = "tokenizer.json"
LARGEST = 64 << 20
"""Bytes of a tokenizer's file."""
MOST = 2**24
"""Ids of a tokenizer, whose highest sizes a net."""
CHUNK = 10_000


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as data.

    Attributes:
        json: what ``tokenizers`` writes and reads.
        pad: id that fills rows up.
    """

    json: str
    pad: int = 0

    @functools.cached_property
    def size(self) -> int:
        """One more than the highest id, so that each is below it also where ids have gaps."""
        return 1 + max(self._made.get_vocab().values(), default=-1)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The ids' own texts, in their order."""
        return tuple(self._made.id_to_token(k) or f"#{k}" for k in range(self.size))

    @functools.cached_property
    def end(self) -> int | None:
        """What texts end with, by the tokenizer's own rule or by name; None where nothing does."""
        (alone, _), *_ = self.encoded([""])
        if len(alone) > 1:
            return alone[-1]
        known = (self.id_of(name) for name in ENDS)
        return next((k for k in known if k is not None), None)

    def id_of(self, name: str) -> int | None:
        """The id of a token, None where there is no such token."""
        found: int | None = self._made.token_to_id(name)
        return found

    def text_of(self, ids: Sequence[int]) -> str:
        """The text that ids stand for, special tokens left out."""
        return str(self._made.decode(list(ids)))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256, 64 hex digits."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    @functools.cached_property
    def _made(self) -> Any:
        from tokenizers import Tokenizer as Made

        made = Made.from_str(self.json)
        made.no_padding()
        made.no_truncation()
        return made

    def bounded(self, longest: int) -> str:
        """The file's content for others: texts are cut at so many ids, and filled up to the longest of a batch."""
        from tokenizers import Tokenizer as Made

        made = Made.from_str(self.json)
        made.enable_truncation(longest, strategy="longest_first")
        token = made.id_to_token(self.pad)
        made.enable_padding(pad_id=self.pad, **({"pad_token": token} if token else {}))
        return str(made.to_str())

    def encoded(
        self, texts: Sequence[str], seconds: Sequence[str] | None = None, longest: int | None = None
    ) -> Iterator[tuple[list[int], list[int]]]:
        """(ids, segments) of each text or pair, special tokens included; segments are 1 in the second text.

        Args:
            longest: ids at most; of a pair the longer one is cut first.
        """
        for found in self._encodings(texts, seconds, longest):
            yield found.ids, found.type_ids

    def encoded_or_cut(
        self, texts: Sequence[str], seconds: Sequence[str] | None, longest: int
    ) -> Iterator[tuple[list[int], list[int], bool]]:
        """The same, and of each whether it was cut."""
        for found in self._encodings(texts, seconds, longest):
            yield found.ids, found.type_ids, len(found.ids) == longest and bool(found.overflowing)

    def _encodings(
        self, texts: Sequence[str], seconds: Sequence[str] | None, longest: int | None
    ) -> Iterator[Any]:
        made = self._made
        made.no_truncation()
        if longest is not None:
            made.enable_truncation(longest, strategy="longest_first")
        for start in range(0, len(texts), CHUNK):
            part: list[Any] = list(texts[start : start + CHUNK])
            if seconds is not None:
                part = list(zip(part, seconds[start : start + CHUNK], strict=True))
            with _one_line("dataset.task.tokenizer", "the tokenizer can't cut these texts"):
                found = made.encode_batch(part)
            yield from found


@contextlib.contextmanager
def _one_line(where: str, what: str) -> Iterator[None]:
    """What ``tokenizers`` raises as an error for users: plain exceptions, and Rust's panics, which are none of those."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # pyo3's PanicException can't be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{where}: {what} ({reason(error)})") from error


def trained(texts: Sequence[str], size: int, cased: bool = False) -> Tokenizer:
    """A byte-pair vocabulary of lower-cased bytes, so that no text holds what it doesn't know (Sennrich et al. 2016).

    Not WordPiece: what ``tokenizers`` 0.23 trains of it differs from run to run, and a vocabulary is part of every key.

    Args:
        size: ids at most, above 261: the special ones and the 256 bytes.
        cased: keeps capitals.

    Raises:
        UserError: ``size`` is too small.
    """
    from tokenizers import Tokenizer as Made
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    least = len(SPECIAL) + 256
    if not isinstance(size, int) or isinstance(size, bool) or size <= least:
        raise UserError(f"dataset.task: vocabulary is {size!r}, must be a number above {least}")
    made = Made(models.BPE())
    lower = [] if cased else [normalizers.Lowercase()]
    made.normalizer = normalizers.Sequence([normalizers.NFC(), *lower])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    ids = {name: made.token_to_id(name) for name in (BEGIN, END)}
    made.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        pair=f"{BEGIN} $A {END} $B:1 {END}:1",
        special_tokens=list(ids.items()),
    )
    return Tokenizer(made.to_str(), SPECIAL.index(PAD))


def of_folder(folder: str | Path) -> Tokenizer:
    """The tokenizer that a model's folder brings: its ``tokenizer.json``, which is read as data.

    Raises:
        UserError: there is none, or it can't be read as one.
    """
    from tokenizers import Tokenizer as Made

    path = a_folder(folder, "dataset.task.tokenizer") / FILE
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {FILE}; a model's folder with its fast tokenizer is wanted")
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 20} MB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read {path}: {error}") from error
    with _one_line(str(path), "is no tokenizer"):
        made = Made.from_str(text)
    padding = made.padding
    known = [made.token_to_id(name) for name in (PAD, "<pad>")]
    pad = padding["pad_id"] if padding else next((k for k in known if k is not None), 0)
    found = Tokenizer(text, int(pad))
    if not 0 < found.size <= MOST:
        raise UserError(f"{path}: its ids go up to {found.size - 1:,}; between 1 and {MOST:,} ids are read")
    with _one_line(str(path), "can't cut an empty text"):
        added = {*made.encode("").ids, *made.encode("", "").ids}
    if odd := next((k for k in sorted({found.pad, *added}) if k >= found.size), None):
        raise UserError(
            f"{path}: pads or ends texts with the id {odd:,}, and its tokens end at {found.size - 1:,}"
        )
    return found
