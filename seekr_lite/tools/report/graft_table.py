"""What grafting old attention maps gave back, in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seekr_lite.tools.heads.graft import GraftResult

LITTLE = 0.01  # nats per token: below, the share that came back is a ratio of noise


def render_grafts(results: Sequence[GraftResult]) -> Any:
    """One row an old task: losses, and with each graft the share of the lost loss that came back."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("old task")
    for column in ("old\nadapter", "last\nmodel", "old maps in\nchosen heads", "as many\nrandom heads", "all\nheads"):
        table.add_column(column, justify="right")
    for one in results:
        grafted = (_with_share(one, loss) for loss in (one.chosen, one.random, one.all_heads))
        table.add_row(Text(one.task), f"{one.old:.3f}", f"{one.last:.3f}", *grafted)
    title = (
        f"Old attention maps in the model after {results[-1].last_task}: NLL per answer token, and in brackets "
        "how much comes back of what was lost since the old task ended"
    )
    return Group(Text(title), table, *(Text(f"{one.task}: {_note(one)}") for one in results))


def _with_share(result: GraftResult, loss: float) -> str:
    share = result.recovered(loss)
    return f"{loss:.3f}" + ("" if share is None else f" ({share:.0%})")


def _note(result: GraftResult) -> str:
    notes = [f"{result.chosen_heads} heads", f"{result.rows} validation rows"]
    if result.rows_from == "replay":
        notes[1] = f"{result.rows} replay samples (no validation rows are there; the run has learned from these)"
    if not result.forgot:
        notes.append("nothing was lost, so nothing can come back")
    elif result.last - result.old < LITTLE:
        notes.append("too little was lost for its shares to mean anything")
    return "; ".join(notes)
