"""The TRACE benchmark: its rows, metrics and answer formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seekr_lite.common.files import user_path
from seekr_lite.data.rows import both_splits, examples, read_list, task_folder
from seekr_lite.data.task import Example, Task

if TYPE_CHECKING:
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


TRACE_METRICS = {
    "C-STANCE": "first_letter_accuracy",
    "FOMC": "accuracy",
    "MeetingBank": "rouge_l",
    "Py150": "fuzz",
    "ScienceQA": "first_letter_accuracy",
    "NumGLUE-cm": "accuracy",
    "NumGLUE-ds": "accuracy",
    "20Minuten": "sari",
}


def trace_metric(task_name: str) -> str:
    """The metric of a TRACE task in the paper's OP; "exact_match" for a task that TRACE does not have."""
    return TRACE_METRICS.get(task_name, "exact_match")


TRACE_EXTRACTIONS = {
    "C-STANCE": "choice",
    "FOMC": "choice",
    "MeetingBank": "meeting_summary",
    "Py150": "code_line",
    "ScienceQA": "choice",
    "NumGLUE-cm": "answer",
    "NumGLUE-ds": "answer",
    "20Minuten": "answer",
}


def trace_extraction(task_name: str) -> str:
    """The official extraction of a TRACE task (but see `meeting_summary`); "strip" for any other task."""
    return TRACE_EXTRACTIONS.get(task_name, "strip")
