"""LFPT5: lifelong few-shot learning by prompt tuning (Qin & Joty 2021, arXiv 2110.07298), for a decoder.

One soft prompt learns to answer the rows of a task, and, with one vector more behind it, to write such rows. When the
task ends it writes a few, and answers them: these pseudo rows are kept in place of real ones. Later they are replayed,
and the prompt is held to what the prompt of their task says of them.

Of a pseudo row the prompt is sampled and the answer greedy (the paper samples both in one text). They are written at
the end of their own task, whose prompt knows it best. Costs the vectors, one forward and backward pass more of each new
row for the writing, and pseudo rows as text, as many as `replay_fraction` says. No real row is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from seekr_lite.common.errors import UserError
from seekr_lite.common.seeds import seed_for
from seekr_lite.data.batch import IGNORED, Batch, split_by_tokens
from seekr_lite.data.encoding import encode_prompts
from seekr_lite.data.task import Example
from seekr_lite.evaluation.generate import generate
from seekr_lite.methods.derpp import DarkExperienceReplay
from seekr_lite.methods.method import LossTerm, StepTotals
from seekr_lite.model.answer_states import answer_states
from seekr_lite.model.base import Base
from seekr_lite.model.losses import cross_entropy_sum
from seekr_lite.model.soft_prompts import PromptSequence
from seekr_lite.recipe.recipe import Recipe

TOKENS_AT_ONCE = 8192  # of pseudo rows that are written; not `evaluate.batch_tokens`, since the draws depend on it
SAMPLING: dict[str, Any] = {  # of pseudo rows, whatever a model's own generation settings say
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 0.9,
    "repetition_penalty": 1.0,
}
TRIES = 3  # times that pseudo rows are written where too few are whole


class WritingPrompt(PromptSequence):
    """The prompt, and how long the rows may be that it writes."""

    def __init__(self, base: Base, recipe: Recipe, tokens: int) -> None:
        super().__init__(base, recipe.adapter, recipe.run.seed, tokens, generation=True)
        self.limits = recipe.data


class Lfpt5(DarkExperienceReplay):
    """L_new = cross-entropy of answers + writing_weight * cross-entropy of prompts after [P, writing vector];
    L_replay = cross_entropy_weight * cross-entropy + logits_weight * H(old prompt, prompt), both of pseudo rows.

    H differs from the paper's KL by the old prompt's entropy, which has no gradient.
    """

    name = "lfpt5"
    summary = "a soft prompt that replays rows it has written itself"
    trainings_of_a_new_row = 2  # its answer, and the writing of it
    default_options: ClassVar = {"tokens": 20, "writing_weight": 1.0, "learning_rate_factor": 30.0}
    option_ranges: ClassVar = {
        "tokens": (1, 10_000),
        "writing_weight": (0, 1e9),
        "learning_rate_factor": (1e-6, 1e6),
    }
    adapters: WritingPrompt

    @classmethod
    def make_adapters(cls, base: Base, recipe: Recipe) -> WritingPrompt:
        if recipe.data.chat_template:
            raise UserError('data.chat_template = true: the method "lfpt5" writes plain rows; set it to false')
        return WritingPrompt(base, recipe, int(cls.read_options(recipe.method)["tokens"]))

    @classmethod
    def extra_tokens(cls, recipe: Recipe) -> int:
        return int(cls.read_options(recipe.method)["tokens"]) + 1

    def new_task_loss(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        written = self.writing_loss(batch) / totals.rows
        return [
            *super().new_task_loss(batch, totals),
            LossTerm("writing", written, float(self.options["writing_weight"])),
        ]

    def writing_loss(self, batch: Batch) -> torch.Tensor:
        """Sum over rows of the mean cross-entropy per token of the prompt and of an end token behind it."""
        eos = int(self.adapters.base.tokenizer.eos_token_id)  # type: ignore[arg-type]
        labels = writing_labels(batch, eos)
        with self.adapters.generating():
            states = answer_states(self.model, batch, positions=labels.shape[1] + 1)
        return cross_entropy_sum(states, labels, row_weights=1 / (labels != IGNORED).sum(-1))

    # ------------------------------------------------------------------ pseudo rows

    def keep_rows(self, index: int, chosen: Sequence[Example]) -> Sequence[Example]:
        data, tokenizer = self.adapters.limits, self.adapters.base.tokenizer
        with self.adapters.acting_as(index):
            prompts = self._write_prompts(index, len(chosen), data.max_prompt_tokens)
            encoded = encode_prompts(tokenizer, prompts, data.model_copy(update={"chat_template": False}))
            answers: dict[int, str] = {}
            for some in generate(self.model, tokenizer, encoded, data.max_answer_tokens, TOKENS_AT_ONCE, known={}):
                answers |= some
        return [Example(prompt, answers[place]) for place, prompt in enumerate(prompts)]

    def _write_prompts(self, index: int, count: int, max_tokens: int) -> list[str]:
        """Prompts sampled behind the writing vector. Those that came to no end within `max_tokens` are taken only where
        whole ones are too few; fewer than `count` only where they come out empty."""
        device = self.adapters.base.device
        devices = [device] if device.type == "cuda" else []
        whole: list[str] = []
        cut_off: list[str] = []
        with self.adapters.generating(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed_for(self.seed, "pseudo rows", index))
            for _ in range(TRIES):
                for text, has_ended in self._sampled(count - len(whole), max_tokens):
                    if text.strip():
                        (whole if has_ended else cut_off).append(text)
                if len(whole) == count:
                    break
        return [*whole, *cut_off][:count]

    def _sampled(self, count: int, max_tokens: int) -> Iterator[tuple[str, bool]]:
        """Texts of up to `max_tokens` behind the vectors that act, and whether they came to their end."""
        tokenizer, model = self.adapters.base.tokenizer, self.adapters.model
        tokens = self.adapters.teacher_rank + 1 + max_tokens  # of a row, with all the vectors
        for rows in split_by_tokens([tokens] * count, TOKENS_AT_ONCE):
            nothing = torch.zeros(len(rows), 0, dtype=torch.long, device=self.adapters.base.device)
            written = model.generate(
                nothing,
                max_new_tokens=max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                use_cache=True,
                **SAMPLING,
            )
            ended = (written == tokenizer.eos_token_id).any(-1).tolist()
            yield from zip(tokenizer.batch_decode(written, skip_special_tokens=True), ended, strict=True)


def writing_labels(batch: Batch, eos_token_id: int) -> torch.Tensor:
    """What is to be written of each row, at the places where it stands: its prompt, and at the first place of its
    answer the end token; -100 elsewhere. `[rows, tokens]`."""
    answer = batch.labels != IGNORED
    prompt = batch.attention_mask.bool() & ~answer
    first = answer & (answer.cumsum(-1) == 1)
    labels = torch.where(prompt, batch.input_ids, torch.full_like(batch.labels, IGNORED))
    return torch.where(first, torch.full_like(labels, eos_token_id), labels)
