"""Train and eval mode, borrowed and given back module by module: dropout may be off where the rest is in train mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Everything is in eval mode inside the block, and each module in its own mode afterwards."""
    with _given_back(model):
        model.eval()
        yield


@contextmanager
def train_mode_without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Train mode, so that gradient checkpointing is on, with dropout off, inside the block."""
    with _given_back(model):
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        yield


@contextmanager
def _given_back(model: torch.nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
