"""A plain function, or a module, as an artefact: ``compressbench.compare(mine, …)``, or ``mynet:answers`` under trust."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressbench.artefacts.artefact import Arrays, Given, Wanted, in_order, table
from compressbench.artefacts.module import OpenModule, frozen, torch_threads
from compressbench.errors import UserError, nearest, reason
from compressbench.specs import let_import_from

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Function:
    """Any callable from a batch to logits.

    A ``torch.nn.Module`` is called with tensors, anything else with numpy arrays as they are fed; it gives an array or a
    tensor (n, classes). ``threads`` are torch's while it runs; what else it uses is its own affair.

    Attributes:
        call: the callable.
        name: as it is shown.
        wants: where the user knows it.
        identity: a name that the user gives it, by which its answers may be kept; None: nothing is kept.
    """

    call: Callable[..., Any]
    name: str
    wants: Wanted = field(default_factory=Wanted)
    identity: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def form(self) -> str:
        """In words."""
        kind = type(self.call).__name__
        return f"torch module {kind}" if _module(self.call) is not None else "Python function"

    def open(self, threads: int = 1) -> OpenModule | OpenFunction:
        """The callable itself."""
        module = _module(self.call)
        if module is not None:
            return OpenModule(frozen(module), self.wants, self.name, threads)
        return OpenFunction(self.call, self.wants, self.name, threads)

    def differentiable(self) -> nn.Module | None:
        """The module, where it is one."""
        module = _module(self.call)
        return None if module is None else frozen(module)


@dataclass(frozen=True)
class OpenFunction:
    """A function that is called with arrays."""

    call: Callable[..., Any]
    wants: Wanted
    name: str
    threads: int

    @property
    def runtime(self) -> None:
        """Nobody's to see."""
        return

    def answers(self, inputs: Arrays) -> np.ndarray:
        """(n, classes), see ``artefact.Opened``; arrays are passed in order, those of a mapping too."""
        arrays = in_order(self.wants, inputs, self.name)
        try:
            with torch_threads(self.threads):
                found = self.call(*arrays)
                found = found.detach().cpu().numpy() if hasattr(found, "detach") else np.asarray(found)
        except UserError:
            raise
        except Exception as error:  # whatever a user's function does
            said, kind = reason(error), type(error).__name__
            raise UserError(
                f"{self.name}: fails on {arrays[0].dtype} {arrays[0].shape}: "
                f"{said if said.startswith(kind) else f'{kind}: {said}'}"
            ) from error
        return table(found, len(arrays[0]), self.name)


def named(text: str, given: Given) -> Function:
    """What ``package.module:attribute`` names: a module or a function of a batch.

    What can be called without an argument, a class too, is called, and what it returns is meant.

    Raises:
        UserError: it isn't trusted, can't be imported, isn't there, or can't be called.
    """
    made = located(text, given)
    if _module(made) is None and _needs_nothing(made):
        try:
            made = made()
        except Exception as error:  # whatever a user's function does
            raise UserError(f"{text}: fails: {type(error).__name__}: {reason(error)}") from error
    if not callable(made):
        raise UserError(f"{text}: is a {type(made).__name__}; a module, or a function of a batch, is wanted")
    return Function(made, text)


def located(text: str, given: Given) -> Any:
    """What an import path leads to, under ``--trust``; nothing is imported that isn't trusted.

    Raises:
        UserError: see ``named``.
    """
    module_name, _, attribute = text.partition(":")
    parts = [*module_name.split("."), attribute]
    if not all(p.isidentifier() for p in parts):
        raise UserError(f"{text}: is no import path like mynet:build")
    trusted = given.trust.prefixes
    if not any(module_name == t or module_name.startswith(f"{t}.") for t in trusted):
        raise UserError(
            f"{text}: names code, which is not run unasked; if it is yours and you trust it, add --trust {parts[0]}"
        )
    let_import_from(Path.cwd(), *given.trust.folders)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does while it is imported
        said, kind = reason(error), type(error).__name__
        raise UserError(f"{text}: can't import {module_name}: {kind}: {said}") from error
    if not hasattr(module, attribute):
        known = [n for n in dir(module) if not n.startswith("_")]
        raise UserError(f"{text}: {module_name} has no {attribute!r}; {nearest(attribute, known)}")
    return getattr(module, attribute)


def _module(call: Any) -> nn.Module | None:
    """The callable, where it is a torch module; torch is not imported to find out."""
    import sys

    torch = sys.modules.get("torch")
    return call if torch is not None and isinstance(call, torch.nn.Module) else None


def _needs_nothing(call: Any) -> bool:
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
    ) and not any(p.kind is p.VAR_POSITIONAL for p in parameters)
