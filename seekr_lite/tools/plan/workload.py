"""How much there is to read: the rows of every task, counted in tokens.

With the base's tokenizer at hand the counts are exact. Without it they are estimates from characters. Chinese and
Japanese characters are counted apart, since tokenizers made for Latin text spend more than a token on each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seekr_lite.common.files import user_path
from seekr_lite.data.encoding import encode_task_rows
from seekr_lite.data.task import Example, Task
from seekr_lite.model.base import load_tokenizer
from seekr_lite.recipe.recipe import DataSettings, Recipe
from seekr_lite.tools.plan.memory import RowLength
from seekr_lite.tools.plan.shapes import local_file

# Estimates: English, German and code of TRACE have 3 to 4.5 characters a token with a 49k-token tokenizer; Chinese has
# 0.6 to 0.7 with Llama 2's, which breaks rare characters into bytes.
LATIN_CHARACTERS, WIDE_CHARACTERS = 3.8, 0.65  # a token
WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")

EXACT = "counted with the base's own tokenizer"
ESTIMATED = (
    f"estimated from characters ({LATIN_CHARACTERS} a token, Chinese, Japanese and Korean {WIDE_CHARACTERS}): "
    "the base's tokenizer is not here"
)
UNKNOWN = "the data is not here, so rows, steps and time are not known; memory is planned for the recipe's longest row"


@dataclass(frozen=True)
class TaskRows:
    """A task in tokens, as it will be read (cut to the recipe's limits); `test` has lengths of prompts.

    text_bytes: of a training row in the replay memory, on average.
    """

    name: str
    train: tuple[RowLength, ...]
    validation: tuple[RowLength, ...]
    test: tuple[int, ...]
    text_bytes: float


@dataclass(frozen=True)
class Workload:
    """The tasks in order; `tasks` is empty where the data is not here. longest: the row that memory is planned for."""

    tasks: tuple[TaskRows, ...]
    counted: str
    longest: RowLength


def read_workload(recipe: Recipe) -> Workload:
    """Reads the recipe's data. Nothing is downloaded.

    Raises:
        UserError: the data is here and something is wrong with it.
    """
    data = recipe.data
    limits = RowLength(data.max_prompt_tokens, data.max_answer_tokens)
    if data.format != "toy" and (data.format == "python" or not (data.path and user_path(data.path).is_dir())):
        return Workload((), UNKNOWN, limits)
    from seekr_lite.runs.tasks import gather_tasks

    tokenizer = load_tokenizer(recipe.base) if local_file(recipe.base, "tokenizer_config.json") else None
    tasks = tuple(_count(task, tokenizer, data) for task in gather_tasks(recipe, None, ()))
    if tokenizer is None:
        return Workload(tasks, ESTIMATED, limits)
    rows = [row for task in tasks for row in (*task.train, *task.validation)]
    prompts = [row.prompt for row in rows] + [tokens for task in tasks for tokens in task.test]
    return Workload(tasks, EXACT, RowLength(max(prompts), max(row.answer for row in rows)))


def _count(task: Task, tokenizer: Any, data: DataSettings) -> TaskRows:
    train, validation, test = (_lengths(rows, tokenizer, data) for rows in (task.train, task.validation, task.test))
    text = sum(len(row.prompt.encode()) + len(row.answer.encode()) for row in task.train)
    return TaskRows(task.name, train, validation, tuple(row.prompt for row in test), text / max(1, len(task.train)))


def _lengths(rows: Sequence[Example], tokenizer: Any, data: DataSettings) -> tuple[RowLength, ...]:
    if tokenizer is not None:
        encoded = encode_task_rows(tokenizer, rows, data)
        return tuple(RowLength(len(row.input_ids) - row.answer_length, row.answer_length) for row in encoded)
    return tuple(
        RowLength(
            min(data.max_prompt_tokens, estimated_tokens(row.prompt) + 1),
            min(data.max_answer_tokens, estimated_tokens(row.answer) + 1),
        )
        for row in rows
    )


def estimated_tokens(text: str) -> int:
    """Tokens of a text, from its characters."""
    wide = len(WIDE.findall(text))
    return round(wide / WIDE_CHARACTERS + (len(text) - wide) / LATIN_CHARACTERS)
