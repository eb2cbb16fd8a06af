"""The head scores of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from seekr_lite.attention.selection import Head
from seekr_lite.common.errors import UserError, nearest

MEASURES = ("importance", "sensitivity", "forgettability")  # the most telling first
COLUMNS = ("sensitivity", "forgettability", "importance")  # in tables and files, in the order they are made


@dataclass(frozen=True, eq=False)
class TaskHeads:
    """The heads as one task scored them; tensors `[layers, heads]`, on the host.

    importance is accumulated over the tasks so far. forgettability and importance are None where the bare base was
    scored: it has learned nothing, so no map of it has moved. chosen: sorted (layer, head) pairs.
    """

    task: str
    sensitivity: torch.Tensor
    forgettability: torch.Tensor | None
    importance: torch.Tensor | None
    chosen: tuple[Head, ...]

    @property
    def measures(self) -> dict[str, torch.Tensor]:
        """The measures that exist, by name, the most telling first."""
        found = {name: getattr(self, name) for name in MEASURES}
        return {name: values for name, values in found.items() if values is not None}

    def measure(self, name: str | None = None) -> tuple[str, torch.Tensor]:
        """A measure and its name; by default importance, and where there is none sensitivity.

        Raises:
            UserError: there is no measure of that name, or this task has none.
        """
        name = name or next(iter(self.measures))
        if name not in MEASURES:
            raise UserError(f'measure "{name}": allowed: {", ".join(MEASURES)}{nearest(name, MEASURES)}')
        if name not in self.measures:
            raise UserError(
                f'measure "{name}": the bare base has none, as it has learned nothing; allowed: '
                + ", ".join(self.measures)
            )
        return name, self.measures[name]

    def top(self, count: int = 10, measure: str | None = None) -> list[TopHead]:
        """The heads with the largest values, largest first, each with its share of the sum over all heads."""
        values = self.measure(measure)[1]
        total, width = float(values.sum()), values.shape[1]
        best = torch.argsort(values.flatten(), descending=True, stable=True)[:count].tolist()
        return [
            TopHead(
                index // width, index % width, float(values.flatten()[index]), _share(values.flatten()[index], total)
            )
            for index in best
        ]

    def chosen_by_layer(self) -> dict[int, list[int]]:
        """layer -> its chosen heads."""
        layers: dict[int, list[int]] = {}
        for layer, head in self.chosen:
            layers.setdefault(layer, []).append(head)
        return layers


@dataclass(frozen=True)
class TopHead:
    """A head, its value, and the share of it in the sum over all heads."""

    layer: int
    head: int
    value: float
    share: float


@dataclass(frozen=True)
class ChoiceChange:
    """How alike the chosen heads of two consecutive tasks are: the Jaccard index, 1 for equal, 0 for disjoint."""

    before: str
    after: str
    jaccard: float


def jaccard(one: tuple[Head, ...], two: tuple[Head, ...]) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    union = set(one) | set(two)
    return len(set(one) & set(two)) / len(union) if union else 1.0


def shades(values: torch.Tensor) -> torch.Tensor:
    """Values as shades from 0 to 1: square roots of their shares of the largest.

    A few heads carry most of the weight; on a straight scale all others would look like nothing.
    """
    largest = float(values.max())
    return (values.clamp(min=0) / largest).sqrt() if largest > 0 else torch.zeros_like(values)


def _check_scores(scores: Mapping[str, torch.Tensor], chosen: Sequence[Head]) -> None:
    """Raises `ValueError` where scores are no tables of one size, hold what is no number, or lack a chosen head."""
    (shape, *others) = {tuple(values.shape) for values in scores.values()}
    if others or len(shape) != 2 or 0 in shape:
        raise ValueError(f"scores need one shape [layers, heads], not {shape}")
    if not all(bool(torch.isfinite(values).all()) for values in scores.values()):
        raise ValueError("a score is no finite number")
    if not all(0 <= layer < shape[0] and 0 <= head < shape[1] for layer, head in chosen):
        raise ValueError("a chosen head is none of the model's")


def _share(value: torch.Tensor, total: float) -> float:
    return float(value) / total if total > 0 else 0.0


def _pairs(values: Any) -> tuple[Head, ...]:
    return tuple((int(layer), int(head)) for layer, head in values)


def _tensor(values: Any) -> torch.Tensor | None:
    return None if values is None else torch.tensor(values)
