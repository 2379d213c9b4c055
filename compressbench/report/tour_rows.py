"""The lecture's slides, each a claim and the recipe that answers it: data in ``conf/tour/``, one file a part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressbench.declared import declared
from compressbench.errors import UserError, nearest
from compressbench.report.yaml_rows import loaded, mapping, number, overrides, text, texts
from compressbench.specs.conf import conf_dir
from compressbench.wording import shown

PART = ("title", "slides")
SLIDE = ("title", "claim", "source", "recipe", "run", "also", "picture", "answer", "errata")
PICTURE = ("section", "chart", "shows")
ANSWER = ("probe", "metric", "group", "moment", "series", "density", "level", "mean", "validated", "says")
ERRATUM = ("slide", "right", "mark")


@dataclass(frozen=True)
class Picture:
    """Which chart of a run's report answers a slide.

    Attributes:
        section: the file below ``report/sections`` that draws it, or ``first`` for a chart of the first page.
        chart: how the chart's name begins, or the titles of galleries of images; empty for the section's first.
        shows: what is seen on it, in words.
    """

    section: str
    chart: str
    shows: str


@dataclass(frozen=True)
class Answer:
    """Which records say what came out.

    Attributes:
        probe, metric, group, moment: of the records.
        series: those that are told of beside the reference, in this order; none: all, as recorded.
        density: the share of weights kept, in %, at which they are told, the nearest that there is; None: the lowest.
        level: where a series' states have one density, as those of several budgets or bits have: what the name of the
            state that is told holds; of the last where none holds it.
        mean: how a part of states' names begins that draws alone differ by: the mean over these is told, of each that is
            left of the names; empty for single states.
        validated: tells of each series the last state that loses no more on the validation split than the probe
            ``validation`` allows, and of one without such a state that there is none.
        says: what the figures are, where that isn't plain.
    """

    probe: str
    metric: str
    group: str
    moment: str
    series: tuple[str, ...]
    density: float | None
    level: str = ""
    mean: str = ""
    validated: bool = False
    says: str = ""


@dataclass(frozen=True)
class Erratum:
    """What a slide says, what the literature says, and how that was checked."""

    slide: str
    right: str
    mark: str


@dataclass(frozen=True)
class Slide:
    """One row of the lecture.

    Attributes:
        number: its place in the lecture, from 1.
        name: what it is called on the command line.
        title, claim: what the slide is about, and what it says.
        source: whose claim it is.
        recipe: that answers it; whether there is one yet, ``built`` says.
        run: overrides of that recipe that belong to the slide.
        also: further recipes of the same slide.
        picture: None for the first chart of the report.
        answer: None for the report's main metric.
        errata: where slide and literature differ.
    """

    number: int
    name: str
    title: str
    claim: str
    source: str
    recipe: str
    run: tuple[str, ...]
    also: tuple[str, ...]
    picture: Picture | None
    answer: Answer | None
    errata: tuple[Erratum, ...]

    @property
    def file(self) -> Path:
        """Where its recipe is, or would be."""
        return conf_dir() / "recipe" / f"{self.recipe}.yaml"

    @property
    def built(self) -> bool:
        return self.file.is_file()


@dataclass(frozen=True)
class Part:
    """One file: a heading and its slides."""

    name: str
    title: str
    slides: tuple[Slide, ...]


def parts(folder: Path | None = None) -> tuple[Part, ...]:
    """The whole lecture, parts in the order of their files' names.

    Args:
        folder: another one than the shipped ``conf/tour``.

    Raises:
        UserError: there is no file, one says something else than it should, and where, or two slides have one name.
    """
    base = folder or conf_dir() / "tour"
    files = sorted(base.glob("*.yaml"))
    if not files:
        raise UserError(f"{base}: no slides, files PART.yaml, in this folder")
    found: list[Part] = []
    for path in files:
        found.append(_part(path, 1 + sum(len(part.slides) for part in found)))
    names = [slide.name for part in found for slide in part.slides]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{base}: two slides are called {name!r}; each has a name of its own")
    return tuple(found)


def found(asked: str, slides: Iterable[Slide]) -> Slide:
    """The slide of a number or a name.

    Raises:
        UserError: there is none.
    """
    known = tuple(slides)
    for slide in known:
        if asked in (slide.name, str(slide.number)):
            return slide
    if asked.isdecimal():
        raise UserError(f"tour: there is no slide {asked[:20]}; they are 1 to {len(known)}")
    near = nearest(asked, [slide.name for slide in known], rest="compressbench tour")
    raise UserError(f"tour: there is no slide {asked[:100]!r}; {near}")


def _part(path: Path, first: int) -> Part:
    block = mapping(loaded(path), path.name, PART)
    slides = mapping(block.get("slides"), f"{path.name}: slides")
    return Part(
        path.stem,
        text(block, "title", path.name),
        tuple(
            _slide(place, str(name), of, f"{path.name}: slides.{name}")
            for place, (name, of) in enumerate(slides.items(), first)
        ),
    )


def _slide(place: int, name: str, content: Any, where: str) -> Slide:
    block = mapping(content, where, SLIDE)
    if name.isdecimal():
        raise UserError(f"{where}: a slide's name is no number, which is its place")
    run = overrides(texts(block, "run", where, []), f"{where}.run")
    errata = block.get("errata", [])
    if not isinstance(errata, list):
        raise UserError(f"{where}.errata: {shown(errata)} is no list")
    slide = Slide(
        number=place,
        name=name,
        title=text(block, "title", where),
        claim=text(block, "claim", where),
        source=text(block, "source", where),
        recipe=text(block, "recipe", where),
        run=run,
        also=texts(block, "also", where, []),
        picture=_picture(block["picture"], f"{where}.picture") if "picture" in block else None,
        answer=_answer(block["answer"], f"{where}.answer") if "answer" in block else None,
        errata=tuple(_erratum(one, f"{where}.errata.{k}") for k, one in enumerate(errata)),
    )
    if slide.built and slide.answer and declared(slide.answer.metric) is None:
        raise UserError(
            f"{where}.answer.metric: unknown {slide.answer.metric!r}; docs/records.md lists what is measured"
        )
    return slide


def _picture(content: Any, where: str) -> Picture:
    block = mapping(content, where, PICTURE)
    return Picture(
        text(block, "section", where), text(block, "chart", where, ""), text(block, "shows", where)
    )


def _answer(content: Any, where: str) -> Answer:
    block: Mapping[str, Any] = mapping(content, where, ANSWER)
    metric = text(block, "metric", where)
    density = number(block, "density", where)
    if density is not None and not 0 < density <= 100:
        raise UserError(f"{where}.density: {density:g} is not in (0, 100] %")
    return Answer(
        probe=text(block, "probe", where),
        metric=metric,
        group=text(block, "group", where, ""),
        moment=text(block, "moment", where, "final"),
        series=texts(block, "series", where, []),
        density=density,
        level=text(block, "level", where, ""),
        mean=text(block, "mean", where, ""),
        validated=_flag(block, "validated", where),
        says=text(block, "says", where, ""),
    )


def _flag(block: Mapping[str, Any], key: str, where: str) -> bool:
    value = block.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{where}.{key}: {shown(value)} is not true or false")
    return value


def _erratum(content: Any, where: str) -> Erratum:
    block = mapping(content, where, ERRATUM)
    return Erratum(*(text(block, key, where) for key in ERRATUM))
