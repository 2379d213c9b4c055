"""Every changed answer as a CSV file, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from compressbench.paths import write_named
from compressbench.records import no_formula
from compressbench.showing.account import Account

COLUMNS = (
    "reference", "other", "row", "id", "kind", "label", "label_name", "reference_answer", "reference_name",
    "reference_confidence", "other_answer", "other_name", "other_confidence", "weight",
)  # fmt: skip
"""Of texts there is one more, ``text``."""


def write_flips(account: Account, path: Path) -> Path:
    """Writes the list, the worst first, one comparison after another (see ``flips_csv``).

    Raises:
        UserError: it can't be written.
    """
    return write_named(path, flips_csv(account))


def flips_csv(account: Account) -> str:
    """RFC 4180 with a header. A missing label, answer or confidence is empty; a confidence is in [0, 1]."""
    names = account.names
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    texts = account.asked.texts
    writer.writerow([*COLUMNS, *(["text"] if texts else [])])
    for place, found in enumerate(account.comparisons):
        for flip in found.flips:
            cells: list[int | float | str] = [
                names[0],
                names[place + 1],
                flip.row,
                flip.id,
                flip.kind,
                *_class(account, flip.label),
            ]
            cells += [*_class(account, flip.reference), _number(flip.reference_confidence)]
            cells += [*_class(account, flip.other), _number(flip.other_confidence), _number(flip.weight)]
            cells += [texts(flip.row)] if texts else []
            writer.writerow([no_formula(c) for c in cells])
    return buffer.getvalue()


def _class(account: Account, code: int) -> tuple[int | str, str]:
    return (code, account.class_name(code)) if code >= 0 else ("", "")


def _number(value: float) -> float | str:
    return round(value, 6) if value == value else ""
