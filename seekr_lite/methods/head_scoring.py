"""Scores every head on the samples of a task: one pass with gradients for sensitivity, two without for change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from seekr_lite.common.processes import current_processes
from seekr_lite.common.progress import Advance, ignore
from seekr_lite.common.train_mode import train_mode_without_dropout
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.model.answer_states import answer_states
from seekr_lite.model.losses import answer_cross_entropy_sum
from seekr_lite.model.snapshots import SnapshotSequence


def head_sensitivity(
    adapters: SnapshotSequence, samples: Sequence[EncodedExample], advance: Advance = ignore
) -> torch.Tensor:
    """How much the loss of the model as it is set up now depends on each head, normalised over a layer's heads.

    `[layers, heads]`, on the host. Several processes share the samples; `advance` is called after each.

    Raises:
        UserError: the base's attention is not what the tap takes it for.
    """

    def sensitivity(batch: Batch, sample: int) -> dict[int, torch.Tensor]:
        return sample_sensitivity(adapters.model, batch)

    return normalise_layers(_mean_over(samples, sensitivity, adapters, advance))


def head_forgettability(
    adapters: SnapshotSequence,
    samples: Sequence[EncodedExample],
    before: int | None,
    after: int,
    queries: Sequence[Sequence[int] | None],
    advance: Advance = ignore,
) -> torch.Tensor:
    """How much each head's map moved from the model after task `before` (None: the bare base) to that after `after`.

    `[layers, heads]`, on the host. `queries[i]` are the query rows of sample i that are compared, None: all. Several
    processes share the samples; `advance` is called after each.

    Raises:
        UserError: the base's attention is not what the tap takes it for.
    """
    config = adapters.base.model.config.get_text_config()

    def change(batch: Batch, sample: int) -> dict[int, torch.Tensor]:
        device, wanted = batch.labels.device, queries[sample]
        rows = None if wanted is None else torch.tensor([wanted], device=device)  # a sample alone is not padded
        pairs = all_heads(1, config.num_attention_heads, device, rows)
        then = HeadRecorder({layer: pairs for layer in range(config.num_hidden_layers)})
        now = ChangeRecorder(then, batch.padding, rows)
        for index, recorder in ((before, then), (after, now)):
            with adapters.acting_as(index, slot_rank=adapters.teacher_rank):
                answer_states(adapters.model, batch, recorder, positions=1)
        return now.layers

    return _mean_over(samples, change, adapters, advance)


def _mean_over(
    samples: Sequence[EncodedExample],
    measure: Callable[[Batch, int], dict[int, torch.Tensor]],
    adapters: SnapshotSequence,
    advance: Advance,
) -> torch.Tensor:
    """`[layers, heads]`: the mean over samples, each a batch of its own, of what `measure` gives of it by layer."""
    check_tappable(adapters.base.model)
    processes, base = current_processes(), adapters.base
    found = []
    with tap(base.model):
        for sample in processes.share(range(len(samples))):
            batch = collate([samples[sample]], base.tokenizer.pad_token_id).to(base.device)
            found.append(measure(batch, sample))
            advance(1)
    if processes.count > 1:
        # All samples in their order, to the bit: the mean is what one process alone would have made of them.
        of_all = processes.gather([[sample[layer].tolist() for layer in sorted(sample)] for sample in found])
        in_order = [of_all[index % processes.count][index // processes.count] for index in range(len(samples))]
        dtype = torch.promote_types(base.model.dtype, torch.float32)
        found = [dict(enumerate(torch.tensor(layers, dtype=dtype, device=base.device))) for layers in in_order]
    return mean_by_layer(found)


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
