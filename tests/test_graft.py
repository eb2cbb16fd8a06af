"""Grafting attention maps: exact where it must change nothing, exact where it must give the teacher back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from seekr_lite.attention.map_graft import MapGraft
from seekr_lite.attention.recording import HeadRecorder, all_heads
from seekr_lite.attention.selection import Head
from seekr_lite.attention.tap import Recorder, tap
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample

LAYERS, HEADS, KEY_HEADS = 3, 4, 2
EVERY_HEAD = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
SIZES = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KEY_HEADS,
    max_position_embeddings=64,
    initializer_range=0.3,
)


def grouped_query_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def windowed_model() -> MistralForCausalLM:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=3)).eval()


MODELS = {"grouped queries": grouped_query_model, "sliding window": windowed_model}


def rows_of_unlike_lengths() -> Batch:
    generator = torch.Generator().manual_seed(1)
    lengths = (9, 4, 7)
    ids = [tuple(torch.randint(1, 40, (length,), generator=generator).tolist()) for length in lengths]
    return collate([EncodedExample(row, 2) for row in ids], pad_token_id=0)


@torch.no_grad()
def logits(model: torch.nn.Module, batch: Batch, recorder: Recorder | None) -> torch.Tensor:
    """Of the real tokens alone: `[tokens, vocabulary]`."""
    with tap(model):
        found = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            attention_recorder=recorder,
        ).logits
    return found[batch.attention_mask.bool()]


def recorded(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, HeadRecorder]:
    pairs = all_heads(len(batch.labels), HEADS, batch.labels.device)
    recorder = HeadRecorder({layer: pairs for layer in range(LAYERS)})
    return logits(model, batch, recorder), recorder


def grafted(model: torch.nn.Module, batch: Batch, source: HeadRecorder, heads: Sequence[Head]) -> torch.Tensor:
    return logits(model, batch, MapGraft(source, batch.padding, heads, chunk_rows=4))


def with_other_maps(model: torch.nn.Module) -> None:
    """Other query and key projections, in place; values and all else stay."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("heads", [EVERY_HEAD, [(0, 1), (2, 0), (2, 3)]], ids=["all heads", "three heads"])
def test_a_models_own_maps_change_nothing(kind: str, heads: list[Head]) -> None:
    model, batch = MODELS[kind](), rows_of_unlike_lengths()
    plain, source = recorded(model, batch)
    torch.testing.assert_close(grafted(model, batch, source, heads), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_teachers_maps_in_all_heads_give_the_teacher_where_only_maps_differ(kind: str) -> None:
    teacher, student, batch = MODELS[kind](), MODELS[kind](), rows_of_unlike_lengths()
    with_other_maps(student)
    wanted, source = recorded(teacher, batch)
    assert (logits(student, batch, None) - wanted).abs().max() > 0.1
    torch.testing.assert_close(grafted(student, batch, source, EVERY_HEAD), wanted, rtol=0, atol=1e-5)


def test_some_heads_of_the_teacher_are_neither_the_student_nor_the_teacher() -> None:
    teacher, student, batch = grouped_query_model(), grouped_query_model(), rows_of_unlike_lengths()
    with_other_maps(student)
    wanted, source = recorded(teacher, batch)
    some = grafted(student, batch, source, [(1, 2)])
    assert (some - wanted).abs().max() > 1e-3
    assert (some - logits(student, batch, None)).abs().max() > 1e-3


def test_a_row_is_grafted_alike_alone_and_padded() -> None:
    teacher, student, batch = grouped_query_model(), grouped_query_model(), rows_of_unlike_lengths()
    with_other_maps(student)
    heads = [(0, 0), (1, 3)]
    together = grafted(student, batch, recorded(teacher, batch)[1], heads)
    ids = batch.input_ids[1][batch.attention_mask[1].bool()]
    alone = collate([EncodedExample(tuple(ids.tolist()), 2)], pad_token_id=0)
    first = int(batch.attention_mask[0].sum())
    expected = grafted(student, alone, recorded(teacher, alone)[1], heads)
    torch.testing.assert_close(together[first : first + len(ids)], expected, rtol=0, atol=1e-5)
