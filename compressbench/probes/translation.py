"""Translation: BLEU and chrF of what a model says of the test split, and what else is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.views import View

OTHER = "its task is no translation; dataset=multi30k or parallel_file has one"


@dataclass(frozen=True)
class Translated:
    """BLEU with its 95 % interval, chrF, exact matches, tokens said twice in a row, length.

    BLEU and chrF are sacrebleu's (Post 2018), with its signature in the note, on the targets as they are in the data. The
    interval is a percentile bootstrap over test sentences, the same draws for every state; it knows nothing of seeds.

    Attributes:
        beam: of beam search; 1 decodes greedily.
        length_penalty: of beam search (Wu et al. 2016).
        draws: of the bootstrap.
    """

    VERSION: ClassVar[int] = (
        2  # 2: transformers' nets decode with keys and values remembered, which rounds otherwise
    )
    beam: int = 1
    length_penalty: float = 0.6
    draws: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("beam", 1), ("draws", 100)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UserError(
                    f"translation: {name} is {value!r}, must be a whole number of {least} or more"
                )
        if isinstance(self.length_penalty, bool) or not isinstance(self.length_penalty, int | float):
            raise UserError(f"translation: length_penalty is {self.length_penalty!r}, must be a number")

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        return "" if all(hasattr(dataset.task, name) for name in ("said", "spelled")) else OTHER

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """On the whole test split; the subject alone."""
        from compressbench.tasks.text.bleu import bleu_of, chrf_of, interval, repeated
        from compressbench.tasks.text.packing import TARGET, unpacked

        if self.unfit(bench.dataset):
            yield Metric("bleu", None, "1", note=OTHER)
            return
        task: Any = bench.task
        said = self._said(subject)
        wanted = unpacked(bench.dataset.split("test")[TARGET])
        texts = task.spelled(said)
        n, found = len(texts), bleu_of(texts, wanted)
        told = [f"sacrebleu {found.signature}", "greedy" if self.beam == 1 else f"beam {self.beam}"]
        if cut := int(bench.feed("test")["cut"].sum()):
            told.append(f"{cut} of {n} pairs are longer than {task.length} tokens and were cut for the net")
        if lost := int((said[:, 0] < 0).sum()):
            told.append(f"{lost} of {n} sentences begin with what is no number and are empty")
        note = "; ".join(told)
        low, high = interval(texts, wanted, self.draws, bench.seed)
        yield Metric("bleu", found.score, "1", n=n, note=note)
        yield Metric("bleu_low", low, "1", n=n, note=f"bootstrap over sentences, {self.draws} draws")
        yield Metric("bleu_high", high, "1", n=n, note=f"bootstrap over sentences, {self.draws} draws")
        letters = chrf_of(texts, wanted)
        yield Metric("chrf", letters.score, "1", n=n, note=f"sacrebleu {letters.signature}")
        exact = sum(a == b.strip() for a, b in zip(texts, wanted, strict=True))
        yield Metric("exact_match", 100 * exact / n, "%", n=n)
        again, tokens = repeated(said)
        yield Metric("repeated_tokens", 100 * again / max(1, tokens), "%", n=tokens)
        yield Metric(
            "length_ratio", found.length_ratio, "1", n=n, note="words said over words of the references"
        )

    def _said(self, subject: View) -> Tensor:
        if self.beam == 1:
            return subject.answers
        task: Any = subject.bench.task
        return subject.decoded(lambda m, inputs: task.said(m, inputs, self.beam, float(self.length_penalty)))
