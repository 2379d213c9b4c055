"""Kernels as settings of stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressbench import specs
from compressbench.errors import UserError


def check(kernel: Any) -> None:
    """Refuses what is no spec of a kernel.

    Raises:
        UserError: naming those there are.
    """
    seen = specs.signature(str(kernel[specs.TARGET])) if specs.is_spec(kernel) else None
    if not specs.is_spec(kernel) or (
        seen is not None and list(seen.parameters)[:3] != ["dots", "left", "right"]
    ):
        raise UserError(f"kernel: {kernel!r} is no kernel; choose one by its YAML: rbf, arc_cosine or ntk")


def in_words(kernel: Mapping[str, Any]) -> str:
    """The name of a kernel's spec."""
    return str(kernel[specs.TARGET]).rpartition(".")[2].replace("_", " ")
