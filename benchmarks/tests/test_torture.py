"""The torture is right about what it sees, and a short version of it passes. `benchmarks/torture.py` does all."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.crashes import Watch, crash_everywhere
from benchmarks.torture import KILL, SIGNALS, stop_at_random
from benchmarks.torture_case import Outcome
from seekr_lite.common.files import new_file, new_folder, write_text

pytestmark = pytest.mark.benchmarks


def failed(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.passes]


def test_a_crash_at_a_file_operation_changes_no_result(tmp_path: Path) -> None:
    outcomes = list(crash_everywhere(tmp_path, limit=6))
    assert len(outcomes) == 6
    assert failed(outcomes) == []


def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    outcomes = list(stop_at_random((KILL,), 2, tmp_path, seed=0))
    assert sum(len(outcome.phases) for outcome in outcomes) == 2
    assert failed(outcomes) == []


@pytest.mark.parametrize("way", SIGNALS, ids=lambda way: way.name)
def test_a_signal_ends_a_run_as_promised(way: object, tmp_path: Path) -> None:
    outcomes = list(stop_at_random((way,), 1, tmp_path, seed=1))  # type: ignore[arg-type]
    assert failed(outcomes) == []


# ------------------------------------------------------------------ the watch


def states(watch: Watch, name: str) -> list[bytes | None]:
    """What `name` was in each state, None where it was not there."""
    blobs = watch._blobs
    digests = [dict(state.content).get(name) for state in watch.states]
    return [None if digest is None else blobs[digest] for digest in digests]


def test_the_watch_sees_a_file_only_whole_when_it_takes_its_place(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    with watch.watching():
        write_text(tmp_path / "file", "12345678")
    assert set(states(watch, "file")) == {None, b"12345678"}
    elsewhere = {digest for state in watch.states for name, digest in state.content if name != "file"}
    assert {watch._blobs[digest] for digest in elsewhere if digest} == {b"", b"1234", b"12345678"}


def test_the_watch_loses_what_was_not_synced(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    with watch.watching():
        (tmp_path / "draft").write_text("12345678")
        (tmp_path / "draft").rename(tmp_path / "careless")
        with new_folder(tmp_path / "folder") as folder:
            (folder / "careful").write_text("12345678")
    assert b"" in states(watch, "careless")
    assert set(states(watch, "folder/careful")) == {None, b"12345678"}


def test_the_watch_says_when_something_wrote_past_it(tmp_path: Path) -> None:
    def write_past() -> None:
        handle = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
        os.pwrite(handle, b"x", 0)
        os.close(handle)

    with pytest.raises(AssertionError, match="wrote past the watch"), Watch(tmp_path).watching():
        write_past()


def test_the_watch_counts_every_operation_of_a_new_file(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    with watch.watching(), new_file(tmp_path / "file") as temporary, io.open(temporary, "w") as file:  # noqa: UP020
        file.write("12")
    # mkstemp, open, two halves, sync, mode, rename, sync of the folder
    assert watch.operations == 8
    kinds = Counter(state.what.split()[1] for state in watch.states)
    assert kinds == {"the": 1, "open": 1, "half": 1, "write": 1, "replace": 1}
