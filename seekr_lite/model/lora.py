"""The sequence of LoRA adapters on one frozen base.

One adapter, the *student*, is trained. When a task ends, a host copy of it joins the sequence. Any adapter of the
sequence acts again, as teacher or to be evaluated, through one *slot* on the device into which its host copy is
written: memory on the device does not grow with the number of tasks.

With `growth = "stack"` the model of task k is the sum of the LoRAs 0..k. The sum of the earlier ones is held in a
third, frozen adapter, and a snapshot is one adapter of rank (k+1) r, made by concatenation:
B_0 A_0 + B_1 A_1 = [B_0 B_1] [A_0; A_1].
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional as F

from seekr_lite.common.errors import UserError
from seekr_lite.common.seeds import seed_for
from seekr_lite.common.train_mode import eval_mode
from seekr_lite.model.base import Base
from seekr_lite.model.snapshots import Snapshot, SnapshotSequence
from seekr_lite.recipe.recipe import AdapterSettings

STUDENT, SLOT, FROZEN = "student", "slot", "frozen"
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "c_attn")


class AdapterSequence(SnapshotSequence):
    """The student, the snapshots of finished tasks, and the slot through which a snapshot acts."""

    def __init__(self, base: Base, settings: AdapterSettings, seed: int) -> None:
        self.base = base
        self.settings = settings
        self.seed = seed
        self.grows = settings.growth == "stack"
        self.snapshots: list[Snapshot] = []
        self._slot_rank = 0
        self._active = [STUDENT]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that has a newer one
                config = self._config(settings.rank, settings.dropout)
                self.model = get_peft_model(base.model, config, adapter_name=STUDENT)
        except ValueError as error:
            raise UserError(f"adapter.targets {settings.targets!r}: {error}") from None
        if any(".lora_embedding_" in name for name, _ in self.model.named_parameters()):
            raise UserError(
                f"adapter.targets {settings.targets!r}: embeddings take no adapter here; name linear layers, "
                '"all-linear" or "attention"'
            )
        self._fit(STUDENT)
        self.student = self._parameters(STUDENT)
        self._look_around()
        self._activate([STUDENT])

    # ------------------------------------------------------------------ the student

    def start_task(self, from_previous: bool = True) -> None:
        """The next task starts on from the last one, fresh, or fresh on top of the frozen sum."""
        index = len(self.snapshots)
        if not from_previous or index == 0:
            self._drop(FROZEN)
            self._initialise_student(index)
            self._activate([STUDENT])
        elif not self.grows:
            _write(self.student, self.snapshots[-1])
            self._activate([STUDENT])
        else:
            last = self.snapshots[-1]
            self._drop(FROZEN)
            self._add(FROZEN, last.rank)
            _write(self._parameters(FROZEN), last)
            self._initialise_student(index)
            self._activate([FROZEN, STUDENT])

    def finish_task(self) -> Snapshot:
        weights = {name: weight.detach().to("cpu", copy=True).contiguous() for name, weight in self.student.items()}
        rank = self.settings.rank
        if FROZEN in self._active:
            before = self.snapshots[-1]
            weights = {
                name: torch.cat([before.weights[name], tensor], dim=0 if ".lora_A." in name else 1)
                for name, tensor in weights.items()
            }
            rank += before.rank
        snapshot = Snapshot(weights, rank, self.settings.alpha * rank / self.settings.rank)
        self.snapshots.append(snapshot)
        return snapshot

    # ------------------------------------------------------------------ snapshots that act

    @contextmanager
    def acting_as(self, index: int | None, slot_rank: int | None = None) -> Iterator[None]:
        try:
            with torch.no_grad(), eval_mode(self._modules):
                if index is None:
                    with self.model.disable_adapter():
                        yield
                else:
                    self._put_into_slot(self.snapshots[index], slot_rank)
                    yield
        finally:
            self._activate(self._active)

    def become(self, snapshot: Snapshot) -> None:
        self._put_into_slot(snapshot)
        self._active = [SLOT]

    def _put_into_slot(self, snapshot: Snapshot, slot_rank: int | None = None) -> None:
        rank = slot_rank or snapshot.rank
        if self._slot_rank != rank:
            active = self._active
            self._drop(SLOT)
            self._add(SLOT, rank)
            self._slot = self._parameters(SLOT)
            self._slot_rank = rank
            self._active = active
        _write(self._slot, snapshot)
        self._switch_to([SLOT])

    def config_of(self, snapshot: Snapshot) -> dict[str, Any]:
        """`adapter_config.json` of a snapshot, with sorted lists so that files of equal runs are equal."""
        config = self._config(snapshot.rank, self.settings.dropout)
        config.target_modules = self.model.peft_config[STUDENT].target_modules
        config.base_model_name_or_path, config.revision = self.base.name_or_path, self.base.revision
        config.inference_mode = True
        plain: dict[str, Any] = json.loads(json.dumps(config.to_dict(), sort_keys=True, default=sorted))
        return plain

    # ------------------------------------------------------------------ the parts on the device

    def _config(self, rank: int, dropout: float) -> LoraConfig:
        targets = self.settings.targets
        if targets == "attention":
            names = {name.rpartition(".")[2] for name, _ in self.base.model.named_modules()}
            targets = tuple(sorted(names & set(ATTENTION_PROJECTIONS)))
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=self.settings.alpha * rank / self.settings.rank,
            lora_dropout=dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
        )

    def _parameters(self, adapter: str) -> dict[str, torch.nn.Parameter]:
        mark = f".{adapter}."
        return {
            name.replace(mark, "."): parameter
            for name, parameter in self.model.named_parameters()
            if mark in name and ".lora_" in name
        }

    def _add(self, adapter: str, rank: int) -> None:
        with torch.random.fork_rng(devices=[]):  # PEFT draws an initialisation that is overwritten at once
            self.model.add_adapter(adapter, self._config(rank, 0.0))
        self._fit(adapter)
        for parameter in self._parameters(adapter).values():
            parameter.requires_grad_(False)
        self._look_around()

    def _look_around(self) -> None:
        """Finds the modules of the model, and those with adapters, once and not for every teacher."""
        self._modules = list(self.model.modules())
        self._adapted = [module for module in self._modules if isinstance(module, BaseTunerLayer)]

    def _fit(self, adapter: str) -> None:
        """PEFT makes adapters of fp32, whatever the base is computed in."""
        for parameter in self._parameters(adapter).values():
            parameter.data = parameter.data.to(getattr(torch, self.settings.dtype))
        apply_in_dtype_of_input(self.model.modules(), adapter)

    def _drop(self, adapter: str) -> None:
        if adapter in self.model.peft_config:
            self._activate([STUDENT])
            self.model.delete_adapter(adapter)
            self._look_around()

    @torch.no_grad()
    def _initialise_student(self, index: int) -> None:
        """LoRA's own start (A random, B zero), drawn on the host so that every device starts alike."""
        generator = torch.Generator().manual_seed(seed_for(self.seed, "adapter", index))
        for name, parameter in sorted(self.student.items()):
            if ".lora_A." in name:
                start = torch.empty(parameter.shape)
                torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
                parameter.copy_(start)
            else:
                parameter.zero_()

    def _activate(self, adapters: list[str]) -> None:
        """Makes adapters act, with gradients for the student alone (PEFT's `set_adapter` would flip them)."""
        self._switch_to(adapters)
        for parameter in self.student.values():
            parameter.requires_grad_(True)
        self._active = list(adapters)

    def _switch_to(self, adapters: list[str]) -> None:
        """As PEFT's `set_adapter` of the whole model, which looks for the layers in all its modules each time."""
        for layer in self._adapted:
            layer.set_adapter(list(adapters), inference_mode=True)
        self.model.base_model.active_adapter = list(adapters)


@torch.no_grad()
def _write(parameters: dict[str, torch.nn.Parameter], snapshot: Snapshot) -> None:
    """Copies a snapshot into an adapter of its rank, or of a larger one: the rest is zeros, which adds nothing."""
    for name, parameter in parameters.items():
        source = snapshot.weights[name]
        if parameter.shape == source.shape:
            parameter.copy_(source, non_blocking=True)
        else:
            parameter.zero_()
            parameter[tuple(slice(0, size) for size in source.shape)].copy_(source, non_blocking=True)


class LoraMatrix(nn.Linear):
    """`lora_A` or `lora_B` of a layer. Its gradient has the dtype of the matrix."""

    @classmethod
    def of(cls, linear: nn.Linear) -> LoraMatrix:
        """With the same weight, the very parameter."""
        made = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        made.weight = linear.weight
        return made.train(linear.training)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.dtype == torch.float16:  # small gradients are 0 in it, and nothing here scales the loss
            states = states.to(self.weight.dtype)
        return F.linear(states, self.weight.to(states.dtype))


def apply_in_dtype_of_input(layers: Iterable[nn.Module], adapter: str) -> None:
    """Makes `LoraMatrix`es of an adapter's matrices, in all layers of PEFT's that have it."""
    for layer in layers:
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A and isinstance(layer.lora_A[adapter], nn.Linear):
            layer.cast_input_dtype_enabled = False
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[adapter] = LoraMatrix.of(matrices[adapter])
