"""Tests a model on a task: generate, extract the answers, score them; and the likelihood of held-out answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from seekr_lite.common.errors import Stopped, UserError, nearest
from seekr_lite.common.memory import is_out_of_memory
from seekr_lite.common.processes import current_processes
from seekr_lite.common.progress import current_listener
from seekr_lite.common.stopping import current_stop
from seekr_lite.data.encoding import encode_prompts, encode_task_rows
from seekr_lite.data.task import Task
from seekr_lite.evaluation.extraction import EXTRACTIONS
from seekr_lite.evaluation.generate import generate, mean_answer_nll
from seekr_lite.evaluation.metrics import METRICS, mean_score
from seekr_lite.recipe.recipe import Recipe


@dataclass(frozen=True)
class Prediction:
    """One test row: what was asked, what the model wrote, what was right, and the row's score where it has one."""

    prompt: str
    prediction: str
    references: tuple[str, ...]
    score: float | None


@dataclass(frozen=True)
class TaskResult:
    """A task's score from 0 to 100, the NLL per answer token on its validation rows, and the predictions.

    score, nll: None where there are no such rows.
    """

    score: float | None
    nll: float | None
    predictions: tuple[Prediction, ...]


class PredictionDraft:
    """Where predictions go while a task is being tested; this one forgets them (`runs/rows.py`: on disk)."""

    def known(self, prompts: Sequence[str]) -> dict[int, str]:
        """Row number -> prediction, of the rows that were predicted before the evaluation was stopped."""
        return {}

    def add(self, predictions: Mapping[int, tuple[str, str]]) -> None:
        """Takes the rows of a batch: row number -> (prompt, prediction)."""


def evaluate_task(
    model: Any,
    tokenizer: Any,
    task: Task,
    recipe: Recipe,
    what: str,
    draft: PredictionDraft | None = None,
) -> TaskResult:
    """Tests the model, as it is set up now, on the task's test rows and validation rows.

    Several processes share the batches; each has the whole result.

    Args:
        what: the model, for the reader, as in "after shade".
        draft: keeps the predictions as they come, and offers those of an evaluation that was stopped; that of the main
            process alone is asked.

    Raises:
        Stopped: a batch does not fit into memory.
        Interrupted: a stop was asked for; the draft has the batches so far.
    """
    data, limits = recipe.data, recipe.evaluate
    sources = [row.prompt for row in task.test]
    prompts = encode_prompts(tokenizer, sources, data)
    new_tokens = task.max_new_tokens or data.max_answer_tokens
    draft, processes = draft or PredictionDraft(), current_processes()
    known = dict(processes.on_main(lambda: list(draft.known(sources).items())))
    by_row: dict[int, str] = {}
    held_out = encode_task_rows(tokenizer, task.validation, data)
    title = f"testing {task.name} ({what})"
    with _room_for(limits.batch_tokens), current_listener().phase(title, len(sources)) as advance:
        for texts in generate(model, tokenizer, prompts, new_tokens, limits.batch_tokens, known):
            if processes.is_main:
                draft.add({row: (sources[row], text) for row, text in texts.items() if row not in known})
            by_row |= texts
            advance(len(texts))
            current_stop().check()
        nll = mean_answer_nll(model, held_out, tokenizer.pad_token_id, limits.batch_tokens)
    if nll is None and held_out:
        current_listener().say(f"{task.name} ({what}): the NLL of its held-out rows is not finite, and is left out")
    written = [by_row[row] for row in range(len(sources))]
    extract, score = EXTRACTIONS[task.extraction], METRICS[task.metric]
    references = [tuple(row.references) or (row.answer,) for row in task.test]
    rows = list(zip(sources, written, references, strict=True))
    scores = [score(source, extract(text), right) for source, text, right in rows]
    predictions = tuple(Prediction(*row, points) for row, points in zip(rows, scores, strict=True))
    return TaskResult(mean_score(scores) if scores else None, nll, predictions)


@contextmanager
def _room_for(batch_tokens: int) -> Iterator[None]:
    """Says what to do where a batch does not fit; there are no gradients here whose parts could be added up."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise Stopped(
            f"out of memory in a test with evaluate.batch_tokens = {batch_tokens}: set it lower and run the same "
            "command; everything so far is kept, and it goes on from there"
        ) from None


def check_metrics(tasks: list[Task]) -> None:
    """Raises `UserError` where a task names a metric or an extraction that does not exist."""
    for task in tasks:
        for kind, name, known in (("metric", task.metric, METRICS), ("extraction", task.extraction, EXTRACTIONS)):
            if name not in known:
                raise UserError(
                    f'task {task.name}: no {kind} is called "{name}"{nearest(name, known)}; allowed: {", ".join(known)}'
                )
