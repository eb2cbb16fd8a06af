"""Bytes of what stays on the device: the quantised base, exactly, from shapes alone.

bitsandbytes stores a linear layer in 4 bits (NF4, FP4) as packed halves of bytes, one absmax for each block of 64
weights, and (double quantisation, QLoRA, arXiv 2305.14314) these as bytes in blocks of 256 with a scale of fp32 each,
an offset, and the two code tables; in 8 bits (LLM.int8, arXiv 2208.07339) as bytes with a scale of fp32 for each row.
Embeddings, norms, biases and the output layer stay in the precision that is computed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

BLOCK, NESTED_BLOCK = 64, 256
CODE_4BIT, CODE_8BIT = 16 * 4, 256 * 4  # bytes; fp32 tables of a layer's values and of its absmax
SMALLEST_8BIT = 4096  # elements; bitsandbytes keeps smaller tensors' moments in fp32
LOADING_AT_ONCE = 4  # transformers reads so many weights in parallel, in full precision, before they are quantised


@dataclass(frozen=True)
class BaseBytes:
    """parameters: how many there are. stored: bytes on the device. largest_weight: of one weight in the precision that
    is computed in; dequantised: the same of quantised ones, made anew for each use (0: nothing is quantised)."""

    parameters: int
    stored: int
    largest_weight: int
    dequantised: int


def base_bytes(model: Any, quantization: str) -> BaseBytes:
    """Of a model of any device, meta included, before adapters are put on it and before it is quantised."""
    quantised = {f"{name}.weight" for name in quantised_layers(model)} if quantization != "none" else set()
    parameters = dict(model.named_parameters())  # tied ones once
    stored = sum(buffer.nbytes for buffer in model.buffers())
    for name, parameter in parameters.items():
        stored += quantised_bytes(parameter.shape, quantization) if name in quantised else parameter.nbytes
    return BaseBytes(
        parameters=sum(parameter.numel() for parameter in parameters.values()),
        stored=stored,
        largest_weight=max(parameter.nbytes for parameter in parameters.values()),
        dequantised=max((parameters[name].nbytes for name in quantised), default=0),
    )


def quantised_layers(model: Any) -> Iterator[str]:
    """Names of the layers that transformers hands to bitsandbytes: all linear ones but for the output layer."""
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = get_keys_to_not_convert(model)
    for name, module in model.named_modules():
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept):
            yield name


def quantised_bytes(shape: torch.Size, quantization: str) -> int:
    """Bytes of one weight `[out, in]` with all that is needed to read it."""
    weights = shape.numel()
    if quantization == "int8":
        return weights + 4 * shape[0]
    blocks = -(-weights // BLOCK)
    nested = -(-blocks // NESTED_BLOCK)
    offset = 4
    return -(-weights // 2) + CODE_4BIT + blocks + 4 * nested + CODE_8BIT + offset


def optimizer_bytes(parameters: Sequence[torch.Tensor], optimizer: str) -> int:
    """Bytes of the optimizer's state: two moments a weight.

    torch's AdamW keeps them in the weight's own precision; bitsandbytes in fp32, or in bytes with a scale for each
    block of 256 and two code tables. Paged ones count in full: they leave the card only where it is full.
    """
    if optimizer == "adamw":
        return 2 * sum(parameter.nbytes for parameter in parameters)
    if not optimizer.endswith("_8bit"):
        return 2 * 4 * sum(parameter.numel() for parameter in parameters)
    sizes = [parameter.numel() for parameter in parameters]
    small = sum(2 * 4 * size for size in sizes if size < SMALLEST_8BIT)
    large = sum(2 * (size + 4 * -(-size // NESTED_BLOCK)) for size in sizes if size >= SMALLEST_8BIT)
    return small + large + (2 * CODE_8BIT if large else 0)
