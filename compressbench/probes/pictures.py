"""Pictures that a state carries in place of a training set: themselves, and how far they have left what a camera sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric

if TYPE_CHECKING:
    from torch import Tensor

    from compressbench.bench import Bench
    from compressbench.data.examples import Examples
    from compressbench.views import View


@dataclass(frozen=True)
class Pictures:
    """The data set of pictures that a state carries (stages ``data/…``), the first ones with their pixels.

    Pixels outside black and white are below 0 or above the largest value; they are shown as black and as white.

    Attributes:
        shown: so many are kept with their pictures, in their order; 0 for none.
    """

    VERSION: ClassVar[int] = 1
    shown: int = 20

    def __post_init__(self) -> None:
        if type(self.shown) is not int or self.shown < 0:
            raise UserError(f"pictures: shown is {self.shown!r}, must be a whole number of 0 or more")

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of what the subject carries."""
        from compressbench.data.examples import Examples
        from compressbench.tasks.images.classification import IMAGES

        group, facts = subject.state.group("data"), subject.state.facts
        if not group or IMAGES not in group:
            what = "no data set" if not group else "no pictures"
            yield Metric("distilled_pictures", None, "examples", note=f"this state carries {what}")
            return
        data = Examples.made(group, classes=len(bench.task.classes))
        pixels, n = data[IMAGES].double(), len(data)
        yield Metric("distilled_pictures", n, "examples", n=n)
        outside = 100 * float(((pixels < 0) | (pixels > 255)).double().mean())
        yield Metric("distilled_outside", outside, "%", n=n)
        rates = data.columns.get("rates")
        if rates is not None:
            told = f"{float(rates.min()):.3g} to {float(rates.max()):.3g}"
            yield Metric("step_size_mean", float(rates.double().mean()), "1", n=rates.numel(), note=told)
        if "chosen_validation" in facts:
            yield Metric("chosen_validation", float(facts["chosen_validation"]), "%")
        yield from self._each(data, pixels / 255, rates, bench.task)

    def _each(self, data: Examples, pixels: Tensor, rates: Any, task: Any) -> Iterable[Metric]:
        """One record a picture: its group and its value are its place, from 1."""
        from compressbench.probes.thumbnails import thumbnails
        from compressbench.tasks.images.classification import IMAGES

        first = data.head(self.shown)
        as_bytes = (255 * pixels[: self.shown]).round().clamp(0, 255).byte()
        seen = thumbnails(first.with_column(IMAGES, as_bytes), task)
        for k, picture in enumerate(seen):
            label, own = int(first.labels[k]), pixels[k]
            note = task.classes[label] if label >= 0 else "no label"
            note += f" · pixels {float(own.min()):.2f} to {float(own.max()):.2f}"
            if rates is not None:
                note += f" · step sizes {', '.join(f'{float(r):.3g}' for r in rates[k][:4])}"
                note += " …" if rates.shape[1] > 4 else ""
            yield Metric(
                "distilled_picture", k + 1, "1", n=len(data), group=str(k + 1), note=note, artefact=picture
            )
