"""What the tests of the benchmarks share: a benchmark run as a command, and a small finished run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import seekr_lite as sl
from seekr_lite.common.progress import Listener

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / ".." / "shared" / "golden"

torch.set_num_threads(1)  # the built-in base is so small that threads only wait for each other


def result_of(benchmark: str, output: Path, *arguments: str) -> dict[str, Any]:
    """Runs `python benchmarks/BENCHMARK.py ... --json`; the result, which is printed and written alike."""
    script = ROOT / "benchmarks" / f"{benchmark}.py"
    command = [sys.executable, str(script), *arguments, "--json", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed == json.loads(output.read_text())
    return printed


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """Two toy tasks without replay, for tests that only read the run."""
    recipe = sl.Recipe.from_toml(ROOT / "recipes" / "quickstart.toml").with_(
        data={"tasks": ("shade", "keeper"), "train_limit": 32, "test_limit": 6, "validation_rows": 4},
        train={"epochs": 1},
        method={"name": "sequential"},
    )
    return sl.run(recipe, output=tmp_path_factory.mktemp("finished") / "run", listener=Listener())
