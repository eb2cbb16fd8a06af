"""A task without test rows: its score is unknown wherever a run shows it, and no mean counts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import two_toy_tasks
from page import check_page
from typer.testing import CliRunner

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.progress import Listener
from seekr_lite.common.terminal import as_text
from seekr_lite.runs.inventory import TaskStore
from seekr_lite.runs.trackers import evaluation_values
from seekr_lite.tools.compare.run_grid import plan_runs
from seekr_lite.tools.heads.heads_table import render_store
from seekr_lite.tools.heads.scores import TaskHeads
from seekr_lite.tools.report.costs_section import cost_tables
from seekr_lite.tools.report.run_facts import RunFacts
from seekr_lite.tools.report.run_html import run_html

QUIET = Listener()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """It has learned `shade`, which has test rows, and `mine`, which has none, under a general recipe's folder name."""
    path = tmp_path_factory.mktemp("untested") / "replay-0"
    settings = {"data": {"tasks": ("shade",), "train_limit": 16, "test_limit": 4}, "method": {"name": "replay"}}
    mine = sl.Task("mine", train=[sl.Example("say:", "yes")] * 4, test=[])
    return sl.run(two_toy_tasks(path, **settings), listener=QUIET).learn(mine, listener=QUIET)


def printed(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_scoreboard_says_so(run: sl.Run) -> None:
    scores = run.scores
    assert scores.matrix[1] == (scores.op, None)
    assert scores.bwt == scores.matrix[1][0] - scores.matrix[0][0]
    for shown in (str(scores), scores._repr_html_()):
        assert "no test rows, so the score is not known: mine" in shown
        assert "over 1 of 2 tasks" in shown
    assert json.loads((run.path / "scores.json").read_text())["untested"] == ["mine"]


def test_the_record_and_the_log_hold_no_score(run: sl.Run) -> None:
    assert run.folder.evaluation(1, "mine").score is None
    events = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    (tested,) = [event for event in events if event["event"] == "evaluation" and event["task"] == "mine"]
    assert tested["score"] is None
    assert evaluation_values(tested) == {}


def test_the_report_says_so(run: sl.Run) -> None:
    page = check_page(run_html(run.folder))
    assert "on average over one task. Without test rows, and so without a score: mine." in page.sections[""]
    assert "over 1 of 2 tasks" in page.sections["scores"]
    assert "no test rows" in page.sections["curves"]
    assert "not finished" not in page.sections[""]


def test_other_commands_say_so(run: sl.Run, tmp_path: Path) -> None:
    (found,) = run.evaluate(tasks=["mine"])
    assert (found.score, found.from_run) == (None, True)
    assert "–" in printed("evaluate", run.path, "--task", "mine")
    assert "over 1 of 2 tasks" in printed("compare", run.path, "--html", tmp_path / "page.html")
    assert "over 1 of 2 tasks" in (tmp_path / "page.html").read_text()
    (compared,) = json.loads(printed("compare", run.path, "--json"))["runs"]
    assert (compared["op"], compared["untested"]) == (run.scores.op, ["mine"])


def test_a_comparison_takes_the_run_as_finished(run: sl.Run) -> None:
    (planned,) = plan_runs(run.recipe, (), (), run.path.parent)
    assert planned.state == "finished"


# ------------------------------------------------------------------ of the same kind: a number from nothing


def test_heads_without_any_score_have_no_shares() -> None:
    nothing = torch.zeros(2, 2)
    heads = TaskHeads("a", nothing, nothing, nothing, ())
    assert [one.share for one in heads.top(2)] == [None, None]
    assert heads.top_rows()[0][2] == "–"


def test_a_store_without_samples_has_no_mean_sample() -> None:
    shown = as_text(render_store([TaskStore("a", 0, 0, 0.0, 0, 1234)]))
    rows = [line.split()[1::2] for line in shown.splitlines() if "1,234" in line]
    assert rows == [[name, "0", "0", "–", "–", "1,234"] for name in ("a", "all")]


def test_a_task_without_steps_has_no_seconds_a_step(run: sl.Run) -> None:
    facts = RunFacts.of(run.folder)
    facts.folder.record.stages[0].steps = 0
    assert cost_tables(facts)["learning"][0][3] == "–"
