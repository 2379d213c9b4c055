"""``compressbench tour``: the lecture slide by slide; ``tour N`` runs a slide, ``tour --write`` makes the page."""

from __future__ import annotations

import importlib
import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.cli import main as front
from compressbench.cli.parser import Parser, a_path
from compressbench.console import clean_line, say
from compressbench.errors import UserError
from compressbench.paths import outputs_folder, write_named
from compressbench.report.tour_rows import Part, Slide, found, parts

if TYPE_CHECKING:
    from compressbench.report.tour_runs import Run
    from compressbench.report.tour_told import Told

PAGE = "docs/tour.html"
WIDEST = 112
INDENT = 5
USAGE = "compressbench tour [--only N …] | tour N [what a run may be given …] | tour --write [FILE]"


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: no such slide, one that isn't built, nothing to make a page of, or a page that can't be written.
    """
    lecture = parts()
    slides = [slide for part in lecture for slide in part.slides]
    if argv and not argv[0].startswith("-"):
        return _run(found(argv[0], slides), argv[1:])
    parser = Parser(prog="compressbench tour", usage=USAGE, description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="N", help="of these slides only, by number or name"
    )
    parser.add_argument(
        "--write",
        nargs="?",
        const=PAGE,
        metavar="FILE",
        help=f"the page, one picture a slide, made from stored records; {PAGE} without a FILE",
    )
    parser.add_argument(
        "--outputs", default=os.environ.get("COMPRESSBENCH_OUTPUTS", "outputs"), help="as in a run"
    )
    args = parser.parse_args(argv)
    outputs = outputs_folder(args.outputs, "--outputs")
    if args.only:
        kept = {found(asked, slides).name for asked in args.only}
        lecture = _kept(lecture, kept)
    known = _known(lecture, outputs)
    one_by_one = (
        bool(args.only) or args.write is not None
    )  # of each run the plan is made again: a while for many
    times = {told.slide.name: _time(told, outputs if one_by_one else None) for told in known}
    if args.write is None:
        columns = shutil.get_terminal_size().columns
        say("\n".join(_listing(lecture, known, times, min(columns, WIDEST))))
        return 0
    return _write(lecture, known, times, a_path(args.write), outputs)


def _run(slide: Slide, given: Sequence[str]) -> int:
    """Just what ``compressbench run`` does with the slide's recipe; the report says where it is."""
    if not slide.built:
        raise UserError(
            f"tour: slide {slide.number}, {slide.name}, is not built: there is no recipe {slide.recipe} yet"
        )
    verb = importlib.import_module(front.VERBS["run"][0])
    code: int = verb.main([f"recipe={slide.recipe}", *slide.run, *given])
    if code == 0 and slide.picture and not any(word.startswith("-") for word in given):
        say(f"slide {slide.number}, {slide.name}: in that report see {slide.picture.shows}")
    return code


def _kept(lecture: Sequence[Part], names: set[str]) -> tuple[Part, ...]:
    cut = (replace(part, slides=tuple(s for s in part.slides if s.name in names)) for part in lecture)
    return tuple(part for part in cut if part.slides)


def _known(lecture: Sequence[Part], outputs: Path) -> list[Told]:
    from compressbench.report.tour_runs import runs_below
    from compressbench.report.tour_told import told

    runs = runs_below(outputs)
    return [told(slide, runs) for part in lecture for slide in part.slides]


def _time(known: Told, outputs: Path | None) -> str:
    """How long the slide takes: here, if it was run here, and where it was published.

    Args:
        outputs: whose store knows how long it took here; None to leave that out.
    """
    from compressbench.report.tour_told import time_of

    if outputs is None:
        return time_of(known, None)
    return time_of(known, _seconds(known.runs[-1], outputs) if known.runs else "")


def _seconds(run: Run, outputs: Path) -> str:
    """How long a run's states took here, as the store remembers, in words; empty where it doesn't."""
    from compressbench.runs.estimate import in_words, making
    from compressbench.runs.execute import Executor, Watcher
    from compressbench.runs.finished import Trust, opened

    try:
        ready = opened(run.folder, Trust(outputs=str(outputs)))
    except UserError:  # its data or its store are gone, or it trusts somebody: then nothing is known
        return ""
    seconds = making(ready, Executor(ready.plan, ready.store, ready.setting, Watcher()))
    return "" if seconds is None else in_words(seconds)


def _write(
    lecture: Sequence[Part], known: Sequence[Told], times: Mapping[str, str], path: Path, outputs: Path
) -> int:
    from compressbench.report.tour_page import page
    from compressbench.report.tour_told import RESULTS

    if path.suffix != ".html":
        raise UserError(f"--write: {path} is no HTML file; name one, e.g. {PAGE}")
    if not any(told.runs for told in known):
        one = next((told for told in known if told.slide.built), None)
        try_this = f"; make some: {one.command}" if one else ""
        raise UserError(f"tour: no records of any slide below {outputs}{try_this}")
    docs = Path(RESULTS).name if (path.parent / Path(RESULTS).name).is_file() else ""
    write_named(path, page(lecture, known, times, docs))
    say(f"page: {path}")
    return 0


def _listing(
    lecture: Sequence[Part], known: Sequence[Told], times: Mapping[str, str], width: int
) -> list[str]:
    by_name = {told.slide.name: told for told in known}
    lines = []
    for part in lecture:
        lines += [clean_line(part.title), "=" * min(len(part.title), width), ""]
        for slide in part.slides:
            lines += [*_slide(by_name[slide.name], times[slide.name], width), ""]
    return lines


def _slide(told: Told, time: str, width: int) -> list[str]:
    from compressbench.report.tour_told import scale_of

    slide = told.slide
    fields = [("slide", slide.claim), ("source", slide.source)]
    if slide.built:
        also = f" (also {', '.join(slide.also)})" if slide.also else ""
        shows = slide.picture.shows if slide.picture else "the first chart of its report"
        fields += [("run", told.command + also), ("time", time), ("picture", shows)]
    if told.here:
        fields.append(("here", f"{scale_of(told)}: {told.here}"))
    if told.others:
        fields.append(("", f"({told.others} more of its runs here have other settings or another scale)"))
    fields.append(("result", told.published))
    fields += [("more", told.address)] if told.section else []
    fields += [("erratum", f"the slide: {e.slide}. {e.right} [{e.mark}]") for e in slide.errata]
    head = textwrap.wrap(
        clean_line(f"{slide.number:>3}  {slide.title}  [{slide.name}]"), width, subsequent_indent=" " * INDENT
    )
    return [*head, *(line for label, text in fields for line in _field(label, text, width))]


def _field(label: str, text: str, width: int) -> list[str]:
    first = f"{' ' * INDENT}{label:<9}"
    return textwrap.wrap(
        clean_line(text),
        max(width, 40),
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_on_hyphens=False,
    )
