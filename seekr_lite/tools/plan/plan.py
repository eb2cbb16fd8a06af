"""The plan of a recipe: what it will need, and what fits on which card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from seekr_lite.common.files import user_path
from seekr_lite.common.progress import Listener
from seekr_lite.methods.registry import method_class
from seekr_lite.tools.plan.configs import model_config, planned_dtype
from seekr_lite.tools.plan.costs import Disk, Hours, Speed, choose_speed, estimate_disk, estimate_hours
from seekr_lite.tools.plan.estimate import ActivationPlan, AdapterBytes, Sizes, StepMemory, estimate_activations
from seekr_lite.tools.plan.schedule import EvaluationCount, StageCount, count_evaluations, count_stages
from seekr_lite.tools.plan.weights import LOADING_AT_ONCE, BaseBytes, base_bytes
from seekr_lite.tools.plan.workload import Workload, read_workload

if TYPE_CHECKING:
    import torch

    from seekr_lite.recipe.recipe import Recipe

GB = 1 << 30  # as cards are sold: a "24 GB" card has 24 times this
CARDS_GB = (24, 16, 12, 8)
# Not measured, and stated in the output: what CUDA and its libraries take, and what the allocator cannot reuse.
CUDA_BYTES, FRAGMENTS = 600 << 20, 0.05
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
    """Everything that `seekr-lite plan` says; bytes, tokens, hours."""

    model: str
    quantization: str
    dtype: str
    on_gpu: bool
    parameters: int
    training_state: AdapterBytes
    sizes: Sizes
    counted: str
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
        if self.hours is not None:
            values["hours"]["total"] = self.hours.total
        values["disk"]["run_folder"] = self.disk.run_folder
        return values


def make_plan(
    recipe: Recipe,
    tokens_per_second: float | None = None,
    dtype: torch.dtype | None = None,
    listener: Listener | None = None,
) -> Plan:
    """Plans a recipe; nothing is loaded or downloaded.

    Args:
        tokens_per_second: of training; by default a published figure, scaled to the base.
        dtype: what is computed in; by default the recipe's, "auto" being bfloat16 unless it runs on a CPU.
        listener: hears of progress.

    Raises:
        UserError: the base's sizes are not known here, or the recipe or its data is wrong.
    """
    config = model_config(recipe.base)
    workload = read_workload(recipe)
    stages = count_stages(recipe, workload) if workload.tasks else ()
    evaluations = count_evaluations(recipe, workload) if workload.tasks else None
    dtype = dtype or planned_dtype(recipe.base)
    base = bytes_of_config(config, dtype, recipe.base.quantization)
    sizes = longest_sizes(recipe, workload, stages)
    activations = estimate_activations(recipe, config, dtype, sizes, listener)
    memory = MemoryPlan(base, activations, on_gpu=recipe.base.device != "cpu")
    phases = memory.phases()
    limit_gb = recipe.run.memory_limit_gb
    speed = choose_speed(recipe, base.parameters, sizes.generation, tokens_per_second)
    text = config.get_text_config()
    scores_heads = method_class(recipe.method.name).looks_into_attention
    scored = int(text.num_hidden_layers) * int(text.num_attention_heads) if scores_heads else 0
    local = user_path(recipe.base.model).is_dir() or recipe.base.model == "tiny"
    most_tested = max((len(task.test) for task in workload.tasks), default=UNKNOWN_ROWS)
    most = recipe.train.batch_size, most_tested
    return Plan(
        model=recipe.base.model,
        quantization=recipe.base.quantization,
        dtype=str(dtype).removeprefix("torch."),
        on_gpu=memory.on_gpu,
        parameters=base.parameters,
        training_state=activations.adapters,
        sizes=sizes,
        counted=workload.counted,
        micro_batch_tokens=recipe.train.micro_batch_tokens,
        phases=phases,
        limit=None if limit_gb is None else memory.fit(limit_gb, sizes, *most),
        cards=tuple(memory.fit(card, sizes, *most) for card in CARDS_GB),
        stages=stages,
        evaluations=evaluations,
        speed=speed,
        hours=None if speed is None or evaluations is None else estimate_hours(recipe, stages, evaluations, speed),
        disk=estimate_disk(
            recipe,
            workload,
            stages,
            evaluations,
            4 * activations.adapters.weights,
            scored,
            0 if local else base.parameters * 2,
        ),
    )


def at_speed(plan: Plan, recipe: Recipe, speed: Speed) -> Plan:
    """The plan with the time that a measured speed gives."""
    tests = plan.evaluations
    hours = None if tests is None else estimate_hours(recipe, plan.stages, tests, speed)
    return replace(plan, speed=speed, hours=hours)


def bytes_of_config(config: Any, dtype: torch.dtype, quantization: str) -> BaseBytes:
    """`base_bytes` of the model that a configuration describes; it is never made."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return base_bytes(AutoModelForCausalLM.from_config(config, dtype=dtype), quantization)


def longest_sizes(recipe: Recipe, workload: Workload, stages: Sequence[StageCount]) -> Sizes:
    """The longest row, and how many of it meet in each phase."""
    length, method = workload.longest, method_class(recipe.method.name)
    new_tokens, in_front = recipe.data.max_answer_tokens, method.extra_tokens(recipe)
    at_once = max(1, recipe.train.micro_batch_tokens // (length.tokens + in_front))
    count = len(recipe.data.tasks) or 1
    replayed = max((stage.most_replay_rows for stage in stages), default=at_once if count > 1 else 0)
    tested = max((len(task.test) for task in workload.tasks), default=UNKNOWN_ROWS)
    held_out = max((len(task.validation) for task in workload.tasks), default=recipe.data.validation_rows)
    batch = recipe.evaluate.batch_tokens
    return Sizes(
        tasks=1 if method.joint else count,
        length=length,
        train=min(at_once, recipe.train.batch_size),
        replay=min(at_once, replayed) if method.replays else 0,
        held_out=min(max(1, batch // length.tokens), held_out),
        generation=min(max(1, batch // (in_front + length.prompt + new_tokens)), tested),
        in_front=in_front,
    )


@dataclass(frozen=True)
class MemoryPlan:
    """What stays on the device and what comes and goes, put together."""

    base: BaseBytes
    activations: ActivationPlan
    on_gpu: bool

    def phases(self) -> tuple[PhaseMemory, ...]:
        """Every phase at the recipe's own sizes; of a phase with several steps the larger one."""
        found = [self._load()]
        names = dict.fromkeys(step.step.phase for step in self.activations.steps)
        for name in names:
            steps = [step for step in self.activations.steps if step.step.phase == name]
            found.append(max((self._phase(step, step.step.rows) for step in steps), key=lambda phase: phase.peak))
        return tuple(found)

    def fit(self, memory_gb: float, sizes: Sizes, batch_size: int, most_tested: int) -> CardFit:
        """What fits into `memory_gb`, up to all rows of a step, and of a test set."""
        limit = memory_gb * GB
        phases = self.phases()
        largest = max(phases, key=lambda phase: phase.peak)
        fixed = [step for step in self.activations.steps if step.step.one_row]
        always = self._load().peak <= limit and all(self._phase(step, 1).peak <= limit for step in fixed)
        row = sizes.length.tokens + sizes.in_front
        micro = self._most_rows(limit, ("train", "replay"), batch_size) if always else 0
        tested = self._most_rows(limit, ("validation", "generation"), most_tested) if always else 0
        return CardFit(
            memory_gb,
            largest.peak <= limit,
            largest.phase,
            micro * row or None,
            micro == batch_size,
            tested * row or None,
        )

    def _most_rows(self, limit: float, phases: Sequence[str], most: int) -> int:
        """How many rows at once every one of these phases can take."""
        steps = [step for step in self.activations.steps if step.step.phase in phases]
        fits = [rows for rows in (0, 1) if rows == 0 or all(self._phase(step, 1).peak <= limit for step in steps)]
        low, high = fits[-1], most + 1
        while low and high - low > 1:
            middle = (low + high) // 2
            inside = all(self._phase(step, middle).peak <= limit for step in steps)
            low, high = (middle, high) if inside else (low, middle)
        return low

    def _load(self) -> PhaseMemory:
        weights = LOADING_AT_ONCE if self.base.dequantised else 1
        working = weights * self.base.largest_weight
        return PhaseMemory("load", 0, self.base.stored, 0, 0, 0, 0, working, 0, self._overhead(0))

    def _phase(self, step: StepMemory, rows: int) -> PhaseMemory:
        adapters, learns = self.activations.adapters, step.step.phase in ("train", "replay")
        saved, peak = step.saved.at(rows), step.peak_at(rows)
        return PhaseMemory(
            phase=step.step.phase,
            rows=rows,
            base=self.base.stored,
            adapters=adapters.student + (adapters.others if learns else adapters.others_after),
            gradients=adapters.student if learns else 0,
            optimizer=adapters.optimizer if learns else 0,
            saved=min(saved, peak),
            working=peak - min(saved, peak),
            dequantised=self.base.dequantised,
            overhead=self._overhead(peak),
        )

    def _overhead(self, activations: int) -> int:
        return CUDA_BYTES + round(FRAGMENTS * activations) if self.on_gpu else 0
