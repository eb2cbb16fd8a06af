"""Whole runs on the built-in base: what they leave behind, that they repeat, resume and go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import seekr_lite as sl
from seekr_lite.common.progress import Advance, Listener
from seekr_lite.recipe.method_names import METHODS
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.rows import DraftFile
from seekr_lite.runs.tasks import gather_tasks

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()


def artefacts(folder: Path) -> dict[str, bytes]:
    """Everything that a run learned: adapters, memory, heads and scores."""
    kept = [
        path
        for part in ("adapters", "memory", "heads")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*kept, folder / "scores.json"]}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_to_a_scoreboard(method: str, small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(method={"name": method}), listener=QUIET)
    scores = json.loads((run.path / "scores.json").read_text())
    assert scores["tasks"] == ["shade", "keeper"]
    assert scores["op"] is not None
    assert (scores["bwt"] is None) == (method == "joint")
    assert len(list((run.path / "adapters").iterdir())) == (1 if method == "joint" else 2)


def test_isolated_adapters_cannot_forget(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(method={"name": "isolated"}), listener=QUIET)
    assert run.scores.bwt == 0


def test_the_same_seed_gives_the_same_run_to_the_bit(small_recipe: MakeRecipe, tmp_path: Path) -> None:
    first = sl.run(small_recipe(), output=tmp_path / "first", listener=QUIET)
    second = sl.run(small_recipe(), output=tmp_path / "second", listener=QUIET)
    assert artefacts(first.path) == artefacts(second.path)


def test_another_seed_gives_another_run(small_recipe: MakeRecipe, tmp_path: Path) -> None:
    first = sl.run(small_recipe(), output=tmp_path / "first", listener=QUIET)
    second = sl.run(small_recipe(run={"seed": 1}), output=tmp_path / "second", listener=QUIET)
    adapter = "adapters/00-shade/adapter_model.safetensors"
    assert artefacts(first.path)[adapter] != artefacts(second.path)[adapter]


@pytest.mark.parametrize("growth", ["continue", "stack"])
def test_a_continued_run_equals_one_that_never_stopped(growth: str, small_recipe: MakeRecipe, tmp_path: Path) -> None:
    settings = {"adapter": {"growth": growth}}
    three = {"tasks": ("shade", "keeper", "tail")}
    whole = sl.run(small_recipe(**settings, data=three), output=tmp_path / "whole", listener=QUIET)
    sl.run(small_recipe(**settings), output=tmp_path / "parts", listener=QUIET)
    parts = sl.run(small_recipe(**settings, data=three), output=tmp_path / "parts", listener=QUIET)
    whole_files, part_files = artefacts(whole.path), artefacts(parts.path)
    assert whole_files == part_files


def test_a_finished_run_is_not_learned_again(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(), listener=QUIET)
    adapter = run.path / "adapters" / "00-shade" / "adapter_model.safetensors"
    before = adapter.stat().st_mtime_ns
    sl.run(small_recipe(), listener=QUIET)
    assert adapter.stat().st_mtime_ns == before


def test_a_run_that_stopped_after_a_task_goes_on_to_the_same_result(small_recipe: MakeRecipe, tmp_path: Path) -> None:
    class StopAfterFirst(Listener):
        def event(self, kind: str, **values: object) -> None:
            if kind == "stage" and values["stage"] == 0:
                raise KeyboardInterrupt

    whole = sl.run(small_recipe(), output=tmp_path / "whole", listener=QUIET)
    with pytest.raises(KeyboardInterrupt):
        sl.run(small_recipe(), output=tmp_path / "parts", listener=StopAfterFirst())
    parts = sl.run(small_recipe(), output=tmp_path / "parts", listener=QUIET)
    assert artefacts(whole.path) == artefacts(parts.path)


def test_a_task_from_python_joins_a_finished_run(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(), listener=QUIET)
    mine = sl.Task("mine", train=[sl.Example("say:", "yes")] * 4, test=[sl.Example("say:", "yes")])
    longer = run.learn(mine, epochs=2, listener=QUIET)
    assert longer.tasks == ["shade", "keeper", "mine"]
    assert longer.scores.matrix[2][2] is not None
    assert sl.open_run(run.path).scores == longer.scores


def test_a_task_is_not_handed_over_again_with_other_rows(small_recipe: MakeRecipe) -> None:
    recipe = small_recipe(data={"tasks": ["mine"], "format": "python", "path": None})
    rows = [sl.Example(f"{number}: ->", "yes") for number in range(12)]
    task = sl.Task("mine", train=rows[:8], test=rows[8:])
    run = sl.run(recipe, tasks=[task], listener=QUIET)
    assert sl.run(recipe, tasks=[task], listener=QUIET).scores.op == run.scores.op
    with pytest.raises(sl.UserError, match="task mine was handed over with other rows before"):
        sl.run(recipe, tasks=[sl.Task("mine", train=rows[1:8], test=rows[8:])], listener=QUIET)


def test_a_changed_recipe_is_refused_by_its_keys(small_recipe: MakeRecipe) -> None:
    sl.run(small_recipe(), listener=QUIET)
    with pytest.raises(sl.UserError, match=r"train\.learning_rate"):
        sl.run(small_recipe(train={"learning_rate": 1e-3}), listener=QUIET)


def test_full_rounds_know_forward_transfer(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(evaluate={"rounds": "full"}, method={"name": "sequential"}), listener=QUIET)
    assert run.scores.fwt is not None
    assert (run.path / "predictions" / "base" / "shade.jsonl").is_file()


@pytest.mark.parametrize("growth", [pytest.param("continue", marks=pytest.mark.core), "stack"])
def test_plain_peft_reproduces_the_predictions(growth: str, small_recipe: MakeRecipe) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = sl.run(small_recipe(adapter={"growth": growth}, base={"quantization": "none"}), listener=QUIET)
    folder = run.path / "adapters" / "01-keeper"
    name = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(name, dtype="float32"), str(folder)).eval()
    lines = (run.path / "predictions" / "01" / "keeper.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        ids = tokenizer(row["prompt"], return_tensors="pt")
        output = model.generate(**ids, max_new_tokens=4, do_sample=False)
        assert tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True) == row["prediction"]


def test_the_learner_learns_without_a_folder(small_recipe: MakeRecipe) -> None:
    recipe = small_recipe(data={"format": "python", "tasks": ()}, method={"name": "replay"}, train={"epochs": 30})
    learner = sl.Learner(recipe)
    rows = [sl.Example(f"number {i}:", "one") for i in range(8)]
    learner.learn(sl.Task("ones", train=rows, test=rows))
    scores = learner.evaluate()
    assert scores.op == 100


def test_a_loaded_model_answers_as_the_run_did(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(), listener=QUIET)
    model = run.load_model(after="shade")
    row = json.loads((run.path / "predictions" / "00" / "shade.jsonl").read_text().splitlines()[0])
    assert model.generate(row["prompt"], max_new_tokens=4) == row["prediction"]
    with pytest.raises(sl.UserError, match='did you mean "shade"'):
        run.load_model(after="shad")


def test_a_loaded_model_has_the_logits_of_the_run_to_the_bit_in_bfloat16(finished_run: sl.Run, tmp_path: Path) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    run = sl.open_run(tmp_path / "run")
    run.folder.write_recipe(run.recipe.with_(base={"dtype": "bfloat16"}))
    learner = sl.Learner(run.recipe)
    for index, task in enumerate(gather_tasks(run.recipe, run.folder, ())):
        learner.restore([task], run.folder.load_stage(index, None))
    loaded = run.load_model()
    ids = loaded.tokenizer("keeper: wolf red cake saw desert coat ->", return_tensors="pt").input_ids
    with learner.adapters.acting_as(1):
        expected = learner.adapters.model(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, expected)


class StopsTesting(Listener):
    """Stops in the middle of the first test, as a power cut would."""

    @contextmanager
    def phase(self, description: str, total: int) -> Iterator[Advance]:
        def advance(units: int) -> None:
            if description.startswith("testing"):
                raise KeyboardInterrupt

        yield advance


def test_predictions_are_on_disk_while_a_task_is_tested_and_are_not_made_again(
    small_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = small_recipe(evaluate={"batch_tokens": 1})
    sl.run(recipe, output=tmp_path / "whole", listener=QUIET)
    with pytest.raises(KeyboardInterrupt):
        sl.run(recipe, output=tmp_path / "stopped", listener=StopsTesting())
    draft = tmp_path / "stopped" / "predictions" / "00" / "shade.draft.jsonl"
    first = json.loads(draft.read_text().split("\n")[1])
    draft.unlink()
    DraftFile(draft).add({first["row"]: (first["prompt"], "kept")})
    with draft.open("a") as file:
        file.write('{"row": 1, "pro')
    sl.run(recipe, output=tmp_path / "stopped", listener=QUIET)
    rows = {
        name: [json.loads(line) for line in (tmp_path / name / "predictions/00/shade.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    }
    rows["whole"][first["row"]] |= {"prediction": "kept", "score": rows["stopped"][first["row"]]["score"]}
    assert rows["stopped"] == rows["whole"]
    assert not draft.exists()


def test_a_prediction_that_was_changed_on_disk_is_made_again(tmp_path: Path) -> None:
    draft = DraftFile(tmp_path / "draft.jsonl")
    draft.add({0: ("one:", "1"), 1: ("two:", "2")})
    assert draft.known(["one:", "two:"]) == {0: "1", 1: "2"}
    draft.path.write_text(draft.path.read_text().replace('"2"', '"3"'))
    assert draft.known(["one:", "two:"]) == {0: "1"}


def test_every_path_of_the_python_api_may_begin_with_the_home_folder(
    finished_run: sl.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A notebook has no shell that would replace `~`."""
    monkeypatch.setenv("HOME", str(finished_run.path.parent))
    monkeypatch.chdir(tmp_path)
    opened = sl.open_run(f"~/{finished_run.path.name}")
    assert opened.path == finished_run.path
    assert opened.save_report("~/page.html") == finished_run.path.parent / "page.html"
    opened.export("~/exported")
    assert (finished_run.path.parent / "exported" / "adapter_config.json").is_file()
    assert not list(tmp_path.iterdir())


def test_the_home_folder_of_somebody_unknown_is_a_name_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sl.UserError, match="~nobody-of-that-name/run: there is no run here"):
        sl.open_run("~nobody-of-that-name/run")
