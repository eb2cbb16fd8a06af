"""The state inside a task: what it takes to go on in the middle of training as if nothing had happened."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch

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
    order: list[Any]
    micro_batch_tokens: int
    scheduler: dict[str, Any]
    optimizer: dict[str, dict[str, Any]]  # by parameter: what of its state is no tensor
    tensors: dict[str, torch.Tensor]


@dataclass
class Position:
    """Where training stands. `order` is the generator's state at the start of the epoch."""

    epoch: int = 0
    done: int = 0
    steps: int = 0
    bad_steps: int = 0
    seconds: float = 0.0
    order: Any = None


class Checkpoints:
    """Where states inside a task are kept; this one keeps none (`run_folder.py` has one on disk)."""

    def load(self, stage: int) -> TrainingState | None:
        """The state from which stage `stage` goes on; None: from its start."""
        return None

    def due(self, steps: int) -> bool:
        """Whether it is time to save, after so many steps of the stage."""
        return False

    def save(self, state: TrainingState) -> None:
        """Keeps a state in place of the one before."""


def capture(
    stage: int,
    position: Position,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    micro_batch_tokens: int,
) -> TrainingState:
    """Everything that the next step depends on."""
    tensors: dict[str, torch.Tensor] = {f"{ADAPTER}{name}": parameter for name, parameter in parameters.items()}
    plain: dict[str, dict[str, Any]] = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                tensors[f"{OPTIMIZER}{key}/{name}"] = value
            else:
                plain.setdefault(name, {})[key] = value
    tensors[f"{RANDOM}cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors[f"{RANDOM}cuda"] = torch.cuda.get_rng_state()
    return TrainingState(
        stage=stage,
        epoch=position.epoch,
        done=position.done,
        steps=position.steps,
        bad_steps=position.bad_steps,
        seconds=position.seconds,
        order=_listed(position.order),
        micro_batch_tokens=micro_batch_tokens,
        scheduler={key: value for key, value in scheduler.state_dict().items() if key != "lr_lambdas"},
        optimizer=plain,
        tensors={name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()},
    )


@torch.no_grad()
def restore(
    state: TrainingState,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    order: random.Random,
) -> Position:
    """Sets everything as it was; returns where training stands."""
    for name, parameter in parameters.items():
        parameter.copy_(state.tensors[f"{ADAPTER}{name}"])
        optimizer.state[parameter] = dict(state.optimizer.get(name, {}))
    for full_name, tensor in state.tensors.items():
        if full_name.startswith(OPTIMIZER):
            key, _, name = full_name.removeprefix(OPTIMIZER).partition("/")
            # torch counts steps on the host, bitsandbytes in no tensor.
            optimizer.state[parameters[name]][key] = tensor if key == "step" else tensor.to(parameters[name].device)
    scheduler.load_state_dict({**scheduler.state_dict(), **state.scheduler})
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    torch.set_rng_state(state.tensors[f"{RANDOM}cpu"])
    if torch.cuda.is_available() and f"{RANDOM}cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors[f"{RANDOM}cuda"])
    order.setstate(_tupled(state.order))
    return Position(state.epoch, state.done, state.steps, state.bad_steps, state.seconds, order.getstate())


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple | list) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(one) for one in value) if isinstance(value, list | tuple) else value
