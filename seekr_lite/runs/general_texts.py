"""What a run knows of general texts: `general/TEXT.json`, one file for each text, by the checksum of the text.

No part of what was learned: it is measured later, by `evaluate --general`, and is not in `run.json`, so that it can be
kept while the run goes on elsewhere. Each file has its own checksum, and names each adapter by the adapter's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import json_text, read_json, write_json
from seekr_lite.evaluation.scoreboard import Scoreboard, TextColumn
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.record import text_checksum
from seekr_lite.runs.stages import Stage

FOLDER = "general"
CHECKSUM = "checksum"
BARE = "base"


@dataclass
class KeptText:
    """A text, and its mean negative log-likelihood per token (nats) under each model that has read it.

    name: of the file that it was read from. text: its SHA-256. nll: the adapter's checksum, or "base" -> the value.
    """

    name: str
    text: str
    tokens: int
    nll: dict[str, float] = field(default_factory=dict)

    def path(self, folder: RunFolder) -> Path:
        return folder.path / FOLDER / f"{self.text[:16]}.json"

    def save(self, folder: RunFolder) -> None:
        """Raises `Stopped` where it cannot be written."""
        values = vars(self)
        write_json(self.path(folder), {**values, CHECKSUM: text_checksum(json_text(values))})

    @classmethod
    def read(cls, path: Path) -> KeptText:
        """Raises `UserError` where the file is not what was written."""
        try:
            values = read_json(path)
            checksum = values.pop(CHECKSUM)
            if checksum != text_checksum(json_text(values)):
                raise ValueError("its content does not match its checksum")
            kept = TypeAdapter(cls).validate_json(json_text(values), strict=True)
            if not re.fullmatch("[0-9a-f]{64}", kept.text) or path.stem != kept.text[:16]:
                raise ValueError("it is about another text than its name says")
            return kept
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path}: this file of the run is damaged: {reason}; measure it again") from None


def model_key(folder: RunFolder, stage: Stage) -> str:
    """What tells a model of the run from all others."""
    if stage is None:
        return BARE
    weights = folder.adapter_folder(stage) / "adapter_model.safetensors"
    return folder.record.files[weights.relative_to(folder.path).as_posix()]


def kept_texts(folder: RunFolder) -> Iterator[tuple[Path, KeptText | UserError]]:
    """Every file of general texts, in the order of their names: what is in it, or why it cannot be read."""
    for path in sorted((folder.path / FOLDER).glob("*.json")):
        try:
            yield path, KeptText.read(path)
        except UserError as error:
            yield path, error


def with_texts(board: Scoreboard, folder: RunFolder) -> Scoreboard:
    """The scoreboard with a column for each text that was measured; what is damaged is left out."""
    columns = [_column(board, folder, kept) for _, kept in kept_texts(folder) if isinstance(kept, KeptText)]
    return replace(board, texts=tuple(columns))


def _column(board: Scoreboard, folder: RunFolder, kept: KeptText) -> TextColumn:
    stages = enumerate(folder.record.stages)
    found = {record.tasks[-1]: kept.nll.get(model_key(folder, stage)) for stage, record in stages}
    return TextColumn(kept.name, kept.tokens, kept.nll.get(BARE), tuple(found.get(task) for task in board.tasks))
