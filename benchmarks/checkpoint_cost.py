"""What checkpoints inside a task cost: seconds of one, and their share of a run at the recipe's interval.

    python benchmarks/checkpoint_cost.py RECIPE [--set KEY=VALUE] [--repeats 2] [--json] [--output FILE]

The recipe's first task is learned without checkpoints and with one after every step, in turn. A checkpoint's seconds
are taken twice: by the clock around it (the state copied, written, synced), and as what the whole of the steps takes
longer, by the step. Their share is those seconds over `run.checkpoint_minutes`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.method_cost import device_name
from seekr_lite.cli.app import quiet_libraries
from seekr_lite.common.files import write_json
from seekr_lite.common.packages import versions
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.checkpoint_file import CheckpointFile
from seekr_lite.training.training_state import Checkpoints, TrainingState


@dataclass(frozen=True)
class Cost:
    """Medians. whole: seconds of a checkpoint by what the steps take longer; below zero where noise is larger."""

    steps: int
    checkpoint_bytes: int
    step_seconds: float
    checkpoint_seconds: float
    checkpoint_seconds_by_the_whole: float
    interval_seconds: float
    share: float
    share_by_the_whole: float


class TimedCheckpoints(CheckpointFile):
    """One after every step, with the seconds from where it is due to where it is safe."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, steps=1, minutes=None, say=print)
        self.seconds: list[float] = []
        self._due = 0.0

    def due(self, steps: int) -> bool:
        self._due = time.perf_counter()
        return super().due(steps)

    def save(self, state: TrainingState) -> None:
        super().save(state)
        self.seconds.append(time.perf_counter() - self._due)


def learn_once(recipe: Recipe, checkpoints: Checkpoints) -> tuple[int, float]:
    """Steps, and seconds of the first task, by a learner of its own."""
    from seekr_lite.runs.tasks import gather_tasks
    from seekr_lite.training.learner import Learner

    task = gather_tasks(recipe, None, ())[0]
    learner = Learner(recipe)
    started = time.perf_counter()
    learned = learner.learn(task, checkpoints=checkpoints)
    return learned.steps, time.perf_counter() - started


def measure(recipe: Recipe, repeats: int) -> Cost:
    if recipe.run.checkpoint_minutes is None:
        raise SystemExit("the recipe makes no checkpoints by time; set run.checkpoint_minutes")
    plain: list[float] = []
    with_checkpoints: list[float] = []
    each: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for checked in (False, True) if repeat % 2 == 0 else (True, False):
                timed = TimedCheckpoints(Path(folder) / f"{repeat}.safetensors")
                steps, seconds = learn_once(recipe, timed if checked else Checkpoints())
                (with_checkpoints if checked else plain).append(seconds)
                each += timed.seconds
                print(f"{steps} steps {'with' if checked else 'without'} checkpoints: {seconds:.1f} s", file=sys.stderr)
        size = (Path(folder) / "0.safetensors").stat().st_size
    interval, by_the_whole = 60 * recipe.run.checkpoint_minutes, (median(with_checkpoints) - median(plain)) / steps
    return Cost(
        steps=steps,
        checkpoint_bytes=size,
        step_seconds=median(plain) / steps,
        checkpoint_seconds=median(each),
        checkpoint_seconds_by_the_whole=by_the_whole,
        interval_seconds=interval,
        share=median(each) / interval,
        share_by_the_whole=by_the_whole / interval,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    options = parser.parse_args()
    quiet_libraries()
    cost = measure(Recipe.from_toml(options.recipe, options.overrides), options.repeats)
    result = {
        "command": " ".join(["python", "benchmarks/checkpoint_cost.py", *sys.argv[1:]]),
        "device": device_name(),
        "versions": versions(),
        **asdict(cost),
    }
    if options.output:
        write_json(options.output, result)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{cost.checkpoint_bytes / 2**20:.1f} MiB in {cost.checkpoint_seconds:.3f} s (by the whole: "
        f"{cost.checkpoint_seconds_by_the_whole:.3f} s), every {cost.interval_seconds:.0f} s: {100 * cost.share:.2f}%"
    )


if __name__ == "__main__":
    main()
