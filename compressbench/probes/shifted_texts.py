"""Shifted texts: accuracy and loyalty on a table of texts from elsewhere, such as MNLI's mismatched genres."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.paths import given_path
from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.data.dataset import Dataset
    from compressbench.data.examples import Examples
    from compressbench.tasks.text.classification import TextClassification
    from compressbench.views import View

AGREED_ON = "-"
"""What MNLI's files have for a label on which the annotators didn't agree; such rows are left out."""


@dataclass(frozen=True)
class ShiftedTexts:
    """Top-1 and loyalty on a table of texts of the same classes that the user has; nothing is trained on it.

    Attributes:
        file: TSV, CSV or JSON lines, also compressed (``data.tables.read_table``); null measures nothing.
        text, second, label: its columns; ``second`` where the data set is of pairs. A label is a class's name or its
            number, from 0.
        examples: from the table's beginning; null for all.
    """

    VERSION: ClassVar[int] = 1
    file: str | None = None
    text: str = "text"
    second: str | None = None
    label: str = "label"
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.examples is not None and self.examples < 1:
            raise UserError(f"shifted: examples is {self.examples}, must be at least 1, or null for all")

    def files(self) -> tuple[str, ...]:
        """What is read beside the data set, so that a result is measured anew where that changed."""
        return () if self.file is None else (str(self._path()),)

    def suits(self, dataset: Dataset) -> bool:
        """Whether there is a table."""
        return self.file is not None

    def check(self, dataset: Dataset) -> None:
        """Before anything is made: a table that is missing or doesn't fit the data set is refused.

        Raises:
            UserError: see above, or the examples are no texts.
        """
        if self.file is not None:
            self._read(dataset)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject: accuracy, and how far it agrees with the reference there."""
        import numpy as np

        from compressbench import metrics
        from compressbench.probes.substitution import log_probs

        if self.file is None:
            why = "no table is named: probes.shifted.file, with texts of the same classes"
            yield Metric("shifted_top1", None, "%", note=why)
            return
        found, task = self._read(bench.dataset)
        made = task.prepared(found)
        own = log_probs(subject, made)
        other = own if subject.is_of_the_state_of(reference) else log_probs(reference, made)
        n, name = len(made), f"on {Path(str(self.file)).name}"
        right = 100 * float(np.mean(_named(own) == made.labels))
        agreed = metrics.label_loyalty(metrics.named(own), metrics.named(other))
        yield Metric("shifted_top1", right, "%", n=n, note=name)
        yield Metric("shifted_label_loyalty", agreed, "%", n=n, note=name)
        close = metrics.probability_loyalty(own, other)
        yield Metric("shifted_probability_loyalty", close, "%", n=n, note=f"natural logarithm; {name}")

    def _path(self) -> Path:
        return given_path(str(self.file), "shifted: file")

    def _read(self, dataset: Dataset) -> tuple[Examples, TextClassification]:
        from compressbench.data.tables import column, read_table
        from compressbench.data.texts import examples
        from compressbench.tasks.text.classification import TextClassification

        task = dataset.task
        if not isinstance(task, TextClassification):
            raise UserError(f"shifted: {self.file} is a table of texts, and {dataset.name} is none of texts")
        if task.pairs != (self.second is not None):
            wanted = (
                "pairs: second names the other column" if task.pairs else "single texts: second must be null"
            )
            raise UserError(f"shifted: {dataset.name} is of {wanted}")
        path = self._path()
        table = read_table(path)
        told = column(table, self.label, path, "shifted: label")
        rows = [i for i, label in enumerate(told) if label != AGREED_ON][: self.examples]
        if not rows:
            raise UserError(f"shifted: {path} holds no labelled text")
        first = column(table, self.text, path, "shifted: text")
        other = column(table, self.second, path, "shifted: second") if self.second is not None else None
        labels = _numbers([told[i] for i in rows], task.classes, path)
        seconds = None if other is None else [other[i] for i in rows]
        return examples([first[i] for i in rows], labels, seconds), task


def _numbers(labels: Sequence[str], classes: Sequence[str], path: Path) -> Any:
    """(n,) int64, of names or of numbers."""
    import numpy as np

    from compressbench.data.tables import named

    places = {str(k): k for k in range(len(classes))} | {name: k for k, name in enumerate(classes)}
    odd = next((label for label in labels if label not in places), None)
    if odd is not None:
        raise UserError(f"shifted: {path}: label {odd[:40]!r} is none of the classes: {named(classes, 8)}")
    return np.array([places[label] for label in labels], np.int64)


def _named(said: Any) -> Any:
    from compressbench import metrics

    return metrics.named(said).numpy()
