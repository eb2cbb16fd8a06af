"""Losses that are not finite: they never change the student, are told by their rows, and stop a run in the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from test_resume import CutAfter, PowerCut
from test_run import artefacts
from transformers import AutoTokenizer

import seekr_lite as sl
from seekr_lite.common.errors import Stopped
from seekr_lite.common.progress import Listener
from seekr_lite.recipe.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()
GOOD, BAD = sl.Example("say:", "yes"), sl.Example("say ~:", "yes")
ROWS = 8


@pytest.fixture(scope="module")
def base_with_a_hole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in base, with one token that it cannot compute with: the tilde."""
    folder = tmp_path_factory.mktemp("base") / "hole"
    shutil.copytree(
        ROOT / "seekr_lite" / "model" / "tiny", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__")
    )
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding.clone()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    bad, good = (set(tokenizer(row.prompt + row.answer).input_ids) for row in (BAD, GOOD))
    embedding[list(bad - good)] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    return str(folder)


@pytest.fixture
def recipe(small_recipe: MakeRecipe, base_with_a_hole: str) -> Recipe:
    """A task from Python, one row a step, each row once."""
    return small_recipe(
        base={"model": base_with_a_hole},
        data={"format": "python", "tasks": ("mine",)},
        train={"epochs": 1, "batch_size": 1},
        adapter={"dropout": 0.1},
        evaluate={"rounds": "last"},
    )


def mine(*bad: int, name: str = "mine") -> sl.Task:
    rows = [BAD if row in bad else GOOD for row in range(ROWS)]
    return sl.Task(name, train=rows, test=[GOOD])


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == kind]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapters" / "00-mine" / "adapter_model.safetensors")


def test_a_bad_step_is_left_out_and_its_row_is_named(recipe: Recipe) -> None:
    run = sl.run(recipe, listener=QUIET, tasks=[mine(3)])
    (bad,) = events(run.path, "bad_step")
    assert (bad["rows"], bad["replayed"], bad["gradient_norm"]) == ({"mine": [3]}, {}, "nan")
    assert len(events(run.path, "step")) == ROWS - 1
    weights = adapter(run.path)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert any(tensor.any() for name, tensor in weights.items() if ".lora_B." in name)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_bad_step_changes_neither_weights_nor_moments(recipe: Recipe, optimizer: str) -> None:
    class Kept(Listener):
        """What the checkpoint after each step holds."""

        def __init__(self, folder: Path) -> None:
            self.folder, self.states = folder, []  # type: tuple[Path, list[dict[str, torch.Tensor]]]

        def event(self, kind: str, **values: Any) -> None:
            if kind in ("step", "bad_step") and values["step"] > 1:
                self.states.append(load_file(self.folder / "checkpoint.safetensors"))

    folder = Path(str(recipe.run.output))
    watching = Kept(folder)
    settings = {"optimizer": optimizer, "bad_steps_limit": 100, "weight_decay": 0.1}
    # All rows are bad but one, so the order of the rows does not matter.
    sl.run(
        recipe.with_(train=settings, run={"checkpoint_steps": 1}),
        listener=watching,
        tasks=[mine(*range(1, ROWS))],
    )
    good = events(folder, "step")[0]["step"]
    kept = [{k: v for k, v in one.items() if not k.startswith("random/")} for one in watching.states]
    changes = [
        any(not torch.equal(before[name], after[name]) for name in before) or before.keys() != after.keys()
        for before, after in pairwise(kept)
    ]
    assert 1 < good < ROWS, "the seed decides"
    assert sum(changes) == 1


def test_too_many_bad_steps_in_a_row_stop_the_run_by_name(recipe: Recipe) -> None:
    with pytest.raises(Stopped, match=r"for 3 steps in a row \(step 3: rows \d of mine; counted from 0\)"):
        sl.run(recipe, listener=QUIET, tasks=[mine(*range(ROWS))])
    assert Stopped.exit_code == 3


def test_a_task_of_bad_steps_alone_is_not_learned_whatever_the_limit(recipe: Recipe) -> None:
    with pytest.raises(Stopped, match=f"for {ROWS} steps in a row"):
        sl.run(recipe.with_(train={"bad_steps_limit": 100}), listener=QUIET, tasks=[mine(*range(ROWS))])


def test_bad_steps_that_are_not_in_a_row_do_not_stop_the_run(recipe: Recipe) -> None:
    several = recipe.with_(train={"epochs": 3})
    run = sl.run(several, listener=QUIET, tasks=[mine(3)])
    assert len(events(run.path, "bad_step")) == 3


def test_the_same_command_stops_at_the_same_step_again(recipe: Recipe) -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(Stopped) as stopped:
            sl.run(recipe, listener=QUIET, tasks=[mine(*range(ROWS))])
        messages.append(str(stopped.value))
    assert messages[0] == messages[1]


def test_a_run_stopped_at_the_first_bad_step_goes_on_where_it_is_told_to_skip(recipe: Recipe, tmp_path: Path) -> None:
    whole = sl.run(recipe, output=tmp_path / "whole", listener=QUIET, tasks=[mine(3)])
    with pytest.raises(Stopped, match=r"rows 3 of mine.*--set train\.on_bad_loss=skip"):
        sl.run(recipe.with_(train={"on_bad_loss": "stop"}), output=tmp_path / "two", listener=QUIET, tasks=[mine(3)])
    resumed = sl.run(recipe, output=tmp_path / "two", listener=QUIET)
    assert artefacts(resumed.path) == artefacts(whole.path)
    steps = [event["step"] for event in events(resumed.path, "step")]
    assert steps == sorted(set(steps)), "no step was done twice"


def test_a_power_cut_between_bad_steps_does_not_start_their_count_anew(recipe: Recipe) -> None:
    class CutAfterBad(CutAfter):
        def event(self, kind: str, **values: Any) -> None:
            super().event("step" if kind == "bad_step" else "", **values)

    kept = recipe.with_(run={"checkpoint_steps": 1})
    with pytest.raises(PowerCut):
        sl.run(kept, listener=CutAfterBad(3), tasks=[mine(*range(ROWS))])
    with pytest.raises(Stopped, match="step 3: "):
        sl.run(kept, listener=QUIET)


def test_replayed_samples_are_named_too(recipe: Recipe) -> None:
    twice = recipe.with_(
        data={"tasks": ("mine", "more")},
        method={"name": "replay", "replay_fraction": 1.0, "replay_step": "own"},
        train={"bad_steps_limit": 100},
    )
    run = sl.run(twice, listener=QUIET, tasks=[mine(3), mine(name="more")])
    sample = [json.loads(line)["prompt"] for line in (run.path / "memory" / "00-mine.jsonl").read_text().splitlines()]
    replayed = [event["replayed"] for event in events(run.path, "bad_step") if event["stage"] == 1]
    assert replayed == [{"mine": [sample.index(BAD.prompt)]}]
