"""The head scores of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from seekr_lite.attention.selection import Head
from seekr_lite.common.errors import UserError, nearest

MEANINGS = {  # the most telling first
    "importance": "sensitivity × forgettability, summed over the tasks so far",
    "sensitivity": "how much this task's loss depends on the head's map",
    "forgettability": "how far learning this task has moved the head's map",
}
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
        found = {name: getattr(self, name) for name in MEANINGS}
        return {name: values for name, values in found.items() if values is not None}

    def measure(self, name: str | None = None) -> tuple[str, torch.Tensor]:
        """A measure and its name; by default importance, and where there is none sensitivity.

        Raises:
            UserError: there is no measure of that name, or this task has none.
        """
        name = name or next(iter(self.measures))
        if name not in MEANINGS:
            raise UserError(f'measure "{name}": allowed: {", ".join(MEANINGS)}{nearest(name, MEANINGS)}')
        if name not in self.measures:
            raise UserError(
                f'measure "{name}": the bare base has none, as it has learned nothing; allowed: '
                + ", ".join(self.measures)
            )
        return name, self.measures[name]

    def top(self, count: int = 10, measure: str | None = None) -> list[TopHead]:
        """The heads with the largest values, largest first, each with its share of the sum over all heads."""
        values = self.measure(measure)[1].flatten()
        total, width = float(values.sum()), self.sensitivity.shape[1]
        found = []
        for index in torch.argsort(values, descending=True, stable=True)[:count].tolist():
            value = float(values[index])
            found.append(TopHead(index // width, index % width, value, value / total if total > 0 else None))
        return found

    def top_rows(self, measure: str | None = None) -> list[tuple[str, str, str, str]]:
        """The top heads for a table: head, value, share of all, whether it is chosen."""
        chosen = set(self.chosen)
        return [
            (
                f"layer {one.layer}, head {one.head}",
                f"{one.value:.3g}",
                "–" if one.share is None else f"{one.share:.1%}",
                "yes" if (one.layer, one.head) in chosen else "no",
            )
            for one in self.top(10, measure)
        ]

    @property
    def chosen_in_words(self) -> str:
        """The chosen heads by layer: "0: 1-3 7, 2: 5"."""
        layers: dict[int, list[int]] = {}
        for layer, head in self.chosen:
            layers.setdefault(layer, []).append(head)
        return ", ".join(f"{layer}: {ranges(members)}" for layer, members in layers.items())

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        scores = {name: self.measures[name].tolist() if name in self.measures else None for name in COLUMNS}
        return {"task": self.task, **scores, "chosen": [list(head) for head in self.chosen]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TaskHeads:
        """The inverse of `to_json`."""
        scores: dict[str, Any] = {
            name: None if values[name] is None else torch.tensor(values[name]) for name in COLUMNS
        }
        return cls(task=values["task"], chosen=pairs(values["chosen"]), **scores)


@dataclass(frozen=True)
class TopHead:
    """A head, its value, and the share of it in the sum over all heads; None where all are zero."""

    layer: int
    head: int
    value: float
    share: float | None


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


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers with runs drawn together: [0, 1, 2, 5] -> "0-2 5"."""
    runs = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return " ".join(runs)


def pairs(values: Any) -> tuple[Head, ...]:
    """(layer, head) pairs from JSON."""
    return tuple((int(layer), int(head)) for layer, head in values)


def check_scores(scores: Mapping[str, torch.Tensor], chosen: Sequence[Head]) -> None:
    """Raises `ValueError` where scores are no tables of one size, hold what is no number, or lack a chosen head."""
    (shape, *others) = {tuple(values.shape) for values in scores.values()}
    if others or len(shape) != 2 or 0 in shape:
        raise ValueError(f"scores need one shape [layers, heads], not {shape}")
    if not all(bool(torch.isfinite(values).all()) for values in scores.values()):
        raise ValueError("a score is no finite number")
    if not all(0 <= layer < shape[0] and 0 <= head < shape[1] for layer, head in chosen):
        raise ValueError("a chosen head is none of the model's")
