"""The heads of a task in a terminal: the heatmap, what stands behind it, and what is kept of each task."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from seekr_lite.runs.inventory import TaskStore
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
    rows = [(one.task, one.samples, one.text_bytes, one.largest_sample_bytes, one.adapter_bytes) for one in stores]
    _, samples, texts, largest, adapters = zip(*rows, strict=True)
    for row in (*rows, ("all", sum(samples), sum(texts), max(largest), sum(adapters))):
        name, count, text, longest, adapter = row
        of_samples = (f"{text / count:,.0f}", f"{longest:,}") if count else ("–", "–")  # there is no mean of nothing
        table.add_row(Text(name), f"{count:,}", f"{text:,}", *of_samples, f"{adapter:,}", end_section=row is rows[-1])
    return table
