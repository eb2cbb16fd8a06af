"""AdamW in the precisions that save memory. Each task starts it afresh (the official SEEKR code carries it over)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from seekr_lite.recipe.recipe import TrainSettings


def make_optimizer(
    parameters: Sequence[torch.nn.Parameter], settings: TrainSettings, learning_rate: float | None = None
) -> torch.optim.Optimizer:
    """`adamw` keeps two fp32 numbers a weight, the 8-bit ones two bytes (Dettmers et al. 2022, arXiv 2110.02861).

    Paged ones move to the host where the card is full; without a card they are not paged. `learning_rate`: by default
    the settings'.
    """
    learning_rate = learning_rate or settings.learning_rate
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, betas=settings.betas, weight_decay=settings.weight_decay)
    import bitsandbytes.optim

    makers = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw": bitsandbytes.optim.PagedAdamW,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    made: torch.optim.Optimizer = makers[settings.optimizer](
        parameters, lr=learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
    )
    return made


def restored_state(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, key: str, saved: torch.Tensor
) -> torch.Tensor:
    """A saved tensor of a parameter's state, in the kind of memory where the optimizer would have made it."""
    if key == "step":  # torch counts steps on the host, bitsandbytes in no tensor
        return saved
    if not (getattr(optimizer, "is_paged", False) and key in ("state1", "state2")):
        return saved.to(parameter.device)
    # A plain copy on the card would be right, and would stay there when the card is full: bitsandbytes moves only
    # what it has allocated itself.
    buffer: torch.Tensor = optimizer.get_state_buffer(parameter, saved.dtype)  # type: ignore[attr-defined]
    if parameter.device.type == "cuda":
        torch.cuda.synchronize(parameter.device)  # the zeros that it starts with are written by a kernel
    return buffer.copy_(saved)


def learning_rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """The share of the peak learning rate at `step` of `total`: a linear warm-up, then the schedule."""
    warm = round(warmup * total)
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return 1.0
