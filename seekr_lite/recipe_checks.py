"""What must hold between the keys of a recipe. Works on plain values, so that these problems are told together with
wrong types and unknown keys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seekr_lite.common.errors import UserError, brief
from seekr_lite.data.task import check_task_name
from seekr_lite.limits import MAX_PROBLEMS_SHOWN, MAX_TASKS
from seekr_lite.methods.registry import METHODS, method_names
from seekr_lite.recipe.method_names import DEFAULT_METHOD

NO_TEXT = re.compile("[\0\ud800-\udfff]")
FORMATS_WITH_PATH = ("trace", "superni", "jsonl", "datasets")


@dataclass(frozen=True)
class Problem:
    """A key, and what is wrong with it."""

    section: str
    key: str
    message: str


def check_keys_together(values: Mapping[str, Any]) -> list[Problem]:
    """Every problem between keys; a value of a wrong type is passed over, since it is told elsewhere."""
    return [
        *_check_texts(values),
        *_check_data(_table(values, "data")),
        *_check_epochs(values),
        *_check_method(_table(values, "method")),
    ]


def _check_texts(values: Mapping[str, Any]) -> list[Problem]:
    """No file can be called or hold such a text; otherwise that would be said late, in words that help nobody."""
    return [
        Problem(section, key, "a text cannot hold a NUL character, or half of a surrogate pair")
        for section in values
        for key, value in _table(values, section).items()
        for text in (value if isinstance(value, tuple) else (value,))
        if isinstance(text, str) and NO_TEXT.search(text)
    ][:MAX_PROBLEMS_SHOWN]


def _check_data(data: Mapping[str, Any]) -> list[Problem]:
    tasks, form = _names(data), data.get("format")
    if not isinstance(form, str) or tasks is None or form == "python":
        return []
    problems = []
    if not tasks:
        problems.append(Problem("data", "tasks", "name at least one task"))
    if form in FORMATS_WITH_PATH and not data.get("path"):
        problems.append(Problem("data", "path", f'is needed with format = "{form}"'))
    if len(tasks) > MAX_TASKS:
        return [*problems, Problem("data", "tasks", f"{len(tasks)} tasks; a run has at most {MAX_TASKS}")]
    repeated = sorted(name for name, count in Counter(tasks).items() if count > 1)
    if repeated:
        problems.append(Problem("data", "tasks", f"{', '.join(map(brief, repeated))} is named more than once"))
    for name in dict.fromkeys(tasks):
        try:
            check_task_name(name)
        except UserError as error:
            problems.append(Problem("data", "tasks", str(error)))
    return problems


def _check_epochs(values: Mapping[str, Any]) -> list[Problem]:
    epochs, data = _table(values, "train").get("epochs"), _table(values, "data")
    tasks = _names(data)
    if not isinstance(epochs, tuple) or tasks is None or data.get("format") == "python" or len(epochs) == len(tasks):
        return []
    message = f"{len(epochs)} numbers for {len(tasks)} tasks; give one number for all, or one per task"
    return [Problem("train", "epochs", message)]


def _check_method(method: Mapping[str, Any]) -> list[Problem]:
    from seekr_lite.recipe.problems import nearest

    name = method.get("name", DEFAULT_METHOD)
    if not isinstance(name, str) or name in METHODS or name in (known := method_names()):
        return []
    message = f'no method is called "{brief(name)}"{nearest(name, known)}; allowed: {", ".join(known)}'
    return [Problem("method", "name", message)]


def _table(values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    table = values.get(section)
    return table if isinstance(table, Mapping) else {}


def _names(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    tasks = data.get("tasks", ())
    return tasks if isinstance(tasks, tuple) and all(isinstance(name, str) for name in tasks) else None
