"""The benchmarks of evaluation and of many tasks run, and say what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def report(script: str, output: Path) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / script), "--quick", "--json", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed == json.loads(output.read_text())
    return printed


@pytest.mark.slow
def test_both_ways_of_evaluating_give_the_same_answers(tmp_path: Path) -> None:
    made = report("evaluate_throughput.py", tmp_path / "made.json")
    assert made["rows"] == 50
    assert made["answer_tokens"] > made["rows"]
    assert made["identical_share"] == {"plain / ours": 1.0}
    assert made["ratio"] > 0


@pytest.mark.slow
def test_a_long_sequence_costs_only_disk_and_stack_costs_more(tmp_path: Path) -> None:
    growth = report("scaling.py", tmp_path / "made.json")["growth"]
    first, *others = growth["continue"]["after"]
    for other in others:
        assert other["same_operations"]
        assert other["device_bytes"] == first["device_bytes"]
        assert other["disk_bytes"] == pytest.approx(other["tasks"] * first["disk_bytes"], rel=0.01)
    first, *others = growth["stack"]["after"]
    for other in others:
        assert not other["same_operations"]
        assert other["device_bytes"] > first["device_bytes"]


def test_a_checkpoint_is_timed_by_itself_and_by_the_whole(tmp_path: Path) -> None:
    recipe = SCRIPTS.parent / "recipes" / "quickstart.toml"
    output = tmp_path / "made.json"
    command = [sys.executable, str(SCRIPTS / "checkpoint_cost.py"), str(recipe), "--repeats", "1", "--json"]
    command += ["--set", "data.train_limit=32", "--set", "train.epochs=1", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)
    assert made == json.loads(output.read_text())
    assert made["checkpoint_bytes"] > 100_000
    assert made["share"] == pytest.approx(made["checkpoint_seconds"] / 600)
