"""Scores every head on the samples of a task: one pass with gradients for sensitivity, two without for change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from seekr_lite.attention.importance import (
    ChangeRecorder,
    SensitivityRecorder,
    mean_by_layer,
    normalise_layers,
)
from seekr_lite.attention.recording import HeadRecorder, all_heads
from seekr_lite.attention.tap import tap
from seekr_lite.attention.tappable import check_tappable
from seekr_lite.common.modes import train_mode_without_dropout
from seekr_lite.common.processes import current_processes
from seekr_lite.common.progress import Advance, ignore
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.model.answer_states import answer_states
from seekr_lite.model.losses import answer_cross_entropy_sum
from seekr_lite.model.snapshots import SnapshotSequence


def score_heads(
    adapters: SnapshotSequence,
    samples: Sequence[EncodedExample],
    before: int | None,
    after: int,
    queries: Sequence[Sequence[int] | None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sensitivity (normalised over each layer's heads) and forgettability, both `[layers, heads]`, on the host.

    The student must be the model after task `after`. `before` None is the bare base. `queries[i]` are the query
    rows of sample i that forgettability compares, None: all. Several processes share the samples.
    """
    return (
        head_sensitivity(adapters, samples),
        head_forgettability(adapters, samples, before, after, queries),
    )


def head_sensitivity(
    adapters: SnapshotSequence, samples: Sequence[EncodedExample], advance: Advance = ignore
) -> torch.Tensor:
    """How much the loss of the model as it is set up now depends on each head, normalised over a layer's heads.

    `[layers, heads]`, on the host. `advance` is called after each sample.

    Raises:
        UserError: the base's attention is not what the tap takes it for.
    """
    check_tappable(adapters.base.model)
    found = []
    with tap(adapters.base.model):
        for batch in _one_by_one(adapters, current_processes().share(samples)):
            found.append(sample_sensitivity(adapters.model, batch))
            advance(1)
    return normalise_layers(mean_by_layer(_of_all(found, len(samples), adapters)))


def head_forgettability(
    adapters: SnapshotSequence,
    samples: Sequence[EncodedExample],
    before: int | None,
    after: int,
    queries: Sequence[Sequence[int] | None],
    advance: Advance = ignore,
) -> torch.Tensor:
    """How much each head's map moved between two models: `[layers, heads]`, on the host. See `score_heads`.

    Raises:
        UserError: the base's attention is not what the tap takes it for.
    """
    check_tappable(adapters.base.model)
    found, processes = [], current_processes()
    with tap(adapters.base.model):
        own = processes.share(samples)
        for batch, rows in zip(_one_by_one(adapters, own), processes.share(queries), strict=True):
            found.append(_sample_change(adapters, batch, before, after, rows))
            advance(1)
    return mean_by_layer(_of_all(found, len(samples), adapters))


def _of_all(
    own: list[dict[int, torch.Tensor]], count: int, adapters: SnapshotSequence
) -> list[dict[int, torch.Tensor]]:
    """What all processes found of `count` samples, in the order of samples: to the bit, since one alone had each."""
    processes = current_processes()
    if processes.count == 1:
        return own
    config = adapters.base.model.config.get_text_config()
    # [samples, layers, heads]; zero where another process, or no tap, has been
    scores = torch.zeros(
        count, config.num_hidden_layers, config.num_attention_heads, dtype=torch.float64, device=adapters.base.device
    )
    for sample, layers in zip(processes.share(range(count)), own, strict=True):
        for layer, found in layers.items():
            scores[sample, layer] = found[0]
    processes.sum(scores)
    dtype = torch.promote_types(adapters.base.model.dtype, torch.float32)
    return [{layer: found[None].to(dtype) for layer, found in enumerate(sample)} for sample in scores]


def _one_by_one(adapters: SnapshotSequence, samples: Sequence[EncodedExample]) -> Iterator[Batch]:
    for sample in samples:
        yield collate([sample], adapters.base.tokenizer.pad_token_id).to(adapters.base.device)


def sample_sensitivity(model: torch.nn.Module, batch: Batch) -> dict[int, torch.Tensor]:
    """layer -> `[1, heads]`: mean square gradient of the sample's loss (mean over its answer tokens) per map entry.

    Train mode, so that checkpointing is on; dropout off; the gradient is taken with respect to the input embeddings,
    so that it passes every layer and the student's own gradients stay untouched.
    """
    recorder = SensitivityRecorder(batch.padding)
    embeddings = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()  # type: ignore[operator]
    with train_mode_without_dropout(model):
        loss = answer_cross_entropy_sum(model, batch, recorder=recorder, inputs_embeds=embeddings)
        loss = loss / (batch.labels != -100).sum()
        torch.autograd.grad(loss, embeddings)
    return recorder.layers


def _sample_change(
    adapters: SnapshotSequence, batch: Batch, before: int | None, after: int, queries: Sequence[int] | None
) -> dict[int, torch.Tensor]:
    config = adapters.base.model.config.get_text_config()
    device = batch.labels.device
    rows = None if queries is None else torch.tensor([queries], device=device)  # a sample alone is not padded
    pairs = all_heads(1, config.num_attention_heads, device, rows)
    then = HeadRecorder({layer: pairs for layer in range(config.num_hidden_layers)})
    now = ChangeRecorder(then, batch.padding, rows)
    for index, recorder in ((before, then), (after, now)):
        with adapters.acting_as(index, slot_rank=adapters.teacher_rank):
            answer_states(adapters.model, batch, recorder, positions=1)
    return now.layers
