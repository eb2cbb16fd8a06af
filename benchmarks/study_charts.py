"""Curves of a study as small SVG files: several named lines, told apart by their dashes, not by colour alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seekr_lite.common.html_page import text
from seekr_lite.common.svg_charts import nice_ticks, number

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 130, 26, 34
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 5")
INKS = ("#1b6ca8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#475569", "#be123c")
STYLE = "text{font:12px sans-serif;fill:#334155}.grid{stroke:#cbd5e1}.line{fill:none;stroke-width:2}"
APART = 14  # pixels between two names at the right


def curves_chart(title: str, names: Sequence[str], curves: Mapping[str, Sequence[float | None]]) -> str:
    """A line for each of `curves`, over one place for each of `names`; values that are None are left out."""
    known = [value for curve in curves.values() for value in curve if value is not None]
    ticks = nice_ticks(min(0.0, *known), max(known))
    low, high, last = ticks[0], ticks[-1], max(1, len(names) - 1)

    def x(index: int) -> float:
        return LEFT + index / last * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><text x="8" y="16">{text(title)}</text>']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for index in range(len(names)):
        parts.append(f'<text x="{x(index):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{index + 1}</text>')
    ends = []
    for place, (name, curve) in enumerate(curves.items()):
        ink, dash = INKS[place % len(INKS)], DASHES[place % len(DASHES)]
        points = [(x(index), y(value)) for index, value in enumerate(curve) if value is not None]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        parts.append(f'<path class="line" stroke="{ink}" stroke-dasharray="{dash}" d="M{path}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{ink}"/>' for a, b in points]
        ends.append((points[-1][1], name, ink, dash))
    floor = TOP
    for height, name, ink, dash in sorted(ends):
        floor = max(floor, round(height))
        left = WIDTH - RIGHT + 8
        line = f'<path class="line" stroke="{ink}" stroke-dasharray="{dash}" d="M{left} {floor}h22"/>'
        parts.append(f'{line}<text x="{left + 27}" y="{floor + 4}">{text(name)}</text>')
        floor += APART
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{text(title)}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )
