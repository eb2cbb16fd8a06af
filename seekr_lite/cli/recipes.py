"""`seekr-lite recipes`: the recipes that come with the package, and a new one to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seekr_lite.cli.options import AsJson
from seekr_lite.common.terminal import printable, show, show_json

recipes_app = typer.Typer(
    help="The recipes that come with seekr-lite.", no_args_is_help=True, epilog="Example:  seekr-lite recipes list"
)


@recipes_app.command("list", epilog="Example:  seekr-lite recipes list")
def list_recipes(as_json: AsJson = False) -> None:
    """Print every recipe, each with what it is."""
    from seekr_lite.recipe.shipped import shipped_recipes

    found = shipped_recipes()
    if as_json:
        show_json([{"name": one.name, "about": one.about} for one in found])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for one in found:
        table.add_row(Text(one.name, style="bold"), Text(one.about))
    show(table)


@recipes_app.command("show", epilog="Example:  seekr-lite recipes show quickstart")
def show_recipe(name: Annotated[str, typer.Argument(help="A name of `recipes list`.", show_default=False)]) -> None:
    """Print a recipe."""
    from seekr_lite.recipe.shipped import shipped_recipe

    typer.echo(shipped_recipe(name).text, nl=False)


@recipes_app.command("new", epilog="Example:  seekr-lite recipes new mine.toml --from quickstart")
def new_recipe(
    file: Annotated[Path, typer.Argument(help="The new file; nothing is overwritten.", show_default=False)],
    source: Annotated[
        str | None, typer.Option("--from", help="A name of `recipes list`; by default a recipe for your own tasks.")
    ] = None,
) -> None:
    """Write a commented recipe to edit: for your own tasks with every key, or a copy of a recipe of the package."""
    from seekr_lite.recipe.shipped import write_new_recipe

    write_new_recipe(file, source)
    typer.echo(printable(f"Wrote {file}. Edit it, then: seekr-lite data check {file}"), err=True)
