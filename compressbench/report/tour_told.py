"""What is known of a slide beyond its row: its recipe's header, the section of the results, what records say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from compressbench.errors import UserError
from compressbench.records import Record
from compressbench.report.tour_rows import Slide
from compressbench.report.tour_runs import Run, came_out, records_of, runs_of
from compressbench.specs.conf import conf_dir

WORD = re.compile(r"# ([A-Z][a-z]+) +(\S.*)")
MORE = re.compile(r"#  +(\S.*)")
MINUTES = re.compile(r"about ([\w.]+ (?:CPU-)?(?:minutes?|hours?)[\w ]*? a seed)")
PLAIN = re.compile(r"[\w.@/+~]+=")
RESULTS = "docs/results.md"
NOT_HERE = "not run here"
UNKNOWN = "run here; how long it takes isn’t known any more"
ASK = "run here; compressbench tour --only {} says how long its training took"
NOT_BUILT = "not built: there is no recipe {} yet"


@dataclass(frozen=True)
class Header:
    """What a recipe's first comment says: its line ``Run``, and ``Measured``, what came out where it was published."""

    run: str
    measured: str

    @property
    def minutes(self) -> str:
        """How long a seed took where that was measured, in words; empty where it isn't said."""
        told = MINUTES.search(self.measured)
        return f"about {told[1]}" if told else ""


@dataclass(frozen=True)
class Told:
    """A slide and what is known of it now.

    Attributes:
        slide: the row.
        command: what runs it, as a shell takes it.
        minutes: how long a seed took where it was published, in words; empty where nobody says.
        here: what came out, by the records of runs here; empty where there are none.
        published: what came out where it was published, or why nothing was.
        section: the heading of the results that says more, empty for none, and its address.
        runs: the runs that were read, none where the published result speaks.
        records: theirs.
        others: runs of the recipe with other settings or at another scale, which say nothing here.
    """

    slide: Slide
    command: str
    minutes: str
    here: str
    published: str
    section: str
    address: str
    runs: tuple[Run, ...] = ()
    records: tuple[Record, ...] = ()
    others: int = 0

    @property
    def scale(self) -> str:
        """Of the runs, which is one; empty of none."""
        return self.runs[0].scale if self.runs else ""


def told(slide: Slide, runs: Sequence[Run]) -> Told:
    """What is known of a slide; of one whose recipe isn't there, that it isn't built."""
    if not slide.built:
        return Told(slide, run_of(slide, ""), "", "", NOT_BUILT.format(slide.recipe), "", "")
    head = header(slide.file)
    section, address = section_of(slide.recipe, results())
    chosen, others = runs_of(slide, runs)
    here = ""
    records: tuple[Record, ...] = ()
    if chosen:
        try:
            records = records_of(chosen)
            here = came_out(records, slide.answer)
        except UserError as error:
            here = f"the records can’t be read: {error}"
        except (ArithmeticError, ValueError) as error:  # figures that no probe writes
            here = f"the records say nothing that can be told: {type(error).__name__}: {error}"
    return Told(
        slide,
        run_of(slide, head.run),
        head.minutes,
        here,
        head.measured or "nothing is said of it",
        section,
        address,
        chosen,
        records,
        others,
    )


def time_of(known: Told, seconds: str | None = "") -> str:
    """How long a seed takes, in a sentence's part.

    Args:
        seconds: of the training here, in words; empty where that isn't known, None where it wasn't looked up.
    """
    here = NOT_HERE
    if known.runs:
        here = UNKNOWN if seconds is not None else ASK.format(known.slide.name)
    if seconds:
        here = f"about {seconds} of training a seed here, at scale={known.scale}, and measuring"
    return f"{known.minutes} where it was published; {here}" if known.minutes else here


def scale_of(known: Told) -> str:
    """The scale of the runs here, with what a scale of tests is worth."""
    return f"scale={known.scale}" + (", a test of the machinery, no result" if known.scale == "smoke" else "")


def header(path: Path) -> Header:
    """What a recipe's file says above its settings.

    Raises:
        UserError: it can't be read.
    """
    blocks: dict[str, list[str]] = {}
    word = ""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    for line in lines:
        if not line.startswith("#"):
            break
        if begun := WORD.match(line):
            word = begun[1]
            blocks.setdefault(word, []).append(begun[2])
        elif (more := MORE.match(line)) and word:
            blocks[word].append(more[1])
    run, measured = (" ".join(blocks.get(name, ())) for name in ("Run", "Measured"))
    return Header(run, measured)


def run_of(slide: Slide, line: str) -> str:
    """The command of a slide, with what its recipe's line ``Run`` says is needed, such as ``data_dir=FOLDER``."""
    words = line.split()
    own = ["compressbench", "run", f"recipe={slide.recipe}"]
    needed = takewhile(PLAIN.match, words[3:]) if words[:3] == own else ()
    return " ".join([*own, *needed, *map(shlex.quote, slide.run)])


def results() -> str:
    """The results as published; empty where the docs aren't, as in an installed wheel."""
    path = conf_dir().parent / RESULTS
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def section_of(recipe: str, text: str) -> tuple[str, str]:
    """(heading, address) of the section of the results that names a recipe; empty where none does."""
    for heading in re.findall(r"^## (.+)$", text, re.M):
        if recipe in re.findall(r"\w+", heading.partition(":")[0]):
            return heading, f"{RESULTS}#{anchor(heading)}"
    return "", ""


def anchor(heading: str) -> str:
    """The address that a heading of Markdown has on its page: ``Not run`` is ``not-run``."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
