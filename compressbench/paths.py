"""Names and folders that a user gives: names are names, and paths stay below the outputs folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compressbench.errors import UserError

LONGEST = 100
PART = ".part"


# An absolute path of two parts or more, a home, a drive's or a share's; none inside of a URL or a relative path
ABSOLUTE = re.compile(
    r"(?<![\w.:/~\\])(?:/[\w.@+-]+/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\)[^\s'\"\])}<>,;|”]*"
    r"|(?<![./:~\\])/(?:home|Users|root)/[^\s'\"\])}<>,;|”]*"
    r"|\bfile:/+[^\s'\"\])}<>,;|”]*"
)
WHOLE = re.compile(r"(?:/[^/]+/|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\|file:/)")


def nameless(value: Any) -> Any:
    """A copy of plain data in which no absolute path is left: what is published names no user and no folder of theirs.

    A text that is a path keeps its last part; one that holds some, as a sentence or ``key=/a/path`` may, theirs.
    """
    if isinstance(value, Mapping):
        return {k: nameless(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [nameless(v) for v in value]
    if not isinstance(value, str):
        return value
    if WHOLE.match(value) and "\n" not in value:
        return _ending(value)
    return ABSOLUTE.sub(lambda found: _ending(found[0]), value)


def _ending(path: str) -> str:
    """The last part of a path, but for one that is a home or above it."""
    parts = [p for p in re.split(r"[/\\]+", path) if p]
    home = len(parts) < 3 or Path(path) == Path.home()
    return "…" if home else f"…/{parts[-1]}"


def file_name(value: Any, where: str) -> str:
    """A name that can be part of a file's or folder's name.

    Raises:
        UserError: it is no text, empty, too long, begins with a dot, or holds a slash or what can't be printed.
    """
    right = f"a name has letters, digits, spaces and . _ - + ( ), at most {LONGEST} characters, no slash"
    if not isinstance(value, str):
        raise UserError(f"{where}: {value!r} is no text; {right}")
    if not value or value != value.strip() or value.startswith(".") or len(value) > LONGEST:
        raise UserError(f"{where}: {value[:LONGEST]!r} is no name; {right}")
    if not value.isprintable() or set('/\\:*?"<>|') & set(value):
        raise UserError(f"{where}: {value!r} is no name; {right}")
    return value


def label(value: Any, where: str) -> str:
    """A text of one printable line, as records have them.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, str) or not value.strip() or "\n" in value or not is_utf8(value):
        raise UserError(f"{where}: {value!r} is no text of one line")
    return value


def is_utf8(text: str) -> bool:
    """Whether a text can be written at all; a file's name of other bytes can't."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def outputs_folder(value: Any, where: str = "outputs") -> Path:
    """The folder of store and runs.

    Raises:
        UserError: it is no path, or empty.
    """
    if not isinstance(value, str | os.PathLike) or not str(value).strip() or "\0" in str(value):
        raise UserError(
            f"{where}: {value!r} is no folder; name one, e.g. outputs=outputs (is COMPRESSBENCH_OUTPUTS empty?)"
        )
    return given_path(value, where)


def check_inside(value: str, where: str) -> None:
    """Refuses a relative path that leads out of the folder that it is below.

    Raises:
        UserError: it is absolute, a home, or has a part ``..``.
    """
    if Path(value).is_absolute() or value.startswith("~") or ".." in Path(value).parts:
        raise UserError(f"{where}: {value!r} leads out of the run's folder; a name is wanted")


def given_path(value: str | os.PathLike[str], where: str) -> Path:
    """A path that a user gives, ``~`` taken for their home.

    Raises:
        UserError: it names nobody's home, or no system has such a path.
    """
    try:
        os.fsencode(value)
        if "\0" in str(value):
            raise UserError(f"{where}: {str(value)!r} is no path")
        return Path(value).expanduser()
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{where}: {value!r} is no path: {error}") from error


def weights_folder(name: str) -> str:
    """Where pretrained weights that ``make weights`` unpacks lie: ``.weights`` of the clone, or COMPRESSBENCH_WEIGHTS."""
    root = os.environ.get("COMPRESSBENCH_WEIGHTS") or Path(__file__).resolve().parents[1] / ".weights"
    return str(given_path(root, "COMPRESSBENCH_WEIGHTS") / file_name(name, "weights_folder"))


def a_folder(value: str | os.PathLike[str], where: str) -> Path:
    """A folder that a user names and that is there.

    Raises:
        UserError: it isn't; of the folder of pretrained weights with the command that makes it.
    """
    path = given_path(value, where)
    if not path.is_dir():
        own = path.parent == Path(weights_folder("x")).parent
        hint = "; in a clone `make weights` makes it (docs/hugging_face.md)" if own else ""
        raise UserError(f"{where}: there is no folder {path}{hint}")
    return path


def resolved(path: Path, where: str) -> Path:
    """A path without links.

    Raises:
        UserError: its links go in a circle.
    """
    try:
        return path.resolve()
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{where}: {path} can't be followed: {error}") from error


def own_folder(run: Path, name: str) -> Path:
    """A folder in a run's own, to write into.

    Raises:
        UserError: it is a link, which may lead anywhere.
    """
    if (run / name).is_symlink():
        raise UserError(f"{run / name} is a link; what is written into a run's folder stays there")
    return run / name


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all: beside ``path``, locked, so that a killed process's is told, then renamed.

    Raises:
        OSError: as writing does; the old file is then as it was.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(text)
            file.flush()
            aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_named(path: Path, text: str) -> Path:
    """``write_text`` to a file that a user names, in a folder that is made if it isn't there; returns the path.

    Raises:
        UserError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UserError(f"can't write {path}: {error.strerror or error}") from error
    return path


def drop_parts(folders: Iterable[Path]) -> int:
    """Removes what killed processes left half written below the folders; returns how many files."""
    gone = 0
    own = [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]
    for path in (p for folder in own for p in folder.rglob(f"*{PART}")):
        if path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            gone += 1
    return gone
