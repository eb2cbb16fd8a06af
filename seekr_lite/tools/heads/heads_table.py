"""The heads of a task in a terminal: the heatmap, what stands behind it, and what is kept of each task."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from seekr_lite.runs.contents import TaskStore
from seekr_lite.tools.heads.heatmap import heatmap_text
from seekr_lite.tools.heads.scores import ChoiceChange, TaskHeads


def render_heads(task: TaskHeads, measure: str | None, changes: Sequence[ChoiceChange]) -> Group:
    """The heatmap of a measure, the chosen heads by layer, the top heads, and how the choice moved."""
    name, values = task.measure(measure)
    layers, heads = values.shape
    top = Table(title=f"top heads by {name}", title_justify="left")
    for column in ("head", name, "share of all", "chosen"):
        top.add_column(column, justify="right")
    for row in task.top_rows(measure):
        top.add_row(*row)
    parts: list[Text | Table] = [
        Text(f"{name} after {task.task}, {layers} layers x {heads} heads", style="bold"),
        Text("digit: 10 x square root of (value / largest); *: a chosen head\n"),
        *heatmap_text(task, measure),
        Text(f"{len(task.chosen)} heads chosen (layer: heads)   {task.chosen_in_words}\n"),
        top,
    ]
    if changes:
        lines = [f"  {one.before} -> {one.after}   {one.jaccard:.2f}\n" for one in changes]
        title = "\nchosen heads kept from task to task (Jaccard index; 1 is the same set)\n"
        parts.append(Text(title + "".join(lines)))
    return Group(*parts)


def render_store(stores: Sequence[TaskStore]) -> Table:
    """What is kept of each task: replay text and adapter, apart, and their sums."""
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
