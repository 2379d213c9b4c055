"""Jobs below a folder that left no records, or not all of them, and why: what a joint report is silent on otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressbench.console import clean_line
from compressbench.paths import nameless
from compressbench.specs.compose import LARGEST
from compressbench.specs.overrides import key_of

FAILED = "error.txt"
NAMED = 8
LONGEST = 300
SAME_FIGURES = ("outputs", "data_dir", "trust", "retime", "checkpoint_seconds", "hydra")


@dataclass(frozen=True)
class Job:
    """A run whose records aren't there, or aren't all there.

    Attributes:
        folder: its own.
        given: the overrides it was started with, in one line; empty if unknown.
        why: the first line of what it left as a reason; empty for one that was killed or is still running.
        partial: whether some records are there.
    """

    folder: Path
    given: str
    why: str
    partial: bool


def unfinished(folders: Iterable[Path], records: str) -> tuple[Job, ...]:
    """Jobs in or below the folders, in their order, each once.

    Args:
        records: the name of the file in which a job leaves its records.
    """
    found: dict[Path, Job] = {}
    for top in folders:
        failed = {path.parent for path in top.rglob(FAILED) if path.is_file()}
        started = {path.parent for path in top.rglob(".hydra") if path.is_dir() and not path.is_symlink()}
        for folder in sorted(failed | started, key=_by_number):
            partial = (folder / records).is_file()
            if folder in failed or not partial:
                why = (_lines(folder / FAILED) or [""])[0]
                found.setdefault(folder.resolve(), Job(folder, _given(folder), _cut(why), partial))
    return tuple(found.values())


def told(jobs: Sequence[Job]) -> list[str]:
    """A sentence for each reason, naming the jobs."""
    alike: dict[tuple[str, bool], list[Job]] = {}
    for job in jobs:
        alike.setdefault((job.why, job.partial), []).append(job)
    return [_sentence(why, partial, own) for (why, partial), own in alike.items()]


def command(folder: Path) -> list[str] | None:
    """The overrides of a run as Hydra wrote them into its folder; ``None`` if it didn't."""
    path = folder / ".hydra" / "overrides.yaml"
    if path.parent.is_symlink() or (lines := _lines(path)) is None:
        return None
    return [line[2:].strip().strip("'\"") for line in lines if line.startswith("- ")]


def _sentence(why: str, partial: bool, jobs: Sequence[Job]) -> str:
    names = [f"{job.folder.name} ({job.given})" if job.given else job.folder.name for job in jobs[:NAMED]]
    more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
    whose = f"{'Job' if len(jobs) == 1 else 'Jobs'} {', '.join(names)}{more}"
    if not why:
        return f"{whose}: no records here; killed, or still running."
    here = "only what was measured until then is here" if partial else "no records here"
    return f"{whose} failed, {here}: {why.rstrip('.')}."


def _given(folder: Path) -> str:
    kept = [x for x in command(folder) or () if key_of(x).split(".")[0] not in SAME_FIGURES]
    return _cut(" ".join(kept))


def _cut(text: str) -> str:
    text = nameless(clean_line(text))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _lines(path: Path) -> list[str] | None:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return None
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None


def _by_number(folder: Path) -> tuple[str, int, str]:
    name = folder.name
    return str(folder.parent), int(name) if name.isascii() and name.isdigit() else -1, name
