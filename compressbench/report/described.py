"""What each series is, in a line: ``series.json`` beside a run's records, which don't hold it.

The lines are found again by series and content address, so that a joint report, or one of moved records, has them too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compressbench.console import clean
from compressbench.paths import nameless, write_text
from compressbench.report.panels import Panel, Series

FILE = "series.json"
SCHEMA = 1
LONGEST = 600
Lines = Mapping[tuple[str, str], str]
"""(series, content address of a state) -> the series in a line."""


@dataclass(frozen=True)
class Described:
    """A series in a line, and the content addresses of its states."""

    series: str
    line: str
    keys: tuple[str, ...]


def lines_of(found: Iterable[Described]) -> Lines:
    """The lines by series and content address, in which no folder of the user's is left."""
    return {(one.series, key): nameless(one.line) for one in found for key in one.keys}


def write_lines(lines: Lines, folder: Path) -> None:
    """Writes ``series.json``; nothing where there is nothing to say.

    Raises:
        OSError: it can't be written.
    """
    if not lines:
        return
    keys: dict[tuple[str, str], list[str]] = {}
    for (series, key), line in lines.items():
        keys.setdefault((series, line), []).append(key)
    rows = [{"series": series, "line": line, "keys": own} for (series, line), own in keys.items()]
    text = json.dumps({"schema": SCHEMA, "series": rows}, indent=1, ensure_ascii=False)
    write_text(folder / FILE, text + "\n")


def read_lines(folder: Path) -> Lines:
    """The lines of a folder; none where it has no such file, or one that isn't of this form: it is only an aid."""
    try:
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            return {}
        found = [Described(row["series"], row["line"], tuple(row["keys"])) for row in data["series"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    whole = [
        d for d in found if isinstance(d.series, str) and isinstance(d.line, str) and all(map(_text, d.keys))
    ]
    return {place: clean(line)[:LONGEST] for place, line in lines_of(whole).items()}


def _text(found: object) -> bool:
    return isinstance(found, str)


def described(panel: Panel, lines: Lines) -> list[tuple[Series, str]]:
    """Each series of a panel, the dense one first, with its line; only those that have one."""
    keys: dict[tuple[str, str], dict[str, None]] = {}
    for row in panel.rows:
        keys.setdefault((row.recipe, row.series), {})[row.key] = None
    told = []
    for series in panel.everything():
        own = dict.fromkeys(
            line
            for key in keys.get((series.recipe, series.name), ())
            if (line := lines.get((series.name, key)))
        )
        if own:
            told.append((series, "; or ".join(own)))
    return told
