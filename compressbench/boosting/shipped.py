"""Where a published cascade's file is; neither OpenCV nor torch is imported, so that planning stays quick."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from compressbench.errors import UserError
from compressbench.files import a_file
from compressbench.paths import given_path

LARGEST = 16 * 2**20
"""Bytes of a cascade's file."""


def found(name: str) -> Path:
    """A file by its path or, by its name alone, the one that comes with OpenCV (``cv2/data``).

    Raises:
        UserError: there is none, it is no path, or OpenCV isn't installed.
    """
    if not isinstance(name, str):
        raise UserError(f"file: {name!r} is no path; e.g. haarcascade_frontalface_default.xml")
    path = given_path(name, "file")
    if path.name != name or path.exists():
        return a_file(path, LARGEST)
    folder = _folder()
    if folder is None:
        raise UserError(
            f"file: {name} comes with OpenCV, which isn't installed: pip install 'compressbench[lecture]', or give a path"
        )
    return a_file(folder / name, LARGEST)


def lacking(name: str) -> bool:
    """Whether it is the name of a file that comes with OpenCV, and OpenCV isn't installed."""
    path = given_path(name, "file")
    return path.name == name and not path.exists() and _folder() is None


def _folder() -> Path | None:
    spec = importlib.util.find_spec("cv2")
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) / "data" if places else None
