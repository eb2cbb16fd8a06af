"""The command line as a user meets it: every mistake ends with 2, one message, no traceback and no run folder."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "recipes" / "quickstart.toml"


def seekr_lite(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seekr_lite", *arguments]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}  # a hub that is not there would be asked again and again
    return subprocess.run(command, cwd=cwd, env=offline, capture_output=True, text=True, timeout=120, check=False)


def jsonl_task(folder: Path, train: str = '{"prompt": "a", "answer": "b"}\n') -> None:
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "train.jsonl").write_text(train)
    (folder / "mine" / "test.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')


JSONL = ("--set", "data.format=jsonl", "--set", "data.path=data", "--set", 'data.tasks=["mine"]')
MISTAKES = {
    "unknown key": (("--set", "train.epoch=3"), "did you mean"),
    "wrong type": (("--set", "train.epochs=many"), "train.epochs"),
    "missing file": (("--set", "data.format=jsonl", "--set", "data.path=nowhere"), "train.jsonl and test.jsonl"),
    "unknown task": (("--set", 'data.tasks=["shad"]'), 'did you mean "shade"'),
    "epochs that do not match": (("--set", "train.epochs=[1, 2]"), "2 numbers for 4 tasks"),
    "broken JSON": (JSONL, "broken JSON at line 1"),
    "a row without answer": (JSONL, "row 1: there is no `answer`"),
    "an empty split": (JSONL, "no rows"),
    "a head budget above the heads": (("--set", "method.head_budget=17"), "method.head_budget = 17"),
    "attention that cannot be looked into": (("--set", "base.attention=eager"), 'attention implementation "eager"'),
    "a model that is not there": (("--set", "base.model=models/none-here"), "models/none-here"),
}
TRAIN = {"broken JSON": "{broken\n", "a row without answer": '{"prompt": "a"}\n', "an empty split": ""}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_2_and_leaves_nothing(mistake: str, tmp_path: Path) -> None:
    overrides, message = MISTAKES[mistake]
    if mistake in TRAIN:
        jsonl_task(tmp_path / "data", TRAIN[mistake])
    done = seekr_lite("run", str(QUICKSTART), "-o", "out", *overrides, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert done.stdout == ""


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    done = seekr_lite("run", str(QUICKSTART), "-o", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "not empty and is not a run" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_the_recipe_that_is_not_there(tmp_path: Path) -> None:
    done = seekr_lite("run", "none.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "none.toml" in done.stderr


@pytest.mark.core
def test_run_prints_scores_as_json(tmp_path: Path) -> None:
    small = ("--set", 'data.tasks=["shade"]', "--set", "data.train_limit=16", "--set", "data.test_limit=4")
    done = seekr_lite("run", str(QUICKSTART), "-o", "out", *small, "--set", "train.epochs=1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"] == ["shade"]


def test_data_check_shows_what_is_learned(tmp_path: Path) -> None:
    done = seekr_lite("data", "check", str(QUICKSTART), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "shade" in done.stdout
    assert "</s>«" in done.stdout


def test_data_check_says_what_run_would_refuse(tmp_path: Path) -> None:
    done = seekr_lite("data", "check", str(QUICKSTART), "--set", "data.max_prompt_tokens=2000", cwd=tmp_path)
    assert done.returncode == 2
    assert "the base reads at most 1024 tokens" in done.stderr
    assert "shade" in done.stdout  # the lengths are shown all the same


def test_a_run_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    done = seekr_lite("report", "runs/fisrt", cwd=tmp_path)
    assert done.returncode == 2
    assert "there are runs/first, runs/second" in done.stderr


def test_data_check_json(tmp_path: Path) -> None:
    done = seekr_lite("data", "check", str(QUICKSTART), "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["tasks"][0]["train_rows"] == 200
    assert report["tasks"][0]["test_prompts_in_train"] == 0


@pytest.mark.parametrize(
    "code", ["import seekr_lite", "import sys; sys.argv[1:] = ['--help']; import seekr_lite.cli as c; c.main()"]
)
def test_starting_takes_under_a_second(code: str, tmp_path: Path) -> None:
    """Of the processor: what else runs on the machine does not count."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 1.0, times


def test_a_quiet_run_says_nothing_on_stderr(tmp_path: Path) -> None:
    small = ("--set", 'data.tasks=["shade"]', "--set", "data.train_limit=16", "--set", "data.test_limit=4")
    done = seekr_lite("run", str(QUICKSTART), "-o", "out", *small, "--set", "train.epochs=1", "-q", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "OP" in done.stdout


def test_verify_ends_with_0_for_a_whole_run_and_with_2_for_a_damaged_one(tmp_path: Path) -> None:
    small = ("--set", 'data.tasks=["shade"]', "--set", "data.train_limit=16", "--set", "data.test_limit=4")
    seekr_lite("run", str(QUICKSTART), "-o", "out", *small, "--set", "train.epochs=1", "-q", cwd=tmp_path)
    done = seekr_lite("verify", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "files are whole" in done.stdout
    scores = tmp_path / "out" / "scores.json"
    scores.write_text(scores.read_text().replace('"op"', '"OP"'))
    done = seekr_lite("verify", "out", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert {"path": "scores.json", "state": "changed"} in json.loads(done.stdout)
