"""Many runs in one report: finds their records, drops what was read twice, names what would collide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from compressbench.errors import UserError
from compressbench.paths import nameless, resolved
from compressbench.records import Record, Records, read_jsonl, write_csv, write_jsonl
from compressbench.report import naming
from compressbench.report.described import Lines, read_lines, write_lines
from compressbench.report.panels import conflicts
from compressbench.report.unfinished import command, unfinished
from compressbench.report.unfinished import told as told_of
from compressbench.specs.compose import as_published, plain_data
from compressbench.specs.overrides import parted, told

FILE = "records.jsonl"
TEXTS = tuple(f.name for f in fields(Record) if f.type == "str")


@dataclass(frozen=True)
class Gathered:
    """Records of many runs.

    Attributes:
        files: the record files that contributed.
        records: as they were measured, each once.
        drawn: the same, the recipe called by what its overrides differ in where it was run with several settings for
            the same seed: a label for the axes, never written. A series that all of them share keeps its name.
        config: the configuration of a single run, or the overrides of each of many; empty if unknown.
        empty: folders that hold no records, e.g. of killed runs, where others do.
        missing: sentences on jobs that failed or left no records, and why.
        lines: what each series is in a line, by series and content address.
    """

    files: tuple[Path, ...]
    records: Records
    drawn: Records
    config: str
    empty: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()
    lines: Lines = field(default_factory=dict)

    @property
    def recipes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r.recipe for r in self.records))


def joint_report(paths: Sequence[Path], output: Path) -> Path:
    """Reads all records below the paths and writes one report, with the joint records beside it.

    Raises:
        UserError: there are no records, a file holds something else, or the folder can't be written.
    """
    return write_joint(gather(paths), output)


def write_joint(gathered: Gathered, output: Path) -> Path:
    """Writes the report and, unless the folder is the one run that it reports, the joint records."""
    from compressbench.report.page import write_report

    own = output / FILE
    a_run = own.exists() and (output / "config.yaml").exists()  # never overwritten: what it measured
    if not a_run and not (len(gathered.files) == 1 and own.exists() and own.samefile(gathered.files[0])):
        try:
            output.mkdir(parents=True, exist_ok=True)
            write_jsonl(gathered.records, own)
            write_csv(gathered.records, output / "records.csv")
            write_lines(gathered.lines, output)
        except OSError as error:
            raise UserError(f"can't write to {output}: {error.strerror or error}") from error
    return write_report(
        gathered.drawn,
        output,
        _title(gathered),
        gathered.config,
        gathered.recipes,
        gathered.missing,
        gathered.lines,
    )


def gather(paths: Sequence[Path]) -> Gathered:
    """Records of run folders, sweep folders and record files; rows that are equal, overrides and all, count once.

    Raises:
        UserError: a path is not there, nothing is found, or a line is no record.
    """
    kept, whole, empty = _kept(paths)
    missing = told_of(unfinished([p for p in paths if p.is_dir()], FILE))
    records = Records(r for rows in kept.values() for r in rows)
    lines = {place: line for file in kept for place, line in read_lines(file.parent).items()}
    config = _config(tuple(kept))
    return Gathered(tuple(kept), records, _drawn(whole), config, empty, tuple(missing), lines)


def drawn(paths: Sequence[Path]) -> Records:
    """``gather(paths).drawn`` alone: no configuration is read.

    Raises:
        UserError: as there.
    """
    return _drawn(_kept(paths)[1])


def _kept(paths: Sequence[Path]) -> tuple[dict[Path, Records], dict[Path, Records], tuple[Path, ...]]:
    """(each file's rows that no file before has; its rows that are drawn; folders without records)."""
    files, joint, empty = _files(paths)
    seen: set[Record] = set()
    kept: dict[Path, Records] = {}
    whole: dict[Path, Records] = {}
    for file in files:
        rows = read(file)
        fresh = dict.fromkeys(r for r in rows if r not in seen)
        seen.update(fresh)
        if fresh:
            kept[file] = Records(fresh)
            whole[file] = kept[file] if file in joint else rows
    if not kept:
        raise UserError(f"{', '.join(map(str, paths))}: no records in {FILE}; did the run measure anything?")
    return kept, whole, empty


def read(file: Path) -> Records:
    """Records of one file, with the types that everything later relies on.

    Raises:
        UserError: it can't be read, or a line is no record.
    """
    rows = read_jsonl(file)
    for number, row in enumerate(rows, 1):
        _check(row, file, number)
    return rows


def _files(paths: Sequence[Path]) -> tuple[list[Path], frozenset[Path], tuple[Path, ...]]:
    """(record files below the paths in natural order; those of joint reports, which come last; folders without)."""
    found: dict[Path, Path] = {}
    empty = []
    for path in paths:
        if path.is_dir():
            below = sorted((f for f in path.rglob(FILE) if f.is_file()), key=_natural)
            if not below:
                empty.append(path)
        elif path.is_file():
            below = [path]
        else:
            raise UserError(f"{path}: there is no such file or folder")
        for file in below:
            found.setdefault(resolved(file, str(path)), file)
    if empty and not found:
        missing = told_of(unfinished(empty, FILE))
        why = " ".join(missing) or "give a run's or a sweep's folder"
        raise UserError(f"{empty[0]}: no {FILE} in this folder or below; {why}")
    folders = [real.parent for real in found]
    joint = {
        real
        for real in found
        if any(real.parent in folder.parents for folder in folders)
        and not (real.parent / "config.yaml").is_file()  # a run, with imported timings below it
    }
    last = [f for r, f in found.items() if r in joint]
    return [f for r, f in found.items() if r not in joint] + last, frozenset(last), tuple(empty)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def _check(row: Record, file: Path, number: int) -> None:
    """The JSON types that everything later relies on."""
    whole = (("seed", row.seed), ("order", row.order), ("n", row.n))
    figures = (("density", row.density), ("compute", row.compute))
    wrong = [name for name, value in whole if not isinstance(value, int) or isinstance(value, bool)]
    wrong += [
        name for name, value in figures if not isinstance(value, int | float) or isinstance(value, bool)
    ]
    if row.value is not None and (not isinstance(row.value, int | float) or isinstance(row.value, bool)):
        wrong.append("value")
    wrong += [name for name in TEXTS if not isinstance(getattr(row, name), str)]
    if wrong:
        raise UserError(f"{file}:{number}: not a record ({wrong[0]} is {getattr(row, wrong[0])!r})")


@dataclass(frozen=True)
class _Arm:
    """Runs of one recipe with the same overrides; of a run whose overrides nobody knows, its folder."""

    recipe: str
    overrides: tuple[str, ...]
    folder: str = ""


def _drawn(kept: dict[Path, Records]) -> Records:
    """Calls recipes by what their runs differ in, where they would otherwise collide."""
    known = {file: overrides_of(file) for file in kept}
    runs: dict[_Arm, dict[Record, None]] = {}
    for file, rows in kept.items():
        for row in rows.rows:
            given = parted(row.overrides) if row.overrides else known[file]
            arm = _Arm(row.recipe, given or (), file.parent.name if given is None else "")
            runs.setdefault(arm, {})[replace(row, overrides="")] = None
    recipes = list(dict.fromkeys(arm.recipe for arm in runs))
    drawn: list[Record] = []
    for recipe in recipes:
        own = {arm: list(rows) for arm, rows in runs.items() if arm.recipe == recipe}
        if len(own) < 2 or not conflicts(row for rows in own.values() for row in rows):
            drawn += dict.fromkeys(row for rows in own.values() for row in rows)
            continue
        shared = set.intersection(*map(set, own.values()))
        before: list[tuple[str, set[Record]]] = []
        for (arm, all_of), words in zip(own.items(), naming.arms([a.overrides for a in own]), strict=True):
            name = f"{recipe} ({arm.folder})" if arm.folder else words
            if not arm.folder and len(recipes) > 1:
                name = f"{recipe}, {words}" if words else recipe
            for series in dict.fromkeys(row.series for row in all_of):
                mine = [row for row in all_of if row.series == series]
                if any(of == series and earlier.issuperset(mine) for of, earlier in before):
                    continue
                before.append((series, set(mine)))
                label = recipe if shared.issuperset(mine) else name or recipe
                drawn += [replace(row, recipe=label) for row in mine]
    return Records(drawn)


def overrides_of(file: Path) -> tuple[str, ...] | None:
    """What the command line of a run changed, as Hydra wrote it; ``None`` if it didn't."""
    given = command(file.parent)
    return None if given is None else parted(told(given))


def _config(files: Sequence[Path]) -> str:
    if len(files) == 1:
        try:
            config = plain_data(files[0].parent / "config.yaml")
            return as_published(config) if {"recipe", "outputs"} <= config.keys() else ""
        except UserError:
            return ""
    told = [
        f"{file.parent.name}: {' '.join(nameless(found))}"
        for file in files
        if (found := command(file.parent))
    ]
    return "\n".join(told)


def _title(gathered: Gathered) -> str:
    rows = gathered.records
    models, data = _listed(r.model for r in rows), _listed(r.dataset for r in rows)
    return f"{_listed(r.recipe for r in rows)}: {models} on {data}"


def _listed(names: Iterable[str]) -> str:
    known = list(dict.fromkeys(names))
    return ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
