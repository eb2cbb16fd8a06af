"""What is measured of models, and what is found in data, as tables for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from seekr_lite.evaluation.scoreboard import show

if TYPE_CHECKING:
    from seekr_lite.data.check import Lengths, TaskReport
    from seekr_lite.evaluation.scoreboard import Scoreboard
    from seekr_lite.tools.evaluate import Evaluation
    from seekr_lite.tools.general_text import TextLikelihood
    from seekr_lite.tools.lm_eval_harness import HarnessScore


def render_evaluations(found: Sequence[Evaluation]) -> Table:
    """A line per model and task."""
    table = Table(caption="NLL: of held-out answers, per token", caption_justify="left")
    for column in ("after", "task", "metric", "score", "NLL", "tested"):
        table.add_column(column, justify="right" if column in ("score", "NLL") else "left")
    for one in found:
        note = "by the run" if one.from_run else "now"
        place = Text(one.model), Text(one.task), one.metric or "–"
        table.add_row(*place, show(one.score), show(one.nll, 3), Text(note, style="dim"))
    return table


def render_likelihoods(found: Sequence[TextLikelihood], file: str, board: Scoreboard) -> Table:
    """A line per model, its scores on the tasks beside it; the change is against the first line."""
    table = Table(title=Text(f"{file}: {found[0].tokens:,} tokens"), title_justify="left")
    for column in ("after", *board.tasks, "NLL per token", "change", "perplexity"):
        table.add_column(Text(column), justify="left" if column == "after" else "right")
    unknown = (None,) * len(board.tasks)
    rows = {"(bare base)": board.base or unknown, "all tasks": board.matrix[-1]}
    rows |= dict(zip(board.tasks, board.matrix, strict=True))
    for one in found:
        row = rows.get(one.model, unknown)
        change = "" if one is found[0] else f"{one.nll - found[0].nll:+.3f}"
        cells = *map(show, row), f"{one.nll:.3f}", change, f"{one.perplexity:,.2f}"
        table.add_row(Text(one.model), *cells)
    return table


def render_harness(found: Sequence[HarnessScore]) -> Table:
    """A line per model, task and metric, in the harness's own units."""
    table = Table(caption="as lm-evaluation-harness computes it; ↑ higher is better, ↓ lower", caption_justify="left")
    for column in ("after", "task", "metric", "value", "± standard error", "rows"):
        table.add_column(column, justify="left" if column in ("after", "task", "metric") else "right")
    arrows = {True: " ↑", False: " ↓", None: ""}
    for one in found:
        stderr = "–" if one.stderr is None else f"{one.stderr:.4f}"
        rows = "–" if one.rows is None else f"{one.rows:,}"
        metric = f"{one.metric}{arrows[one.higher_is_better]}"
        table.add_row(Text(one.model), Text(one.task), Text(metric), f"{one.value:.4f}", stderr, rows)
    return table


SHOWN_CHARACTERS = 600


def render(reports: Sequence[TaskReport]) -> Group:
    """One table, then an example of each task with its label part marked."""
    table = Table(caption="tokens: shortest/median/95%/longest, before truncation", caption_justify="left")
    for column in ("task", "metric", "train", "held out", "test", "prompt tokens", "answer tokens"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for task in reports:
        counts = (str(n) for n in (task.train_rows, task.validation_rows, task.test_rows))
        table.add_row(
            Text(task.name), Text(task.metric), *counts, _lengths(task.prompt_tokens), _lengths(task.answer_tokens)
        )
    notes = [note for task in reports for note in _notes(task)]
    examples: list[Text] = []
    for task in reports:
        context = task.example.context
        if len(context) > SHOWN_CHARACTERS:
            context = f"[...] {context[-SHOWN_CHARACTERS:]}"
        text = Text(f"\n{task.name}, first training row (what is learned is between » and «):\n", style="bold")
        examples.append(text + Text(context, style="dim") + Text(f"»{task.example.label}«", style="bold green"))
    return Group(table, *(Text(note, style="yellow") for note in notes), *examples)


def _lengths(lengths: Lengths) -> str:
    return f"{lengths.shortest}/{lengths.median}/{lengths.p95}/{lengths.longest}"


def _notes(task: TaskReport) -> list[str]:
    found = (
        (
            task.truncated_prompts,
            "training prompts are longer than data.max_prompt_tokens and lose their left end",
        ),
        (
            task.truncated_answers,
            "training answers are longer than data.max_answer_tokens and lose their right end",
        ),
        (task.duplicate_prompts, "training prompts repeat another one"),
        (task.test_prompts_in_train, "test prompts stand in the training rows too"),
        (task.special_token_rows, "training rows spell out a special token of the base, and are read as that token"),
    )
    return [f"{task.name}: {count} {what}" for count, what in found if count]
