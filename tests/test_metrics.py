"""The metrics against the official numbers, the packages they stand for, and their bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekr_lite.data.superni import superni_metric
from seekr_lite.data.trace import trace_scoring
from seekr_lite.evaluation.metrics import METRICS, mean_score, tokens_13a

pytestmark = pytest.mark.core

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=5), min_size=1, max_size=8).map(" ".join)
PIECES = st.lists(st.sampled_from(["a", "b", "c", "d", ".", " . ", " ", "\n", "<STR_LIT:", ">", "5,"])).map("".join)
TEXTS = st.text(max_size=40) | PIECES


def test_metrics_of_tasks() -> None:
    tasks = ("MeetingBank", "Py150", "20Minuten", "FOMC", "mine")
    assert [trace_scoring(task)[0] for task in tasks] == ["rouge_l", "fuzz", "sari", "accuracy", "exact_match"]
    assert superni_metric("task363_sst2_polarity_classification") == "superni_accuracy"
    assert superni_metric("task195") == "superni_accuracy"
    assert superni_metric("task002_quoref_answer_generation") == "superni_rouge_l"
    assert superni_metric("task1950_x") == "superni_rouge_l"


@pytest.mark.parametrize(
    ("name", "prediction", "references", "expected"),
    [
        ("accuracy", "12 ", ["12"], 0),
        ("accuracy", "", [""], 0),
        ("exact_match", " Yes\n", ["no", "yes"], 100),
        ("first_letter_accuracy", "B because", ["B"], 100),
        ("first_letter_accuracy", "", ["B"], 0),
        ("rouge_l", "...", ["a b"], 0),
        ("rouge_l", " ", ["a. "], 0),
        ("rouge_l", "a b c", ["x", "a b c"], 100),
        ("rouge_l", "a x", ["a b"], 50),
        ("fuzz", "x = <STR_LIT:ab>", ["x = ab"], 100),
        ("fuzz", "ab", ["abc"], 80),
        ("bleu_1", "a b", ["a b c d"], 36.787944),
        ("bleu_4", "a b c", ["a b c"], 0),
        ("rouge_l", "x", [], 0),
    ],
)
def test_by_hand(name: str, prediction: str, references: list[str], expected: float) -> None:
    assert METRICS[name]("", prediction, references) == pytest.approx(expected, abs=1e-5)


def test_rouge_of_one_very_long_sentence() -> None:
    text = "word " * 1500  # package rouge stops with a RecursionError here
    assert METRICS["rouge_l"]("", text, [text]) == pytest.approx(100, abs=1e-5)


@given(st.sampled_from(sorted(METRICS)), TEXTS, TEXTS, st.lists(TEXTS, max_size=3))
def test_bounds_and_no_mutation(name: str, source: str, prediction: str, references: list[str]) -> None:
    before = list(references)
    row = METRICS[name](source, prediction, references)
    assert -1e-6 <= row <= 100 + 1e-6
    assert references == before


@given(st.sampled_from(sorted(set(METRICS) - {"bleu_4", "first_word_accuracy"})), WORDS)
def test_the_reference_itself_is_perfect(name: str, words: str) -> None:
    assert METRICS[name](words, words, ["something else", words][name == "sari" :]) == pytest.approx(100, abs=1e-4)


@given(PIECES, PIECES)
def test_rouge_is_the_package(prediction: str, reference: str) -> None:
    rouge = pytest.importorskip("rouge").Rouge(metrics=["rouge-l"])
    try:
        official = 100 * rouge.get_scores(reference, prediction)[0]["rouge-l"]["f"]  # in the official order
    except ValueError:
        official = 0.0
    if prediction.strip() and reference.strip():
        assert METRICS["rouge_l"]("", prediction, [reference]) == pytest.approx(official, abs=1e-9)


@given(st.text("aB1 2.,-\n&;<>\"'_[]{}~`^@quotamplt/\\!$%()*+:=?|#ü", max_size=30))
def test_tokens_are_sacrebleu_s(text: str) -> None:
    module = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a")
    assert " ".join(tokens_13a(text)) == module.Tokenizer13a()(text.lower())


def test_no_rows() -> None:
    assert mean_score([]) == 0
