"""Hardware targets: a state lowered, and timed beside itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from compressbench.bench import Bench
from compressbench.checking.probes import check_metrics
from compressbench.checking.traces import Unfit, alone, differs, quietly, unchanged
from compressbench.hardware.exits import lower
from compressbench.hardware.target import HardwareTarget, Lowered, Timing, Unsupported, unfit
from compressbench.inputs import first
from compressbench.probes.targets import Targets
from compressbench.state import State
from compressbench.views import View


def check_target(target: Any, subject: State, reference: State, bench: Bench) -> str:
    """What a target says that it runs, or why it can't run here: both are right.

    Raises:
        Unfit: it is no target; it prints or changes a state; or what it lowers and times has not the form that is wanted.
    """
    for name in ("lower", "time"):
        if not callable(getattr(target, name, None)):
            raise Unfit(
                f"{type(target).__name__} has no {name}; a target has batches, lower(view) and time(lowered, batch)"
            )
    batches = getattr(target, "batches", None)
    if not isinstance(batches, Sequence) or not batches or any(type(b) is not int or b < 1 for b in batches):
        raise Unfit(f"batches are {batches!r}; a list of whole numbers is wanted, e.g. [1, 64]")
    with unchanged(subject=subject, reference=reference):
        views = [View(s, alone(bench), n) for s, n in ((subject, "pruned"), (reference, "dense"))]
        found = [quietly(lambda v=view: lower(target, v)) for view in views]  # type: ignore[misc]
        said = [check_lowered(one, max(batches)) for one in found]
        ready = [one for one in found if isinstance(one, Lowered)]
        for batch in batches if len(ready) == len(found) else ():
            if not unfit(ready, batch):
                check_timings(target, ready, batch)
        rows = list(quietly(lambda: list(Targets({"own": target}).measure(views[0], views[1], alone(bench)))))
    check_metrics(rows)
    return said[0]


def check_lowered(one: Any, most: int) -> str:
    """What a lowered state runs on in words, or why it doesn't.

    Raises:
        Unfit: it is neither ``Lowered`` nor ``Unsupported``, gives no words, too few inputs, or doesn't run.
    """
    if isinstance(one, Unsupported):
        if not one.why:
            raise Unfit("lower gives Unsupported without why; a sentence for the reader is wanted")
        return f"can't run here: {one.why}"
    if not isinstance(one, Lowered):
        raise Unfit(
            f"lower returned {type(one).__name__}; Lowered, or Unsupported(why), of compressbench.hardware.target"
        )
    if not one.runtime:
        raise Unfit("lower gives no runtime; say in words what runs, e.g. 'torch eager, fp32'")
    if one.price is not None:
        return one.runtime
    if not isinstance(one.inputs, tuple) or not one.inputs or any(len(x) < most for x in one.inputs):
        raise Unfit(f"lower gives too few inputs; a tuple of tensors of {most} examples or more is wanted")
    quietly(lambda: one.run(*first(one.inputs, 1)))
    return one.runtime


def check_timings(target: HardwareTarget, ready: Sequence[Lowered], batch: int) -> None:
    """That several states are timed, each by positive seconds, and modelled ones alike each time.

    Raises:
        Unfit: the first fault.
    """
    found = quietly(lambda: target.time(ready, batch))
    if (
        not isinstance(found, list)
        or len(found) != len(ready)
        or not all(isinstance(t, Timing) for t in found)
    ):
        raise Unfit(f"time of {len(ready)} states gives {found!r:.60}; a list of as many Timings is wanted")
    for timing in found:
        if timing.batch != batch:
            raise Unfit(f"time says batch {timing.batch} for batch {batch}")
        if not timing.seconds or any(not 0 < s < math.inf for s in timing.seconds):
            raise Unfit(
                f"time at batch {batch} gives seconds {timing.seconds!r:.60}; positive numbers are wanted"
            )
        if timing.basis not in ("measured", "modelled"):
            raise Unfit(f"the timing's basis is {timing.basis!r}; measured, or modelled where no device ran")
    if all(t.basis == "modelled" for t in found) and differs(found, target.time(ready, batch)):
        raise Unfit("modelled timings differ from call to call; only what is measured may")
