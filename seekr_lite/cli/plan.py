"""`seekr-lite plan`: what a recipe will need, before anything starts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from seekr_lite.cli.options import AsJson, Overrides, Quiet, RecipePath, listener, read_recipe
from seekr_lite.common.terminal import show, show_json


def plan_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(min=0.001, help="Training speed for the time; by default a published figure for an RTX 4090."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Build the base with random weights and run the longest steps here.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what a recipe will need: memory of every phase, disk, steps and time; and what fits on which card.

    Needs no GPU and downloads nothing. Sizes in JSON are bytes.
    """
    checked = read_recipe(recipe, overrides)
    from seekr_lite.tools.plan.plan import at_speed, make_plan
    from seekr_lite.tools.plan.plan_table import render_measured, render_plan

    measured = None
    if measure:
        from seekr_lite.tools.plan.measure import measure_plan, measured_dtype

        plan = make_plan(checked, tokens_per_second, measured_dtype(checked))
        measured = measure_plan(checked, plan, listener(quiet))
        if measured.speed and tokens_per_second is None:
            plan = at_speed(plan, checked, measured.speed)
    else:
        plan = make_plan(checked, tokens_per_second)
    if as_json:
        show_json({**plan.to_json(), "measured": asdict(measured) if measured else None})
        return
    show(render_plan(plan))
    if measured:
        show(render_measured(measured))
