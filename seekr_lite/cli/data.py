"""`seekr-lite data check`: look at the data before a night is spent on it."""

from __future__ import annotations

import typer

from seekr_lite.cli.options import AsJson, Overrides, RecipePath, read_recipe
from seekr_lite.common.terminal import show, show_json

data_app = typer.Typer(
    help="Look at the tasks of a recipe.",
    no_args_is_help=True,
    epilog="Example:  seekr-lite data check recipes/quickstart.toml",
)


@data_app.command("check", epilog="Example:  seekr-lite data check recipes/quickstart.toml")
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Count rows and tokens, find truncation, duplicates and test rows that stand in train, and show one example."""
    checked = read_recipe(recipe, overrides)
    from seekr_lite.runs.tasks import gather_tasks

    tasks = gather_tasks(checked, None, ())
    from dataclasses import asdict

    from seekr_lite.data.check import check_data
    from seekr_lite.model.base import load_tokenizer
    from seekr_lite.runs.checks import check_against_base
    from seekr_lite.tools.report.tables import render

    reports = check_data(tasks, load_tokenizer(checked.base), checked.data)
    if as_json:
        show_json({"tasks": [asdict(report) for report in reports]})
    else:
        show(render(reports))
    check_against_base(checked)  # what `run` would refuse is said here, too
