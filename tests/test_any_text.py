"""Whatever a file holds, it is read or refused in clear words: laws of the readers for any text."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import strict_json
from seekr_lite.data.readers import load_tasks
from seekr_lite.data.rows import parse_json
from seekr_lite.evaluation.metrics import METRICS
from seekr_lite.evaluation.scoreboard import Scoreboard
from seekr_lite.recipe.recipe import DataSettings, Recipe
from seekr_lite.runs.record import read_record

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)

PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FILES = {"trace": "mine/{}.json", "superni": "mine/{}.json", "jsonl": "mine.{}.jsonl"}  # format -> where a split lies


@in_one_folder
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
@example(b"a = 0x" + b"f" * 5_000)
def test_any_bytes_are_refused_as_a_recipe(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(UserError):
        Recipe.from_toml(path)


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
@given(st.sampled_from(sorted(FILES)), st.binary(max_size=200) | PLAIN.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_refused_as_data(tmp_path: Path, layout: str, content: bytes) -> None:
    for split in ("train", "test"):
        path = tmp_path / FILES[layout].format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(UserError):
        load_tasks(DataSettings.model_validate({"format": layout, "path": str(tmp_path), "tasks": ("mine",)}))
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


@given(
    st.sampled_from(sorted(METRICS)),
    st.text(max_size=60),
    st.text(max_size=60),
    st.lists(st.text(max_size=60), max_size=3),
)
@example("sari", "", "", [""])
@example("bleu_4", "\0", "\ud800", ["\x85", " "])
def test_any_texts_have_a_score_within_bounds(name: str, source: str, answer: str, references: list[str]) -> None:
    assert -1e-6 <= METRICS[name](source, answer, references) <= 100 + 1e-6
