"""The one gate that every spec passes, from wherever it comes: a config, a run's folder, a store file.

A target is looked at twice. By its name, before anything is imported (``check_target``): it ships with compressbench and
is defined in the very module that it names, or lies in ``torch.nn`` or ``torch.optim``, or below a prefix that the user
trusts. By what the name leads to, once it is imported (``locate``): of torch a Module or Optimizer class or a function of
``torch.nn.init`` or ``torch.nn.functional``; of a trusted package what that package itself defines. So a name that a
module merely imports for its own use (``import_module``, ``os``) is no target.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from compressbench.errors import UserError, nearest, reason

OWN = "compressbench"
PARTS = (
    "models",
    "stages",
    "criteria",
    "scopes",
    "grains",
    "observers",
    "distances",
    "labels",
    "features",
    "exit_criteria",
    "exit_heads",
    "training",
    "probes",
    "hardware",
    "data",
    "tasks",
)
IN_A_STATE = ("models", "exit_heads", "exit_criteria")
"""What a stored state may name of compressbench's own: what its module and its policies are built of."""
NOT_IN_A_STATE = ("models.hf.folder", "models.hub.", "models.unpacking.")
"""What reads or writes folders: a model config may name it, and no stored state does."""
ALLOWED = (*(f"{OWN}.{part}." for part in PARTS), "torch.nn.", "torch.optim.")
MOVED: Mapping[str, str] = {}
"""Import paths that stored states and users' configs still hold -> where the same thing is now."""

_let_pass: dict[str, tuple[str, ...]] = {}
"""Targets of the user's own code that ``check_target`` let pass -> the prefixes that were trusted then."""


def now(target: str) -> str:
    """Where a target is today."""
    return MOVED.get(target, target)


def as_first_named(value: Any) -> Any:
    """A copy of a value in which targets that moved have their first names, so that digests stay the same."""
    before = {new: old for old, new in MOVED.items()}
    if not before:
        return value
    if isinstance(value, Mapping):
        return {
            k: before.get(v, v) if k == "_target_" and isinstance(v, str) else as_first_named(v)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [as_first_named(v) for v in value]
    return value


def prefixes(given: Any) -> tuple[str, ...]:
    """The import prefixes of a ``trust`` setting, checked.

    Raises:
        UserError: it is no list of dotted names.
    """
    names = [] if given is None else given
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise UserError(f"trust: {given!r} is no list of import prefixes such as [mynet]")
    found = tuple(str(n) for n in names)
    for name in found:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"trust: {name!r} is no import prefix such as mynet or mypackage.nets")
    return found


def check_target(
    target: str, trusted: Iterable[str] = (), where: str = "", parts: Iterable[str] = PARTS
) -> None:
    """Refuses an import path that neither ships with compressbench nor was trusted by the user. Imports nothing.

    Args:
        parts: of compressbench's own, what may stand at this place.

    Raises:
        UserError: the path is not a dotted name, no allowed prefix fits, or it names what is only imported there.
    """
    place = f"{where}: " if where else ""
    given, target = str(target), now(str(target))
    if not all(part.isidentifier() for part in target.split(".")) or "." not in target:
        raise UserError(f"{place}_target_ {given!r} is no import path like package.module.name")
    if any(part.startswith("_") for part in target.split(".")):
        raise UserError(f"{place}target {given} is private; a config names public functions and classes")
    if target.startswith(f"{OWN}."):
        _check_own(target, place, tuple(parts))
        return
    if target.startswith(ALLOWED):
        return
    known = tuple(trusted)
    if not target.startswith(tuple(f"{t}." for t in known)):
        module = target.split(".")[0]
        raise UserError(
            f"{place}target {target} is not allowed; if the code is yours and you trust it, add 'trust=[{module}]' "
            f"(behind check, export and advise: --trust {module})"
        )
    _let_pass[target] = known


def _check_own(target: str, place: str, parts: tuple[str, ...]) -> None:
    if not target.startswith(tuple(f"{OWN}.{part}." for part in PARTS)):
        raise UserError(
            f"{place}target {target} is not allowed; a config names what is below {OWN}.models, .stages, .probes …"
        )
    found = source_of(target)
    node = definition(*found) if found is not None else None
    if node is None:
        raise UserError(f"{place}there is no {target}")
    if not _is_made_of_data(node, reader=target.startswith(f"{OWN}.data.")):
        raise UserError(
            f"{place}target {target} is not allowed; it is a tool of compressbench's own, no part of a recipe"
        )
    if parts == IN_A_STATE and target.startswith(tuple(f"{OWN}.{name}" for name in NOT_IN_A_STATE)):
        raise UserError(f"{place}target {target} can't stand in a state; it works on folders")
    if not target.startswith(tuple(f"{OWN}.{part}." for part in parts)):
        raise UserError(
            f"{place}target {target} can't stand here; what can is below {OWN}.{f', {OWN}.'.join(parts)}"
        )


def _is_made_of_data(node: ast.FunctionDef | ast.ClassDef, reader: bool) -> bool:
    """Whether a target takes what a config can hold. What takes paths, bytes or functions works on files or programs.

    Args:
        reader: of ``data`` only what returns a ``Raw`` is a target.
    """
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    function = node if isinstance(node, ast.FunctionDef) else init
    if reader and (
        not isinstance(node, ast.FunctionDef) or ast.unparse(node.returns or ast.Constant("")) != "Raw"
    ):
        return False
    if function is not None:
        taken = [
            a.annotation for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        ]
    else:
        taken = [n.annotation for n in node.body if isinstance(n, ast.AnnAssign)]
    words = {w for a in taken if a is not None for w in re.findall(r"\w+", ast.unparse(a))}
    return not words & {"Path", "bytes", "Callable"}


def locate(target: str, where: str = "") -> Callable[..., Any]:
    """Imports what a target names, and looks at what that is. Nothing that ``check_target`` refuses is imported.

    Raises:
        UserError: it may not be named, can't be imported, isn't there, or is defined elsewhere.
    """
    place = f"{where}: " if where else ""
    target = now(target)
    trusted = _let_pass.get(target, ())
    check_target(target, trusted, where)
    module_name, _, attribute = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        extra = next((x for x in ("torchvision", "timm") if target.startswith(x)), None)
        hint = f"; install it with: pip install 'compressbench[{extra}]'" if extra else ""
        raise UserError(f"{place}can't import {target}: {error}{hint}") from error
    except Exception as error:  # whatever a user's module does while it is imported
        said, kind = reason(error), type(error).__name__
        said = said if said.startswith(kind) else f"{kind}: {said}"
        raise UserError(f"{place}can't import {target}: {said}") from error
    found = getattr(module, attribute, None)
    if found is None:
        known = [name for name in dir(module) if not name.startswith("_")]
        raise UserError(f"{place}{module_name} has no {attribute!r}; {nearest(attribute, known)}")
    if target.startswith(f"{OWN}."):
        return found
    own = trusted and target.startswith(tuple(f"{t}." for t in trusted))
    if not own and not _of_torch(found, module_name):
        raise UserError(
            f"{place}target {target} is not allowed; of torch a config names Module and Optimizer classes, and functions "
            "of torch.nn.init and torch.nn.functional"
        )
    if own:
        _check_home(found, target, trusted, place)
    return found


def _of_torch(found: Any, module_name: str) -> bool:
    from torch import nn, optim

    if isinstance(found, type):
        return issubclass(found, nn.Module | optim.Optimizer)
    if module_name not in ("torch.nn.init", "torch.nn.functional"):
        return False
    home = getattr(found, "__module__", None)
    return (isinstance(found, types.FunctionType) and home == module_name) or (
        isinstance(found, types.BuiltinFunctionType) and home in ("torch", "torch._C._nn")
    )


def _check_home(found: Any, target: str, trusted: tuple[str, ...], place: str) -> None:
    if isinstance(found, types.ModuleType) or not callable(found):
        raise UserError(f"{place}target {target} is a {type(found).__name__}, no function or class")
    home = str(getattr(found, "__module__", None) or type(found).__module__)
    if not f"{home}.".startswith(tuple(f"{t}." for t in trusted)):
        raise UserError(
            f"{place}target {target} is defined in {home}, which trust=[{', '.join(trusted)}] does not cover; name it "
            "where it is defined, or wrap it in a function of your own"
        )


def source_of(target: str) -> tuple[Path, str] | None:
    """The source file of a target and the name inside it, found without running the module itself.

    Returns None for built-in or compiled modules. Importing ``a.b.c`` statically needs the package ``a.b`` to be
    found; only folders are looked at.
    """
    parts = now(target).split(".")
    for cut in range(len(parts) - 1, 0, -1):
        path = _module_path(parts[:cut])
        if path is not None:
            return path, ".".join(parts[cut:])
    return None


def _module_path(parts: list[str]) -> Path | None:
    if parts[0] == OWN:
        root = Path(__file__).parents[1]
        folder = root.joinpath(*parts[1:])
    else:
        try:
            spec = importlib.util.find_spec(parts[0])
        except (ImportError, ValueError):
            return None
        if spec is None or spec.origin is None:
            return None
        origin = Path(spec.origin)
        if origin.name != "__init__.py":
            return origin if len(parts) == 1 and origin.suffix == ".py" else None
        folder = origin.parent.joinpath(*parts[1:])
    for candidate in (folder.with_suffix(".py"), folder / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def tree(path: Path, stamp: int) -> ast.Module:
    """The syntax tree of a source file; ``stamp`` is its time of change.

    Raises:
        UserError: it is no Python.
    """
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{path}{line}: no valid Python: {getattr(error, 'msg', error)}") from error


def definition(path: Path, name: str) -> ast.FunctionDef | ast.ClassDef | None:
    """Where a module's own source defines a function or a class of this name; None if it doesn't."""
    if not name or "." in name:
        return None
    try:
        body = tree(path, path.stat().st_mtime_ns).body
    except (OSError, UserError):
        return None
    return next(
        (n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name),
        None,
    )
