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
    metric, extraction = trace_scoring(name)
    return Task(name, train, test, metric=metric, extraction=extraction)


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


def trace_scoring(task_name: str) -> tuple[str, str]:
    """(metric, extraction) of a TRACE task; the plain ones for a task that TRACE does not have."""
    return TRACE_TASKS.get(task_name, ("exact_match", "strip"))
