"""A run that is stopped anywhere goes on to the same result, to the bit."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import two_toy_tasks
from test_run import artefacts

import seekr_lite as sl
from seekr_lite.common.errors import Interrupted
from seekr_lite.common.progress import Advance, Listener
from seekr_lite.methods.registry import method_class
from seekr_lite.model.base import load_base
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.inventory import verify_files
from seekr_lite.runs.lock import locked
from seekr_lite.training.micro_batches import MicroBatches

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
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(event["stage"], event["step"]) for event in events if event["event"] == "step"]


@pytest.mark.parametrize(
    ("method", "growth"),
    [
        pytest.param(method, growth, marks=pytest.mark.core if (method, growth) == ("seekr", "continue") else ())
        for method in ("sequential", "replay", "derpp", "seekr")
        for growth in ("continue", "stack")
    ],
)
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


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.core), "adamw_8bit", "paged_adamw_8bit"])
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


class SignalWhileDrawing(Listener):
    """Sends this process a signal at the n-th redraw of the progress of a phase."""

    def __init__(self, redraws: int, phase: str = "learning") -> None:
        self.left = redraws
        self.watched = phase

    @contextmanager
    def phase(self, description: str, total: int) -> Iterator[Advance]:
        def redraw(units: int) -> None:
            self.left -= units if description.startswith(self.watched) else 0
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        yield redraw


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


def test_a_signal_that_comes_while_progress_is_drawn_loses_no_step(small_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        sl.run(small_recipe(), output=tmp_path / "run", listener=SignalWhileDrawing(1))
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    assert steps_of(sl.run(small_recipe(), output=tmp_path / "run", listener=QUIET).path).count((0, 1)) == 1


def test_a_signal_while_a_task_is_tested_keeps_the_answers_so_far(small_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = small_recipe(data={"test_limit": 4}, evaluate={"batch_tokens": 1, "rounds": "last"})  # a batch a row
    with pytest.raises(Interrupted):
        sl.run(recipe, output=tmp_path / "run", listener=SignalWhileDrawing(2, "testing shade"))
    (draft,) = (tmp_path / "run" / "predictions").rglob("*.draft.jsonl")
    assert draft.read_text().count('"row"') == 2


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


def test_a_second_ctrl_c_ends_at_once_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from seekr_lite.cli.app import start

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seekr_lite.runs.runner.run_recipe", interrupted)
    recipe = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
    monkeypatch.setattr(sys, "argv", ["seekr-lite", "run", str(recipe)])
    with pytest.raises(SystemExit) as end:
        start()
    assert end.value.code == 130
    assert "the same command goes on from the last checkpoint" in capsys.readouterr().err


# ------------------------------------------------------------------ damage, locks, leftovers


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sl.run(two_toy_tasks(tmp_path_factory.mktemp("finished") / "run"), listener=QUIET).path


@pytest.fixture
def a_copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def states(path: Path) -> dict[str, str]:
    return {file.path: file.state for file in verify_files(RunFolder.open(path))}


def artefact_files(path: Path) -> list[Path]:
    return sorted(
        file for file in path.rglob("*") if file.is_file() and file.name not in ("log.jsonl", ".lock", "run.json")
    )


def test_verify_knows_every_file_of_a_finished_run(finished: Path) -> None:
    found = states(finished)
    assert set(found.values()) == {"whole"}
    assert set(found) == {file.relative_to(finished).as_posix() for file in artefact_files(finished)}


def test_verify_finds_every_flipped_byte_and_every_cut(a_copy: Path) -> None:
    generator = random.Random(0)
    for file in artefact_files(a_copy):
        whole = file.read_bytes()
        name = file.relative_to(a_copy).as_posix()
        for _ in range(8):
            place = generator.randrange(len(whole))
            flipped = bytearray(whole)
            flipped[place] ^= 1 << generator.randrange(8)
            for changed in (bytes(flipped), whole[:place]):
                file.write_bytes(changed)
                assert states(a_copy)[name] == "changed"
        file.write_bytes(whole)
    assert set(states(a_copy).values()) == {"whole"}


def test_a_changed_record_is_found(a_copy: Path) -> None:
    generator = random.Random(0)
    record = a_copy / "run.json"
    whole = record.read_bytes()
    for _ in range(100):
        place = generator.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << generator.randrange(8)
        for changed in (bytes(flipped), whole[:place]):
            record.write_bytes(changed)
            with pytest.raises(sl.UserError, match=r"run\.json: "):
                RunFolder.open(a_copy)


def test_a_damaged_adapter_is_named_before_anything_rests_on_it(a_copy: Path) -> None:
    adapter = a_copy / "adapters" / "00-shade" / "adapter_model.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-3] ^= 4
    adapter.write_bytes(bytes(content))
    run = sl.open_run(a_copy)
    with pytest.raises(sl.UserError, match=r"00-shade/adapter_model\.safetensors: this file of the run is damaged"):
        run.load_model(after="shade")
    with pytest.raises(sl.UserError, match=r"00-shade/adapter_model\.safetensors: this file of the run is damaged"):
        sl.run(run.recipe, output=a_copy, listener=QUIET)


def test_a_lost_memory_is_no_empty_memory(a_copy: Path) -> None:
    (a_copy / "memory" / "00-shade.jsonl").unlink()
    with pytest.raises(sl.UserError, match=r"memory/00-shade\.jsonl: this file of the run is missing"):
        sl.run(sl.open_run(a_copy).recipe, output=a_copy, listener=QUIET)


def test_lost_predictions_are_made_again(a_copy: Path, finished: Path) -> None:
    predictions = a_copy / "predictions" / "01" / "shade.jsonl"
    predictions.unlink()
    sl.run(sl.open_run(a_copy).recipe, output=a_copy, listener=QUIET)
    assert predictions.read_bytes() == (finished / "predictions" / "01" / "shade.jsonl").read_bytes()
    assert artefacts(a_copy) == artefacts(finished)


def test_two_processes_do_not_share_a_folder(a_copy: Path) -> None:
    with (
        locked(a_copy),
        pytest.raises(sl.UserError, match=f"another process works in this folder .process {os.getpid()} on"),
    ):
        sl.run(sl.open_run(a_copy).recipe, output=a_copy, listener=QUIET)
    assert set(states(a_copy).values()) == {"whole"}


LOCK_AND_WAIT = """
import sys, time
from pathlib import Path
from seekr_lite.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def locked_by_another(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of the folder `held`."""
    command = [sys.executable, "-c", LOCK_AND_WAIT, str(tmp_path / "held")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_another_process_is_kept_out_and_told_who_works_there(
    locked_by_another: subprocess.Popen[str], tmp_path: Path
) -> None:
    with (
        pytest.raises(sl.UserError, match=f"another process works .* .process {locked_by_another.pid} on"),
        locked(tmp_path / "held"),
    ):
        pass


def test_a_killed_process_holds_no_lock(locked_by_another: subprocess.Popen[str], tmp_path: Path) -> None:
    locked_by_another.kill()
    locked_by_another.wait()
    left = json.loads((tmp_path / "held" / ".lock").read_text())
    assert left["process"] == locked_by_another.pid
    with locked(tmp_path / "held"):
        pass


def test_a_number_that_now_belongs_to_another_process_holds_no_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"process": os.getpid(), "machine": "here"}))
    with locked(tmp_path):
        pass


@pytest.mark.skipif(os.name == "nt", reason="locks of POSIX")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_disk_without_locks_is_said_in_words(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path / "run"):
        assert f"{tmp_path / 'run'}: this disk knows no file locks" in caplog.text


def test_what_a_stop_left_half_written_is_cleared_away(a_copy: Path) -> None:
    (a_copy / "adapters" / ".01-keeper.abcd_123").mkdir()
    (a_copy / "adapters" / ".01-keeper.abcd_123" / "half").write_text("x")
    (a_copy / ".run.json.xyz_1234").write_text("{")
    with (a_copy / "log.jsonl").open("a") as log:
        log.write('{"event": "st')
    (a_copy / "predictions" / "01" / "shade.jsonl").unlink()  # so that there is something to do
    sl.run(sl.open_run(a_copy).recipe, output=a_copy, listener=QUIET)
    assert [path.name for path in a_copy.rglob(".*")] == [".lock"]
    assert all(json.loads(line) for line in (a_copy / "log.jsonl").read_text().splitlines())


def test_a_run_goes_on_with_less_memory_to_the_same_result(
    small_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(base={"quantization": "none"}, run={"checkpoint_steps": 1})
    whole = sl.run(recipe, output=tmp_path / "whole", listener=QUIET)
    with pytest.raises(PowerCut):
        sl.run(recipe, output=tmp_path / "cut", listener=CutAfter(2))
    used: list[MicroBatches] = []

    def watched(*arguments: Any) -> MicroBatches:
        used.append(MicroBatches(*arguments))
        return used[-1]

    monkeypatch.setattr("seekr_lite.training.learner.MicroBatches", watched)
    smaller = recipe.with_(
        train={"micro_batch_tokens": 100, "checkpointing": not recipe.train.checkpointing},
        evaluate={"batch_tokens": 64},
    )
    resumed = sl.run(smaller, output=tmp_path / "cut", listener=QUIET)
    assert used[-1].tokens == 100
    assert resumed.recipe.train.micro_batch_tokens == 100
    for stage in range(2):
        expected, found = (RunFolder.open(run.path).load_snapshot(stage).weights for run in (whole, resumed))
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4)


def test_a_task_from_python_that_was_stopped_inside_is_handed_over_again(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(), listener=QUIET)
    mine = sl.Task("mine", train=[sl.Example("say:", "yes")] * 40, test=[sl.Example("say:", "yes")])
    with pytest.raises(PowerCut):
        run.learn(mine, listener=CutAfter(2))
    assert sl.open_run(run.path).learn(mine, listener=QUIET).tasks == ["shade", "keeper", "mine"]
    with pytest.raises(sl.UserError, match="this run has learned it already"):
        run.learn(mine, listener=QUIET)


def test_what_another_process_has_learned_meanwhile_is_kept(
    small_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held the lock while this one loaded its base."""
    recipe = small_recipe(data={"tasks": ["shade"]})

    loaded: list[int] = []

    def load_slowly(*arguments: Any) -> Any:
        loaded.append(1)
        if len(loaded) == 1:  # between the first look at the folder and the lock
            sl.run(recipe, output=tmp_path / "run", listener=QUIET)
        return load_base(*arguments)

    monkeypatch.setattr("seekr_lite.model.base.load_base", load_slowly)
    run = sl.run(recipe, output=tmp_path / "run", listener=QUIET)
    assert len(steps_of(run.path)) == run.folder.record.stages[0].steps  # learned once
    assert run.tasks == ["shade"]


def test_fresh_starts_anew_and_deletes_nothing(a_copy: Path, finished: Path) -> None:
    recipe = sl.open_run(a_copy).recipe.with_(run={"seed": 7})
    with pytest.raises(sl.UserError, match=r"another recipe; differing: run\.seed"):
        sl.run(recipe, output=a_copy, listener=QUIET)
    sl.run(recipe, output=a_copy, listener=QUIET, fresh=True)
    assert artefacts(a_copy.with_name("copy.old-1")) == artefacts(finished)
    assert artefacts(a_copy) != artefacts(finished)


def test_a_run_does_not_go_on_with_options_that_a_method_has_by_default_only_now(
    small_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = method_class("ewc")
    recipe = small_recipe(method={"name": "ewc", "options": {"fisher_rows": 8}}, data={"tasks": ["shade"]})
    run = sl.run(recipe, output=tmp_path / "run", listener=QUIET)
    assert run.recipe.method.options == {**method.default_options, "fisher_rows": 8}
    more = recipe.with_(data={"tasks": ["shade", "keeper"]})
    monkeypatch.setattr(method, "default_options", {**method.default_options, "strength": 77.0})
    with pytest.raises(sl.UserError, match=r"another recipe; differing: method\.options\.strength\."):
        sl.run(more, output=tmp_path / "run", listener=QUIET)
    as_it_was = more.with_(method={"options": dict(run.recipe.method.options)})
    assert sl.run(as_it_was, output=tmp_path / "run", listener=QUIET).tasks == ["shade", "keeper"]


def test_a_damaged_evaluation_that_no_round_asks_for_any_more_is_made_again(
    small_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Task 0 after task 1 was the last round of two tasks; of three it is none."""
    two = small_recipe()
    run = sl.run(two, listener=QUIET)
    run.learn(sl.Task("mine", train=[sl.Example("say:", "yes")] * 4, test=[sl.Example("say:", "yes")]), listener=QUIET)
    path = run.folder.predictions_path(1, "shade")
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    sl.run(run.recipe, output=run.path, listener=QUIET)
    assert path.read_bytes() == content
    assert {one.state for one in verify_files(run.folder)} == {"whole"}
