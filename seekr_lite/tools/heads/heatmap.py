"""The heatmap of a measure in a terminal, in a page and as a picture: one scale, ten colours, the chosen heads marked.

A few heads carry most of the weight, and on a straight scale all others would look like nothing. So a head's digit is
ten times the square root of its share of the largest value, rounded down (9 for the largest); its colour says the same.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from markupsafe import Markup
from rich.text import Text

from seekr_lite.common.packages import load_extra
from seekr_lite.common.svg_charts import svg
from seekr_lite.tools.heads.scores import TaskHeads

CIVIDIS = (  # dark to light; readable for the colour-blind
    "#00224e",
    "#123570",
    "#3b496c",
    "#575d6d",
    "#707173",
    "#8a8678",
    "#a59c74",
    "#c3b369",
    "#e1cc55",
    "#fee838",
)
DARK_COLOURS = 5  # on so many of them ink is white
HEADS_PER_BLOCK = 32  # in a terminal, two characters a head: a block fits 80 columns
COLUMN_MARK = 4  # every so many heads a number stands above
CELL, AXIS = 15, 30  # pixels of a cell, and left of and above the cells
SMALL = 200  # pixels; the heatmap of a small model is drawn up to this width
INCHES_PER_CELL = 0.26


def digits(values: torch.Tensor) -> list[list[int]]:
    """The digit of each head, `[layers][heads]`."""
    largest = float(values.max())
    shares = values.clamp(min=0) / largest if largest > 0 else torch.zeros_like(values)
    return [[min(9, int(10 * share)) for share in row] for row in shares.sqrt().tolist()]


def ink(digit: int) -> str:
    """The colour of a digit on its cell."""
    return "#ffffff" if digit < DARK_COLOURS else "#000000"  # not "black", which is a grey in many a terminal


def heatmap_text(task: TaskHeads, measure: str | None) -> list[Text]:
    """For a terminal, readable without colour: a star at each chosen head; blocks of at most 32 heads."""
    rows, chosen = digits(task.measure(measure)[1]), set(task.chosen)
    blocks = []
    for first in range(0, len(rows[0]), HEADS_PER_BLOCK):
        block = range(first, min(first + HEADS_PER_BLOCK, len(rows[0])))
        marks = "".join(f"{head:<{2 * COLUMN_MARK}}" for head in block[::COLUMN_MARK])
        text = Text(f"layer  head {marks.rstrip()}\n", no_wrap=True)
        for layer, row in enumerate(rows):
            text.append(f"{layer:>5}       ")
            for head in block:
                mark, weight = ("*", "bold ") if (layer, head) in chosen else (" ", "")
                text.append(f"{row[head]}{mark}", style=f"{weight}{ink(row[head])} on {CIVIDIS[row[head]]}")
            text.append("\n")
        blocks.append(text)
    return blocks


def heatmap_svg(task: TaskHeads, measure: str, hover: bool = True) -> Markup:
    """For a page or a notebook; it needs no style. hover: each cell shows its value when it is pointed at."""
    values = task.measures[measure]
    rows, (layers, heads) = digits(values), values.shape
    parts = [_axes(layers, heads)]
    for digit, colour in enumerate(CIVIDIS):
        places = [(i, j) for i in range(layers) for j in range(heads) if rows[i][j] == digit]
        if places:
            parts.append(f'<path fill="{colour}" d="{"".join(_cell(*place) for place in places)}"/>')
    for layer, row in enumerate(rows):
        parts.append(f'<text y="{AXIS + layer * CELL + 11}" text-anchor="middle">')
        for colour, together in groupby(enumerate(row), key=lambda cell: ink(cell[1])):
            across, shown = zip(*together, strict=True)
            middles = " ".join(str(AXIS + head * CELL + CELL // 2) for head in across)
            parts.append(f'<tspan x="{middles}" fill="{colour}" font-size="10">{"".join(map(str, shown))}</tspan>')
        parts.append("</text>")
    frames = "".join(_cell(*place) for place in task.chosen)
    for colour, width in (("#000000", 3), ("#ffffff", 1.5)):  # seen on light and on dark cells
        parts.append(f'<path fill="none" stroke="{colour}" stroke-width="{width}" d="{frames}"/>' if frames else "")
    if hover:
        titled = "".join(
            f'<path d="{_cell(i, j)}"><title>layer {i}, head {j}: {values[i, j]:.3g}</title></path>'
            for i in range(layers)
            for j in range(heads)
        )
        parts.append(f'<g fill="transparent">{titled}</g>')
    width, height = AXIS + heads * CELL + 2, AXIS + layers * CELL + 2
    zoom = max(1.0, min(1.5, SMALL / width))
    return svg(width, height, f"{measure} after {task.task}", "".join(parts), zoom)


def _cell(layer: int, head: int) -> str:
    return f"M{AXIS + head * CELL} {AXIS + layer * CELL}h{CELL - 1}v{CELL - 1}h-{CELL - 1}z"


def _axes(layers: int, heads: int) -> str:
    """Numbers of layers on the left, of heads above."""
    across = "".join(
        f'<text x="{AXIS + head * CELL + CELL // 2}" y="{AXIS - 5}" text-anchor="middle">{head}</text>'
        for head in range(0, heads, 1 if heads <= 8 else COLUMN_MARK)
    )
    down = "".join(
        f'<text x="{AXIS - 5}" y="{AXIS + layer * CELL + CELL // 2 + 4}" text-anchor="end">{layer}</text>'
        for layer in range(0, layers, 1 if layers <= 8 else COLUMN_MARK)
    )
    names = (
        f'<text x="{AXIS}" y="10">head</text>'
        f'<text x="10" y="{AXIS}" transform="rotate(-90 10 {AXIS})" text-anchor="end">layer</text>'
    )
    return f'<g font-size="11" fill="currentColor">{across}{down}{names}</g>'


def heatmap_figure(task: TaskHeads, measure: str | None) -> Any:
    """For Python and PNG: a matplotlib figure.

    Raises:
        UserError: matplotlib is not installed, or the task has no such measure.
    """
    name, values = task.measure(measure)
    pyplot = load_extra("matplotlib.pyplot", "plot")
    parts = (load_extra(f"matplotlib.{part}", "plot") for part in ("colors", "patches", "patheffects", "ticker"))
    colors, patches, patheffects, ticker = parts
    layers, heads = values.shape
    size = (max(4.4, 2.2 + INCHES_PER_CELL * heads), max(3.4, 1.3 + INCHES_PER_CELL * layers))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    pyplot.close(figure)  # the caller shows it; left open, a notebook would draw it twice
    scale = colors.PowerNorm(0.5, vmin=0.0, vmax=max(float(values.max()), 1e-30))
    image = axes.imshow(values.numpy(), cmap=colors.ListedColormap(CIVIDIS), norm=scale, interpolation="nearest")
    for layer, row in enumerate(digits(values)):
        for head, digit in enumerate(row):
            axes.text(head, layer, str(digit), color=ink(digit), fontsize=7, ha="center", va="center")
    edge = [patheffects.withStroke(linewidth=3.2, foreground="black")]  # seen on light and on dark cells
    for layer, head in task.chosen:
        place = (head - 0.43, layer - 0.43)
        frame = patches.Rectangle(place, 0.86, 0.86, fill=False, edgecolor="white", linewidth=1.6, path_effects=edge)
        axes.add_patch(frame)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title(f"{name} after {task.task}\n{len(task.chosen)} of {layers * heads} heads chosen", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 4, 5, 10]))
    figure.colorbar(image, ax=axes, label=name, aspect=30)
    return figure
