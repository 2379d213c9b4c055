"""Parts: how many random features a read-out reads, how many trees a forest has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from compressbench.records import Metric

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.views import View


@dataclass(frozen=True)
class Parts:
    """What an answer is put together from: the numbers that the last layer reads; of a forest its trees and nodes."""

    VERSION: ClassVar[int] = 1

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject's own module."""
        from compressbench.models.forest import Forest
        from compressbench.models.representation import last_layer, represented

        module = subject.module
        if isinstance(module, Forest):
            yield Metric("trees", module.trees, "1", "theoretical")
            yield Metric(
                "nodes", len(module.left), "1", "theoretical", note="of all trees, leaves among them"
            )
            return
        inputs = bench.task.encode(bench.feed("test").head(2))
        name = last_layer(module, inputs, len(bench.task.classes))
        if not name:
            yield Metric("features", None, "1", "theoretical", note="no single layer gives the answers")
            return
        yield Metric(
            "features",
            represented(module, inputs, name).shape[1],
            "1",
            "theoretical",
            note=f"what {name} reads",
        )
