"""What checkpoints inside a task cost: seconds of one, and their share of a run at the recipe's interval.

    python benchmarks/checkpoint_cost.py RECIPE [--set KEY=VALUE] [--repeats 2] [--json] [--output FILE]

The recipe's first task is learned without checkpoints and with one after every step, in turn. A checkpoint's seconds
are taken twice: by the clock around it (the state copied, written, synced), and as what the whole of the steps takes
longer, by the step (below zero where noise is larger). Their share is those seconds over `run.checkpoint_minutes`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import add_overrides, benchmark_parser, in_turns, publish, recipe_of
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.checkpoint_file import CheckpointFile
from seekr_lite.runs.tasks import gather_tasks
from seekr_lite.training.learner import Learner
from seekr_lite.training.training_state import Checkpoints, TrainingState


class TimedCheckpoints(CheckpointFile):
    """One after every step, with the seconds from where it is due to where it is safe."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, steps=1, minutes=None)
        self.seconds: list[float] = []
        self._due = 0.0

    def due(self, steps: int) -> bool:
        self._due = time.perf_counter()
        return super().due(steps)

    def load(self, stage: int) -> None:
        """Every repeat begins anew."""

    def save(self, state: TrainingState) -> None:
        super().save(state)
        self.seconds.append(time.perf_counter() - self._due)


def learn_once(recipe: Recipe, checkpoints: Checkpoints) -> tuple[int, float]:
    """Steps, and seconds of the first task, by a learner of its own."""
    task = gather_tasks(recipe, None, ())[0]
    learner = Learner(recipe)
    started = time.perf_counter()
    learned = learner.learn(task, checkpoints=checkpoints)
    return learned.steps, time.perf_counter() - started


def measure(recipe: Recipe, repeats: int) -> dict[str, Any]:
    if recipe.run.checkpoint_minutes is None:
        raise SystemExit("the recipe makes no checkpoints by time; set run.checkpoint_minutes")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        timed = TimedCheckpoints(path)
        ways = {"without": partial(learn_once, recipe, Checkpoints()), "with": partial(learn_once, recipe, timed)}
        found = in_turns(ways, repeats)
        size = path.stat().st_size
    steps = found["with"][0][0]
    plain, checked = (median(seconds for _, seconds in found[way]) for way in ("without", "with"))
    each, by_the_whole, interval = median(timed.seconds), (checked - plain) / steps, 60 * recipe.run.checkpoint_minutes
    return {
        "steps": steps,
        "checkpoint_bytes": size,
        "step_seconds": plain / steps,
        "checkpoint_seconds": each,
        "checkpoint_seconds_by_the_whole": by_the_whole,
        "interval_seconds": interval,
        "share": each / interval,
        "share_by_the_whole": by_the_whole / interval,
    }


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("recipe", type=Path)
    add_overrides(parser)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    publish(options, measure(recipe_of(options), options.repeats))


if __name__ == "__main__":
    main()
