"""What 1, 2 and 8 cards would make of a recipe: arithmetic on the lengths of its real rows, nothing that was run.

    python benchmarks/cards.py RECIPE [--set KEY=VALUE] [--cards 1 2 8] [--gigabytes-per-second 10] [--json]

Every optimizer step of the first epoch of each task is planned and shared as a run would do it. A step takes as long as
the card with most to do (tokens at the speeds of `seekr-lite plan`, new and replayed ones), and then an exchange of the
LoRA gradients: 2 (n - 1) / n of their bytes pass every card's slowest link (a ring). Tests are shared by whole batches,
a round of which takes as long as its slowest. Left out are scoring of heads, loading, and what a card loses by smaller
micro-batches; taken for granted is that cards are alike.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import add_overrides, benchmark_parser, publish, recipe_of
from seekr_lite.common.processes import Processes
from seekr_lite.data.batch import split_by_tokens
from seekr_lite.evaluation.scoreboard import planned_evaluations
from seekr_lite.methods.registry import method_class
from seekr_lite.methods.replay_memory import kept_rows
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan.costs import Speed
from seekr_lite.tools.plan.plan import make_plan
from seekr_lite.tools.plan.workload import TaskRows, read_workload
from seekr_lite.training.replay_schedule import plan_epoch


def parts(items: Sequence[int], cards: int, last_first: bool = False) -> list[int]:
    """Of items of these lengths, the sum of each card's share."""
    return [sum(Processes(card, cards).share_by_length(items, items, last_first)) for card in range(cards)]


def step_seconds(new: Sequence[int], replayed: Sequence[int], cards: int, speed: Speed) -> float:
    """Of the card that has most to do, in a step over rows of these lengths."""
    shares = zip(parts(new, cards), parts(replayed, cards, last_first=True), strict=True)
    return max(first / speed.tokens_per_second + old / speed.replayed_per_second for first, old in shares)


def training(recipe: Recipe, tasks: Sequence[TaskRows], cards: int, speed: Speed, exchange: float) -> tuple[float, int]:
    """Seconds of all steps, and how many these are."""
    settings, replays = recipe.method, method_class(recipe.method.name).replays
    seconds, count = 0.0, 0
    old: list[int] = []
    for index, task in enumerate(tasks):
        rows, generator = [row.tokens for row in task.train], random.Random(index)
        own = settings.replay_step == "own"
        steps = plan_epoch(len(rows), recipe.train.batch_size, len(old), settings.replay_passes, own, generator)
        epochs = recipe.epochs_of(index)
        for step in steps:
            new, replayed = [rows[one] for one in step.new], [old[one] for one in step.replay]
            seconds += epochs * (step_seconds(new, replayed, cards, speed) + exchange)
        count += epochs * len(steps)
        if replays:
            old += generator.sample(rows, kept_rows(len(rows), settings.replay_fraction))
    return seconds, count


def testing(recipe: Recipe, tasks: Sequence[TaskRows], cards: int, speed: Speed) -> float:
    """Seconds of all evaluations: rounds of one batch a card. Answers are as long as a task's are on average."""
    seconds, limits = 0.0, recipe.evaluate
    for _, index in planned_evaluations(len(tasks), limits.rounds, joint=False):
        task = tasks[index]
        answer = sum(row.answer for row in task.train) / len(task.train)
        room = recipe.data.max_answer_tokens
        batches = split_by_tokens([tokens + room for tokens in task.test], limits.batch_tokens)
        times = [
            sum(task.test[row] for row in batch) / speed.read_per_second
            + len(batch) * answer / speed.written_per_second
            for batch in batches
        ]
        seconds += sum(max(times[first : first + cards]) for first in range(0, len(times), cards))
    return seconds


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("recipe", type=Path)
    add_overrides(parser)
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--tokens-per-second", type=float, help="of training on one card; by default that of `plan`")
    parser.add_argument("--gigabytes-per-second", type=float, default=10.0, help="of the slowest link between cards")
    options = parser.parse_args()
    recipe = recipe_of(options)
    plan, tasks = make_plan(recipe, options.tokens_per_second), read_workload(recipe).tasks
    if plan.speed is None or not tasks:
        raise SystemExit("give the recipe's data (--set data.path=...), and --tokens-per-second for a small base")
    gradients = plan.training_state.student
    found = []
    for cards in options.cards:
        exchange = 2 * (cards - 1) / cards * gradients / (1e9 * options.gigabytes_per_second)
        seconds, steps = training(recipe, tasks, cards, plan.speed, exchange)
        found.append(
            {
                "cards": cards,
                "training_hours": seconds / 3600,
                "testing_hours": testing(recipe, tasks, cards, plan.speed) / 3600,
                "seconds_a_step": seconds / steps,
                "exchange_seconds_a_step": exchange,
            }
        )
    result = {
        "gradient_bytes": gradients,
        "steps": steps,
        "cards": found,
        "counted": plan.counted,
        "speed": plan.speed.source,
        "gigabytes_per_second": options.gigabytes_per_second,
    }
    publish(options, result)


if __name__ == "__main__":
    main()
