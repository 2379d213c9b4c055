"""Where the configs are: inside the installed wheel, or beside ``src`` in a checkout."""

from __future__ import annotations

from pathlib import Path


def conf_dir() -> Path:
    """The folder with ``config.yaml`` and the config groups."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "conf", here.parents[1] / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise FileNotFoundError("compressbench was installed without its conf folder")


def headline(path: Path) -> tuple[str, str]:
    """A config's name and its one-line description from the comment ``# name: what it is``."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            name, colon, text = line[2:].partition(": ")
            return (
                (path.stem, text.strip())
                if colon and name.strip() == path.stem
                else (path.stem, line[2:].strip())
            )
        if line and not line.startswith("#"):
            break
    return path.stem, ""
