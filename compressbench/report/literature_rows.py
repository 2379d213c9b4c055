"""Published figures that a recipe at scale=paper can be held against: data in ``conf/published/``, one file a topic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressbench.declared import declared, impossible
from compressbench.errors import UserError, nearest
from compressbench.report.yaml_rows import loaded, mapping, number, overrides, text, texts
from compressbench.specs.conf import conf_dir
from compressbench.wording import shown

MARKS = ("verified", "remembered")
TOPIC = ("title", "studies")
STUDY = (
    "title",
    "source",
    "data",
    "recipe",
    "run",
    "model",
    "dataset",
    "protocol",
    "differs",
    "rows",
)
ROW = ("net", "state", "probe", "metric", "value", "spread", "n", "printed", "mark", "missing")


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Attributes:
        name: in its study.
        net: which net, and what was done to it, in words.
        state: the state of the study's recipe that answers it; empty where ``missing`` says why none does.
        probe, metric: what is measured of that state.
        value: as published, in the metric's unit; None where it was printed as a chart only.
        spread: sample standard deviation over their runs, None if not printed.
        n: their runs, None if not said.
        printed: what the source prints where that is not the value itself, e.g. ``error 8.75 %``.
        mark: ``verified`` (read in the source's text) or ``remembered``.
        missing: why no recipe here answers it.
    """

    name: str
    net: str
    state: str
    probe: str
    metric: str
    value: float | None
    spread: float | None
    n: int | None
    printed: str
    mark: str
    missing: str

    @property
    def unit(self) -> str:
        """The metric's."""
        known = declared(self.metric)
        assert known is not None
        return known.unit


@dataclass(frozen=True)
class Study:
    """Figures of one source that one run answers.

    Attributes:
        name, title: the first as the file has it.
        source: who published them, and where they were read.
        data: on which data set, in words.
        recipe, run: what is run for them: the recipe's name and the overrides beside it.
        model, dataset: how records call them at scale=paper.
        protocol: how they trained.
        differs: what is known to be otherwise here.
    """

    name: str
    title: str
    source: str
    data: str
    recipe: str
    run: tuple[str, ...]
    model: str
    dataset: str
    protocol: str
    differs: tuple[str, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Topic:
    """One file: a heading and its studies."""

    name: str
    title: str
    studies: tuple[Study, ...]


def topics(folder: Path | None = None) -> tuple[Topic, ...]:
    """All published figures, topics in the order of their files' names.

    Args:
        folder: another one than the shipped ``conf/published``.

    Raises:
        UserError: there is no file, or one that says something else than it should, and where.
    """
    base = folder or conf_dir() / "published"
    files = sorted(base.glob("*.yaml"))
    if not files:
        raise UserError(f"{base}: no published figures, files NAME.yaml, in this folder")
    return tuple(_topic(path) for path in files)


def _topic(path: Path) -> Topic:
    content = loaded(path)
    block = mapping(content, path.name, TOPIC)
    studies = mapping(block.get("studies"), f"{path.name}: studies")
    return Topic(
        path.stem,
        text(block, "title", path.name),
        tuple(_study(str(name), of, f"{path.name}: studies.{name}") for name, of in studies.items()),
    )


def _study(name: str, content: Any, where: str) -> Study:
    block = mapping(content, where, STUDY)
    said = {
        key: text(block, key, where)
        for key in ("title", "source", "data", "recipe", "model", "dataset", "protocol")
    }
    run = overrides(texts(block, "run", where), f"{where}.run", ", such as model=resnet20")
    rows = mapping(block.get("rows"), f"{where}.rows")
    figures = tuple(_figure(str(key), row, f"{where}.rows.{key}") for key, row in rows.items())
    return Study(name=name, run=run, differs=texts(block, "differs", where), figures=figures, **said)


def _figure(name: str, content: Any, where: str) -> Figure:
    block = mapping(content, where, ROW)
    missing = text(block, "missing", where, "")
    state = text(block, "state", where, "")
    if bool(state) == bool(missing):
        raise UserError(
            f"{where}: state says which one answers the figure, or missing why none does; one of them"
        )
    mark = text(block, "mark", where)
    if mark not in MARKS:
        raise UserError(f"{where}.mark: unknown {mark!r}; {nearest(mark, MARKS)}")
    metric = text(block, "metric", where)
    known = declared(metric)
    if known is None:
        raise UserError(f"{where}.metric: unknown {metric!r}; docs/records.md lists what is measured")
    if "value" not in block:
        raise UserError(f"{where}.value: the figure is needed; null where it was printed as a chart only")
    value, spread = number(block, "value", where), number(block, "spread", where)
    if why := impossible(metric, known.unit, value):
        raise UserError(f"{where}.value: {shown(value)} {why}")
    if spread is not None and (spread < 0 or value is None):
        raise UserError(f"{where}.spread: {shown(spread)} is below 0, or stands beside no value")
    printed = text(block, "printed", where, "")
    if value is None and not printed:
        raise UserError(f"{where}.printed: without a value it says what the source prints, e.g. a chart only")
    n = block.get("n")
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise UserError(f"{where}.n: {shown(n)} is no number of runs, 1 or more")
    return Figure(
        name=name,
        net=text(block, "net", where),
        state=state,
        probe=text(block, "probe", where, "accuracy"),
        metric=metric,
        value=value,
        spread=spread,
        n=n,
        printed=printed,
        mark=mark,
        missing=missing,
    )
