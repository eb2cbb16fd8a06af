"""Which rows meet in which step."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekr_lite.methods.memory import choose_samples
from seekr_lite.methods.schedule import plan_epoch, steps_per_epoch

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


@pytest.mark.parametrize(("rows", "fraction", "kept"), [(500, 0.01, 5), (10, 0.01, 1), (3, 1.0, 3)])
def test_at_least_one_sample_is_kept(rows: int, fraction: float, kept: int) -> None:
    assert len(choose_samples(rows, fraction, "random", random.Random(0))) == kept
    assert choose_samples(rows, fraction, "first", random.Random(0)) == list(range(kept))
