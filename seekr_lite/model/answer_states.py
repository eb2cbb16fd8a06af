"""The model's last hidden states around the answers, and its output layer, kept apart.

Logits are as wide as the vocabulary, and of a long prompt nobody needs them: so the output layer runs where answers
are, and there in chunks (`losses.py`). Legend: r rows, a answer positions kept (left-padded rows end together),
h hidden size, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from seekr_lite.attention.tap import Recorder
from seekr_lite.common.train_mode import eval_mode
from seekr_lite.data.batch import Batch
from seekr_lite.model.soft_prompts import PromptedModel

ToLogits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class AnswerStates:
    """hidden `[r, a + 1, h]`: the positions that hold the answers, and the one before; `to_logits` makes `[..., v]`."""

    hidden: torch.Tensor
    to_logits: ToLogits


def answer_span(batch: Batch) -> int:
    """a: the longest answer of the batch, in tokens; rows are padded on the left, so answers end together."""
    return int((batch.labels != -100).sum(-1).max())


def answer_labels(batch: Batch, span: int) -> torch.Tensor:
    """The labels `[r, span]` that the answer's states `[:, :-1]` predict; -100 where a row's answer is shorter."""
    return batch.labels[:, batch.labels.shape[1] - span :]


def answer_states(
    model: Any,
    batch: Batch,
    recorder: Recorder | None = None,
    positions: int | None = None,
    inputs_embeds: torch.Tensor | None = None,
) -> AnswerStates:
    """Runs the model on a batch.

    Args:
        model: a causal language model of transformers, in PEFT's wrapper, with a soft prompt, or neither.
        positions: how many of the last positions are kept, if not a + 1.
        inputs_embeds: in place of the batch's tokens `[r, n, h]`.
    """
    kept = answer_span(batch) + 1 if positions is None else positions
    if isinstance(model, PromptedModel):
        batch = model.with_prompt(batch)
    options: dict[str, Any] = {} if recorder is None else {"attention_recorder": recorder}
    options |= {"input_ids": batch.input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    options |= {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids, "use_cache": False}
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside PEFT's wrapper, or ours
    to_logits = _output_layer(causal)
    if to_logits is None:
        return AnswerStates(causal(**options, logits_to_keep=kept).logits, torch.nn.Identity())
    hidden = causal.base_model(**options).last_hidden_state
    return AnswerStates(hidden[:, hidden.shape[1] - kept :], to_logits)


# ---------------------------------------------------------------------- the output layer


_OUTPUT_LAYERS: WeakKeyDictionary[torch.nn.Module, ToLogits | None] = WeakKeyDictionary()


def _output_layer(causal: Any) -> ToLogits | None:
    """What makes logits of hidden states: the output layer alone, where that is all; else None.

    Some models scale or cap their logits on the way, and a head with an adapter has gradients of its own: there the
    model makes the logits itself. Which it is, a few tokens tell, once for each model.
    """
    if causal not in _OUTPUT_LAYERS:
        head = causal.get_output_embeddings()
        plain = (
            isinstance(head, torch.nn.Linear)
            and not any(parameter.requires_grad for parameter in head.parameters())
            and _makes_the_logits(causal, head)
        )
        _OUTPUT_LAYERS[causal] = head if plain else None
    return _OUTPUT_LAYERS[causal]


@torch.no_grad()
def _makes_the_logits(causal: Any, head: torch.nn.Module) -> bool:
    ids = torch.tensor([[1, 2, 3]], device=head.weight.device)  # type: ignore[arg-type]
    with eval_mode(causal.modules()):
        logits = causal(input_ids=ids, use_cache=False).logits
        made = head(causal.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    return made.shape == logits.shape and torch.equal(made, logits)
