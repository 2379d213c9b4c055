"""Published files: where they are looked for, whether they are the published ones, and their bytes."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressbench.errors import UserError
from compressbench.paths import given_path

OPENERS: dict[str, Callable[..., Any]] = {"": open, ".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}


@dataclass(frozen=True)
class Content:
    """One file of a published set.

    Attributes:
        name: without a compression suffix; the file may also lie there as ``name.gz`` or ``name.xz``.
        md5: published sum of the uncompressed bytes.
        size: of the uncompressed bytes, where it is known.
    """

    name: str
    md5: str
    size: int | None = None


@dataclass(frozen=True)
class Download:
    """One file at the publisher: a single content, compressed, or a tar with all of them.

    Attributes:
        url: where it is.
        md5: published sum of the file as downloaded.
        content: the name of the content that it holds; empty for a tar of the whole folder.
    """

    url: str
    md5: str
    content: str = ""


@dataclass(frozen=True)
class Published:
    """A data set as its authors published it.

    Attributes:
        name: as in ``compressbench data NAME``.
        licence: one line.
        files: its contents.
        folders: where they are looked for, in order, relative to ``data_dir`` unless absolute; downloads
            go to the first.
        downloads: empty for a set that comes with the package.
    """

    name: str
    licence: str
    files: tuple[Content, ...]
    folders: tuple[str, ...]
    downloads: tuple[Download, ...] = ()

    def places(self, data_dir: str | Path) -> list[Path]:
        """The folders that are looked in, in order."""
        return [given_path(data_dir, "data_dir") / folder for folder in self.folders]

    def folder(self, data_dir: str | Path) -> Path | None:
        """The first folder that holds all files, else the first that holds any, else None."""
        places = self.places(data_dir)
        for enough in (all, any):
            for place in places:
                if enough(find(place, content) is not None for content in self.files):
                    return place
        return None

    def read(self, data_dir: str | Path) -> Iterator[tuple[str, bytes]]:
        """Name and checked, uncompressed bytes of every file, one after the other.

        Raises:
            UserError: a file is missing, truncated, damaged or not the published one.
        """
        folder = self.folder(data_dir)
        if folder is None:
            places = ", ".join(str(place) for place in self.places(data_dir))
            raise UserError(f"dataset {self.name} not found; looked in {places}; {self.remedy(data_dir)}")
        for content in self.files:
            path = find(folder, content)
            if path is None:
                raise UserError(
                    f"dataset {self.name}: {folder / content.name} is missing; {self.remedy(data_dir)}"
                )
            try:
                data = read(path, content)
            except UserError as error:
                raise UserError(f"dataset {self.name}: {error}; {self.remedy(data_dir)}") from error
            yield content.name, data

    def remedy(self, data_dir: str | Path) -> str:
        """What a user can do about a file that is missing or damaged."""
        if not self.downloads:
            return "it comes with the package: reinstall compressbench"
        return f"fetch it with: compressbench data {self.name} --download --data-dir {data_dir}"


def find(folder: Path, content: Content) -> Path | None:
    """The file that holds a content, plain or compressed; None if there is none."""
    candidates = (folder / f"{content.name}{suffix}" for suffix in OPENERS)
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path, content: Content) -> bytes:
    """Uncompressed, checked bytes.

    Raises:
        UserError: the file can't be read, is truncated or damaged, or its sum is not the published one.
    """
    suffix = path.suffix if path.suffix in OPENERS else ""
    try:
        with OPENERS[suffix](path, "rb") as file:
            data = file.read(-1 if content.size is None else content.size + 1)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error})") from error
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error
    if content.size is not None and len(data) < content.size:
        raise UserError(f"{path} is truncated: it holds {len(data):,} of {content.size:,} bytes")
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 != content.md5:
        raise UserError(
            f"{path} is not the published file, or was altered: md5 {md5}, published {content.md5}"
        )
    return data
