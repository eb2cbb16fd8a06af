"""`seekr-lite push`: an adapter of a run to the hub; without --yes, what would go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from seekr_lite.cli.options import AsJson, Quiet, RunPath
from seekr_lite.common.terminal import printable, show_json

if TYPE_CHECKING:
    from seekr_lite.tools.push import Push

CARD_LINES = 16  # of the card, in a dry run


def push_command(
    run: RunPath,
    to: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository of the hub.", show_default=False)],
    after: Annotated[str | None, typer.Option(help="The adapter after this task; by default the last.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is made private.")] = False,
    base_model: Annotated[
        str | None,
        typer.Option(metavar="HUB-ID", help="The base's id on the hub, where the run's base is a local folder."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send it. Without this, nothing leaves this machine.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what of an adapter would go to the Hugging Face hub, and send it with --yes.

    Weights, PEFT's configuration and a model card go, and nothing else of the run: no data, no replay, no predictions.
    """
    from seekr_lite.api import open_run

    done = open_run(run).push(to, after, private, base_model, send=yes)
    if as_json:
        show_json(done.to_json())
        return
    typer.echo(printable(done.url if done.url is not None else describe(done)))
    if not quiet:
        last = f"{done.to} has it." if yes else "Nothing was sent. To send exactly this, add --yes to the command."
        typer.echo(printable(last), err=True)


def describe(planned: Push) -> str:
    """A dry run in words: where it would go, every file with its size, the first lines of the card."""
    lines = [
        f"to      {planned.to} ({'private' if planned.private else 'public'}, where it is new)",
        f"what    the adapter after {planned.after}",
        f"base    {planned.base_model}",
        "files",
        *(f"  {size:>15,} bytes  {name}" for name, size in planned.sizes.items()),
    ]
    card = planned.card.splitlines()
    lines += [f"README.md begins (of {len(card)} lines; --json prints all)", *(f"  {one}" for one in card[:CARD_LINES])]
    return "\n".join(lines)
