"""Specs: ``{"_target_": "package.module.name", ...}`` read statically, checked, and built late.

Planning never imports what a spec points at: its parameters are read from the source text, so that a misspelt
key or a reference is found in milliseconds, and without running anybody's code.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import keyword
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from compressbench.conf import conf_dir
from compressbench.errors import UserError, nearest, reason
from compressbench.training.length import check as check_length
from compressbench.trust import OWN, PARTS, check_target, definition, locate, source_of, tree
from compressbench.wording import shown

TARGET = "_target_"
PARTIAL = "_partial_"
# A parameter annotated with one of these takes a plain word for what ships in that folder.
Criterion = Mapping[str, Any]
Scope = Mapping[str, Any]
Grain = Mapping[str, Any]
Observer = Mapping[str, Any]
ExitCriterion = Mapping[str, Any]
ExitHead = Mapping[str, Any]
SHORT = {
    "Criterion": "criteria",
    "Scope": "scopes",
    "Grain": "grains",
    "Observer": "observers",
    "Distance": "distances",
    "Labels": "labels",
    "Feature": "features",
    "ExitCriterion": "exit_criteria",
    "ExitHead": "exit_heads",
}
# What the caller of each fills in itself.
GIVEN = {
    "Criterion": ("given",),
    "Scope": ("units", "fraction", "of", "rates"),
    "Grain": (),
    "Observer": ("observed",),
    "Distance": ("student", "teacher"),
    "Labels": ("lesson",),
    "Feature": ("student", "teacher"),
    "ExitCriterion": ("said",),
    "ExitHead": ("shape", "classes"),
}


# A number annotated with one of these is checked before anything runs, wherever in a config it stands.
Positive = float
NonNegative = float
Share = float
Count = int
Moderate = float
# Epochs or iterations, ``4ep`` or ``500it``.
Length = str
RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "Positive": (lambda x: 0 < x < math.inf, "not a number above 0"),
    "NonNegative": (lambda x: 0 <= x < math.inf, "not a number of 0 or more"),
    "Share": (lambda x: 0 <= x <= 1, "not in [0, 1]"),
    "Moderate": (lambda x: 1 / 1024 <= x <= 1024, "not a factor between 1/1024 and 1024"),
    "Count": (lambda x: isinstance(x, int) and x >= 1, "not a whole number of 1 or more"),
}


class Ref(str):
    """The name of another state of the recipe. A parameter annotated with it is a reference."""

    __slots__ = ()


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


def is_spec(value: Any) -> bool:
    """True for a mapping that names a target."""
    return isinstance(value, Mapping) and TARGET in value


def expand(value: Any, where: str = "") -> Any:
    """A copy of a value in which plain words for criteria, scopes, grains and observers are specs.

    ``magnitude`` as a criterion becomes ``compressbench.criteria.magnitude.magnitude``.

    Raises:
        UserError: there is no such file (names the nearest), or a setting without a default is missing.
    """
    if is_spec(value):
        seen = signature(str(value[TARGET]))
        out = {}
        for name, inner in value.items():
            annotation = seen.parameters[name].annotation if seen and name in seen.parameters else ""
            place = f"{where}.{name}"
            if annotation in SHORT and isinstance(inner, Mapping) and not is_spec(inner):
                raise UserError(
                    f"{place}: {dict(inner)!r} are settings of nothing; name the function too, "
                    f"{{{TARGET}: {OWN}.{SHORT[annotation]}.NAME.NAME, {PARTIAL}: true, …}}, or choose it by its YAML"
                )
            if annotation in SHORT and isinstance(inner, str):
                inner = _named(inner, SHORT[annotation], place)
            if annotation in SHORT and is_spec(inner):
                _complete(inner, GIVEN[annotation], place)
            out[name] = expand(inner, place)
        return out
    if isinstance(value, Mapping):
        return {str(k): expand(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [expand(v, f"{where}[{i}]") for i, v in enumerate(value)]
    return value


def _named(word: str, folder: str, where: str) -> dict[str, Any]:
    name = f"{word}_" if keyword.iskeyword(word) else word
    target = f"{OWN}.{folder}.{name}.{name}"
    if not name.isidentifier() or signature(target) is None:
        files = sorted(p.stem for p in (Path(__file__).parent / folder).glob("*.py"))
        known = [f.rstrip("_") for f in files if signature(f"{OWN}.{folder}.{f}.{f}") is not None]
        raise UserError(f"{where}: there is no {word!r} in {folder}; {nearest(word, known)}")
    return {TARGET: target, PARTIAL: True}


def _complete(spec: Mapping[str, Any], given: tuple[str, ...], where: str) -> None:
    private = any(part.startswith("_") for part in str(spec[TARGET]).split("."))
    seen = None if private else signature(str(spec[TARGET]))
    missing = [
        k
        for k, p in (seen.parameters.items() if seen else ())
        if p.required and k not in given and k not in spec
    ]
    if missing:
        raise UserError(
            f"{where}: {spec[TARGET]} needs {', '.join(missing)}; "
            f"write {{{TARGET}: {spec[TARGET]}, {PARTIAL}: true, {missing[0]}: ...}}"
        )


def settings_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's settings without the keys that only say how it is built."""
    return {k: v for k, v in spec.items() if k not in (TARGET, PARTIAL)}


def walk(value: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All specs inside a value, outermost first, each with its place such as ``stages.prune.criterion``."""
    if isinstance(value, Mapping):
        if TARGET in value:
            yield where, value
        for name, inner in value.items():
            yield from walk(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from walk(inner, f"{where}[{place}]")


def check(
    spec: Mapping[str, Any],
    where: str,
    trusted: Iterable[str] = (),
    given: Iterable[str] = (),
    parts: Iterable[str] = PARTS,
) -> None:
    """Checks a spec and all inside it: targets allowed, found, keys known, none missing.

    Args:
        given: parameters that the caller fills in itself.
        parts: of compressbench's own, what the spec itself may be.

    Raises:
        UserError: the first fault, with its place.
    """
    check_plain(spec, where)
    for place, inner in walk(spec, where):
        target = str(inner[TARGET])
        check_target(target, trusted, place, parts if inner is spec else PARTS)
        if source_of(target) is None and importlib.util.find_spec(target.split(".")[0]) is None:
            raise UserError(
                f"{place}: can't find {target.split('.')[0]!r} to import {target}; is it installed, or beside you?"
            )
        seen = signature(target)
        if seen is None:
            if target.startswith(f"{OWN}."):
                raise UserError(f"{place}: there is no {target}")
            continue
        settings = settings_of(inner)
        if not seen.open:
            for key in settings:
                if key not in seen.parameters:
                    raise UserError(
                        f"{place}: unknown key {key!r} for {target}; {nearest(key, seen.parameters)}"
                    )
        for key, value in settings.items():
            annotation = seen.parameters[key].annotation if key in seen.parameters else ""
            _in_range(annotation, value, f"{place}.{key}")
            if annotation == "Length":
                check_length(value, f"{place}.{key}")
            may_lack = value is None and "None" in annotation
            if annotation.startswith("Mapping[") and not isinstance(value, Mapping) and not may_lack:
                word = isinstance(value, str) and value.isidentifier() and len(value) < 100
                shipped = word and (conf_dir() / key / f"{value}.yaml").is_file()
                way = f"; choose it by its YAML: +{key}@{place}.{key}={value}" if shipped else ""
                raise UserError(f"{place}.{key}: {value!r} is no mapping such as {{name: value}}{way}")
            if target.startswith(f"{OWN}.") and not fits(annotation, value):
                raise UserError(
                    f"{place}.{key}: {shown(value)} is not {in_words(annotation)}{its_unit(key, value)}"
                )
        if inner is spec and not inner.get(PARTIAL):
            missing = [
                k for k, p in seen.parameters.items() if p.required and k not in settings and k not in given
            ]
            if missing:
                raise UserError(f"{place}: {target} needs {', '.join(missing)}")


def check_plain(value: Any, where: str) -> None:
    """Refuses what is no plain data: YAML also has dates, bytes and sets, and figures that are none.

    Raises:
        UserError: the first such value, with its place; or a ``_partial_`` that is neither true nor false.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise UserError(f"{where}: the key {name!r} is no text; put it in quotes")
            if name == PARTIAL and not isinstance(inner, bool):
                raise UserError(f"{where}.{PARTIAL}: {inner!r} is neither true nor false")
            check_plain(inner, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            check_plain(inner, f"{where}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value} is not a finite number")
    elif isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: {value!r} is not valid UTF-8") from error
    elif value is not None and not isinstance(value, bool | int | float):
        raise UserError(
            f"{where}: {value!r} is a {type(value).__name__}; a number, a text, a list or a mapping is wanted"
        )


PLAIN: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "None": (type(None),),
}
LISTS = ("list", "tuple", "Sequence")
PLACEHOLDERS = ("@shape", "@classes", "@channels", "@height", "@width")


def fits(annotation: str, value: Any) -> bool:
    """Whether a value may be what a parameter is annotated with; true wherever that can't be seen from the text."""
    if not annotation or (isinstance(value, str) and value in PLACEHOLDERS):
        return True
    if re.search(r"\bRef\b", annotation):  # a pattern of many may stand for a tuple
        named = list(value) if isinstance(value, list | tuple) else [value]
        return all(isinstance(v, str) for v in named) or (value is None and "None" in annotation)
    return any(_fits(part, value) for part in _parted(annotation, "|"))


def _fits(annotation: str, value: Any) -> bool:
    if annotation in SHORT:
        return is_spec(value) or isinstance(value, str)
    if annotation in PLAIN:
        good = isinstance(value, PLAIN[annotation])
        return good and (not isinstance(value, bool) or annotation == "bool")
    found = re.fullmatch(r"(\w+)\[(.*)\]", annotation)
    if found and found[1] in LISTS:
        if not isinstance(value, list | tuple):
            return False
        inner = _parted(found[2], ",")
        if found[1] == "tuple" and inner[-1] != "...":
            return len(inner) == len(value) and all(map(fits, inner, value))
        return all(fits(inner[0], v) for v in value)
    if found and found[1] in ("Mapping", "dict"):
        return isinstance(value, Mapping) and all(fits(_parted(found[2], ",")[1], v) for v in value.values())
    return annotation not in LISTS or isinstance(value, list | tuple)


def _parted(text: str, mark: str) -> list[str]:
    """The parts of an annotation between marks that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == mark and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [p.strip() for p in parts]


def its_unit(name: str, value: Any) -> str:
    """What is to be said of a bare number where a length is wanted."""
    bare = isinstance(value, int) and name in ("length", "start", "stop", "warmup", "validate")
    return f"; a length has a unit, {value}ep or {value}it" if bare else ""


PLAINLY = {
    "None": "null",
    "Ref": "a state's name",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}
EACH = {"str": "texts", "int": "whole numbers", "float": "numbers", "bool": "true or false"}


def in_words(annotation: str) -> str:
    """An annotation for a user: ``a whole number or null``, ``a list of numbers``."""
    words = []
    for part in _parted(annotation, "|"):
        found = re.fullmatch(r"(\w+)\[(.*)\]", part)
        if found and found[1] in LISTS:
            inner = [EACH.get(p, in_words(p)) for p in _parted(found[2], ",") if p not in ("...", "Any")]
            words.append(f"a list of {' and '.join(inner)}" if inner else "a list")
        elif found and found[1] in ("Mapping", "dict"):
            inner = [in_words(p) for p in _parted(found[2], ",")[1:] if p != "Any"]
            words.append(f"a mapping of names to {inner[0]}" if inner else "a mapping")
        else:
            short = f"the name or a spec of one of {SHORT[part]}" if part in SHORT else part
            words.append(PLAINLY.get(part, short))
    return " or ".join(words)


def check_fields(settings: Any) -> None:
    """Refuses a frozen dataclass's values that are out of the ranges that its fields are annotated with.

    Raises:
        UserError: the first such field.
    """
    for field in fields(settings):
        _in_range(str(field.type), getattr(settings, field.name), field.name)


def _in_range(annotation: str, value: Any, where: str) -> None:
    range_name = annotation.removesuffix(" | None")
    if range_name in RANGES and not (value is None and range_name != annotation):
        within(range_name, value, where)


def within(range_name: str, value: Any, where: str) -> None:
    """Refuses what is out of one of ``RANGES``.

    Raises:
        UserError: the place, the value and what would be right.
    """
    fits, words = RANGES[range_name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
        raise UserError(f"{where}: {value!r} is {words}")


def build(spec: Mapping[str, Any], where: str = "", **given: Any) -> Any:
    """Builds what a spec names: nested specs first, then the target itself with its settings and ``given``.

    With ``_partial_: true`` the result is the target with its settings bound.
    """
    target = str(spec[TARGET])
    settings = {name: _built(value, f"{where}.{name}") for name, value in settings_of(spec).items()}
    found = locate(target, where)
    if spec.get(PARTIAL):
        return functools.partial(found, **settings, **given)
    try:
        return found(**settings, **given)
    except UserError:
        raise
    except Exception as error:  # whatever a constructor says of the settings that it is given
        said, kind = reason(error), type(error).__name__
        plain = isinstance(error, TypeError | MemoryError) or said.startswith((kind, "not enough memory"))
        raise UserError(
            f"{where or target}: can't build {target}: {said if plain else f'{kind}: {said}'}"
        ) from error


def _built(value: Any, where: str) -> Any:
    if is_spec(value):
        return build(value, where)
    if isinstance(value, Mapping):
        return {k: _built(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_built(v, f"{where}[{i}]") for i, v in enumerate(value)]
    return value


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


def map_refs(value: Any, change: Callable[[Any, bool, str], Any], where: str = "") -> Any:
    """A copy of a value in which every reference inside a spec is replaced by ``change(reference, many, where)``.

    A parameter is a reference when its annotation names ``Ref``; ``many`` when it is a tuple of them.
    """
    if is_spec(value):
        seen = signature(str(value[TARGET]))
        out = {}
        for name, inner in value.items():
            annotation = seen.parameters[name].annotation if seen and name in seen.parameters else ""
            place = f"{where}.{name}"
            if inner is not None and re.search(r"\bRef\b", annotation):
                out[name] = change(inner, "tuple" in annotation, place)
            else:
                out[name] = map_refs(inner, change, place)
        return out
    if isinstance(value, Mapping):
        return {str(k): map_refs(v, change, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [map_refs(v, change, f"{where}[{i}]") for i, v in enumerate(value)]
    return value
