"""One recipe with 1, 2 and 3 processes on a CPU: the same gradients, adapters and scores; and a process that is killed.

    python benchmarks/processes.py [RECIPE] [--processes 1 2 3] [--methods ...] [--json] [--output FILE]
    python benchmarks/processes.py --against ../another-checkout     # step times of one process, in turns

Each method is run with each number of processes, as the recipe is and in float64 without quantisation. Compared with
the first number are the gradients of the first step of every task (the largest difference over the largest gradient),
the weights of all adapters, and the scoreboard. *Killed*: of two processes one is sent SIGKILL in the middle of the
second task, the main one or the other; reported are how long the rest lives, what it says, and what the resumed runs
learned.

In float64 everything is: transformers' RMSNorm as well, which else computes in float32. Training amplifies whatever
rounds differently: a relative change of 1e-14 in the first weights (`nudged`, one process) tells by how much.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, ClassVar
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import QUICKSTART, ROOT, benchmark_parser, in_turns, publish
from seekr_lite.common.files import read_tensors, write_tensors
from seekr_lite.common.processes import is_main_process
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.lock import LOCK_FILE
from seekr_lite.training.step_gradients import StepGradients, TermValues

METHODS = ("sequential", "replay", "derpp", "seekr")
ARITHMETICS: dict[str, dict[str, dict[str, Any]]] = {
    "recipe": {},
    "float64": {"base": {"quantization": "none", "dtype": "float64"}, "adapter": {"dtype": "float64"}},
}
QUICK: dict[str, dict[str, Any]] = {
    "data": {"tasks": ("shade", "keeper"), "train_limit": 32, "test_limit": 12, "validation_rows": 4},
    "train": {"epochs": 1},
    "method": {"replay_passes": 2.0},
}
NUDGE = 1e-14


# ------------------------------------------------------------------ inside of the processes of a run


class RecordedGradients(StepGradients):
    """Keeps the gradients of the first step of each stage."""

    kept: ClassVar[list[dict[str, torch.Tensor]]] = []
    first = True

    def __call__(self, *arguments: Any, **options: Any) -> TermValues:
        terms = super().__call__(*arguments, **options)
        if self.first:
            found = {name: one.grad for name, one in self.adapters.student.items()}
            self.kept.append({name: gradient.clone() for name, gradient in found.items() if gradient is not None})
        self.first = False
        return terms


def work(recipe: Recipe, folder: Path, nudged: bool) -> None:
    """What a process does: its part of a run, with the gradients of first steps kept."""
    from seekr_lite.api import run
    from seekr_lite.common.progress import Listener

    RecordedGradients.kept.clear()
    with ExitStack() as changed:
        changed.enter_context(patch("seekr_lite.training.learner.StepGradients", RecordedGradients))
        if recipe.base.dtype == "float64":
            changed.enter_context(patch("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", norm))
        if nudged:
            changed.enter_context(patch("seekr_lite.model.lora.AdapterSequence._initialise_student", nudge))
        run(recipe, output=folder, listener=Listener())
    if is_main_process():
        gradients = {
            f"{stage} {name}": one for stage, kept in enumerate(RecordedGradients.kept) for name, one in kept.items()
        }
        write_tensors(gradients_file(folder), gradients)


def gradients_file(folder: Path) -> Path:
    """Written when a run has ended, beside its folder."""
    return folder.with_name(f"{folder.name}-first-step-gradients.safetensors")


def norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Llama's RMSNorm in the precision of its input."""
    scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.variance_epsilon)
    result: torch.Tensor = self.weight * scaled
    return result


INITIALISE = AdapterSequence._initialise_student


@torch.no_grad()
def nudge(self: AdapterSequence, index: int) -> None:
    """Initialises a student a little differently."""
    INITIALISE(self, index)
    for parameter in self.trainable_parameters():
        parameter.mul_(1 + NUDGE)


# ------------------------------------------------------------------ runs, from outside


class Runs:
    """Starts runs of one recipe in a folder, each with some number of processes."""

    def __init__(self, recipe: Recipe, place: Path) -> None:
        self.recipe = recipe
        self.place = place
        place.mkdir(parents=True, exist_ok=True)

    def folder(self, name: str) -> Path:
        return self.place / name

    def start(
        self, name: str, processes: int, method: str, arithmetic: str, nudged: bool = False, **sections: Any
    ) -> subprocess.Popen[str]:
        recipe = self.recipe.with_(**ARITHMETICS[arithmetic]).with_(method={"name": method}).with_(**sections)
        path = self.place / f"{name}.toml"
        path.write_text(recipe.to_toml(), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
        command = [sys.executable, *launcher, str(Path(__file__)), str(path), "--worker", str(self.folder(name))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        more = ["--nudged"] if nudged else []
        return subprocess.Popen([*command, *more], env=environment, stderr=subprocess.PIPE, text=True)

    def finish(self, name: str, processes: int, method: str, arithmetic: str, **options: Any) -> Path:
        if gradients_file(self.folder(name)).exists():  # it was finished before
            return self.folder(name)
        process = self.start(name, processes, method, arithmetic, **options)
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(said)
        return self.folder(name)


def adapters_difference(one: Path, two: Path) -> float:
    """The largest difference of two weights, over all adapters of two runs."""
    paths = sorted(path.relative_to(one) for path in one.glob("adapters/*/*.safetensors"))
    return max(largest_difference(read_tensors(one / path), read_tensors(two / path)) for path in paths)


def largest_difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((tensor.double() - two[name].double()).abs().max()) for name, tensor in one.items())


def first_step_differences(one: Path, two: Path) -> list[float]:
    """By task: the largest difference of two gradients of the first step, over the largest gradient."""
    ours, theirs = (read_tensors(gradients_file(path)) for path in (one, two))
    found = []
    for stage in sorted({name.partition(" ")[0] for name in ours}, key=int):
        first = {name: tensor for name, tensor in ours.items() if name.startswith(f"{stage} ")}
        second = {name: tensor for name, tensor in theirs.items() if name.startswith(f"{stage} ")}
        found.append(largest_difference(first, second) / max(float(one.abs().max()) for one in first.values()))
    return found


def compared(one: Path, two: Path) -> dict[str, Any]:
    scores, others = (RunFolder.open(path).load_scores() for path in (one, two))
    pairs = zip(chain(*scores["nll_matrix"]), chain(*others["nll_matrix"]), strict=True)
    return {
        "first_step_gradients": first_step_differences(one, two),
        "adapters": adapters_difference(one, two),
        "same_scores": scores["matrix"] == others["matrix"],
        "nll": max((abs(a - b) for a, b in pairs if a is not None), default=0.0),
    }


def compare_counts(runs: Runs, counts: Sequence[int], methods: Sequence[str]) -> dict[str, Any]:
    """By arithmetic, method and number of processes: how far the run is from the one with the first number."""
    found: dict[str, Any] = {}
    for arithmetic in ARITHMETICS:
        for method in methods:
            made = [runs.finish(f"{arithmetic}-{method}-{count}", count, method, arithmetic) for count in counts]
            by_count = {str(n): compared(made[0], path) for n, path in zip(counts[1:], made[1:], strict=True)}
            found.setdefault(arithmetic, {})[method] = by_count
        if arithmetic == "float64":
            first = runs.folder(f"{arithmetic}-{methods[-1]}-{counts[0]}")
            nudged = runs.finish("nudged", counts[0], methods[-1], arithmetic, nudged=True)
            found["nudged"] = {"method": methods[-1], "by": NUDGE, **compared(first, nudged)}
    return found


def kill(runs: Runs, whole: Path, victim: str) -> dict[str, Any]:
    """Kills one of two processes inside the second task, the main one or the other, and resumes with 1 and with 2."""
    sections: Any = {"run": {"checkpoint_steps": 2}}
    name = f"killed-{victim}"
    folder = runs.folder(name)
    for left in runs.place.glob(f"{name}*"):  # of an earlier time
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    launcher = runs.start(name, 2, "seekr", "float64", **sections)
    log, deadline = folder / "log.jsonl", time.monotonic() + 600
    while not (log.is_file() and '"stage": 1, "step": 2' in log.read_text()):
        if launcher.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the run has ended before a process of it could be killed")
        time.sleep(0.01)
    main = json.loads((folder / LOCK_FILE).read_text())["process"]
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    other = next(int(child) for child in children if int(child) != main)
    os.kill(main if victim == "main" else other, signal.SIGKILL)
    killed = time.monotonic()
    _, said = launcher.communicate()
    seconds = time.monotonic() - killed
    message = next((line for line in said.splitlines() if line.startswith("error: ")), said)
    found: dict[str, Any] = {"seconds_to_end": seconds, "exit_code": launcher.returncode, "message": message}
    for count in (1, 2):
        copy = shutil.copytree(folder, runs.folder(f"{name}-{count}"))
        resumed = runs.finish(copy.name, count, "seekr", "float64", **sections)
        scores, others = (RunFolder.open(path).load_scores()["matrix"] for path in (whole, resumed))
        found[f"resumed_with_{count}"] = {
            "adapters": adapters_difference(whole, resumed),
            "same_scores": scores == others,
        }
    return found


def step_times(other: Path, repeats: int) -> dict[str, Any]:
    """Median seconds of a step of one process, in this checkout and in another one, in turns."""

    def seconds_of_a_step(checkout: Path) -> float:
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "seekr_lite", "run", str(QUICKSTART), "-q", "-o", f"{place}/run"]
            command += ["--set", 'data.tasks=["shade", "keeper"]']
            environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
            subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
            stages = RunFolder.open(f"{place}/run").record.stages
        return sum(one.seconds for one in stages) / sum(one.steps for one in stages)

    ways = {"other": partial(seconds_of_a_step, other), "this": partial(seconds_of_a_step, ROOT)}
    medians = {f"{name}_seconds": median(found) for name, found in in_turns(ways, repeats).items()}
    return {**medians, "ratio": medians["this_seconds"] / medians["other_seconds"], "repeats": repeats}


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("recipe", type=Path, nargs="?", default=QUICKSTART)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--quick", action="store_true", help="two short tasks")
    parser.add_argument(
        "--place", type=Path, help="keep the runs in this folder; what is finished there is not repeated"
    )
    parser.add_argument("--against", type=Path, help="compare step times with another checkout instead")
    parser.add_argument("--repeats", type=int, default=5, help="of --against")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nudged", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    recipe = Recipe.from_toml(options.recipe)
    if options.worker:
        work_as_command(recipe, options.worker, options.nudged)
    elif options.against:
        publish(options, {"step": step_times(options.against, options.repeats)})
    else:
        with tempfile.TemporaryDirectory() as temporary:
            runs = Runs(recipe.with_(**QUICK) if options.quick else recipe, options.place or Path(temporary))
            result = compare_counts(runs, options.processes, options.methods)
            whole = runs.finish("float64-seekr-1", 1, "seekr", "float64")
            result["killed"] = {victim: kill(runs, whole, victim) for victim in ("main", "other")}
        publish(options, result)


def work_as_command(recipe: Recipe, folder: Path, nudged: bool) -> None:
    """`work`, with the errors of the command line."""
    from seekr_lite.cli.app import start

    with patch("seekr_lite.cli.app.app", lambda: work(recipe, folder, nudged)):
        start()


if __name__ == "__main__":
    main()
