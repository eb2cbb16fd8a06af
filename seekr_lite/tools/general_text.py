"""What learning did to the model elsewhere: its likelihood of a general text, before and after each task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seekr_lite.common.errors import Stopped, UserError
from seekr_lite.common.files import user_path
from seekr_lite.common.progress import Advance, current_listener
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.data.rows import read_text
from seekr_lite.evaluation.generate import mean_answer_nll
from seekr_lite.evaluation.scoreboard import perplexity
from seekr_lite.methods.registry import method_class
from seekr_lite.model.base import load_config
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.general_texts import KeptText, model_key
from seekr_lite.runs.record import text_checksum
from seekr_lite.runs.stages import Stage, find_stages, model_name
from seekr_lite.tools.models import RunModels

WINDOW = 1024  # tokens that the model reads at once


@dataclass(frozen=True)
class TextLikelihood:
    """A model's mean negative log-likelihood per token (nats) of a text; its perplexity is exp of that.

    from_run: it had been measured before, and was not measured again.
    """

    model: str
    nll: float
    tokens: int
    from_run: bool = False

    @property
    def perplexity(self) -> float:
        found = perplexity(self.nll)
        assert found is not None, "it was measured"
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values; a perplexity beyond all numbers is null."""
        return {**vars(self), "perplexity": self.perplexity if self.perplexity < math.inf else None}


def general_likelihood(folder: RunFolder, file: str | Path, after: Sequence[str] = ()) -> list[TextLikelihood]:
    """The likelihood of a text file under the bare base and the model after each task (or after those in `after`).

    What is measured is kept in the run folder, as a column of its scoreboard, and not measured again.

    Raises:
        UserError: the file cannot be read or is too short, no such task, or an adapter that is damaged.
    """
    path = user_path(file).resolve()
    stages: list[Stage] = find_stages(folder, after) if after else [None, *range(len(folder.record.stages))]
    text = read_text(path, path.parent)
    kept = _kept(folder, path.name, text)
    known = set(kept.nll)
    missing = [stage for stage in dict.fromkeys(stages) if model_key(folder, stage) not in known]
    if missing:
        _measure(folder, missing, text, kept)
    return [
        TextLikelihood(model_name(folder, stage), kept.nll[key], kept.tokens, key in known)
        for stage, key in ((stage, model_key(folder, stage)) for stage in stages)
    ]


def _kept(folder: RunFolder, name: str, text: str) -> KeptText:
    """What the run knows of this text so far."""
    new = KeptText(name, text_checksum(text), 0)
    if not new.path(folder).is_file():
        return new
    try:
        found = KeptText.read(new.path(folder))
        return replace(found, name=name) if found.text == new.text else new
    except UserError as error:
        current_listener().say(str(error))
        return new


def _measure(folder: RunFolder, stages: Sequence[Stage], text: str, kept: KeptText) -> None:
    """Adds what these models make of a text to what is kept; each as soon as it is known."""
    recipe, models = folder.recipe(), RunModels(folder)
    longest = getattr(load_config(recipe.base).get_text_config(), "max_position_embeddings", None) or WINDOW
    in_front = method_class(recipe.method.name).extra_tokens(recipe)
    windows = split_text(models.tokenizer, text, max(2, min(WINDOW, int(longest) - in_front)))
    if not windows:
        raise UserError(f"{kept.name}: there is too little text in it; at least two tokens are needed")
    kept.tokens = sum(row.answer_length for row in windows)
    for stage in stages:
        title = f"reading {kept.name} ({model_name(folder, stage)})"
        with models.acting(stage) as model, current_listener().phase(title, len(windows)) as advance:
            nll = _mean_nll(model, models.tokenizer.pad_token_id, windows, recipe.evaluate.batch_tokens, advance)
        kept.nll[model_key(folder, stage)] = nll
        try:
            kept.save(folder)
        except Stopped as error:  # a run that may only be read can be measured nevertheless
            current_listener().say(f"not kept for later: {error}")


def _mean_nll(
    model: Any, pad_token_id: int, windows: Sequence[EncodedExample], batch_tokens: int, advance: Advance
) -> float:
    """Over all windows, some of them at a time, so that there is progress to be seen."""
    total, at_once = 0.0, max(1, batch_tokens // WINDOW)
    for start in range(0, len(windows), at_once):
        group = windows[start : start + at_once]
        mean = mean_answer_nll(model, group, pad_token_id, batch_tokens)
        if mean is None:
            raise UserError("the likelihood of this text is not finite: float16 overflows where bfloat16 does not")
        total += mean * sum(row.answer_length for row in group)
        advance(len(group))
    return total / sum(row.answer_length for row in windows)


def split_text(tokenizer: Any, text: str, window: int) -> list[EncodedExample]:
    """The text in windows of at most `window` tokens, of which all but the first are predicted.

    Each token is predicted once. The first one of a window is the start token, where the tokenizer puts one; else the
    last token of the window before, and of the first window the first token of the text.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = tokenizer.bos_token_id if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else None
    found = []
    for start in range(0 if starts is not None else 1, len(ids), window - 1):
        predicted = ids[start : start + window - 1]
        first = starts if starts is not None else ids[start - 1]
        found.append(EncodedExample((first, *predicted), len(predicted)))
    return found
