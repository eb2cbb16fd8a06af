"""The README's first screen, literally: each of its two blocks sets up a fresh clone by itself and works."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from command_lines import FENCE, PAGES
from conftest import ROOT

pytestmark = pytest.mark.slow  # each block installs all packages into an environment of its own
README = PAGES[0]
URL = re.compile(r"https://\S+/seekr-lite(\.git)?(?=\s|$)")  # of the repository, in `git clone URL`


def block_under(heading: str) -> str:
    """The first `bash` block below a heading of the README."""
    _, found, section = README.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    assert found, f"README.md has no heading {heading}"
    return next(text for language, text in FENCE.findall(section) if language == "bash")


def in_a_new_terminal(script: str, folder: Path) -> str:
    """What the script prints in a shell outside of any environment, with this repository in place of its URL."""
    clone = f"git clone -q {ROOT} seekr-lite"
    script = script if "git clone" in script else f"{clone} && cd seekr-lite\n{script}"
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = ["bash", "-e", "-c", URL.sub(f"{ROOT} seekr-lite", script)]
    done = subprocess.run(command, cwd=folder, env=outside, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_first_run_prints_the_scores_of_the_quickstart(tmp_path: Path) -> None:
    printed = in_a_new_terminal(block_under("## First run"), tmp_path)
    scores = json.loads((tmp_path / "seekr-lite" / "runs" / "quickstart" / "scores.json").read_text(encoding="utf-8"))
    assert [task for task in scores["tasks"] if task not in printed] == []
    assert f"{scores['op']:.1f}" in printed
    assert f"{scores['nll']:.3f}" in printed
    assert scores["op"] > 50, "the quickstart has learned something"


def test_the_tests_install_and_pass(tmp_path: Path) -> None:
    printed = in_a_new_terminal(block_under("## Run the tests"), tmp_path)
    assert re.search(r"^\d+ passed", printed, re.MULTILINE)
    assert "failed" not in printed
