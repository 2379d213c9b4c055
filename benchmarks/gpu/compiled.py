"""How fast a compiled training step is; apart from the others because compiling takes most of the time."""

from __future__ import annotations

from benchmarks.gpu import training
from benchmarks.gpu.rows import Sheet

ARMS = (("compiled", "bf16"), ("compiled", "fp32"), ("compiled", "tf32"))


def run(sheet: Sheet) -> None:
    """See ``training``."""
    training.measure(sheet, ARMS[1:2] if sheet.smoke else ARMS, 0.2 if sheet.smoke else 2.0)
