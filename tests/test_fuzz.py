"""Whatever a file holds, it is read or refused in clear words: a short fuzz, and laws of the readers for any text."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import (
    Outcome,
    fuzz_commands,
    fuzz_data,
    fuzz_recipes,
    fuzz_runs,
    judge,
    use_data,
    use_recipe,
    use_run,
)
from benchmarks.fuzz_cases import DATA_LAYOUTS, DataLayout, bad_recipe, good_rows, good_run
from seekr_lite.common.errors import UserError
from seekr_lite.common.files import strict_json
from seekr_lite.data.rows import parse_json
from seekr_lite.evaluation.metrics import METRICS
from seekr_lite.evaluation.scoreboard import Scoreboard
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.record import read_record

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)

PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


# ------------------------------------------------------------------ the fuzz, short


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
    for outcome in fuzz_commands(2, 7, tmp_path):
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


# ------------------------------------------------------------------ laws


@in_one_folder
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
@example(b"a = 0x" + b"f" * 5_000)
def test_any_bytes_are_refused_as_a_recipe(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(UserError):
        use_recipe(path)


@given(st.dictionaries(st.sampled_from([*Recipe.model_fields]) | st.text(), PLAIN, max_size=4))
def test_any_values_are_refused_as_a_recipe(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Recipe.from_dict(values)


@given(st.sampled_from([*Recipe.model_fields]), st.data())
def test_any_value_of_a_key_is_taken_or_refused(section: str, data: st.DataObject) -> None:
    good = {"base": {"model": "tiny"}, "data": {"format": "toy", "tasks": ["shade"]}}
    field = Recipe.model_fields[section].annotation
    assert isinstance(field, type)
    key = data.draw(st.sampled_from([*field.model_fields]))  # type: ignore[attr-defined]
    values = {**good, section: {**good.get(section, {}), key: data.draw(PLAIN)}}
    try:
        recipe = Recipe.from_dict(values)
    except UserError:
        return
    assert Recipe.from_text(recipe.to_toml(), Path("x")) == recipe


@given(st.text(max_size=60))
def test_any_override_is_taken_or_refused(text: str) -> None:
    good = '[base]\nmodel = "tiny"\n[data]\nformat = "toy"\ntasks = ["shade"]\n'
    for override in (text, f"run.output={text}", f"train.{text}"):
        with suppress(UserError):
            Recipe.from_text(good, Path("x"), [override]).to_toml().encode()


@in_one_folder
@given(st.sampled_from(DATA_LAYOUTS), st.binary(max_size=200) | PLAIN.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_refused_as_data(tmp_path: Path, layout: DataLayout, content: bytes) -> None:
    for split in ("train", "test"):
        path = tmp_path / layout.file.format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(UserError):
        use_data(layout, tmp_path)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()


@given(st.text() | PLAIN.map(json.dumps))
def test_any_text_is_json_or_refused(text: str) -> None:
    with suppress(UserError):
        values = parse_json(text, "here")
        assert strict_json(json.dumps(values)) == values


@in_one_folder
@given(st.binary(max_size=200) | PLAIN.map(lambda values: json.dumps(values).encode()))
def test_any_bytes_are_refused_as_the_record_of_a_run(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError):
        read_record(tmp_path / "run.json")


@given(PLAIN)
def test_any_values_are_refused_as_a_scoreboard(values: Any) -> None:
    with pytest.raises(UserError):
        Scoreboard.from_json(values)


def test_a_run_folder_reads_back_what_was_written(tmp_path: Path) -> None:
    good_run(tmp_path / "run")
    use_run(tmp_path / "run")


@given(
    st.sampled_from(sorted(METRICS)),
    st.text(max_size=60),
    st.text(max_size=60),
    st.lists(st.text(max_size=60), max_size=3),
)
@example("sari", "", "", [""])
@example("bleu_4", "\0", "\ud800", ["\x85", " "])
def test_any_texts_have_a_score_within_bounds(name: str, source: str, answer: str, references: list[str]) -> None:
    assert -1e-6 <= METRICS[name].score_row(source, answer, references) <= 100 + 1e-6
