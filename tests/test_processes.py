"""Several processes make the run that one makes, and end together."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from conftest import ROOT, two_toy_tasks
from torch.nn import Parameter
from typer.testing import CliRunner

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.errors import Interrupted, Stopped, UserError
from seekr_lite.common.files import read_tensors
from seekr_lite.common.processes import Processes, current_processes
from seekr_lite.common.progress import Listener
from seekr_lite.common.stopping import StopRequest, stop_signals
from seekr_lite.methods.method import LossTerm
from seekr_lite.recipe.method_names import METHODS
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.lock import locked
from seekr_lite.training.step_gradients import StepSum, TermValues

CPU = torch.device("cpu")
FORK = multiprocessing.get_context("fork")  # the libraries are loaded already


PIDS = FORK.Array("i", 3)  # of the processes that `in_processes` has started last


def in_processes(count: int, work: Callable[[], Any]) -> list[Any]:
    """Runs `work` in processes as a launcher starts them; what each returns or raises. None: it was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def child(index: int, answer: Any) -> None:
        from accelerate import PartialState

        PartialState._reset_state()
        PIDS[index] = os.getpid()
        places = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        os.environ.update({name: str(value) for name, value in (places | address).items()})
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # torch's threads do not always survive a fork
        try:
            answer.send(work())
        except (UserError, Interrupted) as error:
            answer.send(error)
        answer.close()
        os._exit(0)

    pipes = [FORK.Pipe(duplex=False) for _ in range(count)]
    processes = [FORK.Process(target=child, args=(index, sender)) for index, (_, sender) in enumerate(pipes)]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    found = []
    for receiver, _ in pipes:
        assert receiver.poll(timeout=60)
        try:
            found.append(receiver.recv())
        except EOFError:
            found.append(None)
    for process in processes:
        process.join()
    return found


def float64_recipe(output: Path, **sections: dict[str, Any]) -> Recipe:
    exact: Any = {"base": {"quantization": "none", "dtype": "float64"}, "adapter": {"dtype": "float64"}}
    return two_toy_tasks(output, **exact).with_(**sections)


def norm_in_float64(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Llama's RMSNorm in the precision of its input; transformers' own computes in float32."""
    scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)
    normed: torch.Tensor = self.weight * scaled
    return normed


def adapters_difference(one: Path, two: Path) -> float:
    """The largest difference of two weights, over all adapters of two runs."""
    paths = sorted(path.relative_to(one) for path in one.glob("adapters/*/*.safetensors"))
    pairs = [(read_tensors(one / path), read_tensors(two / path)) for path in paths]
    return max(float((first[name] - second[name]).abs().max()) for first, second in pairs for name in first)


def logged_difference(one: Path, two: Path) -> float:
    """The largest relative difference of two losses or gradient norms of a step; the logs must name the same ones."""
    largest = 0.0
    for first, second in zip(steps(one), steps(two), strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() - {"event", "time", "term_gradient_norms"}:
            largest = max(largest, abs(first[name] - second[name]) / max(abs(first[name]), 1e-12))
    return largest


# ------------------------------------------------------------------ the same run


def run_with_processes(recipe: Recipe, count: int) -> tuple[sl.Run, sl.Run]:
    """The recipe's run with one process, and with several."""
    one, many = (recipe.with_(run={"output": f"{recipe.run.output}-{name}"}) for name in ("one", "many"))
    with patch("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", norm_in_float64):
        assert in_processes(count, lambda: sl.run(many, listener=Listener()) and None) == [None] * count
        return sl.run(one, listener=Listener()), sl.open_run(many.run.output)


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """All at once: shares of new rows, old rows and their teachers, heads, tests; in float64 only rounding is left."""
    one, two = run_with_processes(float64_recipe(tmp_path / "run", method={"replay_passes": 2.0}), 2)
    assert logged_difference(one.path, two.path) < 1e-6  # of a step, which Adam would hide: its gradients' norm
    assert adapters_difference(one.path, two.path) < 1e-10
    assert two.scores.matrix == one.scores.matrix
    for ours, theirs in zip(one.scores.nll_matrix, two.scores.nll_matrix, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-10)
    assert files(one.path) == files(two.path)


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHODS if method != "seekr"])
def test_every_method_can_be_shared(method: str, tmp_path: Path) -> None:
    recipe = float64_recipe(tmp_path / "run", method={"name": method, "replay_passes": 2.0})
    one, three = run_with_processes(recipe, 3)
    assert adapters_difference(one.path, three.path) < 1e-6  # l2p compares prompts in float32
    assert logged_difference(one.path, three.path) < 1e-3
    assert one.scores.matrix == three.scores.matrix


@pytest.mark.slow
def test_of_the_processes_of_a_launcher_one_speaks(tmp_path: Path) -> None:
    recipe = two_toy_tasks(tmp_path / "run")
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "seekr_lite"]
    command = [*launcher, "run", str(tmp_path / "mine.toml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == sl.open_run(tmp_path / "run").scores.to_json()
    assert done.stderr.count("The run is in") <= 1
    refused = subprocess.run([*command, "--set", "run.seed=77"], capture_output=True, text=True, check=False)
    assert refused.stderr.count("this folder holds a run of another recipe") == 1
    missing = subprocess.run([*launcher, "run", "missing.toml"], capture_output=True, text=True, check=False)
    assert missing.stderr.count("missing.toml: ") == 1


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def steps(folder: Path) -> list[dict[str, Any]]:
    events = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "step"]


@pytest.mark.parametrize("rows", [1, 2, 7, 12])
def test_every_row_has_one_process_and_the_parts_are_alike(rows: int) -> None:
    lengths = [(7 * row) % 11 + 1 for row in range(rows)]
    for last_first in (False, True):
        parts = [Processes(index, 3).share_by_length(range(rows), lengths, last_first) for index in range(3)]
        assert sorted(row for part in parts for row in part) == list(range(rows))
        tokens = [sum(lengths[row] for row in part) for part in parts]
        assert max(tokens) - min(tokens) <= max(lengths)


def test_dropout_differs_by_process_and_a_resumed_run_drops_the_same(tmp_path: Path) -> None:
    recipe = float64_recipe(tmp_path / "whole", adapter={"dropout": 0.2}, run={"checkpoint_steps": 1})
    cut = recipe.with_(run={"output": str(tmp_path / "cut")})
    in_processes(2, lambda: str(sl.run(recipe, listener=Listener()).path))
    in_processes(2, lambda: sl.run(cut, listener=SignalAfter(2)))
    in_processes(2, lambda: str(sl.run(cut, listener=Listener()).path))
    assert adapters_difference(tmp_path / "whole", tmp_path / "cut") == 0


# ------------------------------------------------------------------ one exchange a step


def test_a_step_adds_up_gradients_terms_and_signals() -> None:
    """One process has met a term that the other has not, and a parameter that none has reached has no gradient."""

    def step() -> tuple[Any, ...]:
        processes = Processes.launched(CPU)
        with current_processes.set_to(processes), stop_signals(alone=False) as stop:
            return one_step(processes.index, stop)

    def one_step(index: int, stop: StopRequest) -> tuple[Any, ...]:
        reached, mine, nobody = (Parameter(torch.zeros(2, dtype=torch.bfloat16)) for _ in range(3))
        reached.grad = torch.full((2,), 1.0 + index, dtype=torch.bfloat16)
        if index == 1:
            mine.grad = torch.full((2,), 5.0, dtype=torch.bfloat16)
            stop.receive(signal.SIGTERM)
        terms = TermValues()
        terms.add(LossTerm("both", torch.tensor(1.0 + index)))
        terms.add(LossTerm(f"only {index}", torch.tensor(10.0)))
        terms.norms[f"only {index}"] = torch.tensor(0.5)
        requested = stop.requested
        add_up = StepSum([reached, mine, nobody])
        add_up(terms, with_norms=True)
        gradients = [None if one.grad is None else one.grad.tolist() for one in (reached, mine, nobody)]
        values = {name: float(value) for name, value in terms.values.items()}
        again = TermValues()
        again.add(LossTerm("both", torch.tensor(2.0)))
        add_up(again, with_norms=False)
        later = {name: float(value) for name, value in again.values.items()}
        return gradients, values, set(terms.norms), later, requested, stop.signal

    first, second = in_processes(2, step)
    assert first == second
    assert first == (
        [[3.0, 3.0], [5.0, 5.0], None],
        {"both": 3.0, "only 0": 10.0, "only 1": 10.0},
        {"only 0", "only 1"},
        {"both": 4.0},
        False,
        signal.SIGTERM,
    )


# ------------------------------------------------------------------ errors and ends


def test_what_is_wrong_in_one_process_ends_all_and_is_said_once() -> None:
    def fail() -> None:
        processes = Processes.launched(CPU)
        with processes.together():
            if processes.index == 1:
                raise Stopped("the disk is full")

    found = in_processes(3, fail)
    assert [str(error) for error in found] == ["process 1: the disk is full"] * 3
    assert [error.exit_code for error in found] == [3, 3, 3]


def test_the_main_process_goes_first_and_its_result_reaches_all(tmp_path: Path) -> None:
    def look() -> Any:
        processes = Processes.launched(CPU)
        written = processes.on_main(lambda: (tmp_path / "file").write_text("x" * (1 + processes.index)))
        moved = processes.main_first(lambda: (tmp_path / "file").exists() and (tmp_path / "file").unlink() is None)
        return written, moved, processes.gather({"näme": [processes.index, None]})

    everyone = [{"näme": [0, None]}, {"näme": [1, None]}]
    assert in_processes(2, look) == [(1, True, everyone), (1, False, everyone)]


def test_a_folder_that_is_in_use_is_refused_by_all(tmp_path: Path) -> None:
    recipe = float64_recipe(tmp_path / "run")
    with locked(tmp_path / "run"):
        found = in_processes(2, lambda: sl.run(recipe, listener=Listener()))
    assert [type(error) for error in found] == [UserError, UserError]
    assert "another process works in this folder" in str(found[0])
    assert str(found[0]) == str(found[1])


class SignalAfter(Listener):
    """The process that speaks sends a signal to another one, or to itself, at the n-th step."""

    def __init__(self, steps: int, number: int = signal.SIGTERM, victim: str = "other") -> None:
        self.left = steps
        self.number = number
        self.victim = victim

    def event(self, kind: str, **values: Any) -> None:
        if kind == "step":
            self.left -= 1
            if self.left == 0:
                os.kill(PIDS[0 if self.victim == "main" else 1], self.number)


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path) -> None:
    recipe = float64_recipe(tmp_path / "run")
    stopped = in_processes(2, lambda: sl.run(recipe, listener=SignalAfter(2)))
    assert [type(error) for error in stopped] == [Interrupted, Interrupted]
    assert [error.exit_code for error in stopped] == [3, 3]
    done = len(steps(tmp_path / "run"))
    resumed = sl.run(recipe, listener=Listener())
    whole = sl.run(recipe, output=tmp_path / "whole", listener=Listener())
    assert 2 <= done < len(steps(whole.path))
    assert len(steps(resumed.path)) == len(steps(whole.path)), "no step was done twice"
    assert adapters_difference(whole.path, resumed.path) < 1e-10


@pytest.mark.parametrize("victim", ["main", "other"])
def test_a_killed_process_ends_the_others_in_words_and_the_run_goes_on(victim: str, tmp_path: Path) -> None:
    recipe = float64_recipe(tmp_path / "run", run={"checkpoint_steps": 1})
    found = in_processes(2, lambda: sl.run(recipe, listener=SignalAfter(3, signal.SIGKILL, victim)))
    killed, left = found if victim == "main" else found[::-1]
    assert killed is None
    assert isinstance(left, Stopped)
    assert "another process of this run has ended" in str(left)
    assert "the same command goes on from there, with any number of processes" in str(left)
    in_processes(2, lambda: str(sl.run(recipe, listener=Listener()).path))
    whole = sl.run(recipe, output=tmp_path / "whole", listener=Listener())
    assert adapters_difference(whole.path, tmp_path / "run") < 1e-10


def test_other_commands_do_not_share_their_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(app, ["plan", str(ROOT / "recipes" / "quickstart.toml")])
    assert "only `seekr-lite run` shares its work among processes" in str(result.exception)


# ------------------------------------------------------------------ a grid of runs


@pytest.mark.slow
def test_printed_commands_run_two_at_a_time_fill_the_table_of_compare(tmp_path: Path) -> None:
    grid = [str(ROOT / "recipes" / "quickstart.toml"), "--methods", "sequential,replay", "--seeds", "0,1"]
    for override in ('data.tasks=["shade", "keeper"]', "data.train_limit=32", "data.test_limit=8", "train.epochs=1"):
        grid += ["--set", override]
    tool = shlex.join([sys.executable, "-m", "seekr_lite"])

    def compare(place: str, *more: str) -> str:
        command = f"{tool} compare {shlex.join([*grid, '-o', str(tmp_path / place), *more])}"
        return subprocess.run(command, shell=True, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    lines = compare("many", "--print-commands")
    assert lines.count("\n") == 4
    lines = lines.replace("seekr-lite run", f"{tool} run")
    (tmp_path / "commands").write_text(lines)
    two_at_a_time = "tr '\\n' '\\0' < commands | xargs -0 -n 1 -P 2 sh -c"
    assert two_at_a_time in (ROOT / "docs" / "scaling.md").read_text()
    subprocess.run(two_at_a_time, shell=True, check=True, cwd=tmp_path)
    tables = [json.loads(compare(place, "--json"))["runs"] for place in ("many", "one")]
    for run in (*tables[0], *tables[1]):
        assert run.pop("seconds") > 0
        run.pop("path")
    assert tables[0] == tables[1]
