"""The plan, for real: the base with random weights of its true shape, quantised, and the longest step of every phase.

On a GPU the process is held to `run.memory_limit_gb`, and the peak is the allocator's. On a CPU the account of tensors
that are alive is the peak, so what it says there is how right the fake run is, and how fast this machine.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.memory import free_memory, limit_memory
from seekr_lite.common.progress import Advance, Listener
from seekr_lite.model.base import Base, avoid_cudnn_attention, choose_device, choose_dtype, keep_trainable
from seekr_lite.tools.plan.configs import model_config
from seekr_lite.tools.plan.costs import Speed
from seekr_lite.tools.plan.weights import quantised_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from seekr_lite.recipe.recipe import Recipe
    from seekr_lite.tools.plan.estimate import PhaseStep, Sizes
    from seekr_lite.tools.plan.plan import Plan
    from seekr_lite.training.learner import Learner

PAD = 0
NO_END = -1  # no token ends an answer
WRITTEN = 16  # tokens of each answer that are timed
WEIGHT_SCALE = 0.02


@dataclass(frozen=True)
class MeasuredPhase:
    """A step of a phase: peak bytes measured and planned (without what CUDA takes outside of the allocator), seconds,
    and what was wrong (out of memory), if anything."""

    phase: str
    step: str
    rows: int
    peak: int | None
    planned: int
    seconds: float | None
    failure: str | None = None

    @property
    def error(self) -> float | None:
        """How far the plan is off, as a share of what was measured."""
        return None if self.peak is None else self.planned / self.peak - 1


@dataclass(frozen=True)
class Measured:
    """What was measured, on which device, under which limit; of a phase with several steps the one that took most.
    speed: None where a step failed."""

    device: str
    dtype: str
    memory_limit_gb: float | None
    speed: Speed | None
    phases: tuple[MeasuredPhase, ...]

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        for phase, measured in zip(values["phases"], self.phases, strict=True):
            phase["error"] = measured.error
        return values


def measured_dtype(recipe: Recipe) -> torch.dtype:
    """What would be computed in on this device.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    return choose_dtype(recipe.base.dtype, choose_device(recipe.base.device))


def measure_plan(recipe: Recipe, plan: Plan, listener: Listener | None = None) -> Measured:
    """Builds the base and runs the longest step of every phase of a plan in `measured_dtype`, at its own sizes.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    import torch

    from seekr_lite.tools.plan.estimate import held_heads, steps_after_task, steps_while_learning
    from seekr_lite.tools.plan.phases import enter_last_task, leave_last_task
    from seekr_lite.training.learner import Learner

    device, dtype = choose_device(recipe.base.device), measured_dtype(recipe)
    limit_memory(recipe.run.memory_limit_gb, device)
    config = model_config(recipe.base)
    text = config.get_text_config()
    held = held_heads(recipe, int(text.num_hidden_layers), int(text.num_attention_heads))
    learner = Learner(recipe, random_base(config, recipe, dtype, device))
    learning = list(steps_while_learning(plan.sizes))
    after = list(steps_after_task(plan.sizes, learner.method.looks_into_attention))
    with (listener or Listener()).phase("measuring", len(learning) + len(after) + 1) as advance:
        enter_last_task(learner, plan.sizes.tasks, held)
        moments = torch.empty(plan.training_state.optimizer, dtype=torch.uint8, device=device)
        phases = [_measure(learner, step, plan, advance) for step in learning]
        del moments
        leave_last_task(learner)
        phases += [_measure(learner, step, plan, advance) for step in after]
        writing = None if any(phase.failure for phase in phases) else _writing_seconds(learner, plan.sizes)
        advance(1)
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU",
        dtype=str(dtype).removeprefix("torch."),
        memory_limit_gb=recipe.run.memory_limit_gb if device.type == "cuda" else None,
        speed=None if writing is None else _speed(phases, plan.sizes, writing),
        phases=tuple(_largest(phases, name) for name in dict.fromkeys(phase.phase for phase in phases)),
    )


def _largest(phases: list[MeasuredPhase], name: str) -> MeasuredPhase:
    """Of the steps of a phase the one that failed, or took most."""
    steps = [phase for phase in phases if phase.phase == name]
    return max(steps, key=lambda step: (step.failure is not None, step.peak or 0))


def _speed(phases: Sequence[MeasuredPhase], sizes: Sizes, writing: float) -> Speed:
    """Tokens a second of each step. What a method does not do counts as training, of no tokens."""
    length = sizes.length
    seconds = {phase.step: (phase.seconds or 0.0) / phase.rows for phase in phases}  # of a row
    trained = length.tokens / seconds["new rows"]
    scoring = seconds.get("sensitivity", 0.0) + seconds.get("change of maps", 0.0)
    return Speed(
        tokens_per_second=trained,
        replayed_per_second=length.tokens / seconds["old rows"] if "old rows" in seconds else trained,
        scored_per_second=length.tokens / scoring if scoring else trained,
        read_per_second=length.prompt / seconds["prompts"],
        written_per_second=WRITTEN * sizes.generation / writing,
        source="measured here, on rows of the greatest length",
    )


def _writing_seconds(learner: Learner, sizes: Sizes) -> float:
    """Seconds in which a batch writes WRITTEN tokens a row, behind prompts of the greatest length."""
    import torch

    from seekr_lite.evaluation.generate import answer_function
    from seekr_lite.tools.plan.phases import prompts

    rows = prompts(sizes.generation, sizes.length)
    model = learner.adapters.model
    answer = answer_function(model)

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        answer(model, rows, tokens, PAD, NO_END)
        if learner.base.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    with learner.adapters.acting_as(len(learner.adapters.snapshots) - 1):
        seconds(2)  # warms up
        return max(seconds(1 + WRITTEN) - seconds(1), 1e-9)


def _measure(learner: Learner, step: PhaseStep, plan: Plan, advance: Advance) -> MeasuredPhase:
    """Runs a step twice: the first compiles and fills caches, the second is timed."""
    import torch

    planned = next(phase for phase in plan.phases if phase.phase == step.phase)
    result = MeasuredPhase(step.phase, step.name, step.rows, None, planned.peak - planned.overhead, None)
    try:
        peak, _ = _run(learner, step, plan)
        _, seconds = _run(learner, step, plan, account=False)
    except (torch.OutOfMemoryError, UserError) as error:
        return replace(result, failure=str(error).splitlines()[0])
    finally:
        free_memory()
        advance(1)
    stays = 0 if learner.base.device.type == "cuda" else planned.stays
    return replace(result, peak=stays + peak, seconds=seconds)


def _run(learner: Learner, step: PhaseStep, plan: Plan, account: bool = True) -> tuple[int, float]:
    """(peak bytes, seconds): on a GPU the allocator's peak of everything; on a CPU that of the step alone."""
    import torch

    from seekr_lite.tools.plan.account import MemoryAccount

    if learner.base.device.type != "cuda":
        with MemoryAccount() if account else nullcontext() as alive:
            started = time.perf_counter()
            step.run(learner, step.rows, plan.sizes.length)
        return alive.peak if alive else 0, time.perf_counter() - started
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    step.run(learner, step.rows, plan.sizes.length)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(), time.perf_counter() - started


def random_base(config: Any, recipe: Recipe, dtype: torch.dtype, device: torch.device) -> Base:
    """A base of this shape with random weights, quantised weight by weight: never whole in full precision."""
    avoid_cudnn_attention()
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():  # pages of host memory that are never written are never taken
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=recipe.base.attention)
    quantization = recipe.base.quantization
    quantised = list(quantised_layers(model)) if quantization != "none" else []
    for name in quantised:
        linear = model.get_submodule(name)
        model.set_submodule(name, _quantised(linear, quantization, dtype, device))
    torch.manual_seed(0)
    done = {f"{name}.weight" for name in quantised}
    for name, parameter in model.named_parameters():
        if name not in done:
            made = torch.empty(parameter.shape, dtype=dtype, device=device)
            parameter.data = made.normal_(std=WEIGHT_SCALE) if made.ndim > 1 else made.fill_(1.0)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    model.requires_grad_(False)
    keep_trainable(model)
    model.config.use_cache = False
    model.is_loaded_in_4bit = quantization in ("nf4", "fp4")  # PEFT looks here
    model.is_loaded_in_8bit = quantization == "int8"
    return Base(model, SimpleNamespace(pad_token_id=PAD, eos_token_id=PAD), recipe.base.model)  # type: ignore[arg-type]


def _quantised(linear: Any, quantization: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    import torch
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    sizes, bias = (linear.in_features, linear.out_features), linear.bias is not None
    weight = torch.empty(linear.weight.shape, dtype=dtype, device=device).normal_(std=WEIGHT_SCALE)
    made: Any
    if quantization == "int8":
        made = Linear8bitLt(*sizes, bias=bias, has_fp16_weights=False, threshold=6.0, device="meta")
        made.weight = Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        options = {"compress_statistics": True, "quant_type": quantization}
        made = Linear4bit(*sizes, bias=bias, compute_dtype=dtype, device="meta", **options)
        made.weight = Params4bit(weight, requires_grad=False, **options)
    if bias:
        made.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=dtype), requires_grad=False)
    made.to(device)  # quantised by the move
    quantised: torch.nn.Module = made
    return quantised
