"""A short fuzz: what is bad is refused in clear words, and the fuzz would notice where it is not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.fuzz import Outcome, fuzz_commands, fuzz_data, fuzz_recipes, fuzz_runs, judge, use_data
from benchmarks.fuzz_cases import DATA_LAYOUTS, DataLayout, bad_recipe, good_rows
from seekr_lite.common.errors import UserError

pytestmark = pytest.mark.benchmarks


def refused_alone(outcome: Outcome, wanted: int) -> None:
    assert outcome.failed == []
    assert outcome.refused == wanted


def test_bad_recipes_are_refused(tmp_path: Path) -> None:
    refused_alone(fuzz_recipes(200, 7, tmp_path), 200)


@pytest.mark.parametrize("layout", DATA_LAYOUTS, ids=lambda layout: layout.name)
def test_bad_data_is_refused(tmp_path: Path, layout: DataLayout) -> None:
    refused_alone(fuzz_data(layout, 60, 7, tmp_path), 60)


def test_bad_run_folders_are_refused(tmp_path: Path) -> None:
    refused_alone(fuzz_runs(25, 7, tmp_path), 25)


def test_bad_recipes_and_data_are_refused_by_the_commands(tmp_path: Path) -> None:
    for outcome in fuzz_commands(2, 7, tmp_path).values():
        refused_alone(outcome, 2)


def test_the_fuzz_notices_what_is_no_refusal() -> None:
    def crash() -> None:
        raise KeyError("x")

    def hang() -> None:
        raise TimeoutError

    def mumble() -> None:
        raise UserError(" ")

    for bad in (crash, hang, mumble):
        outcome = Outcome()
        judge(outcome, "case", bad)
        assert len(outcome.failed) == 1


def test_the_same_seed_makes_the_same_cases() -> None:
    first, second, other = (bad_recipe(random.Random(seed)) for seed in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize("layout", DATA_LAYOUTS, ids=lambda layout: layout.name)
def test_the_good_data_of_the_fuzz_is_good(tmp_path: Path, layout: DataLayout) -> None:
    rows = good_rows(layout)
    for split in ("train", "test"):
        path = tmp_path / layout.file.format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)) if layout.lines else json.dumps(rows))
    use_data(layout, tmp_path)
