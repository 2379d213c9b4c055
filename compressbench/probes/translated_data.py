"""Translated data: how hard targets are to say word by word, and how far from the real ones (Zhou et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.comparing.translations import Links
    from compressbench.data.dataset import Dataset
    from compressbench.data.examples import Examples
    from compressbench.views import View

NAMES = ("data_complexity", "data_faithfulness")


@dataclass(frozen=True)
class TranslatedData:
    """Complexity C and faithfulness F of the translations that a state carries (stage ``data/translated``).

    Words and punctuation marks are aligned by IBM model 1; C is the mean entropy of a source word's translations, F the
    mean divergence of the real ones from those of the set; both in nats. Of the reference the training split itself is
    measured, whose F is 0; of other states without data nothing.

    Attributes:
        smoothing: added, in F, to the count of every translation that a word has in either set.
        rounds: of expectation maximisation.
    """

    VERSION: ClassVar[int] = 1
    smoothing: float = 0.1
    rounds: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.smoothing, bool) or not self.smoothing > 0:
            raise UserError(f"translated_data: smoothing is {self.smoothing!r}, must be above 0")
        if type(self.rounds) is not int or self.rounds < 1:
            raise UserError(f"translated_data: rounds is {self.rounds!r}, must be 1 or more")

    def unfit(self, dataset: Dataset) -> str:
        """Why nothing is measured on a data set; empty where something is."""
        from compressbench.tasks.text.packing import TARGET

        return "" if TARGET in dataset.split("train").columns else "the examples are no sentence pairs"

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of what the subject carries, against the training split."""
        from compressbench.comparing.translations import complexity, faithfulness
        from compressbench.data.examples import Examples

        group = subject.state.group("data")
        if why := self.unfit(bench.dataset):
            yield from (Metric(name, None, "nats", note=why) for name in NAMES)
            return
        if not group and not subject.is_of_the_state_of(reference):
            for name in NAMES:
                yield Metric(name, None, "nats", note="this state carries no translations")
            return
        real = bench.dataset.split("train")
        known: tuple[dict[str, int], dict[str, int]] = {}, {}
        links = _aligned(real, known, self.rounds)
        made = _aligned(Examples.made(group), known, self.rounds) if group else links
        whose = "of its translations" if group else "of the training split itself"
        note = f"{whose}; words aligned by IBM model 1, {self.rounds} rounds"
        n = len(links.source)
        yield Metric(NAMES[0], complexity(made), "nats", n=len(made.source), note=note)
        told = f"{note}; smoothing {self.smoothing:g}"
        yield Metric(NAMES[1], faithfulness(links, made, self.smoothing), "nats", n=n, note=told)


def _aligned(examples: Examples, known: tuple[dict[str, int], dict[str, int]], rounds: int) -> Links:
    """Links of a set's sentence pairs; words are numbered alike for all sets that share ``known``."""
    from compressbench.comparing.translations import aligned, numbered
    from compressbench.tasks.text.packing import TARGET, TEXT, unpacked

    sources, targets = (
        numbered(unpacked(examples[name]), ids) for name, ids in zip((TEXT, TARGET), known, strict=True)
    )
    return aligned(sources, targets, rounds)
