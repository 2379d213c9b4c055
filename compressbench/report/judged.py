"""What a panel's main metric is called, which way is better, and what counts as near the dense model."""

from __future__ import annotations

from dataclasses import dataclass

from compressbench.declared import declared
from compressbench.report.panels import Panel
from compressbench.report.wording import title_of

SHARE = "%"


@dataclass(frozen=True)
class Judged:
    """The main metric in words.

    Attributes:
        name: ``accuracy`` of shares of right examples, else the metric's own: ``perplexity``.
        better: 1 where more is better, -1 where less is.
        share: whether it is a share of examples, of which one point counts as near; of others it is one per cent.
    """

    name: str
    better: int
    share: bool

    @property
    def near(self) -> str:
        """``no more than one point below dense``."""
        return "no more than one point below dense" if self.share else "no more than 1 % worse than dense"

    @property
    def within(self) -> str:
        """``within one point``."""
        return "within one point" if self.share else "within 1 %"

    @property
    def question(self) -> str:
        """What the first page asks."""
        return "Is it as accurate?" if self.share else f"Is its {self.name} as good?"

    @property
    def lower(self) -> str:
        """What is said beside a chart's axis where less is better."""
        return "" if self.better > 0 else ", lower is better"

    @property
    def file(self) -> str:
        """What files of charts begin with."""
        return "accuracy" if self.share else self.name.lower().replace(" ", "_")


def judged(panel: Panel) -> Judged:
    """Of accuracy where a panel has no main metric."""
    if panel.main is None:
        return Judged("accuracy", 1, True)
    metric = panel.main[1]
    unit = next((r.unit for r in panel.rows if (r.probe, r.metric) == panel.main), SHARE)
    known = declared(metric)
    better = -1 if known is not None and known.better < 0 else 1
    title = title_of(metric)
    name = title if title[1:2].isupper() else title[:1].lower() + title[1:]
    return Judged("accuracy" if unit == SHARE else name, better, unit == SHARE)


def loss(value: float, unit: str, dense: float | None, better: int = 1) -> float | None:
    """How much worse than dense: points of a share, else per cent of the dense figure; None where that isn't known.

    Args:
        value: the state's figure minus dense's.
        unit: of the difference.
        dense: the dense figure.
        better: 1 where more is better, -1 where less is.
    """
    if unit == "points":
        return -better * value
    return -better * 100 * value / abs(dense) if dense else None
