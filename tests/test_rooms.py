"""The rooms of the house: folders and loose modules of the package import each other in one direction only.

An import counts wherever it stands, in a function too; one under ``TYPE_CHECKING`` doesn't, since nothing runs it.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import compressbench
from compressbench.cli.main import VERBS

PACKAGE = Path(compressbench.__file__).parent
ROOT = Path(__file__).parents[1]
AGAINST: Mapping[tuple[str, str], str] = {
    (
        "compressbench",
        "cli",
    ): "the package's front door: compressbench.run(…) is the verb run, imported when called",
}
"""Arrows against the grain, each with its reason."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a source imports; of ``from a import b`` it is ``a.b``, whatever ``b`` is."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING"):
        for node in tree.orelse:
            yield from imported(node)
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        assert not tree.level, "relative imports are not read here"
        yield from (f"{tree.module}.{alias.name}" for alias in tree.names)
    for node in ast.iter_child_nodes(tree):
        yield from imported(node)


def room(module: str) -> str:
    """The folder below the package, or the loose module, that a module is in."""
    return module.split(".")[1] if "." in module else module


def arrows(known: Mapping[str, Path]) -> dict[tuple[str, str], set[str]]:
    """(room, imported room) -> the imports that say so."""
    found: dict[tuple[str, str], set[str]] = {}
    for module, path in known.items():
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        for name in (n if n in known else n.rpartition(".")[0] for n in names):
            if name in known and room(module) != room(name):
                found.setdefault((room(module), room(name)), set()).add(f"{module} -> {name}")
    return found


def knots(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of rooms from each of which every other of the group is reached, larger than one."""
    reached = {a: {b for x, b in pairs if x == a} for pair in pairs for a in pair}
    grown = True
    while grown:
        grown = False
        for a, there in reached.items():
            more = set().union(*(reached[b] for b in there)) - there if there else set()
            if more:
                reached[a] = there | more
                grown = True
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in reached if a in reached[a]}
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ({("a", "b"), ("b", "c"), ("a", "c")}, []),
        ({("a", "b"), ("b", "a"), ("b", "c")}, [["a", "b"]]),
        (
            {("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("x", "y"), ("y", "x")},
            [["b", "c", "d"], ["x", "y"]],
        ),
    ],
)
def test_knots_are_found(pairs: set[tuple[str, str]], found: list[list[str]]) -> None:
    assert knots(pairs) == found


def test_imports_are_read_wherever_they_stand() -> None:
    source = (
        "from typing import TYPE_CHECKING\nimport a.b\nif TYPE_CHECKING:\n    import hidden\nelse:\n    import c\n"
        "def f():\n    from d import e\n"
    )
    assert set(imported(ast.parse(source))) == {"typing.TYPE_CHECKING", "a.b", "c", "d.e"}


def test_rooms_are_not_knotted() -> None:
    found = arrows(modules())
    assert len(found) > 100
    assert set(AGAINST) <= set(found), "an allowed arrow that isn't there any more"
    left = knots(set(found) - set(AGAINST))
    told = [
        line
        for knot in left
        for (a, b), lines in found.items()
        if {a, b} <= set(knot)
        for line in sorted(lines)
    ]
    assert not left, "\n".join([str(left), *told])


def test_no_verb_imports_another() -> None:
    """What two verbs share lives in a module that is none."""
    verbs = {module for module, _ in VERBS.values()}
    assert len(verbs) > 8
    for verb in verbs:
        names = set(imported(ast.parse(modules()[verb].read_text(encoding="utf-8"))))
        others = {n for n in (names | {n.rpartition(".")[0] for n in names}) & verbs if n != verb}
        assert not others, f"{verb} imports {', '.join(others)}"


def test_a_stage_calls_what_it_does() -> None:
    """``apply`` is short: what a stage does is a function of another room, which imports torch when it is called."""
    applies = {
        f"{module}.{kind.name}": method
        for module, path in modules().items()
        if module.startswith("compressbench.stages.")
        for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef) and method.name == "apply"
    }
    assert len(applies) > 15
    long = {name: len(m.body) for name, m in applies.items() if len(m.body) > 4}
    assert not long, f"a docstring, an import, a choice and a call are enough: {long}"


def test_every_module_can_be_imported() -> None:
    found = [
        m.name
        for m in pkgutil.walk_packages([str(PACKAGE)], "compressbench.")
        if not m.name.endswith("__main__")
    ]
    assert set(found) | {"compressbench", "compressbench.__main__"} == set(modules())
    for name in found:
        importlib.import_module(name)


def test_every_import_path_of_the_docs_is_there() -> None:
    """What users' own code was told to import."""
    found: dict[str, Path] = {}
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        found |= dict.fromkeys(re.findall(r"(?<![\w./])compressbench(?:\.\w+)+", text), path)
        for module, names in re.findall(r"^ *from (compressbench[\w.]*) import ([\w, ]+)", text, re.M):
            found |= dict.fromkeys((f"{module}.{name.strip()}" for name in names.split(",")), path)
    assert {"compressbench.pruning.masked", "compressbench.specs.Ref", "compressbench.records.Metric"} <= set(
        found
    )
    for name, path in found.items():
        above, _, last = name.rpartition(".")
        there = name in modules() or hasattr(importlib.import_module(above), last)
        assert there, f"{path.name}: there is no {name}"
