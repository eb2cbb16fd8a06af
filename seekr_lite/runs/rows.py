"""Rows as they lie in a run folder: replay samples and predictions, as the values of a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import append_text, read_limited, strict_json, writing
from seekr_lite.data.task import Example
from seekr_lite.evaluation.evaluate import Prediction, PredictionDraft
from seekr_lite.runs.record import text_checksum

Row = TypeVar("Row")


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


def json_lines(rows: Iterable[Any]) -> str:
    """The text of a file with a line of JSON for each row."""
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def read_rows(path: Path, parse: Callable[[Any], Row]) -> Iterator[Row]:
    """The rows of a file, a line of JSON each. Raises `UserError` where it is damaged."""
    try:
        lines = read_limited(path).split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this file of the run is damaged: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield parse(strict_json(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}:{number}: this file of the run is damaged: {error!r}") from None


class DraftFile(PredictionDraft):
    """One line for each prediction, in the order in which they come.

    A stop may cut the last line; then that row's batch is generated again. A line counts only while it is what was
    written (its checksum), and the test rows are what they were: row number and prompt must agree.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self, prompts: Sequence[str]) -> dict[int, str]:
        if not self.path.is_file():
            return {}
        found: dict[int, str] = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                values = json.loads(line)
                row, prompt, prediction = values["row"], values["prompt"], values["prediction"]
                whole = values == _draft_line(row, prompt, prediction)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if type(row) is not int or not isinstance(prediction, str):
                continue
            if whole and 0 <= row < len(prompts) and prompts[row] == prompt:
                found[row] = prediction
        return found

    def add(self, predictions: Mapping[int, tuple[str, str]]) -> None:
        if not predictions:
            return
        lines = json_lines(_draft_line(row, prompt, text) for row, (prompt, text) in predictions.items())
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        append_text(self.path, f"\n{lines}")  # the first break ends a line that a stop has cut


def _draft_line(row: int, prompt: str, prediction: str) -> dict[str, Any]:
    values = {"row": row, "prompt": prompt, "prediction": prediction}
    return values | {"checksum": text_checksum(json.dumps(values))}
