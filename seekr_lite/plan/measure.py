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

from seekr_lite.base import Base, choose_device, choose_dtype, free_memory, keep_trainable, limit_memory
from seekr_lite.errors import UserError
from seekr_lite.plan.configs import model_config
from seekr_lite.plan.weights import quantised_layers

if TYPE_CHECKING:
    import torch

    from seekr_lite.learner import Learner
    from seekr_lite.plan.estimate import PhaseStep
    from seekr_lite.plan.plan import Plan
    from seekr_lite.recipe import Recipe

PAD = 0
WEIGHT_SCALE = 0.02


@dataclass(frozen=True)
class MeasuredPhase:
    """A phase: peak bytes measured and planned (without what CUDA takes outside of the allocator), seconds of its
    longest step, and what was wrong (out of memory), if anything."""

    phase: str
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
    """What was measured, on which device, under which limit. tokens_per_second: of training on new rows."""

    device: str
    dtype: str
    memory_limit_gb: float | None
    tokens_per_second: float | None
    phases: tuple[MeasuredPhase, ...]

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        for phase, measured in zip(values["phases"], self.phases, strict=True):
            phase["error"] = measured.error
        return values


def measure_plan(recipe: Recipe) -> Measured:
    """Builds the base and runs the longest step of every phase, at the recipe's own sizes.

    Raises:
        UserError: see `make_plan`; or a GPU is asked for and there is none.
    """
    import torch

    from seekr_lite.learner import Learner
    from seekr_lite.plan.estimate import held_heads, steps_after_task, steps_while_learning
    from seekr_lite.plan.phases import enter_last_task, leave_last_task
    from seekr_lite.plan.plan import make_plan

    device = choose_device(recipe.base.device)
    dtype = choose_dtype(recipe.base.dtype, device)
    plan = make_plan(recipe, dtype=dtype)
    limit_memory(recipe.run.memory_limit_gb, device)
    config = model_config(recipe.base)
    text = config.get_text_config()
    held = held_heads(recipe, int(text.num_hidden_layers), int(text.num_attention_heads))
    learner = Learner(recipe, random_base(config, recipe, dtype, device))
    enter_last_task(learner, plan.sizes.tasks, held)
    moments = torch.empty(plan.training_state.optimizer, dtype=torch.uint8, device=device)
    phases = [_measure(learner, step, plan) for step in steps_while_learning(plan.sizes)]
    del moments
    leave_last_task(learner)
    scores = learner.method.looks_into_attention
    phases += [_measure(learner, step, plan) for step in steps_after_task(plan.sizes, scores)]
    train = phases[0]
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU",
        dtype=str(dtype).removeprefix("torch."),
        memory_limit_gb=recipe.run.memory_limit_gb if device.type == "cuda" else None,
        tokens_per_second=train.rows * plan.sizes.length.tokens / train.seconds if train.seconds else None,
        phases=tuple(_largest(phases, name) for name in dict.fromkeys(phase.phase for phase in phases)),
    )


def _largest(phases: list[MeasuredPhase], name: str) -> MeasuredPhase:
    """Of the steps of a phase the one that failed, or took most."""
    steps = [phase for phase in phases if phase.phase == name]
    return max(steps, key=lambda step: (step.failure is not None, step.peak or 0))


def _measure(learner: Learner, step: PhaseStep, plan: Plan) -> MeasuredPhase:
    """Runs a step twice: the first compiles and fills caches, the second is timed."""
    import torch

    planned = next(phase for phase in plan.phases if phase.phase == step.phase)
    result = MeasuredPhase(step.phase, step.rows, None, planned.peak - planned.overhead, None)
    try:
        peak, _ = _run(learner, step, plan)
        _, seconds = _run(learner, step, plan, account=False)
    except (torch.OutOfMemoryError, UserError) as error:
        return replace(result, failure=str(error).splitlines()[0])
    finally:
        free_memory()
    stays = 0 if learner.base.device.type == "cuda" else planned.stays
    return replace(result, peak=stays + peak, seconds=seconds)


def _run(learner: Learner, step: PhaseStep, plan: Plan, account: bool = True) -> tuple[int, float]:
    """(peak bytes, seconds): on a GPU the allocator's peak of everything; on a CPU that of the step alone."""
    import torch

    from seekr_lite.plan.account import MemoryAccount

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
        made.weight = Params4bit(weight.cpu(), requires_grad=False, **options)
    if bias:
        made.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=dtype), requires_grad=False)
    made.to(device)  # quantised by the move
    quantised: torch.nn.Module = made
    return quantised
