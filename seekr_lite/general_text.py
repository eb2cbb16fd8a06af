"""What learning did to the model elsewhere: its likelihood of a general text, before and after each task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr_lite.errors import UserError
from seekr_lite.progress import Advance, Listener
from seekr_lite.run_models import RunModels, Stage, find_stages, model_name

if TYPE_CHECKING:
    from seekr_lite.data.encoding import EncodedExample
    from seekr_lite.run_folder import RunFolder

WINDOW = 1024  # tokens that the model reads at once


@dataclass(frozen=True)
class TextLikelihood:
    """A model's mean negative log-likelihood per token (nats) of a text; its perplexity is exp of that."""

    model: str
    nll: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll) if self.nll < 700 else math.inf

    def to_json(self) -> dict[str, Any]:
        """Plain values; a perplexity beyond all numbers is null."""
        return {**vars(self), "perplexity": self.perplexity if self.perplexity < math.inf else None}


def general_likelihood(
    folder: RunFolder, file: str | Path, after: Sequence[str] = (), listener: Listener | None = None
) -> list[TextLikelihood]:
    """The likelihood of a text file under the bare base and the model after each task (or after those in `after`).

    Raises:
        UserError: the file cannot be read or is too short, no such task, or an adapter that is damaged.
    """
    from seekr_lite.base import load_config
    from seekr_lite.data.rows import read_text

    path, listener = Path(file).expanduser().resolve(), listener or Listener()
    stages: list[Stage] = find_stages(folder, after) if after else [None, *range(len(folder.record.stages))]
    text, recipe = read_text(path, path.parent), folder.recipe()
    longest = getattr(load_config(recipe.base).get_text_config(), "max_position_embeddings", None) or WINDOW
    models, found = RunModels(folder), []
    windows = split_text(models.tokenizer, text, min(WINDOW, int(longest)))
    if not windows:
        raise UserError(f"{file}: there is too little text in it; at least two tokens are needed")
    for stage in stages:
        title = f"reading {path.name} ({model_name(folder, stage)})"
        with models.acting(stage) as model, listener.phase(title, len(windows)) as advance:
            nll = _mean_nll(model, models.tokenizer.pad_token_id, windows, recipe.evaluate.batch_tokens, advance)
        found.append(TextLikelihood(model_name(folder, stage), nll, sum(row.answer_length for row in windows)))
    return found


def _mean_nll(
    model: Any, pad_token_id: int, windows: Sequence[EncodedExample], batch_tokens: int, advance: Advance
) -> float:
    """Over all windows, some of them at a time, so that there is progress to be seen."""
    from seekr_lite.evaluation.generate import mean_answer_nll

    total, at_once = 0.0, max(1, batch_tokens // WINDOW)
    for start in range(0, len(windows), at_once):
        group = windows[start : start + at_once]
        mean = mean_answer_nll(model, group, pad_token_id, batch_tokens)
        assert mean is not None, "there are rows"
        total += mean * sum(row.answer_length for row in group)
        advance(len(group))
    return total / sum(row.answer_length for row in windows)


def split_text(tokenizer: Any, text: str, window: int) -> list[EncodedExample]:
    """The text in windows of at most `window` tokens, of which all but the first are predicted.

    Each token is predicted once. The first one of a window is the start token, where the tokenizer puts one; else the
    last token of the window before, and of the first window the first token of the text.
    """
    from seekr_lite.data.encoding import EncodedExample

    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = tokenizer.bos_token_id if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else None
    found = []
    for start in range(0 if starts is not None else 1, len(ids), window - 1):
        predicted = ids[start : start + window - 1]
        first = starts if starts is not None else ids[start - 1]
        found.append(EncodedExample((first, *predicted), len(predicted)))
    return found
