"""Encoding: prompt and answer apart, and what a cut may never take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import seekr_lite.model.tiny
from seekr_lite.common.errors import UserError
from seekr_lite.data.encoding import EncodedExample, encode_prompts, encode_task_rows
from seekr_lite.data.task import Example
from seekr_lite.recipe.recipe import DataSettings

TINY = AutoTokenizer.from_pretrained(Path(seekr_lite.model.tiny.__file__).parent)
SMOLLM2_FOLDER = Path(__file__).parents[1] / "models" / "smollm2-135m-instruct"
TOKENIZERS: dict[str, Any] = {"tiny": TINY}
if SMOLLM2_FOLDER.is_dir():
    TOKENIZERS["smollm2"] = AutoTokenizer.from_pretrained(SMOLLM2_FOLDER)


def _like_llama_2() -> Any:
    """Bytes as its only words, a start token, and the marks for spaces of sentencepiece."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    raw = Tokenizer(
        models.BPE(dict(zip(words, range(len(words)), strict=True)), [], unk_token="<unk>", byte_fallback=True)
    )
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


LIKE_LLAMA_2 = _like_llama_2()

# Letters, punctuation, Chinese, emoji; no "<", so that no text is the name of a special token.
TEXTS = st.text(st.sampled_from("abc xyz.,:\n'09é的立场🙂"), min_size=1, max_size=60)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]


def _encode(tokenizer: Any, prompt: str, answer: str, max_prompt: int = 100, max_answer: int = 100) -> Any:
    data = DataSettings(format="python", max_prompt_tokens=max_prompt, max_answer_tokens=max_answer)
    (row,) = encode_task_rows(tokenizer, [Example(prompt, answer)], data)
    return row


def _parts(row: EncodedExample) -> tuple[list[int], list[int]]:
    split = len(row.input_ids) - row.answer_length
    return list(row.input_ids[:split]), list(row.input_ids[split:])


def test_prompt_and_answer_are_encoded_apart(tokenizer: Any) -> None:
    prompt, answer = _parts(_encode(tokenizer, "shade: red wolf ->", "red"))
    assert prompt == tokenizer("shade: red wolf ->")["input_ids"]
    assert answer == [*tokenizer("red", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def test_the_prompt_starts_with_the_start_token_and_does_not_end() -> None:
    prompt, answer = _parts(_encode(TINY, "head: dog", "dog"))
    assert prompt[0] == TINY.bos_token_id
    assert TINY.eos_token_id not in prompt
    assert TINY.bos_token_id not in answer


def test_prompts_to_generate_from_are_the_prompts_that_were_learned(tokenizer: Any) -> None:
    text = "tail: red wolf saw ->"
    learned, _ = _parts(_encode(tokenizer, text, "saw", max_prompt=6))
    (generated,) = encode_prompts(tokenizer, [text], DataSettings(format="python", max_prompt_tokens=6))
    assert list(generated.input_ids) == learned
    assert generated.answer_length == 0


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompt=TEXTS, answer=TEXTS, max_prompt=st.integers(1, 30), max_answer=st.integers(1, 30))
@settings(max_examples=60)
def test_truncation_laws(name: str, prompt: str, answer: str, max_prompt: int, max_answer: int) -> None:
    tokenizer = TOKENIZERS[name]
    whole_prompt, whole_answer = _parts(_encode(tokenizer, prompt, answer))
    row = _encode(tokenizer, prompt, answer, max_prompt, max_answer)
    kept_prompt, kept_answer = _parts(row)

    assert len(kept_prompt) == min(max_prompt, len(whole_prompt))
    assert row.truncated_prompt_tokens == len(whole_prompt) - len(kept_prompt)
    start = 1 if whole_prompt[0] == tokenizer.bos_token_id else 0
    assert kept_prompt[:start] == whole_prompt[:start]
    assert kept_prompt[start:] == whole_prompt[len(whole_prompt) - len(kept_prompt) + start :]

    assert len(kept_answer) == min(max_answer, len(whole_answer))
    assert row.truncated_answer_tokens == len(whole_answer) - len(kept_answer)
    assert kept_answer[-1] == tokenizer.eos_token_id
    assert kept_answer[:-1] == whole_answer[: len(kept_answer) - 1]


def test_a_long_prompt_never_shortens_the_answer(tokenizer: Any) -> None:
    _, answer = _parts(_encode(tokenizer, "word " * 500, "dog", max_prompt=16))
    _, alone = _parts(_encode(tokenizer, "word", "dog"))
    assert answer == alone


def test_the_end_token_that_a_tokenizer_adds_leaves_the_prompt() -> None:
    class EndsEveryText:
        bos_token_id, eos_token_id = None, 9

        def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1, 2, 9] if add_special_tokens else [1, 2] for _ in texts]}

    assert _parts(_encode(EndsEveryText(), "a", "b")) == ([1, 2], [1, 2, 9])


def test_nothing_encodes_to_nothing(tokenizer: Any) -> None:
    assert encode_task_rows(tokenizer, [], DataSettings(format="python")) == []
    assert encode_prompts(tokenizer, [], DataSettings(format="python", max_prompt_tokens=4)) == []


def test_no_chat_template() -> None:
    with pytest.raises(UserError, match=r"data\.chat_template"):
        encode_prompts(TINY, ["a"], DataSettings(format="python", max_prompt_tokens=4, chat_template=True))


@pytest.mark.skipif("smollm2" not in TOKENIZERS, reason="no models/smollm2-135m-instruct")
def test_chat_template_wraps_the_prompt() -> None:
    tokenizer = TOKENIZERS["smollm2"]
    (row,) = encode_prompts(
        tokenizer, ["What is red?"], DataSettings(format="python", max_prompt_tokens=100, chat_template=True)
    )
    text = tokenizer.decode(row.input_ids)
    assert "<|im_start|>user\nWhat is red?<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")


@given(prompt=TEXTS, answer=TEXTS)
@settings(max_examples=100)
def test_answers_apart_keep_their_text_with_a_tokenizer_like_llama_2(prompt: str, answer: str) -> None:
    # Such a tokenizer writes a space as "\u2581" and puts one before every text: what is learned apart
    # must decode to the answer, as generated tokens are decoded.
    _, learned = _parts(_encode(LIKE_LLAMA_2, prompt, answer))
    assert LIKE_LLAMA_2.decode(learned, skip_special_tokens=True) == answer
