"""What a long sequence of tasks costs: a replay step and the disk, from 1 to 50 tasks, on the built-in base.

    python benchmarks/scaling.py [--tasks 1 2 5 10 20 50] [--json] [--output FILE]

One sequence of toy tasks is learned with SEEKR; learners that have finished 1, 2, 5 ... of them are then restored from
it, and the same old row (the first task's) is replayed in each: teacher pass, all loss terms, backward. Steps are timed
in turns; reported are medians. Operations are counted by name and shape of their result. Device bytes are those of
everything that lives with the model; disk is all files of the run. `growth = "continue"` promises that a step stays as
it is; `"stack"` carries all earlier adapters and does not.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import benchmark_parser, publish
from seekr_lite.attention.tap import tap
from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import encode_task_rows
from seekr_lite.data.task import Task
from seekr_lite.data.toy import TOY_TASKS, toy_task
from seekr_lite.methods.method import ReplayBatch, StepTotals
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.folder import RunFolder
from seekr_lite.training.learner import Learned, Learner

TRAIN_ROWS = 8


class CountOperations(TorchDispatchMode):
    """Counts every operation by its name and the shapes of its result."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else [result]
        shapes = [tuple(one.shape) for one in results if isinstance(one, torch.Tensor)]
        self.operations[f"{func} {shapes}"] += 1
        return result


@dataclass(frozen=True)
class LearnedTasks:
    """A learned sequence: its tasks, what each left behind, and the bytes of the run folder after each."""

    tasks: list[Task]
    learned: list[Learned]
    disk_bytes: list[int]


def recipe_of(growth: str) -> Recipe:
    return Recipe.from_dict(
        {
            "base": {"model": "tiny", "device": "cpu"},
            "adapter": {"growth": growth},
            "data": {"format": "python", "max_prompt_tokens": 64, "max_answer_tokens": 8, "validation_rows": 0},
            "train": {"epochs": 1, "learning_rate": 2e-3, "batch_size": TRAIN_ROWS, "checkpointing": False},
            # A step is as that of `seekr`; but old rows come once an epoch, so that 50 tasks are learned in minutes.
            "method": {"name": "seekr-paper"},
        }
    )


def learn(recipe: Recipe, count: int) -> LearnedTasks:
    """Learns so many tasks in a run folder that is thrown away."""
    tasks = [
        replace(toy_task(TOY_TASKS[index % len(TOY_TASKS)], TRAIN_ROWS, 1, seed=index), name=f"task-{index:02d}")
        for index in range(count)
    ]
    learner, learned, sizes = Learner(recipe), [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder.create(Path(temporary) / "run", recipe)
        for index, task in enumerate(tasks):
            learned.append(learner.learn(task))
            config = learner.adapters.config_of(learned[-1].snapshot)
            name = folder.stage_name(index, [task], joint=False)
            folder.save_stage(name, [task], learned[-1], config, "", learner.method.state_folder)
            sizes.append(sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file()))
    return LearnedTasks(tasks, learned, sizes)


class ReplayStep:
    """A learner after so many tasks, at the start of the next; called, it replays a row of its first task."""

    def __init__(self, recipe: Recipe, sequence: LearnedTasks, count: int) -> None:
        self.learner = Learner(recipe)
        for task, learned in zip(sequence.tasks[:count], sequence.learned, strict=False):
            self.learner.restore([task], learned)
        self.learner.adapters.start_task()
        tokenizer = self.learner.base.tokenizer
        (row,) = encode_task_rows(tokenizer, sequence.learned[0].samples[:1], recipe.data)
        self.batch = ReplayBatch(collate([row], tokenizer.pad_token_id), [ReplayRow(0, 0, row)])
        self.totals = StepTotals(row.answer_length, 1, frozenset({0}))
        self()  # the first step makes the slot

    def __call__(self) -> None:
        with tap(self.learner.base.model):
            terms = self.learner.method.replay_loss(self.batch, self.totals)
            loss = torch.stack([term.weight * term.value for term in terms]).sum()
            loss.backward()
        for parameter in self.learner.adapters.trainable_parameters():
            parameter.grad = None

    def operations(self) -> Counter[str]:
        counted = CountOperations()
        with counted:
            self()
        return counted.operations

    def device_bytes(self) -> int:
        model = self.learner.adapters.model
        return sum(tensor.untyped_storage().nbytes() for tensor in [*model.parameters(), *model.buffers()])


def measure(growth: str, counts: Sequence[int], repeats: int) -> dict[str, Any]:
    """Operations, bytes, seconds and disk after each of `counts` tasks (ascending)."""
    recipe = recipe_of(growth)
    sequence = learn(recipe, max(counts))
    steps = {count: ReplayStep(recipe, sequence, count) for count in counts}
    operations = {count: step.operations() for count, step in steps.items()}
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    order, shuffle = list(counts), random.Random(0)
    for _ in range(repeats):
        shuffle.shuffle(order)  # no step always comes after the same one
        for count in order:
            started = time.perf_counter()
            steps[count]()
            seconds[count].append(time.perf_counter() - started)
    first = counts[0]
    by_task = [after - before for before, after in zip(sequence.disk_bytes, sequence.disk_bytes[1:], strict=False)]
    return {
        "after": [
            {
                "tasks": count,
                "operations": operations[count].total(),
                "same_operations": operations[count] == operations[first],
                "device_bytes": steps[count].device_bytes(),
                "median_step_seconds": median(seconds[count]),
                "step_time_ratio": median(seconds[count]) / median(seconds[first]),
                "disk_bytes": sequence.disk_bytes[count - 1],
            }
            for count in counts
        ],
        "smallest_disk_bytes_of_a_task": min(by_task, default=None),
        "largest_disk_bytes_of_a_task": max(by_task, default=None),
    }


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--repeats", type=int, default=60, help="timed steps of each")
    parser.add_argument("--quick", action="store_true", help="1, 2 and 4 tasks, few steps: to see that it runs")
    options = parser.parse_args()
    counts, repeats = ([1, 2, 4], 3) if options.quick else (sorted(options.tasks), options.repeats)
    growth = {growth: measure(growth, counts, repeats) for growth in ("continue", "stack")}
    publish(options, {"growth": growth, "repeats": repeats})


if __name__ == "__main__":
    main()
