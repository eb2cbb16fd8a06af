"""The plan of a recipe in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from seekr_lite.tools.plan.plan import GB, CardFit, PhaseMemory, Plan

if TYPE_CHECKING:  # brings transformers along
    from seekr_lite.tools.plan.measure import Measured

CAPTION = (
    "GB of 2^30 bytes, as cards are sold. rows: of the longest length, at once. AdamW: its moments, and the gradients. "
    "kept: activations that wait for the backward pass. working: what else is alive at the peak"
)
FITS, TOO_LARGE = "green", "bold red"


def render_plan(plan: Plan) -> Group:
    """One table of phases, then verdicts: the memory limit, other cards, work, time, disk; then what was assumed."""
    length = plan.sizes.length
    in_front = f", {plan.sizes.in_front} in front of it" if plan.sizes.in_front else ""
    title = (
        f"{plan.model}, {plan.parameters / 1e6:,.1f} million parameters, {plan.quantization}, in {plan.dtype}; "
        f"longest row {length.prompt} + {length.answer} tokens{in_front}"
    )
    table = Table(box=SIMPLE_HEAD, caption=CAPTION, caption_justify="left")
    for column in ("phase", "rows", "peak", "base", "adapters", "AdamW", "kept", "working", "CUDA"):
        table.add_column(column, justify="left" if column == "phase" else "right", no_wrap=True)
    for phase in plan.phases:
        table.add_row(*_cells(phase), style="bold" if phase is plan.peak else None)
    return Group(
        Text(title), table, *_limit(plan), *(_card(plan, card) for card in plan.cards), *_work(plan), *_notes(plan)
    )


def render_measured(measured: Measured) -> Group:
    """What the longest steps took here, beside the plan."""
    table = Table()
    for column in ("phase", "rows", "measured", "planned", "plan off by", "seconds"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in measured.phases:
        if phase.peak is None or phase.error is None:
            table.add_row(
                phase.phase, str(phase.rows), Text(phase.failure or "", style=TOO_LARGE), _size(phase.planned)
            )
        else:
            cells = _size(phase.peak), _size(phase.planned), f"{phase.error:+.1%}", f"{phase.seconds:.2f}"
            table.add_row(phase.phase, str(phase.rows), *cells)
    limit = f" held to {measured.memory_limit_gb:g} GB" if measured.memory_limit_gb else ""
    speed = f"; {measured.speed.tokens_per_second:,.0f} training tokens/s" if measured.speed else ""
    return Group(Text(f"\nMeasured on {measured.device}{limit}, random weights, {measured.dtype}{speed}"), table)


def _cells(phase: PhaseMemory) -> Iterator[str]:
    yield phase.phase
    yield str(phase.rows or "")
    trained, working = phase.gradients + phase.optimizer, phase.working + phase.dequantised
    for size in (phase.peak, phase.base, phase.adapters, trained, phase.saved, working, phase.overhead):
        yield f"{size / GB:.2f}" if size else ""


def _limit(plan: Plan) -> Iterator[Text]:
    card, peak = plan.limit, plan.peak
    needs = f"needs {_size(peak.peak)}, most of it in the phase {peak.phase}"
    if card is None:
        yield Text(f"The run {needs}. (Set run.memory_limit_gb to hear whether it fits.)")
    elif card.as_it_is:
        yield Text(f"Fits run.memory_limit_gb = {card.memory_gb:g}: the run {needs}.", style=FITS)
    else:
        yield Text(f"Does not fit run.memory_limit_gb = {card.memory_gb:g}: the run {needs}.", style=TOO_LARGE)


def _card(plan: Plan, card: CardFit) -> Text:
    start = f"{card.memory_gb:>3g} GB: "
    if card.micro_batch_tokens is None or card.batch_tokens is None:
        return Text(f"{start}does not fit, not even with one row at once", style=TOO_LARGE)
    whole = " (a whole step)" if card.whole_step else ""
    most = f"train.micro_batch_tokens up to {card.micro_batch_tokens:,}{whole}, "
    most += f"evaluate.batch_tokens up to {card.batch_tokens:,}"
    if card.as_it_is:
        return Text(f"{start}fits as it is; {most}", style=FITS)
    return Text(f"{start}fits with {most}", style="yellow")


def _work(plan: Plan) -> Iterator[Text]:
    if plan.stages:
        steps = sum(stage.steps for stage in plan.stages)
        new = sum(stage.new_tokens for stage in plan.stages)
        old = sum(stage.replay_tokens for stage in plan.stages)
        yield Text(f"Work: {steps:,} optimizer steps, {new:,} tokens of new rows, {old:,} of replayed ones")
    if plan.evaluations:
        tests = plan.evaluations
        counts = f"{tests.prompts:,} prompts, {tests.written_tokens:,} tokens to write"
        yield Text(f"Tests: {tests.evaluations} evaluations, {counts}")
    if plan.hours and plan.speed:
        hours = plan.hours
        unit, many = ("hours", 1) if hours.total >= 1 else ("minutes", 60)
        parts = (
            f"new rows {many * hours.new_rows:.1f}, replay {many * hours.replay:.1f}, "
            f"scoring {many * hours.scoring:.1f}, tests {many * hours.evaluation:.1f}"
        )
        speed = f"{plan.speed.tokens_per_second:,.0f} training tokens/s"
        yield Text(f"Time: about {many * hours.total:.1f} {unit} ({parts}), at {speed}")
    elif plan.stages:
        yield Text("Time: give --tokens-per-second, or --measure; there is no published figure for so small a base")
    disk = plan.disk
    download = f"; {_size(disk.download)} more where the base is not yet downloaded" if disk.download else ""
    yield Text(f"Disk: {_size(disk.run_folder)} for the run folder, {_size(disk.adapters)} of it adapters{download}")


def _notes(plan: Plan) -> Iterator[Text]:
    if plan.caveat:
        yield Text(f"Memory: {plan.caveat}.", style="yellow")
    yield Text(f"Tokens: {plan.counted}.", style="dim")
    if plan.speed:
        yield Text(f"Speed: {plan.speed.source}.", style="dim")
    if plan.on_gpu:
        yield Text("CUDA: 0.6 GB for itself and 5% of what comes and goes; assumed, not measured.", style="dim")
    if any(phase.phase == "replay" for phase in plan.phases):
        yield Text(
            "Replay: of one old task, its heads in as few layers as hold them; more than most steps.", style="dim"
        )


def _size(size: int) -> str:
    return f"{size / GB:.2f} GB" if size >= GB / 10 else f"{size / (1 << 20):.1f} MB"
