"""What all commands have in common: an example that is right, options of one name and meaning, no colour in a pipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_lines import parse
from typer.testing import CliRunner

import seekr_lite as sl
from seekr_lite.cli.app import app

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
NO_RESULT = {("recipes", "show"), ("recipes", "new")}  # they print or write a file
MEANINGS = {  # option -> the short form it goes with, wherever it is
    "--output": "-o",
    "--quiet": "-q",
    "--verbose": "-v",
}


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that lead to it."""
    yield names, group
    for name, one in getattr(group, "commands", {}).items():
        yield from commands(one, *names, name)


ALL = dict(commands(typer.main.get_command(app)))
LEAVES = [names for names, one in ALL.items() if not hasattr(one, "commands")]


def words(names: tuple[str, ...]) -> str:
    return " ".join(("seekr-lite", *names))


@pytest.mark.parametrize("names", ALL, ids=words)
def test_help_has_an_example_of_the_command_and_the_example_parses(names: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    (example,) = re.findall(r"Example:\s+(seekr-lite [^\n]+)\n\s*$", done.stdout)  # on one line, to be copied
    found, parsed = parse(shlex.split(example)[1:])
    assert found[: len(names)] == names
    recipes = [value for value in parsed.params.values() if str(value).startswith("recipes/")]
    assert all((ROOT / str(recipe)).is_file() for recipe in recipes)


@pytest.mark.parametrize("names", ALL, ids=words)
def test_no_help_loses_a_word_in_square_brackets(names: tuple[str, ...]) -> None:
    """`[word]` is markup of rich unless it is written `\\[word]`."""
    texts = [ALL[names].help or "", ALL[names].epilog or "", *(getattr(one, "help", "") for one in ALL[names].params)]
    words = [word for text in texts for word in re.findall(r"\[[^\]\n]+\]", (text or "").replace("\\", ""))]
    shown = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "300"}).stdout
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize("names", LEAVES, ids=words)
def test_options_mean_the_same_everywhere(names: tuple[str, ...]) -> None:
    for option in ALL[names].params:
        for long, short in MEANINGS.items():
            assert (long in option.opts) == (short in option.opts), option.opts
        assert option.param_type_name == "argument" or option.help, f"{option.name} has no help"


@pytest.mark.parametrize("names", [names for names in LEAVES if names not in NO_RESULT])
def test_every_command_that_prints_a_result_has_json(names: tuple[str, ...]) -> None:
    assert any("--json" in option.opts for option in ALL[names].params)


@pytest.mark.parametrize("group", [names for names, one in ALL.items() if hasattr(one, "commands")], ids=words)
def test_a_group_without_a_command_shows_its_help(group: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*group])
    assert "Example:" in done.output
    assert done.exit_code == 2


@pytest.mark.parametrize("arguments", [("rnu",), ("run", "--outptu", "x"), ("run",)])
def test_a_wrong_command_line_ends_with_2_and_a_message_on_stderr(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error" in done.stderr


def test_a_table_in_a_pipe_has_no_colours_and_is_not_cut(finished_run: sl.Run) -> None:
    done = CliRunner().invoke(app, ["compare", str(finished_run.path)], env={"COLUMNS": ""})
    assert "\x1b[" not in done.stdout
    assert str(finished_run.path) in done.stdout


def test_no_color_is_heard_in_a_terminal(finished_run: sl.Run) -> None:
    shown = {
        name: CliRunner().invoke(app, ["compare", str(finished_run.path)], env={"FORCE_COLOR": "1", "NO_COLOR": value})
        for name, value in (("plain", "1"), ("coloured", ""))
    }
    assert "\x1b[3" not in shown["plain"].stdout
    assert "\x1b[" in shown["coloured"].stdout


def test_verbose_prints_each_event_on_a_line_and_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from seekr_lite.common.console import Console

    Console(verbose=True).event("step", task="a" * 100, loss=0.123456, norms={"cross_entropy": 1.0})
    assert capsys.readouterr().err == f"step task={'a' * 100} loss=0.1235 norms={{cross_entropy: 1}}\n"
    Console(quiet=True).say("not wanted")
    Console().event("step", loss=1.0)
    assert capsys.readouterr().err == ""
