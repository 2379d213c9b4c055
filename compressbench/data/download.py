"""Fetching a published set from its publisher; only ``compressbench data NAME --download`` calls this."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from compressbench.data.published import Content, Published, read
from compressbench.errors import Incomplete, UserError

CHUNK = 1 << 18
TIMEOUT = 30.0
Report = Callable[[str, int, int | None], None]


def fetch(published: Published, data_dir: str | Path, report: Report) -> Path:
    """Downloads what is missing or damaged, checks it, and puts it where the reader looks first.

    Every file is written aside, checked and renamed: an interrupted download leaves nothing half done.

    Args:
        report: called with (file name, bytes so far, bytes in all or None).

    Returns:
        The folder with the files.

    Raises:
        UserError: the host can't be reached, what came is not as published, or ``data_dir`` can't be written.
    """
    if not published.downloads:
        raise UserError(f"dataset {published.name} comes with the package; there is nothing to download")
    home = published.places(data_dir)[0]
    with _aside(data_dir, home) as aside:
        for download in published.downloads:
            wanted = [c for c in published.files if download.content in ("", c.name) and not _good(home, c)]
            if not wanted:
                continue
            name = download.url.rpartition("/")[2]
            _get(download.url, aside / name, download.md5, report)
            if download.content:
                _move(aside / name, home / name)
                (home / download.content).unlink(missing_ok=True)
            else:
                _unpack(aside / name, published.folders[0], wanted, aside)
                for content in wanted:
                    _move(aside / content.name, home / content.name)
    return home


def _good(home: Path, content: Content) -> bool:
    for suffix in ("", ".gz"):
        path = home / f"{content.name}{suffix}"
        if path.is_file():
            with contextlib.suppress(UserError):
                read(path, content)
                return True
            return False
    return False


@contextlib.contextmanager
def _aside(data_dir: str | Path, home: Path) -> Iterator[Path]:
    """A temporary folder in ``home``, removed at the end, and with it what was made and stayed empty."""
    ours = [path for path in (home, *home.parents) if not path.exists()]
    try:
        home.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".download-", dir=home))
    except OSError as error:
        raise UserError(f"data_dir {data_dir} is not writable: {error.strerror or error}") from error
    try:
        yield aside
    except OSError as error:
        raise UserError(f"can't write below {home}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in ours:
                folder.rmdir()


def _move(source: Path, target: Path) -> None:
    os.replace(source, target)


def _get(url: str, target: Path, md5: str, report: Report) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    done, total = 0, None
    with target.open("wb") as file:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                length = answer.headers.get("Content-Length")
                total = int(length) if length and length.isdigit() else None
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    report(target.name, done, total)
        except urllib.error.HTTPError as error:
            raise Incomplete(f"can't fetch {url}: the server answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise Incomplete(f"can't fetch {url}: {error.reason}") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise Incomplete(
                f"can't fetch {url}: broken off after {done:,} bytes ({error or type(error).__name__})"
            ) from error
    if total is not None and done < total:
        raise Incomplete(f"can't fetch {url}: broken off after {done:,} of {total:,} bytes")
    if digest.hexdigest() != md5:
        raise Incomplete(f"{url} is not the published file: md5 {digest.hexdigest()}, published {md5}")


def _unpack(archive: Path, folder: str, wanted: list[Content], into: Path) -> None:
    """Copies the wanted members out under names of our own; nothing else in the tar is touched."""
    missing = {f"{folder}/{content.name}": content for content in wanted}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                content = missing.get(member.name)
                if content is None or not member.isreg():
                    continue
                stream = tar.extractfile(member)
                assert stream is not None
                with stream, (into / content.name).open("wb") as file:
                    shutil.copyfileobj(stream, file, CHUNK)
                read(into / content.name, content)
                del missing[member.name]
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Incomplete(f"{archive.name} is truncated or damaged ({error})") from error
    if missing:
        raise Incomplete(f"{archive.name} holds no {next(iter(missing))}")
