"""`seekr-lite export`: a model of a run as a folder of its own, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seekr_lite.cli.options import AsJson, Quiet, RunPath, Verbose, listener
from seekr_lite.common.terminal import printable, show_json


def export_command(
    run: RunPath,
    to: Annotated[Path, typer.Option(help="The new folder; nothing is ever overwritten.", show_default=False)],
    after: Annotated[str | None, typer.Option(help="After which task; by default the last.")] = None,
    merge: Annotated[
        str,
        typer.Option(
            metavar="none|dequantized|original",
            help="none: the adapter alone (PEFT). dequantized: merged into the quantised base as training saw it, in "
            "full precision. original: merged into the original base, whose weights training never saw.",
        ),
    ] = "none",
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the model after a task to a folder: safetensors, configuration, tokenizer and a README.

    The folder is loaded again with plain transformers and PEFT; where its logits are not the model's, it is refused.
    """
    from seekr_lite.api import open_run

    done = open_run(run).export(to, after, merge, listener(quiet, verbose))
    if as_json:
        show_json(done.to_json())
        return
    from seekr_lite.tools.export import describe_check  # loads PEFT, which a mistake does not wait for

    typer.echo(printable(f"The model after {done.after} is in {done.path}: {describe_check(done)}."))
    if not done.agrees:
        reason = (
            "the adapter was trained on the quantised base and meets other weights here; test this model before you "
            "rely on it, or take --merge dequantized"
            if merge == "original"
            else "more than rounding explains; with int8, activations are quantised in training and not here"
        )
        typer.echo(f"Its answers may differ from the run's: {reason}.", err=True)
