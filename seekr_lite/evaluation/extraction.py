"""How the short answer is taken from what a model wrote.

The rules of "answer", "choice" and "code_line" are those of SEEKR's `re_eval.py` (jinghan1he/SEEKR, for
TRACE's Reasoning variant), in its order, its " " for an answer that holds nothing included. A marker counts
only after a line end: an output that is no more than "Answer: B" is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Callable

REASONING_MARKER = "\nReasoning:"  # Py150: what stands before it is the answer
# "回答：" is C-STANCE's; all other tasks say "Answer:", 20Minuten too.
ANSWER_MARKERS = ("\nAnswer:", "\n回答:", "\n答案:")
SUMMARY_MARKER = "the summary of the meeting transcripts is:"  # MeetingBank's training answers


def answer(text: str) -> str:
    """What stands before "Reasoning:", else after the first answer marker (up to the next), else all."""
    text = text.replace("：", ":")
    if REASONING_MARKER in text:
        return text.split(REASONING_MARKER)[0].strip() or " "
    for marker in ANSWER_MARKERS:
        if marker in text:
            return text.split(marker)[1].strip() or " "
    return text.strip() or " "


def choice(text: str) -> str:
    """The first character of `answer`: the letter of a multiple-choice answer."""
    return answer(text)[0]


def meeting_summary(text: str) -> str:
    """What stands after "the summary of the meeting transcripts is:", else `answer`.

    The official script has no such rule: it scores MeetingBank's reasoning and summary together. Scores under
    this extraction are of the summary alone; for the paper's numbers take "answer".
    """
    _, marker, summary = text.replace("：", ":").partition(SUMMARY_MARKER)
    return (summary.strip() or " ") if marker else answer(text)


EXTRACTIONS: dict[str, Callable[[str], str]] = {
    "none": str,
    "strip": str.strip,
    "answer": answer,
    "choice": choice,
    "code_line": answer,  # one official rule serves both: Py150's "Reasoning:" is looked for first
    "meeting_summary": meeting_summary,
}
