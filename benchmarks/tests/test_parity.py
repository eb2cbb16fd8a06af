"""SEEKR and the metrics against the official numbers; and that the comparison can fail. It holds the product, so it has
no mark: plain `pytest` runs it."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.golden_case import GIVEN, Case
from benchmarks.parity import Line, compare_case, main, measure_case, summarise
from benchmarks.tests.conftest import GOLDEN
from seekr_lite.common.errors import UserError

FOLDERS = ["mha_full", "gqa_full", "mha_query_budget", "mha_padded", "gqa_two_tasks"]


@pytest.fixture(scope="module", params=FOLDERS)
def measured(request: pytest.FixtureRequest) -> tuple[Case, dict[str, Any]]:
    folder = GOLDEN / request.param
    if not (folder / "expected.json").exists():
        pytest.skip(f"../shared/golden/{request.param} is not here")
    case = Case(folder)
    return case, measure_case(case)


def failing(lines: list[Line]) -> list[Line]:
    return [line for line in lines if not line.passes]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all numbers."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*path, key))
    elif isinstance(value, int | float):
        yield path


def changed_by_one_percent(expected: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(expected)
    *parents, last = path
    place: Any = changed
    for key in parents:
        place = place[key]
    place[last] *= 1.01
    return changed


def test_every_number_is_met(measured: tuple[Case, dict[str, Any]]) -> None:
    case, ours = measured
    numbers = compare_case(case.expected, ours)
    assert failing(summarise("", numbers)) == []
    computed = [path for path in leaves(case.expected) if not GIVEN & set(path)]
    assert len(numbers) == len(computed)


def test_any_computed_number_that_is_off_by_one_percent_fails(measured: tuple[Case, dict[str, Any]]) -> None:
    case, ours = measured
    for path in leaves(case.expected):
        if GIVEN & set(path) or _value(case.expected, path) == 0:
            continue
        assert failing(summarise("", compare_case(changed_by_one_percent(case.expected, path), ours))), path


def test_a_given_number_that_is_off_by_one_percent_is_refused(
    measured: tuple[Case, dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case, _ = measured
    source = GOLDEN / request.node.callspec.params["measured"]
    for file in source.iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    first_of_each = {
        tuple(key for key in path if not isinstance(key, int)): path
        for path in leaves(case.expected)
        if GIVEN & set(path) and _value(case.expected, path) != 0
    }
    for path in first_of_each.values():
        (tmp_path / "expected.json").unlink()
        (tmp_path / "expected.json").write_text(json.dumps(changed_by_one_percent(case.expected, path)))
        with pytest.raises(UserError, match="no whole number"):
            Case(tmp_path)


def _value(expected: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        expected = expected[key]
    return expected


def test_one_row_at_a_time_adds_up(measured: tuple[Case, dict[str, Any]]) -> None:
    """The terms do not depend on how a step is cut into micro-batches."""
    case, _ = measured
    whole = case.terms()
    parts = [case.terms(slice(index, index + 1)) for index in range(len(case.rows))]
    for name, term in whole.items():
        added = torch.stack([part[name].value for part in parts]).sum()
        torch.testing.assert_close(added, term.value, rtol=1e-5, atol=0)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is not here")
def test_the_command_reports_every_folder_and_the_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDEN), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert {line["source"] for line in lines} == {*FOLDERS, "metrics.json"}
    assert all(line["passes"] and math.isfinite(line["largest_relative_error"]) for line in lines)
    of_metrics = {line["quantity"]: line["numbers"] for line in lines if line["source"] == "metrics.json"}
    assert of_metrics.pop("extraction") == 40
    assert sum(of_metrics.values()) == 19


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is not here")
def test_the_command_fails_where_a_number_is_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(GOLDEN / "mha_full", tmp_path / "mha_full")
    expected = json.loads((folder / "expected.json").read_text())
    (folder / "expected.json").chmod(0o644)
    (folder / "expected.json").write_text(json.dumps(changed_by_one_percent(expected, ("attn_distill_loss",))))
    assert main([str(folder)]) == 1
    assert "OFF" in capsys.readouterr().out


def test_a_folder_without_numbers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no expected.json" in capsys.readouterr().err
