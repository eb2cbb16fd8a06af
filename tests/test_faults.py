"""Disks that are full, folders that cannot be written, files that are gone or damaged: one clear message, exit code 3
or 2, nothing lost, and the same command goes on to the same result, to the bit."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, two_toy_tasks
from test_resume import CutAfter, PowerCut
from test_run import artefacts

import seekr_lite as sl
from seekr_lite.common.errors import Stopped
from seekr_lite.common.files import user_file, user_folder
from seekr_lite.common.progress import Advance, Listener
from seekr_lite.recipe.recipe import Recipe

QUIET = Listener()


def faulty_recipe(output: Path, *tasks: str) -> Recipe:
    return two_toy_tasks(
        output,
        data={"tasks": tasks or ("shade", "keeper"), "train_limit": 8, "test_limit": 2, "validation_rows": 1},
        train={"batch_size": 2},
        run={"output": str(output), "checkpoint_steps": 1},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happened."""
    return sl.run(faulty_recipe(tmp_path_factory.mktemp("whole") / "run"), listener=QUIET).path


# ------------------------------------------------------------------ every kind of write


class Disk:
    """Refuses, once each, to open the files of a folder for writing. (It sees what Python opens: safetensors' own
    writes come after such an opening.)"""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number, self.on = str(folder) + os.sep, number, True
        self.refused: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self.on:
            return
        path, _, flags = arguments
        if not isinstance(path, str | os.PathLike) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        place = os.fspath(path)
        if isinstance(place, bytes) or not place.startswith(self.folder):
            return
        # .name.random and .folder.random/name -> name
        name = "/".join(
            part[1:].rpartition(".")[0] if part.startswith(".") and part != ".lock" else part
            for part in place.removeprefix(self.folder).split("/")
        )
        if name not in self.refused:
            self.refused.append(name)
            raise OSError(self.number, os.strerror(self.number), place)


def test_a_disk_that_fails_once_at_every_file_costs_nothing(tmp_path: Path) -> None:
    whole = sl.run(faulty_recipe(tmp_path / "whole", "shade"), listener=QUIET).path
    recipe, said = faulty_recipe(tmp_path / "run", "shade"), []
    disk = Disk(tmp_path / "run", errno.ENOSPC)
    try:
        for _ in range(30):
            try:
                run = sl.run(recipe, listener=QUIET)
                break
            except Stopped as error:
                said.append(str(error))
    finally:
        disk.on = False
    for message, name in zip(said, disk.refused, strict=True):
        assert "cannot be written: No space left on device. Free some room and run the same command" in message
        # The lock is the folder's, and an adapter's folder is one piece.
        place = "run" if name == ".lock" else "adapters/00-shade" if name.startswith("adapters/") else name
        assert f"/{place}: " in message
    expected = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    expected -= {"adapters/00-shade/adapter_model.safetensors"}  # opened by safetensors itself
    expected |= {"predictions/00/shade.draft.jsonl", "checkpoint.safetensors"}
    assert set(disk.refused) == expected
    assert artefacts(run.path) == artefacts(whole)
    assert [path.name for path in run.path.rglob(".*")] == [".lock"], "nothing half-written is left"


def test_a_log_that_must_not_be_written_is_named(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "run", errno.EACCES)
    disk.refused = [".lock", "run.json", "recipe.toml"]
    try:
        with pytest.raises(Stopped, match=r"log\.jsonl: cannot be written: Permission denied\. Allow writing there"):
            sl.run(faulty_recipe(tmp_path / "run"), listener=QUIET)
    finally:
        disk.on = False


# ------------------------------------------------------------------ a small disk


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes Linux and root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], capture_output=True, check=True)


class Fills(Listener):
    """Fills the disk when something happens, so that no page of it is left."""

    def __init__(self, ballast: Path, when: Callable[[str, dict[str, Any]], bool]) -> None:
        self.ballast, self.when = ballast, when

    def event(self, kind: str, **values: Any) -> None:
        if self.when(kind, values):
            self.fill()

    @contextmanager
    def phase(self, description: str, total: int) -> Iterator[Advance]:
        if self.when(description, {}):
            self.fill()
        yield lambda units: None

    def say(self, text: str) -> None:
        if self.when(text, {}):
            self.fill()

    def fill(self) -> None:
        with self.ballast.open("ab", buffering=0) as file:
            for size in (2**20, 2**12):
                try:
                    while True:
                        file.write(b"0" * size)
                except OSError:
                    pass


PHASES: dict[str, tuple[Callable[[str, dict[str, Any]], bool], str]] = {
    "before the first checkpoint": (lambda kind, values: kind == "step", r"log\.jsonl|checkpoint\.safetensors"),
    "in the middle of the second task": (
        lambda kind, values: kind == "step" and values["stage"] == 1,
        r"log\.jsonl|checkpoint\.safetensors",
    ),
    "before the first test": (
        lambda kind, values: kind.startswith("testing shade (after shade)"),
        r"predictions/00/shade\.draft\.jsonl",
    ),
    "before the scores": (lambda kind, values: kind.startswith("01-keeper: "), r"scores\.json"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_full_disk_stops_a_run_which_goes_on_where_there_is_room(phase: str, whole: Path, tmp_path: Path) -> None:
    when, where = PHASES[phase]
    with mounted(tmp_path / "disk", "size=8m") as disk:
        recipe = faulty_recipe(disk / "run")
        with pytest.raises(Stopped, match=rf"({where}): cannot be written: No space left on device"):
            sl.run(recipe, listener=Fills(disk / "ballast", when))
        (disk / "ballast").unlink()
        assert artefacts(sl.run(recipe, listener=QUIET).path) == artefacts(whole)


def test_the_command_line_tells_of_a_full_disk_and_goes_on_when_it_is_larger(whole: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=100k") as disk:
        recipe = faulty_recipe(disk / "run")
        (tmp_path / "recipe.toml").write_text(recipe.to_toml())
        command = [sys.executable, "-m", "seekr_lite", "run", str(tmp_path / "recipe.toml")]
        full = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert full.returncode == 3, full.stderr
        assert "run/checkpoint.safetensors: cannot be written: No space left on device. Free some room" in full.stderr
        assert "Traceback" not in full.stderr
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert artefacts(sl.run(recipe, listener=QUIET).path) == artefacts(whole)


def test_a_folder_that_is_for_reading_only_is_refused_in_one_line(whole: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=8m") as disk:
        shutil.copytree(whole, disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(Stopped, match=r"run: cannot be written: Read-only file system\. Allow writing there"):
            sl.run(faulty_recipe(disk / "run"), listener=QUIET)
        assert sl.open_run(disk / "run").scores.tasks  # reading needs no writing


# ------------------------------------------------------------------ files that go


class Removes(Listener):
    """Removes something at the n-th step."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.left = path, steps

    def event(self, kind: str, **values: Any) -> None:
        self.left -= kind == "step"
        if kind == "step" and self.left == 0:
            if self.path.is_dir():
                shutil.rmtree(self.path)
            else:
                self.path.unlink()


def test_a_run_folder_that_vanishes_is_no_defect(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"log\.jsonl: cannot be written: No such file or directory"):
        sl.run(faulty_recipe(tmp_path / "run"), listener=Removes(tmp_path / "run", 2))


@pytest.mark.parametrize("name", ["log.jsonl", "checkpoint.safetensors"])
def test_a_file_that_vanishes_while_a_task_is_learned_changes_nothing(name: str, whole: Path, tmp_path: Path) -> None:
    run = sl.run(faulty_recipe(tmp_path / "run"), listener=Removes(tmp_path / "run" / name, 2))
    assert artefacts(run.path) == artefacts(whole)


def test_a_file_for_the_user_that_cannot_be_written_is_a_mistake_not_a_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(sl.UserError, match="this file cannot be written") as refused,
        user_file(tmp_path / "file" / "a"),
    ):
        pass
    assert refused.value.exit_code == 2


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(sl.UserError, match="something else of that name"), user_file(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_is_followed_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with user_file(tmp_path / "link") as file:
        file.write_text("written")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "written"


def test_a_folder_that_came_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def export() -> None:
        with user_folder(tmp_path / "mine") as folder:
            (folder / "weights").write_text("new")
            (tmp_path / "mine").mkdir()
            (tmp_path / "mine" / "precious").write_text("old")

    with pytest.raises(sl.UserError, match="this folder cannot be written"):
        export()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious"]


class Heard(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("broken", ["out of memory", "another error"])
def test_a_test_that_does_not_fit_says_which_key_to_lower_and_goes_on(
    broken: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory") if broken == "out of memory" else RuntimeError("a defect")

    recipe = faulty_recipe(tmp_path / "run")
    expected = Stopped if broken == "out of memory" else RuntimeError
    message = "evaluate.batch_tokens = 8192: set it lower" if broken == "out of memory" else "a defect"
    with monkeypatch.context() as patch:
        patch.setattr("seekr_lite.evaluation.generate.greedy_answers", fail)
        with pytest.raises(expected, match=message):
            sl.run(recipe, listener=Listener())
    sl.run(recipe.with_(evaluate={"batch_tokens": 4096}), listener=Listener())
    assert artefacts(tmp_path / "run") == artefacts(whole)


def test_a_likelihood_that_is_no_number_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflows(model: Any, batch: Any) -> torch.Tensor:
        return torch.tensor(float("nan"))

    heard = Heard()
    monkeypatch.setattr("seekr_lite.evaluation.generate.answer_cross_entropy_sum", overflows)
    run = sl.run(faulty_recipe(tmp_path / "run"), listener=heard)
    assert run.scores.nll is None
    assert any("the NLL of its held-out rows is not finite" in line for line in heard.lines)


def test_a_path_that_no_system_takes_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(sl.UserError, match="this cannot be opened"):
        sl.open_run(tmp_path / ("x" * 300))


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_without_it(damage: str, whole: Path, tmp_path: Path) -> None:
    recipe = faulty_recipe(tmp_path / "run")
    with pytest.raises(PowerCut):
        sl.run(recipe, listener=CutAfter(2))
    path = tmp_path / "run" / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(bytes(content if damage == "changed" else content[:-1000]))
    heard = Heard()
    run = sl.run(recipe, listener=heard)
    (line,) = [line for line in heard.lines if "damaged" in line]
    assert "checkpoint.safetensors: this checkpoint is damaged (" in line
    assert "It is now checkpoint.damaged.safetensors. Lost are the steps done so far of the task" in line
    assert artefacts(run.path) == artefacts(whole)
    assert not list(run.path.glob("checkpoint*"))


def test_damage_to_what_was_learned_says_what_is_lost_and_how_to_mend_it(whole: Path, tmp_path: Path) -> None:
    part = "adapters/00-shade/adapter_model.safetensors"
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    content = (copy / part).read_bytes()
    (copy / part).write_bytes(content[:-1])
    recipe = faulty_recipe(copy)
    with pytest.raises(sl.UserError, match=r"damaged") as refused:
        sl.run(recipe, listener=QUIET)
    message = str(refused.value)
    assert part in message
    assert "part of what was learned of shade, on which keeper may rest" in message
    assert "Put the file back from a copy and run the same command, or learn anew with --fresh" in message
    (copy / part).write_bytes(content)
    assert artefacts(sl.run(recipe, listener=QUIET).path) == artefacts(whole)


# ------------------------------------------------------------------ models


def test_a_model_that_generates_nothing_scores_0(tmp_path: Path) -> None:
    recipe = two_toy_tasks(
        tmp_path / "run", data={"format": "python", "tasks": ("mute",)}, train={"epochs": 30, "batch_size": 8}
    )
    mute = sl.Task("mute", train=[sl.Example("say:", "")] * 8, test=[sl.Example("say:", "yes")] * 3)
    run = sl.run(recipe, listener=QUIET, tasks=[mute])
    assert run.scores.matrix == ((0.0,),)
    assert run.load_model().generate("say:") == ""
