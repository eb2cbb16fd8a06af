"""LoRA's two matrices: kept in the adapter's dtype, applied in the dtype of what comes in.

PEFT casts what comes in to the dtype of the matrices. An adapter of fp32 on a base of bf16 then costs an fp32 copy of
the input of every layer and two products in fp32, which the matrix units of GPUs and CPUs are not made for. Autocast
casts the matrices instead, which are small; so does this, for LoRA alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn import functional as F


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
