"""Small SVGs for the page, drawn for the width of a phone: no library, no script, each text escaped.

Colours are Okabe's and Ito's, the reference in ink.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from compressbench.comparing.groups import Answered, Group
from compressbench.comparing.intervals import Estimate
from compressbench.comparing.shapes import Shapes, Sureness
from compressbench.report.drawing import clean, short
from compressbench.showing.account import Layer

T = TypeVar("T")
WIDE = 400
INK, MUTED, HAIR, FLAG, BLUE = "#1a1a1a", "#5f6368", "#dfe1e4", "#b34700", "#0072B2"
ROW = 17
SHOWN = 30
"""Rows of a chart."""
LABEL = 17
"""Characters of a row's name."""


@dataclass(frozen=True)
class Chart:
    """One drawing.

    Attributes:
        title: of it.
        svg: an ``svg`` element, all its texts escaped.
        caption: what it shows, and what of it.
    """

    title: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Bar:
    """One row: a figure with its interval.

    Attributes:
        name, beside: texts to the left and to the right.
        colour: of dot and line.
        hollow: whether the dot is, for what was not tested.
    """

    name: str
    value: Estimate
    beside: str = ""
    colour: str = INK
    hollow: bool = False


def paying(groups: Sequence[Group], kind: str) -> Chart | None:
    """Paired change of each class or sub-group, the one that surely lost most on top."""
    if not groups:
        return None
    ordered = sorted(groups, key=lambda g: (g.change.high, g.change.value))
    picked, left = _ends(ordered)
    bars = [
        Bar(
            g.name,
            g.change,
            f"n {g.n:,}",
            FLAG if g.pays else BLUE if g.changed else INK,
            hollow=g.rare,
        )
        for g in picked
    ]
    caption = (
        "Change of accuracy in points with its interval. Orange: surely lost, and blue: surely won, after Holm's "
        "correction for the number of groups; hollow: too few examples to be tested."
    )
    return Chart(
        f"Change by {kind}",
        _rows(bars, "points", zero=True, break_at=len(picked) // 2 if left else None),
        f"{caption}{_left(left)}",
    )


def kept(found: Sequence[Answered]) -> Chart | None:
    """What share of the examples that the reference gives a class the other gives it too."""
    some = [a for a in found if a.before]
    if not some:
        return None
    ordered = sorted(some, key=lambda a: (a.kept.high, a.kept.value))
    picked, left = _ends(ordered)
    bars = [
        Bar(
            a.name,
            a.kept,
            f"{a.before:,} → {a.after:,}",
            FLAG if a.p_holm <= 0.05 and a.after < a.before else BLUE if a.p_holm <= 0.05 else INK,
            a.rare,
        )
        for a in picked
    ]
    caption = (
        "Of the examples that the reference gives a class, how many the other gives it too, with intervals; to the right "
        "how often each answers it. Orange: surely answered less often, blue: more often, after Holm's correction."
    )
    return Chart(
        "Kept by class",
        _rows(bars, "%", break_at=len(picked) // 2 if left else None),
        f"{caption}{_left(left)}",
    )


def estimates(title: str, rows: Iterable[tuple[str, Estimate]], unit: str, caption: str) -> Chart | None:
    """Any figures with intervals, in the order given, the first one marked."""
    known = [(name, value) for name, value in rows if value.known]
    if not known:
        return None
    bars = [Bar(n, v, f"n {v.n:,}", BLUE if k == 0 else INK) for k, (n, v) in enumerate(known)]
    return Chart(title, _rows(bars, unit, label=26), caption)


def reliability(found: Shapes, whose: str) -> Chart | None:
    """Accuracy against confidence by bin, both models; None without labels."""
    if not found.reference.right or not found.other.right:
        return None
    left, top, side = 44, 10, 220

    def x(share: float) -> float:
        return left + share * (WIDE - left - 12)

    def y(share: float) -> float:
        return top + (1 - share) * side

    parts = [_line(x(0), y(0), x(1), y(1), HAIR, 1.2, dash="4 3")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts += [_line(x(0), y(tick), x(1), y(tick), HAIR)]
        parts += [_text(left - 6, y(tick) + 4, f"{100 * tick:.0f}", "end")]
        parts += [_text(x(tick), y(0) + 15, f"{tick:g}", "middle")]
    for model, colour, mark in ((found.reference, INK, "circle"), (found.other, BLUE, "rect")):
        points = [
            (x(mean), y(right / count), count)
            for mean, right, count in zip(model.mean, model.right, model.counts, strict=True)
            if count
        ]
        most = max((c for *_, c in points), default=1)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3" opacity="0.7"/>'
        )
        for a, b, count in points:
            size = 1.5 + 4 * math.sqrt(count / most)
            told = f"{count:,} examples"
            parts.append(_mark(mark, a, b, size, colour, told))
    parts.append(_text(x(0.5), y(0) + 31, "confidence", "middle"))
    parts.append(_key(left, y(0) + 48, (("reference", INK, "circle"), (whose, BLUE, "rect"))))
    return Chart(
        "Reliability",
        _svg("Reliability", top + side + 58, parts),
        "How often answers of a confidence are right (vertical, %), by bin of it; larger marks are of more examples. "
        "On the dashed line confidence means what it says; below it a model is too sure.",
    )


def confidence(found: Shapes, whose: str) -> Chart:
    """How many examples have which confidence, both models."""
    left, top, tall = 44, 10, 130
    models: tuple[tuple[Sureness, str], ...] = ((found.reference, INK), (found.other, BLUE))
    most = max(max(m.counts) for m, _ in models) or 1
    wide = (WIDE - left - 12) / (len(found.edges) - 1)
    parts = []
    for share in (0, 0.5, 1):
        parts += [_line(left, top + (1 - share) * tall, WIDE - 12, top + (1 - share) * tall, HAIR)]
        parts += [_text(left - 6, top + (1 - share) * tall + 4, _count(share * most), "end")]
    for place, (model, colour) in enumerate(models):
        for k, count in enumerate(model.counts):
            high = tall * count / most
            parts.append(
                f'<rect x="{left + k * wide + 1 + place * wide / 2:.1f}" y="{top + tall - high:.1f}" '
                f'width="{wide / 2 - 1:.1f}" height="{high:.1f}" fill="{colour}">'
                f"<title>{count:,} examples</title></rect>"
            )
    for k in range(0, len(found.edges), max(1, (len(found.edges) - 1) // 5)):
        parts.append(_text(left + k * wide, top + tall + 15, f"{found.edges[k]:.2g}", "middle"))
    parts.append(_text((left + WIDE) / 2, top + tall + 31, "confidence", "middle"))
    parts.append(_key(left, top + tall + 48, (("reference", INK, "rect"), (whose, BLUE, "rect"))))
    return Chart(
        "Confidence",
        _svg("Confidence", top + tall + 58, parts),
        "Examples by the confidence of the answer, before and after.",
    )


def divergence(found: Shapes, marks: Sequence[tuple[str, float]]) -> Chart | None:
    """Histogram of KL on a logarithmic axis, with marks at figures.

    Args:
        marks: name and nats, e.g. the mean and quantiles.
    """
    counts = found.kl
    some = [k for k, c in enumerate(counts) if c]
    if not some:
        return None
    first, last = min(some), max(some)
    shown = counts[first : last + 1]
    known = sorted((m for m in marks if math.isfinite(m[1])), key=lambda m: m[1])
    left, top, tall, end = 44, 16 + 12 * len(known), 120, WIDE - 12
    wide = (end - left) / len(shown)
    most = max(shown)
    parts = []
    for share in (0, 0.5, 1):
        parts += [_line(left, top + (1 - share) * tall, end, top + (1 - share) * tall, HAIR)]
        parts += [_text(left - 6, top + (1 - share) * tall + 4, _count(share * most), "end")]
    for k, count in enumerate(shown):
        high = tall * count / most
        parts.append(
            f'<rect x="{left + k * wide + 0.5:.1f}" y="{top + tall - high:.1f}" width="{max(wide - 1, 1):.1f}" '
            f'height="{high:.1f}" fill="{BLUE}"><title>{_bin(found.kl_edges, first + k)}: {count:,}</title></rect>'
        )
    low = math.log10(found.kl_edges[0])
    step = math.log10(found.kl_edges[1]) - low

    def x(nats: float) -> float:
        place = 0.5 if nats < found.kl_edges[0] else 1 + (math.log10(nats) - low) / step
        return min(end, max(left, left + (place - first) * wide))

    for k, edge in enumerate(found.kl_edges):
        if k % 2 == 0 and first <= k <= last and (k // 2 % 2 == 0 or len(shown) < 10):
            parts.append(
                _text(
                    left + (k + 1 - first) * wide,
                    top + tall + 15,
                    f"{edge:.0e}".replace("e-0", "e-").replace("e+0", "e"),
                    "middle",
                )
            )
    for level, (name, nats) in enumerate(known):
        high = 12 + 12 * level
        parts.append(_line(x(nats), high - 9, x(nats), top + tall, FLAG, 0.9))
        end_of = x(nats) > WIDE * 0.7
        parts.append(_text(x(nats) + (-4 if end_of else 4), high, name, "end" if end_of else "start", FLAG))
    parts.append(
        _text((left + WIDE) / 2, top + tall + 31, "KL from the reference, nats (logarithmic)", "middle")
    )
    return Chart(
        "How far apart",
        _svg("How far apart", top + tall + 40, parts),
        f"Examples by KL(reference || other), of {sum(counts):,}; {counts[0]:,} are below {found.kl_edges[0]:g} nats.",
    )


def noise(layers: Sequence[Layer]) -> Chart | None:
    """Signal to noise of each layer in the network's order: made here, and arrived here."""
    known = [v for layer in layers for v in (layer.made, layer.arrived) if math.isfinite(v)]
    if not known:
        return None
    left, top, tall = 44, 10, 170
    low, high = min(0.0, *known), max(known)
    high = high if high > low else low + 1

    def x(place: float) -> float:
        return left + (place + 0.5) * (WIDE - left - 12) / len(layers)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * tall

    parts = []
    for tick in _ticks(low, high):
        parts += [
            _line(left, y(tick), WIDE - 12, y(tick), HAIR),
            _text(left - 6, y(tick) + 4, f"{tick:g}", "end"),
        ]
    for pick, colour, mark in ((_made, INK, "circle"), (_arrived, BLUE, "rect")):
        points = [(x(k), y(pick(v)), v) for k, v in enumerate(layers) if math.isfinite(pick(v))]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2" opacity="0.7"/>'
        )
        size = 3.2 if len(layers) <= 40 else 1.8
        parts += [_mark(mark, a, b, size, colour, f"{v.name}: {pick(v):.1f} dB") for a, b, v in points]
    parts.append(_text((left + WIDE) / 2, top + tall + 16, "layers, from the input to the output", "middle"))
    parts.append(_key(left, top + tall + 34, (("made here", INK, "circle"), ("arrived here", BLUE, "rect"))))
    return Chart(
        "Signal to noise by layer",
        _svg("Signal to noise by layer", top + tall + 44, parts),
        "In dB, the lower the more is wrong. Black: given the reference's input, so what this layer does itself; blue: "
        "given the network's own.",
    )


def _made(layer: Layer) -> float:
    return layer.made


def _arrived(layer: Layer) -> float:
    return layer.arrived


def _ends(ordered: Sequence[T]) -> tuple[list[T], int]:
    """The first and the last of many, and how many are left out between."""
    if len(ordered) <= SHOWN:
        return list(ordered), 0
    half = SHOWN // 2
    return [*ordered[:half], *ordered[-half:]], len(ordered) - 2 * half


def _left(count: int) -> str:
    return f" {count:,} in the middle are left out; the table has all." if count else ""


def _rows(
    bars: Sequence[Bar], unit: str, zero: bool = False, break_at: int | None = None, label: int = LABEL
) -> str:
    left, right, top = 16 + 6 * label, 62, 6
    ends = [e for b in bars for e in (b.value.low, b.value.high, b.value.value) if math.isfinite(e)]
    low, high = min(ends), max(ends)
    if zero:
        low, high = min(low, 0), max(high, 0)
    margin = 0.04 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDE - left - right)

    tall = top + ROW * len(bars)
    parts = []
    for tick in _ticks(low, high):
        parts += [_line(x(tick), top, x(tick), tall, HAIR), _text(x(tick), tall + 14, f"{tick:g}", "middle")]
    if zero:
        parts.append(_line(x(0), top, x(0), tall, MUTED, 1.1))
    for k, bar in enumerate(bars):
        y = top + ROW * (k + 0.5)
        name = clean(bar.name)
        parts.append(_text(left - 8, y + 4, short(name, label), "end", title=name))
        value = bar.value
        if math.isfinite(value.low) and math.isfinite(value.high):
            parts.append(_line(x(value.low), y, x(value.high), y, bar.colour, 1.4))
        if value.known:
            told = f"{name}: {value.value:.3g} {unit} ({value.low:.3g} to {value.high:.3g}), n = {value.n:,}"
            parts.append(_mark("circle", x(value.value), y, 3.4, bar.colour, told, bar.hollow))
        parts.append(_text(WIDE - right + 8, y + 4, bar.beside, "start", MUTED, size=9.5))
        if break_at is not None and k == break_at:
            parts.append(_line(4, top + ROW * k, WIDE - 4, top + ROW * k, MUTED, 1, dash="2 3"))
    parts.append(_text((left + WIDE - right) / 2, tall + 29, unit, "middle"))
    return _svg(unit, tall + 36, parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within, about five."""
    rough = (high - low) / 4
    scale = 10 ** math.floor(math.log10(rough))
    step = scale * next(s for s in (1, 2, 5, 10) if s * scale >= rough)
    found, tick = [], math.ceil(low / step - 1e-9)
    while tick * step <= high + 1e-9 * step:
        found.append(round(tick * step, 10) + 0.0)
        tick += 1
    return found


def _bin(edges: Sequence[float], place: int) -> str:
    if place == 0:
        return f"below {edges[0]:.2g} nats"
    return f"{edges[place - 1]:.2g} nats or more"


def _count(value: float) -> str:
    return (
        f"{value / 1000:g}k"
        if value >= 10_000
        else f"{value:.0f}"
        if value >= 10 or value == 0
        else f"{value:g}"
    )


def _key(x: float, y: float, entries: Iterable[tuple[str, str, str]]) -> str:
    parts, at = [], x
    for name, colour, mark in entries:
        told = short(clean(name), 30)
        parts += [_mark(mark, at + 4, y - 4, 3.6, colour, ""), _text(at + 13, y, told, "start")]
        at += 26 + 6.2 * len(told)
    return "".join(parts)


def _svg(label: str, tall: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {tall:.0f}" role="img" '
        f'aria-label="{_escaped(label)}" font-size="11" fill="{INK}">{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 0.7, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"{dashed}/>'
    )


def _mark(kind: str, x: float, y: float, size: float, colour: str, told: str, hollow: bool = False) -> str:
    fill = "#fff" if hollow else colour
    shape = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"'
        if kind == "circle"
        else f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:.1f}" height="{2 * size:.1f}"'
    )
    return f'{shape} fill="{fill}" stroke="{colour}"><title>{_escaped(told)}</title></{kind}>'


def _text(
    x: float, y: float, text: str, anchor: str, colour: str = INK, title: str = "", size: float = 0
) -> str:
    sized = f' font-size="{size}"' if size else ""
    told = f"<title>{_escaped(title)}</title>" if title else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{sized}>{told}{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return html.escape(clean(text))
