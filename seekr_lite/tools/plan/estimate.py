"""Memory of every phase, from the product's own steps on fake tensors.

Layers of a decoder are alike, and rows are: what two depths and two numbers of rows need gives what any need. (Peaks
are sums over layers and rows plus a part that hangs on neither; that they are straight lines is tested.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from seekr_lite.common.progress import Advance, Listener
from seekr_lite.tools.plan.account import MemoryAccount, SavedBytes, tensor_bytes
from seekr_lite.tools.plan.fake import fake_base, fake_tensors
from seekr_lite.tools.plan.phases import (
    LongestStep,
    RowLength,
    change_pass,
    enter_last_task,
    held_out_pass,
    last_token_pass,
    leave_last_task,
    prompts_pass,
    replay_step,
    sensitivity_pass,
    train_step,
)
from seekr_lite.tools.plan.weights import optimizer_bytes

if TYPE_CHECKING:
    import torch

    from seekr_lite.recipe.recipe import Recipe
    from seekr_lite.training.learner import Learner

FEWEST_LAYERS = 3


@dataclass(frozen=True)
class Sizes:
    """How large the longest steps are: tasks of the sequence, the longest row, and rows at once in each phase
    (replay 0: nothing is replayed). in_front: tokens that the method puts in front of a row."""

    tasks: int
    length: RowLength
    train: int
    replay: int
    held_out: int
    generation: int
    in_front: int = 0


@dataclass(frozen=True)
class PhaseStep:
    """A step of a phase. `one_row`: it never takes more."""

    phase: str
    name: str
    run: LongestStep
    rows: int
    one_row: bool = False


@dataclass(frozen=True)
class Line:
    """Bytes by the number of rows: `fixed + rows * per_row`."""

    fixed: float
    per_row: float

    def at(self, rows: int) -> int:
        return max(0, round(self.fixed + rows * self.per_row))


@dataclass(frozen=True)
class StepMemory:
    """What a step takes above what stays. saved: held by autograd at most; peak: alive at most, `saved` included.

    gathered: gradients that a step which logs their norms gathers while the whole graph is held. In a deep model with
    short rows that is the peak, and in the shallow one that is run it is not yet.
    """

    step: PhaseStep
    saved: Line
    peak: Line
    gathered: int = 0

    def peak_at(self, rows: int) -> int:
        return max(self.peak.at(rows), self.saved.at(rows) + self.gathered)


@dataclass(frozen=True)
class AdapterBytes:
    """Adapters on the device. student: the one that learns, of so many weights, and its gradients as much again;
    optimizer: its moments; others: the slot through which old adapters act, and with `growth = "stack"` the frozen sum,
    while a task is learned and after it."""

    weights: int
    student: int
    optimizer: int
    others: int
    others_after: int


@dataclass(frozen=True)
class ActivationPlan:
    """What two runs at two depths say of the whole model."""

    adapters: AdapterBytes
    steps: tuple[StepMemory, ...]


def steps_while_learning(sizes: Sizes) -> Iterator[PhaseStep]:
    """The longest steps while a task is learned."""
    yield PhaseStep("train", "new rows", train_step, sizes.train)
    if sizes.replay:
        yield PhaseStep("replay", "old rows", replay_step, sizes.replay)


def steps_after_task(sizes: Sizes, scores_heads: bool) -> Iterator[PhaseStep]:
    """The longest steps after a task."""
    if scores_heads:
        yield PhaseStep("scoring", "sensitivity", sensitivity_pass, 1, one_row=True)
        yield PhaseStep("scoring", "change of maps", change_pass, 1, one_row=True)
    if sizes.held_out:
        yield PhaseStep("validation", "likelihood", held_out_pass, sizes.held_out)
    yield PhaseStep("generation", "prompts", prompts_pass, sizes.generation)
    yield PhaseStep("generation", "last token", last_token_pass, sizes.generation)


def estimate_activations(
    recipe: Recipe, config: Any, dtype: torch.dtype, sizes: Sizes, listener: Listener | None = None
) -> ActivationPlan:
    """Runs the longest steps at two depths. See the module."""
    text = config.get_text_config()
    layers, heads = int(text.num_hidden_layers), int(text.num_attention_heads)
    held = held_heads(recipe, layers, heads)
    shallow = max(FEWEST_LAYERS, -(-held // heads))
    depths = (layers,) if shallow + 1 >= layers else (shallow, shallow + 1)
    steps = [*steps_while_learning(sizes), *steps_after_task(sizes, _scores_heads(recipe))]
    total = len(depths) * sum(len(_rows_seen(step)) for step in steps)
    with (listener or Listener()).phase("planning memory", total) as advance:
        runs = [_run(recipe, config, depth, dtype, sizes, held, advance) for depth in depths]
    return runs[0] if len(runs) == 1 else _deeper(runs[0], runs[1], layers - shallow)


def held_heads(recipe: Recipe, layers: int, heads: int) -> int:
    """Heads that are held for each task: 0 of a method that scores none."""
    from seekr_lite.attention.selection import resolve_budgets

    if not _scores_heads(recipe):
        return 0
    budget = resolve_budgets(recipe.method, layers, heads)[1]
    return layers * heads if recipe.method.selection == "all" else budget


def _scores_heads(recipe: Recipe) -> bool:
    from seekr_lite.methods.registry import method_class

    return method_class(recipe.method.name).looks_into_attention


def _run(
    recipe: Recipe, config: Any, layers: int, dtype: torch.dtype, sizes: Sizes, held: int, advance: Advance
) -> ActivationPlan:
    from seekr_lite.training.learner import Learner

    steps = []
    shallow = recipe.with_(method={"layer_budget": "all", "head_budget": "all"})  # what is held comes as a number
    with fake_tensors():
        learner = Learner(shallow, fake_base(_with_layers(config, layers), recipe.base, dtype))
        enter_last_task(learner, sizes.tasks, held)
        copies = learner.method.copies_on_device(sizes.tasks) * tensor_bytes(learner.adapters.trainable_parameters())
        others = _other_adapters(learner) + round(copies)
        gathered = tensor_bytes(learner.adapters.trainable_parameters())
        steps += [
            replace(_observe(learner, step, sizes.length, advance), gathered=gathered)
            for step in steps_while_learning(sizes)
        ]
        leave_last_task(learner)
        after = _other_adapters(learner) + round(copies)
        steps += [
            _observe(learner, step, sizes.length, advance)
            for step in steps_after_task(sizes, learner.method.looks_into_attention)
        ]
        parameters = learner.adapters.trainable_parameters()
        adapters = AdapterBytes(
            weights=sum(parameter.numel() for parameter in parameters),
            student=tensor_bytes(parameters),
            optimizer=optimizer_bytes(parameters, recipe.train.optimizer),
            others=others,
            others_after=after,
        )
    return ActivationPlan(adapters, tuple(steps))


def _observe(learner: Learner, step: PhaseStep, length: RowLength, advance: Advance) -> StepMemory:
    seen = []
    for rows in _rows_seen(step):
        seen.append(observe(learner, step.run, rows, length))
        advance(1)
    if step.one_row:
        saved, peak = (Line(part, 0) for part in seen[0])
    else:
        saved, peak = (_line(one, many, max(2, step.rows)) for one, many in zip(*seen, strict=True))
    return StepMemory(step, saved, peak)


def _rows_seen(step: PhaseStep) -> tuple[int, ...]:
    """With how many rows a step is run."""
    return (1,) if step.one_row else (1, max(2, step.rows))


def observe(learner: Learner, step: LongestStep, rows: int, length: RowLength) -> tuple[int, int]:
    """(bytes that autograd held at most, bytes alive at most) of a step, above what was there before."""
    stays = [*learner.adapters.model.parameters(), *learner.adapters.model.buffers()]
    with MemoryAccount() as account, SavedBytes(stays) as saved:
        step(learner, rows, length)
    return saved.peak, account.peak


def _line(one: int, many: int, rows: int) -> Line:
    per_row = (many - one) / (rows - 1)
    return Line(one - per_row, per_row)


def _other_adapters(learner: Learner) -> int:
    student = {id(parameter) for parameter in learner.adapters.trainable_parameters()}
    return tensor_bytes(
        parameter
        for name, parameter in learner.adapters.model.named_parameters()
        if ".lora_" in name and id(parameter) not in student
    )


def _with_layers(config: Any, layers: int) -> Any:
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return config


def _deeper(few: ActivationPlan, more: ActivationPlan, layers: int) -> ActivationPlan:
    """`layers` layers on top of `few`, each of which adds what `more` has over it."""

    def add(a: float, b: float) -> float:
        return a + (b - a) * layers

    def line(a: Line, b: Line) -> Line:
        return Line(add(a.fixed, b.fixed), add(a.per_row, b.per_row))

    adapters = AdapterBytes(
        *(
            int(add(getattr(few.adapters, part.name), getattr(more.adapters, part.name)))
            for part in fields(AdapterBytes)
        )
    )
    steps = tuple(
        StepMemory(a.step, line(a.saved, b.saved), line(a.peak, b.peak), int(add(a.gathered, b.gathered)))
        for a, b in zip(few.steps, more.steps, strict=True)
    )
    return ActivationPlan(adapters, steps)
