"""The heads of a task in a terminal: a heatmap that can be read without colour, and what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from seekr_lite.tools.heads.scores import shades

if TYPE_CHECKING:
    from seekr_lite.runs.contents import TaskStore
    from seekr_lite.tools.heads.scores import ChoiceChange, TaskHeads

HEADS_PER_BLOCK = 32  # two characters a head: a block fits 80 columns
COLUMN_MARK = 4  # every so many heads a number stands above
CIVIDIS = (
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
)  # dark to light; readable for the colour-blind
DARK_COLOURS = 5


def render_heads(task: TaskHeads, measure: str | None, changes: Sequence[ChoiceChange]) -> Any:
    """The heatmap of a measure, the chosen heads by layer, the top heads, and how the choice moved."""
    from rich.console import Group
    from rich.text import Text

    name, values = task.measure(measure)
    layers, heads = values.shape
    chosen = ", ".join(f"{layer}: {ranges(members)}" for layer, members in task.chosen_by_layer().items())
    parts: list[Any] = [
        Text(f"{name} after {task.task}, {layers} layers x {heads} heads", style="bold"),
        Text("digit: 10 x square root of (value / largest); *: a chosen head\n"),
        *_heatmap(task, measure),
        Text(f"{len(task.chosen)} heads chosen (layer: heads)   {chosen}\n"),
        _top(task, measure),
    ]
    if changes:
        lines = [f"  {one.before} -> {one.after}   {one.jaccard:.2f}\n" for one in changes]
        title = "\nchosen heads kept from task to task (Jaccard index; 1 is the same set)\n"
        parts.append(Text(title + "".join(lines)))
    return Group(*parts)


def render_store(stores: Sequence[TaskStore]) -> Any:
    """What is kept of each task: replay text and adapter, apart, and their sums."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="what is kept, in bytes", title_justify="left")
    table.add_column("task")
    for column in ("samples", "text", "mean sample", "largest sample", "adapter"):
        table.add_column(column, justify="right")
    for one in stores:
        numbers = (one.samples, one.text_bytes, one.mean_sample_bytes, one.largest_sample_bytes, one.adapter_bytes)
        table.add_row(Text(one.task), *(f"{number:,.0f}" for number in numbers))
    samples, text = sum(one.samples for one in stores), sum(one.text_bytes for one in stores)
    largest = max((one.largest_sample_bytes for one in stores), default=0)
    sums = (samples, text, text / samples if samples else 0, largest, sum(one.adapter_bytes for one in stores))
    table.add_section()
    table.add_row("all", *(f"{number:,.0f}" for number in sums))
    return table


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers with runs drawn together: [0, 1, 2, 5] -> "0-2 5"."""
    runs = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return " ".join(runs)


def _heatmap(task: TaskHeads, measure: str | None) -> list[Any]:
    """One block of at most 32 heads under the other."""
    from rich.text import Text

    values = shades(task.measure(measure)[1])
    layers, heads = values.shape
    chosen = set(task.chosen)
    blocks = []
    for first in range(0, heads, HEADS_PER_BLOCK):
        block = range(first, min(first + HEADS_PER_BLOCK, heads))
        marks = "".join(f"{head:<{2 * COLUMN_MARK}}" for head in block[::COLUMN_MARK])
        text = Text(f"layer  head {marks.rstrip()}\n", no_wrap=True)
        for layer in range(layers):
            text.append(f"{layer:>5}       ")
            for head in block:
                digit = min(9, int(10 * float(values[layer, head])))
                mark = "*" if (layer, head) in chosen else " "
                text.append(f"{digit}{mark}", style=_style(digit, mark == "*"))
            text.append("\n")
        blocks.append(text)
    return blocks


def _style(digit: int, chosen: bool) -> str:
    ink = "#ffffff" if digit < DARK_COLOURS else "#000000"  # not "black", which is a grey in many a terminal
    return f"{'bold ' if chosen else ''}{ink} on {CIVIDIS[digit]}"


def _top(task: TaskHeads, measure: str | None) -> Any:
    from rich.table import Table

    name, _ = task.measure(measure)
    chosen = set(task.chosen)
    table = Table(title=f"top heads by {name}", title_justify="left")
    for column in ("layer", "head", name, "share of all", "chosen"):
        table.add_column(column, justify="right")
    for one in task.top(10, measure):
        mark = "*" if (one.layer, one.head) in chosen else ""
        table.add_row(str(one.layer), str(one.head), f"{one.value:.3g}", f"{one.share:.1%}", mark)
    return table
