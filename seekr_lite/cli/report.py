"""`seekr-lite report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seekr_lite.common.errors import UserError
from seekr_lite.common.terminal import printable, show_json


def report_command(
    run: Annotated[Path, typer.Argument(help="The run folder; the run need not be finished.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default report.html in the run folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the page shows as JSON; no file.")] = False,
) -> None:
    """Write one HTML file about a run: scores, forgetting, losses, heads, costs, predictions, recipe.

    The file needs no network and nothing beside it. Its path is printed.
    """
    from seekr_lite.api import open_run
    from seekr_lite.tools.report.run_json import run_json

    opened = open_run(run)
    if as_json and output is not None:
        raise UserError("--json: prints to standard output and writes no file; leave out --output")
    if as_json:
        show_json(run_json(opened.folder))
    else:
        typer.echo(printable(str(opened.save_report(output))))
