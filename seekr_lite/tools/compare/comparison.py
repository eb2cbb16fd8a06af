"""Runs side by side: their figures, and mean and spread over the seeds of each method.

(Not `compare.py`: the package's public function `compare` would be hidden by a module of the same name.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_file
from seekr_lite.common.terminal import as_text
from seekr_lite.runs.folder import RunFolder
from seekr_lite.tools.compare.compare_html import compare_html
from seekr_lite.tools.compare.comparison_table import comparison_table
from seekr_lite.tools.compare.figures import ComparedRun, MethodGroup, compared, differing, is_setting, method_groups


@dataclass(frozen=True)
class Comparison:
    """`runs` in the order given; `groups` sum up the finished ones; `differences` are keys of their recipes that
    differ, besides method and seed: key -> the values, as text."""

    runs: tuple[ComparedRun, ...]
    groups: tuple[MethodGroup, ...]
    differences: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, folders: Sequence[RunFolder]) -> Comparison:
        """Compares runs on disk. Raises `UserError` where there are none, or a file of one is damaged."""
        if not folders:
            raise UserError("compare: name at least one run")
        recipes = [folder.recipe() for folder in folders]
        runs = tuple(compared(folder, recipe) for folder, recipe in zip(folders, recipes, strict=True))
        columns = {key: values for key, values in differing(recipes).items() if is_setting(key)}
        differences = {key: tuple(dict.fromkeys(map(str, values))) for key, values in columns.items()}
        return cls(runs, method_groups(runs, recipes), differences)

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [run.to_json() for run in self.runs],
            "methods": [group.to_json() for group in self.groups],
            "differences": {key: list(values) for key, values in self.differences.items()},
        }

    def save_html(self, path: str | Path) -> None:
        """Writes one HTML file that needs nothing else. Raises `UserError` where it cannot be written."""
        page = compare_html([RunFolder.open(run.path) for run in self.runs])
        with user_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def __str__(self) -> str:
        return as_text(comparison_table(self.runs, self.groups, self.differences))
