"""The state inside a task, on disk: one safetensors file that is whole or not there, and knows its own checksum."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import new_file, write_tensors, writing
from seekr_lite.common.progress import current_listener
from seekr_lite.training.training_state import Checkpoints, TrainingState


class DamagedCheckpoint(UserError):
    """The file of a checkpoint is not what was written."""


class CheckpointFile(Checkpoints):
    """`checkpoint.safetensors` of a run folder.

    Args:
        steps: save every so many steps of a stage; None: never for that reason.
        minutes: save when so many minutes have passed since the last time; None: never for that reason.
    """

    def __init__(self, path: Path, steps: int | None, minutes: float | None) -> None:
        self.path = path
        self.aside = path.with_name("checkpoint.damaged.safetensors")
        self.steps = steps
        self.minutes = minutes
        self._last = time.monotonic()

    def due(self, steps: int) -> bool:
        every = self.steps is not None and steps % self.steps == 0
        late = self.minutes is not None and time.monotonic() - self._last >= 60 * self.minutes
        return every or late

    def save(self, state: TrainingState) -> None:
        """Raises `Stopped` where it cannot be written; the state before is then kept."""
        values = json.dumps(asdict(replace(state, tensors={})))
        digest = _digest(state.tensors, values)
        with new_file(self.path) as temporary:
            write_tensors(temporary, state.tensors, {"state": values, "sha256": digest})
        self._last = time.monotonic()

    def load(self, stage: int) -> TrainingState | None:
        """The state inside stage `stage`; None where there is none, it is of another stage, or it is damaged.

        A damaged one is put aside and reported: its stage is learned again from its start, to the same result.

        Raises:
            UserError: the file cannot be read, which is no damage of it.
        """
        try:
            state = self.read()
        except DamagedCheckpoint as error:
            with writing(self.aside):
                self.path.replace(self.aside)
            current_listener().say(
                f"{error}. It is now {self.aside.name}. Lost are the steps done so far of the task that was being "
                "learned: they are done again, from the last finished task, to the same result"
            )
            return None
        return state if state is not None and state.stage == stage else None

    def read(self) -> TrainingState | None:
        """The state, of whatever stage; None where there is none.

        Raises:
            DamagedCheckpoint: the file is not what was written.
            UserError: it cannot be read.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            values: dict[str, Any] = json.loads(metadata["state"])
            if _digest(tensors, metadata["state"]) != metadata["sha256"]:
                raise ValueError("its content does not match its checksum")
            return TrainingState(**(values | {"tensors": tensors}))
        except OSError as error:
            raise UserError(f"{self.path}: this checkpoint cannot be read: {error.strerror or error}") from None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{self.path}: this checkpoint is damaged ({error})") from None

    def forget(self) -> None:
        """Deletes the state: its stage is finished."""
        with writing(self.path):
            self.path.unlink(missing_ok=True)
            self.aside.unlink(missing_ok=True)
        self._last = time.monotonic()


def _digest(tensors: dict[str, Any], values: str) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and the plain values."""
    digest = hashlib.sha256(values.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
