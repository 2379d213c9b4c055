"""The one file of results: a JSON object a line, written as soon as it is known; and the table that is made of it."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PATH = re.compile(r"(?<![\w.])(?:/[\w.+@-]+)+/([\w.+@<>-]+)")
FAILED, CUT = "failed", "cut"
NEVER = "never run on a card"
REPEATS = 24
PASSED = "passed"
"""Of a single test; the page has their number."""


def clean(text: str) -> str:
    """One line, in which no absolute path is left but its last part."""
    return PATH.sub(r"\1", " ".join(text.split()))


def one_line(error: BaseException) -> str:
    """An error in a line: what it says, before that its kind where it is none of the project's own."""
    said = clean(str(error))
    return said if type(error).__name__ == "UserError" else f"{type(error).__name__}: {said}"


@dataclass(frozen=True)
class Sheet:
    """Where one part's rows go.

    Attributes:
        path: of the JSONL.
        part: the part's name.
        about: what every row carries: device, card, driver, torch, cuda, python, processor, commit, smoke.
    """

    path: Path
    part: str
    about: Mapping[str, Any]

    @property
    def device(self) -> str:
        """``cuda``, or ``cpu`` in a smoke run."""
        return str(self.about["device"])

    @property
    def smoke(self) -> bool:
        """Whether everything is tiny and on the CPU."""
        return bool(self.about["smoke"])

    def add(
        self,
        arm: str,
        metric: str,
        value: float | None,
        unit: str,
        *,
        n: int = 1,
        repeats: Sequence[float] = (),
        seed: int = 0,
        note: str = "",
    ) -> None:
        """One row, on the disk when this returns. ``repeats`` are the single figures whose summary ``value`` is."""
        row = {
            "part": self.part, "arm": arm, "metric": metric, "value": value, "unit": unit, "n": n,
            "repeats": [float(f"{x:.6g}") for x in repeats[:REPEATS]], "seed": seed, "note": clean(note),
            "when": datetime.now(UTC).isoformat(timespec="seconds"), **self.about,
        }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def middle(self, arm: str, metric: str, values: Sequence[float], unit: str, **more: Any) -> None:
        """A row of the median of ``values``."""
        self.add(arm, metric, statistics.median(values), unit, n=len(values), repeats=values, **more)

    def failed(self, arm: str, error: BaseException | str) -> None:
        """A row that says why there is no figure."""
        said = error if isinstance(error, str) else one_line(error)
        self.add(arm, FAILED, None, "", n=0, note=said)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, less a last line that was cut."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def table(rows: Iterable[Mapping[str, Any]], parts: Mapping[str, str]) -> str:
    """Markdown: for each part its question, then its rows from a card, or that there are none.

    Args:
        parts: name -> the question that it answers, in order.
    """
    real = [row for row in rows if row["device"] != "cpu" and not row["smoke"]]
    made = sorted({tuple(str(row[k]) for k in ("card", "driver", "torch", "cuda", "commit")) for row in real})
    out = [f"{card}, driver {driver}, torch {torch}, CUDA {cuda}, commit {commit}."
           for card, driver, torch, cuda, commit in made]  # fmt: skip
    for part, question in parts.items():
        own = [row for row in real if row["part"] == part]
        out += ["", f"### {part}: {question}", ""]
        if not own:
            out.append(f"{NEVER[0].upper()}{NEVER[1:]}.")
            continue
        out += ["| arm | figure | value | n | note |", "|---|---|---|---|---|"]
        out += [_line(row) for row in own if row["metric"] != PASSED]
    return "\n".join(out).strip() + "\n"


def _line(row: Mapping[str, Any]) -> str:
    value, repeats = row["value"], row["repeats"]
    said = "–" if value is None else f"{_short(value)} {row['unit']}".strip()
    if len(repeats) > 1:
        said += f" ({_short(min(repeats))}–{_short(max(repeats))})"
    cells = (row["arm"], row["metric"], said, str(row["n"]), row["note"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
