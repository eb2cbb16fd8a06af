"""The toy tasks and the built-in tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

import seekr_lite.model.tiny
from scripts.pretraining_rows import pretraining_rows, vocabulary
from seekr_lite.common.errors import UserError
from seekr_lite.data.task import Example
from seekr_lite.data.toy import KINDS, TOY_LABELS, TOY_TASKS, WORDS, toy_task

FOLDER = Path(seekr_lite.model.tiny.__file__).parent
TOKENIZER: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    return model.eval()


def _only(words: list[str], kind: str) -> str:
    (word,) = set(words) & set(WORDS[kind])
    return word


def _label(words: list[str], kind: str, labels: tuple[str, str]) -> str:
    return labels[0] if _only(words, kind) in KINDS[kind][0] else labels[1]


def _answer(prompt: str) -> str:
    """Works the answer out again from nothing but the text of the prompt."""
    name, rest = prompt.split(": ")
    words = rest.removesuffix(" ->").split()
    assert len(words) == 6
    match name:
        case "keeper":
            return _label(words, "animal", ("wild", "tame"))
        case "flavour":
            return _label(words, "food", ("sweet", "salty"))
        case "climate":
            return _label(words, "garment", ("winter", "summer"))
        case "shade":
            return _only(words, "colour")
        case "beast":
            return _only(words, "animal")
        case "title":
            return f"{_only(words, 'colour')} {_only(words, 'animal')}"
        case "head":
            return words[0]
        case "tail":
            return words[-1]
    raise AssertionError(name)


def _exact(model: PreTrainedModel, rows: list[Example]) -> float:
    """Share of rows that greedy decoding answers exactly."""
    inputs = TOKENIZER([row.prompt for row in rows], return_tensors="pt", padding=True)
    written = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    answers = TOKENIZER.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [answer == row.answer for answer, row in zip(answers, rows, strict=True)]
    return right.count(True) / len(right)


@pytest.mark.parametrize("name", TOY_TASKS)
def test_answers_follow_from_the_prompt(name: str) -> None:
    task = toy_task(name, 150, 50, seed=3)
    assert (len(task.train), len(task.test)) == (150, 50)
    for row in task.train + task.test:
        assert row.prompt.startswith(f"{name}: ")
        assert row.answer == _answer(row.prompt)


@pytest.mark.parametrize("name", TOY_TASKS)
def test_rows_are_reproducible_and_never_repeated(name: str) -> None:
    task = toy_task(name, 200, 100, seed=1)
    assert task == toy_task(name, 200, 100, seed=1)
    assert task.train != toy_task(name, 200, 100, seed=2).train
    assert len({row.prompt for row in task.train + task.test}) == 300


@pytest.mark.parametrize("name", TOY_TASKS)
def test_an_answer_fits_the_tokens_it_is_allowed(name: str) -> None:
    task = toy_task(name, 50, 0, seed=0)
    assert task.max_new_tokens is not None
    for row in task.train:
        tokens = TOKENIZER(row.answer, add_special_tokens=False)["input_ids"]
        assert len(tokens) + 1 <= task.max_new_tokens


def test_rows_are_the_same_on_every_machine() -> None:
    (row,) = toy_task("shade", 1, 0, seed=0).train
    assert row == Example("shade: olive school eagle sandal amber ladder ->", "amber")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match="there is no toy task 'nothing'; there are keeper"):
        toy_task("nothing", 1, 1, seed=0)


def test_pretraining_never_shows_a_toy_task() -> None:
    rows = pretraining_rows(3000, seed=5)
    assert rows == pretraining_rows(3000, seed=5)
    names = {row.prompt.split(":")[0] for row in rows}
    assert len(names) > 60
    assert not names & set(TOY_TASKS)
    judged = [row for row in rows if row.answer not in row.prompt and len(row.answer.split()) == 1]
    assert judged
    assert not {row.answer for row in judged} & set(TOY_LABELS)


def test_a_word_is_one_token_wherever_it_stands() -> None:
    for word in vocabulary():
        (token,) = TOKENIZER(word, add_special_tokens=False)["input_ids"]
        assert TOKENIZER(f"x {word}", add_special_tokens=False)["input_ids"][-1] == token


@given(st.text())
@pytest.mark.parametrize("special", [False, True])
def test_any_text_comes_back(special: bool, text: str) -> None:
    if any(token in text for token in ("<s>", "</s>", "<pad>")):
        return
    tokens = TOKENIZER(text, add_special_tokens=special)["input_ids"]
    assert TOKENIZER.decode(tokens, skip_special_tokens=True) == text


def test_the_folder_is_small_and_complete(base: PreTrainedModel) -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) < 8_000_000
    assert (FOLDER / "model.safetensors").stat().st_size < 4_000_000
    for config in (base.config, base.generation_config):
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert TOKENIZER.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "<s>", "</s>"]
    assert len(TOKENIZER) <= base.config.vocab_size
    assert all(weight.numel() % 64 == 0 for weight in base.parameters())


def test_the_base_is_trained_and_does_not_know_the_toy_tasks(base: PreTrainedModel) -> None:
    assert _exact(base, pretraining_rows(200, seed=77)) > 0.8
    for name in TOY_TASKS:
        assert _exact(base, list(toy_task(name, 0, 50, seed=0).test)) < 0.6
