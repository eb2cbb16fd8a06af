"""The TRACE benchmark: its rows, metrics and answer formats."""

from __future__ import annotations

from seekr_lite.common.files import user_path
from seekr_lite.data.rows import both_splits, examples, read_list, task_folder
from seekr_lite.data.task import Example, Task
from seekr_lite.recipe.recipe import DataSettings


def read_trace(name: str, settings: DataSettings) -> Task:
    """TRACE (arXiv 2310.06762): `<path>/<task>/train.json` and `test.json`, lists of prompt and answer."""
    root = user_path(settings.path or "")
    folder = task_folder(root, name)

    def split(which: str) -> list[Example]:
        path = folder / f"{which}.json"
        return examples(read_list(path, root), str(path), "prompt", "answer")

    train, test = both_splits(split)
    return Task(name, train, test, metric=trace_metric(name), extraction=trace_extraction(name))


# Task -> (metric in the paper's OP, extraction of the official code; but see `meeting_summary`).
TRACE_TASKS = {
    "C-STANCE": ("first_letter_accuracy", "choice"),
    "FOMC": ("accuracy", "choice"),
    "MeetingBank": ("rouge_l", "meeting_summary"),
    "Py150": ("fuzz", "code_line"),
    "ScienceQA": ("first_letter_accuracy", "choice"),
    "NumGLUE-cm": ("accuracy", "answer"),
    "NumGLUE-ds": ("accuracy", "answer"),
    "20Minuten": ("sari", "answer"),
}
OTHER_TASK = ("exact_match", "strip")


def trace_metric(task_name: str) -> str:
    """The metric of a TRACE task; "exact_match" for a task that TRACE does not have."""
    return TRACE_TASKS.get(task_name, OTHER_TASK)[0]


def trace_extraction(task_name: str) -> str:
    """The extraction of a TRACE task; "strip" for any other task."""
    return TRACE_TASKS.get(task_name, OTHER_TASK)[1]
