"""The user's own source files behind a spec."""

from __future__ import annotations

import ast
import hashlib
import sys
from pathlib import Path
from typing import Any

from compressbench.specs.spec import TARGET, walk
from compressbench.specs.trust import OWN, source_of, tree


def _root_of(target: str, path: Path) -> Path:
    """The folder that the target's top-level module is imported from."""
    top = target.split(".")[0]
    return next((p.parent for p in (path, *path.parents) if p.name == top or p.stem == top), path.parent)


def _own_sources(path: Path, root: Path) -> list[Path]:
    """A user's file and the files beside it that it imports, however indirectly; installed packages are not followed."""
    found: set[Path] = set()
    todo = [path]
    while todo:
        here = todo.pop()
        if here in found or not here.is_file():
            continue
        found.add(here)
        names: set[str] = set()
        for node in ast.walk(tree(here, here.stat().st_mtime_ns)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                up = here.parents[node.level - 1] if node.level else root
                if node.level and not up.is_relative_to(root):
                    continue
                base = ".".join([*up.relative_to(root).parts, *(node.module or "").split(".")]).strip(".")
                names |= {base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)}
        for name in names:
            parts = name.split(".")
            for cut in range(1, len(parts) + 1):
                folder = root.joinpath(*parts[:cut])
                todo += [folder.with_suffix(".py"), folder / "__init__.py"]
        if root.name in ("site-packages", "dist-packages"):
            top = root / path.relative_to(root).parts[0]
            todo = [p for p in todo if p.is_relative_to(top)]
    return sorted(found)


def sources_digest(value: Any) -> str:
    """Digest of the source files behind every target outside the package, so that edited user code is another key.

    A target's own file counts, and what it imports from the same folder or package.
    """
    files = {}
    for _, spec in walk(value):
        target = str(spec[TARGET])
        if target.startswith(f"{OWN}.") or target.split(".")[0] in ("torch", "torchvision", "timm"):
            continue
        found = source_of(target)
        if found is not None:
            root = _root_of(target, found[0])
            for path in _own_sources(found[0], root):
                files[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest() if files else ""


def let_import_from(*folders: Path) -> None:
    """Makes modules in the user's own folders importable, behind everything installed."""
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
