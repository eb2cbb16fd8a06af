"""`log.jsonl`: what happened in a run, a line for each event; it only grows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from seekr_lite.common.files import append_text, writing
from seekr_lite.common.progress import Listener


class LogFile(Listener):
    """Appends events to `log.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def event(self, kind: str, **values: Any) -> None:
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **values}, ensure_ascii=False)
        append_text(self.path, line + "\n")


def cut_to_whole_lines(path: Path) -> None:
    """Takes away the line that a stop has cut, if there is one. Raises `Stopped` where it cannot be written."""
    if not path.is_file():
        return
    with writing(path), path.open("rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
