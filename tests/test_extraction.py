"""The answer that is taken from a model's text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekr_lite.data.trace import TRACE_TASKS, trace_scoring
from seekr_lite.evaluation.extraction import EXTRACTIONS

SHARED = Path(__file__).parents[1] / ".." / "shared"


@pytest.mark.parametrize(
    ("task", "raw", "extracted"),
    [
        ("C-STANCE", "文本中提到了政策。\n回答：B", "B"),
        (
            "20Minuten",
            "The paragraph is about a fine.\nAnswer:Die Polizei sagt: nein.",
            "Die Polizei sagt: nein.",
        ),
        ("Py150", "import os\nReasoning:The code\nAnswer: no", "import os"),
        (
            "MeetingBank",
            "They vote.Therefore, the summary of the meeting transcripts is:\nA bill.\r\nB.",
            "A bill.\r\nB.",
        ),
        ("MeetingBank", "Therefore, the summary of the meeting transcripts is:", " "),
        ("my own task", " x \nAnswer: y ", "x \nAnswer: y"),
    ],
)
def test_answers_in_the_training_format(task: str, raw: str, extracted: str) -> None:
    assert EXTRACTIONS[trace_scoring(task)[1]](raw) == extracted


def test_official_answer_keeps_meetingbank_reasoning() -> None:
    raw = "They vote.Therefore, the summary of the meeting transcripts is:\nA bill."
    assert EXTRACTIONS["answer"](raw) == raw


def test_training_rows_give_their_own_answers() -> None:
    """On TRACE's own training answers every task's extraction leaves no reasoning and no marker."""
    folder = SHARED / "data" / "TRACE-Benchmark" / "LLM-CL-Benchmark_Reasoning"
    if not folder.is_dir():
        pytest.skip("../shared/data is not here")
    for task, (_, name) in TRACE_TASKS.items():
        for row in json.loads((folder / task / "train.json").read_text(encoding="utf-8")):
            got = EXTRACTIONS[name](row["answer"])
            assert got.strip(), task
            assert len(got) < len(row["answer"]), task
            assert got in row["answer"].replace("：", ":"), task
            if name == "choice":
                assert got in "ABCDE", (task, row["answer"])


@given(
    st.sampled_from(sorted(EXTRACTIONS)),
    st.text() | st.lists(st.sampled_from(["\n", "Answer:", "回答：", "Reasoning:", "x", " "])).map("".join),
)
def test_any_text(name: str, raw: str) -> None:
    got = EXTRACTIONS[name](raw)
    if name == "choice":
        assert len(got) == 1
    elif name not in ("none", "strip"):
        assert got == " " or got == got.strip() != ""
