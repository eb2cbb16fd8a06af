"""Which rows meet in which step."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekr_lite.methods.replay_memory import choose_samples
from seekr_lite.training.replay_schedule import plan_epoch, steps_per_epoch

pytestmark = pytest.mark.core

SIZES = {
    "rows": st.integers(1, 60),
    "batch": st.integers(1, 20),
    "memory": st.integers(0, 80),
    "passes": st.sampled_from([0.5, 1.0, 2.0, 7.0]),
    "own": st.booleans(),
    "seed": st.integers(0, 5),
}


@given(**SIZES)
def test_every_new_row_is_seen_once(rows: int, batch: int, memory: int, passes: float, own: bool, seed: int) -> None:
    steps = plan_epoch(rows, batch, memory, passes, own, random.Random(seed))
    assert sorted(index for step in steps for index in step.new) == list(range(rows))
    assert all(len(step.new) <= batch for step in steps)


@given(**SIZES)
def test_old_rows_are_never_dropped(rows: int, batch: int, memory: int, passes: float, own: bool, seed: int) -> None:
    steps = plan_epoch(rows, batch, memory, passes, own, random.Random(seed))
    seen = Counter(index for step in steps for index in step.replay)
    assert sum(seen.values()) == (max(1, round(memory * passes)) if memory else 0)
    assert not seen or max(seen.values()) - min(seen[index] for index in range(memory)) <= 1


@given(**SIZES)
def test_the_number_of_steps_is_known_before(
    rows: int, batch: int, memory: int, passes: float, own: bool, seed: int
) -> None:
    steps = plan_epoch(rows, batch, memory, passes, own, random.Random(seed))
    assert len(steps) == steps_per_epoch(rows, batch, memory, passes, own)


def test_shared_replay_is_spread_evenly() -> None:
    steps = plan_epoch(64, 8, 4, 2, own_steps=False, generator=random.Random(0))
    assert [len(step.replay) for step in steps] == [1] * 8


def test_own_steps_hold_old_rows_alone() -> None:
    steps = plan_epoch(64, 8, 4, 2, own_steps=True, generator=random.Random(0))
    assert [bool(step.new) for step in steps].count(False) == 2
    assert not any(step.new and step.replay for step in steps)


CHOICES = ("random", "stratified", "first")


@pytest.mark.parametrize(("rows", "fraction", "kept"), [(500, 0.01, 5), (10, 0.01, 1), (3, 1.0, 3)])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_share_of_the_samples_is_kept_and_at_least_one(rows: int, fraction: float, kept: int, choice: str) -> None:
    chosen = choose_samples(["yes", "no"] * rows, fraction / 2, choice, random.Random(0))
    assert chosen == sorted(set(chosen))
    assert len(chosen) == kept
    assert choice != "first" or chosen == list(range(kept))


@given(answers=st.lists(st.sampled_from("abcdef"), min_size=1), fraction=st.floats(0.01, 1.0), seed=st.integers(0, 99))
def test_a_stratified_choice_has_every_answer_or_its_share_up_to_one_row(
    answers: list[str], fraction: float, seed: int
) -> None:
    chosen = choose_samples(answers, fraction, "stratified", random.Random(seed))
    kept, there = Counter(answers[row] for row in chosen), Counter(answers)
    if len(there) <= len(chosen):
        assert kept.keys() == there.keys()
    else:
        shares = {answer: len(chosen) * rows / len(answers) for answer, rows in there.items()}
        assert all(abs(kept[answer] - share) < 1 + 1e-9 for answer, share in shares.items())


def test_every_row_is_as_likely_to_be_in_a_stratified_choice() -> None:
    answers = ["often"] * 15 + [f"rare {row}" for row in range(15)]
    times = Counter(
        row for seed in range(3000) for row in choose_samples(answers, 0.1, "stratified", random.Random(seed))
    )
    assert all(times[row] == pytest.approx(300, rel=0.25) for row in range(30))  # 3 of 30 rows
