"""Comparing runs: the table, mean and spread, and the runs that one recipe takes for several methods and seeds."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import two_toy_tasks
from typer.testing import CliRunner, Result

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.errors import Interrupted
from seekr_lite.common.progress import Listener
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.compare.comparison import Comparison
from seekr_lite.tools.compare.figures import Spread
from seekr_lite.tools.compare.run_grid import commands, plan_runs

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()
METHODS, SEEDS = ("sequential", "replay"), (0, 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe file of two small tasks, and in `grid` the runs of two methods with two seeds."""
    folder = tmp_path_factory.mktemp("compare")
    recipe = two_toy_tasks(folder / "run", data={"train_limit": 16, "test_limit": 4, "validation_rows": 4})
    (folder / "mine.toml").write_text(recipe.to_toml())
    sl.compare(folder / "mine.toml", methods=METHODS, seeds=SEEDS, output=folder / "grid", listener=QUIET)
    return folder


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": ""})


def grid(place: Path, *arguments: object) -> tuple[object, ...]:
    return (place / "mine.toml", "--methods", "sequential,replay", "--output", place / "grid", *arguments)


class Said(Listener):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


# ------------------------------------------------------------------ figures


def test_the_spread_of_known_values() -> None:
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0)
    assert Spread.of([5.0]) == Spread(5.0, None)
    assert Spread.of([1.0, None]) is None


def test_each_method_has_the_mean_of_its_seeds(place: Path) -> None:
    compared = sl.compare(*(place / "grid" / f"{m}-{s}" for m in METHODS for s in SEEDS))
    assert [(group.label, group.seeds) for group in compared.groups] == [("sequential", SEEDS), ("replay", SEEDS)]
    boards = [sl.open_run(place / "grid" / f"replay-{seed}").scores for seed in SEEDS]
    op = compared.groups[1].figures["op"]
    assert op is not None
    assert op.mean == pytest.approx(sum(board.op or 0 for board in boards) / 2)
    assert compared.differences == {}


def test_runs_of_one_method_with_other_settings_are_kept_apart(place: Path, small_recipe: MakeRecipe) -> None:
    settings: dict[str, Any] = {"data": {"train_limit": 16, "test_limit": 4}, "method": {"name": "replay"}}
    other = sl.run(small_recipe(**settings, train={"learning_rate": 1e-3}), listener=QUIET)
    compared = sl.compare(place / "grid" / "replay-0", other)
    assert [group.label for group in compared.groups] == [
        "replay (train.learning_rate = 0.002)",
        "replay (train.learning_rate = 0.001)",
    ]
    assert compared.differences == {"train.learning_rate": ("0.002", "0.001")}


def test_a_comparison_prints_itself(place: Path) -> None:
    text = str(sl.compare(place / "grid" / "replay-0", place / "grid" / "sequential-0"))
    assert "replay-0" in text
    assert "sequential" in text
    assert max(map(len, text.splitlines())) < 160


# ------------------------------------------------------------------ runs from one recipe


def test_finished_runs_are_not_repeated(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "grid").rglob("*") if path.is_file()}
    listener = Said()
    sl.compare(place / "mine.toml", methods=METHODS, seeds=SEEDS, output=place / "grid", listener=listener)
    assert listener.lines == ["4 of 4 runs are finished and taken as they are"]
    assert {path: path.stat().st_mtime_ns for path in (place / "grid").rglob("*") if path.is_file()} == before


def test_a_stopped_run_goes_on_and_the_rest_follows(tmp_path: Path, small_recipe: MakeRecipe) -> None:
    class StopAfterFirstTask(Listener):
        def event(self, kind: str, **values: object) -> None:
            if kind == "stage":
                raise Interrupted("stopped")

    recipe = small_recipe(data={"train_limit": 16, "test_limit": 4})
    call: dict[str, Any] = {"methods": METHODS, "output": tmp_path / "grid"}
    with pytest.raises(Interrupted, match="run 1 of 2: sequential"):
        sl.compare(recipe, **call, listener=StopAfterFirstTask())
    half = sl.compare(tmp_path / "grid" / "sequential-0")
    assert (half.runs[0].learned, half.runs[0].finished, half.runs[0].op) == (1, False, None)
    assert half.groups == ()
    adapter = tmp_path / "grid" / "sequential-0" / "adapters" / "00-shade" / "adapter_model.safetensors"
    written = adapter.stat().st_mtime_ns
    assert [run.finished for run in sl.compare(recipe, **call, listener=QUIET).runs] == [True, True]
    assert adapter.stat().st_mtime_ns == written


def test_a_folder_of_another_recipe_is_refused_before_anything_runs(place: Path) -> None:
    overrides = ("--methods", "isolated,replay", "--seeds", "0", "--set", "train.epochs=2", "--output", place / "grid")
    done = command(place / "mine.toml", *overrides)
    assert isinstance(done.exception, sl.UserError)
    assert "differing: train.epochs" in str(done.exception)
    assert not (place / "grid" / "isolated-0").exists()


def test_the_printed_commands_make_the_same_runs(place: Path) -> None:
    done = command(*grid(place, "--seeds", "0,1", "--set", "train.epochs=1", "--print-commands"))
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    planned = plan_runs(Recipe.from_toml(place / "mine.toml"), METHODS, SEEDS, place / "grid")
    commands = [shlex.split(line) for line in lines]
    assert [line[:2] for line in commands] == [["seekr-lite", "run"]] * 4
    assert [line[-1] for line in commands] == [str(one.path) for one in planned]
    again = CliRunner().invoke(app, [*commands[3][1:], "--json"])  # another recipe would be refused
    assert json.loads(again.stdout) == sl.open_run(planned[3].path).scores.to_json()


def test_the_printed_commands_leave_another_methods_options_out(place: Path, tmp_path: Path) -> None:
    """As `compare` does itself: `strength` of `ewc` is not that of `lwf`."""
    recipe = Recipe.from_toml(place / "mine.toml").with_(method={"name": "ewc", "options": {"strength": 10.0}})
    mine = tmp_path / "ewc.toml"
    mine.write_text(recipe.to_toml())
    planned = plan_runs(recipe, ("ewc", "lwf"), (0,), tmp_path / "grid")
    for line, one in zip(commands(mine, planned), planned, strict=True):
        words = shlex.split(line)
        changes = [word for before, word in itertools.pairwise(words) if before == "--set"]
        printed = Recipe.from_toml(mine, changes)
        assert printed.method.options == one.recipe.method.options
    assert [one.recipe.method.options for one in planned] == [{"strength": 10.0}, {}]


# ------------------------------------------------------------------ the command


def test_the_command_prints_a_table_of_runs_and_one_of_methods(place: Path) -> None:
    done = command(*grid(place, "--seeds", "0,1", "-q"))
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    for words in ("replay-1", "OP", "BWT", "NLL", "±", "standard deviation"):
        assert words in done.stdout


def test_the_command_writes_a_page(place: Path, tmp_path: Path) -> None:
    done = command(
        place / "grid" / "replay-0", place / "grid" / "replay-1", "--html", tmp_path / "compare.html", "--json"
    )
    assert done.exit_code == 0, done.output
    assert "replay-1" in (tmp_path / "compare.html").read_text()


def test_the_command_prints_json(place: Path) -> None:
    values = json.loads(command(*grid(place, "--seeds", "0,1", "--json")).stdout)
    assert [run["seed"] for run in values["runs"]] == [0, 1, 0, 1]
    assert values["methods"][0]["op"].keys() == {"mean", "std"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none",), "there is no run here"),
        (("none.toml",), "there is no such recipe file"),
        (("{mine}", "--methods", "sekr"), 'did you mean "seekr"'),
        (("{mine}", "--seeds", "one"), "--seeds one: write whole numbers"),
        (("{mine}", "--seeds", "1,1"), "seed 1 is named more than once"),
        (("{mine}", "{run}"), "one recipe, or any number of runs"),
        (("{mine}", "{run}", "--print-commands"), "name one recipe"),
        (("{run}", "--methods", "seekr"), "go with one recipe"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, place: Path) -> None:
    names = {"mine": place / "mine.toml", "run": place / "grid" / "replay-0"}
    done = command(*(argument.format(**names) for argument in arguments))
    assert isinstance(done.exception, sl.UserError), done.output
    assert message in str(done.exception)
    assert done.stdout == ""


def test_nothing_to_compare_is_a_mistake() -> None:
    with pytest.raises(sl.UserError, match="at least one run"):
        Comparison.of([])
