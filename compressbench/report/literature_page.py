"""Published figures with ours beside them, as a Markdown page: what records answer, and what is not run yet."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressbench.console import clean_line
from compressbench.declared import title_of
from compressbench.errors import UserError
from compressbench.records import Record
from compressbench.report.intervals import of_another, of_mean
from compressbench.report.joint import gather, overrides_of, read
from compressbench.report.literature_rows import Figure, Study, Topic
from compressbench.report.numbers import number, spread
from compressbench.specs.overrides import key_of, parted, told

SCALE = "paper"
NOT_RUN = "not run yet"
ELSEWHERE = re.compile(r"hardware\.|evaluation\b|.*@evaluation\.")
"""Overrides that say where a net was trained and what was measured, not which net it is."""
SPECIAL = re.compile(r"[\\`*_\[\]<>|&~]")

INTRO = """# Published results, and ours

This page is made by `compressbench published RUN… --write docs/published.md` from the records of runs, never by hand.
Without runs it says "not run yet" everywhere. The published figures are data, in `conf/published/`. Each study has the
command that makes what it asks for, at `scale=paper`: the published protocol on CIFAR-10, hours on a GPU, days without
one. `compressbench data cifar10 --download` fetches the data.

Several seeds on a card, four of them at once as one program (lanes), and the page of what came out:

    compressbench run -m recipe=dense scale=paper model=resnet20 hardware=cuda seed=0,1,2,3 hardware.lanes=4
    compressbench published outputs/sweeps/NAME --write docs/published.md

**How to read it.**

- *verified*: the figure was read in the text of the source that is named. *remembered*: it was not; it may be wrong.
- Ours is the mean over seeds ± their sample standard deviation, on the test set, after the last epoch. Test data chose
  nothing. Runs on other hardware, in another precision or with other versions are never in one mean.
- The last column claims no more than the seeds carry. Where a source gives a mean of several runs, or doesn't say of
  how many its figure is, it says whether the 95 % interval of our mean contains that figure; of a single published run,
  whether it lies where 95 % of further runs of ours would; of one seed of ours, the difference alone.
- An interval that contains a figure doesn't show that the two are equal, only that these seeds don't tell them apart.
  Nothing is corrected for how many figures are compared.
"""


@dataclass(frozen=True)
class Made:
    """What our figures were made with: figures of different ones are never in one mean."""

    scale: str
    model: str
    dataset: str
    hardware: str
    settings: tuple[str, ...]
    machine: str
    dtype: str
    versions: str

    def words(self) -> str:
        """One line."""
        scale = "" if self.scale == SCALE else f"scale={self.scale}, {self.model} on {self.dataset}"
        parts = (scale, self.hardware, *self.settings, self.machine, self.dtype, self.versions)
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class Row:
    """A record, and the overrides of its run."""

    record: Record
    overrides: tuple[str, ...]


Values = Mapping[Made, Mapping[int, float]]
"""Our values of one figure by what they were made with and by seed."""


def rows_of(paths: Sequence[Path]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """(records below the paths, each once, with their runs' overrides; sentences on jobs that left none).

    Raises:
        UserError: a path is not there, nothing is found, or a line is no record.
    """
    gathered = gather(paths)
    found: dict[Row, None] = {}
    for file in gathered.files:
        beside = overrides_of(file) or ()
        for record in read(file):
            found[Row(record, parted(record.overrides) if record.overrides else beside)] = None
    return tuple(found), gathered.missing


def answers(study: Study, figure: Figure, rows: Iterable[Row], any_scale: bool = False) -> Values:
    """Our values of a figure.

    A run answers a study if it has its recipe, its overrides and no other (but for where it ran and what it measured)
    and, at scale=paper, its model and data set.

    Args:
        any_scale: runs of other scales count too, and are kept apart.

    Raises:
        UserError: one seed has two values that should be the same.
    """
    found: dict[Made, dict[int, float]] = {}
    for row in rows:
        record = row.record
        wanted = (figure.state, figure.probe, figure.metric, "", "final")
        if (record.state, record.probe, record.metric, record.group, record.moment) != wanted:
            continue
        if record.value is None or not answered(study, row, any_scale):
            continue
        settings = tuple(sorted(w for w in row.overrides if key_of(w).startswith("hardware.")))
        made = Made(
            record.scale,
            record.model,
            record.dataset,
            record.hardware,
            settings,
            record.machine,
            record.dtype,
            record.versions,
        )
        before = found.setdefault(made, {}).setdefault(record.seed, float(record.value))
        if before != record.value:
            raise UserError(
                f"{record.recipe}, {record.state}, {record.metric}, seed {record.seed}: {before:g} and "
                f"{record.value:g} of the same settings; name one of the two runs"
            )
    return found


def answered(study: Study, row: Row, any_scale: bool = False) -> bool:
    """Whether a record is of a run that a study asks for; see ``answers``."""
    record = row.record
    if record.recipe != study.recipe or set(_own(row.overrides)) != set(_own(parted(told(study.run)))):
        return False
    if record.scale != SCALE:
        return any_scale
    return (record.model, record.dataset) == (study.model, study.dataset)


def unasked(topics: Sequence[Topic], rows: Iterable[Row], any_scale: bool = False) -> list[str]:
    """A sentence for each kind of run whose records answer nothing, and why."""
    studies = [s for t in topics for s in t.studies]
    recipes = {s.recipe for s in studies}
    said: dict[str, None] = {}
    for row in rows:
        record = row.record
        if any(answered(s, row, any_scale) for s in studies):
            continue
        run = " ".join([f"recipe={record.recipe}", f"scale={record.scale}", *row.overrides])
        if record.recipe not in recipes:
            why = "no published figure here asks for this recipe"
        elif record.scale != SCALE and not any_scale:
            why = f"only scale={SCALE} answers published figures; --any-scale takes others, and says so"
        else:
            why = f"no study asks for {record.model} on {record.dataset} with just these overrides"
        said[f"{run}: left out, {why}"] = None
    return list(said)


def page(
    topics: Sequence[Topic], rows: Sequence[Row] = (), any_scale: bool = False, left_out: Sequence[str] = ()
) -> str:
    """The whole page as Markdown.

    Args:
        left_out: sentences on what is not on it.

    Raises:
        UserError: one seed has two values that should be the same.
    """
    parts = [INTRO]
    if any_scale:
        parts.append(
            "**Made with --any-scale**: runs of other scales than paper are shown too, and say so.\n"
        )
    for topic in topics:
        parts.append(f"## {escaped(topic.title)}\n")
        parts += [_study(study, rows, any_scale) for study in topic.studies]
    if left_out:
        parts += ["## Left out\n", *(f"- {escaped(sentence)}" for sentence in left_out), ""]
    return "\n".join(parts)


def reading(figure: Figure, values: Sequence[float]) -> str:
    """How our values stand to a published figure, in words that claim no more than their number carries."""
    if figure.value is None:
        return "no number to compare with"
    found = spread(values)
    assert found is not None
    if figure.unit != "%":
        return f"ours is {found.mean / figure.value:.4f} times it"
    apart = found.mean - figure.value
    signed = f"{'+' if apart > 0 else '−' if apart < 0 else ''}{abs(apart):.2f} points"
    if found.n < 2:
        return f"one seed, {signed}: no interval"
    single = figure.n == 1
    low, high = of_another(values) if single else of_mean(values)
    place = (
        "contains it"
        if low <= figure.value <= high
        else f"lies {'above' if low > figure.value else 'below'} it"
    )
    whose = "range of a further run of ours" if single else "interval of our mean"
    told = f"{signed}; the 95 % {whose}, {max(low, 0):.2f} to {min(high, 100):.2f}, {place}"
    if figure.spread is not None:
        inside = "within" if abs(apart) <= figure.spread else "outside"
        told += f"; our mean is {inside} their ± {figure.spread:g}"
    return told


def escaped(text: str) -> str:
    """A text as Markdown shows it, whatever stands in it; one line, fit for a table's cell."""
    return SPECIAL.sub(lambda found: f"\\{found[0]}", clean_line(text))


def command(study: Study) -> str:
    """What runs a study for one seed on this machine."""
    return shlex.join(["compressbench", "run", f"recipe={study.recipe}", f"scale={SCALE}", *study.run])


def _own(overrides: Iterable[str]) -> list[str]:
    return [w for w in overrides if not ELSEWHERE.match(key_of(w))]


def _study(study: Study, rows: Sequence[Row], any_scale: bool) -> str:
    made: dict[Made, int] = {}
    table = [
        f"### {escaped(study.title)}\n",
        f"| {escaped(study.data)} | published | mark | ours | how they stand |",
        "|---|---|---|---|---|",
    ]
    for figure in study.figures:
        start = f"| {escaped(_called(figure))} | {_published(figure)} | {figure.mark} |"
        if figure.missing:
            table.append(f"{start} no recipe | {escaped(figure.missing)} |")
            continue
        found = answers(study, figure, rows, any_scale)
        if not found:
            table.append(f"{start} {NOT_RUN} | |")
        for one, by_seed in found.items():
            values = list(by_seed.values())
            place = made.setdefault(one, len(made) + 1)
            stands = reading(figure, values) if one.scale == SCALE else "another scale: not compared"
            table.append(f"{start} {_ours(figure, values)} [{place}] | {escaped(stands)} |")
    told = [f"[{place}] {escaped(one.words())}" for one, place in made.items()]
    lines = [
        f"- Source: {escaped(study.source)}",
        f"- Protocol: {escaped(study.protocol)}",
        *(f"- Differs: {escaped(text)}" for text in study.differs),
        *(f"- Made with {text}" for text in told),
    ]
    return "\n".join([*table, "", *lines, "", f"      {command(study)}", ""])


def _called(figure: Figure) -> str:
    return figure.net if figure.metric == "top1" else f"{figure.net}: {title_of(figure.metric)}"


def _published(figure: Figure) -> str:
    of = f"mean of {figure.n} runs" if figure.n and figure.n > 1 else ""
    if figure.value is None:
        return escaped(figure.printed)
    value = _value(figure.value, figure.unit)
    value += f" ± {figure.spread:g}" if figure.spread is not None else ""
    beside = ", ".join(text for text in (figure.printed, of) if text)
    return escaped(f"{value} ({beside})" if beside else value)


def _ours(figure: Figure, values: Sequence[float]) -> str:
    found = spread(values)
    assert found is not None
    value = _value(found.mean, figure.unit)
    if found.sd is not None and figure.unit == "%":
        value = f"{found.mean:.2f} ± {found.sd:.2f} %"
    return escaped(f"{value} ({'one seed' if found.n == 1 else f'{found.n} seeds'})")


def _value(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.2f} %"
    if unit == "MACs":
        return f"{value / 1e6:.2f} M"
    return f"{number(value, unit)}{f' {unit}' if unit != '1' else ''}"
