"""Translation: a target's tokens, each after the source and the target's tokens before it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compressbench.errors import UserError
from compressbench.ragged import Ragged
from compressbench.tasks.text import sequences
from compressbench.tasks.text.packing import TARGET, TEXT, of_cut, unpacked
from compressbench.tasks.text.tokens import BEGIN, FILE, Tokenizer, of_folder, trained

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compressbench.data.examples import Examples
    from compressbench.inputs import Inputs
    from compressbench.outputs import Outputs
    from compressbench.tasks.task import NoSurface, Pieces, Placed
    from compressbench.views import View

IDS, TARGET_IDS, CUT = "ids", "target_ids", "cut"
LONGEST = 1024
BEGINNINGS = (BEGIN, "<s>", "<bos>")
"""What a tokenizer may put before a text."""


@dataclass(frozen=True)
class Translation:
    """Translation of texts (column ``text``) into others (``target``), in tokens of one vocabulary for both.

    An example's target is ``[begin] a b c [end]``: the decoder sees all but the last, the labels are all but the first.
    Likelihoods and ``answers`` are under teacher forcing, each token after the target's own; ``said`` is decoded.

    Attributes:
        tokenizer: as data, trained on the training split.
        length: tokens of a source and of a target, special ones included; longer ones are cut (column ``cut``).
        beyond: how many more tokens than its source a translation may have.
        first: the token that the decoder is given first; empty for what the tokenizer puts before a text, or padding.
    """

    tokenizer: Tokenizer
    length: int = 64
    beyond: int = 20
    first: str = ""
    metric: str = "bleu"
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "decoder_input_ids")
    streams: bool = True
    noun: ClassVar[str] = "sentence"

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The tokens by their ids."""
        return self.tokenizer.names

    @functools.cached_property
    def begin(self) -> int:
        """The id that the decoder is given first."""
        known = (self.tokenizer.id_of(name) for name in ((self.first,) if self.first else BEGINNINGS))
        return next((k for k in known if k is not None), self.tokenizer.pad)

    @functools.cached_property
    def end(self) -> int:
        """The id that every text ends with."""
        found = self.tokenizer.end
        assert found is not None
        return found

    def prepared(self, examples: Examples) -> Examples:
        """Examples with tokens of their two texts, made anew where they were there.

        Columns ``ids`` and ``target_ids`` (int32, ragged, specials included) and ``cut`` (uint8, 1 where a text was);
        labels int64 (n, length - 1): the target's tokens and the end, -1 after it.
        """
        found = {name: self.numbered(unpacked(examples[name])) for name in (TEXT, TARGET)}
        labels = np.full((len(examples), self.length - 1), -1, np.int64)
        targets = [self._begun(ids) for ids in found[TARGET][0]]
        for row, ids in zip(labels, targets, strict=True):
            row[: len(ids) - 1] = ids[1:]
        columns = {
            **examples.columns,
            IDS: Ragged.of(found[TEXT][0]),
            TARGET_IDS: Ragged.of(targets),
            CUT: (found[TEXT][1] | found[TARGET][1]).astype(np.uint8),
        }
        return replace(examples, columns=columns, labels=labels)

    def numbered(self, texts: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Each text's tokens, int32, the end the last; and (n,) bool, which were cut to fit."""
        rows, cut, most = [], np.zeros(len(texts), bool), self._most
        for place, (found, _) in enumerate(self.tokenizer.encoded(texts)):
            ids = found if found and found[-1] == self.end else [*found, self.end]
            cut[place] = len(ids) > most
            rows.append(np.array([*ids[: most - 1], self.end] if cut[place] else ids, np.int32))
        return rows, cut

    @property
    def _most(self) -> int:
        """Tokens of a text at most, what the decoder is given first left out."""
        return self.length - (not self._begins)

    @functools.cached_property
    def _begins(self) -> bool:
        """Whether texts begin with what the decoder is given first."""
        (alone, _), *_ = self.tokenizer.encoded([""])
        return alone[:1] == [self.begin]

    def _begun(self, ids: np.ndarray) -> np.ndarray:
        return ids if self._begins else np.concatenate(([self.begin], ids)).astype(np.int32)

    def spelled(self, said: Tensor) -> list[str]:
        """The texts that rows of tokens (n, places) stand for, up to the end or a -1."""
        found = []
        for row in said.tolist():
            stop = next((k for k, token in enumerate(row) if token in (self.end, -1)), len(row))
            found.append(self.tokenizer.text_of(row[:stop]).strip())
        return found

    def texts(self, examples: Examples) -> Mapping[str, list[str]]:
        """What a person reads of each example: ``text`` and ``target``."""
        return {name: unpacked(examples[name]) for name in (TEXT, TARGET)}

    def remarks(self, splits: Mapping[str, Examples]) -> tuple[str, ...]:
        """How many pairs were cut, where any was."""
        return of_cut({name: split[CUT] for name, split in splits.items()}, self.length, "pairs")

    def encode(self, examples: Examples, variation: Inputs | None = None) -> Inputs:
        """int64: ``input_ids``, ``attention_mask`` (1 where a token is), ``decoder_input_ids``, each (n, tokens).

        As many tokens as the longest of the examples has; what the decoder sees of the target, its end left out.
        """
        ids, there = examples[IDS].padded(self.tokenizer.pad)
        target, _ = examples[TARGET_IDS].padded(self.tokenizer.pad)
        return ids.long(), there.long(), target[:, :-1].long()

    def lengths(self, examples: Examples) -> Tensor:
        """int64 (n,), tokens of source and target together."""
        import torch

        return sum(torch.as_tensor(examples[name].starts).diff() for name in (IDS, TARGET_IDS))  # type: ignore[return-value]

    def varies(self) -> bool:
        """Never: texts are trained on as they are."""
        return False

    def variation(self, n: int, generator: torch.Generator) -> Inputs:
        """Nothing."""
        return ()

    def blank(self, n: int) -> Inputs:
        """Rows of padding of the full length, all looked at."""
        ids, mask = sequences.blank(self.tokenizer, self.length, n)
        return ids, mask, ids[:, :-1].clone()

    def drawn(self, n: int, generator: torch.Generator) -> Inputs:
        """Random tokens, of random lengths."""
        import torch

        ids, target = (
            torch.randint(0, self.tokenizer.size, (n, width), generator=generator)
            for width in (self.length, self.length - 1)
        )
        lengths = torch.randint(1, self.length + 1, (n, 1), generator=generator)
        there = torch.arange(self.length) < lengths
        return ids.masked_fill(~there, self.tokenizer.pad), there.long(), target

    def placed(self, module: nn.Module) -> Placed:
        """As it is."""
        from compressbench.tasks.task import Placed

        return Placed(module, tuple)

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the batch's tokens, in nats.

        Raises:
            UserError: the logits are no sentence's.
        """
        return sequences.token_loss(*_matched(outputs, labels))

    def log_probs(self, outputs: Outputs, labels: Tensor) -> Pieces:
        """(tokens, vocabulary) log-probabilities under teacher forcing, a piece a token of the target."""
        return sequences.token_pieces(*_matched(outputs, labels))

    def answers(self, outputs: Outputs) -> Tensor:
        """(n, places) the likeliest token at each place under teacher forcing; -1 where a logit is no number."""
        from compressbench.metrics import named

        logits = outputs.logits
        return named(logits.flatten(0, -2)).view(logits.shape[:-1])

    def said(self, module: nn.Module, inputs: Inputs, beam: int = 1, alpha: float = 0.6) -> Tensor:
        """(n, places) what is decoded, the end among the tokens, -1 after it; greedily, or by beam search.

        Args:
            module: in evaluation mode.
            inputs: as ``encode`` gives them; of the target nothing is looked at.
            beam: how many beginnings are kept.
            alpha: of beam search, see ``decoding.penalty``.

        Raises:
            UserError: a beam is asked of a net that says all tokens at once.
        """
        import torch

        from compressbench.tasks.text.decoding import beam_search, greedy, steps_of

        source, mask, _ = inputs
        limits = (mask.sum(dim=1) + self.beyond).clamp(max=self.length - 1)
        at_once = getattr(module, "at_once", None)  # see models.nat
        if at_once is not None:
            if beam != 1:
                raise UserError(
                    f"beam {beam}: the model says all tokens at once and keeps no beginnings; 1 is right"
                )
            with torch.no_grad():
                found: Tensor = at_once(source, mask, limits)
            return found
        steps = steps_of(module)
        with torch.no_grad():
            if beam == 1:
                return greedy(steps, (source, mask), self.begin, self.end, limits)
            return beam_search(steps, (source, mask), self.begin, self.end, limits, beam, alpha)

    def right(self, answers: Tensor, labels: Tensor) -> Tensor:
        """(n,) bool, every token up to the end is the target's own."""
        import torch.nn.functional as F

        wide = max(answers.shape[1], labels.shape[1])
        said, wanted = (F.pad(x, (0, wide - x.shape[1]), value=-1) for x in (answers, labels))
        return ((said == wanted) | (wanted < 0)).all(dim=1)

    def overall(self, view: View) -> float:
        """BLEU of what is said greedily of the test split."""
        from compressbench.tasks.text.bleu import bleu_of

        wanted = unpacked(view.bench.dataset.split("test")[TARGET])
        return bleu_of(self.spelled(view.answers), wanted).score

    def surface(self, device: str = "cpu") -> NoSurface:
        """None that a pixel's attack could use."""
        return sequences.no_surface()

    def facts(self) -> Mapping[str, Any]:
        """``@vocabulary`` (and ``@classes``), ``@length``, ``@pad``, ``@begin``, ``@end``; for ``model=hf`` more."""
        shared = sequences.shared_facts(self.tokenizer, self.length, "seq2seq", self.inputs)
        return {**shared, "@classes": self.tokenizer.size, "@begin": self.begin, "@end": self.end}

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """Batches differ in the tokens of the source and of the target."""
        source, target = ("n", "tokens"), ("n", "target tokens")
        return {
            "input_ids": source,
            "attention_mask": source,
            "decoder_input_ids": target,
            "logits": target,
        }

    def feeding(self) -> tuple[str, list[str]]:
        """Tokens of the sources, cut as ``numbered`` does; the decoder's come one by one, see ``decoding``."""
        most, pad = self._most, self.tokenizer.pad
        told = "Inputs `input_ids`, `attention_mask` (of `texts`, strings), `decoder_input_ids` (what is said so far)"
        return f"{told}, int64 (n, tokens):", [
            "import numpy",
            "import tokenizers",
            "t = tokenizers.Tokenizer.from_file('tokenizer.json')",
            "t.no_truncation()",
            "t.no_padding()",
            f"end, most = {self.end}, {most}",
            "rows = [f.ids if f.ids[-1:] == [end] else [*f.ids, end] for f in t.encode_batch(texts)]",
            "rows = [row if len(row) <= most else [*row[: most - 1], end] for row in rows]",
            "wide = max(map(len, rows))",
            f"ids = [row + [{pad}] * (wide - len(row)) for row in rows]",
            "there = [[1] * len(row) + [0] * (wide - len(row)) for row in rows]",
            "inputs = {'input_ids': numpy.array(ids, 'int64'), 'attention_mask': numpy.array(there, 'int64')}",
        ]

    def decoding(self) -> list[str]:
        """Greedily, all so far asked again for each token; see ``said``."""
        return [
            f"said = numpy.full((len(texts), 1), {self.begin}, 'int64')",
            f"limits = numpy.minimum(inputs['attention_mask'].sum(1) + {self.beyond}, {self.length - 1})",
            "while said.shape[1] <= limits.max() and not (said[:, 1:] == end).any(1).all():",
            "    logits = logits_of({**inputs, 'decoder_input_ids': said})",
            "    said = numpy.concatenate([said, logits[:, -1:].argmax(-1)], axis=1)",
            "said = [row[:limit] for row, limit in zip(said[:, 1:].tolist(), limits)]",
            "said = [t.decode(row[: row.index(end)] if end in row else row).strip() for row in said]",
        ]

    def beside(self) -> Mapping[str, bytes]:
        """The tokenizer, as its library reads it."""
        return {FILE: self.tokenizer.json.encode()}

    def in_words(self) -> str:
        """The most tokens."""
        return f"pairs of sentences of up to {self.length} tokens each"

    def identity(self) -> tuple[Any, ...]:
        """With the tokenizer's digest."""
        return (
            "translation",
            self.tokenizer.digest,
            self.tokenizer.pad,
            self.length,
            self.beyond,
            self.begin,
        )


def _matched(outputs: Outputs, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, places, vocabulary) and the labels of those places."""
    logits = outputs.logits
    if logits.ndim != 3:
        raise UserError(
            f"the model gives logits of shape {tuple(logits.shape)}; a translation needs (n, tokens, vocabulary), as "
            "model=translator gives them"
        )
    return logits, labels[:, : logits.shape[1]]


def translation(
    train: Examples,
    classes: tuple[str, ...],
    name: str = "dataset",
    length: int = 64,
    vocabulary: int = 8000,
    cased: bool = True,
    beyond: int = 20,
    tokenizer: str | None = None,
    first: str | None = None,
) -> Translation:
    """The task of a data set of sentence pairs; one vocabulary for both languages, trained on the training split.

    Args:
        train: with the columns ``text`` and ``target``.
        length: tokens of a source and of a target at most, special ones included.
        vocabulary: how many ids are trained at most.
        cased: keeps capitals, which BLEU asks for and German nouns have.
        beyond: how many more tokens than its source a translation may have.
        tokenizer: a folder with a ``tokenizer.json``, as models on the Hugging Face hub have it; null trains one.
        first: the token that the decoder is given first, as the model was trained (T5's is ``<pad>``, BART's ``</s>``);
            null for what the tokenizer puts before a text, or else its padding.

    Raises:
        UserError: there are no sentence pairs, a setting is out of range, or the folder has no tokenizer that will do.
    """
    for column in (TEXT, TARGET):
        if not isinstance(train.columns.get(column), Ragged):
            raise UserError(
                f"dataset {name}: no sentence pairs; a translation needs the columns {TEXT!r} and {TARGET!r}"
            )
    if type(length) is not int or not 4 <= length <= LONGEST:
        raise UserError(f"dataset.task: length is {length!r}, must be 4 to {LONGEST} tokens")
    if type(beyond) is not int or beyond < 1:
        raise UserError(f"dataset.task: beyond is {beyond!r}, must be 1 or more tokens")
    if tokenizer is not None:
        own = of_folder(tokenizer)
        if first is not None and own.id_of(first) is None:
            raise UserError(f"dataset.task: first is {first!r}, which is no token of {tokenizer}")
        if own.end is None:
            raise UserError(f"dataset.task: {tokenizer}: its tokenizer has no token that ends a text")
        return Translation(own, length, beyond, first or "")
    texts = [text for column in (TEXT, TARGET) for text in unpacked(train[column])]
    return Translation(trained(texts, vocabulary, cased), length, beyond)
