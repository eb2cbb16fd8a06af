"""Predictions of a task that is being tested, kept as they come: a stop loses none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seekr_lite.common.files import append_text, writing
from seekr_lite.evaluation.evaluate import PredictionDraft
from seekr_lite.runs.record import text_checksum


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
        lines = [
            json.dumps(_draft_line(row, prompt, text), ensure_ascii=False)
            for row, (prompt, text) in predictions.items()
        ]
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        append_text(self.path, "\n" + "\n".join(lines) + "\n")  # the first break ends a line that a stop has cut


def _draft_line(row: int, prompt: str, prediction: str) -> dict[str, Any]:
    values = {"row": row, "prompt": prompt, "prediction": prediction}
    return values | {"checksum": text_checksum(json.dumps(values))}
