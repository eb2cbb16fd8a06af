"""`seekr-lite report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    run: Annotated[Path, typer.Argument(help="The run folder; the run need not be finished.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default report.html in the run folder.")
    ] = None,
) -> None:
    """Write one HTML file about a run: scores, forgetting, losses, heads, costs, predictions, recipe.

    The file needs no network and nothing beside it. Its path is printed.
    """
    from seekr_lite.report.terminal import printable
    from seekr_lite.runner import open_run

    typer.echo(printable(str(open_run(run).save_report(output))))
