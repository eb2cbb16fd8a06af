"""`seekr-lite evaluate`: any model of a run on any of its tasks, another data set, or a general text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seekr_lite.cli.options import AsJson, Quiet, RunPath, Verbose, comma_list, listener
from seekr_lite.common.errors import UserError
from seekr_lite.common.terminal import show, show_json


def evaluate_command(
    run: RunPath,
    after: Annotated[
        list[str] | None,
        typer.Option(help="The model after this task, by default the last; base: the bare base. May be given often."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Test on this task, by default on all of the run. May be given often.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FORMAT:PATH", help="Another data set, as in a recipe's \\[data], and --task in it."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="With --data: a key of \\[data] or \\[evaluate]."),
    ] = None,
    general: Annotated[
        Path | None,
        typer.Option(help="A text file: its NLL per token and perplexity, before and after each task, instead."),
    ] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            metavar="TASKS", help="Tasks of lm-evaluation-harness, or your own task files: arc_easy,mine.yaml; instead."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --lm-eval: at most so many rows of each task, for a quick look.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Test a model of a run on its tasks, on another data set, on a general text, or with lm-evaluation-harness.

    The base is loaded once. What the run has tested itself is not tested again, and the run stays as it is; but what is
    measured with --general is kept beside it, and shown wherever its scores are.
    """
    from seekr_lite.api import open_run
    from seekr_lite.tools.report import tables
    from seekr_lite.tools.report.run_facts import RunFacts

    if limit is not None and lm_eval is None:
        raise UserError("--limit: goes with --lm-eval")
    if lm_eval is not None and (task or data or overrides or general is not None):
        raise UserError("--lm-eval: names its tasks itself; leave out --task, --data, --set and --general")
    if general is not None and (task or data or overrides):
        raise UserError("--general: a text has no tasks; leave out --task, --data and --set")
    opened, reports_to = open_run(run), listener(quiet, verbose)
    if lm_eval is not None:
        scores = opened.harness_scores(comma_list(lm_eval), after or (), limit, reports_to)
        rows, table = [vars(one) for one in scores], tables.render_harness(scores)
    elif general is not None:
        read = opened.general_likelihood(general, after or (), reports_to)
        board = RunFacts.of(opened.folder).board
        rows, table = [one.to_json() for one in read], tables.render_likelihoods(read, str(general), board)
    else:
        found = opened.evaluate(after or (), task or (), data, overrides or (), reports_to)
        rows, table = [vars(one) for one in found], tables.render_evaluations(found)
    if as_json:
        show_json(rows)
    else:
        show(table)
