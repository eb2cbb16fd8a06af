"""The data check: what it counts, and that the example shows exactly what is learned."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoTokenizer

import seekr_lite.model.tiny
from seekr_lite.common.errors import UserError
from seekr_lite.data.check import TaskReport, check_data
from seekr_lite.data.readers import load_tasks
from seekr_lite.data.task import Example, Task
from seekr_lite.recipe.recipe import DataSettings
from seekr_lite.tools.report.tables import SHOWN_CHARACTERS, render

TINY = AutoTokenizer.from_pretrained(Path(seekr_lite.model.tiny.__file__).parent)
REAL_TRACE = Path(__file__).parents[2] / "shared" / "data" / "TRACE-Benchmark" / "LLM-CL-Benchmark_Reasoning"
SMOLLM2_FOLDER = Path(__file__).parents[1] / "models" / "smollm2-135m-instruct"

TRAIN = (
    Example("a dog runs", "yes"),
    Example("a dog runs", "no"),
    Example("a cat sleeps under the old tree by the river", "yes"),
    Example("a bird", "it sings a song that nobody has heard before"),
)
TEST = (Example("a bird", "yes"), Example("a fish", "no"))


def _task(name: str = "mine", train: tuple[Example, ...] = TRAIN) -> Task:
    return Task(name, train, TEST, validation=(Example("held out", "yes"),), metric="accuracy")


def _settings(**more: Any) -> DataSettings:
    return DataSettings.model_validate({"format": "python", **more})


def _check(**more: Any) -> TaskReport:
    (report,) = check_data([_task()], TINY, _settings(**more))
    return report


def _tokens(text: str) -> int:
    return len(TINY(text, add_special_tokens=False)["input_ids"])


def _shown(report: Any) -> str:
    console = Console(width=200, record=True, file=StringIO(), force_terminal=True, color_system="standard")
    console.print(render(report))
    return console.export_text(styles=True)


def test_rows_duplicates_and_overlap_are_counted() -> None:
    report = _check()
    assert (report.name, report.metric, report.extraction) == ("mine", "accuracy", "none")
    assert (report.train_rows, report.validation_rows, report.test_rows) == (4, 1, 2)
    assert report.duplicate_prompts == 1
    assert report.test_prompts_in_train == 1


def test_lengths_count_every_token_with_the_end_token_of_answers() -> None:
    report = _check()
    answers = sorted(_tokens(row.answer) + 1 for row in TRAIN)
    assert (report.answer_tokens.shortest, report.answer_tokens.longest) == (answers[0], answers[-1])
    assert report.answer_tokens.shortest <= report.answer_tokens.median <= report.answer_tokens.p95
    assert report.truncated_prompts == report.truncated_answers == 0


def test_truncation_is_counted_and_lengths_stay_those_of_the_whole_text() -> None:
    whole, cut = _check(), _check(max_prompt_tokens=4, max_answer_tokens=2)
    limit = 4
    assert (cut.prompt_tokens, cut.answer_tokens) == (whole.prompt_tokens, whole.answer_tokens)
    starts = len(TINY("")["input_ids"])
    assert cut.truncated_prompts == sum(_tokens(row.prompt) + starts > limit for row in TRAIN) > 0
    assert cut.truncated_answers == sum(_tokens(row.answer) + 1 > 2 for row in TRAIN) > 0


def test_the_example_splits_into_what_is_read_and_what_is_learned() -> None:
    example = _check().example
    assert "dog runs" in example.context
    assert example.label.endswith(TINY.eos_token)
    assert "yes" in example.label
    assert "yes" not in example.context


def test_rows_that_spell_out_a_special_token_are_counted() -> None:
    rows = (Example(f"a dog {TINY.eos_token} runs", "yes"), Example("a cat", f"no{TINY.eos_token}"), Example("a", "b"))
    report = check_data([_task(train=rows)], TINY, _settings())
    assert report[0].special_token_rows == 2
    assert "mine: 2 training rows spell out a special token" in _shown(report)


def test_the_report_is_json() -> None:
    report = check_data([_task("one"), _task("two")], TINY, _settings())
    assert [task["name"] for task in json.loads(json.dumps([asdict(task) for task in report]))] == ["one", "two"]


def test_tasks_without_training_rows_are_refused_together() -> None:
    with pytest.raises(UserError, match="one, two: there are no training rows"):
        check_data([_task("one", ()), _task("good"), _task("two", ())], TINY, _settings())


def test_the_table_marks_the_label_and_notes_what_is_odd() -> None:
    shown = _shown(check_data([_task()], TINY, _settings(max_answer_tokens=2)))
    assert "»" in shown
    assert "«" in shown
    assert "\x1b[1;32m" in shown  # bold green: the label
    assert "mine: 1 training prompts repeat another one" in shown
    assert "mine: 1 test prompts stand in the training rows too" in shown
    assert "longer than data.max_answer_tokens" in shown


def test_text_of_the_data_is_never_markup() -> None:
    row = Example("[bold]loud[/bold] [/nothing]", "[red]answer[/red]")
    report = check_data([_task(train=(row,))], TINY, _settings())
    (task,) = report
    assert task.example.label in _shown(report)


def test_a_long_example_is_shown_by_its_end() -> None:
    row = Example("start " + "dog " * SHOWN_CHARACTERS + "finish", "yes")
    shown = _shown(check_data([_task(train=(row,))], TINY, _settings(max_prompt_tokens=10_000)))
    assert "[...]" in shown
    assert "start" not in shown


@pytest.mark.skipif(not REAL_TRACE.is_dir(), reason="the real TRACE data is not beside this checkout")
@pytest.mark.skipif(not SMOLLM2_FOLDER.is_dir(), reason="no models/smollm2-135m-instruct: scripts/get_smollm2.py")
def test_real_trace_overlap_is_found() -> None:
    # 263 prompts of NumGLUE-cm repeat another one; 17 test prompts of NumGLUE-ds stand in train (shared/facts.md).
    settings = DataSettings.model_validate(
        {"format": "trace", "path": str(REAL_TRACE), "tasks": ("NumGLUE-cm", "NumGLUE-ds"), "validation_rows": 0}
    )
    report = check_data(load_tasks(settings), AutoTokenizer.from_pretrained(SMOLLM2_FOLDER), settings)
    assert report[0].duplicate_prompts == 263
    assert report.tasks[1].test_prompts_in_train == 17
