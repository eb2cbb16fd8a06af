"""The plan of a recipe: what it will need, and what fits on which card."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from seekr_lite.methods.registry import method_class
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan.costs import Disk, Hours, Speed, choose_speed, estimate_disk, estimate_hours
from seekr_lite.tools.plan.memory import NUMBER_BYTES, AdapterBytes, Sizes, StepBytes, StepMemory
from seekr_lite.tools.plan.shapes import BaseShape, read_shape
from seekr_lite.tools.plan.step_counts import EvaluationCount, StageCount, count_evaluations, count_stages
from seekr_lite.tools.plan.workload import Workload, read_workload

GB = 1 << 30  # as cards are sold: a "24 GB" card has 24 times this
CARDS_GB = (24, 16, 12, 8)
# Not measured, and stated in the output: what CUDA and its libraries take, and what the allocator cannot reuse.
CUDA_BYTES, FRAGMENTS = 600 << 20, 0.05
LOADING_AT_ONCE = 4  # transformers reads so many weights in parallel, in full precision, before they are quantised
UNKNOWN_ROWS = 1 << 10  # of a test set that is not here


@dataclass(frozen=True)
class PhaseMemory:
    """Peak memory of a phase in bytes, by what it consists of.

    saved: held for the backward pass; working: everything else that is alive at the peak; dequantised: one weight in
    full precision; overhead: CUDA and fragments (0 on a CPU). rows: at once, of `Plan.sizes.length`.
    """

    phase: str
    rows: int
    base: int
    adapters: int
    gradients: int
    optimizer: int
    saved: int
    working: int
    dequantised: int
    overhead: int

    @property
    def stays(self) -> int:
        """What is there during the whole phase."""
        return self.base + self.adapters + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        return self.stays + self.saved + self.working + self.dequantised + self.overhead


@dataclass(frozen=True)
class CardFit:
    """What fits into so much memory: the largest micro-batch and generation batch in tokens; None: not one row.

    as_it_is: the recipe fits as it is written. largest_phase: which needs most, as it is written. whole_step: the
    micro-batch holds all rows of an optimizer step.
    """

    memory_gb: float
    as_it_is: bool
    largest_phase: str
    micro_batch_tokens: int | None
    whole_step: bool
    batch_tokens: int | None


@dataclass(frozen=True)
class Plan:
    """Everything that `seekr-lite plan` says, in bytes, tokens, hours. caveat: what is not exact, "" for nothing."""

    model: str
    quantization: str
    dtype: str
    on_gpu: bool
    parameters: int
    training_state: AdapterBytes
    sizes: Sizes
    counted: str
    caveat: str
    micro_batch_tokens: int
    phases: tuple[PhaseMemory, ...]
    limit: CardFit | None
    cards: tuple[CardFit, ...]
    stages: tuple[StageCount, ...]
    evaluations: EvaluationCount | None
    speed: Speed | None
    hours: Hours | None
    disk: Disk

    @property
    def peak(self) -> PhaseMemory:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.peak)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        for phase, memory in zip(values["phases"], self.phases, strict=True):
            phase["peak"] = memory.peak
        values["peak_bytes"] = self.peak.peak
        return values


def make_plan(recipe: Recipe, tokens_per_second: float | None = None, dtype: str | None = None) -> Plan:
    """Plans a recipe; nothing is loaded or downloaded.

    Args:
        tokens_per_second: of training; by default a published figure, scaled to the base.
        dtype: what is computed in; by default the recipe's, "auto" being bfloat16 unless it runs on a CPU.

    Raises:
        UserError: the base's sizes are not known here, or the recipe or its data is wrong.
    """
    shape, workload, on_cpu = read_shape(recipe.base), read_workload(recipe), recipe.base.device == "cpu"
    stages = count_stages(recipe, workload)
    evaluations = count_evaluations(recipe, workload) if workload.tasks else None
    dtype = dtype or recipe.base.dtype
    if dtype == "auto":
        dtype = "float32" if on_cpu else "bfloat16"
    most_tested = max((len(task.test) for task in workload.tasks), default=UNKNOWN_ROWS)
    sizes = longest_sizes(recipe, workload, stages, most_tested)
    memory = PhasePlan(recipe, shape, dtype, sizes)
    speed = choose_speed(recipe, shape.parameters, sizes.generation, tokens_per_second)
    limit_gb = recipe.run.memory_limit_gb
    guess = (
        "weights, adapter and optimizer are counted from the model's own modules; what comes and goes is that of a "
        "plain decoder of these sizes, a guess. `plan --measure` runs the steps"
    )
    return Plan(
        model=recipe.base.model,
        quantization=recipe.base.quantization,
        dtype=dtype,
        on_gpu=not on_cpu,
        parameters=shape.parameters,
        training_state=memory.steps.adapters,
        sizes=sizes,
        counted=workload.counted,
        caveat=f"{shape.unknown}: {guess}" if shape.unknown else "",
        micro_batch_tokens=recipe.train.micro_batch_tokens,
        phases=memory.phases(),
        limit=None if limit_gb is None else memory.fit(limit_gb, most_tested),
        cards=tuple(memory.fit(card, most_tested) for card in CARDS_GB),
        stages=stages,
        evaluations=evaluations,
        speed=speed,
        hours=None if speed is None or evaluations is None else estimate_hours(recipe, stages, evaluations, speed),
        disk=estimate_disk(recipe, shape, workload, stages, evaluations, memory.steps.adapters.weights),
    )


def at_speed(plan: Plan, recipe: Recipe, speed: Speed) -> Plan:
    """The plan with the time that a measured speed gives."""
    tests = plan.evaluations
    hours = None if tests is None else estimate_hours(recipe, plan.stages, tests, speed)
    return replace(plan, speed=speed, hours=hours)


def longest_sizes(recipe: Recipe, workload: Workload, stages: Sequence[StageCount], most_tested: int) -> Sizes:
    """The longest row, and how many of it meet in each phase."""
    length, method = workload.longest, method_class(recipe.method.name)
    new_tokens, in_front = recipe.data.max_answer_tokens, method.extra_tokens(recipe)
    at_once = max(1, recipe.train.micro_batch_tokens // (length.tokens + in_front))
    count = len(recipe.data.tasks) or 1
    replayed = max((stage.most_replay_rows for stage in stages), default=at_once if count > 1 else 0)
    held_out = max((len(task.validation) for task in workload.tasks), default=recipe.data.validation_rows)
    batch = recipe.evaluate.batch_tokens
    return Sizes(
        tasks=1 if method.joint else count,
        length=length,
        train=min(at_once, recipe.train.batch_size),
        replay=min(at_once, replayed) if method.replays else 0,
        held_out=min(max(1, batch // length.tokens), held_out),
        generation=min(max(1, batch // (in_front + length.prompt + new_tokens)), most_tested),
        in_front=in_front,
    )


class PhasePlan:
    """What stays on the device and what comes and goes, put together."""

    def __init__(self, recipe: Recipe, shape: BaseShape, dtype: str, sizes: Sizes) -> None:
        self.recipe, self.sizes = recipe, sizes
        self.steps = StepMemory(recipe, shape, dtype, sizes)
        quantization, number = recipe.base.quantization, NUMBER_BYTES[dtype]
        self.stored = shape.stored(quantization, number)
        quantised = shape.linear if quantization != "none" else frozenset[str]()
        self.dequantised = number * max((prod(shape.weights[name]) for name in quantised), default=0)
        self.loading = number * max(map(prod, shape.weights.values())) * (LOADING_AT_ONCE if quantised else 1)
        rows = {
            "train": sizes.train,
            "replay": sizes.replay,
            "scoring": 1 if self.steps.method.looks_into_attention else 0,  # sample by sample
            "validation": sizes.held_out,
            "generation": sizes.generation,
        }
        self.rows = {"load": 0} | {phase: count for phase, count in rows.items() if count}

    def phases(self) -> tuple[PhaseMemory, ...]:
        """Every phase at the recipe's own sizes."""
        return tuple(self._phase(phase, rows) for phase, rows in self.rows.items())

    def fit(self, memory_gb: float, most_tested: int) -> CardFit:
        """What fits into `memory_gb`, up to all rows of a step, and of a test set."""
        limit, batch_size = memory_gb * GB, self.recipe.train.batch_size
        largest = max(self.phases(), key=lambda phase: phase.peak)
        row = self.sizes.length.tokens + self.sizes.in_front
        micro = self._most_rows(limit, ("train", "replay"), batch_size)
        tested = self._most_rows(limit, ("validation", "generation"), most_tested)
        return CardFit(
            memory_gb=memory_gb,
            as_it_is=largest.peak <= limit,
            largest_phase=largest.phase,
            micro_batch_tokens=micro * row or None,
            whole_step=micro == batch_size,
            batch_tokens=tested * row or None,
        )

    def _most_rows(self, limit: float, phases: Sequence[str], most: int) -> int:
        """How many rows at once every one of these phases can take, where the phases that have no choice fit, too."""
        needed = [phase for phase in ("load", "scoring", *phases) if phase in self.rows]

        def peak(rows: int) -> int:
            return max(self._phase(phase, rows).peak for phase in needed)

        return bisect_right(range(1, most + 1), limit, key=peak)

    def _phase(self, phase: str, rows: int) -> PhaseMemory:
        adapters, learns, loads = self.steps.adapters, phase in ("train", "replay"), phase == "load"
        steps = [StepBytes(0, self.loading)] if loads else self.steps.steps(phase, rows)
        step = max(steps, key=lambda step: step.saved + step.working)
        overhead = CUDA_BYTES + round(FRAGMENTS * (0 if loads else step.saved + step.working))
        return PhaseMemory(
            phase=phase,
            rows=rows,
            base=self.stored,
            adapters=0 if loads else adapters.student + (adapters.others if learns else adapters.others_after),
            gradients=adapters.student if learns else 0,
            optimizer=adapters.optimizer if learns else 0,
            saved=round(step.saved),
            working=round(step.working),
            dequantised=0 if loads else self.dequantised,
            overhead=0 if self.recipe.base.device == "cpu" else overhead,
        )
