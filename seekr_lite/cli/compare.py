"""`seekr-lite compare`: runs side by side; or several methods and seeds of one recipe, run where they are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seekr_lite.cli.options import AsJson, Overrides, Quiet, Verbose, comma_list, listener
from seekr_lite.common.errors import UserError
from seekr_lite.common.terminal import show, show_json


def compare_command(
    what: Annotated[
        list[Path],
        typer.Argument(metavar="RUN... | RECIPE", help="Run folders, or one recipe file.", show_default=False),
    ],
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="With a recipe: the methods; by default the recipe's own.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1", help="With a recipe: the seeds; by default the recipe's own.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="With a recipe: the folder of the runs; by default runs/compare-RECIPE."),
    ] = None,
    overrides: Overrides = None,
    print_commands: Annotated[
        bool, typer.Option("--print-commands", help="Run nothing; print the commands that fill this table, one a line.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the comparison as one HTML file, too.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs: OP, BWT, forgetting, held-out NLL, and mean and spread over the seeds of each method.

    With a recipe, every method is run with every seed first, in OUTPUT/METHOD-SEED. What is finished there is taken as
    it is, what is unfinished goes on.
    """
    from seekr_lite.api import compare
    from seekr_lite.recipe.recipe import Recipe
    from seekr_lite.tools.compare.comparison_table import comparison_table
    from seekr_lite.tools.compare.run_grid import commands, default_output, plan_runs

    chosen, numbers, changed = comma_list(methods), _seeds(seeds), overrides or []
    if print_commands:
        if len(what) > 1:
            raise UserError("--print-commands: name one recipe")
        if as_json or html is not None:
            raise UserError("--print-commands prints commands alone; leave --json and --html out")
        recipe = Recipe.from_toml(what[0], changed)
        planned = plan_runs(recipe, chosen, numbers, output or default_output(what[0]))
        for line in commands(what[0], planned, changed):
            typer.echo(line)
        return
    comparison = compare(
        *what, methods=chosen, seeds=numbers, output=output, overrides=changed, listener=listener(quiet, verbose)
    )
    if html is not None:
        comparison.save_html(html)
    if as_json:
        show_json(comparison.to_json())
    else:
        show(comparison_table(comparison.runs, comparison.groups, comparison.differences))


def _seeds(text: str | None) -> list[int]:
    try:
        return [int(part) for part in comma_list(text)]
    except ValueError:
        raise UserError(f"--seeds {text}: write whole numbers with commas between, for example --seeds 0,1,2") from None
