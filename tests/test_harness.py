"""Tasks of lm-evaluation-harness on models of a run: its own numbers, and no code from task files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import two_toy_tasks
from typer.testing import CliRunner, Result

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.progress import Listener
from seekr_lite.tools.lm_eval_harness import read_task_file

TASK = """task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: brier_score}]
"""
GENERATED = """task: said
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
WORDS = ("wolf", "cake", "red", "desert", "coat", "saw")


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A multiple-choice task of twelve rows, and one whose answers are generated beside it."""
    rows = [
        {"prompt": f"keeper: {WORDS[i % 6]} {WORDS[(i + 1) % 6]} ->", "choices": [WORDS[i % 6], "fox"], "answer": i % 2}
        for i in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "mine.yaml").write_text(TASK)
    (tmp_path / "said.yaml").write_text(GENERATED)
    return tmp_path / "mine.yaml"


def command(run: sl.Run, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", str(run.path), *map(str, arguments)])


# ------------------------------------------------------------------ task files are data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("process_docs: !function code.run\n", "!function"),
        ("include: other.yaml\n", "'include' is not allowed"),
        ("class: code.Task\n", "'class' is not allowed"),
        ("use_prompt: promptsource:x\n", "'use_prompt' is not allowed"),
        ("unsafe_code: true\n", "'unsafe_code' is not allowed"),
        ("dataset_path: someone/data\n", "dataset_path: 'someone/data'"),
        ("dataset_path: pandas\n", "dataset_path: 'pandas'"),
        ("dataset_kwargs: {data_files: rows.jsonl, trust_remote_code: true}\n", "nothing else"),
        ("dataset_kwargs: {data_files: ../other.jsonl}\n", "leads outside"),
        ("dataset_kwargs: {data_files: none.jsonl}\n", "this file is missing"),
        ("generation_kwargs: {custom_generate: someone/code, trust_remote_code: true}\n", "custom_generate"),
        ("repeats: !!python/object/apply:os.system [ls]\n", "no plain YAML"),
        ("task: [a, b]\n", "`task: NAME` is missing"),
        ("doc_to_txt: x\n", 'did you mean "doc_to_text"'),
    ],
)
def test_a_task_file_that_names_code_or_other_files_is_refused(change: str, message: str, task_file: Path) -> None:
    (task_file.parent.parent / "other.jsonl").write_text("{}")
    key = change.partition(":")[0]
    lines = [line for line in TASK.splitlines(keepends=True) if not line.startswith(f"{key}:")]
    task_file.write_text("".join(lines) + change)
    with pytest.raises(sl.UserError) as error:
        read_task_file(task_file)
    assert message in str(error.value)


def test_data_files_lie_beside_the_task_file(task_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert read_task_file(task_file)["dataset_kwargs"] == {
        "data_files": {"test": str(task_file.parent.resolve() / "rows.jsonl")}
    }


def test_without_the_package_the_extra_is_named(
    finished_run: sl.Run, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    done = command(finished_run, "--lm-eval", task_file)
    assert isinstance(done.exception, sl.UserError)
    assert 'pip install "seekr-lite[lm-eval]"' in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--limit", "3"), "goes with --lm-eval"),
        (("--lm-eval", "x.yaml", "--task", "shade"), "leave out --task"),
        (("--lm-eval", "x.yaml", "--general", "x.txt"), "--general"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], message: str, finished_run: sl.Run) -> None:
    done = command(finished_run, *arguments)
    assert isinstance(done.exception, sl.UserError)
    assert message in str(done.exception)


# ------------------------------------------------------------------ with the package, where it is installed


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """On a base that is not quantised, so that the harness can load base and adapter by itself."""
    pytest.importorskip("lm_eval")
    recipe = two_toy_tasks(
        tmp_path_factory.mktemp("harness") / "run", base={"quantization": "none"}, method={"name": "sequential"}
    )
    return sl.run(recipe, listener=Listener())


@pytest.mark.slow
def test_the_numbers_are_the_harness_own(plain_run: sl.Run, task_file: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from seekr_lite.model.base import resolve_model

    files = [str(task_file), str(task_file.parent / "said.yaml")]
    found = plain_run.harness_scores(files, after=("base", "shade", "keeper"))
    tiny = f"pretrained={resolve_model('tiny')},dtype=float32"
    theirs: list[tuple[str, str, float, Any]] = []
    for index in (None, 0, 1):
        adapter = "" if index is None else f",peft={plain_run.folder.adapter_folder(index)}"
        for file in files:
            results: dict[str, Any] = lm_eval.simple_evaluate(
                "hf",
                tiny + adapter,
                tasks=[read_task_file(file)],
                device="cpu",
                task_manager=TaskManager(include_defaults=False),
            )
            for task, values in results["results"].items():
                for name in ("acc", "brier_score") if task == "mine" else ("exact_match",):
                    theirs.append((task, name, values[f"{name},none"], values[f"{name}_stderr,none"]))
    assert [(one.task, one.metric) for one in found] == [(task, name) for task, name, _, _ in theirs]
    assert [one.value for one in found] == pytest.approx([value for _, _, value, _ in theirs], rel=1e-6)
    for one, (_, _, _, stderr) in zip(found, theirs, strict=True):
        assert (one.stderr is None) if isinstance(stderr, str) else one.stderr == pytest.approx(stderr)
    brier = {one.value for one in found if one.metric == "brier_score"}
    assert len(brier) == 3  # no model was taken for another
    assert {one.rows for one in found} == {12}
    assert [one.model for one in found[::3]] == ["(bare base)", "shade", "keeper"]


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(plain_run: sl.Run, task_file: Path) -> None:
    done = command(plain_run, "--lm-eval", task_file, "--limit", "4", "-q")
    assert done.exit_code == 0, done.output
    for words in ("keeper", "mine", "acc ↑", "standard error"):
        assert words in done.stdout
    values = json.loads(command(plain_run, "--lm-eval", task_file, "--limit", "4", "--json", "-q").stdout)
    assert [(one["task"], one["metric"], one["rows"]) for one in values] == [
        ("mine", "acc", 4),
        ("mine", "brier_score", 4),
    ]


@pytest.mark.slow
def test_an_unknown_task_names_the_nearest(plain_run: sl.Run) -> None:
    done = command(plain_run, "--lm-eval", "arc_easi")
    assert 'did you mean "arc_easy"' in str(done.exception)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("doc_to_text: \"{{ cycler.__init__.__globals__.os.system('touch ran') }}\"\n", "unsafe"),
        ("metric_list: [{metric: someone/metric}]\n", "code from the hub"),
        ("metric_list: [{metric: accuracy, hf_evaluate: true}]\n", "code from the hub"),
    ],
)
def test_templates_and_metrics_run_no_code(
    change: str, message: str, plain_run: sl.Run, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(task_file.parent)
    key = change.partition(":")[0]
    lines = [line for line in TASK.splitlines(keepends=True) if not line.startswith(f"{key}:")]
    task_file.write_text("".join(lines) + change)
    done = command(plain_run, "--lm-eval", task_file)
    assert isinstance(done.exception, sl.UserError), done.output
    assert message in str(done.exception)
    assert not (task_file.parent / "ran").exists()
