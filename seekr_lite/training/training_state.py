"""The state inside a task: what it takes to go on in the middle of training as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from seekr_lite.common.processes import current_processes
from seekr_lite.common.seeds import generator_for, seed_for
from seekr_lite.training.guard import Guard
from seekr_lite.training.micro_batches import MicroBatches, random_states, restore_random_states
from seekr_lite.training.optimizers import restored_state
from seekr_lite.training.step_gradients import StepNumbers
from seekr_lite.training.step_log import StepPlace, StepRows, log_bad_step

ADAPTER, OPTIMIZER, RANDOM = "adapter/", "optimizer/", "random/"


@dataclass(frozen=True)
class TrainingState:
    """Tensors for safetensors, on the host, and plain values for JSON.

    stage: which stage is being learned. epoch, done: the epoch, and how many of its steps are done; the epoch's plan
    is drawn again from `order`, the state of the generator at its start. steps: of the whole stage. bad_steps: so many
    steps in a row, up to here, were left out because they were not finite. seconds: so far.
    """

    stage: int
    epoch: int
    done: int
    steps: int
    bad_steps: int
    seconds: float
    order: Sequence[Any]
    micro_batch_tokens: int
    scheduler: dict[str, Any]
    optimizer: dict[str, dict[str, Any]]  # by parameter: what of its state is no tensor
    tensors: dict[str, torch.Tensor]


class Checkpoints:
    """Where states inside a task are kept; this one keeps none (`runs/checkpoint_file.py` has one on disk)."""

    def load(self, stage: int) -> TrainingState | None:
        """The state from which stage `stage` goes on; None: from its start."""
        return None

    def due(self, steps: int) -> bool:
        """Whether it is time to save, after so many steps of the stage."""
        return False

    def save(self, state: TrainingState) -> None:
        """Keeps a state in place of the one before."""


@dataclass(eq=False)
class Training:
    """A task while it is learned: everything that the next step depends on, and that a checkpoint therefore holds.

    student: the parameters by name. scheduler: of the learning rate; it has the optimizer.
    """

    seed: int
    stage: int
    student: dict[str, torch.nn.Parameter]
    scheduler: torch.optim.lr_scheduler.LambdaLR
    guard: Guard
    micro_batches: MicroBatches
    checkpoints: Checkpoints

    def __post_init__(self) -> None:
        self.optimizer = self.scheduler.optimizer
        self.epoch = self.done = self.steps = self.bad_steps = 0  # as in `TrainingState`
        self.order = generator_for(self.seed, "order", self.stage)  # draws the plans of epochs
        self.epoch_order = self.order.getstate()  # at the start of the epoch
        self.seconds_before = 0.0  # in processes that were stopped
        self.started = time.monotonic()

    @contextmanager
    def random_numbers(self, device: torch.device) -> Iterator[None]:
        """Inside the block random numbers are those of this stage; outside it is as if none had been drawn."""
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed_for(self.seed, "dropout", self.stage))
            yield

    @property
    def learning_rate(self) -> float:
        """The one of the next step."""
        return float(self.scheduler.get_last_lr()[0])

    def begin_step(self) -> None:
        """Remembers where random numbers stand. Several processes drop out differently, and each the same whatever was
        drawn before it was started."""
        processes = current_processes()
        if processes.count > 1:
            torch.manual_seed(seed_for(self.seed, "dropout", self.stage, self.steps, processes.index))
        self.draws = random_states()

    def leave_out(self, place: StepPlace, task: str, numbers: StepNumbers, rows: StepRows) -> None:
        """Drops the gradients of a step that the guard did not admit. Raises `Stopped` where the guard gives up."""
        log_bad_step(place, task, numbers, rows)
        if self.guard.gives_up:
            restore_random_states(self.draws)  # as it was before this step, which is the next one of a run that goes on
            self.checkpoint()
            raise current_processes().alike(self.guard.error(task, place.step, rows))
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Changes the student by its gradients, and makes ready for the next step. Without gradients neither weights
        nor moments change."""
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self.steps += 1
        self.bad_steps = self.guard.bad_steps

    def end_epoch(self) -> None:
        self.epoch, self.done, self.epoch_order = self.epoch + 1, 0, self.order.getstate()

    # ------------------------------------------------------------------ checkpoints

    def resume(self) -> None:
        """Goes on from the checkpoint of this stage, where there is one."""
        state = current_processes().main_first(lambda: self.checkpoints.load(self.stage))
        if state is not None:
            self.restore(state)

    def checkpoint(self) -> None:
        """Keeps the state, in every process' name. Raises `Stopped` where it cannot be written."""
        current_processes().on_main(lambda: self.checkpoints.save(self.capture()))

    def checkpoint_if_due(self) -> None:
        """The main process decides by its clock, so the others neither wait for it nor know of it."""
        if current_processes().is_main and self.checkpoints.due(self.steps):
            self.checkpoints.save(self.capture())

    def capture(self) -> TrainingState:
        tensors: dict[str, torch.Tensor] = {f"{ADAPTER}{name}": parameter for name, parameter in self.student.items()}
        plain: dict[str, dict[str, Any]] = {}
        for name, parameter in self.student.items():
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{OPTIMIZER}{key}/{name}"] = value
                else:
                    plain.setdefault(name, {})[key] = value
        cpu, cuda = random_states()
        tensors |= {f"{RANDOM}cpu": cpu} | ({} if cuda is None else {f"{RANDOM}cuda": cuda})
        return TrainingState(
            stage=self.stage,
            epoch=self.epoch,
            done=self.done,
            steps=self.steps,
            bad_steps=self.bad_steps,
            seconds=self.seconds_before + time.monotonic() - self.started,
            order=self.epoch_order,
            micro_batch_tokens=self.micro_batches.tokens,
            scheduler={key: value for key, value in self.scheduler.state_dict().items() if key != "lr_lambdas"},
            optimizer=plain,
            tensors={name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()},
        )

    @torch.no_grad()
    def restore(self, state: TrainingState) -> None:
        """Sets everything as it was; but micro-batches stay small where memory has run out since."""
        for name, parameter in self.student.items():
            parameter.copy_(state.tensors[f"{ADAPTER}{name}"])
            self.optimizer.state[parameter] = dict(state.optimizer.get(name, {}))
        for full_name, tensor in state.tensors.items():
            if full_name.startswith(OPTIMIZER):
                key, _, name = full_name.removeprefix(OPTIMIZER).partition("/")
                parameter = self.student[name]
                self.optimizer.state[parameter][key] = restored_state(self.optimizer, parameter, key, tensor)
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **state.scheduler})
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        restore_random_states((state.tensors[f"{RANDOM}cpu"], state.tensors.get(f"{RANDOM}cuda")))
        version, numbers, gauss = state.order
        self.order.setstate((version, tuple(numbers), gauss))  # JSON knows no tuples
        self.epoch, self.done, self.steps = state.epoch, state.done, state.steps
        self.epoch_order = self.order.getstate()
        self.bad_steps = self.guard.bad_steps = state.bad_steps
        self.seconds_before = state.seconds
        self.micro_batches.tokens = min(self.micro_batches.tokens, state.micro_batch_tokens)
