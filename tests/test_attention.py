"""Attention: the divergence of maps and its gradient, the tap, the sensitivity of heads, their choice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from seekr_lite.attention.divergence import attention_divergence
from seekr_lite.attention.importance import SensitivityRecorder
from seekr_lite.attention.maps import NO_ROW, MapShape, all_rows, map_change
from seekr_lite.attention.recording import HeadRecorder, all_heads
from seekr_lite.attention.selection import choose_heads, resolve_budgets
from seekr_lite.attention.tap import AttentionCall, Recorder, tap
from seekr_lite.common.errors import UserError
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.recipe.recipe import MethodSettings

pytestmark = pytest.mark.core

PAIRS, TOKENS, SIZE = 3, 7, 2
PADDING = torch.tensor([0, 2, 3])
WINDOWS = [None, 3]

# ------------------------------------------------------------------ the divergence


def some_heads(seed: int = 0) -> list[torch.Tensor]:
    """query, key, teacher query, teacher key."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(PAIRS, TOKENS, SIZE, generator=generator, dtype=torch.float64) for _ in range(4)]


def some_shape(window: int | None = None) -> MapShape:
    rows = all_rows(PADDING, TOKENS)
    rows[:, 4] = NO_ROW  # a query row that is not compared
    return MapShape(PADDING, rows, 0.7, window, consecutive=True)


def gradients(heads: list[torch.Tensor], shape: MapShape, **options: Any) -> tuple[torch.Tensor, ...]:
    """The divergences, and the gradients of their (unevenly weighted) sum."""
    query, key = (part.clone().requires_grad_() for part in heads[:2])
    divergence = attention_divergence(query, key, *heads[2:], shape, **options)
    weights = torch.arange(1, PAIRS + 1, dtype=torch.float64)
    return (divergence.detach(), *torch.autograd.grad((divergence * weights).sum(), [query, key]))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("epsilon", [0.0, 1e-8, 0.01])
def test_the_gradient_of_the_divergence(window: int | None, epsilon: float) -> None:
    query, key, *teacher = some_heads()
    assert torch.autograd.gradcheck(
        lambda q, k: attention_divergence(q, k, *teacher, some_shape(window), epsilon, chunk_rows=3),
        (query.requires_grad_(), key.requires_grad_()),
    )


@pytest.mark.parametrize("window", WINDOWS)
def test_the_divergence_is_that_of_explicit_maps(window: int | None) -> None:
    query, key, *teacher = some_heads()
    shape = some_shape(window)
    for pair in range(PAIRS):
        rows = []
        for row in shape.rows[pair][shape.counted[pair]].tolist():
            first = max(int(PADDING[pair]), 0 if window is None else row + 1 - window)
            student_row, teacher_row = (
                (k[pair, first : row + 1] @ q[pair, row] * shape.scale).softmax(-1)
                for q, k in ((query, key), (teacher[0], teacher[1]))
            )
            rows.append((teacher_row * (teacher_row / (student_row + 1e-8)).log()).sum())
        actual = attention_divergence(query, key, *teacher, shape)[pair]
        torch.testing.assert_close(actual, torch.stack(rows).mean())


def test_chosen_rows_alone_are_the_maps_rows_among_all() -> None:
    """What is gathered of a few query rows is what these rows have among all of them."""
    heads, window = some_heads(), 3
    wanted = torch.tensor([[1, 5, 6], [2, 6, NO_ROW], [3, 4, 5]])
    among_all = torch.full((PAIRS, TOKENS), NO_ROW)
    for pair in range(PAIRS):
        kept = wanted[pair][wanted[pair] >= 0]
        among_all[pair, kept] = kept
    pair_index = torch.arange(PAIRS)[:, None]
    gathered = [part[pair_index, wanted.clamp(min=0)] if index % 2 == 0 else part for index, part in enumerate(heads)]
    value, grad_query, grad_key = gradients(gathered, MapShape(PADDING, wanted, 0.7, window))
    expected, expected_query, expected_key = gradients(heads, MapShape(PADDING, among_all, 0.7, window, True))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad_key, expected_key, rtol=1e-12, atol=1e-14)
    counted = wanted >= 0
    at = expected_query[pair_index, wanted.clamp(min=0)]
    torch.testing.assert_close(grad_query[counted], at[counted], rtol=1e-12, atol=1e-14)
    assert (grad_query[~counted] == 0).all()


@pytest.mark.parametrize("measure", [attention_divergence, map_change])
def test_what_padded_entries_hold_does_not_matter(measure: Any) -> None:
    heads, shape = some_heads(), some_shape()
    padded = (all_rows(PADDING, TOKENS) == NO_ROW)[..., None]
    changed = [torch.where(padded, 100.0 * other, part) for part, other in zip(heads, some_heads(1), strict=True)]
    assert torch.equal(measure(*changed, shape), measure(*heads, shape))


# ------------------------------------------------------------------ sensitivity


@pytest.mark.parametrize("key_heads", [4, 2])
def test_sensitivity_is_the_mean_square_gradient_of_the_map(key_heads: int) -> None:
    batch, heads, tokens, size = 2, 4, 6, 3
    padding = torch.tensor([0, 2])
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    query, key, value = (
        normal(batch, heads, tokens, size),
        normal(batch, key_heads, tokens, size),
        normal(batch, key_heads, tokens, size),
    )
    group = heads // key_heads
    shape = MapShape.of_all_rows(padding, tokens, size**-0.5)
    scores = query @ key.repeat_interleave(group, 1).transpose(2, 3) * shape.scale
    mask = shape.mask(0, tokens, tokens, scores.new_empty(batch, tokens, tokens))
    maps = (scores + mask[:, None]).softmax(-1).requires_grad_()
    output = (maps @ value.repeat_interleave(group, 1)).transpose(1, 2)  # [b, n, h, d]
    recorder = SensitivityRecorder(padding)
    recorder.record(AttentionCall(0, query, key, value, output, shape.scale, None))
    loss = (output * normal(batch, tokens, heads, size)).sin()[shape.counted].sum()
    loss.backward()
    assert maps.grad is not None
    expected = [maps.grad[row, :, pad:, pad:].square().mean((1, 2)) for row, pad in enumerate(padding.tolist())]
    torch.testing.assert_close(recorder.layers[0], torch.stack(expected), rtol=1e-12, atol=0)


# ------------------------------------------------------------------ the tap


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            attn_implementation="sdpa",
        )
    ).eval()


def padded_batch() -> Batch:
    return collate([EncodedExample(tuple(range(3, 12)), 3), EncodedExample((5, 20, 8, 17), 2)], pad_token_id=0)


def run(model: Any, recorder: Recorder | None = None) -> torch.Tensor:
    batch = padded_batch()
    options = {} if recorder is None else {"attention_recorder": recorder}
    logits: torch.Tensor = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        **options,
    ).logits
    return logits


def head_recorder(model: Any) -> HeadRecorder:
    pairs = all_heads(len(padded_batch().input_ids), model.config.num_attention_heads, torch.device("cpu"))
    return HeadRecorder({layer: pairs for layer in range(model.config.num_hidden_layers)})


@torch.no_grad()
def test_the_tap_changes_nothing() -> None:
    model = tiny_llama()
    plain = run(model)
    with tap(model):
        assert torch.equal(run(model), plain)


@torch.no_grad()
def test_a_recorder_changes_nothing() -> None:
    model = tiny_llama()
    plain = run(model)
    with tap(model):
        assert torch.equal(run(model, head_recorder(model)), plain)


def test_the_tap_is_removed_even_after_an_error() -> None:
    model = tiny_llama()
    with pytest.raises(KeyError), tap(model):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


def tiny_mistral() -> MistralForCausalLM:
    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            sliding_window=3,
            attn_implementation="sdpa",
        )
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_llama, tiny_mistral])
def test_recorded_heads_make_the_maps_of_the_model(make: Any) -> None:
    model, batch = make(), padded_batch()
    recorder = head_recorder(model)
    with tap(model):
        run(model, recorder)
    model.set_attn_implementation("eager")
    eager = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        output_attentions=True,
    ).attentions
    heads, tokens = model.config.num_attention_heads, batch.input_ids.shape[1]
    for layer, maps in enumerate(eager):
        seen = recorder.layers[layer]
        shape = MapShape.of_all_rows(batch.padding.repeat_interleave(heads), tokens, seen.scale, seen.window)
        scores = seen.query @ seen.key.transpose(1, 2) * seen.scale
        made = (scores + shape.mask(0, tokens, tokens, torch.empty_like(scores))).softmax(-1).view_as(maps)
        for row, padding in enumerate(batch.padding.tolist()):
            torch.testing.assert_close(made[row, :, padding:], maps[row, :, padding:], rtol=1e-4, atol=1e-6)


def parameter_gradients(model: Any, checkpointing: bool) -> dict[str, torch.Tensor]:
    """Of the logits, and of the divergence from another model's maps, in train mode."""
    batch, teacher = padded_batch(), tiny_llama(seed=1)
    teacher_recorder, recorder = head_recorder(teacher), head_recorder(model)
    with torch.no_grad(), tap(teacher):
        run(teacher, teacher_recorder)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    padding = batch.padding.repeat_interleave(model.config.num_attention_heads)
    with tap(model):
        loss = run(model, recorder)[batch.labels != -100].square().mean()
        for layer in recorder.pairs:
            student, old = recorder.layers[layer], teacher_recorder.layers[layer]
            shape = MapShape.of_all_rows(padding, batch.input_ids.shape[1], student.scale, student.window)
            loss = loss + attention_divergence(student.query, student.key, old.query, old.key, shape).mean()
        loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_checkpointing_leaves_the_gradients_of_recorded_heads() -> None:
    expected = parameter_gradients(tiny_llama(), checkpointing=False)
    actual = parameter_gradients(tiny_llama(), checkpointing=True)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


def test_checkpointing_leaves_sensitivity() -> None:
    def sensitivity(checkpointing: bool) -> dict[int, torch.Tensor]:
        model, recorder = tiny_llama(), SensitivityRecorder(padded_batch().padding)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        with tap(model):
            run(model, recorder)[padded_batch().labels != -100].square().mean().backward()
        return recorder.layers

    expected = sensitivity(checkpointing=False)
    assert sorted(expected) == [0, 1]
    torch.testing.assert_close(sensitivity(checkpointing=True), expected)


# ------------------------------------------------------------------ the choice


def test_the_best_layers_come_before_the_best_heads() -> None:
    scores = torch.tensor([[9.0, 0.0, 0.0], [5.0, 4.0, 3.0], [4.0, 4.0, 4.0]])
    assert choose_heads(scores, layer_budget=2, head_budget=3) == ((1, 0), (1, 1), (2, 0))


def test_ties_go_to_the_lower_index() -> None:
    assert choose_heads(torch.ones(3, 2), layer_budget=2, head_budget=3) == ((0, 0), (0, 1), (1, 0))


@pytest.mark.parametrize(
    ("layer_budget", "head_budget", "expected"),
    [(3, 5, (3, 5)), (0.75, 0.125, (3, 4)), ("all", "all", (4, 32)), (2, "all", (2, 16)), (0.01, 0.001, (1, 1))],
)
def test_budgets_are_numbers_or_shares(layer_budget: Any, head_budget: Any, expected: tuple[int, int]) -> None:
    settings = MethodSettings(layer_budget=layer_budget, head_budget=head_budget)
    assert resolve_budgets(settings, layers=4, heads=8) == expected


def test_a_layer_budget_above_the_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.layer_budget = 5: the base has 4 layers"):
        resolve_budgets(MethodSettings(layer_budget=5), layers=4, heads=8)


def test_a_head_budget_above_the_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.head_budget = 17: 2 layers of 8 heads have 16"):
        resolve_budgets(MethodSettings(layer_budget=2, head_budget=17), layers=4, heads=8)
