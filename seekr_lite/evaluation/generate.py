"""Greedy generation: length-sorted batches by tokens, per-task limits, results in data order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from transformers import TextStreamer
from transformers.generation.streamers import BaseStreamer

from seekr_lite.common.processes import current_processes
from seekr_lite.data.batch import collate, split_by_tokens
from seekr_lite.data.encoding import EncodedExample, encode_prompts
from seekr_lite.evaluation.greedy import ALIGNED, can_answer, greedy_answers
from seekr_lite.model.losses import answer_cross_entropy_sum
from seekr_lite.model.soft_prompts import PromptedModel
from seekr_lite.recipe.recipe import DataSettings


class Pieces(TextStreamer):
    """Hands on an answer while it is written, in whole words."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._write(text)


@torch.no_grad()
def answer_prompt(
    model: Any,
    tokenizer: Any,
    prompt: str,
    data: DataSettings,
    max_new_tokens: int | None = None,
    write: Callable[[str], None] | None = None,
) -> str:
    """The greedy answer to one prompt: the same path as `generate`.

    Args:
        model: the model with the right adapter active, in eval mode.
        data: says how a prompt becomes tokens, and how long an answer is unless `max_new_tokens` says it.
        write: is given the pieces of the answer as soon as they are there.
    """
    prompts = encode_prompts(tokenizer, [prompt], data)
    if isinstance(model, PromptedModel):
        prompts, model = model.rows_with_prompt(prompts), model.get_base_model()
    limit, ends = max_new_tokens or data.max_answer_tokens, (tokenizer.pad_token_id, tokenizer.eos_token_id)
    pieces = None if write is None else Pieces(tokenizer, write)
    (answer,) = answer_function(model)(model, prompts, limit, *ends, streamer=pieces)
    text: str = tokenizer.decode(answer, skip_special_tokens=True)
    return text


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[EncodedExample],
    max_new_tokens: int,
    batch_tokens: int,
    known: Mapping[int, str],
) -> Iterator[dict[int, str]]:
    """What the model answers to each prompt, greedily, up to its end token or `max_new_tokens`; batch by batch.

    Args:
        model: the model with the right adapter active, in eval mode.
        prompts: encoded prompts without answers.
        batch_tokens: rows x (prompt + new tokens) of a batch stay below this.
        known: answers by row from an earlier start; a batch of which all are known is not generated again. (Whole
            batches only: in other company a row's sums may round differently.)

    Yields:
        Row number -> answer, for the rows of one batch. Several processes take one batch each, and exchange the answers
        before the next ones; so each yields all.
    """
    if isinstance(model, PromptedModel):
        prompts, model = model.rows_with_prompt(prompts), model.get_base_model()
    lengths = [len(prompt.input_ids) + max_new_tokens for prompt in prompts]
    answer = answer_function(model)
    batches = split_by_tokens(lengths, batch_tokens)
    for rows in batches:
        if all(row in known for row in rows):
            yield {row: known[row] for row in rows}
    processes = current_processes()
    left = [rows for rows in batches if not all(row in known for row in rows)]
    for first in range(0, len(left), processes.count):
        at_once = left[first : first + processes.count]
        texts: list[str] = []
        for rows in processes.share(at_once):
            batch = [prompts[row] for row in rows]
            answers = answer(model, batch, max_new_tokens, tokenizer.pad_token_id, tokenizer.eos_token_id)
            texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        for rows, found in zip(at_once, processes.gather(texts), strict=False):  # fewer batches than processes
            yield dict(zip(rows, found, strict=True))


def answer_function(model: Any) -> Callable[..., list[list[int]]]:
    """Our own loop where the model's cache allows it, else transformers'."""
    return greedy_answers if can_answer(model) else transformers_answers


@torch.no_grad()
def transformers_answers(
    model: Any,
    prompts: Sequence[EncodedExample],
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int,
    streamer: BaseStreamer | None = None,
    aligned: int = ALIGNED,
) -> list[list[int]]:
    """`greedy_answers` by transformers' own loop, for any model: every row goes on until the last one has ended."""
    batch = collate(prompts, pad_token_id, aligned).to(next(model.parameters()).device)
    output = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        streamer=streamer,
        use_cache=True,
        # Greedy, whatever a model's own generation settings say.
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
    )
    answers: list[list[int]] = output[:, batch.input_ids.shape[1] :].tolist()
    return answers


@torch.no_grad()
def mean_answer_nll(model: Any, rows: Sequence[EncodedExample], pad_token_id: int, batch_tokens: int) -> float | None:
    """Mean negative log-likelihood per answer token, teacher-forced, in nats; None where there are no rows, and where
    it is not finite (an overflow of float16)."""
    if not rows:
        return None
    processes, device = current_processes(), next(model.parameters()).device
    groups = split_by_tokens([len(row.input_ids) for row in rows], batch_tokens)
    sums = []
    for group in processes.share(groups):
        batch = collate([rows[index] for index in group], pad_token_id).to(device)
        sums.append(float(answer_cross_entropy_sum(model, batch)))
    by_process = processes.gather(sums)
    in_order = [by_process[index % processes.count][index // processes.count] for index in range(len(groups))]
    total: float = sum(in_order)
    return total / sum(row.answer_length for row in rows) if isfinite(total) else None
