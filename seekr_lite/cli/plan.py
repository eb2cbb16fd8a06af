"""`seekr-lite plan`: what a recipe will need, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seekr_lite.cli.run import Overrides


def plan_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe file (TOML).", show_default=False)],
    overrides: Overrides = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(min=0.001, help="Training speed for the time; by default a published figure for an RTX 4090."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Build the base with random weights and run the longest steps here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, in bytes.")] = False,
) -> None:
    """Say what a recipe will need: memory of every phase, disk, steps and time; and what fits on which card.

    Needs no GPU and downloads nothing.
    """
    from seekr_lite.recipe import Recipe

    checked = Recipe.from_toml(recipe, overrides or ())
    from seekr_lite.plan.measure import measure_plan
    from seekr_lite.plan.plan import make_plan
    from seekr_lite.report.terminal import show, show_json

    measured = measure_plan(checked) if measure else None
    speed = measured.tokens_per_second if measured and tokens_per_second is None else tokens_per_second
    plan = make_plan(checked, speed)
    if as_json:
        report = {**plan.to_json(), "measured": measured.to_json() if measured else None}
        show_json(report)
        return
    from seekr_lite.report.plan_table import render_measured, render_plan

    show(render_plan(plan))
    if measured:
        show(render_measured(measured))
