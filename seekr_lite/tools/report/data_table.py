"""The data report in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seekr_lite.data.check import DataReport, Lengths, TaskReport

SHOWN_CHARACTERS = 600


def render(report: DataReport) -> Any:
    """One table, then an example of each task with its label part marked."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(caption="tokens: shortest/median/95%/longest, before truncation", caption_justify="left")
    for column in ("task", "metric", "train", "held out", "test", "prompt tokens", "answer tokens"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for task in report.tasks:
        counts = (str(n) for n in (task.train_rows, task.validation_rows, task.test_rows))
        table.add_row(
            Text(task.name), Text(task.metric), *counts, _lengths(task.prompt_tokens), _lengths(task.answer_tokens)
        )
    notes = [note for task in report.tasks for note in _notes(task)]
    examples: list[Any] = []
    for task in report.tasks:
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
