"""The plan's bytes beside the bytes of real models, and its peaks beside measured ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seekr_lite.evaluation.greedy import PROMPT_TOKENS
from seekr_lite.model.base import load_base
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan import memory
from seekr_lite.tools.plan.longest_steps import enter_last_task, leave_last_task
from seekr_lite.tools.plan.measure import cpu_peak, measure_plan, random_base
from seekr_lite.tools.plan.memory import RowLength, Sizes, StepMemory, adapter_bytes
from seekr_lite.tools.plan.plan import PhasePlan, make_plan
from seekr_lite.tools.plan.shapes import BaseShape, built_shape, model_config, plain_shape, read_shape
from seekr_lite.training.learner import Learner
from seekr_lite.training.optimizers import make_optimizer

ROOT = Path(__file__).parents[1]
SMOLLM2 = ROOT / "models" / "smollm2-135m-instruct"
TASKS = 3
LLAMA = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4000,
    "max_position_embeddings": 512,
}

real_model = [
    pytest.mark.real_model,
    pytest.mark.skipif(not (SMOLLM2 / "config.json").is_file(), reason="run scripts/get_smollm2.py first"),
]


def recipe_for(model: str | Path, **sections: dict[str, Any]) -> Recipe:
    recipe = Recipe.from_toml(ROOT / "recipes" / "quickstart.toml")
    recipe = recipe.with_(base={"model": str(model), "device": "cpu", "dtype": "float32"})
    return recipe.with_(**sections)


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the memory behind these tensors, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a shallow model of larger width; it has no weights."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


# ---------------------------------------------------------------------- what stays, to the byte


def stored_tensors(value: Any) -> Iterator[torch.Tensor]:
    """A weight and all that bitsandbytes hangs on it."""
    if isinstance(value, torch.Tensor):
        yield value
        for part in vars(value).values():
            yield from stored_tensors(part)
    elif type(value).__name__ in ("QuantState", "MatmulLtState"):
        for part in vars(value).values():
            yield from stored_tensors(part)


def real_base_bytes(model: torch.nn.Module) -> int:
    found: list[torch.Tensor] = []
    for module in model.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), getattr(module, "state", None)):
            found += stored_tensors(value)
    return tensor_bytes(found)


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8", "none"])
@pytest.mark.parametrize("model", ["tiny", pytest.param(SMOLLM2, marks=real_model)])
def test_bytes_of_the_base_are_those_of_the_loaded_model(model: str | Path, quantization: str) -> None:
    settings = recipe_for(model, base={"quantization": quantization, "dtype": "bfloat16"}).base
    shape, base = read_shape(settings), load_base(settings)
    assert shape.stored(quantization, 2) == real_base_bytes(base.model)
    if quantization == "none":
        assert shape.parameters == sum(parameter.numel() for parameter in base.model.parameters())


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_the_random_base_is_as_large_as_the_planned_one(wide_llama: Path, quantization: str) -> None:
    recipe = recipe_for(wide_llama, base={"quantization": quantization})
    base = random_base(model_config(recipe.base), recipe, torch.bfloat16, torch.device("cpu"))
    assert real_base_bytes(base.model) == read_shape(recipe.base).stored(quantization, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True, "head_dim": 48},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 128, "attention_bias": True},
    ],
)
def test_the_arithmetic_of_plain_decoders_is_what_transformers_builds(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {**LLAMA, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    built = built_shape(model_config(recipe_for(tmp_path).base))
    assert plain_shape(config) == built


@pytest.mark.parametrize(
    "adapter",
    [{}, {"growth": "stack"}, {"dtype": "bfloat16"}, {"targets": "attention"}, {"targets": ["q_proj", "down_proj"]}],
)
def test_bytes_of_adapters_are_those_of_a_real_learner(adapter: dict[str, Any]) -> None:
    recipe = recipe_for("tiny", adapter=adapter, method={"name": "sequential"})
    planned = adapter_bytes(recipe, read_shape(recipe.base), TASKS)
    learner = Learner(recipe)
    enter_last_task(learner, TASKS, held_heads=0)
    model = learner.adapters.model
    assert planned.student == tensor_bytes(learner.adapters.trainable_parameters())
    everything = [part for name, part in model.named_parameters() if ".lora_" in name]
    assert planned.student + planned.others == tensor_bytes(everything)
    leave_last_task(learner)
    everything = [part for name, part in model.named_parameters() if ".lora_" in name]
    assert planned.student + planned.others_after == tensor_bytes(everything)


@pytest.mark.parametrize("method", ["pp", "l2p", "lfpt5"])
def test_bytes_of_soft_prompts_are_those_of_a_real_learner(method: str) -> None:
    recipe = recipe_for("tiny", method={"name": method})
    planned = adapter_bytes(recipe, read_shape(recipe.base), TASKS)
    assert planned.student == tensor_bytes(Learner(recipe).adapters.trainable_parameters())


@pytest.mark.parametrize(
    ("optimizer", "dtype"), [("adamw", "float32"), ("adamw", "bfloat16"), ("adamw_8bit", "float32")]
)
def test_bytes_of_the_optimizer_are_those_after_a_real_step(optimizer: str, dtype: str) -> None:
    sections = {"train": {"optimizer": optimizer}, "adapter": {"dtype": dtype}, "method": {"name": "sequential"}}
    recipe = recipe_for("tiny", **sections)
    planned = adapter_bytes(recipe, read_shape(recipe.base), TASKS).optimizer
    parameters = Learner(recipe).adapters.trainable_parameters()
    made = make_optimizer(parameters, recipe.train)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    states = [part for state in made.state.values() for part in state.values() if isinstance(part, torch.Tensor)]
    assert planned == tensor_bytes(part for part in states if part.ndim)  # the count of steps is on the host


# ---------------------------------------------------------------------- peaks


LIMIT = 0.1  # how far a peak may be off


def test_peaks_are_those_that_a_gpu_used() -> None:
    """The committed measurement of Llama-2-7B in NF4 on an H200, at its own sizes."""
    measured = json.loads((ROOT / "benchmarks" / "results" / "fit_24gb_h200.json").read_text())["limits"]
    recipe = Recipe.from_toml(ROOT / "recipes" / "trace-llama2-7b.toml")
    for limit in measured:
        sizes = Sizes(**{**limit["sizes"], "length": RowLength(**limit["sizes"]["length"])})
        phases = PhasePlan(recipe, read_shape(recipe.base), "bfloat16", sizes).phases()
        planned = {phase.phase: phase.peak - phase.overhead for phase in phases}
        assert limit["parameters"] == read_shape(recipe.base).parameters
        for phase in limit["measured"]["phases"]:
            assert planned[phase["phase"]] == pytest.approx(phase["peak"], rel=LIMIT), phase["phase"]


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("method", ["seekr", "derpp", "lwf", "pp", "joint"])
def test_peaks_are_those_that_a_cpu_used(wide_llama: Path, method: str, checkpointing: bool) -> None:
    recipe = recipe_for(
        wide_llama,
        base={"quantization": "none"},
        data={"max_prompt_tokens": 160, "max_answer_tokens": 32, "tasks": ["shade", "keeper"]},
        train={"checkpointing": checkpointing, "micro_batch_tokens": 600},
        method={"name": method, "head_budget": 8} if method == "seekr" else {"name": method},
        evaluate={"batch_tokens": 800},
    )
    measured = measure_plan(recipe, make_plan(recipe))
    assert measured.speed is not None
    for phase in measured.phases:
        assert phase.planned == pytest.approx(phase.peak, rel=LIMIT), phase.step


def test_generation_has_room_for_the_longest_answer_that_is_allowed() -> None:
    """However short the answers of the data are: the product keeps that room for every row."""
    recipe = recipe_for("tiny", data={"max_answer_tokens": 400}, method={"name": "sequential"})
    shape, length = read_shape(recipe.base), RowLength(40, 16)
    steps = StepMemory(recipe, shape, "float32", Sizes(TASKS, length, train=3, replay=0, held_out=3, generation=4))
    assert steps.generation(4).working > 4 * (length.prompt + 400) * kept_per_token(shape)


def kept_per_token(shape: BaseShape) -> int:
    """Bytes of keys and values of all layers, in fp32."""
    return 2 * 4 * shape.layers * shape.key_heads * shape.head_size


def test_prompts_are_read_in_groups_as_the_product_does() -> None:
    assert memory.PROMPT_TOKENS == PROMPT_TOKENS


def test_the_peak_on_a_cpu_is_of_what_was_alive_at_once() -> None:
    def run() -> None:
        made = torch.zeros(1000) + 1  # 8,000 bytes, of which half are free afterwards
        del made
        torch.zeros(500)

    assert cpu_peak(run) == pytest.approx(8000, rel=0.05)
