"""Where the configs are: inside the installed wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

SECTIONS = {
    "recipes": "recipe",
    "models": "model",
    "datasets": "dataset",
    "criteria": "stage/prune",
    "scopes": "scope",
    "grains": "grain",
    "steppers": "stepper",
    "averagers": "averager",
    "reparametrisations": "reparametrise",
    "observers": "observer",
    "distances": "distance",
    "labels": "labels",
    "features": "feature",
    "kernels": "kernel",
    "exit_criteria": "exit_criterion",
    "exit_heads": "exit_head",
    "stages": "stage",
    "probes": "probe",
    "evaluations": "evaluation",
    "hardware": "hardware",
    "targets": "target",
    "scales": "scale",
    "sweeps": "sweep",
}
"""What ``compressbench list`` has a section for -> its config group."""


def listing(group: str) -> str:
    """The command that names all of a config group; empty where none does."""
    section = next((name for name, own in SECTIONS.items() if own == group), "")
    section = section or ("stages" if group.startswith("stage/") else "")
    return f"compressbench list {section}" if section else ""


def conf_dir() -> Path:
    """The folder with ``config.yaml`` and the config groups."""
    here = Path(__file__).resolve().parents[1]
    for candidate in (here / "conf", here.parent / "conf"):
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


def entries(folder: Path, section: str) -> list[tuple[str, str]]:
    """(name, one line) of a section's YAML files in one conf folder; for stages those of all their kinds."""
    base = folder / SECTIONS[section]
    paths = sorted(base.glob("*/*.yaml") if section == "stages" else base.glob("*.yaml"))
    found = [(p, headline(p)) for p in paths if not p.stem.startswith("_")]
    if section == "stages":
        return [(f"{p.parent.name}/{name}", text) for p, (name, text) in found if p.parent.name != "prune"]
    return [line for _, line in found]
