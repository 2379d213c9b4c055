"""Substitution: what is left where words are exchanged for synonyms, and how many queries that takes: AA and #Q."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.data.examples import Examples
    from compressbench.tasks.task import Task
    from compressbench.tasks.text.substitution import Ask, Found
    from compressbench.views import View

BATCH = 32
KEPT = 4
"""States whose found examples are kept."""
LONGEST = 300
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Substitution:
    """Words exchanged for WordNet's synonyms until the label flips, after TextFooler (Jin et al., AAAI 2020).

    A black box: probabilities alone are asked for. Which texts are attacked depends on the data set alone, how many on
    the reference alone. Of pairs only the second text is attacked (a hypothesis, not its premise). Nothing is random.
    What TextFooler has and this has not: a tagger for parts of speech (here a word may be all that WordNet knows it
    as), word vectors, and a bound on the similarity of sentences; so meaning isn't guarded, and what stands here may
    not be held against published figures, only against the other rows of the same table.

    Attributes:
        examples: test texts to attack at first, the same for all states; null for all.
        share: of a text's words that may be exchanged, one at least.
        candidates: synonyms tried for a word (TextFooler: 50).
        queries: a text at most.
        width: as many texts again are attacked until the 95 % interval of the reference's accuracy after the attack is at
            most so many points wide; null for ``examples`` alone.
        most: texts at most; null for the whole test split.
        shown: found examples whose words the report shows, of each state.
        only_texts: says nothing where the examples are no texts; else one line says so.
    """

    VERSION: ClassVar[int] = 1
    examples: int | None = 100
    share: float = 0.4
    candidates: int = 50
    queries: int = 500
    width: float | None = None
    most: int | None = None
    shown: int = 5
    only_texts: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"substitution: share is {self.share}, must be above 0 and at most 1")
        for name, least in (("examples", 1), ("most", 1), ("candidates", 1), ("queries", 2), ("shown", 0)):
            given = getattr(self, name)
            nothing = given is None and name in ("examples", "most")
            if not nothing and (given is None or given < least):
                words = ", or null for all" if name in ("examples", "most") else ""
                raise UserError(f"substitution: {name} is {given}, must be at least {least}{words}")
        if self.width is not None and not 0 < self.width <= 100:
            raise UserError(
                f"substitution: width is {self.width}, must be points above 0, at most 100, or null"
            )

    def suits(self, dataset: Dataset) -> bool:
        """Whether there is anything to say of a data set."""
        return not self.only_texts or of_texts(dataset.task)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject, and its accuracy on what was found against the reference."""
        from compressbench.probes.answered import answered

        yield from answered(self._measured(subject, reference, bench), subject=subject, reference=reference)

    def _measured(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        if not of_texts(bench.task):
            why = "words are exchanged in texts that get one class, and these examples are none"
            yield Metric("substitution_accuracy", None, "%", note=why)
            yield Metric("substitution_queries", None, "queries", note=why)
            return
        theirs = _of_reference(reference, self)
        own = [pair for place in range(len(theirs)) for pair in _made(subject, self, place)]
        yield from _figures([found for _, found in own], self, len(bench.feed("test")))
        yield _transferred(subject, [pair for part in theirs for pair in part])
        yield from _examples(own, subject, self.shown)


def of_texts(task: Task) -> bool:
    """Whether a task is classification of texts, which an exchange of words can be tried on."""
    from compressbench.tasks.text.classification import TextClassification

    return isinstance(task, TextClassification)


def log_probs(view: View, examples: Examples) -> Tensor:
    """(n, classes) on the CPU, what a state says of prepared examples, those of like length together."""
    import torch

    from compressbench.outputs import forward
    from compressbench.walking import put_back, walk

    task, rows, said = view.bench.task, [], []
    with torch.inference_mode():
        for places, batch in walk(task, examples.to(view.bench.device), BATCH):
            outputs = forward(view.fast, *task.encode(batch))
            said.append(task.log_probs(outputs, batch.labels).log_probs.cpu())
            rows.append(places)
    return put_back(rows, said)


def asker(view: View, examples: Examples) -> Ask:
    """What a state says of texts that stand for the (second) texts of some examples, in batches of like lengths."""
    import numpy as np

    from compressbench.data.examples import Examples
    from compressbench.tasks.text.classification import TextClassification
    from compressbench.tasks.text.packing import SECOND, TEXT, packed

    task = view.bench.task
    assert isinstance(task, TextClassification)
    premises = examples[TEXT] if task.pairs else None

    def ask(owners: Sequence[int], texts: Sequence[str]) -> Any:
        columns = {TEXT: packed(texts)}
        if premises is not None:
            columns = {TEXT: premises[np.array(owners)], SECOND: columns[TEXT]}
        rows = np.arange(len(texts))
        made = task.prepared(Examples(columns, np.zeros(len(texts), np.int64), rows))
        return log_probs(view, made).numpy()

    return ask


def attacked(view: View, rows: Any, settings: Substitution) -> list[Found]:
    """Attacks the test examples at some places ((n,) int64 array), all of them side by side."""
    from compressbench.data.synonyms import wordnet
    from compressbench.tasks.text.packing import SECOND, TEXT, unpacked
    from compressbench.tasks.text.substitution import Bounds, search, side_by_side
    from compressbench.tasks.text.words import candidates

    examples = view.bench.dataset.split("test").take(rows)
    known: dict[str, list[str]] = {}

    def of(word: str) -> list[str]:
        if word not in known:
            known[word] = candidates(word, wordnet())
        return known[word]

    texts = unpacked(examples[SECOND if SECOND in examples.columns else TEXT])
    bounds = Bounds(settings.share, settings.candidates, settings.queries)
    searches = [
        search(text, int(label), of, bounds) for text, label in zip(texts, examples.labels, strict=True)
    ]
    return side_by_side(searches, asker(view, examples))


Portion = list[tuple[int, "Found"]]
"""Places in the test split, each with what was found there."""
_known: weakref.WeakKeyDictionary[View, dict[tuple[Substitution, int], Portion]]
_known = weakref.WeakKeyDictionary()


def _of_reference(reference: View, settings: Substitution) -> list[Portion]:
    """Portions against a reference: as many as the interval of what stands wants, see ``width``."""
    from compressbench.comparing.intervals import share

    found: list[Portion] = []
    while True:
        found.append(_made(reference, settings, len(found)))
        start, stop = _bounds(settings, len(found), len(reference.bench.feed("test")))
        whole = [one for part in found for _, one in part]
        told = share(sum(not one.fallen for one in whole), len(whole))
        if start >= stop or settings.width is None or told.high - told.low <= settings.width:
            return found


def _bounds(settings: Substitution, place: int, count: int) -> tuple[int, int]:
    """From and to which text in the order of attack a portion reaches; of ``count`` there are."""
    size = min(settings.examples or count, count)
    most = size if settings.width is None else min(settings.most or count, count)
    return min(place * size, most), min((place + 1) * size, most)


def _made(view: View, settings: Substitution, place: int) -> Portion:
    from compressbench.probes.square import attacked_rows

    known = _known.pop(view, {})
    _known[view] = known  # the last in order: those asked for longest ago are forgotten
    for old in list(_known)[:-KEPT]:
        del _known[old]
    key = (settings, place)
    if key not in known:
        count = len(view.bench.feed("test"))
        start, stop = _bounds(settings, place, count)
        rows = attacked_rows(count, stop)[start:].numpy()
        known[key] = list(zip(rows.tolist(), attacked(view, rows, settings), strict=True))
    return known[key]


def _figures(found: Sequence[Found], settings: Substitution, count: int) -> Iterable[Metric]:
    import numpy as np

    from compressbench.comparing.intervals import mean, share

    n = len(found)
    stood = share(sum(not one.fallen for one in found), n)
    note = f"at most {settings.share:.0%} of a text’s words exchanged, {settings.queries} queries a text; wrong before "
    note += "is wrong"
    if settings.width is not None and stood.high - stood.low > settings.width:
        note += f"; its 95 % interval is wider than {settings.width:g} points"
        note += "" if n < count else ": these are all texts there are"
    clean = 100 * sum(one.right for one in found) / n
    yield Metric("substitution_clean_accuracy", clean, "%", n=n)
    yield Metric("substitution_accuracy", stood.value, "%", n=n, note=note)
    yield Metric("substitution_accuracy_low", stood.low, "%", n=n)
    yield Metric("substitution_accuracy_high", stood.high, "%", n=n)
    asked = [one.queries for one in found if one.right]
    words = "of texts that it got right before" if asked else "it got none right before"
    queries = mean(np.array(asked, float))
    yield Metric(
        "substitution_queries", queries.value if asked else None, "queries", n=len(asked), note=words
    )
    if len(asked) > 1:
        # Student's interval may reach beyond what there can be.
        low, high = max(1.0, queries.low), min(float(settings.queries), queries.high)
        yield Metric("substitution_queries_low", low, "queries", n=len(asked))
        yield Metric("substitution_queries_high", high, "queries", n=len(asked))
    fell = [100 * len(one.exchanged) / one.words for one in found if one.right and one.fallen]
    words = "of texts that fell" if fell else "none of the texts fell"
    changed = float(np.mean(fell)) if fell else None
    yield Metric("substitution_changed", changed, "%", n=len(fell), note=words)


def _transferred(subject: View, theirs: Portion) -> Metric:
    """How many of the examples found against the reference a state gets right."""
    import torch

    from compressbench import metrics

    found = [(row, one.text) for row, one in theirs if one.right and one.fallen]
    name, note = "substitution_transfer_accuracy", "of the examples that were found against the reference"
    if not found:
        return Metric(name, None, "%", note="none was found against the reference")
    examples = subject.bench.dataset.split("test").take([row for row, _ in found])
    said = asker(subject, examples)(range(len(found)), [text for _, text in found])
    hits = metrics.hits(torch.from_numpy(said), torch.as_tensor(examples.labels))
    return Metric(name, metrics.percent(hits), "%", n=len(found), note=note)


def _examples(own: Portion, subject: View, most: int) -> Iterable[Metric]:
    """The first few that fell, in words: what was exchanged, and the text after it."""
    rows = subject.bench.dataset.split("test").rows
    fell = [(row, one) for row, one in own if one.right and one.fallen][:most]
    for rank, (row, one) in enumerate(fell, 1):
        swaps = ", ".join(f"{before} → {after}" for before, after in one.exchanged)
        text = one.text if len(one.text) <= LONGEST else f"{one.text[:LONGEST]}…"
        yield Metric(
            "substitution_example", int(rows[row]), "1", n=1, group=str(rank), note=f"{swaps} · {text}"
        )
