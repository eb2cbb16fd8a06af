"""The plan's bytes beside the bytes of real models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seekr_lite.model.base import load_base
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan.account import MemoryAccount, SavedBytes, tensor_bytes
from seekr_lite.tools.plan.configs import model_config
from seekr_lite.tools.plan.estimate import (
    PhaseStep,
    Sizes,
    StepMemory,
    estimate_activations,
    held_heads,
    observe,
    steps_after_task,
    steps_while_learning,
)
from seekr_lite.tools.plan.measure import random_base
from seekr_lite.tools.plan.phases import RowLength, enter_last_task, leave_last_task, sensitivity_pass
from seekr_lite.tools.plan.plan import bytes_of_config
from seekr_lite.training.learner import Learner
from seekr_lite.training.optimizers import make_optimizer

ROOT = Path(__file__).parents[1]
SMOLLM2 = ROOT / "models" / "smollm2-135m-instruct"
LENGTH = RowLength(40, 16)
SIZES = Sizes(tasks=3, length=LENGTH, train=3, replay=2, held_out=3, generation=4)
FEW = Sizes(tasks=3, length=RowLength(4, 2), train=1, replay=0, held_out=0, generation=1)

real_model = [
    pytest.mark.real_model,
    pytest.mark.skipif(not (SMOLLM2 / "config.json").is_file(), reason="run scripts/get_smollm2.py first"),
]


def recipe_for(model: str | Path, **sections: dict[str, Any]) -> Recipe:
    recipe = Recipe.from_toml(ROOT / "recipes" / "quickstart.toml")
    recipe = recipe.with_(base={"model": str(model), "device": "cpu", "dtype": "float32"})
    return recipe.with_(**sections)


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a shallow model of larger width; it has no weights."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 8}
    config = {"model_type": "llama", "vocab_size": 4000, "num_hidden_layers": 2, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))
    return folder


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
    planned = bytes_of_config(model_config(settings), torch.bfloat16, quantization)
    base = load_base(settings)
    assert planned.stored == real_base_bytes(base.model)
    if quantization == "none":
        assert planned.parameters == sum(parameter.numel() for parameter in base.model.parameters())


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_the_random_base_is_as_large_as_the_planned_one(wide_llama: Path, quantization: str) -> None:
    recipe = recipe_for(wide_llama, base={"quantization": quantization})
    config = model_config(recipe.base)
    base = random_base(config, recipe, torch.bfloat16, torch.device("cpu"))
    assert real_base_bytes(base.model) == bytes_of_config(config, torch.bfloat16, quantization).stored


@pytest.mark.parametrize("adapter", [{}, {"growth": "stack"}, {"dtype": "bfloat16"}, {"targets": "attention"}])
@pytest.mark.parametrize("model", ["tiny", pytest.param(SMOLLM2, marks=real_model)])
def test_bytes_of_adapters_are_those_of_a_real_learner(model: str | Path, adapter: dict[str, Any]) -> None:
    recipe = recipe_for(model, adapter=adapter, method={"name": "sequential"})
    planned = estimate_activations(recipe, model_config(recipe.base), torch.float32, FEW).adapters
    learner = Learner(recipe)
    enter_last_task(learner, FEW.tasks, held_heads=0)
    adapters = learner.adapters
    everything = [part for name, part in adapters.model.named_parameters() if ".lora_" in name]
    assert planned.student == tensor_bytes(adapters.trainable_parameters())
    assert planned.student + planned.others == tensor_bytes(everything)
    leave_last_task(learner)
    everything = [part for name, part in adapters.model.named_parameters() if ".lora_" in name]
    assert planned.student + planned.others_after == tensor_bytes(everything)


@pytest.mark.parametrize(
    ("optimizer", "dtype"), [("adamw", "float32"), ("adamw", "bfloat16"), ("adamw_8bit", "float32")]
)
@pytest.mark.parametrize("model", ["tiny", pytest.param(SMOLLM2, marks=real_model)])
def test_bytes_of_the_optimizer_are_those_after_a_real_step(model: str | Path, optimizer: str, dtype: str) -> None:
    recipe = recipe_for(model, train={"optimizer": optimizer}, adapter={"dtype": dtype}, method={"name": "sequential"})
    planned = estimate_activations(recipe, model_config(recipe.base), torch.float32, FEW).adapters.optimizer
    parameters = Learner(recipe).adapters.trainable_parameters()
    made = make_optimizer(parameters, recipe.train)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    states = [part for state in made.state.values() for part in state.values() if isinstance(part, torch.Tensor)]
    assert planned == tensor_bytes(part for part in states if part.ndim)  # the count of steps is on the host


def real_and_planned(recipe: Recipe) -> Iterator[tuple[PhaseStep, tuple[int, int], StepMemory]]:
    config = model_config(recipe.base)
    planned = estimate_activations(recipe, config, torch.float32, SIZES).steps
    torch.manual_seed(0)
    learner = Learner(recipe, random_base(config, recipe, torch.float32, torch.device("cpu")))
    text = config.get_text_config()
    enter_last_task(learner, SIZES.tasks, held_heads(recipe, text.num_hidden_layers, text.num_attention_heads))
    real = [(step, observe(learner, step.run, step.rows, LENGTH)) for step in steps_while_learning(SIZES)]
    leave_last_task(learner)
    real += [(step, observe(learner, step.run, step.rows, LENGTH)) for step in steps_after_task(SIZES, True)]
    for (step, found), memory in zip(real, planned, strict=True):
        yield step, found, memory


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(
    "model", [pytest.param("tiny", marks=pytest.mark.slow), "wide_llama", pytest.param(SMOLLM2, marks=real_model)]
)
def test_activations_are_those_that_autograd_keeps(
    model: str | Path, checkpointing: bool, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue(model) if model == "wide_llama" else model
    recipe = recipe_for(name, train={"checkpointing": checkpointing})
    dequantised = bytes_of_config(model_config(recipe.base), torch.float32, "nf4").dequantised
    for step, (saved, peak), memory in real_and_planned(recipe):
        assert memory.saved.at(step.rows) == pytest.approx(saved, rel=0.02), step.name
        planned_peak = memory.peak_at(step.rows) + dequantised
        assert 0.95 * peak <= planned_peak <= 1.15 * peak + dequantised, step.name


@pytest.mark.slow
def test_two_depths_say_what_a_deeper_model_needs(wide_llama: Path, tmp_path: Path) -> None:
    config = json.loads((wide_llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))
    recipe = recipe_for(tmp_path, base={"quantization": "none"}, train={"checkpointing": True})
    for step, (saved, peak), memory in real_and_planned(recipe):
        assert memory.saved.at(step.rows) == pytest.approx(saved, rel=0.02), step.name
        assert memory.peak_at(step.rows) == pytest.approx(peak, rel=0.15), step.name


@pytest.mark.slow
def test_what_two_numbers_of_rows_need_gives_what_five_need() -> None:
    recipe = recipe_for("tiny", train={"checkpointing": True})
    config = model_config(recipe.base)
    few = estimate_activations(recipe, config, torch.float32, SIZES).steps
    five = Sizes(tasks=3, length=LENGTH, train=5, replay=5, held_out=5, generation=5)
    for guessed, run in zip(few, estimate_activations(recipe, config, torch.float32, five).steps, strict=True):
        assert guessed.peak_at(5) == pytest.approx(run.peak_at(5), rel=0.05), run.step.name


def test_generation_has_room_for_the_longest_answer_that_is_allowed() -> None:
    """However short the answers of the data are: the product keeps that room for every row."""
    recipe = recipe_for("tiny", data={"max_answer_tokens": 400}, method={"name": "sequential"})
    config = model_config(recipe.base)
    steps = estimate_activations(recipe, config, torch.float32, replace(SIZES, replay=0)).steps
    planned = max(step.peak_at(SIZES.generation) for step in steps if step.step.phase == "generation")
    kept_per_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # keys and values
    assert planned > SIZES.generation * (LENGTH.prompt + 400) * kept_per_token


def test_scoring_lets_go_of_each_layer() -> None:
    learner = Learner(recipe_for("tiny", train={"checkpointing": True}))
    enter_last_task(learner, 2, held_heads=4)
    leave_last_task(learner)
    with MemoryAccount() as account:
        sensitivity_pass(learner, 1, LENGTH)
    assert account.live < account.peak / 100


def test_the_account_counts_storages_once_and_what_ended_no_more() -> None:
    there = torch.zeros(1000)
    with MemoryAccount() as account:
        made = there + 1  # 4,000 bytes
        view = made.view(10, 100).t()
        there.add_(1)
        assert account.live == 4000
        temporary = made * 2
        del temporary
        del made
        assert account.live == 4000  # the view holds it
        del view
    assert (account.live, account.peak) == (0, 8000)


def test_saved_bytes_are_those_of_the_graph_without_weights() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    with SavedBytes([weight]) as saved:
        inputs = torch.ones(10, 100, requires_grad=True)
        result = (inputs @ weight).exp()
        assert saved.live == 2 * 10 * 100 * 4  # inputs for the weight's gradient, and the result of exp
        del result
        assert saved.live == 0
