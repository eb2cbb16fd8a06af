"""Exported models: what plain transformers and PEFT make of the folders, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.progress import Listener
from seekr_lite.model.base import load_base
from seekr_lite.recipe.recipe import BaseSettings, Recipe
from seekr_lite.tools.export import Agreement, write_tokenizer

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()


@pytest.fixture(scope="module")
def run(finished_run: sl.Run) -> sl.Run:
    return finished_run


@pytest.fixture(scope="module")
def merged(run: sl.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Merged into the dequantised base, after the first task."""
    target = tmp_path_factory.mktemp("merged") / "model"
    run.export(target, after="shade", merge="dequantized")
    return target


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def answers(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Greedy answers by plain transformers."""
    model.eval()
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        found.append(tokenizer.decode(output[0, ids.shape[1] :]))
    return found


def test_the_merged_model_answers_50_prompts_as_base_and_adapter_do(run: sl.Run, merged: Path) -> None:
    from seekr_lite.data.toy import toy_task

    prompts = [row.prompt for task in ("shade", "keeper") for row in toy_task(task, 4, 25, 0).test]
    own = run.load_model(after="shade")
    plain = AutoModelForCausalLM.from_pretrained(merged)
    assert len(prompts) == 50
    assert answers(plain, AutoTokenizer.from_pretrained(merged), prompts) == answers(own.model, own.tokenizer, prompts)


def test_a_merged_folder_needs_neither_peft_nor_bitsandbytes(merged: Path) -> None:
    names = {path.name for path in merged.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not any("adapter" in name or name.endswith(".bin") for name in names)
    config = json.loads((merged / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["use_cache"] is True


def test_the_adapter_alone_is_a_plain_peft_folder(run: sl.Run, tmp_path: Path) -> None:
    done = run.export(tmp_path / "adapter", after="keeper")
    assert done.as_trained.largest_difference == 0
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert model.peft_config["default"].r == 16
    assert (tmp_path / "adapter" / "tokenizer.json").is_file()


def test_a_merge_into_the_original_base_is_exact_and_says_that_it_is_another_model(run: sl.Run, tmp_path: Path) -> None:
    done = command(run.path, "--to", tmp_path / "model", "--merge", "original", "--json")
    values = json.loads(done.stdout)
    assert values["as_made"]["largest_difference"] < 1e-3
    assert values["as_trained"]["largest_difference"] > 1e-3
    assert not values["agrees"]
    assert "is another one than the run trained" in (tmp_path / "model" / "README.md").read_text()


def test_the_command_says_how_near_the_logits_are(run: sl.Run, tmp_path: Path) -> None:
    done = command(run.path, "--after", "shade", "--to", tmp_path / "model", "--merge", "dequantized")
    assert done.exit_code == 0, done.output
    assert "The model after shade is in" in done.stdout
    assert "100% of the next tokens are the same" in done.stdout
    assert "may differ" not in done.stderr
    assert "100% of the next tokens" in (tmp_path / "model" / "README.md").read_text()


def test_a_sum_of_adapters_is_merged_whole(small_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = small_recipe(data={"train_limit": 16, "test_limit": 2}, adapter={"growth": "stack"})
    stacked = sl.run(recipe.with_(method={"name": "sequential"}), listener=QUIET)
    assert stacked.export(tmp_path / "model", merge="dequantized").agrees


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": "orginal"}, 'did you mean "original"'),
        ({"after": "shad"}, 'did you mean "shade"'),
        ({"to": "taken"}, "nothing is overwritten"),
        ({"to": "taken/file/model"}, "cannot be written"),
    ],
)
def test_mistakes(changes: dict[str, str], message: str, run: sl.Run, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    to = tmp_path / changes.pop("to", "model")
    with pytest.raises(sl.UserError, match=message):
        run.export(to, **changes)  # type: ignore[arg-type]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_answers_otherwise_is_not_left_behind(
    run: sl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seekr_lite.tools.export.TOLERANCE", {torch.float32: -1.0})
    with pytest.raises(sl.UserError, match="not exported: loaded again, its logits differ"):
        run.export(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_no_number_is_no_agreement() -> None:
    one, broken = torch.zeros(2, 3), torch.full((2, 3), float("nan"))
    assert not Agreement.of([broken], [one]).within(torch.float32)
    assert not Agreement.of([one], [one[:1]]).within(torch.float32)


def test_what_the_tokenizers_library_cannot_write_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """It knows one kind of exception for all that is wrong."""
    (tmp_path / "tokenizer.json").mkdir()
    base = load_base(BaseSettings(model="tiny", quantization="none", device="cpu"))
    with pytest.raises(OSError, match="Is a directory"):
        write_tokenizer(base, tmp_path)
