"""The heads as HTML: one page that needs nothing else, or a part of it for a notebook.

Colours work on light and dark: a cell is one colour at an opacity, everything else is the colour of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from seekr_lite.common.svg_charts import heatmap_axes
from seekr_lite.tools.heads.heads_table import ranges
from seekr_lite.tools.heads.scores import shades

if TYPE_CHECKING:
    from seekr_lite.tools.heads.scores import ChoiceChange, TaskHeads

CELL = 14  # pixels
SMALL = 220  # pixels; a heatmap of a small model is drawn up to this width
MARGIN = 34  # left of and above the cells, for the numbers of layers and heads

STYLE = """
.heads{font:15px/1.5 system-ui,sans-serif}
.heads figure{display:inline-block;margin:.5em 1.5em .5em 0;vertical-align:top}
.heads figcaption{font-size:.9em}
.heads svg{display:block;max-width:100%;height:auto}
.heads svg text{font-size:9px;fill:currentColor}
.heads .cell rect{fill:#2f7ed8;width:13px;height:13px}
.heads .back{fill:#888;fill-opacity:.13}
.heads .chosen rect{fill:none;stroke:#e8590c;stroke-width:2;width:13px;height:13px}
.heads table{border-collapse:collapse;margin:.5em 0}
.heads th,.heads td{padding:.15em .8em;text-align:right;border-bottom:1px solid #8886}
.heads th:first-child,.heads td:first-child{text-align:left}
"""

PAGE_STYLE = """
:root{color-scheme:light dark}
body{margin:2em auto;max-width:90em;padding:0 1em;color:#1b1b1b;background:#fff}
@media (prefers-color-scheme:dark){body{color:#e6e6e6;background:#16181c}}
"""


def heads_page(tasks: Sequence[TaskHeads], changes: Sequence[ChoiceChange]) -> str:
    """A whole HTML document: every task with every measure."""
    title = "Attention heads"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{PAGE_STYLE}</style></head><body>\n{heads_fragment(tasks, changes, title)}</body></html>\n"
    )


def heads_fragment(tasks: Sequence[TaskHeads], changes: Sequence[ChoiceChange], title: str = "") -> str:
    """The sections of some tasks, and how the choice moved. Everything that comes from data is escaped."""
    headline = f"<h1>{escape(title)}</h1>" if title else ""
    note = (
        "<p>A cell is a head; its strength is the square root of its share of the largest value. "
        "Framed cells are the chosen heads. Point at a cell to read its value.</p>"
    )
    sections = "".join(_section(task) for task in tasks)
    return f'<div class="heads"><style>{STYLE}</style>{headline}{note}{_changes(changes)}{sections}</div>'


def _changes(changes: Sequence[ChoiceChange]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.before)} → {escape(one.after)}</td><td>{one.jaccard:.2f}</td></tr>" for one in changes
    )
    if not rows:
        return ""
    head = "<tr><th>chosen heads kept</th><th>Jaccard index</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _section(task: TaskHeads) -> str:
    figures = "\n".join(_figure(task, name) for name in task.measures)
    chosen = ", ".join(f"layer {layer}: {ranges(members)}" for layer, members in task.chosen_by_layer().items())
    return (
        f"<section><h2>{escape(task.task)}</h2>\n{figures}\n"
        f"<p>{len(task.chosen)} chosen heads. {chosen}</p>{_top(task)}</section>\n"
    )


def _figure(task: TaskHeads, measure: str) -> str:
    """An SVG of layers x heads."""
    values = task.measures[measure]
    strengths = shades(values)
    layers, heads = values.shape
    width, height = MARGIN + heads * CELL + 2, MARGIN + layers * CELL + 2
    cells = "".join(
        f'<rect x="{MARGIN + head * CELL}" y="{MARGIN + layer * CELL}" fill-opacity="{strengths[layer, head]:.2f}">'
        f"<title>layer {layer}, head {head}: {values[layer, head]:.3g}</title></rect>"
        for layer in range(layers)
        for head in range(heads)
    )
    frames = "".join(f'<rect x="{MARGIN + head * CELL}" y="{MARGIN + layer * CELL}"/>' for layer, head in task.chosen)
    zoom = max(1.0, min(2.0, SMALL / width))
    label = escape(f"{measure} after {task.task}", quote=True)
    size = f'width="{zoom * width:.0f}" height="{zoom * height:.0f}" viewBox="0 0 {width} {height}"'
    back = f'<rect class="back" x="{MARGIN}" y="{MARGIN}" width="{heads * CELL}" height="{layers * CELL}"/>'
    return (
        f"<figure><figcaption>{measure}, up to {float(values.max()):.3g}</figcaption>"
        f'<svg {size} role="img" aria-label="{label}">{back}{heatmap_axes(layers, heads, MARGIN, CELL)}'
        f'<g class="cell">{cells}</g><g class="chosen">{frames}</g></svg></figure>'
    )


def _top(task: TaskHeads) -> str:
    name, _ = task.measure()
    rows = "".join(
        f"<tr><td>layer {one.layer}, head {one.head}</td><td>{one.value:.3g}</td><td>{one.share:.1%}</td></tr>"
        for one in task.top()
    )
    return (
        f"<details><summary>top heads by {name}</summary><table><thead><tr><th>head</th><th>{name}</th>"
        f"<th>share of all</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )
