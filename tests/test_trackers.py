"""Trackers: what reaches them, that a run goes on in the same curves, and that none of them can stop a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import two_toy_tasks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import seekr_lite as sl
from seekr_lite.common.progress import Listener
from seekr_lite.recipe.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
Curves = dict[str, list[tuple[int, float]]]
DATA = {"train_limit": 48, "test_limit": 4, "validation_rows": 4}
TENSORBOARD = {"trackers": ("tensorboard",), "checkpoint_steps": 1}


class Heard(Listener):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class PowerCut(Exception):
    pass


class CutAt(Listener):
    """The power goes at a step of a stage."""

    def __init__(self, stage: int, step: int) -> None:
        self.place = (stage, step)

    def event(self, kind: str, **values: Any) -> None:
        if kind == "step" and (values["stage"], values["step"]) == self.place:
            raise PowerCut


def curves(run: Path) -> Curves:
    """What TensorBoard shows of a run."""
    shown = EventAccumulator(str(run / "tensorboard"))
    shown.Reload()
    return {name: [(one.step, one.value) for one in shown.Scalars(name)] for name in shown.Tags()["scalars"]}


def steps(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [one for one in events if one["event"] == "step"]


def make(small_recipe: MakeRecipe, output: Path, **run: Any) -> Recipe:
    return small_recipe(data=DATA, train={"epochs": 1, "batch_size": 16}, run={"output": str(output), **run})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """A run that was tracked from its beginning to its end, and never stopped."""
    path = tmp_path_factory.mktemp("tracked") / "whole"
    return sl.run(make(partial(two_toy_tasks, path), path, **TENSORBOARD), listener=Listener())


def test_tensorboard_shows_what_the_log_and_the_scores_say(whole: sl.Run) -> None:
    found, logged = curves(whole.path), steps(whole.path)
    assert [step for step, _ in found["loss/cross_entropy"]] == list(range(1, len(logged) + 1))
    for name, key in (("loss/cross_entropy", "cross_entropy"), ("learning_rate", "learning_rate")):
        assert [value for _, value in found[name]] == pytest.approx([one[key] for one in logged])
    assert [value for _, value in found["gradient_norm/all"]] == pytest.approx([one["gradient_norm"] for one in logged])
    assert "loss/attention_distillation" in found
    assert "gradient_norm/cross_entropy" in found
    half, scores = len(logged) // 2, whole.scores
    for name, points in (
        ("score/shade", [(half, scores.matrix[0][0]), (2 * half, scores.matrix[1][0])]),
        ("score/keeper", [(2 * half, scores.matrix[1][1])]),
        ("nll/keeper", [(2 * half, scores.nll_matrix[1][1])]),
    ):
        assert [step for step, _ in found[name]] == [step for step, _ in points]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points])


def test_a_stopped_run_goes_on_in_the_same_curves(whole: sl.Run, small_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make(small_recipe, tmp_path / "stopped", **TENSORBOARD)
    with pytest.raises(PowerCut):
        sl.run(recipe, listener=CutAt(1, 2))
    resumed = sl.run(recipe, listener=Listener())
    assert curves(resumed.path) == curves(whole.path)


def test_a_tracker_can_be_added_when_a_run_goes_on_and_changes_nothing(
    whole: sl.Run, small_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(PowerCut):
        sl.run(make(small_recipe, tmp_path / "later"), listener=CutAt(1, 2))
    later = sl.run(make(small_recipe, tmp_path / "later", **TENSORBOARD), listener=Listener())
    assert later.scores == whole.scores
    first = len([one for one in steps(later.path) if one["stage"] == 0])
    assert min(step for step, _ in curves(later.path)["loss/cross_entropy"]) > first  # and not from 1 again


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    small_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.tracking import TensorBoardTracker

    log = TensorBoardTracker.log

    def fail_at_the_third(tracker: Any, values: Any, step: int | None = None) -> None:
        if step == 3:
            raise ConnectionError("the server is gone")
        log(tracker, values, step)

    monkeypatch.setattr(TensorBoardTracker, "log", fail_at_the_third)
    heard = Heard()
    run = sl.run(make(small_recipe, tmp_path / "run", **TENSORBOARD), listener=heard)
    (told,) = [line for line in heard.lines if "tracker" in line]
    assert "tensorboard" in told
    assert "the server is gone" in told
    assert run.tasks == ["shade", "keeper"]
    assert len(curves(run.path)["learning_rate"]) == 2


def test_a_tracker_that_cannot_begin_does_not_stop_a_run(small_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe, heard = make(small_recipe, tmp_path / "run", **TENSORBOARD), Heard()
    with pytest.raises(PowerCut):
        sl.run(recipe.with_(run={"trackers": ()}), listener=CutAt(0, 1))
    (tmp_path / "run" / "tensorboard").write_text("a file where the folder should be")
    run = sl.run(recipe, listener=heard)
    assert run.tasks == ["shade", "keeper"]
    assert len([line for line in heard.lines if "tracker tensorboard: failed" in line]) == 1


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(
    tracker: str, small_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)  # Python's way to say: there is no such module
    monkeypatch.setattr("seekr_lite.model.base.load_base", lambda settings: pytest.fail("the base was loaded"))
    with pytest.raises(sl.UserError, match=rf'{tracker} is not installed.*"seekr-lite\[{tracker}\]"'):
        sl.run(make(small_recipe, tmp_path / "run", trackers=(tracker,)), listener=Listener())
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(small_recipe: MakeRecipe) -> None:
    with pytest.raises(sl.UserError, match=r"run\.trackers"):
        small_recipe(run={"trackers": ("tensorbord",)})


@pytest.mark.slow
def test_wandb_and_trackio_get_every_step_and_go_on_with_a_stopped_run(
    small_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Offline, with the real packages; where they are not installed, there is nothing to test."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    trackio = pytest.importorskip("trackio")
    recipe, heard = make(small_recipe, tmp_path / "run", trackers=("wandb", "trackio"), checkpoint_steps=1), Heard()
    with pytest.raises(PowerCut):
        sl.run(recipe, listener=CutAt(1, 2))
    run = sl.run(recipe, listener=heard)
    assert not [line for line in heard.lines if "tracker" in line]
    assert capsys.readouterr().out == ""  # for results alone
    names = json.loads((run.path / "trackers.json").read_text())
    found = sorted(path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert found == [names["wandb"]] * 2  # twice the same run, which `wandb sync` puts together
    (tracked,) = trackio.Api().runs("seekr-lite")
    assert tracked.name == names["trackio"]
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    logged = {one["step"] for one in storage.get_logs("seekr-lite", tracked.name) if "loss/cross_entropy" in one}
    assert logged == set(range(1, len({(one["stage"], one["step"]) for one in steps(run.path)}) + 1))
    sl.open_run(run.path)  # no link of theirs lies in the run folder
