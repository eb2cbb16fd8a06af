"""The only training loop: learn one task.

The learner holds the base, the sequence of adapters, the method and the memory. It knows no files: `runs/runner.py`
keeps what it makes. Every random choice depends on the seed and the index of the task (`seeds.py`), so a sequence that
is continued equals one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from seekr_lite.attention.tap import tap
from seekr_lite.common.errors import UserError
from seekr_lite.common.memory import REVIEW, TRAINING, PhaseCost, phase_cost
from seekr_lite.common.processes import current_processes
from seekr_lite.common.progress import Listener, current_listener
from seekr_lite.common.seeds import generator_for
from seekr_lite.common.stopping import current_stop
from seekr_lite.data.encoding import EncodedExample, encode_task_rows
from seekr_lite.data.task import Example, Task
from seekr_lite.evaluation.evaluate import PredictionDraft, TaskResult, check_metrics, evaluate_task
from seekr_lite.evaluation.scoreboard import Scoreboard, planned_evaluations, scoreboard
from seekr_lite.methods.method import Method, TaskState
from seekr_lite.methods.registry import method_class
from seekr_lite.methods.replay_memory import ReplayRow, choose_samples
from seekr_lite.model.base import Base, checkpoint_activations, load_base
from seekr_lite.model.snapshots import Snapshot
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.training.guard import Guard
from seekr_lite.training.micro_batches import MicroBatches
from seekr_lite.training.optimizers import learning_rate_factor, make_optimizer
from seekr_lite.training.replay_schedule import plan_epoch, steps_per_epoch
from seekr_lite.training.step_gradients import StepGradients
from seekr_lite.training.step_log import StepPlace, StepRows, log_step
from seekr_lite.training.training_state import Checkpoints, Training

GRADIENT_NORMS_EVERY = 50  # steps; each time costs one more backward pass of a micro-batch per loss term


@dataclass(frozen=True)
class Learned:
    """What a stage left behind: its adapter, the samples kept of it, the method's own state; and what it took."""

    snapshot: Snapshot
    samples: tuple[Example, ...]
    state: TaskState | None
    steps: int
    seconds: float
    costs: tuple[PhaseCost, ...] = ()


class Learner:
    """Learns tasks one after the other.

    Args:
        recipe: what to do; `Recipe.with_` makes changed copies.
        base: a freshly loaded base, which the learner fits with its adapters; by default the recipe's is loaded.
        listener: called with progress and events; by default the current one.

    Of several processes that make a run (`current_processes`) each has such a learner, and calls it in the same order.

    Raises:
        UserError: the base cannot be loaded, or the recipe asks for more than it has.
    """

    def __init__(self, recipe: Recipe, base: Base | None = None, listener: Listener | None = None) -> None:
        self.recipe = recipe
        self.listener = listener
        self.base = base or load_base(recipe.base)
        method = method_class(recipe.method.name)
        self.adapters = method.make_adapters(self.base, recipe)
        self.method: Method = method(recipe.method, self.adapters, recipe.run.seed)
        self.micro_batches = MicroBatches(
            recipe.train.micro_batch_tokens, self.base.device.type, method.extra_tokens(recipe)
        )
        self.tasks: list[Task] = []
        self.memory: list[tuple[Example, ...]] = []  # by task
        self._routed_results: dict[int, tuple[Task, int | None, TaskResult]] = {}  # the last one of each task
        if recipe.train.checkpointing:
            checkpoint_activations(self.base.model)

    # ------------------------------------------------------------------ learning

    def learn(self, *tasks: Task, checkpoints: Checkpoints | None = None) -> Learned:
        """Learns the next task (a joint method: all tasks that it is given, at once).

        Args:
            checkpoints: keeps the state inside the task, and offers the one of a run that was stopped.

        Raises:
            UserError: there is nothing to learn from, not even one row fits into memory, or a joint method has learned
                before.
            Stopped: too many steps in a row whose loss or gradient is not finite.
            Interrupted: a stop was asked for.
        """
        if self.method.joint and self.adapters.snapshots:
            raise UserError(
                f'the method "{self.method.name}" learns all tasks at once, and this learner has learned already; give '
                "all of them to one learn() of a new Learner"
            )
        if len(tasks) != 1 and not self.method.joint:
            raise UserError(f'the method "{self.method.name}" learns one task at a time; call learn() for each')
        check_metrics(list(tasks))
        for task in tasks:
            if not task.train:
                raise UserError(f"task {task.name}: there are no rows to learn from")
        with current_listener.set_to(self.listener):
            return self._learn(tasks, checkpoints or Checkpoints())

    def _learn(self, tasks: Sequence[Task], checkpoints: Checkpoints) -> Learned:
        stage = len(self.adapters.snapshots)
        with phase_cost(TRAINING, self.base.device) as training:
            self.adapters.start_task(self.method.starts_from_previous)
            self.method.prepare_task(stage)
            with tap(self.base.model) if self.method.looks_into_attention else nullcontext():
                trained = self._train(stage, tasks, checkpoints)
        training.seconds += trained.seconds_before
        with phase_cost(REVIEW, self.base.device) as review:
            snapshot = self.adapters.finish_task()
            samples = self._review(stage, tasks)
        self.tasks.extend(tasks)
        self.memory.append(samples)
        seconds, costs = training.seconds + review.seconds, (training, review)
        return Learned(snapshot, samples, self.method.task_state(stage), trained.steps, seconds, costs)

    def _review(self, stage: int, tasks: Sequence[Task]) -> tuple[Example, ...]:
        """What a method does with a task that has been learned; returns the samples that are kept of it."""
        if self.method.reviews_rows:
            self.method.review_task(stage, self.encode([row for task in tasks for row in task.train]))
        samples = self._choose_memory(stage, tasks)
        if encoded := self.encode(samples):
            self.method.finish_task(stage, encoded)
        return samples

    def restore(self, tasks: Sequence[Task], learned: Learned) -> None:
        """Takes up a finished stage from a run folder, as if it had been learned here."""
        stage = len(self.adapters.snapshots)
        self.adapters.snapshots.append(learned.snapshot)
        if learned.state is not None:
            self.method.load_task_state(stage, learned.state)
        self.tasks.extend(tasks)
        self.memory.append(learned.samples)

    def _train(self, stage: int, tasks: Sequence[Task], checkpoints: Checkpoints) -> Training:
        """Trains the student on the rows of tasks, and on old ones; returns where it ended."""
        settings, replay, stop = self.recipe.train, self.recipe.method, current_stop()
        rows = self.encode([row for task in tasks for row in task.train])
        old = self.replay_rows() if self.method.replays and replay.replay_weight else []
        plan = len(rows), settings.batch_size, len(old), replay.replay_passes, replay.replay_step == "own"
        epochs = self._epochs(tasks)
        total = epochs * steps_per_epoch(*plan)
        gradients = StepGradients(self.method, self.adapters, self.micro_batches, replay.replay_weight)
        student, guard = list(self.adapters.student.values()), Guard(settings, total)
        training = self._begin(stage, total, guard, checkpoints)
        title = f"learning {tasks[0].name if len(tasks) == 1 else 'all tasks'}"
        self.adapters.model.train()
        with training.random_numbers(self.base.device), current_listener().phase(title, total) as advance:
            training.resume()
            advance(training.steps)
            while training.epoch < epochs:
                for step in plan_epoch(*plan, training.order)[training.done :]:
                    training.begin_step()
                    terms = gradients(step, rows, old, with_norms=training.steps % GRADIENT_NORMS_EVERY == 0)
                    norm = torch.nn.utils.clip_grad_norm_(student, settings.clip_norm)
                    # The one wait for the device in a step: whether it may change the student depends on its numbers.
                    numbers = terms.numbers(norm)
                    place = StepPlace(stage, training.steps + 1, training.epoch)
                    if guard.admits(numbers):
                        log_step(place, training.learning_rate, numbers)
                    else:
                        training.leave_out(place, tasks[0].name, numbers, StepRows.of(step, tasks, self.tasks, old))
                    training.step()
                    advance(1)
                    if stop.requested:
                        training.checkpoint()
                        stop.check()
                    training.checkpoint_if_due()
                training.end_epoch()
        current_processes().copy_from_main(student)
        self.adapters.model.eval()
        return training

    def _begin(self, stage: int, total: int, guard: Guard, checkpoints: Checkpoints) -> Training:
        """A stage of `total` steps before its first one: the optimizer starts afresh."""
        settings, student = self.recipe.train, self.adapters.student
        rate = settings.learning_rate * self.method.learning_rate_factor
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            make_optimizer(list(student.values()), settings, rate),
            lambda step: learning_rate_factor(step, total, settings.warmup, settings.schedule),
        )
        return Training(self.recipe.run.seed, stage, student, scheduler, guard, self.micro_batches, checkpoints)

    def _epochs(self, tasks: Sequence[Task]) -> int:
        """Epochs of the task; of a joint stage the mean over its rows, rounded up: as many steps as the sequence."""
        first = len(self.tasks)
        visits = sum(len(task.train) * self.recipe.epochs_of(first + index) for index, task in enumerate(tasks))
        return math.ceil(visits / sum(len(task.train) for task in tasks))

    def _choose_memory(self, stage: int, tasks: Sequence[Task]) -> tuple[Example, ...]:
        if not (self.method.replays or self.method.keeps_samples):
            return ()
        settings, rows = self.recipe.method, [row for task in tasks for row in task.train]
        generator = generator_for(self.recipe.run.seed, "memory", stage)
        answers = [row.answer for row in rows]
        kept = choose_samples(answers, settings.replay_fraction, settings.replay_choice, generator)
        chosen = [rows[index] for index in kept]

        def keep() -> list[tuple[str, str, tuple[str, ...]]]:
            return [(row.prompt, row.answer, row.references) for row in self.method.keep_rows(stage, chosen)]

        # Every process has those of the main one: a method may draw them, or write them itself.
        return tuple(
            Example(prompt, answer, tuple(right)) for prompt, answer, right in current_processes().on_main(keep)
        )

    def replay_rows(self) -> list[ReplayRow]:
        """The memory of all tasks so far, ready for the model; empty where the method replays nothing."""
        return [
            ReplayRow(index, sample, encoded)
            for index, samples in enumerate(self.memory)
            for sample, encoded in enumerate(self.encode(samples))
        ]

    def encode(self, rows: Sequence[Example]) -> list[EncodedExample]:
        """Rows as the model reads them."""
        return encode_task_rows(self.base.tokenizer, rows, self.recipe.data)

    # ------------------------------------------------------------------ testing

    def test(
        self, task_index: int, after: int | None, task: Task | None = None, draft: PredictionDraft | None = None
    ) -> TaskResult:
        """Tests the model after task `after` (None: the bare base) on a task, by default the learned one of this index.

        Where a method routes each task to an adapter of its own, a task is not tested again with the same one.
        """
        task = task or self.tasks[task_index]
        adapter = None if after is None else self.method.adapter_for(task_index, after)
        routed = self._routed_results.get(task_index)
        if routed is not None and routed[:2] == (task, adapter):
            return routed[2]
        what = "the bare base" if after is None else f"after {self.tasks[after].name}"
        with current_listener.set_to(self.listener), self.adapters.acting_as(adapter):
            result = evaluate_task(self.adapters.model, self.base.tokenizer, task, self.recipe, what, draft)
        if self.method.routed_by_task:
            self._routed_results[task_index] = task, adapter, result
        return result

    def evaluate(self) -> Scoreboard:
        """Tests the tasks learned so far, in the recipe's rounds, and returns the scoreboard."""
        names = [task.name for task in self.tasks]
        wanted = planned_evaluations(len(names), self.recipe.evaluate.rounds, self.method.joint)
        results = {(after, task): self.test(task, after) for after, task in wanted}
        return scoreboard(
            {task.name: task.metric for task in self.tasks},
            {key: (result.score, result.nll) for key, result in results.items()},
            self.method.name,
            self.recipe.run.seed,
        )
