"""The benchmark of exported answers: it runs, and tells where answers part."""

from __future__ import annotations

import pytest

import seekr_lite as sl
from benchmarks.export_check import Speaker, check_exports
from seekr_lite.common.errors import UserError
from seekr_lite.data.encoding import encode_prompts
from seekr_lite.recipe.recipe import DataSettings

pytestmark = pytest.mark.benchmarks


def test_merged_exports_answer_as_the_run(finished_run: sl.Run) -> None:
    compared = check_exports(finished_run.folder, 4)
    assert [one.what for one in compared] == [
        "run's model / --merge dequantized",
        "run's model / --merge original",
        "original base + adapter / --merge original",
    ]
    assert compared[0].identical == compared[2].identical == compared[2].prompts == 4


def test_it_says_where_two_answers_part_and_how_clear_the_choice_was(finished_run: sl.Run) -> None:
    own = finished_run.load_model(after="shade")
    settings = DataSettings(format="python", max_prompt_tokens=64)
    prompts = encode_prompts(own.tokenizer, ["shade: wolf red cake ->", "copy: wolf ->"], settings)
    speaker = Speaker(own.model, own.tokenizer, prompts, 3)
    first, second = speaker.answers
    other = next(token for token in range(5, 9) if token != first[0])
    compared = speaker.compare("two", [[other, *first[1:]], second])
    assert (compared.prompts, compared.identical) == (2, 1)
    (difference,) = compared.differences
    assert (difference.prompt, difference.token) == (0, 0)
    assert difference.gap > 0  # greedy: no other token has a larger logit


def test_more_prompts_than_there_are(finished_run: sl.Run) -> None:
    with pytest.raises(UserError, match="12 test rows"):
        check_exports(finished_run.folder, 100)
