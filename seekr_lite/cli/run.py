"""`seekr-lite run`: a recipe in, a finished run out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seekr_lite.cli.options import AsJson, Overrides, Quiet, RecipePath, Verbose, listener, read_recipe
from seekr_lite.common.processes import is_main_process
from seekr_lite.common.terminal import printable, show, show_json


def run_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run folder.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew; a run that is there is moved aside, not deleted.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe: learn its tasks one after the other and test them.

    In a folder that holds the same run, it goes on where it was stopped.
    """
    checked = read_recipe(recipe, overrides)
    from seekr_lite.api import run

    finished = run(checked, output=output, listener=listener(quiet, verbose), fresh=fresh)
    if not is_main_process():
        return
    if as_json:
        show_json(finished.scores.to_json())
        return
    show(finished.scores.table())
    if not quiet:
        typer.echo(printable(f"The run is in {finished.path}; as a page: seekr-lite report {finished.path}"), err=True)
