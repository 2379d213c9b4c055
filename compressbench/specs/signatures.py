"""Signatures of targets, read from the source text, without running anybody's code."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from compressbench.specs.trust import definition, source_of


@dataclass(frozen=True)
class Parameter:
    """One parameter of a target: its annotation as written, and whether it may be left out."""

    annotation: str
    required: bool


@dataclass(frozen=True)
class Signature:
    """Parameters of a target by name; ``open`` when it takes ``**kwargs``; what a function returns, as written."""

    parameters: Mapping[str, Parameter]
    open: bool
    doc: str
    bases: tuple[str, ...] = ()
    returns: str = ""


@functools.cache
def signature(target: str) -> Signature | None:
    """Parameters of a function, class or dataclass read from its source; None where that can't be seen."""
    found = source_of(target)
    if found is None:
        return None
    node = definition(*found)
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, skip=0)
    return _of_class(node) if node is not None else None


def _of_function(node: ast.FunctionDef, skip: int) -> Signature:
    positional = [*node.args.posonlyargs, *node.args.args]
    optional = len(positional) - len(node.args.defaults)
    parameters = {
        arg.arg: Parameter(_text(arg.annotation), place < optional)
        for place, arg in enumerate(positional)
        if place >= skip
    }
    for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        parameters[arg.arg] = Parameter(_text(arg.annotation), default is None)
    doc = ast.get_docstring(node) or ""
    return Signature(parameters, node.args.kwarg is not None, doc, returns=_text(node.returns))


def _of_class(node: ast.ClassDef) -> Signature | None:
    doc = ast.get_docstring(node) or ""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            found = _of_function(item, skip=1)
            return Signature(found.parameters, found.open, doc)
    if any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        parameters = {
            item.target.id: Parameter(_text(item.annotation), item.value is None)
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            if "ClassVar" not in _text(item.annotation)
        }
        return Signature(parameters, False, doc)
    return None


def _text(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)
