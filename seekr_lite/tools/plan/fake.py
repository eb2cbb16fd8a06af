"""A model without memory: the product's own code runs on it, and every tensor has a shape and nothing else.

torch's fake tensors do the most of it. What they cannot do is whatever hangs on values: how long the answers of a batch
are, which positions hold them. So index arithmetic stays real (`IndexArithmetic`): what is made of integers and
booleans alone is computed, and everything else is fake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from seekr_lite.model.base import Base
from seekr_lite.tools.plan.account import tensors_in

if TYPE_CHECKING:
    from seekr_lite.recipe.recipe import BaseSettings

LARGEST_REAL = 1 << 20  # elements; a larger mask is fake too, since nothing asks for its values
PAD = 0

aten = torch.ops.aten


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Inside the block no tensor takes memory, but for small index tensors."""
    with (
        patch.object(torch.nn.Module, "_apply", _apply_by_replacing),
        FakeTensorMode(allow_non_fake_inputs=True),
        IndexArithmetic(),
    ):
        yield


def _apply_by_replacing(
    module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
) -> torch.nn.Module:
    """`Module._apply`, for which torch would swap the data of parameters: of fake tensors it cannot."""
    for child in module.children() if recurse else ():
        _apply_by_replacing(child, change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = torch.nn.Parameter(change(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def fake_base(config: Any, settings: BaseSettings, dtype: torch.dtype) -> Base:
    """The base of a configuration; call it inside `fake_tensors`. It is never quantised (see `weights.py`)."""
    from transformers import AutoModelForCausalLM

    with unset_fake_temporarily(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=settings.attention)
    model.requires_grad_(False)
    tied: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = tied.get(id(parameter))
                if made is None:
                    made = torch.nn.Parameter(_empty_like(parameter), requires_grad=False)
                    tied[id(parameter)] = made
                module._parameters[name] = made
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _empty_like(buffer)
    model.config.use_cache = False
    return Base(model, SimpleNamespace(pad_token_id=PAD, eos_token_id=PAD), settings.model)  # type: ignore[arg-type]


def _empty_like(meta: torch.Tensor) -> torch.Tensor:
    return torch.empty(meta.shape, dtype=meta.dtype, device="cpu")


class IndexArithmetic(TorchDispatchMode):
    """Decides what is computed and what is fake; stands before FakeTensorMode."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return self._without_fakes(func, tensors, args, kwargs)
        if func is aten._local_scalar_dense.default:
            return 0.0 if args[0].is_floating_point() else 0  # a loss, for the log: nobody looks
        if func is aten.equal.default:
            return args[0].shape == args[1].shape
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            args = (args[0], [part for index in args[1] for part in _positions(index)], *args[2:])
        return func(*args, **kwargs)

    def _without_fakes(self, func: Any, tensors: list[torch.Tensor], args: Any, kwargs: Any) -> Any:
        if not func._schema.is_mutable:
            try:
                result = func(*args, **kwargs)
            except (DynamicOutputShapeException, DataDependentOutputException):
                result = None
            made = list(tensors_in(result))
            floating = not tensors and any(one.is_floating_point() for one in made)
            if floating or any(one.numel() > LARGEST_REAL for one in made):
                return result
        with unset_fake_temporarily():
            return func(*args, **kwargs)


def _positions(index: torch.Tensor | None) -> list[torch.Tensor | None]:
    """A mask as the positions where it holds: of a fake tensor a mask could choose any number of rows."""
    if index is None or index.dtype != torch.bool or isinstance(index, FakeTensor):
        return [index]
    with unset_fake_temporarily():
        return list(index.nonzero().unbind(1))
