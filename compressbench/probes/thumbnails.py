"""Single examples, small, as a record can hold them: pictures as addresses, texts as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compressbench.records import SAID

if TYPE_CHECKING:
    from compressbench.data.dataset import Dataset
    from compressbench.data.examples import Examples

LONGEST = 600
"""Characters of a text that are kept."""


def thumbnails(examples: Examples, task: Any) -> list[str]:
    """What a record's ``artefact`` says of each example, in their order; empty where a task is of neither.

    A picture is a ``data:image/png;base64,`` address, a text begins with ``records.SAID``.
    """
    from compressbench.showing.pictures import address
    from compressbench.tasks.images.classification import IMAGES
    from compressbench.tasks.task import read_of

    images = examples.columns.get(IMAGES)
    if images is None or str(images.dtype) != "torch.uint8" or images.ndim != 4:
        return [f"{SAID}{shortened(text)}" if text else "" for text in read_of(task, examples)]
    return [address(picture.permute(1, 2, 0).cpu().numpy()) for picture in images]


def attributes(examples: Examples, dataset: Dataset) -> list[str]:
    """Of each example that is a text, what attributes say of it, to follow a note: `` · kind fish``; else nothing."""
    if not hasattr(dataset.task, "texts"):
        return [""] * len(examples)
    columns = [
        [f" · {name} {dataset.groups[name][k]}" if k >= 0 else "" for k in codes.tolist()]
        for name, codes in examples.groupings.items()
    ]
    return ["".join(parts) for parts in zip(*columns, strict=True)] if columns else [""] * len(examples)


def shortened(text: str) -> str:
    """A text of at most ``LONGEST`` characters; one that is cut ends in an ellipsis."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
