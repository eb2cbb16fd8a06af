"""Which heads are held: the best layers first, then the best heads inside them (SEEKR, section 3.3)."""

from __future__ import annotations

import torch

from seekr_lite.common.errors import UserError
from seekr_lite.recipe.recipe import MethodSettings

Head = tuple[int, int]  # (layer, head)


def choose_heads(scores: torch.Tensor, layer_budget: int, head_budget: int) -> tuple[Head, ...]:
    """The `head_budget` best heads of the `layer_budget` layers with the largest summed score.

    Args:
        scores: `[layers, heads]`. Ties go to the lower index.

    Returns:
        (layer, head) pairs, sorted.
    """
    layers = torch.argsort(scores.sum(-1), descending=True, stable=True)[:layer_budget].sort().values
    inside = scores[layers].flatten()
    best = torch.argsort(inside, descending=True, stable=True)[:head_budget]
    heads = scores.shape[1]
    return tuple(sorted((int(layers[index // heads]), int(index % heads)) for index in best.tolist()))


def resolve_budgets(settings: MethodSettings, layers: int, heads: int) -> tuple[int, int]:
    """Layer and head budgets as numbers for a model of `layers` x `heads`.

    Raises:
        UserError: more than the model has.
    """
    layer_budget = _resolve(settings.layer_budget, layers)
    head_budget = (
        layer_budget * heads if settings.head_budget == "all" else _resolve(settings.head_budget, layers * heads)
    )
    if layer_budget > layers:
        raise UserError(
            f"method.layer_budget = {layer_budget}: the base has {layers} layers; "
            "use at most that, or a share like 0.75"
        )
    if head_budget > layer_budget * heads:
        raise UserError(
            f"method.head_budget = {head_budget}: {layer_budget} layers of {heads} heads have {layer_budget * heads}; "
            f"use at most that, or a share like 0.125"
        )
    return layer_budget, head_budget


def _resolve(budget: int | float | str, whole: int) -> int:
    if budget == "all":
        return whole
    if isinstance(budget, float):
        return max(1, round(budget * whole))
    assert isinstance(budget, int)
    return budget
