"""A comparison in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from seekr_lite.evaluation.scoreboard import show, untested_note
from seekr_lite.evaluation.summary_figures import FIGURES
from seekr_lite.tools.compare.figures import ComparedRun, MethodGroup, Spread

SHOWN_CHARACTERS = 60
COLUMNS = {  # narrow ones: six of them beside a path
    "op": "OP",
    "bwt": "BWT",
    "forgetting": "forget-\nting",
    "nll": "NLL",
    "nll_forgetting": "NLL since\nlearned",
}


def comparison_table(
    runs: Sequence[ComparedRun], groups: Sequence[MethodGroup], differences: Mapping[str, Sequence[str]]
) -> Group:
    """A line per run; where there are several runs, a line per method; then what else the runs differ in."""
    parts: list[Table | Text] = [_runs(runs)]
    if len(runs) > 1 and groups:
        parts.append(_methods(groups))
    for key, values in differences.items():
        shown = " | ".join(value if len(value) <= SHOWN_CHARACTERS else f"{value[:57]}..." for value in values)
        parts.append(Text(f"The runs differ in {key}: {shown}", style="yellow"))
    for run in runs:
        if run.untested:
            parts.append(Text(f"{run.path}: {untested_note(run.untested, len(run.tasks))}", style="yellow"))
    if not all(run.finished for run in runs):
        parts.append(Text("A run without figures has not ended; `seekr-lite run` and its recipe end it.", style="dim"))
    return Group(*parts)


def _runs(runs: Sequence[ComparedRun]) -> Table:
    table = _table("NLL: of held-out answers, per token. heads: held for the last task. min: of learning")
    table.add_column("run", overflow="fold")
    table.add_column("method", no_wrap=True)
    for column in ("seed", "tasks", *COLUMNS.values(), "heads", "min"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        figures = (show(getattr(run, name), FIGURES[name].digits) for name in COLUMNS)
        learned = str(run.learned) if run.finished else f"{run.learned} of {len(run.tasks)}"
        heads = "–" if run.heads is None else str(run.heads)
        place = (Text(run.path), run.method, str(run.seed), learned)
        table.add_row(*place, *figures, heads, f"{run.seconds / 60:.1f}")
    return table


def _methods(groups: Sequence[MethodGroup]) -> Table:
    table = _table("mean ± standard deviation over the seeds (n-1)")
    table.add_column("method", overflow="fold")
    for column in ("seeds", *COLUMNS.values()):
        table.add_column(column, justify="right", no_wrap=True)
    for group in groups:
        figures = (_spread(group.figures[name], FIGURES[name].digits) for name in COLUMNS)
        table.add_row(Text(group.label), str(len(group.seeds)), *figures)
    return table


def _table(caption: str) -> Table:
    """Narrow enough for 80 columns."""
    return Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, caption=caption, caption_justify="left")


def _spread(value: Spread | None, digits: int) -> str:
    if value is None:
        return "–"
    return show(value.mean, digits) + ("" if value.std is None else f" ± {value.std:.{digits}f}")
