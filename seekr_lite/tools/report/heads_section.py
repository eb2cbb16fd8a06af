"""The attention heads in a report: a panel of heatmaps for each task, a slider over them, how the choice moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seekr_lite.common.errors import UserError
from seekr_lite.common.html_page import breakable, table, text
from seekr_lite.common.svg_charts import heatmap
from seekr_lite.tools.heads.heads_table import ranges
from seekr_lite.tools.report.run_facts import RunFacts

if TYPE_CHECKING:
    from seekr_lite.tools.heads.heads import Heads
    from seekr_lite.tools.heads.scores import TaskHeads

MEANINGS = {
    "importance": "sensitivity × forgettability, summed over the tasks so far",
    "sensitivity": "how much this task's loss depends on the head's map",
    "forgettability": "how far learning this task has moved the head's map",
}


def heads_content(facts: RunFacts) -> str:
    """The panels; or one sentence where there are none."""
    if not facts.learned:
        return '<p class="empty">No head is scored yet: no task has been learned to its end.</p>'
    from seekr_lite.tools.heads.heads import Heads

    try:
        heads = Heads.of_run(facts.folder)
    except UserError as error:
        if facts.folder.heads_folder:
            return f'<p class="empty">The head scores cannot be read. {text(error)}</p>'
        return '<p class="empty">There are no head scores: this method scores none (SEEKR does).</p>'
    return _slider(heads) + "".join(_panel(task, index) for index, task in enumerate(heads.tasks)) + _changes(heads)


def _slider(heads: Heads) -> str:
    last = len(heads.tasks) - 1
    note = (
        '<p class="note">A cell is a head. Its digit is ten times the square root of its share of the largest value, '
        "rounded down (9 for the largest); its colour says the same. Outlined heads are the chosen ones: samples of "
        "that task hold them.</p>"
    )
    if not last:
        return note
    return (
        f'{note}<p class="scripted slider"><label for="task-slider">Task</label>'
        f'<input id="task-slider" type="range" min="0" max="{last}" step="1" value="{last}">'
        '<output for="task-slider" id="task-name"></output></p>'
    )


def _panel(task: TaskHeads, index: int) -> str:
    figures = "".join(_figure(task, name) for name in task.measures)
    chosen = "; ".join(f"layer {layer}: {ranges(members)}" for layer, members in task.chosen_by_layer().items())
    return (
        f'<article class="heads" data-task="{text(task.task)}" aria-labelledby="heads-{index}">'
        f'<h3 id="heads-{index}">After {text(task.task)}</h3><div class="charts maps">{figures}</div>'
        f"<p><b>{len(task.chosen)} chosen heads</b> (layer: heads): {chosen or 'none'}</p>{_top(task)}</article>"
    )


def _figure(task: TaskHeads, name: str) -> str:
    from seekr_lite.tools.heads.scores import shades

    values = task.measures[name]
    label = f"{name} of {values.shape[0]} layers times {values.shape[1]} heads after {task.task}"
    return (
        f"<figure><figcaption><b>{name}</b>, up to {float(values.max()):.3g}<br><small>{MEANINGS[name]}</small>"
        f'</figcaption><div class="wide" role="group" tabindex="0" aria-label="{text(label)}, heatmap">'
        f"{heatmap(label, shades(values).nan_to_num(0.0).tolist(), task.chosen)}</div></figure>"
    )


def _top(task: TaskHeads) -> str:
    name, _ = task.measure()
    chosen = set(task.chosen)
    rows = [
        [
            f"layer {one.layer}, head {one.head}",
            f"{one.value:.3g}",
            f"{one.share:.1%}",
            "yes" if (one.layer, one.head) in chosen else "no",
        ]
        for one in task.top()
    ]
    shown = table(["head", name, "share of all", "chosen"], rows, f"Top heads by {name} after {text(task.task)}")
    return f"<details><summary>Top heads by {name}</summary>{shown}</details>"


def _changes(heads: Heads) -> str:
    rows = [[f"{breakable(one.before)} → {breakable(one.after)}", f"{one.jaccard:.2f}"] for one in heads.change()]
    if not rows:
        return '<p class="note">One task: the choice of heads has not moved yet.</p>'
    note = '<p class="note">How much the choice stayed from task to task: 1 is the same set, 0 has none in common.</p>'
    return table(["tasks", "Jaccard index"], rows, "Chosen heads in common") + note
