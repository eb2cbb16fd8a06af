"""A real pretrained model on real data: SmolLM2-135M-Instruct on SuperNI and TRACE, a few rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import seekr_lite as sl
from seekr_lite.common.progress import Listener

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "smollm2-135m-instruct"
DATA = ROOT / ".." / "shared" / "data"

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not (MODEL / "model.safetensors").is_file(), reason="run scripts/get_smollm2.py first"),
    pytest.mark.skipif(not DATA.is_dir(), reason="the reference data is not here (../shared/data)"),
]


@pytest.mark.parametrize(
    ("recipe", "path", "tasks"),
    [
        ("smollm2-superni", "SuperNI", ("task363", "task875")),
        ("smollm2-trace", "TRACE-Benchmark/LLM-CL-Benchmark_Reasoning", ("FOMC", "NumGLUE-cm")),
    ],
)
def test_two_real_tasks_run_through(recipe: str, path: str, tasks: tuple[str, ...], tmp_path: Path) -> None:
    settings = sl.Recipe.from_toml(ROOT / "recipes" / f"{recipe}.toml").with_(
        base={"model": str(MODEL)},
        data={"path": str(DATA / path), "tasks": tasks, "train_limit": 4, "test_limit": 2, "validation_rows": 2},
        train={"epochs": 1},
    )
    run = sl.run(settings, output=tmp_path / "run", listener=Listener())
    assert run.scores.op is not None
    assert run.scores.nll is not None
    heads = json.loads((run.path / "heads" / f"01-{tasks[1]}.json").read_text())["heads"]
    assert len(heads) == round(0.125 * 30 * 9)  # of SmolLM2's 30 layers with 9 heads
