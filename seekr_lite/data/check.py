"""Looks at tasks before they are learned: counts, lengths, truncation, duplicates, overlap, special tokens, one
rendered example."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.data.encoding import encode_task_rows
from seekr_lite.data.task import Task
from seekr_lite.recipe.recipe import DataSettings


@dataclass(frozen=True)
class Lengths:
    """Token lengths of a column, before truncation."""

    shortest: int
    median: int
    p95: int
    longest: int


@dataclass(frozen=True)
class RenderedExample:
    """The first training row as the model reads it; only `label` is learned."""

    context: str
    label: str


@dataclass(frozen=True)
class TaskReport:
    """What was found in a task.

    special_token_rows: training rows that spell out a special token ("</s>"). They are read as that token: right for
    text that somebody has put into a chat format, an accident elsewhere.
    """

    name: str
    metric: str
    extraction: str
    train_rows: int
    validation_rows: int
    test_rows: int
    prompt_tokens: Lengths
    answer_tokens: Lengths
    truncated_prompts: int
    truncated_answers: int
    duplicate_prompts: int
    test_prompts_in_train: int
    special_token_rows: int
    example: RenderedExample


def check_data(tasks: Sequence[Task], tokenizer: Any, settings: DataSettings) -> list[TaskReport]:
    """Reads every training row as training would, and reports what it saw.

    Raises:
        UserError: a task has no training rows.
    """
    empty = [task.name for task in tasks if not task.train]
    if empty:
        raise UserError(f"{', '.join(empty)}: there are no training rows; a task needs at least one")
    return [_check_task(task, tokenizer, settings) for task in tasks]


def _check_task(task: Task, tokenizer: Any, settings: DataSettings) -> TaskReport:
    rows = encode_task_rows(tokenizer, task.train, settings)
    prompts = [row.prompt for row in task.train]
    seen = set(prompts)
    special = [token for token in tokenizer.all_special_tokens if token]
    first, split = rows[0].input_ids, len(rows[0].input_ids) - rows[0].answer_length
    return TaskReport(
        name=task.name,
        metric=task.metric,
        extraction=task.extraction,
        train_rows=len(task.train),
        validation_rows=len(task.validation),
        test_rows=len(task.test),
        prompt_tokens=_lengths([len(r.input_ids) - r.answer_length + r.truncated_prompt_tokens for r in rows]),
        answer_tokens=_lengths([r.answer_length + r.truncated_answer_tokens for r in rows]),
        truncated_prompts=sum(r.truncated_prompt_tokens > 0 for r in rows),
        truncated_answers=sum(r.truncated_answer_tokens > 0 for r in rows),
        duplicate_prompts=len(prompts) - len(seen),
        test_prompts_in_train=sum(row.prompt in seen for row in task.test),
        special_token_rows=sum(any(token in row.prompt + row.answer for token in special) for row in task.train),
        example=RenderedExample(tokenizer.decode(first[:split]), tokenizer.decode(first[split:])),
    )


def _lengths(values: Sequence[int]) -> Lengths:
    ordered = sorted(values)
    median, p95 = int(statistics.median(ordered)), ordered[int(0.95 * len(ordered))]
    return Lengths(ordered[0], median, p95, ordered[-1])
