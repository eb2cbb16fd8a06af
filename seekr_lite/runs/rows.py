"""Rows as they lie in a run folder: replay samples and predictions, as the values of a line of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import read_limited
from seekr_lite.data.task import Example
from seekr_lite.evaluation.evaluate import Prediction
from seekr_lite.strict_json import strict_json


def prediction_values(row: Prediction) -> dict[str, Any]:
    values = {
        "prompt": row.prompt,
        "prediction": row.prediction,
        "reference": row.references[0],
        "score": row.score,
    }
    return values | ({"references": list(row.references)} if len(row.references) > 1 else {})


def as_prediction(values: Any) -> Prediction:
    """The inverse of `prediction_values`. Raises `KeyError` and `TypeError`."""
    prompt, prediction, score = values["prompt"], values["prediction"], values["score"]
    references = tuple(values.get("references", [values["reference"]]))
    if not all(isinstance(one, str) for one in (prompt, prediction, *references)):
        raise TypeError("prompt, prediction and references must be texts")
    if not isinstance(score, int | float | None):
        raise TypeError("a score must be a number")
    return Prediction(prompt, prediction, references, score)


def example_values(row: Example) -> dict[str, Any]:
    values: dict[str, Any] = {"prompt": row.prompt, "answer": row.answer}
    return values | ({"references": list(row.references)} if row.references else {})


def as_example(values: Any) -> Example:
    """The inverse of `example_values`. Raises `KeyError` and `TypeError`."""
    prompt, answer, references = values["prompt"], values["answer"], tuple(values.get("references", ()))
    if not all(isinstance(text, str) for text in (prompt, answer, *references)):
        raise TypeError("prompt, answer and references must be texts")
    return Example(prompt, answer, references)


def read_examples(path: Path) -> Iterator[Example]:
    """The samples of a file, a line each. Raises `UserError` where it is damaged."""
    try:
        lines = read_limited(path).split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this file of the run is damaged: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield as_example(strict_json(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}:{number}: this file of the run is damaged: {error!r}") from None
