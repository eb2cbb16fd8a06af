"""The scoreboard: its figures by hand, its file form, its tables."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from seekr_lite.common.errors import UserError
from seekr_lite.evaluation.scoreboard import Scoreboard, scoreboard

pytestmark = pytest.mark.core

FULL = Scoreboard(
    tasks=("a", "b", "c"),
    metrics={"a": "accuracy", "b": "rouge_l", "c": "sari"},
    matrix=((80.0, 20.0, 10.0), (84.0, 60.0, 16.0), (70.0, 54.0, 90.0)),
    base=(5.0, 15.0, 20.0),
    nll_matrix=((1.0, 3.0, 3.0), (1.5, 1.0, 3.0), (2.0, 1.5, 0.5)),
    nll_base=(3.0, 3.0, 3.0),
    method="seekr",
    seed=7,
)
ROUNDS = replace(FULL, base=None, matrix=((80.0, None, None), (None, 60.0, None), (70.0, 54.0, 90.0)))
JOINT = replace(FULL, matrix=((None,) * 3, (None,) * 3, (70.0, 54.0, 90.0)))


def test_figures_by_hand() -> None:
    assert FULL.summary() == pytest.approx(
        {
            "op": 214 / 3,
            "bwt": (-10 - 6) / 2,
            "bwt_official": (-10 - 6) / 3,
            "forgetting": (14 + 6) / 2,
            "fwt": (5 - 4) / 2,
            "nll": 4 / 3,
            "nll_forgetting": (1 + 0.5) / 2,
        }
    )


def test_diagonal_and_last() -> None:
    assert ROUNDS.op == pytest.approx(214 / 3)
    assert (ROUNDS.bwt, ROUNDS.forgetting, ROUNDS.fwt) == (-8, 8, None)


def test_joint_has_its_last_row_only() -> None:
    assert JOINT.op == pytest.approx(214 / 3)
    assert (JOINT.bwt, JOINT.bwt_official, JOINT.forgetting, JOINT.fwt) == (None,) * 4


def test_one_task_and_a_missing_score() -> None:
    one = Scoreboard(tasks=("a",), metrics={"a": "sari"}, matrix=((40.0,),), method="seekr", seed=0, base=(1.0,))
    assert (one.op, one.bwt, one.bwt_official, one.forgetting, one.fwt) == (40, None, None, None, None)
    unfinished = replace(FULL, matrix=(*FULL.matrix[:2], (70.0, None, 90.0)))
    assert (unfinished.op, unfinished.bwt, unfinished.forgetting) == (None, None, None)


def test_a_task_without_test_rows_is_unknown_and_left_out_of_the_means() -> None:
    board = replace(
        FULL,
        matrix=((80.0, None, 10.0), (84.0, None, 16.0), (70.0, None, 90.0)),
        base=(5.0, None, 20.0),
        untested=("b",),
    )
    assert (board.op, board.bwt, board.bwt_official, board.forgetting, board.fwt) == (80, -10, -5, 14, -4)
    assert board.nll == FULL.nll
    assert "over 2 of 3 tasks" in board.note


@pytest.mark.parametrize("untested", [("a", "b"), ("a", "b", "c")])
def test_a_mean_over_no_task_is_unknown(untested: tuple[str, ...]) -> None:
    rows = tuple(tuple(None if task in untested else 50.0 for task in FULL.tasks) for _ in FULL.tasks)
    board = replace(FULL, matrix=rows, base=None, untested=untested)
    assert board.op == (50 if len(untested) == 2 else None)
    assert (board.bwt, board.bwt_official, board.forgetting, board.fwt) == (None,) * 4


def test_results_without_a_score_and_missing_ones_are_told_apart() -> None:
    metrics = {"a": "sari", "b": "sari"}
    found = scoreboard(metrics, {(0, 0): (40.0, None), (1, 0): (30.0, None), (1, 1): (None, 2.0)}, "seekr", 0)
    assert (found.untested, found.op, found.nll_matrix[1]) == (("b",), 30.0, (None, 2.0))
    unfinished = scoreboard(metrics, {(0, 0): (40.0, None), (1, 0): (30.0, None)}, "seekr", 0)
    assert (unfinished.untested, unfinished.op) == ((), None)


@pytest.mark.parametrize("board", [FULL, ROUNDS, JOINT, replace(JOINT, untested=("b",))])
def test_json_round_trip(board: Scoreboard) -> None:
    values = json.loads(json.dumps(board.to_json(), allow_nan=False))
    assert Scoreboard.from_json(values) == board
    assert values["bwt_official"] == board.bwt_official


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": []},
        {"tasks": "abc"},
        {"tasks": ["a", "a", "c"]},
        {"metrics": {"a": "accuracy"}},
        {"metrics": None},
        {"matrix": [[1, 2, 3]]},
        {"matrix": [[1, 2], [1, 2], [1, 2]]},
        {"matrix": [[1, 2, 3], [1, 2, 3], [1, 2, "3"]]},
        {"matrix": [[1, 2, 3], [1, 2, 3], [1, 2, True]]},
        {"matrix": [[1, 2, 3], [1, 2, 3], [1, 2, float("nan")]]},
        {"nll_matrix": [[1, 2, 3], [1, 2, 3], [1, 2, float("inf")]]},
        {"base": [1]},
        {"untested": ["d"]},
        {"method": None},
        {"seed": float("inf")},
        {"seed": True},
    ],
    ids=str,
)
def test_damaged_scores_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="scores are damaged"):
        Scoreboard.from_json({**FULL.to_json(), **change})


@pytest.mark.parametrize("values", [None, [], "x", {}])
def test_what_is_no_scoreboard_is_refused(values: Any) -> None:
    with pytest.raises(UserError):
        Scoreboard.from_json(values)


def test_in_a_notebook_the_caption_has_the_figures_as_text() -> None:
    assert f"<caption>seekr, seed 7: op {FULL.op:.1f}, bwt {FULL.bwt:.1f}, " in FULL._repr_html_()


def test_tables_show_scores_and_escape_names() -> None:
    from rich.console import Console

    hostile = "<script>[red]"
    board = replace(FULL, tasks=(hostile, "b", "c"), metrics={hostile: "<b>", "b": "x", "c": "y"}, method="<i>")
    page = board._repr_html_()
    assert "&lt;script&gt;[red]" in page
    assert not any(tag in page for tag in ("<script>", "<b>", "<i>"))
    out = io.StringIO()
    Console(file=out, width=160).print(board.table())
    for text in (str(board), out.getvalue()):
        assert hostile in text
        assert "84.0" in text
        assert "(bare base)" in text
    assert "84.0" in page
