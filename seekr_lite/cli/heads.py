"""`seekr-lite heads`: look into the attention heads of a run or a base, and put old maps back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seekr_lite.cli.options import AsJson, Overrides, Quiet, RecipePath, RunPath, Verbose, listener, read_recipe
from seekr_lite.common.terminal import printable, show, show_json

if TYPE_CHECKING:
    from seekr_lite.tools.heads.heads import Heads

heads_app = typer.Typer(
    help="Look into the attention heads.",
    no_args_is_help=True,
    epilog="Example:  seekr-lite heads inspect runs/quickstart",
)

Measure = Annotated[
    str | None,
    typer.Option(help="importance, sensitivity or forgettability; by default importance, for a bare base sensitivity."),
]
Png = Annotated[Path | None, typer.Option(help="Write the heatmap as a picture.")]
Html = Annotated[Path | None, typer.Option(help="Write all tasks and measures as one HTML file.")]


@heads_app.command("inspect", epilog="Example:  seekr-lite heads inspect runs/quickstart --html heads.html")
def inspect(
    run: RunPath,
    measure: Measure = None,
    after: Annotated[str | None, typer.Option(help="After which task; by default the last.")] = None,
    as_json: AsJson = False,
    png: Png = None,
    html: Html = None,
) -> None:
    """Show the heads of a run: scores, the chosen heads, how the choice moved, and what is kept of each task."""
    from seekr_lite.api import open_run
    from seekr_lite.tools.heads.heads_table import render_heads, render_store

    opened = open_run(run)
    found, store = opened.heads, opened.replay_store
    found.of(after).measure(measure)  # a wrong name is refused before a file is written
    _write_files(found, measure, after, png, html)
    if as_json:
        show_json({**found.to_json(), "replay_store": [vars(one) for one in store]})
        return
    show(render_heads(found.of(after), measure, found.change()))
    show(render_store(store))


@heads_app.command("score", epilog="Example:  seekr-lite heads score recipes/quickstart.toml --task shade")
def score(
    recipe: RecipePath,
    task: Annotated[str, typer.Option(help="The task on whose training rows the heads are scored.")],
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option(help="Score the model of this run; by default the recipe's bare base.")
    ] = None,
    after: Annotated[str | None, typer.Option(help="With --run: after which task; by default the last.")] = None,
    rows: Annotated[int, typer.Option(help="How many training rows, from the first.")] = 8,
    measure: Measure = None,
    as_json: AsJson = False,
    png: Png = None,
    html: Html = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score the heads of the bare base, or of a run's model, on the first training rows of a task."""
    checked = read_recipe(recipe, overrides)
    from seekr_lite.api import open_run, score_task_heads
    from seekr_lite.tools.heads.heads_table import render_heads

    opened = None if run is None else open_run(run)
    study = score_task_heads(checked, task, rows, opened, after, listener(quiet, verbose))
    study.heads.of().measure(measure)
    _write_files(study.heads, measure, None, png, html)
    if as_json:
        show_json({**study.heads.to_json(), "rows": study.rows, "model": study.model})
        return
    typer.echo(printable(f"Scored: {study.model}, on the first {study.rows} training rows of {task}."))
    if run is None:
        typer.echo("It has learned nothing, so there is no forgettability; the heads are chosen by sensitivity.")
    show(render_heads(study.heads.of(), measure, ()))


@heads_app.command("graft", epilog="Example:  seekr-lite heads graft runs/quickstart --task shade")
def graft(
    run: RunPath,
    task: Annotated[str | None, typer.Option(help="The old task; by default all but the last.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Put old attention maps into the last model, and see how much of an old task's loss comes back."""
    from seekr_lite.api import open_run

    results = open_run(run).graft_heads(task, listener(quiet, verbose))
    if as_json:
        show_json([one.to_json() for one in results])
        return
    from seekr_lite.tools.heads.graft import render_grafts  # loads PEFT, which a mistake does not wait for

    show(render_grafts(results))


def _write_files(found: Heads, measure: str | None, after: str | None, png: Path | None, html: Path | None) -> None:
    if png is not None:
        found.save_png(png, measure, after)
    if html is not None:
        found.save_html(html)
