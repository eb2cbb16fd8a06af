"""Recipes: every shipped one is right, and every mistake in one is said with file, line and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from seekr_lite.common.errors import UserError
from seekr_lite.recipe.recipe import Recipe, parse_override

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "recipes").glob("*.toml"))
GOOD = """\
[base]
model = "tiny"

[data]
format = "toy"
tasks = ["shade", "keeper"]

[train]
epochs = 2
"""


def _write(folder: Path, text: str = GOOD) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _error(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        Recipe.from_toml(path, overrides)
    return str(caught.value)


# The shipped recipes


def test_there_are_shipped_recipes() -> None:
    assert "quickstart.toml" in {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_toml(path)
    assert Recipe.from_toml(_write(tmp_path, recipe.to_toml())) == recipe
    assert recipe.run.output == f"runs/{path.stem}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_opens_with_the_command_that_runs_it(path: Path) -> None:
    opening = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert opening, "a recipe opens with a comment: what it does, the command, what it needs"
    commands = re.findall(r"^#     (seekr-lite run \S+)", opening[0], re.MULTILINE)
    assert commands == [f"seekr-lite run recipes/{path.name}"]
    assert "needs" in opening[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_gated_bases_are_called_gated(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ("gated: ask for access" in text) == ("meta-llama/" in Recipe.from_toml(path).base.model)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("trace-llama2-7b", "trace-llama2-7b-order2"),
        ("superni-llama2-7b", "superni-llama2-7b-order4"),
    ],
)
def test_orders_hold_the_same_tasks(one: str, other: str) -> None:
    first, second = (Recipe.from_toml(ROOT / "recipes" / f"{stem}.toml") for stem in (one, other))
    assert first.data.tasks != second.data.tasks
    assert sorted(first.data.tasks) == sorted(second.data.tasks)
    assert first.method == second.method


# Mistakes


def test_all_mistakes_at_once_with_lines_and_nearest_spellings(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        """\
[base]
model = "tiny"
quantization = "nf5"

[data]
format = "toys"
tasks = ["shade"]

[train]
learning_rat = 1e-3
epochs = "many"

[methods]
name = "seekr"
""",
    )
    message = _error(path)
    lines = message.splitlines()
    assert lines[0] == f"{path} has 5 problems:"
    for line, *parts in (
        (3, "base.quantization = 'nf5'", 'did you mean "nf4"?'),
        (6, "data.format = 'toys'", 'did you mean "toy"?'),
        (10, "unknown key train.learning_rat", 'did you mean "learning_rate"?'),
        (11, "train.epochs = 'many'", "an integer or a list"),
        (13, "unknown section [methods]", 'did you mean "method"?'),
    ):
        (found,) = [text for text in lines if f"{path}:{line}: " in text]
        assert all(part in found for part in parts), found


def test_epochs_that_do_not_match_the_tasks(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD.replace("epochs = 2", "epochs = [1, 2, 3]"))
    assert f"{path}:9: train.epochs: 3 numbers for 2 tasks" in _error(path)


def test_unknown_method(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD + '\n[method]\nname = "seeker"\n')
    message = _error(path)
    assert f'{path}:12: method.name: no method is called "seeker"; did you mean "seekr"?' in message
    assert "sequential" in message


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", ""])
def test_bad_task_name(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path, GOOD.replace("keeper", name))
    assert f"{path}:6: data.tasks: task name {name!r} cannot be used" in _error(path)


def test_task_named_twice(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD.replace("keeper", "shade"))
    assert f"{path}:6: data.tasks: shade is named more than once" in _error(path)


def test_no_path_for_a_format_that_needs_one(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD.replace('"toy"', '"trace"'))
    assert 'data.path: is needed with format = "trace"' in _error(path)


def test_missing_section(tmp_path: Path) -> None:
    path = _write(tmp_path, '[base]\nmodel = "tiny"\n')
    assert "the section [data] is needed" in _error(path)


def test_missing_key(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD.replace('model = "tiny"\n', ""))
    assert f"{path}:1: the key base.model is needed" in _error(path)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("train", "learning_rate = inf"),
        ("train", "learning_rate = nan"),
        ("train", "batch_size = 0"),
        ("train", "batch_size = 1.5"),
        ("train", "checkpointing = 1"),
        ("method", "replay_fraction = 0"),
        ("method", "layer_budget = 1.0"),
        ("method", "head_budget = -1"),
        ("method", "head_budget = true"),
        ("run", "seed = -1"),
        ("run", "memory_limit_gb = 0"),
    ],
)
def test_value_that_is_not_allowed(tmp_path: Path, section: str, line: str) -> None:
    header = "" if section == "train" else f"\n[{section}]\n"
    path = _write(tmp_path, f"{GOOD}{header}{line}\n")
    number = len(path.read_text().splitlines())
    key = line.split(" = ")[0]
    assert f"{path}:{number}: {section}.{key} = " in _error(path)


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "gone.toml"
    assert _error(path) == f"{path}: there is no such recipe file"


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    assert f"{tmp_path}: cannot be read as a recipe" in _error(tmp_path)


@pytest.mark.parametrize("text", ["[base\n", "a = = 1", "a = " + "[" * 5000])
def test_broken_toml(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path, text)
    assert _error(path).startswith(f"{path}: this is not valid TOML: ")


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    assert f"{path}: cannot be read as a recipe" in _error(path)


def test_section_that_is_no_table(tmp_path: Path) -> None:
    path = _write(tmp_path, 'base = "tiny"\n')
    assert f"{path}:1: base = 'tiny' is not allowed" in _error(path)
    assert "base must be a table" in _error(path, "base.model=tiny")


# Overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.epochs=7", 7),
        ("train.epochs=[5, 5]", [5, 5]),
        ("train.learning_rate=1e-3", 1e-3),
        ("train.checkpointing=false", False),
        ('method.name="replay"', "replay"),
        ("method.name=replay", "replay"),
        ("data.path=/data/a folder", "/data/a folder"),
        ("data.path=a=b", "a=b"),
    ],
)
def test_override_is_typed_or_a_bare_word(override: str, value: Any) -> None:
    section, key, found = parse_override(override)
    assert f"{section}.{key}" == override.split("=")[0]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("override", ["", "train", "train.epochs", "epochs=3", "=3", ".epochs=3", "train.=3"])
def test_override_of_no_form(override: str) -> None:
    with pytest.raises(UserError, match=r"write section\.key=value"):
        parse_override(override)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    recipe = Recipe.from_toml(_write(tmp_path), ["train.epochs=[3, 4]", "method.name=replay", "run.seed=7"])
    assert (recipe.train.epochs, recipe.method.name, recipe.run.seed) == ((3, 4), "replay", 7)
    assert [recipe.epochs_of(index) for index in range(3)] == [3, 4, 4]


def test_mistake_in_an_override_names_the_override(tmp_path: Path) -> None:
    message = _error(_write(tmp_path), "train.epoch=3", "base.quantization=nf5")
    assert '--set train.epoch=3: unknown key train.epoch; did you mean "epochs"?' in message
    assert "--set base.quantization=nf5: base.quantization = 'nf5' is not allowed" in message


def test_output_is_named_after_the_recipe(tmp_path: Path) -> None:
    assert Recipe.from_toml(_write(tmp_path)).run.output == "runs/mine"
    assert Recipe.from_toml(_write(tmp_path), ["run.output=elsewhere"]).run.output == "elsewhere"


def test_any_text_survives_a_round_trip(tmp_path: Path) -> None:
    text = 'é 的 🙂 "quoted" \\ \t \n \x01 \x7f \x85'
    recipe = Recipe.from_toml(_write(tmp_path)).with_(data={"path": text})
    assert Recipe.from_toml(_write(tmp_path, recipe.to_toml())) == recipe


def test_problems_between_keys_are_told_with_the_others(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        '[base]\nmodel = "tiny"\n[data]\nformat = "toy"\ntasks = ["shade", "shade"]\n'
        '[train]\nepochs = [1]\nlearning_rate = "fast"\n[method]\nname = "sekr"\n'
    )
    with pytest.raises(UserError) as caught:
        Recipe.from_toml(path)
    message = str(caught.value)
    assert "4 problems" in message
    for part in ("bad.toml:8: train.learning_rate", "more than once", "1 numbers for 2 tasks", 'did you mean "seekr"'):
        assert part in message


def test_the_recipe_reference_is_current() -> None:
    from scripts.make_recipe_reference import TARGET, reference

    assert TARGET.read_text(encoding="utf-8") == reference(), "run scripts/make_recipe_reference.py"


def schedule_of(recipe: Recipe) -> tuple[str, float, float]:
    return recipe.method.replay_step, recipe.method.replay_passes, recipe.method.attention_weight


def test_a_method_brings_its_own_schedule_and_weight() -> None:
    recipe = Recipe.from_dict({"base": {"model": "tiny"}, "data": {"format": "toy", "tasks": ("shade",)}})
    assert recipe.method.name == "seekr"
    assert schedule_of(recipe) == ("own", 12.0, 30.0)
    paper = recipe.with_(method={"name": "seekr-paper"})
    assert schedule_of(paper) == ("shared", 1.0, 1000.0)
    assert schedule_of(paper.with_(method={"name": "seekr"})) == ("own", 12.0, 30.0)


def test_what_a_recipe_sets_holds_for_every_method() -> None:
    values = {"base": {"model": "tiny"}, "data": {"format": "toy", "tasks": ("shade",)}}
    recipe = Recipe.from_dict({**values, "method": {"replay_passes": 12.0, "attention_weight": 5.0}})
    assert schedule_of(recipe.with_(method={"name": "seekr-paper"})) == ("shared", 12.0, 5.0)
    assert schedule_of(recipe.with_(run={"seed": 7}).with_(method={"name": "replay"})) == ("shared", 12.0, 5.0)


def test_one_option_of_a_method_is_set_and_the_others_of_the_recipe_stay(tmp_path: Path) -> None:
    text = '[base]\nmodel = "tiny"\n[data]\nformat = "toy"\ntasks = ["shade"]\n'
    text += '[method]\nname = "ewc"\noptions = { decay = 0.5, strength = 1.0 }\n'
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    changes = ["method.options.strength=2.0", "method.options.fisher_rows=8"]
    recipe = Recipe.from_toml(tmp_path / "recipe.toml", changes)
    assert recipe.method.options == {"decay": 0.5, "strength": 2.0, "fisher_rows": 8}


def test_options_of_a_method_do_not_come_along_to_another() -> None:
    values = {"base": {"model": "tiny"}, "data": {"format": "toy", "tasks": ("shade",)}}
    recipe = Recipe.from_dict({**values, "method": {"name": "ewc", "options": {"strength": 2.0}}})
    assert recipe.with_(run={"seed": 7}).method.options == {"strength": 2.0}
    assert recipe.with_(method={"name": "lwf"}).method.options == {}
    assert recipe.with_(method={"name": "lwf", "options": {"strength": 3.0}}).method.options == {"strength": 3.0}


def test_a_recipe_written_out_keeps_what_its_method_brought_along(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"base": {"model": "tiny"}, "data": {"format": "toy", "tasks": ("shade",)}})
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert schedule_of(Recipe.from_toml(tmp_path / "recipe.toml")) == ("own", 12.0, 30.0)
