"""What was tried for SEEKR beside its settings: the parts that the product does not have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.tried import TRIALS, Tried, frame, in_frame, prompt_labels, try_out, write_tried
from seekr_lite.common.files import read_json
from seekr_lite.data.batch import IGNORED, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.data.task import Example, Task

pytestmark = pytest.mark.benchmarks
TINY = (
    "base.model=tiny",
    "data.format=toy",
    f"data.path={Path(__file__).parent}",  # toy tasks need none, but it must be there
    'data.tasks=["shade", "keeper"]',
    "data.train_limit=16",
    "data.test_limit=2",
    "data.validation_rows=3",
    "data.max_prompt_tokens=48",
    "data.max_answer_tokens=6",
    "train.epochs=1",
)


def task_of(name: str, *prompts: str) -> Task:
    rows = tuple(Example(prompt, "yes") for prompt in prompts)
    return Task(name, rows, rows)


def test_the_frame_of_a_task_is_what_all_its_prompts_share() -> None:
    old = task_of("old", "Rate this: good\nScore:", "Rate this: a bad one\nScore:")
    new = task_of("new", "Add 1 and 2.", "Add 30 and 4.")
    assert frame(old.train) == ("Rate this: ", "\nScore:")
    assert in_frame(new, old, 1) == ["Rate this: 1 and 2\nScore:"]


def test_the_labels_of_a_prompt_are_its_tokens_one_to_the_left() -> None:
    batch = collate([EncodedExample((5, 6, 7, 8), 1), EncodedExample((9, 3), 1)], pad_token_id=0)
    assert prompt_labels(batch).tolist() == [[6, 7, IGNORED], [IGNORED, IGNORED, IGNORED]]


@pytest.mark.parametrize(
    "name", ["joint", "seekr", "seekr-prompts", "seekr-lwf", "seekr-ewc", "seekr-written", "seekr-framed"]
)
def test_a_trial_learns_all_tasks(name: str, tmp_path: Path) -> None:
    tried = try_out(name, "superni", 0, TINY)
    assert len(tried.nll) == 2
    assert torch.tensor([*tried.nll, *tried.nll_learned]).isfinite().all()
    write_tried(tmp_path, tried)
    values = read_json(tmp_path / f"superni-{name}-seed0.json")
    assert values["what"] == TRIALS[name].what


def test_ewc_beside_seekr_holds_the_weights_of_the_old_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRIALS, "held", replace(TRIALS["seekr-ewc"], options={"consolidation": 1e9}))
    steps = (*TINY, "train.epochs=4")  # at the first step nothing has moved yet
    held, free = (try_out(name, "superni", 0, steps) for name in ("held", "seekr"))
    assert held.nll_learned[0] == free.nll_learned[0]  # there is nothing to hold yet
    assert held.nll_learned[1] > free.nll_learned[1]


def test_the_mean_of_two_adapters_lies_between_them() -> None:
    def last_task(name: str) -> Tried:
        return try_out(name, "superni", 0, TINY)

    averaged, plain = last_task("seekr-averaged"), last_task("seekr-passes4")
    assert averaged.nll_learned[0] == plain.nll_learned[0]
    assert averaged.nll_learned[1] > plain.nll_learned[1]  # half of what the second task taught
