"""Charts as inline SVG: lines and bars. No script draws them, and no colour alone says anything.

Sizes are those of a phone's width, so that their texts stay readable; the page puts several side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from seekr_lite.common.html_page import text

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 16, 22  # margins of a line chart

Point = tuple[float, float]
Item = TypeVar("Item")


def line_chart(
    label: str,
    line: Sequence[Point | None],
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[float],
    x_range: tuple[float, float],
    band: Sequence[tuple[float, float, float] | None] = (),
    borders: Sequence[tuple[float, str]] = (),
    marked: bool = False,
    log: bool = False,
) -> Markup:
    """A line over an axis with ticks; a `None` in it breaks it. With `log`, ticks and values are above zero.

    band: (x, low, high) around the line. borders: (x, words) of upright lines. marked: each point has a dot.
    """
    scale = math.log10 if log else float
    (left, right), (low, high) = x_range, (scale(min(y_ticks)), scale(max(y_ticks)))

    def x(value: float) -> float:
        return LEFT + (value - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (scale(value) - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for value, name in x_ticks:
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{text(name)}</text>')
    for value, name in borders:
        parts.append(f'<path class="border" d="M{x(value):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x(value) + 3:.1f}" y="{TOP - 5}">{text(name)}</text>')
    for piece in _pieces(band):
        edge = [f"{x(at):.1f} {y(top):.1f}" for at, _, top in piece]
        edge += [f"{x(at):.1f} {y(bottom):.1f}" for at, bottom, _ in reversed(piece)]
        parts.append(f'<path class="band" d="M{"L".join(edge)}Z"/>')
    for points in _pieces(line):
        parts.append(f'<path class="line" d="M{"L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)}"/>')
        if marked or len(points) == 1:
            parts += [f'<circle class="dot" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3"/>' for a, b in points]
    return svg(WIDTH, HEIGHT, label, "".join(parts))


@dataclass(frozen=True)
class Bar:
    """A bar: its mean, and the single values that it is the mean of."""

    name: str
    values: Sequence[float]

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)


def bar_chart(label: str, bars: Sequence[Bar], ticks: Sequence[float], digits: int = 1) -> Markup:
    """Bars from zero to the mean; a dot for each value, and a line from the smallest to the largest."""
    row, width, thick = 40, 340, 14
    low, high = min(ticks), max(ticks)
    height = 18 + row * len(bars)

    def x(value: float) -> float:
        return 22 + (value - low) / ((high - low) or 1) * (width - 44)

    parts = []
    for tick in ticks:
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 4}" text-anchor="middle">{number(tick)}</text>')
    for index, bar in enumerate(bars):
        top = index * row + 18
        for tick in ticks:
            kind = "grid" if tick else "zero"
            parts.append(f'<path class="{kind}" d="M{x(tick):.1f} {top - 3}v{thick + 6}"/>')
        spread = "" if len(bar.values) < 2 else f", {min(bar.values):.{digits}f} to {max(bar.values):.{digits}f}"
        words = f"{bar.mean:.{digits}f} ({len(bar.values)} run{'s' * (len(bar.values) > 1)}{spread})"
        parts.append(f'<text x="8" y="{top - 6}">{text(bar.name)}: {words.replace("-", "−")}</text>')
        start, end = sorted((x(0), x(bar.mean)))
        parts.append(f'<rect class="bar" x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{thick}"/>')
        middle = top + thick // 2
        if len(bar.values) > 1:
            ends = f"M{x(min(bar.values)):.1f} {middle}H{x(max(bar.values)):.1f}"
            parts.append(f'<path class="whisker" d="{ends}"/>')
        parts += [f'<circle class="dot" cx="{x(value):.1f}" cy="{middle}" r="3"/>' for value in bar.values]
    return svg(width, height, label, "".join(parts))


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that hold the range between them."""
    if not high > low:
        low, high = min(low, 0.0), max(high, 0.0)
        high = high if high > low else low + 1.0
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that hold the range between them; every second or third of many."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    step = 1 + (last - first) // 6
    return [10.0**power for power in range(last, first - step, -step)][::-1]


def number(value: float) -> str:
    """A tick's number, short."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")


def _pieces(line: Sequence[Item | None]) -> list[list[Item]]:
    """The unbroken stretches of a line."""
    pieces: list[list[Item]] = [[]]
    for item in line:
        if item is None:
            pieces.append([])
        else:
            pieces[-1].append(item)
    return [piece for piece in pieces if piece]


def svg(width: int, height: int, label: str, content: str, zoom: float = 1.0) -> Markup:
    """A picture of `content`, which is SVG of our own: every text in it went through `text`."""
    return Markup(
        f'<svg width="{zoom * width:.0f}" height="{zoom * height:.0f}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{text(label)}">{content}</svg>'
    )
