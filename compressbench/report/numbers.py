"""Numbers as a reader wants them: few digits, a spread in the same digits, units once in the heading."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "–"
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
FIXED = "\N{NO-BREAK SPACE}"
DECIMALS = {"%": 1, "points": 1, "nats": 3, "bits": 3, "x": 2, "load": 2}
EXACT = 1e-9
MOST = 9
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, sample standard deviation (``None`` for one seed) and the number of seeds."""

    mean: float
    sd: float | None
    n: int


def spread(values: Iterable[float]) -> Spread | None:
    """Mean, sample standard deviation and count; ``None`` for no values."""
    known = list(values)
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def from_text(text: str) -> float | None:
    """The finite number that a text is; ``None`` for any other, since records may say what they like."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def number(value: float, unit: str = "", signed: bool = False) -> str:
    """One number without its unit, but with an SI prefix where bytes, MACs and counts are large."""
    return _pair(value, None, unit, signed)[0]


def with_spread(figure: Spread, unit: str = "", signed: bool = False) -> tuple[str, str]:
    """Mean and ``±sd`` in the same scale and decimals; the second is empty where nothing spreads."""
    return _pair(figure.mean, figure.sd, unit, signed)


def plain(figure: Spread | None, unit: str = "", signed: bool = False) -> str:
    """Mean and spread in one string for a sentence or a terminal."""
    if figure is None:
        return MISSING
    mean, sd = with_spread(figure, unit, signed)
    return mean + sd.replace("±", f"{FIXED}±{FIXED}")


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage with its sign: ``51.3 %``, ``3.6 %``, ``0.072 %``."""
    return f"{percentage(share)}{THIN}%"


def percentage(share: float) -> str:
    """A share in [0, 1] as a percentage without its sign: ``100``, ``51.3``, ``3.6``, ``0.72``.

    From 99.9999 on it is 100: of millions of weights that nobody pruned a few are zero.
    """
    value = 100 * share
    if 99.9999 <= value < 100:
        return "100"
    if 0 < value < 0.95:
        return f"{value:.2g}"
    decimals = decimals_of(value, 1, (0.0, 100.0))
    return "100" if decimals == 1 and f"{value:.1f}" == "100.0" else f"{value:.{decimals}f}"


def seeds(count: int) -> str:
    """How a count of seeds is said everywhere: one seed has no spread."""
    return "one seed: no spread" if count == 1 else f"{count} seeds"


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 state``, ``12 states``."""
    return f"{grouped(count)} {noun if count == 1 else plural or noun + 's'}"


def grouped(count: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{count:,}".replace(",", THIN)


def between(values: Iterable[int]) -> str:
    """``500`` or ``100–500``; empty for nothing known."""
    known = sorted({v for v in values if v})
    if not known:
        return ""
    return grouped(known[0]) if len(known) == 1 else f"{grouped(known[0])}–{grouped(known[-1])}"


def _pair(mean: float, sd: float | None, unit: str, signed: bool) -> tuple[str, str]:
    if not math.isfinite(mean):
        return str(mean), ""
    prefix, scale = "", 1.0
    whole = unit in ("1", "bytes", "MACs", "iterations", "") and float(mean).is_integer()
    if unit in ("bytes", "MACs") or (whole and abs(mean) >= 1e5) or abs(mean) >= 1e6:
        scale, prefix = next(((s, p) for s, p in SCALES if abs(mean) >= s), (1.0, ""))
    scaled = mean / scale
    if unit in DECIMALS and scale == 1.0:
        decimals = decimals_of(scaled, DECIMALS[unit], (0.0, 100.0) if unit == "%" else (0.0,), sd or 0.0)
    elif whole and scale == 1.0 and (sd is None or sd == 0):
        decimals = 0
    else:
        decimals = _three_digits(scaled)
    text, unit_prefix = _signed(scaled, decimals, signed), (THIN + prefix if prefix else "")
    if sd is None or (sd == 0 and (whole or scale != 1.0 or unit not in DECIMALS)):
        return text + unit_prefix, ""
    return text, f"±{sd / scale:,.{decimals}f}".replace(",", THIN) + unit_prefix


def share(value: float) -> str:
    """A figure in percent in a sentence, in whole numbers: ``62``; ``99.6`` and ``0.3`` where these would be 100 or 0."""
    return f"{value:.{decimals_of(value, 0, (0.0, 100.0))}f}"


def bits(mean: float) -> str:
    """Bits on average: ``8``, ``3.9``; ``32`` is float itself, and what is nearly that is ``31.98``."""
    text = f"{mean:.3g}"
    return text if text != "32" or mean == 32 else f"{mean:.{decimals_of(mean, 2, (32.0,))}f}"


def decimals_of(value: float, decimals: int, ends: Iterable[float], sd: float = 0.0) -> int:
    """Decimals of a figure: those given, more where it would be rounded to one of ``ends`` and isn't it.

    A spread that isn't 0 isn't shown as 0 either. What is as near as ``EXACT`` is it: the noise of a mean.
    """
    apart = [abs(value - end) for end in ends] + [abs(sd)]
    least = min((gap for gap in apart if gap > EXACT), default=1.0)
    while decimals < MOST and round(least, decimals) == 0:
        decimals += 1
    return decimals


def _three_digits(value: float) -> int:
    """Decimals that leave three significant digits, at most five."""
    if value == 0:
        return 0
    return max(0, min(5, 2 - math.floor(math.log10(abs(value)))))


def _signed(value: float, decimals: int, always: bool) -> str:
    text = f"{abs(value):,.{decimals}f}".replace(",", THIN)
    zero = not any(c in "123456789" for c in text)
    if value < 0 and not zero:
        return MINUS + text
    return ("+" if always and not zero else "") + text
