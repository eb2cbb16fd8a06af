"""`seekr-lite run`: a recipe in, a finished run out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a key of the recipe; may be given often."),
]


def run_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe file (TOML).", show_default=False)],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run folder.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew; a run that is there is moved aside, not deleted.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the scoreboard only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Run a recipe: learn its tasks one after the other and test them.

    In a folder that holds the same run, it goes on where it was stopped.
    """
    from seekr_lite.recipe import Recipe

    checked = Recipe.from_toml(recipe, overrides or ())
    from seekr_lite.report.console import Console
    from seekr_lite.report.terminal import printable, show, show_json
    from seekr_lite.runner import run

    finished = run(checked, output=output, listener=Console(quiet), fresh=fresh)
    if as_json:
        show_json(finished.scores.to_json())
        return
    from seekr_lite.report.table import rich_table

    show(rich_table(finished.scores))
    if not quiet:
        typer.echo(printable(f"The run is in {finished.path}"), err=True)
