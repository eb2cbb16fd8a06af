"""The only training loop: learn one task.

The learner holds the base, the sequence of adapters, the method and the memory. It knows no files: `run.py` keeps
what it makes. Every random choice hangs on the seed and the index of the task (`seeds.py`), so a sequence that is
continued equals one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from seekr_lite.attention.tap import tap
from seekr_lite.common.errors import UserError
from seekr_lite.common.memory import REVIEW, TRAINING, PhaseCost, phase_cost
from seekr_lite.common.processes import current_processes
from seekr_lite.common.progress import Listener, current_listener
from seekr_lite.common.seeds import generator_for, seed_for
from seekr_lite.common.stopping import current_stop
from seekr_lite.data.encoding import EncodedExample, encode_task_rows
from seekr_lite.data.task import Example, Task
from seekr_lite.evaluation.evaluate import PredictionDraft, TaskResult, check_metrics, evaluate_task
from seekr_lite.evaluation.scoreboard import Scoreboard, planned_evaluations, scoreboard
from seekr_lite.methods.memory import ReplayRow, choose_samples
from seekr_lite.methods.method import Method, TaskState
from seekr_lite.methods.registry import method_class
from seekr_lite.model.base import Base, checkpoint_activations, load_base
from seekr_lite.model.snapshots import Snapshot
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.training.micro_batches import MicroBatches, random_states, restore_random_states
from seekr_lite.training.optimizers import learning_rate_factor, make_optimizer
from seekr_lite.training.schedule import plan_epoch, steps_per_epoch
from seekr_lite.training.step_gradients import StepGradients
from seekr_lite.training.step_log import StepLog, StepRows, stopped_by, stops
from seekr_lite.training.training_state import Checkpoints, Position, capture, restore

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

    def __init__(
        self,
        recipe: Recipe,
        base: Base | None = None,
        listener: Listener | None = None,
    ) -> None:
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
        self._results: dict[tuple[int | None, int], TaskResult] = {}  # (adapter, task)
        if recipe.train.checkpointing:
            checkpoint_activations(self.base.model)

    # ------------------------------------------------------------------ learning

    def learn(self, *tasks: Task, checkpoints: Checkpoints | None = None) -> Learned:
        """Learns the next task (a joint method: all tasks that it is given, at once).

        Args:
            checkpoints: keeps the state inside the task, and offers the one of a run that was stopped.

        Raises:
            UserError: there is nothing to learn from, or not even one row fits into memory.
            Stopped: too many steps in a row whose loss or gradient is not finite.
            Interrupted: a stop was asked for.
        """
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
                position = self._train(stage, tasks, checkpoints)
        training.seconds += position.seconds
        with phase_cost(REVIEW, self.base.device) as review:
            snapshot = self.adapters.finish_task()
            samples = self._review(stage, tasks)
        self.tasks.extend(tasks)
        self.memory.append(samples)
        seconds, costs = training.seconds + review.seconds, (training, review)
        return Learned(snapshot, samples, self.method.task_state(stage), position.steps, seconds, costs)

    def _review(self, stage: int, tasks: Sequence[Task]) -> tuple[Example, ...]:
        """What a method does with a task that has been learned; returns the samples that are kept of it."""
        if self.method.reviews_rows:
            self.method.review_task(stage, self._encode([row for task in tasks for row in task.train]))
        samples = self._choose_memory(stage, tasks)
        if encoded := self._encode(samples):
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

    def _train(self, stage: int, tasks: Sequence[Task], checkpoints: Checkpoints) -> Position:
        """Trains the student; returns where it ended: all steps, and the seconds spent before this process."""
        processes, stop = current_processes(), current_stop()
        settings, replay = self.recipe.train, self.recipe.method
        seed = self.recipe.run.seed
        rows = self._encode([row for task in tasks for row in task.train])
        old = self._replay_rows() if self.method.replays and replay.replay_weight else []
        epochs = self._epochs(tasks)
        own = replay.replay_step == "own"
        total = epochs * steps_per_epoch(len(rows), settings.batch_size, len(old), replay.replay_passes, own)
        parameters = self.adapters.student
        rate = settings.learning_rate * self.method.learning_rate_factor
        optimizer = make_optimizer(list(parameters.values()), settings, rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, settings.warmup, settings.schedule)
        )
        gradients = StepGradients(self.method, self.adapters, self.micro_batches, replay.replay_weight)
        order = generator_for(seed, "order", stage)
        devices = [self.base.device] if self.base.device.type == "cuda" else []
        self.adapters.model.train()
        with (
            torch.random.fork_rng(devices=devices),
            current_listener().phase(f"learning {tasks[0].name if len(tasks) == 1 else 'all tasks'}", total) as advance,
        ):
            torch.manual_seed(seed_for(seed, "dropout", stage))
            position, started = Position(order=order.getstate()), time.monotonic()
            state = processes.main_first(lambda: checkpoints.load(stage))
            if state is not None:
                position = restore(state, parameters, optimizer, scheduler, order)
                self.micro_batches.tokens = min(self.micro_batches.tokens, state.micro_batch_tokens)
                advance(position.steps)
            before = position.seconds
            log = StepLog(stage, tasks[0].name)

            def keep() -> None:
                position.seconds = before + time.monotonic() - started
                tokens = self.micro_batches.tokens
                checkpoints.save(capture(stage, position, parameters, optimizer, scheduler, tokens))

            while position.epoch < epochs:
                steps = plan_epoch(len(rows), settings.batch_size, len(old), replay.replay_passes, own, order)
                for step in steps[position.done :]:
                    rate_now = float(scheduler.get_last_lr()[0])
                    self._seed_step(stage, position.steps)
                    draws = random_states()
                    terms = gradients(step, rows, old, with_norms=position.steps % GRADIENT_NORMS_EVERY == 0)
                    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.clip_norm)
                    named = partial(StepRows.of, step, tasks, self.tasks, old)
                    if log.add(position.steps + 1, position.epoch, rate_now, norm, terms, named):
                        position.bad_steps = 0
                    else:
                        # Without gradients the step below changes neither weights nor moments.
                        optimizer.zero_grad(set_to_none=True)
                        in_a_row = position.bad_steps + 1
                        if stops(settings, in_a_row, total):
                            restore_random_states(draws)
                            # As it was before this step, which is the next one of a run that goes on.
                            processes.on_main(keep)
                            error = stopped_by(log.task, position.steps + 1, in_a_row, total, named(), settings)
                            raise processes.alike(error)
                        position.bad_steps = in_a_row
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad(set_to_none=True)
                    position.done += 1
                    position.steps += 1
                    advance(1)
                    if stop.requested:
                        processes.on_main(keep)
                        stop.check()
                    elif processes.is_main and checkpoints.due(position.steps):
                        keep()
                position.epoch, position.done, position.order = position.epoch + 1, 0, order.getstate()
        processes.copy_from_main(list(parameters.values()))
        self.adapters.model.eval()
        position.seconds = before
        return position

    def _seed_step(self, stage: int, step: int) -> None:
        """Lets each of several processes drop out differently, whatever was drawn before it was started."""
        processes = current_processes()
        if processes.count > 1:
            torch.manual_seed(seed_for(self.recipe.run.seed, "dropout", stage, step, processes.index))

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

    def _replay_rows(self) -> list[ReplayRow]:
        """The memory of all tasks so far, ready for the model; empty where the method replays nothing."""
        return [
            ReplayRow(index, sample, encoded)
            for index, samples in enumerate(self.memory)
            for sample, encoded in enumerate(self._encode(samples))
        ]

    def _encode(self, rows: Sequence[Example]) -> list[EncodedExample]:
        return encode_task_rows(self.base.tokenizer, rows, self.recipe.data)

    # ------------------------------------------------------------------ testing

    def test(
        self, task_index: int, after: int | None, task: Task | None = None, draft: PredictionDraft | None = None
    ) -> TaskResult:
        """Tests the model after task `after` (None: the bare base) on a task; nothing is tested twice."""
        adapter = None if after is None else self.method.adapter_for(task_index, after)
        if (adapter, task_index) not in self._results:
            task = task or self.tasks[task_index]
            what = "the bare base" if after is None else f"after {self.tasks[after].name}"
            with (
                current_listener.set_to(self.listener),
                current_listener().phase(f"testing {task.name} ({what})", len(task.test)) as advance,
                self.adapters.acting_as(adapter),
            ):
                model, tokenizer = self.adapters.model, self.base.tokenizer
                result = evaluate_task(model, tokenizer, task, self.recipe, advance, draft)
            if result.nll is None and task.validation:
                current_listener().say(
                    f"{task.name} ({what}): the NLL of its held-out rows is not finite, and is left out"
                )
            self._results[(adapter, task_index)] = result
        return self._results[(adapter, task_index)]

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
