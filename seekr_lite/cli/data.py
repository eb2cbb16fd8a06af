"""`seekr-lite data check`: look at the data before a night is spent on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seekr_lite.cli.run import Overrides

data_app = typer.Typer(help="Look at the tasks of a recipe.", no_args_is_help=True)


@data_app.callback()
def data() -> None:
    """Look at the tasks of a recipe."""


@data_app.command("check", epilog="Example:  seekr-lite data check recipes/quickstart.toml")
def check(
    recipe: Annotated[Path, typer.Argument(help="The recipe file (TOML).", show_default=False)],
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Count rows and tokens, find truncation, duplicates and test rows that stand in train, and show one example."""
    from seekr_lite.recipe import Recipe

    checked = Recipe.from_toml(recipe, overrides or ())
    from seekr_lite.data.gather import gather_tasks

    tasks = gather_tasks(checked, None, ())
    from seekr_lite.base import load_tokenizer
    from seekr_lite.data.check import check_data
    from seekr_lite.report.terminal import show, show_json

    report = check_data(tasks, load_tokenizer(checked.base), checked.data)
    if as_json:
        show_json(report.to_json())
        return
    from seekr_lite.report.data_table import render

    show(render(report))
