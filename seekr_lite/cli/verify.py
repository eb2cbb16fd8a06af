"""`seekr-lite verify`: are the files of a run what they were when they were written?"""

from __future__ import annotations

import typer

from seekr_lite.cli.options import AsJson, RunPath
from seekr_lite.common.terminal import show_json


def verify_command(
    run: RunPath,
    as_json: AsJson = False,
) -> None:
    """Compare every file of a run with its checksum. Ends with 2 where one is changed or missing."""
    from seekr_lite.runs.folder import RunFolder
    from seekr_lite.runs.inventory import verify_files

    files = verify_files(RunFolder.open(run))
    damaged = [file for file in files if file.state != "whole"]
    if as_json:
        show_json([vars(file) for file in files])
    else:
        for file in damaged:
            typer.echo(f"{file.state}: {file.path}")
        typer.echo(f"{len(files) - len(damaged)} of {len(files)} files are whole")
    if damaged:
        raise typer.Exit(2)
