"""Galleries: records of single examples, as the pictures or texts that were forgotten."""

from __future__ import annotations

from collections.abc import Iterable

from compressbench.png import PREFIX
from compressbench.records import SAID, Record
from compressbench.report.section import Gallery, Tile

MOST = 24
"""Tiles of one gallery, at most."""


def gallery(title: str, rows: Iterable[Record], lead: str = "", most: int = MOST) -> Gallery | None:
    """A gallery of records of single examples (``declared.EXAMPLES``), in their order; None where there is none.

    Args:
        rows: their value is the example's row in its source; their note, split at `` · ``, the lines below the
            picture; their artefact the picture, or the text. Another address than a PNG's is left out, not linked to.
    """
    tiles = tuple(_tile(row) for row in rows if row.value is not None)[:most]
    return Gallery(title, lead, tiles) if tiles else None


def _tile(row: Record) -> Tile:
    source = row.artefact if row.artefact.startswith(PREFIX) else ""
    text = row.artefact.removeprefix(SAID) if row.artefact.startswith(SAID) else ""
    return Tile(source, f"Test example {row.value:.0f}", row.note, text)
