"""Train and eval mode, borrowed and given back module by module: dropout may be off where the rest is in train mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def eval_mode(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Modules are in eval mode inside the block, and each in its own mode afterwards.

    Args:
        modules: `model.modules()`, or a list of them that was kept: to find them takes longer than to switch them.
    """
    with _given_back(modules) as borrowed:
        for module in borrowed:
            _set_training(module, False)
        yield


@contextmanager
def train_mode_without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Train mode where gradient checkpointing looks for it, and dropout off, inside the block.

    Attention drops out by a number that it takes from its module's mode, so only the layers that are checkpointed are
    in train mode, and nothing in them.
    """
    with _given_back(model.modules()) as borrowed:
        for module in borrowed:
            _set_training(module, bool(getattr(module, "gradient_checkpointing", False)))
        yield


@contextmanager
def _given_back(modules: Iterable[torch.nn.Module]) -> Iterator[list[torch.nn.Module]]:
    borrowed = list(modules)
    before = [module.training for module in borrowed]
    try:
        yield borrowed
    finally:
        for module, mode in zip(borrowed, before, strict=True):
            _set_training(module, mode)


def _set_training(module: torch.nn.Module, mode: bool) -> None:
    object.__setattr__(module, "training", mode)  # the module's own looks for parameters first: ten times the time
