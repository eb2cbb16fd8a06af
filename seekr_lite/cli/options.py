"""Options and arguments that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from seekr_lite.common.progress import Listener
    from seekr_lite.recipe.recipe import Recipe

RecipePath = Annotated[Path, typer.Argument(help="The recipe file (TOML).", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="The run folder.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a key of the recipe; may be given often."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every logged event, too.")]


def listener(quiet: bool, verbose: bool = False) -> Listener:
    """Progress and messages on stderr, as much of them as was asked for."""
    from seekr_lite.common.console import Console

    return Console(quiet, verbose)


def read_recipe(file: Path, overrides: list[str] | None) -> Recipe:
    """The recipe with its `--set`. Read before a command loads torch: a mistake in it is said at once."""
    from seekr_lite.recipe.recipe import Recipe

    return Recipe.from_toml(file, overrides or ())


def comma_list(text: str | None) -> list[str]:
    """`a, b` -> ["a", "b"]; nothing -> []."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
