"""The recipes of the package from anywhere, and the new one that a user edits."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.recipe.shipped import own_tasks_recipe, shipped_recipe, shipped_recipes

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["recipes", *map(str, arguments)])


def test_every_recipe_of_the_package_is_listed_with_what_it_is() -> None:
    values = json.loads(command("list", "--json").stdout)
    assert [one["name"] for one in values] == NAMES
    assert all(len(one["about"]) > 20 and "\n" not in one["about"] for one in values)
    shown = command("list").stdout
    assert all(name in shown for name in NAMES)


def test_the_package_says_that_it_brings_its_recipes() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["package-data"]["seekr_lite.recipe"] == ["recipes/*.toml"]
    assert (ROOT / "seekr_lite" / "recipe" / "recipes").resolve() == ROOT / "recipes"


def test_show_prints_the_file_as_it_is() -> None:
    assert command("show", "quickstart").stdout == (ROOT / "recipes" / "quickstart.toml").read_text()
    assert command("show", "quickstart.toml").stdout == shipped_recipe("quickstart").text


def test_a_new_recipe_is_right_as_it_is_written(tmp_path: Path) -> None:
    done = command("new", tmp_path / "mine.toml")
    assert done.exit_code == 0, done.output
    recipe = Recipe.from_toml(tmp_path / "mine.toml")
    assert recipe.data.format == "jsonl"
    assert recipe.run.output == "runs/mine"


def test_a_new_recipe_names_every_key_with_its_default() -> None:
    text = own_tasks_recipe("mine.toml")
    uncommented = re.sub(r"^# (\w+ = )(?!\.\.\.)", r"\1", text, flags=re.MULTILINE)
    values = tomllib.loads(uncommented)
    assert Recipe.from_dict(values) == Recipe.from_dict(tomllib.loads(text))
    for section, place in Recipe.model_fields.items():
        assert place.annotation is not None
        for key in place.annotation.model_fields:
            assert re.search(rf"^(# )?{key} = ", text, re.MULTILINE), f"{section}.{key}"


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_a_shipped_recipe_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert command("new", file, "--from", name).exit_code == 0
    copy, original = Recipe.from_toml(file), Recipe.from_toml(ROOT / "recipes" / f"{name}.toml")
    assert copy.with_(run={"output": original.run.output}) == original
    assert copy.run.output == "runs/mine"
    assert f"seekr-lite run {file}" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "quickstrat"), 'did you mean "quickstart"'),
        (("new", "{folder}/other.toml", "--from", "quickstrat"), 'did you mean "quickstart"'),
        (("new", "{folder}/mine.toml"), "nothing is overwritten"),
        (("new", "{folder}/mine"), "call it mine.toml"),
        (("new", "{folder}/mine.toml/other.toml"), "cannot be written"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    done = command(*(argument.format(folder=tmp_path) for argument in arguments))
    assert isinstance(done.exception, sl.UserError), done.output
    assert message in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]
    assert (tmp_path / "mine.toml").read_text() == "mine"


def test_every_about_is_the_beginning_of_its_file() -> None:
    for one in shipped_recipes():
        assert one.text.startswith(f"# {one.about[:40]}")
