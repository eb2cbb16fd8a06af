"""Nothing from outside is run, followed out of its folder, or believed: recipes, data, models, run folders."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, two_toy_tasks
from rich.table import Table
from typer.testing import CliRunner

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common import errors as limits
from seekr_lite.common.errors import UserError, check_task_name
from seekr_lite.common.files import read_json
from seekr_lite.common.progress import Listener
from seekr_lite.common.terminal import json_text, printable, safe_console, show
from seekr_lite.data.encoding import encode_prompts
from seekr_lite.data.readers import load_tasks
from seekr_lite.data.task import Example, Task
from seekr_lite.evaluation.evaluate import Prediction, TaskResult
from seekr_lite.evaluation.scoreboard import Scoreboard, scoreboard
from seekr_lite.methods.method import TaskState
from seekr_lite.model.base import load_base, load_config, load_tokenizer, resolve_model
from seekr_lite.model.guards import no_pickle
from seekr_lite.model.snapshots import Snapshot
from seekr_lite.recipe.recipe import BaseSettings, DataSettings, Recipe
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.record import text_checksum
from seekr_lite.tools.heads.heads import Heads
from seekr_lite.tools.heads.scores import TaskHeads
from seekr_lite.training.learner import Learned

ROW = {"prompt": "a question", "answer": "an answer"}
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


class Bomb:
    """A pickle of it makes a marker file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the-pickle-was-loaded"


def plant(path: Path, marker: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Bomb(marker)))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve_model("tiny"), tmp_path / "model"))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of one task as `seekr` leaves it, made of small numbers instead of training."""
    path = tmp_path / "run"
    rows = (Example("a", "b"), Example("c", "d", ("d", "e")))
    tasks = [Task(name, rows, rows, rows[:1]) for name in ("shade", "mine")]
    recipe = Recipe.from_toml(ROOT / "recipes" / "quickstart.toml").with_(
        data={"tasks": ("shade", "mine")}, train={"epochs": 1}, run={"output": str(path)}
    )
    folder = RunFolder.create(path, recipe)
    folder.save_task(tasks[1])
    layer = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = {layer.format("A"): torch.ones(2, 4), layer.format("B"): torch.zeros(4, 2)}
    scores = {name: torch.ones(2, 3) for name in ("sensitivity", "forgettability", "importance")}
    learned = Learned(Snapshot(weights, 2, 4.0), rows, TaskState(scores, {"heads": [[0, 1], [1, 2]]}), 3, 1.5)
    config = {"r": 2, "lora_alpha": 4.0, "base_model_name_or_path": "tiny", "target_modules": ["q_proj"]}
    folder.save_stage("00-shade", tasks[:1], learned, config, "", "heads")
    predictions = tuple(Prediction(row.prompt, "x", (row.answer,), 0.0) for row in rows)
    folder.save_evaluation(0, "shade", TaskResult(50.0, 1.25, predictions))
    folder.save_scores(scoreboard({"shade": tasks[0].metric}, {(0, 0): (50.0, 1.25)}, "seekr", 1234).to_json())
    draft = path / "predictions" / "00" / "shade.draft.jsonl"
    draft.write_text(json.dumps({"row": 0, "prompt": "a", "prediction": "x"}) + "\n", encoding="utf-8")
    return path


def base_of(folder: Path, **more: Any) -> BaseSettings:
    return BaseSettings.model_validate({"model": str(folder), "quantization": "none", "device": "cpu", **more})


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(values) or values), encoding="utf-8")


def change_record(run: Path, change: Callable[[Any], Any]) -> None:
    """Changes `run.json` as somebody would who knows how its checksum is made."""
    values = json.loads((run / "run.json").read_text(encoding="utf-8"))
    del values["checksum"]
    change(values)
    values["checksum"] = text_checksum(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    (run / "run.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def settings(path: Path, kind: str = "jsonl", *tasks: str) -> DataSettings:
    return DataSettings.model_validate({"format": kind, "path": str(path), "tasks": tasks or ("mine",)})


def data_folder(root: Path, train: str | None = None) -> Path:
    (root / "mine").mkdir(parents=True)
    for split in ("train", "test"):
        (root / "mine" / f"{split}.jsonl").write_text(train if train and split == "train" else json.dumps(ROW))
    return root


# ------------------------------------------------------------------ pickles


def test_the_planted_pickle_would_go_off(tmp_path: Path, marker: Path) -> None:
    plant(tmp_path / "x.bin", marker)
    pickle.loads((tmp_path / "x.bin").read_bytes())
    assert marker.exists()


def test_weights_that_are_a_pickle_are_not_loaded(model_folder: Path, marker: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    plant(model_folder / "pytorch_model.bin", marker)
    with pytest.raises(UserError, match="no safetensors weights"):
        load_base(base_of(model_folder))
    assert not marker.exists()


def test_a_pickle_that_an_index_calls_a_part_is_not_loaded(model_folder: Path, marker: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    plant(model_folder / "part.bin", marker)
    index = {"metadata": {"total_size": 1}, "weight_map": {"model.embed_tokens.weight": "part.bin"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError):
        load_base(base_of(model_folder))
    assert not marker.exists()


def test_a_pickle_under_the_name_of_safetensors_is_damaged(model_folder: Path, marker: Path) -> None:
    plant(model_folder / "model.safetensors", marker)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_base(base_of(model_folder))
    assert not marker.exists()


def test_an_adapter_in_a_models_folder_is_refused(model_folder: Path, marker: Path) -> None:
    plant(model_folder / "adapter_model.bin", marker)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(model_folder), "r": 2, "target_modules": ["q_proj"]}
    (model_folder / "adapter_config.json").write_text(json.dumps(config))
    for load in (load_base, load_config):
        with pytest.raises(UserError, match="it holds an adapter"):
            load(base_of(model_folder))
    assert not marker.exists()


def test_torch_load_refuses_whatever_its_arguments(tmp_path: Path, marker: Path) -> None:
    plant(tmp_path / "x.pt", marker)
    with no_pickle(), pytest.raises(UserError, match="a pickle"):
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert not marker.exists()


def test_a_pickled_adapter_in_a_run_is_not_loaded(run_folder: Path, marker: Path) -> None:
    adapter = run_folder / "adapters" / "00-shade"
    (adapter / "adapter_model.safetensors").unlink()
    plant(adapter / "adapter_model.bin", marker)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: this file of the run is missing"):
        sl.open_run(run_folder).load_model()
    assert not marker.exists()


@pytest.mark.parametrize("name", ["adapters/00-shade/adapter_model.safetensors", "heads/00-shade.safetensors"])
def test_a_pickle_with_the_right_checksum_is_no_safetensors(run_folder: Path, marker: Path, name: str) -> None:
    from seekr_lite.runs.record import file_checksum

    plant(run_folder / name, marker)
    change_record(run_folder, lambda record: record["files"].update({name: file_checksum(run_folder / name)}))
    folder = RunFolder.open(run_folder)
    with pytest.raises(UserError, match="damaged"):
        folder.load_snapshot(0) if "adapters" in name else Heads.of_run(folder)
    assert not marker.exists()


def test_a_pickled_checkpoint_is_damaged(run_folder: Path, marker: Path) -> None:
    plant(run_folder / "checkpoint.safetensors", marker)
    folder = RunFolder.open(run_folder)
    with pytest.raises(UserError, match="damaged"):
        folder.checkpoints(folder.recipe()).read()
    assert not marker.exists()


@pytest.mark.parametrize("name", ["train.pkl", "train.pt", "train.bin", "train.npy", "train.tar"])
def test_datasets_reads_no_pickle(tmp_path: Path, marker: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    plant(tmp_path / "data" / "mine" / name, marker)
    with pytest.raises(UserError):
        load_tasks(settings(tmp_path / "data", "datasets"))
    assert not marker.exists()


def test_datasets_runs_no_script_of_the_data(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    (root / "mine").mkdir(parents=True)
    (root / "mine" / "mine.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    with pytest.raises(UserError, match="cannot load it"):
        load_tasks(settings(root, "datasets"))
    assert not marker.exists()


@pytest.mark.parametrize("place", ["../../secret.jsonl", "{outside}"])
def test_a_readme_of_the_data_cannot_name_files_elsewhere(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    outside = tmp_path / "secret.jsonl"
    outside.write_text(json.dumps(ROW))
    root = data_folder(tmp_path / "data")
    config = f"configs:\n- config_name: default\n  data_files: {place.format(outside=outside)}\n"
    (root / "mine" / "README.md").write_text(f"---\n{config}---\n")
    with pytest.raises(UserError, match=r"outside of the data|cannot load it"):
        load_tasks(settings(root, "datasets"))


# ------------------------------------------------------------------ code of models


def test_code_of_a_model_is_not_run(model_folder: Path, marker: Path) -> None:
    (model_folder / "modeling_x.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass X: pass\n")
    auto = {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    change_json(model_folder / "config.json", lambda config: {**config, "model_type": "x", "auto_map": auto})
    for load in (load_config, load_base):
        with pytest.raises(UserError, match="model"):
            load(base_of(model_folder))
    assert not marker.exists()


def test_code_beside_a_known_architecture_is_passed_over(model_folder: Path, marker: Path) -> None:
    (model_folder / "modeling_x.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass X: pass\n")
    (model_folder / "custom_generate").mkdir()
    (model_folder / "custom_generate" / "generate.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    auto = {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    change_json(model_folder / "config.json", lambda config: {**config, "auto_map": auto})
    with suppress(UserError):  # refused is right, too
        load_base(base_of(model_folder))
    assert not marker.exists()


def test_code_of_a_tokenizer_is_not_run(model_folder: Path, marker: Path) -> None:
    (model_folder / "tokenization_x.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass X: pass\n")
    auto = {"AutoTokenizer": ["tokenization_x.X", "tokenization_x.X"]}
    change = {"tokenizer_class": "X", "auto_map": auto}
    change_json(model_folder / "tokenizer_config.json", lambda config: {**config, **change})
    with suppress(UserError):
        load_tokenizer(base_of(model_folder))
    assert not marker.exists()


def test_an_adapters_configuration_cannot_import_a_module(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seekr_lite.runs.record import file_checksum

    made = sl.run(
        two_toy_tasks(tmp_path / "run", data={"tasks": ("shade",)}, method={"name": "sequential"}), listener=Listener()
    )
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "adapters/00-shade/adapter_config.json"
    change = {"megatron_config": {"tensor_model_parallel_size": 1}, "megatron_core": "evil_module"}
    change_json(made.path / name, lambda config: {**config, **change})
    change_record(made.path, lambda record: record["files"].update({name: file_checksum(made.path / name)}))
    assert isinstance(sl.open_run(made.path).load_model().generate("shade: wolf red ->"), str)
    assert not marker.exists()


HOSTILE_TEMPLATES = (
    "{{ messages.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os.mkdir('MARKER') }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').mkdir('MARKER') }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ 1 / 0 }}",
    "{{ raise_exception('no') }}",
    "{% broken",
)


@pytest.mark.parametrize("template", HOSTILE_TEMPLATES)
def test_a_chat_template_stays_in_its_sandbox(model_folder: Path, marker: Path, template: str) -> None:
    tokenizer = load_tokenizer(base_of(model_folder))
    tokenizer.chat_template = template.replace("MARKER", str(marker))
    with pytest.raises(UserError, match=r"data\.chat_template = true: the chat template of this base fails"):
        encode_prompts(tokenizer, ["hello"], DataSettings(format="python", max_prompt_tokens=10, chat_template=True))
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    ["[1]", "{", '"x"', '{"model_type": 3}', '{"model_type": "llama", "hidden_size": "big"}', "[" * 100_000, "\xff"],
)
def test_a_hostile_configuration_is_said_in_words(model_folder: Path, content: str) -> None:
    (model_folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"base\.model"):
        load_base(base_of(model_folder))


@pytest.mark.parametrize("name", ["~nobody-at-all/x", "x" * 5_000, "a\nb", "../..", "/dev/null", "https://x/y"])
def test_an_odd_name_of_a_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"base\.model"):
        load_config(BaseSettings.model_validate({"model": name}))


# ------------------------------------------------------------------ names and links


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "..", "C:\\x", "a\x1b[2J", "a\0b", "的" * 80])
def test_a_task_name_that_leads_elsewhere_is_refused_everywhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        Task(name, (), ())
    recipe = Recipe.from_toml(two_toy_recipe(tmp_path))
    with pytest.raises(UserError, match="cannot be used"):
        recipe.with_(data={"tasks": (name,)})
    with pytest.raises(UserError, match="cannot be used"):
        load_tasks(settings(data_folder(tmp_path / "data")).model_copy(update={"tasks": (name,)}))


def two_toy_recipe(folder: Path) -> Path:
    path = folder / "mine.toml"
    path.write_text('[base]\nmodel = "tiny"\n[data]\nformat = "toy"\ntasks = ["shade"]\n')
    return path


def test_the_longest_task_name_fits_into_every_file_name(tmp_path: Path) -> None:
    name = "é" * 100
    check_task_name(name)
    folder = RunFolder(tmp_path, None)  # type: ignore[arg-type]
    from seekr_lite.common.files import write_text

    write_text(folder.predictions_path(0, name), "x")
    draft = folder.prediction_draft(0, name)
    draft.add({0: ("a", "b")})
    write_text(tmp_path / f"000-{name}.safetensors", "x")
    assert draft.known(["a"]) == {0: "b"}


def test_a_pipe_among_the_data_is_no_data(tmp_path: Path) -> None:
    root = data_folder(tmp_path / "data")
    path = root / "mine" / "train.json"
    (root / "mine" / "train.jsonl").unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="no plain file"):
        load_tasks(settings(root, "trace"))


LINKED = ("adapters", "adapters/01-keeper", "memory", "memory/01-keeper.jsonl", "predictions/01", "log.jsonl", ".lock")


@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_a_run_folder_is_refused_and_nothing_is_written_through_it(
    tmp_path: Path, run_folder: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    link = run_folder / name
    if link.is_dir():
        shutil.rmtree(link)
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside if not link.suffix and name != ".lock" else outside / "file")
    with pytest.raises(UserError, match="this is a link"):
        sl.run(two_toy_tasks(run_folder), listener=Listener())
    with pytest.raises(UserError, match="this is a link"):
        sl.open_run(run_folder)
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("file", "mine")]


def test_a_lock_that_is_a_link_in_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="this is a link"):
        sl.run(two_toy_tasks(tmp_path / "run"), listener=Listener())
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_run_folder_itself_may_be_a_link(tmp_path: Path, run_folder: Path) -> None:
    (tmp_path / "here").symlink_to(run_folder)
    assert sl.open_run(tmp_path / "here").tasks == ["shade"]


def test_hidden_files_of_others_are_never_cleaned_away(tmp_path: Path, run_folder: Path) -> None:
    (run_folder / ".git").mkdir()
    (run_folder / ".gitignore").write_text("mine")
    RunFolder.open(run_folder).clean()
    assert (run_folder / ".git").is_dir()
    assert (run_folder / ".gitignore").read_text() == "mine"
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    with pytest.raises(UserError, match="not empty and is not a run"):
        RunFolder.check_free(tmp_path / "repository")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["files"].update({"../outside": "0" * 64}),
        lambda record: record["files"].update({"/etc/passwd": "0" * 64}),
        lambda record: record["files"].update({"a/../../b": "0" * 64}),
        lambda record: record["files"].update({ESCAPE: "0" * 64}),
        lambda record: record["stages"][0].update(name="../../x"),
        lambda record: record["stages"][0].update(tasks=["../../x"]),
        lambda record: record["stages"][0].update(tasks=[]),
        lambda record: record["stages"][0].update(steps="many"),
        lambda record: record["evaluations"][0].update(task="../../x"),
        lambda record: record["evaluations"][0].update(after="../../x"),
        lambda record: record.update(method="../x"),
        lambda record: record.update(stages={}),
        lambda record: record.update(seed=[[[]]]),
    ],
)
def test_a_record_that_names_what_is_not_its_own_is_refused(run_folder: Path, change: Callable[[Any], Any]) -> None:
    precious = run_folder.parent / "x.draft.jsonl"
    precious.write_text("mine")
    change_record(run_folder, change)
    with pytest.raises(UserError, match=r"run\.json: (the record of this run is damaged|a run of the method)"):
        RunFolder.open(run_folder)
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("output", ["/proc/none/x", "/dev/null", "x" * 300, "a\0b", "/", "file/below"])
def test_an_odd_output_is_refused_in_words(tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError):
        sl.run(two_toy_tasks(tmp_path / "x").with_(run={"output": output}), listener=Listener())
    assert sorted(tmp_path.iterdir()) == before


# ------------------------------------------------------------------ pages and terminals

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


def test_pages_of_heads_escape_what_comes_from_data() -> None:
    scores = torch.ones(2, 3)
    heads = Heads(tuple(TaskHeads(f"{HOSTILE}{i}", scores, scores, scores, ((0, 1),)) for i in range(2)))
    for page in (heads.to_html(), heads._repr_html_()):
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "&lt;script&gt;" in page


def test_a_scoreboard_escapes_what_comes_from_data() -> None:
    board = Scoreboard((HOSTILE,), {HOSTILE: HOSTILE}, ((1.0,),), HOSTILE, 0)
    page = board._repr_html_()
    assert "<script>alert" not in page
    assert "<img" not in page


@pytest.mark.parametrize("part", ["tasks", "metric", "method"])
def test_scores_with_hostile_names_are_refused(part: str) -> None:
    names = {"tasks": "a", "metric": "sari", "method": "seekr"} | {part: ESCAPE}
    board = Scoreboard((names["tasks"],), {names["tasks"]: names["metric"]}, ((1.0,),), names["method"], 0)
    with pytest.raises(UserError, match="damaged"):
        Scoreboard.from_json(board.to_json())


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x9b", "\x08", "\r", "\x7f", "\u202e", "\u2066", "\ud800"])
def test_what_a_terminal_would_obey_is_shown_instead(character: str) -> None:
    shown = printable(f"a{character}b\tc\nd")
    assert character not in shown
    assert (len(shown), shown[0], shown[2:]) == (7, "a", "b\tc\nd")


def test_a_table_in_a_pipe_is_as_wide_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table(*(f"task-{number}" for number in range(60)))
    table.add_row(*(f"{number}.25" for number in range(60)))
    show(table)
    printed = capsys.readouterr().out
    assert all(f"{number}.25" in printed and f"task-{number}" in printed for number in range(60))


def test_json_for_machines_has_no_nan() -> None:
    assert json.loads(json_text({"a": [float("nan"), float("inf"), 1.5]})) == {"a": [None, None, 1.5]}


def test_a_console_keeps_its_colours_and_not_those_of_the_data() -> None:
    from rich.table import Table
    from rich.text import Text

    console = safe_console()
    console.file, console._color_system, console._force_terminal = io.StringIO(), None, False  # type: ignore[misc]
    table = Table(title=Text(f"[bold]{ESCAPE}"))
    table.add_column(Text(ESCAPE))
    table.add_row(Text(f"[link=x]{ESCAPE}"))
    console.print(table)
    written = console.file.getvalue()
    assert "\x1b" not in written
    assert "\x07" not in written
    assert "[bold]" in written
    assert "[link=x]" in written


def test_data_with_escapes_reaches_the_terminal_as_pictures(tmp_path: Path) -> None:
    row = {"prompt": f"[bold]{ESCAPE}", "answer": f"[red]{ESCAPE}"}
    root = data_folder(tmp_path / "data", json.dumps(row))
    settings = ("format=jsonl", f"path={root}", 'tasks=["mine"]', "max_prompt_tokens=64", "max_answer_tokens=64")
    overrides = [part for setting in settings for part in ("--set", f"data.{setting}")]
    for more in ((), ("--json",)):
        done = CliRunner().invoke(app, ["data", "check", str(two_toy_recipe(tmp_path)), *overrides, *more])
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.output
        assert "\x07" not in done.output


def test_an_error_about_data_with_escapes_reaches_the_terminal_as_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from seekr_lite.cli.app import say

    root = data_folder(tmp_path / "data", json.dumps({ESCAPE: "x"}))
    with pytest.raises(UserError) as caught:
        load_tasks(settings(root))
    say(str(caught.value) + ESCAPE)
    assert not any(character < " " and character != "\n" for character in capsys.readouterr().err)


# ------------------------------------------------------------------ bombs


def recipe_error(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "bomb.toml"
    path.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        Recipe.from_toml(path)
    assert time.monotonic() - started < 20
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 20_000
    return str(caught.value)


GOOD = b'[base]\nmodel = "tiny"\n[data]\nformat = "toy"\ntasks = ["shade"]\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a." * 100_000 + b"a = 1", "too many dots"),
        (b"[" + b"a." * 100_000 + b"a]", "too many dots"),
        (b"x = [" + b"{" + b"'a'." * 50_000 + b"a = 1}]", "too many dots"),
        (b'x = [""" \n \' """, {' + b"a." * 50_000 + b"a = 1}, ' ']", "too many dots"),
        (b"x = " + b"[" * 100_000, "not valid TOML"),
        (b"x" + b".a" * 20 + b" = 1", "nested more than"),
        (b"x = " + b"9" * 5_000, "not valid TOML"),
        (GOOD + b"[run]\nseed = 0x" + b"f" * 5_000, "a very large int"),
        (GOOD + b"[run]\nmemory_limit_gb = 1e999", "run.memory_limit_gb"),
        (GOOD + b"[train]\nlearning_rate = nan", "train.learning_rate"),
        (GOOD + b"[train]\nepochs = 1\nepochs = 2", "not valid TOML"),
        (GOOD + b'[run]\noutput = "a\\u0000b"', "NUL"),
        (GOOD + b'[run]\noutput = "\\ud800"', "not valid TOML"),
        (GOOD + b"\0", "not valid TOML"),
        (GOOD.decode().encode("utf-16"), "cannot be read as a recipe"),
        (GOOD + b"\n".join(b"k%d = 1" % i for i in range(20_000)), "and 19980 more"),
        (GOOD.replace(b'["shade"]', b"[" + b'"a", ' * 40_000 + b"]"), "a run has at most 1000"),
        (b"#" * (limits.MAX_RECIPE_BYTES + 1), "larger than 256,000 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recipe_that_is_a_bomb(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in recipe_error(tmp_path, content)


def test_a_recipe_may_begin_with_a_byte_order_mark_and_have_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"))
    assert Recipe.from_toml(path).data.tasks == ("shade",)


def test_many_dots_inside_texts_are_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(GOOD + b'path = "' + b"a." * 100 + b'"  # ' + b"." * 100)
    assert Recipe.from_toml(path).data.path == "a." * 100


def test_an_endless_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="larger than"):
        Recipe.from_toml("/dev/zero")


def test_an_override_of_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.output"):
        Recipe.from_toml(two_toy_recipe(tmp_path), ["run.output=\udcff"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "prompt": "b", "answer": "c"}', "'prompt' stands twice"),
        ('{"prompt": "a", "answer": "b", "weight": NaN}', "NaN is no JSON"),
        ('{"prompt": "a", "answer": "b", "weight": -Infinity}', "-Infinity is no JSON"),
        ('{"prompt": "a", "answer": "b", "n": %s}' % ("9" * 5_000), "cannot be read"),
        ('{"prompt": "\\ud800", "answer": "b"}', "half of a surrogate pair"),
        ('{"prompt": "a\0", "answer": "b"}', "broken JSON at line 1"),
        ("[" * 100_000, "cannot be read"),
        ("{" + ", ".join(f'"{"k" * 5_000}{i}": 1' for i in range(20)) + "}", "there is no `prompt`"),
    ],
)
def test_a_row_that_is_a_bomb(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_tasks(settings(data_folder(tmp_path / "data", line)))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 3_000


def test_a_definition_that_is_no_text(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "mine").mkdir(parents=True)
    content = {"Definition": [[1]], "Instances": [{"input": "a", "output": "b"}]}
    for split in ("train", "test"):
        (root / "mine" / f"{split}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="`Definition` must be text or a list of texts"):
        load_tasks(settings(root, "superni"))


def test_files_and_rows_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = data_folder(tmp_path / "data")
    monkeypatch.setattr("seekr_lite.data.rows.MAX_FILE_BYTES", 10)
    with pytest.raises(UserError, match=r"larger than 10 bytes; split it"):
        load_tasks(settings(root))
    monkeypatch.undo()
    monkeypatch.setattr("seekr_lite.data.rows.MAX_ROWS", 0)
    with pytest.raises(UserError, match=r"1 rows; at most 0 are allowed, so split the task"):
        load_tasks(settings(root))


def test_toy_tasks_have_bounds() -> None:
    toy = DataSettings.model_validate({"format": "toy", "tasks": ("shade",), "train_limit": 1_000_000_000})
    with pytest.raises(UserError, match="toy tasks have at most 100,000 rows"):
        load_tasks(toy)


def test_a_json_file_of_a_run_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seekr_lite.common.files.MAX_FILE_BYTES", 1)
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(UserError, match="larger than 1 bytes"):
        read_json(tmp_path / "x.json")


def test_a_draft_of_predictions_may_hold_anything(run_folder: Path) -> None:
    draft = RunFolder.open(run_folder).prediction_draft(0, "shade")
    draft.add({1: ("b", "y")})
    odd = [
        '{"row": Infinity, "prompt": "a", "prediction": "x"}',
        '{"row": 1.0, "prompt": "b", "prediction": "x"}',
        '{"row": true, "prompt": "b", "prediction": "x"}',
        '{"row": 0, "prompt": "a", "prediction": ["x"]}',
        "[" * 100_000,
        "null",
    ]
    with draft.path.open("a", encoding="utf-8") as file:
        file.write("\n".join(odd))
    assert draft.known(["a", "b"]) == {1: "y"}


@pytest.mark.parametrize(
    ("tensors", "values"),
    [
        ({"importance": torch.full((2, 3), float("nan"))}, {}),
        ({"importance": torch.ones(3)}, {}),
        ({"importance": torch.ones(3, 2)}, {}),
        ({}, {"heads": [[5, 0]]}),
        ({}, {"heads": [[0, -1]]}),
        ({}, {"heads": 3}),
    ],
)
def test_head_scores_that_cannot_be_are_refused(
    run_folder: Path, tensors: dict[str, torch.Tensor], values: dict[str, Any]
) -> None:
    from safetensors.torch import load_file, save_file

    from seekr_lite.runs.record import file_checksum

    path = run_folder / "heads" / "00-shade.safetensors"
    save_file({**load_file(path), **tensors}, path)
    change_json(path.with_suffix(".json"), lambda old: {**old, **values})
    for file in (path, path.with_suffix(".json")):
        name, digest = f"heads/{file.name}", file_checksum(file)
        change_record(run_folder, lambda record, name=name, digest=digest: record["files"].update({name: digest}))
    with pytest.raises(UserError, match="damaged"):
        Heads.of_run(RunFolder.open(run_folder))


def test_kept_rows_of_a_task_must_be_texts(run_folder: Path) -> None:
    from seekr_lite.runs.record import file_checksum

    path = run_folder / "tasks" / "mine.json"
    assert RunFolder.open(run_folder).load_task("mine").train[1] == Example("c", "d", ("d", "e"))  # type: ignore[union-attr]
    change_json(path, lambda task: {**task, "train": [{"prompt": 1, "answer": "b", "references": []}]})
    change_record(run_folder, lambda record: record["files"].update({"tasks/mine.json": file_checksum(path)}))
    with pytest.raises(UserError, match="must be texts"):
        RunFolder.open(run_folder).load_task("mine")
