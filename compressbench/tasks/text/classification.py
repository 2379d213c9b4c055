"""Classification of texts and of pairs of texts: one label each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compressbench.errors import UserError, nearest
from compressbench.ragged import Ragged
from compressbench.tasks.text import sequences
from compressbench.tasks.text.packing import SECOND, TEXT, of_cut, unpacked
from compressbench.tasks.text.tokens import FILE, Tokenizer, of_folder, trained

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compressbench.data.examples import Examples
    from compressbench.inputs import Inputs
    from compressbench.outputs import Outputs
    from compressbench.tasks.task import NoSurface, Pieces, Placed

IDS, SEGMENTS, CUT = "ids", "segments", "cut"
LONGER = ("cut", "refuse")
LONGEST = 4096


@dataclass(frozen=True)
class TextClassification:
    """Single-label classification of texts (column ``text``) or pairs (and ``second``), in tokens.

    Attributes:
        classes: names in label order.
        tokenizer: as data; trained on the training split, or a model folder's.
        length: tokens of an example at most, special ones included.
        pairs: whether there are two texts an example.
        longer: what becomes of longer examples: ``cut`` (and counted, see ``remarks``) or ``refuse``.
    """

    classes: tuple[str, ...]
    tokenizer: Tokenizer
    length: int = 64
    pairs: bool = False
    longer: str = "cut"
    metric: str = "top1"
    noun: ClassVar[str] = "text"

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """Batches hold any number of texts, as long as the longest of them."""
        return dict.fromkeys(self.inputs, ("n", "tokens"))

    @property
    def inputs(self) -> tuple[str, ...]:
        """As Hugging Face's models call them."""
        return ("input_ids", "attention_mask", *(("token_type_ids",) if self.pairs else ()))

    def prepared(self, examples: Examples) -> Examples:
        """With more columns: ragged ``ids`` (int32) and, of pairs, ``segments`` (uint8); ``cut`` (uint8, 0 or 1).

        Raises:
            UserError: an example is longer than ``length``, and such ones are refused.
        """
        texts = unpacked(examples[TEXT])
        seconds = unpacked(examples[SECOND]) if self.pairs else None
        ids, segments, cut = [], [], []
        for found, kinds, longer in self.tokenizer.encoded_or_cut(texts, seconds, self.length):
            ids.append(np.array(found, np.int32))
            segments.append(np.array(kinds, np.uint8))
            cut.append(longer)
        if self.longer == "refuse" and any(cut):
            begin = texts[cut.index(True)][:40]
            raise UserError(
                f"dataset.task: {sum(cut):,} of {len(cut):,} texts have more than {self.length} tokens, the first is "
                f"{begin!r} …; set dataset.task.length higher, or dataset.task.longer=cut"
            )
        made = replace(
            examples, columns={**examples.columns, IDS: Ragged.of(ids), CUT: np.array(cut, np.uint8)}
        )
        return made.with_column(SEGMENTS, Ragged.of(segments)) if self.pairs else made

    def remarks(self, splits: Mapping[str, Examples]) -> tuple[str, ...]:
        """How many examples were cut, where any was."""
        return of_cut({name: split[CUT] for name, split in splits.items()}, self.length)

    def encode(self, examples: Examples, variation: Inputs | None = None) -> Inputs:
        """int64 (n, tokens): ``input_ids``, ``attention_mask`` (1 where a token is, else 0), of pairs ``token_type_ids``.

        As many tokens as the longest example has, so that little is padded.
        """
        width = max(1, int(self.lengths(examples).max())) if len(examples) else self.length
        ids, there = examples[IDS].padded(self.tokenizer.pad, width)
        found: Inputs = (ids.long(), there.long())
        return (*found, examples[SEGMENTS].padded(0, width)[0].long()) if self.pairs else found

    def lengths(self, examples: Examples) -> Tensor:
        """(n,) int64, tokens of each example."""
        import torch

        return torch.as_tensor(examples[IDS].starts).diff().clamp(max=self.length)

    def varies(self) -> bool:
        """Never: texts are trained on as they are."""
        return False

    def variation(self, n: int, generator: torch.Generator) -> Inputs:
        """Nothing."""
        return ()

    def blank(self, n: int) -> Inputs:
        """Rows of padding, all looked at."""
        ids, mask = sequences.blank(self.tokenizer, self.length, n)
        return ids, mask, *((mask.new_zeros(mask.shape),) if self.pairs else ())

    def drawn(self, n: int, generator: torch.Generator) -> Inputs:
        """Random tokens, of random lengths; of pairs the second half is of the kind that the tokenizer gives it."""
        ids, mask = sequences.drawn(self.tokenizer, self.length, n, generator)
        if not self.pairs:
            return ids, mask
        second = mask.cumsum(dim=1) > mask.sum(dim=1, keepdim=True) // 2
        return ids, mask, second.long() * mask * self._kinds

    @property
    def _kinds(self) -> int:
        """The largest kind of a pair's tokens: 1, or 0 as of RoBERTa, whose table has no other row."""
        (_, kinds), *_ = self.tokenizer.encoded(["a"], ["a"])
        return max(kinds, default=0)

    def placed(self, module: nn.Module) -> Placed:
        """As it is."""
        from compressbench.tasks.task import Placed

        return Placed(module, tuple)

    def loss(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """Mean cross-entropy in nats."""
        import torch.nn.functional as F

        return F.cross_entropy(outputs.logits, labels)

    def log_probs(self, outputs: Outputs, labels: Tensor) -> Pieces:
        """(n, classes) log-probabilities; piece i is of example i."""
        import torch
        import torch.nn.functional as F

        from compressbench.tasks.task import Pieces

        found = F.log_softmax(outputs.logits.float(), dim=-1)
        return Pieces(found, torch.arange(len(found), device=found.device), labels)

    def answers(self, outputs: Outputs) -> Tensor:
        """(n,) the most probable class; -1, which is no class, where a logit is no number."""
        from compressbench.metrics import named

        return named(outputs.logits)

    def right(self, answers: Tensor, labels: Tensor) -> Tensor:
        """(n,) bool, the class is the label."""
        return answers == labels

    def surface(self, device: str = "cpu") -> NoSurface:
        """None that a pixel's attack could use."""
        return sequences.no_surface()

    def facts(self) -> Mapping[str, Any]:
        """Sizes, and what a folder's model must agree on: ``@form``, ``@inputs``, ``@names``, ``@tokenizer``."""
        form = "sequence_classification"
        shared = sequences.shared_facts(self.tokenizer, self.length, form, self.inputs, self.classes)
        return {**shared, "@classes": len(self.classes), "@segments": 2 if self.pairs else 1}

    def feeding(self) -> tuple[str, list[str]]:
        """Tokenized by the tokenizer beside the file."""
        told = "Inputs `input_ids` and `attention_mask`"
        told += " and `token_type_ids`" if self.pairs else ""
        texts = "list(zip(texts, seconds))" if self.pairs else "texts"
        lines = [
            "import numpy",
            "import tokenizers",
            "t = tokenizers.Tokenizer.from_file('tokenizer.json')",
            f"t.enable_truncation({self.length})",
            f"t.enable_padding(pad_id={self.tokenizer.pad})",
            f"found = t.encode_batch({texts})",
            "inputs = {'input_ids': numpy.array([f.ids for f in found], 'int64'),",
            "          'attention_mask': numpy.array([f.attention_mask for f in found], 'int64')}",
        ]
        if self.pairs:
            lines.append("inputs['token_type_ids'] = numpy.array([f.type_ids for f in found], 'int64')")
        return f"{told}, int64 (n, tokens), of `texts`, a list of str:", lines

    def beside(self) -> Mapping[str, bytes]:
        """The tokenizer, as its library reads it; it cuts and fills up by itself."""
        return {FILE: self.tokenizer.bounded(self.length).encode()}

    def texts(self, examples: Examples) -> Mapping[str, list[str]]:
        """What a person reads of each example: ``text`` and, of pairs, ``second``."""
        return {name: unpacked(examples[name]) for name in (TEXT, SECOND)[: 1 + self.pairs]}

    def in_words(self) -> str:
        """The most tokens."""
        return f"{'pairs of texts' if self.pairs else 'texts'} of up to {self.length} tokens"

    def identity(self) -> tuple[Any, ...]:
        """With the tokenizer's digest."""
        return ("text", self.classes, self.tokenizer.digest, self.tokenizer.pad, self.length, self.pairs)


def text_classification(
    train: Examples,
    classes: tuple[str, ...],
    name: str = "dataset",
    length: int = 64,
    vocabulary: int = 8000,
    tokenizer: str | None = None,
    longer: str = "cut",
) -> TextClassification:
    """The task of a data set of texts; its vocabulary is trained on the training split, or a model folder's.

    Args:
        train: with a column ``text`` and, for pairs, ``second``.
        length: tokens of an example at most.
        vocabulary: how many ids are trained at most.
        tokenizer: a folder with a ``tokenizer.json``, as models on the Hugging Face hub have it.
        longer: ``cut`` or ``refuse`` texts of more tokens.

    Raises:
        UserError: there are no texts, a setting is out of range, or the folder has no tokenizer.
    """
    if not isinstance(train.columns.get(TEXT), Ragged):
        raise UserError(f"dataset {name}: no texts; a text task needs the column {TEXT!r}")
    if len(classes) < 2:
        raise UserError(f"dataset {name}: one class, {', '.join(classes)}; classification needs two or more")
    if type(length) is not int or not 4 <= length <= LONGEST:
        raise UserError(f"dataset.task: length is {length!r}, must be 4 to {LONGEST} tokens")
    if longer not in LONGER:
        raise UserError(f"dataset.task: longer is {longer!r}; {nearest(str(longer), LONGER)}")
    pairs = SECOND in train.columns
    if tokenizer is not None:
        return TextClassification(classes, of_folder(tokenizer), length, pairs, longer)
    texts = [text for column in (TEXT, SECOND)[: 1 + pairs] for text in unpacked(train[column])]
    return TextClassification(classes, trained(texts, vocabulary), length, pairs, longer)
