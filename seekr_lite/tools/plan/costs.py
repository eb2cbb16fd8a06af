"""Time from a stated speed, and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

from seekr_lite.common.files import user_path
from seekr_lite.methods.registry import method_class
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan.shapes import BaseShape
from seekr_lite.tools.plan.step_counts import EvaluationCount, StageCount
from seekr_lite.tools.plan.workload import Workload

# torchtune's published figure: Llama-3.1-8B, QLoRA, one RTX 4090, rows packed to 2,048 tokens, checkpointing.
REFERENCE_TOKENS_PER_SECOND, REFERENCE_PARAMETERS = 2413, 8.03e9
# Hugging Face `generate`, an 8B base in NF4 on an RTX 4090: tokens a second by rows at once.
REFERENCE_WRITING = ((1, 68.0), (8, 188.0), (32, 695.0))
SMALLEST_SCALED = 1e9  # parameters; the speed of smaller models is not bound by arithmetic
LOG_BYTES_A_STEP = 400


@dataclass(frozen=True)
class Speed:
    """Tokens a second. tokens_per_second: of training (forward and backward); replayed: the same for old rows, with
    their teacher; scored: of the samples whose heads are scored; read: one pass, of prompts and held-out rows; written:
    generation, all rows together."""

    tokens_per_second: float
    replayed_per_second: float
    scored_per_second: float
    read_per_second: float
    written_per_second: float
    source: str


@dataclass(frozen=True)
class Hours:
    """Hours by part of a run."""

    new_rows: float
    replay: float
    scoring: float
    evaluation: float
    total: float


@dataclass(frozen=True)
class Disk:
    """Bytes of the run folder, and of the base where it has to be downloaded."""

    adapters: int
    heads: int
    memory: int
    predictions: int
    log: int
    run_folder: int
    download: int


def choose_speed(
    recipe: Recipe, parameters: int, generation_rows: int, tokens_per_second: float | None = None
) -> Speed | None:
    """The given training speed, or the reference's scaled to this many parameters; None where that would be a guess.

    What else a run does is taken from it: a training token is three passes of the model (forward, recomputed, backward;
    weights are frozen), two without checkpointing; a teacher (of the method's rows that have one) or a test is one; the
    heads of a sample take a training step and two passes.
    """
    if tokens_per_second is None and parameters < SMALLEST_SCALED:
        return None
    train = 3 if recipe.train.checkpointing else 2
    method = method_class(recipe.method.name)
    new_row = train * method.trainings_of_a_new_row + method.teaches_new_rows
    if tokens_per_second is None:
        one_pass = 3 * REFERENCE_TOKENS_PER_SECOND * REFERENCE_PARAMETERS / parameters
        source = (
            f"{REFERENCE_TOKENS_PER_SECOND:,} tokens/s is torchtune's figure for QLoRA of Llama-3.1-8B on an RTX 4090; "
            "scaled by parameters"
        )
    else:
        one_pass, source = new_row * tokens_per_second, "given"
    return Speed(
        tokens_per_second=one_pass / new_row,
        replayed_per_second=one_pass / (train + method.teaches_old_rows),
        scored_per_second=one_pass / (train + 2),
        read_per_second=one_pass,
        written_per_second=writing_speed(generation_rows) * one_pass / (3 * REFERENCE_TOKENS_PER_SECOND),
        source=source,
    )


def writing_speed(rows: int) -> float:
    """Tokens a second of generation with so many rows at once, between the published ones on a straight line of
    logarithms."""
    for (few, slow), (many, fast) in pairwise(REFERENCE_WRITING):
        if rows <= many:
            share = log(max(rows, few) / few) / log(many / few)
            return slow * exp(share * log(fast / slow))
    return REFERENCE_WRITING[-1][1]


def estimate_hours(recipe: Recipe, stages: Sequence[StageCount], evaluations: EvaluationCount, speed: Speed) -> Hours:
    """The run's tokens at these speeds."""
    scores_heads = method_class(recipe.method.name).looks_into_attention
    scored = sum(stage.memory_tokens for stage in stages) if scores_heads else 0
    read = evaluations.prompt_tokens + evaluations.held_out_tokens
    seconds = (
        sum(stage.new_tokens for stage in stages) / speed.tokens_per_second,
        sum(stage.replay_tokens for stage in stages) / speed.replayed_per_second,
        scored / speed.scored_per_second,
        read / speed.read_per_second + evaluations.written_tokens / speed.written_per_second,
    )
    return Hours(*(part / 3600 for part in (*seconds, sum(seconds))))


def estimate_disk(
    recipe: Recipe,
    shape: BaseShape,
    workload: Workload,
    stages: Sequence[StageCount],
    evaluations: EvaluationCount | None,
    adapter_weights: int,
) -> Disk:
    """Adapters (fp32) exactly but for file headers; predictions hold prompts, answers and references as text.

    Args:
        adapter_weights: of one adapter of the recipe's rank.
    """
    method = method_class(recipe.method.name)
    count = 1 if method.joint else len(recipe.data.tasks)
    growth = method.growth or recipe.adapter.growth
    ranks = count * (count + 1) // 2 if growth == "stack" else count
    kept = (stage.memory_rows * task.text_bytes for stage, task in zip(stages, workload.tasks, strict=False))
    text = max((task.text_bytes for task in workload.tasks), default=0.0)
    scores = 3 * 4 * shape.layers * shape.heads if method.looks_into_attention else 0
    local = user_path(recipe.base.model).is_dir() or recipe.base.model == "tiny"
    parts = {
        "adapters": 4 * adapter_weights * ranks,
        "heads": scores * count,
        "memory": sum(map(round, kept)),
        "predictions": round(evaluations.prompts * text) if evaluations else 0,
        "log": sum(stage.steps for stage in stages) * LOG_BYTES_A_STEP,
    }
    return Disk(**parts, run_folder=sum(parts.values()), download=0 if local else shape.parameters * 2)
