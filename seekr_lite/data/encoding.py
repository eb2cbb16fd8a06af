"""Text becomes tokens: prompt and answer apart, so that a cut never eats the answer or its end token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.data.task import Example
from seekr_lite.recipe.recipe import DataSettings


@dataclass(frozen=True)
class EncodedExample:
    """A row as token ids. The last `answer_length` ids are the answer with its end token: the labels."""

    input_ids: tuple[int, ...]
    answer_length: int
    truncated_prompt_tokens: int = 0
    truncated_answer_tokens: int = 0


def encode_task_rows(tokenizer: Any, examples: Sequence[Example], data: DataSettings) -> list[EncodedExample]:
    """Encodes rows to learn from. A long prompt loses its left end (a start token stays); a long answer loses its
    right end; the end token is always there.

    Raises:
        UserError: a chat template is asked for, and the tokenizer has none or it fails.
    """
    if not examples:
        return []
    prompts = encode_prompts(tokenizer, [row.prompt for row in examples], data)
    answers = tokenizer([row.answer for row in examples], add_special_tokens=False)["input_ids"]
    encoded = []
    for prompt, answer in zip(prompts, answers, strict=True):
        kept = [*answer[: data.max_answer_tokens - 1], tokenizer.eos_token_id]
        ids = (*prompt.input_ids, *kept)
        encoded.append(EncodedExample(ids, len(kept), prompt.truncated_prompt_tokens, len(answer) + 1 - len(kept)))
    return encoded


def encode_prompts(tokenizer: Any, prompts: Sequence[str], data: DataSettings) -> list[EncodedExample]:
    """Encodes prompts to generate from, by the same path as `encode_task_rows`."""
    if not prompts:
        return []
    if data.chat_template:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "data.chat_template = true: the tokenizer of this base has no chat template; set it to false"
            )
        try:
            rendered = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
                )
                for prompt in prompts
            ]
        except Exception as error:  # a template is a program of the model's, in a sandbox: it may raise anything
            raise UserError(
                f"data.chat_template = true: the chat template of this base fails ({error!r}); set it to false"
            ) from None
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(list(prompts), add_special_tokens=True)["input_ids"]
        if tokenizer.eos_token_id is not None:  # some tokenizers end every text
            ids = [row[:-1] if row and row[-1] == tokenizer.eos_token_id else row for row in ids]
    return [_cut_left(row, data.max_prompt_tokens, tokenizer.bos_token_id) for row in ids]


def _cut_left(ids: list[int], limit: int, start_token: int | None) -> EncodedExample:
    excess = max(0, len(ids) - limit)
    if excess and start_token is not None and ids[0] == start_token:
        ids = [start_token, *ids[len(ids) - limit + 1 :]]
    elif excess:
        ids = ids[excess:]
    if not ids:
        raise UserError("a prompt has no tokens at all; every row needs some text to start from")
    return EncodedExample(tuple(ids), 0, excess)
