"""What is damaged is found, and nothing crashes or says a wrong number. `benchmarks/flips.py` does much more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import seekr_lite as sl
from benchmarks.flips import NO_CHECKSUM, Check, finished_run, recipe_of_run
from seekr_lite.common.progress import Listener

QUIET = Listener()
pytestmark = pytest.mark.benchmarks


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("flips") / "run")


@pytest.mark.slow
def test_no_damage_of_any_file_goes_by_unseen(run: Path) -> None:
    check = Check(run, places=4, models=False)
    check.all_files()
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    assert {"checkpoint.safetensors", "tasks/mine.json", "heads/02-mine.json", *NO_CHECKSUM} <= set(files)
    assert check.counts["flip"] >= 4 * (len(files) - 1)
    assert check.findings == []


def test_the_check_finds_a_reader_that_trusts_what_it_reads(run: Path) -> None:
    check = Check(run, places=2, models=False)
    adapter = run / "adapters" / "00-shade" / "adapter_config.json"
    check.commands = {"verify": lambda path: "", "trusting": lambda path: adapter.read_bytes()}
    check.expected = {"verify": "", "trusting": adapter.read_bytes()}
    check.file(adapter)
    assert {finding.command for finding in check.findings} == {"verify", "trusting"}


def test_the_store_of_the_past_refuses_a_changed_memory(run: Path) -> None:
    memory = run / "memory" / "00-shade.jsonl"
    whole = memory.read_bytes()
    memory.write_bytes(whole + b"\n")
    with pytest.raises(sl.UserError, match=r"memory/00-shade\.jsonl: this file of the run is damaged"):
        _ = sl.open_run(run).replay_store
    memory.write_bytes(whole)


def test_what_can_be_made_again_is_mended_by_running_again(run: Path) -> None:
    scores = run / "scores.json"
    whole = scores.read_bytes()
    scores.write_bytes(json.dumps(json.loads(whole) | {"op": 100.0}).encode())
    with pytest.raises(sl.UserError, match=r"scores\.json: this file of the run is damaged"):
        _ = sl.open_run(run).scores
    sl.run(recipe_of_run(), output=run, listener=QUIET)
    assert scores.read_bytes() == whole
