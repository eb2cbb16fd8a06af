"""Our greedy loop: the answers of `model.generate`, and no work for rows that have ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf

from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import EncodedExample, encode_prompts
from seekr_lite.evaluation import greedy
from seekr_lite.evaluation.generate import generate, transformers_answers
from seekr_lite.evaluation.greedy import can_answer, close_ranks, greedy_answers
from seekr_lite.model.base import Base, load_base
from seekr_lite.recipe.recipe import BaseSettings, DataSettings

LIMIT = 12
TEXTS = (  # answers of 3, 4, 6, 2, 5 tokens, end token included; the last goes on to the limit
    "copy: wolf ->",
    "copy: wolf lion bear ->",
    "reverse: wolf lion bear fox eagle ->",
    "first: wolf lion ->",
    "copy: red coat wolf lion bear snake ->",
    "red",
)
SIZES: dict[str, Any] = {
    "vocab_size": 41,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def base() -> Base:
    base = load_base(BaseSettings(model="tiny", quantization="nf4", dtype="float32", device="cpu"))
    base.model.eval()
    return base


@pytest.fixture(scope="module")
def prompts(base: Base) -> list[EncodedExample]:
    return encode_prompts(base.tokenizer, TEXTS, DataSettings(format="python", max_prompt_tokens=64))


def ours(base: Base, prompts: list[EncodedExample], limit: int = LIMIT) -> list[list[int]]:
    return greedy_answers(base.model, prompts, limit, base.tokenizer.pad_token_id, base.tokenizer.eos_token_id)


def alone(base: Base, prompts: list[EncodedExample], limit: int = LIMIT) -> list[list[int]]:
    """`model.generate` on each prompt by itself, so that nothing is padded."""
    ends = base.tokenizer.pad_token_id, base.tokenizer.eos_token_id
    return [transformers_answers(base.model, [prompt], limit, *ends, aligned=1)[0] for prompt in prompts]


@pytest.fixture
def rows_of_passes(base: Base) -> Any:
    """(rows, tokens) of every forward pass while the fixture lives."""
    shapes: list[tuple[int, ...]] = []
    handle = base.model.register_forward_pre_hook(
        lambda module, args, options: shapes.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    handle.remove()


def test_answers_are_those_of_generate_row_by_row(base: Base, prompts: list[EncodedExample]) -> None:
    expected = alone(base, prompts)
    assert [len(answer) for answer in expected] == [3, 4, 6, 2, 5, LIMIT]
    assert ours(base, prompts) == expected


def test_prompts_that_are_read_in_several_groups_answer_together(
    base: Base, prompts: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greedy, "PROMPT_TOKENS", 15)
    monkeypatch.setattr(greedy, "ALIGNED", 1)
    assert ours(base, prompts) == alone(base, prompts)


def test_an_answer_does_not_depend_on_its_companions(base: Base, prompts: list[EncodedExample]) -> None:
    together = ours(base, prompts)
    assert ours(base, prompts[::-1])[::-1] == together
    assert ours(base, prompts[:2]) == together[:2]


def test_padding_by_whole_vectors_leaves_a_short_prompt_as_it_is_in_bf16(base: Base) -> None:
    """The last token's logits, which greedy answers come from, to the bit."""
    model = load_base(BaseSettings(model="tiny", quantization="nf4", dtype="bfloat16", device="cpu")).model.eval()
    short = EncodedExample(tuple(range(100, 120)), 0)
    logits = {}
    for tokens in (20, 32, 33, 70):
        batch = collate([EncodedExample(tuple(range(50, 50 + tokens)), 0), short], 0, greedy.ALIGNED)
        logits[tokens] = model(batch.input_ids, batch.attention_mask, batch.position_ids).logits[1, -1]
    assert all(torch.equal(logits[20], others) for others in logits.values())


def test_a_row_that_has_ended_costs_nothing_more(
    base: Base, prompts: list[EncodedExample], rows_of_passes: list[tuple[int, ...]]
) -> None:
    lengths = [len(answer) for answer in ours(base, prompts)]
    (read, *steps) = rows_of_passes
    assert read == (len(prompts), 16)
    # The pass of step i makes token i + 1 of the answers that have one.
    assert steps == [(sum(length > step for length in lengths), 1) for step in range(1, max(lengths))]


def test_generation_stops_with_the_last_answer(
    base: Base, prompts: list[EncodedExample], rows_of_passes: list[tuple[int, ...]]
) -> None:
    ours(base, prompts[3:4])  # one word and the end token
    assert len(rows_of_passes) == 2


@pytest.mark.parametrize("limit", [1, 3])
def test_no_answer_is_longer_than_the_limit(limit: int, base: Base, prompts: list[EncodedExample]) -> None:
    assert ours(base, prompts, limit) == [answer[:limit] for answer in alone(base, prompts)]


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_texts_come_under_their_row_numbers(batch_tokens: int, base: Base, prompts: list[EncodedExample]) -> None:
    batches = list(generate(base.model, base.tokenizer, prompts, LIMIT, batch_tokens, known={}))
    texts = {row: text for batch in batches for row, text in batch.items()}
    assert sum(map(len, batches)) == len(prompts)
    assert texts[3] == "wolf"
    assert texts[2] == "eagle fox bear lion wolf"
    assert texts[4] == "red coat wolf snake"


def test_known_answers_are_not_made_again(
    base: Base, prompts: list[EncodedExample], rows_of_passes: list[tuple[int, ...]]
) -> None:
    known = {row: f"known {row}" for row in range(len(prompts))}
    (texts,) = generate(base.model, base.tokenizer, prompts, LIMIT, 10_000, known)
    assert texts == known
    assert rows_of_passes == []


def test_the_last_rows_fill_the_gaps() -> None:
    stays = torch.tensor([True, False, True, False, False, True, True])
    assert close_ranks(stays).tolist() == [0, 5, 2, 6]


DECODERS: dict[str, Callable[[], Any]] = {
    "Llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES)),
    "Qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SIZES)),
    "Qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SIZES, head_dim=16)),
    "GPT-2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=41, n_embd=32, n_layer=2, n_head=4)),
    "GPT-NeoX": lambda: tf.GPTNeoXForCausalLM(
        tf.GPTNeoXConfig(
            vocab_size=41, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4
        )
    ),
    "Granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**SIZES)),
}
ROWS = [EncodedExample(ids, 0) for ids in (tuple(range(3, 14)), (5, 20, 8), (30, 31, 32, 33, 34), (7,))]


@pytest.mark.parametrize("name", DECODERS)
def test_other_decoders_answer_as_generate_does(name: str) -> None:
    torch.manual_seed(0)
    model = DECODERS[name]().eval()
    assert can_answer(model)
    free = transformers_answers(model, ROWS, 16, 0, 99)  # no token of these models, so that nothing ends
    end = free[1][3]  # a token that comes up ends the answers
    answers = greedy_answers(model, ROWS, 16, 0, end)
    expected = [row[: row.index(end) + 1] if end in row else row for row in free]
    assert answers == expected


def test_a_model_with_sliding_windows_answers_through_transformers() -> None:
    model = tf.MistralForCausalLM(tf.MistralConfig(**SIZES, sliding_window=4)).eval()
    assert not can_answer(model)
