"""The state inside a task, on disk: one safetensors file that is whole or not there, and knows its own checksum."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from seekr_lite.errors import UserError
from seekr_lite.files import new_file
from seekr_lite.training_state import Checkpoints, TrainingState


class CheckpointFile(Checkpoints):
    """`checkpoint.safetensors` of a run folder.

    Args:
        steps: save every so many steps of a stage; None: never for that reason.
        minutes: save when so many minutes have passed since the last time; None: never for that reason.
    """

    def __init__(self, path: Path, steps: int | None, minutes: float | None) -> None:
        self.path = path
        self.steps = steps
        self.minutes = minutes
        self._last = time.monotonic()

    def due(self, steps: int) -> bool:
        every = self.steps is not None and steps % self.steps == 0
        late = self.minutes is not None and time.monotonic() - self._last >= 60 * self.minutes
        return every or late

    def save(self, state: TrainingState) -> None:
        from safetensors.torch import save_file

        values = json.dumps(asdict(replace(state, tensors={})))
        digest = _digest(state.tensors, values)
        with new_file(self.path) as temporary:
            save_file(state.tensors, temporary, metadata={"state": values, "sha256": digest})
        self._last = time.monotonic()

    def load(self, stage: int) -> TrainingState | None:
        """The state inside stage `stage`; None where there is none, or it is of another stage.

        Raises:
            UserError: the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            from safetensors import SafetensorError, safe_open

            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            values: dict[str, Any] = json.loads(metadata["state"])
            if _digest(tensors, metadata["state"]) != metadata["sha256"]:
                raise ValueError("its content does not match its checksum")
            state = TrainingState(**(values | {"tensors": tensors}))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path}: this checkpoint is damaged ({error}); delete it, and the run goes on from the last "
                "finished task"
            ) from None
        return state if state.stage == stage else None

    def forget(self) -> None:
        """Deletes the state: its stage is finished."""
        self.path.unlink(missing_ok=True)
        self._last = time.monotonic()


def _digest(tensors: dict[str, Any], values: str) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and the plain values."""
    digest = hashlib.sha256(values.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Any) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
