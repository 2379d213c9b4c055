"""What a section of the page is, and what sections' files share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from compressbench.report.drawing import Chart
from compressbench.report.panels import Panel
from compressbench.report.states import Pick, every, some, thinned
from compressbench.report.tables import Table

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """A strip of images: what it shows, its address, a sentence."""

    title: str
    source: str
    caption: str


@dataclass(frozen=True)
class Tile:
    """One example of a gallery: its picture's address or its text, empty for what it has not; a name, a line below."""

    source: str
    name: str
    caption: str
    text: str = ""


@dataclass(frozen=True)
class Gallery:
    """Examples side by side, wrapped to the page's width; ``lead`` says how they were chosen."""

    title: str
    lead: str
    tiles: tuple[Tile, ...]
    folded: bool = False

    @property
    def wide(self) -> bool:
        """Whether its tiles are texts, which want more room than pictures."""
        return any(tile.text for tile in self.tiles)


@dataclass(frozen=True)
class Section:
    """One heading with its charts and tables; ``more`` is folded away; ``sentences`` are paragraphs below the tables."""

    title: str
    anchor: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    more: tuple[Table, ...] = ()
    lead: str = ""
    pictures: tuple[Picture, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.charts or self.tables or self.more or self.galleries or self.pictures)


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:40] or "unnamed"


def moment_suffix(panel: Panel, moment: str) -> str:
    """Empty for the first moment; its place keeps names apart that differ in nothing a file name can hold."""
    place = panel.moments.index(moment)
    if place == 0:
        return ""
    name = slug(moment)
    return f"_{name}" if [slug(m) for m in panel.moments].count(name) == 1 else f"_{name}-{place}"


def both(panel: Panel, title: str, anchor: str, build: Callable[[str, Pick], Table | None]) -> Section:
    """A table at the first moment, all its levels and the other moments folded away below."""
    moment, *rest = panel.moments
    short = thinned(panel, moment)
    more = [all_levels(build(moment, every))] if short else []
    more += [build(m, every) for m in rest]
    return Section(title, anchor, (), kept([build(moment, some if short else every)]), kept(more))


def all_levels(table: Table | None) -> Table | None:
    return table and replace(table, title=f"{table.title}, all levels")


def kept(items: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(x for x in items if x is not None)
