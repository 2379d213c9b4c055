"""Pictures of single examples, small, as addresses that a record can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressbench.data.examples import Examples


def thumbnails(examples: Examples) -> list[str]:
    """``data:image/png;base64,`` addresses in the examples' order; empty ones of a task that isn't of pictures."""
    from compressbench.showing.pictures import address
    from compressbench.tasks.images.classification import IMAGES

    images = examples.columns.get(IMAGES)
    if images is None or str(images.dtype) != "torch.uint8" or images.ndim != 4:
        return [""] * len(examples)
    return [address(picture.permute(1, 2, 0).cpu().numpy()) for picture in images]
