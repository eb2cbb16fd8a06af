"""Running out of memory makes micro-batches smaller, and changes no result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from seekr_lite.common.errors import UserError
from seekr_lite.common.progress import Listener, current_listener
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.tasks import gather_tasks
from seekr_lite.training.learner import Learner
from seekr_lite.training.micro_batches import MicroBatches


class Said(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class SmallCard:
    """A stand-in for a card's allocator: it has room for so many padded tokens in a forward pass with gradients."""

    def __init__(self, model: Any, tokens: int) -> None:
        self.room = tokens
        self.failures = 0
        model.base_model.register_forward_pre_hook(self.allocate, with_kwargs=True)

    def allocate(self, module: Any, inputs: Any, options: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and options["attention_mask"].numel() > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def learn_two_tasks(recipe: Recipe, room: int) -> tuple[Learner, SmallCard, Said]:
    said = Said()
    learner = Learner(recipe, listener=said)
    card = SmallCard(learner.base.model, room)
    for task in gather_tasks(recipe, None, ()):
        learner.learn(task)
    return learner, card, said


@pytest.mark.parametrize("method", ["replay", "seekr"])
def test_a_small_card_learns_the_same_and_says_so_once(method: str, small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(method={"name": method}, base={"quantization": "none"}, train={"epochs": 1})
    plain, _, silent = learn_two_tasks(recipe, room=10**9)
    learner, card, said = learn_two_tasks(recipe, room=100)
    assert card.failures > 0
    assert silent.lines == []
    assert len(said.lines) == card.failures
    assert learner.micro_batches.tokens < recipe.train.micro_batch_tokens
    expected = plain.adapters.snapshots[0].weights
    for name, weight in learner.adapters.snapshots[0].weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["l2p", "lfpt5"])
def test_tokens_in_front_of_a_row_count_too(method: str, small_recipe: Callable[..., Recipe]) -> None:
    """All rows of a step fit 400 tokens without their soft prompts, and not with them."""
    recipe = small_recipe(method={"name": method}, train={"micro_batch_tokens": 400, "epochs": 1})
    learner = Learner(recipe)
    passed: list[int] = []
    learner.base.model.base_model.register_forward_pre_hook(
        lambda module, inputs, options: passed.append(options["input_ids"].numel()), with_kwargs=True
    )
    learner.learn(gather_tasks(recipe, None, ())[0])
    assert 250 < max(passed) <= 400


def gradients_of_a_step(recipe: Recipe, room: int) -> tuple[list[torch.Tensor], Said]:
    from seekr_lite.training.replay_schedule import Step
    from seekr_lite.training.step_gradients import StepGradients

    said = Said()
    learner = Learner(recipe)
    task = gather_tasks(recipe, None, ())[0]
    learner.adapters.start_task()
    rows = learner.encode(task.train[:12])
    SmallCard(learner.base.model, room)
    learner.adapters.model.train()
    gradients = StepGradients(learner.method, learner.adapters, learner.micro_batches, 1.0)
    with current_listener.set_to(said):
        gradients(Step(tuple(range(12))), rows, [])
    return [p.grad for p in learner.adapters.trainable_parameters() if p.grad is not None], said


def test_the_steps_result_is_kept_to_1e_6(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(base={"quantization": "none"})
    expected, _ = gradients_of_a_step(recipe, room=10**9)
    actual, said = gradients_of_a_step(recipe, room=100)
    assert len(said.lines) >= 1
    for one, other in zip(actual, expected, strict=True):
        assert float((one - other).abs().max()) <= 1e-6 * max(1.0, float(other.abs().max()))


def test_a_row_that_does_not_fit_alone_is_an_error_that_says_what_to_do(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(base={"quantization": "none"})
    with pytest.raises(UserError, match=r"single row of .* tokens: lower data"):
        gradients_of_a_step(recipe, room=5)


def test_other_errors_are_not_swallowed() -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatches(100).fit(fail, [10], lambda: None)


def test_random_numbers_are_drawn_again() -> None:
    drawn: list[float] = []

    def step() -> float:
        drawn.append(float(torch.rand(())))
        if len(drawn) == 1:
            raise torch.OutOfMemoryError("full")
        return drawn[-1]

    MicroBatches(100).fit(step, [10, 10], lambda: None)
    assert drawn[0] == drawn[1]
