"""The plan, for real: the base with random weights of its true shape, quantised, and the longest step of every phase.

On a GPU the process is held to `run.memory_limit_gb`, and the peak is the allocator's. On a CPU the profiler says how
much a step allocated, so what it says there is how right the formula is, and how fast this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import get_module_from_name

from seekr_lite.common.errors import UserError
from seekr_lite.common.memory import forget_peak, free_memory, limit_memory, peak_memory
from seekr_lite.common.progress import Listener
from seekr_lite.evaluation.generate import answer_function
from seekr_lite.model.base import (
    Base,
    avoid_cudnn_attention,
    choose_device,
    choose_dtype,
    keep_trainable,
    quantization_config,
)
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan.costs import Speed
from seekr_lite.tools.plan.longest_steps import (
    PAD,
    LongestStep,
    enter_last_task,
    generating,
    last_adapter,
    leave_last_task,
    rows_of,
    steps_after_task,
    steps_while_learning,
)
from seekr_lite.tools.plan.memory import RowLength, Sizes, held_heads
from seekr_lite.tools.plan.plan import Plan
from seekr_lite.tools.plan.shapes import model_config, read_shape
from seekr_lite.training.learner import Learner

NO_END = -1  # no token ends an answer
WRITTEN = 16  # tokens of each answer that are timed
WEIGHT_SCALE = 0.02


@dataclass(frozen=True)
class MeasuredPhase:
    """A step of a phase: peak bytes measured and planned (without what CUDA takes outside of the allocator), seconds,
    and what was wrong (out of memory), if anything. error: how far the plan is off, as a share of what was measured."""

    phase: str
    step: str
    rows: int
    planned: int
    peak: int | None = None
    seconds: float | None = None
    failure: str | None = None
    error: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured, on which device, under which limit; of a phase with several steps the one that took most.
    speed: None where a step failed."""

    device: str
    dtype: str
    memory_limit_gb: float | None
    speed: Speed | None
    phases: tuple[MeasuredPhase, ...]


def measured_dtype(recipe: Recipe) -> str:
    """What would be computed in on this device. Raises `UserError` where a GPU is asked for and there is none."""
    return str(choose_dtype(recipe.base.dtype, choose_device(recipe.base.device))).removeprefix("torch.")


def measure_plan(recipe: Recipe, plan: Plan, listener: Listener | None = None) -> Measured:
    """Builds the base and runs the longest step of every phase of a plan in `measured_dtype`, at its own sizes.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    device = choose_device(recipe.base.device)
    limit_memory(recipe.run.memory_limit_gb, device)
    config = model_config(recipe.base)
    learner = Learner(recipe, random_base(config, recipe, getattr(torch, plan.dtype), device))
    sizes = plan.sizes
    with (listener or Listener()).phase("measuring", len(plan.phases)) as advance:
        enter_last_task(learner, sizes.tasks, held_heads(recipe, read_shape(recipe.base)))
        moments = torch.empty(plan.training_state.optimizer, dtype=torch.uint8, device=device)
        steps = [_measure(step, plan, device) for step in steps_while_learning(learner, sizes)]
        advance(len({step.phase for step in steps}))
        del moments
        leave_last_task(learner)
        for step in steps_after_task(learner, sizes):
            with last_adapter(learner) if step.phase != "scoring" else nullcontext():
                steps.append(_measure(step, plan, device))
        writing = None if any(step.failure for step in steps) else _writing_seconds(learner, sizes)
        advance(len(plan.phases) - 2)
    # Of the steps of a phase the one that failed, or took most.
    largest = {step.phase: step for step in sorted(steps, key=lambda step: (step.failure is not None, step.peak or 0))}
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU",
        dtype=plan.dtype,
        memory_limit_gb=recipe.run.memory_limit_gb if device.type == "cuda" else None,
        speed=None if writing is None else _speed(steps, sizes, writing),
        phases=tuple(largest[phase] for phase in dict.fromkeys(step.phase for step in steps)),
    )


def _speed(steps: list[MeasuredPhase], sizes: Sizes, writing: float) -> Speed:
    """Tokens a second of each step. What a method does not do counts as training, of no tokens."""
    length = sizes.length
    seconds = {step.step: (step.seconds or 0.0) / step.rows for step in steps}  # of a row
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
    rows = rows_of(sizes.generation, RowLength(sizes.length.prompt + sizes.in_front, 0))
    model = generating(learner)
    answer = answer_function(model)

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        answer(model, rows, tokens, PAD, NO_END)
        if learner.base.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    with last_adapter(learner):
        seconds(2)  # warms up
        return max(seconds(1 + WRITTEN) - seconds(1), 1e-9)


def _measure(step: LongestStep, plan: Plan, device: torch.device) -> MeasuredPhase:
    """Runs a step twice: the first compiles and fills caches, the second is timed."""
    phase = next(phase for phase in plan.phases if phase.phase == step.phase)
    planned = phase.peak - phase.overhead
    result = MeasuredPhase(step.phase, step.name, step.rows, planned)
    try:
        if device.type == "cuda":
            torch.cuda.synchronize()
            forget_peak(device)
            step.run()
            peak = peak_memory(device) or 0
        else:
            peak = phase.stays + cpu_peak(step.run)  # nobody counts what stays, which is taken as planned: it is exact
        started = time.perf_counter()
        step.run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return replace(result, peak=peak, seconds=time.perf_counter() - started, error=planned / peak - 1)
    except (torch.OutOfMemoryError, UserError) as error:
        return replace(result, failure=str(error).splitlines()[0])
    finally:
        free_memory()


def cpu_peak(run: Callable[[], object]) -> int:
    """The most bytes that torch had allocated for tensors at once, of those that `run` allocated, from its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    sizes = [event["args"] for event in events if event.get("name") == "[memory]"]
    before = int(sizes[0]["Total Allocated"]) - int(sizes[0]["Bytes"])
    return max(int(size["Total Allocated"]) for size in sizes) - before


def random_base(config: Any, recipe: Recipe, dtype: torch.dtype, device: torch.device) -> Base:
    """A base of this shape with random weights, quantised weight by weight: never whole in full precision."""
    avoid_cudnn_attention()
    with no_init_weights():  # pages of host memory that are never written are never taken
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=recipe.base.attention)
    model.tie_weights()
    quantization = recipe.base.quantization
    settings = quantization_config(quantization, dtype)
    if settings is not None:
        kept = get_keys_to_not_convert(model)
        model = replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=settings)
    torch.manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        made = torch.empty(parameter.shape, dtype=dtype, device=device)
        made = made.normal_(std=WEIGHT_SCALE) if made.ndim > 1 else made.fill_(1.0)
        if not parameter.is_meta:
            parameter.data = made
            continue
        module, key = get_module_from_name(model, name)
        if quantization == "int8" and key == "weight":
            made = made.cpu()  # the move to the device quantises, for int8 from the host alone
        setattr(module, key, type(parameter)(made, requires_grad=False, **vars(parameter)).to(device))
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    model.requires_grad_(False)
    keep_trainable(model)
    model.config.use_cache = False
    model.is_loaded_in_4bit = quantization in ("nf4", "fp4")  # PEFT looks here
    model.is_loaded_in_8bit = quantization == "int8"
    return Base(model, SimpleNamespace(pad_token_id=0, eos_token_id=0), recipe.base.model)  # type: ignore[arg-type]
