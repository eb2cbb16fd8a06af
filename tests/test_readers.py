"""Readers: what they read, and that every mistake in the data is said with its file and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekr_lite.common.errors import UserError
from seekr_lite.common.seeds import generator_for
from seekr_lite.data.readers import load_tasks
from seekr_lite.data.rows import hold_out
from seekr_lite.data.task import Example, Task
from seekr_lite.data.toy import TOY_TASKS
from seekr_lite.recipe.recipe import DataSettings

pytestmark = pytest.mark.core

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="the real TRACE and SuperNI data is not beside this checkout"
)

ROWS = [{"prompt": f"question {i}", "answer": f"answer {i}"} for i in range(10)]
# Task -> (training rows, test rows) of the Reasoning variant.
TRACE_ROWS = {
    "C-STANCE": (500, 500),
    "FOMC": (500, 496),
    "MeetingBank": (376, 235),
    "Py150": (513, 500),
    "ScienceQA": (440, 500),
    "NumGLUE-cm": (500, 81),
    "NumGLUE-ds": (500, 325),
    "20Minuten": (401, 200),
}
SUPERNI_ROWS = {
    "task1572": (160, 20),
    "task363": (1000, 100),
    "task1290": (1000, 100),
    "task181": (338, 43),
    "task002": (1000, 100),
    "task1510": (1000, 100),
    "task073": (975, 100),
    "task748": (1000, 100),
    "task511": (994, 100),  # six of the 1,000 have an empty output
    "task591": (1000, 100),
    "task875": (1000, 100),
}


def _settings(kind: str, path: Path | None, *tasks: str, **more: Any) -> DataSettings:
    values = {"format": kind, "path": None if path is None else str(path), "tasks": tasks, **more}
    return DataSettings.model_validate({"validation_rows": 0, **values})


def _load(kind: str, path: Path | None, task: str, **more: Any) -> Task:
    (found,) = load_tasks(_settings(kind, path, task, **more))
    return found


def _trace(root: Path, name: str = "FOMC", train: Any = ROWS, test: Any = ROWS[:4]) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for split, content in (("train", train), ("test", test)):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{split}.json").write_text(text, encoding="utf-8")
    return root


def _instances(*outputs: Any) -> dict[str, Any]:
    rows = [{"id": str(i), "input": f"text {i}", "output": output} for i, output in enumerate(outputs)]
    return {"Definition": ["Judge the text."], "Instances": rows}


def _lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


def _error(kind: str, path: Path | None, *tasks: str, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_tasks(_settings(kind, path, *tasks, **more))
    return str(caught.value)


# What the readers read


def test_trace_reads_prompts_answers_and_the_metric_of_the_task(tmp_path: Path) -> None:
    task = _load("trace", _trace(tmp_path), "FOMC")
    assert task.train == tuple(Example(row["prompt"], row["answer"]) for row in ROWS)
    assert [row.answer for row in task.test] == ["answer 0", "answer 1", "answer 2", "answer 3"]
    assert task.metric == "accuracy"


def test_tasks_come_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    for name in ("A", "B", "C"):
        _trace(tmp_path, name)
    assert [task.name for task in load_tasks(_settings("trace", tmp_path, "C", "A", "B"))] == ["C", "A", "B"]


def test_a_byte_order_mark_and_unicode_line_ends_are_text(tmp_path: Path) -> None:
    row = {"prompt": "问题\u2028?", "answer": "答案"}
    (tmp_path / "T.train.jsonl").write_text("\ufeff" + json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "T.test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    task = _load("jsonl", tmp_path, "T")
    assert task.train == task.test == (Example("问题\u2028?", "答案"),)


def test_superni_prompt_is_definition_and_input(tmp_path: Path) -> None:
    _trace(tmp_path, "task363_sst2", _instances(["POS"], ["NEG "]), _instances(["POS", "positive"]))
    task = _load("superni", tmp_path, "task363_sst2")
    assert task.train[1] == Example("Judge the text.\n\nInput: text 1\nOutput:\n", "NEG")
    assert task.test[0].references == ("POS", "positive")
    assert task.metric == "superni_accuracy"


def test_superni_task_is_found_by_its_number_alone(tmp_path: Path) -> None:
    _trace(tmp_path, "task002_quoref", _instances("a"), _instances("b"))
    task = _load("superni", tmp_path, "task002")
    assert (task.name, task.metric) == ("task002", "superni_rouge_l")


def test_superni_number_without_the_word_task(tmp_path: Path) -> None:
    _trace(tmp_path, "task002_quoref", _instances("a"), _instances("b"))
    assert [row.answer for row in _load("superni", tmp_path, "002").train] == ["a"]


def test_superni_leaves_out_instances_without_any_output(tmp_path: Path) -> None:
    # task511 as published has six of them.
    _trace(tmp_path, "task511_tifu", _instances(["a"], [""], ["  ", "b"]), _instances("c"))
    assert [row.answer for row in _load("superni", tmp_path, "task511").train] == ["a", "b"]


@pytest.mark.parametrize("layout", ["{task}/{split}.jsonl", "{task}/{split}.json", "{task}.{split}.jsonl"])
def test_jsonl_layouts(tmp_path: Path, layout: str) -> None:
    for split in ("train", "test"):
        path = tmp_path / layout.format(task="mine", split=split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(ROWS) if path.suffix == ".json" else _lines(ROWS))
    task = _load("jsonl", tmp_path, "mine")
    assert len(task.train) == len(task.test) == len(ROWS)


@pytest.mark.parametrize("kind", ["trace", "jsonl"])
def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _trace(tmp_path / "data", "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_tasks(_settings(kind, Path("~/data"), "mine"))[0].train) == len(ROWS)


def test_columns_can_be_named(tmp_path: Path) -> None:
    row = {"question": "2 + 2", "reply": "4", "references": ["4", "four"]}
    _trace(tmp_path, "sums", [row], [row])
    task = _load("jsonl", tmp_path, "sums", prompt_column="question", answer_column="reply")
    assert task.test == (Example("2 + 2", "4", ("4", "four")),)


@pytest.fixture
def datasets_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(_lines(ROWS))
    (folder / "test.jsonl").write_text(_lines(ROWS[:2]))
    return tmp_path / "data"


def test_datasets_reads_a_local_folder(datasets_folder: Path) -> None:
    task = _load("datasets", datasets_folder, "mine")
    assert [row.answer for row in task.train] == [row["answer"] for row in ROWS]
    assert [row.prompt for row in task.test] == ["question 0", "question 1"]


def test_datasets_says_which_split_is_missing(datasets_folder: Path) -> None:
    message = _error("datasets", datasets_folder, "mine", test_split="exam")
    assert "task mine, split exam" in message


def test_datasets_error_without_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr("datasets.load_dataset_builder", fail)
    assert "cannot load it: NotImplementedError()" in _error("datasets", tmp_path, "mine")


def test_datasets_says_which_row_lacks_a_column(datasets_folder: Path) -> None:
    message = _error("datasets", datasets_folder, "mine", answer_column="reply")
    assert "mine train, row 1: there is no `reply`; the row has prompt, answer" in message


def test_toy_tasks_need_no_folder() -> None:
    tasks = load_tasks(_settings("toy", None, *TOY_TASKS, validation_rows=40))
    assert {(len(t.train), len(t.validation), len(t.test)) for t in tasks} == {(200, 40, 50)}


@pytest.mark.parametrize("kind", ["trace", "toy"])
def test_limits(tmp_path: Path, kind: str) -> None:
    root, name = (_trace(tmp_path), "FOMC") if kind == "trace" else (None, "shade")
    task = _load(kind, root, name, train_limit=5, test_limit=3, validation_rows=1)
    assert (len(task.train), len(task.test), len(task.validation)) == (5, 3, 1)


def test_the_training_limit_does_not_change_what_is_held_out(tmp_path: Path) -> None:
    _trace(tmp_path)
    whole, limited = (_load("trace", tmp_path, "FOMC", validation_rows=2, train_limit=limit) for limit in (None, 3))
    assert whole.validation == limited.validation
    assert limited.train == whole.train[:3]


def test_metric_and_extraction_of_the_recipe_win(tmp_path: Path) -> None:
    task = _load("trace", _trace(tmp_path), "FOMC", metric="rouge_l", extraction="none")
    assert (task.metric, task.extraction) == ("rouge_l", "none")


# What users get wrong


@pytest.mark.parametrize("kind", ["trace", "superni", "jsonl"])
def test_missing_folder(tmp_path: Path, kind: str) -> None:
    assert f"data.path {tmp_path / 'gone'}" in _error(kind, tmp_path / "gone", "FOMC")


@pytest.mark.parametrize("kind", ["trace", "superni", "jsonl"])
def test_unknown_task_with_the_nearest_spelling(tmp_path: Path, kind: str) -> None:
    message = _error(kind, _trace(tmp_path, "ScienceQA"), "SienceQA")
    assert 'no task "SienceQA"; did you mean "ScienceQA"?' in message
    assert str(tmp_path) in message


def test_unknown_toy_task_with_the_nearest_spelling() -> None:
    assert 'did you mean "shade"?' in _error("toy", None, "shades")


@pytest.mark.parametrize("kind", ["trace", "superni", "jsonl"])
def test_missing_file(tmp_path: Path, kind: str) -> None:
    _trace(tmp_path, train=_instances("a") if kind == "superni" else ROWS)
    (tmp_path / "FOMC" / "test.json").unlink()
    message = _error(kind, tmp_path, "FOMC")
    assert str(tmp_path / "FOMC" / "test.json") in message
    assert "this file is missing" in message


def test_the_mistakes_of_all_tasks_come_at_once(tmp_path: Path) -> None:
    _trace(tmp_path, "A", train=[])
    _trace(tmp_path, "B")
    message = _error("trace", tmp_path, "A", "B", "nowhere")
    assert "train.json: there are no rows" in message
    assert 'no task "nowhere"' in message


@pytest.mark.parametrize("kind", ["trace", "superni"])
def test_broken_json_with_line_and_column(tmp_path: Path, kind: str) -> None:
    _trace(tmp_path, train='[\n{"prompt": "a" "answer": "b"}]')
    assert "train.json: broken JSON at line 2, column 16" in _error(kind, tmp_path, "FOMC")


def test_broken_json_lines_with_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "T.train.jsonl").write_text(_lines(ROWS[:2]) + '{"prompt": }\n')
    message = _error("jsonl", tmp_path, "T")
    assert "T.train.jsonl:3: broken JSON" in message
    assert "column 12" in message


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a"}, "there is no `answer`; the row has prompt"),
        ({}, "there is no `prompt`; the row has nothing"),
        ({"prompt": "a", "answer": 3}, "`answer` must be text, not int"),
        ({"prompt": None, "answer": "b"}, "`prompt` must be text, not NoneType"),
        ({"prompt": "a", "answer": " \n"}, "`answer` is empty"),
        ({"prompt": "a", "answer": "\ud800"}, "`answer` holds half of a surrogate pair"),
        ({"prompt": "a" * 1_000_001, "answer": "b"}, "`prompt` has 1000001 characters; at most 1000000"),
        ({"prompt": "a", "answer": "b", "references": [1]}, "`references` must be a list of texts"),
        ("a text", 'a row must be an object like {"prompt": ..., "answer": ...}'),
    ],
)
def test_bad_row(tmp_path: Path, row: Any, problem: str) -> None:
    _trace(tmp_path, train=[*ROWS[:2], row])
    assert f"{tmp_path / 'FOMC' / 'train.json'}, row 3: {problem}" in _error("trace", tmp_path, "FOMC")


@pytest.mark.parametrize(
    ("instance", "problem"),
    [
        ({"input": "a"}, "needs `input` (text) and `output`"),
        ({"input": 1, "output": ["b"]}, "needs `input` (text) and `output`"),
        ({"input": "a", "output": [1]}, "`output` must be text or a list of texts"),
        ({"input": "a", "output": []}, "needs `input` (text) and `output`"),
        ("a text", "needs `input` (text) and `output`"),
    ],
)
def test_bad_superni_instance(tmp_path: Path, instance: Any, problem: str) -> None:
    content = _instances("fine")
    content["Instances"].append(instance)
    message = _error("superni", _trace(tmp_path, train=content), "FOMC")
    assert f"{tmp_path / 'FOMC' / 'train.json'}, row 2: " in message
    assert problem in message


@pytest.mark.parametrize(("kind", "content"), [("trace", []), ("superni", _instances()), ("jsonl", "")])
def test_empty_split(tmp_path: Path, kind: str, content: Any) -> None:
    train = _instances("fine") if kind == "superni" else ROWS
    message = _error(kind, _trace(tmp_path, train=train, test=content), "FOMC")
    assert f"{tmp_path / 'FOMC' / 'test.json'}: there are no rows" in message


def test_trace_file_that_is_no_list(tmp_path: Path) -> None:
    assert "train.json: a list of rows is needed, not dict" in _error(
        "trace", _trace(tmp_path, train={"rows": ROWS}), "FOMC"
    )


@pytest.mark.parametrize("content", [ROWS, {"Instances": []}, {"Definition": "x", "Instances": {}}])
def test_superni_file_that_is_none(tmp_path: Path, content: Any) -> None:
    message = _error("superni", _trace(tmp_path, train=content), "FOMC")
    assert "train.json: a Natural-Instructions file is an object with `Definition`" in message


@pytest.mark.parametrize("kind", ["trace", "superni", "jsonl"])
@pytest.mark.parametrize("bomb", ["[" * 200_000, '[{"a":' + '{"a":' * 200_000])
def test_deep_nesting(tmp_path: Path, kind: str, bomb: str) -> None:
    assert "train.json: this JSON cannot be read" in _error(kind, _trace(tmp_path, train=bomb), "FOMC")


def test_a_number_of_too_many_digits(tmp_path: Path) -> None:
    message = _error("trace", _trace(tmp_path, train=f"[{'9' * 5000}]"), "FOMC")
    assert "train.json: this JSON cannot be read" in message


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    _trace(tmp_path)
    (tmp_path / "FOMC" / "train.json").write_bytes(b'[{"prompt": "\xff", "answer": "b"}]')
    assert "train.json: this is not UTF-8 text" in _error("trace", tmp_path, "FOMC")


def test_superni_row_numbers_count_the_rows_left_out(tmp_path: Path) -> None:
    content = _instances([""], "a", ["b", "x" * 1_000_001])
    message = _error("superni", _trace(tmp_path, "task1_a", content, _instances("a")), "task1")
    assert "train.json, row 3: `references` has 1000001 characters" in message


def test_superni_number_of_several_folders(tmp_path: Path) -> None:
    for name in ("task1_a", "task1_b", "task10_c"):
        _trace(tmp_path, name, _instances("a"), _instances("b"))
    assert '"task1" could be task1_a or task1_b' in _error("superni", tmp_path, "task1")


@pytest.mark.parametrize("names", [("task1", "task1_a"), ("1", "task1"), ("task1_a", "1")])
def test_superni_task_under_two_names(tmp_path: Path, names: tuple[str, str]) -> None:
    _trace(tmp_path, "task1_a", _instances("a"), _instances("b"))
    message = _error("superni", tmp_path, *names)
    assert message == f"data.tasks: {' and '.join(names)} are the same task, task1_a; name it once"


def test_superni_beside_a_name_that_is_no_file_name(tmp_path: Path) -> None:
    _trace(tmp_path, "task1_a", _instances("a"), _instances("b"))
    # A recipe refuses this name before; from Python it must be an error too, never a crash.
    settings = _settings("superni", tmp_path, "task1").model_copy(update={"tasks": ("task1", "/etc")})
    with pytest.raises(UserError, match="'/etc' cannot be used"):
        load_tasks(settings)


def test_task_named_twice(tmp_path: Path) -> None:
    settings = _settings("trace", _trace(tmp_path), "FOMC").model_copy(update={"tasks": ("FOMC", "FOMC")})
    with pytest.raises(UserError, match="FOMC is named more than once"):
        load_tasks(settings)


@pytest.mark.parametrize("kind", ["trace", "superni", "jsonl"])
def test_both_files_of_a_task_are_judged_at_once(tmp_path: Path, kind: str) -> None:
    message = _error(kind, _trace(tmp_path, "FOMC", "{broken", "{broken"), "FOMC")
    assert "train.json" in message
    assert "test.json" in message


def test_datasets_link_that_leads_outside(datasets_folder: Path) -> None:
    (datasets_folder.parent / "secret.jsonl").write_text(_lines(ROWS))
    name = next(path.name for path in datasets_folder.iterdir() if path.is_dir())
    (datasets_folder / name / "more.jsonl").symlink_to(datasets_folder.parent / "secret.jsonl")
    assert f"more.jsonl: this link leads outside of {datasets_folder}" in _error("datasets", datasets_folder, name)


@pytest.mark.parametrize("kind", ["trace", "superni", "jsonl"])
def test_link_that_leads_outside(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret.json").write_text(json.dumps(ROWS))
    root = _trace(tmp_path / "data")
    (root / "FOMC" / "train.json").unlink()
    (root / "FOMC" / "train.json").symlink_to(tmp_path / "secret.json")
    assert f"train.json: this link leads outside of {root}" in _error(kind, root, "FOMC")


def test_task_folder_that_leads_outside(tmp_path: Path) -> None:
    _trace(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "FOMC").symlink_to(tmp_path / "elsewhere" / "FOMC")
    assert "leads outside" in _error("trace", tmp_path / "data", "FOMC")


def test_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    _trace(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "FOMC")
    assert len(_load("trace", tmp_path, "again").train) == len(ROWS)


def test_link_to_itself(tmp_path: Path) -> None:
    _trace(tmp_path)
    path = tmp_path / "FOMC" / "train.json"
    path.unlink()
    path.symlink_to(path)
    assert "train.json: cannot be read" in _error("trace", tmp_path, "FOMC")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "/etc", "a/b", "a\\b", "a b", ".hidden", "x" * 101])
def test_task_name_that_is_no_file_name(name: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        Task(name, (), ())


# Rows held out


@given(
    prompts=st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=40),
    count=st.integers(0, 50),
)
def test_hold_out_laws(prompts: list[str], count: int) -> None:
    rows = [Example(prompt, str(i)) for i, prompt in enumerate(prompts)]
    train, validation = hold_out(rows, count, "task")
    held_out = [row.prompt for row in validation]
    assert len(held_out) <= count
    assert len(rows) - len(train) <= len(rows) // 5
    assert len(set(held_out)) == len(held_out)
    assert train == [row for row in rows if row.prompt not in held_out]
    assert train, "something must remain to learn from"
    assert set(validation) <= set(rows)


def test_hold_out_is_the_same_for_every_call() -> None:
    rows = [Example(str(i), "x") for i in range(100)]
    assert hold_out(rows, 10, "task") == hold_out(rows, 10, "task")
    assert hold_out(rows, 10, "task") != hold_out(rows, 10, "other task")


def test_hold_out_takes_a_fifth_at_most() -> None:
    train, validation = hold_out([Example(str(i), "x") for i in range(50)], 40, "task")
    assert (len(train), len(validation)) == (40, 10)


def test_hold_out_passes_over_a_prompt_that_fills_the_task() -> None:
    rows = [Example("the same", str(i)) for i in range(99)] + [Example("another", "x")]
    for task in ("a", "b", "c", "d"):
        train, validation = hold_out(rows, 20, task)
        assert (len(train), validation) == (99, [rows[-1]])


def test_hold_out_of_different_prompts_is_the_plain_draw() -> None:
    """Rows that were held out stay so from one version to the next: a run that goes on learns from the same ones."""
    rows = [Example(str(i), "x") for i in range(100)]
    _, validation = hold_out(rows, 6, "task")
    drawn = generator_for(0, "validation", "task").sample(sorted(str(i) for i in range(100)), 6)
    assert [row.prompt for row in validation] == drawn


# The real data


@needs_real_data
@pytest.mark.parametrize("name", TRACE_ROWS)
def test_real_trace_task(name: str) -> None:
    task = _load("trace", REAL_DATA / "TRACE-Benchmark" / "LLM-CL-Benchmark_Reasoning", name)
    assert (len(task.train), len(task.test)) == TRACE_ROWS[name]
    assert task.metric != "exact_match"


@needs_real_data
@pytest.mark.parametrize("name", SUPERNI_ROWS)
def test_real_superni_task(name: str) -> None:
    task = _load("superni", REAL_DATA / "SuperNI", name)
    assert (len(task.train), len(task.test)) == SUPERNI_ROWS[name]


@needs_real_data
def test_real_validation_rows_are_never_learned() -> None:
    # NumGLUE-cm has 263 duplicate prompts: each copy of a held-out prompt leaves training.
    path = REAL_DATA / "TRACE-Benchmark" / "LLM-CL-Benchmark_Reasoning"
    task = _load("trace", path, "NumGLUE-cm", validation_rows=40)
    assert len(task.validation) == 40
    assert len(task.train) < 460
    assert not {row.prompt for row in task.validation} & {row.prompt for row in task.train}
