"""A run that is stopped anywhere goes on to the same result, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_run import artefacts

import seekr_lite as sl
from seekr_lite.errors import Interrupted
from seekr_lite.progress import Listener
from seekr_lite.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()


class PowerCut(BaseException):
    """Nothing handles it, as nothing handles a power cut."""


class CutAfter(Listener):
    """Cuts the power at the n-th step of the run."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def event(self, kind: str, **values: Any) -> None:
        if kind == "step":
            self.left -= 1
            if self.left == 0:
                raise PowerCut


def steps_of(folder: Path) -> list[tuple[int, int]]:
    import json

    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(event["stage"], event["step"]) for event in events if event["event"] == "step"]


@pytest.mark.parametrize("growth", ["continue", "stack"])
@pytest.mark.parametrize("method", ["sequential", "replay", "derpp", "seekr"])
def test_a_power_cut_in_the_middle_of_a_task_changes_nothing(
    method: str, growth: str, small_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = small_recipe(
        method={"name": method}, adapter={"growth": growth, "dropout": 0.1}, run={"checkpoint_steps": 2}
    )
    whole = sl.run(recipe, output=tmp_path / "whole", listener=QUIET)
    total = len(steps_of(whole.path))
    for cut in (total - 1, 4):
        with pytest.raises(PowerCut):
            sl.run(recipe, output=tmp_path / f"cut-{cut}", listener=CutAfter(cut))
        resumed = sl.run(recipe, output=tmp_path / f"cut-{cut}", listener=QUIET)
        assert artefacts(resumed.path) == artefacts(whole.path)
        repeated = len(steps_of(resumed.path)) - len(set(steps_of(resumed.path)))
        assert repeated <= recipe.run.checkpoint_steps
        assert not (resumed.path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_the_optimizer_goes_on_where_it_was(optimizer: str, small_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = small_recipe(
        data={"tasks": ("shade",), "train_limit": 64},
        train={"optimizer": optimizer, "schedule": "cosine", "warmup": 0.2, "epochs": 2},
        adapter={"rank": 64},  # tensors of fewer numbers than 4096 are not kept in 8 bits
        run={"checkpoint_steps": 3},
    )
    whole = sl.run(recipe, output=tmp_path / "whole", listener=QUIET)
    with pytest.raises(PowerCut):
        sl.run(recipe, output=tmp_path / "cut", listener=CutAfter(5))
    assert artefacts(sl.run(recipe, output=tmp_path / "cut", listener=QUIET).path) == artefacts(whole.path)


def test_a_damaged_checkpoint_is_named(small_recipe: MakeRecipe) -> None:
    recipe = small_recipe(run={"checkpoint_steps": 1})
    with pytest.raises(PowerCut):
        sl.run(recipe, listener=CutAfter(2))
    path = Path(str(recipe.run.output)) / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(sl.UserError, match="checkpoint is damaged"):
        sl.run(recipe, listener=QUIET)


class SignalAfter(Listener):
    """Sends this process a signal at the n-th step."""

    def __init__(self, number: signal.Signals, steps: int) -> None:
        self.number = number
        self.left = steps

    def event(self, kind: str, **values: Any) -> None:
        if kind == "step":
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 3), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_keeps_everything(
    number: signal.Signals, exit_code: int, small_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = small_recipe()  # no checkpoint would be due
    whole = sl.run(recipe, output=tmp_path / "whole", listener=QUIET)
    with pytest.raises(Interrupted) as stopped:
        sl.run(recipe, output=tmp_path / "stopped", listener=SignalAfter(number, 3))
    assert stopped.value.exit_code == exit_code
    assert (tmp_path / "stopped" / "checkpoint.safetensors").is_file()
    resumed = sl.run(recipe, output=tmp_path / "stopped", listener=QUIET)
    assert artefacts(resumed.path) == artefacts(whole.path)
    assert sorted(steps_of(resumed.path)) == sorted(steps_of(whole.path)), "no step was done twice"


def test_ctrl_c_on_the_command_line_ends_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
    command = [sys.executable, "-m", "seekr_lite", "run", str(recipe), "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 100
    while not (log.is_file() and log.read_text().count('"step"') > 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "the same command goes on from here" in message
    assert "Traceback" not in message
