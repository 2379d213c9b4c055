"""How each series looks in all charts and tables: Okabe and Ito's palette, safe for colour-blind eyes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressbench.report.panels import Panel

INK = "#1a1a1a"
MUTED = "#5f6368"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREYS = ("#8a8a8a", "#b0b0b0", "#6b6b6b")
SIGNS = ("x", "+", "1", "2", "3", "4")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


@dataclass(frozen=True)
class Style:
    """Colour (hex), marker and dash pattern in matplotlib's terms."""

    colour: str
    marker: str
    dash: Any


def styles(panel: Panel) -> dict[str, Style]:
    """Label -> style: dense in ink, random in dashed grey, then colours in order, then other dashes."""
    found = {}
    for place, label in enumerate(panel.dense):
        found[label] = Style(
            INK if place == 0 else COLOURS[-place % len(COLOURS)], "", DASHES[place % len(DASHES)]
        )
    coloured = grey = 0
    for series in panel.series:
        if series.is_random:
            round_, place = divmod(grey, len(GREYS))
            dash = DASHES[1 + (place + round_) % (len(DASHES) - 1)]
            found[series.label] = Style(GREYS[place], SIGNS[grey % len(SIGNS)], dash)
            grey += 1
            continue
        round_, place = divmod(coloured, len(COLOURS))
        found[series.label] = Style(
            COLOURS[place], MARKERS[(place + round_) % len(MARKERS)], DASHES[round_ % len(DASHES)]
        )
        coloured += 1
    for floor in panel.floors:
        found[floor.label] = Style(MUTED, "", DASHES[2])
    return found
