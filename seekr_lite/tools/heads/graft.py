"""Figure 1 of SEEKR: old attention maps in the last model, and how much of an old task's loss comes back with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from seekr_lite.attention.map_graft import MapGraft
from seekr_lite.attention.recording import HeadRecorder, all_heads
from seekr_lite.attention.selection import Head
from seekr_lite.attention.tap import Recorder, tap
from seekr_lite.common.errors import UserError, nearest
from seekr_lite.common.progress import Advance, current_listener, ignore
from seekr_lite.common.seeds import generator_for
from seekr_lite.data.batch import Batch, collate, split_by_tokens
from seekr_lite.data.encoding import EncodedExample, encode_task_rows
from seekr_lite.data.task import Example
from seekr_lite.methods.registry import method_class
from seekr_lite.model.base import load_base
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.model.losses import answer_cross_entropy_sum
from seekr_lite.runs.folder import RunFolder
from seekr_lite.tools.heads.heads import Heads
from seekr_lite.tools.heads.study import read_task, score_task_heads

RANDOM_DRAWS = 3


@dataclass(frozen=True)
class GraftResult:
    """What grafting did for one old task. Losses are NLL per answer token, teacher-forced, in nats.

    old, last: of the old task's adapter, and of the last model. chosen, random, all_heads: of the last model with the
    old maps in the task's chosen heads, in as many random heads (mean of three draws), and in all heads.
    rows_from: "validation", or "replay" where the run holds no validation rows (these the run has learned from).
    """

    task: str
    last_task: str
    rows: int
    rows_from: str
    chosen_heads: int
    old: float
    last: float
    chosen: float
    random: float
    all_heads: float

    @property
    def forgot(self) -> bool:
        """Whether the last model is worse than the old one: otherwise nothing was lost that could come back."""
        return self.last > self.old

    def recovered(self, grafted: float) -> float | None:
        """Share of the lost loss that came back: (last - grafted) / (last - old); None where nothing was lost."""
        return (self.last - grafted) / (self.last - self.old) if self.forgot else None

    def to_json(self) -> dict[str, Any]:
        shares = {name: self.recovered(getattr(self, name)) for name in ("chosen", "random", "all_heads")}
        return {**vars(self), "recovered": shares}


def graft_heads(folder: RunFolder, task: str | None = None) -> list[GraftResult]:
    """Grafts the maps of an old task's adapter (by default of each old task's) into the last model of a run.

    The heads are those that the run chose for the old task. A run of a method that chooses none, which forgets more, is
    scored now, on rows of the old task.

    Raises:
        UserError: the run's model does not go on from task to task, it has fewer than two tasks, no such old task, or
            no rows of it.
    """
    method = method_class(folder.record.method)
    if method.joint or not method.starts_from_previous:
        raise UserError(f'{folder.path}: with the method "{method.name}" no model is learned on top of an older one')
    names = [stage.tasks[0] for stage in folder.record.stages]
    old_tasks = names[:-1]
    if not old_tasks:
        raise UserError(f"{folder.path}: this run has learned one task only, so there is no old task to graft from")
    if task is not None and task not in old_tasks:
        raise UserError(
            f'task "{task}": the old tasks of this run are {", ".join(old_tasks)}{nearest(task, old_tasks)}'
        )
    wanted = [task] if task is not None else old_tasks
    rows = {name: _rows_of(folder, names.index(name)) for name in wanted}
    chosen_by_task = _chosen_heads(folder, wanted)
    recipe = folder.recipe()
    adapters = AdapterSequence(load_base(recipe.base), recipe.adapter, recipe.run.seed)
    adapters.snapshots = [folder.load_snapshot(index) for index in range(len(names))]
    results = []
    for name in wanted:
        index, (examples, rows_from) = names.index(name), rows[name]
        encoded = encode_task_rows(adapters.base.tokenizer, examples, recipe.data)
        chosen = chosen_by_task[name]
        config = adapters.base.model.config.get_text_config()
        every = [(layer, h) for layer in range(config.num_hidden_layers) for h in range(config.num_attention_heads)]
        generator = generator_for(recipe.run.seed, "graft", index)
        choices = [chosen, every, *(tuple(generator.sample(every, len(chosen))) for _ in range(RANDOM_DRAWS))]
        with current_listener().phase(f"grafting {name} into {names[-1]}", len(encoded)) as advance:
            losses = graft_losses(adapters, encoded, index, choices, recipe.train.micro_batch_tokens, advance)
        old, last, in_chosen, in_all, *in_random = losses
        results.append(
            GraftResult(
                task=name,
                last_task=names[-1],
                rows=len(encoded),
                rows_from=rows_from,
                chosen_heads=len(chosen),
                old=old,
                last=last,
                chosen=in_chosen,
                random=sum(in_random) / RANDOM_DRAWS,
                all_heads=in_all,
            )
        )
    return results


def graft_losses(
    adapters: AdapterSequence,
    rows: Sequence[EncodedExample],
    old: int,
    choices: Sequence[Sequence[Head]],
    batch_tokens: int,
    advance: Advance = ignore,
) -> list[float]:
    """NLL per answer token of snapshot `old`, of the last, and of the last with each choice of heads grafted."""
    config = adapters.base.model.config.get_text_config()
    layers, heads = int(config.num_hidden_layers), int(config.num_attention_heads)
    totals, tokens = torch.zeros(2 + len(choices), dtype=torch.float64), 0
    with tap(adapters.base.model):
        for group in split_by_tokens([len(row.input_ids) for row in rows], batch_tokens):
            members = [rows[index] for index in group]
            batch = collate(members, adapters.base.tokenizer.pad_token_id).to(adapters.base.device)
            pairs = all_heads(len(members), heads, adapters.base.device)
            source = HeadRecorder({layer: pairs for layer in range(layers)})
            with adapters.acting_as(old, slot_rank=adapters.teacher_rank):
                losses = [_loss(adapters, batch, source)]
            with adapters.acting_as(-1, slot_rank=adapters.teacher_rank):
                losses.append(_loss(adapters, batch, None))
                losses += [_loss(adapters, batch, MapGraft(source, batch.padding, choice)) for choice in choices]
            totals += torch.tensor(losses, dtype=torch.float64)
            tokens += int((batch.labels != -100).sum())
            advance(len(members))
    losses_per_token: list[float] = (totals / tokens).tolist()
    return losses_per_token


def _loss(adapters: AdapterSequence, batch: Batch, recorder: Recorder | None) -> float:
    return float(answer_cross_entropy_sum(adapters.model, batch, recorder=recorder))


def _chosen_heads(folder: RunFolder, tasks: Sequence[str]) -> dict[str, tuple[Head, ...]]:
    """The run's own choice; of a run without one, what SEEKR would choose now."""
    if folder.heads_folder:
        heads = Heads.of_run(folder)
        return {task: heads.of(task).chosen for task in tasks}
    recipe = folder.recipe()
    return {task: score_task_heads(recipe, task, run=folder, after=task).heads.of(task).chosen for task in tasks}


def _rows_of(folder: RunFolder, index: int) -> tuple[Sequence[Example], str]:
    """The validation rows of a task; where there are none its replay samples; and which of the two."""
    name = folder.record.stages[index].tasks[0]
    held_out = read_task(folder.recipe(), name, folder).validation
    if held_out:
        return held_out, "validation"
    samples = folder.load_samples(index)
    if not samples:
        raise UserError(f"task {name}: there are neither validation rows nor replay samples to measure the loss on")
    return samples, "replay"


LITTLE = 0.01  # nats per token: below, the share that came back is a ratio of noise


def render_grafts(results: Sequence[GraftResult]) -> Group:
    """One row an old task: losses, and with each graft the share of the lost loss that came back."""
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
