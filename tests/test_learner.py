"""The training step: its result does not depend on micro-batches, and its weights are what the recipe says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import torch

import seekr_lite as sl
from seekr_lite.attention.tap import tap
from seekr_lite.common.progress import Listener
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.tasks import gather_tasks
from seekr_lite.training.learner import Learner
from seekr_lite.training.micro_batches import MicroBatches
from seekr_lite.training.optimizers import learning_rate_factor, make_optimizer, restored_state
from seekr_lite.training.replay_schedule import Step
from seekr_lite.training.step_gradients import StepGradients


def step_gradients(
    recipe: Recipe, last_step: Recipe | None = None, step: Step | None = None, replay_weight: float = 1.0
) -> list[torch.Tensor]:
    """Gradients of one step after two tasks, by default of six new rows and all old ones; `last_step` is its recipe."""
    learner = Learner(recipe)
    tasks = gather_tasks(recipe, None, ())
    for task in tasks:
        learner.learn(task)
    learner.recipe = last_step or recipe
    learner.adapters.start_task()
    rows = learner.encode(tasks[0].train[:6])
    old = learner.replay_rows()
    learner.adapters.model.train()
    with tap(learner.base.model):
        gradients = StepGradients(
            learner.method, learner.adapters, MicroBatches(learner.recipe.train.micro_batch_tokens), replay_weight
        )
        gradients(step or Step(tuple(range(6)), tuple(range(len(old)))), rows, old)
    return [parameter.grad for parameter in learner.adapters.trainable_parameters() if parameter.grad is not None]


@pytest.mark.parametrize("method", ["replay", "derpp", "seekr"])
def test_a_step_does_not_depend_on_micro_batches(method: str, small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(method={"name": method, "replay_fraction": 0.1}, base={"quantization": "none"})
    whole = step_gradients(recipe)
    learner_recipe = recipe.with_(train={"micro_batch_tokens": 12})
    # The sequence before the step must be the same, so only the last step is split.
    split = step_gradients(recipe, last_step=learner_recipe)
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "shares"), [(Step((0, 1, 2), (0, 1)), (3 / 3.5, 0.5 / 3.5)), (Step((), (0, 1)), (0, 0.25))]
)
def test_a_replay_row_weighs_what_the_recipe_says(
    step: Step, shares: tuple[float, float], small_recipe: Callable[..., Recipe]
) -> None:
    recipe = small_recipe(method={"name": "replay", "replay_fraction": 0.1}, base={"quantization": "none"})
    new = step_gradients(recipe, step=Step((0, 1, 2), ()))
    old = step_gradients(recipe, step=Step((), (0, 1)))
    for one, other, both in zip(new, old, step_gradients(recipe, step=step, replay_weight=0.25), strict=True):
        torch.testing.assert_close(both, shares[0] * one + shares[1] * other, rtol=1e-4, atol=1e-6)


def test_checkpointing_changes_nothing(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(base={"quantization": "none"})
    plain = step_gradients(recipe)
    checkpointed = step_gradients(recipe.with_(train={"checkpointing": True}))
    for one, other in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_methods_without_attention_run_on_any_kernel(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(method={"name": "derpp"}, base={"attention": "eager"})
    learner = Learner(recipe)
    assert learner.learn(gather_tasks(recipe, None, ())[0]).steps > 0


class Steps(Listener):
    """Keeps the events of optimizer steps."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def event(self, kind: str, **values: Any) -> None:
        if kind == "step":
            self.seen.append(values)


def test_the_log_says_how_hard_each_term_pulls(
    small_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norms are of weighted terms, and measuring them changes nothing."""
    adapters = []
    for every in (1, 10**9):
        monkeypatch.setattr("seekr_lite.training.learner.GRADIENT_NORMS_EVERY", every)
        steps = Steps()
        recipe = small_recipe()
        learner = Learner(recipe, listener=steps)
        for task in gather_tasks(recipe, None, ()):
            learner.learn(task)
        adapters.append(learner.adapters.snapshots[-1].weights)
        if every == 1:
            norms = [step["term_gradient_norms"] for step in steps.seen]
            assert set(norms[0]) == {"cross_entropy"}
            replayed = [one for one in norms if "attention_distillation" in one]
            assert replayed
            assert all(norm > 0 for one in norms for norm in one.values())
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())


def test_a_loss_that_is_not_finite_stops_with_a_reason(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(method={"name": "sequential"})
    learner = Learner(recipe)
    with torch.no_grad():
        next(iter(learner.base.model.parameters())).fill_(float("nan"))
    with pytest.raises(sl.UserError, match="not finite"):
        learner.learn(gather_tasks(recipe, None, ())[0])


@pytest.mark.parametrize("method", ["sequential", "isolated"])
def test_another_task_is_tested_by_its_own_rows(method: str, small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(method={"name": method}, train={"epochs": 1})
    learner, (first, _) = Learner(recipe), gather_tasks(recipe, None, ())
    learner.learn(first)
    other = replace(first, test=first.test[:2])
    assert len(learner.test(0, 0).predictions) == len(first.test)
    assert len(learner.test(0, 0, other).predictions) == 2
    assert len(learner.test(0, 0).predictions) == len(first.test)


def test_a_task_with_an_adapter_of_its_own_is_tested_once(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(method={"name": "isolated"}, train={"epochs": 1})
    learner = Learner(recipe)
    for task in gather_tasks(recipe, None, ()):
        learner.learn(task)
    assert learner.test(0, 0) is learner.test(0, 1)


def test_a_learner_does_not_hold_on_to_predictions(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(method={"name": "sequential"}, train={"epochs": 1})
    learner = Learner(recipe)
    learner.learn(gather_tasks(recipe, None, ())[0])
    result = ref(learner.test(0, 0))
    assert result() is None


def test_a_joint_method_learns_once(small_recipe: Callable[..., Recipe]) -> None:
    recipe = small_recipe(method={"name": "joint"}, train={"epochs": 1})
    learner, (first, second) = Learner(recipe), gather_tasks(recipe, None, ())
    learner.learn(first)
    with pytest.raises(sl.UserError, match="learns all tasks at once, and this learner has learned already"):
        learner.learn(second)


@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
def test_a_paged_optimizer_goes_on_in_memory_that_it_pages(name: str, small_recipe: Callable[..., Recipe]) -> None:
    """bitsandbytes marks what it pages on the tensor; here, without a card, the mark alone stands for it."""
    settings = small_recipe(train={"optimizer": name}).train
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 8192))
    parameter.grad = torch.ones_like(parameter)
    optimizer = make_optimizer([parameter], settings)
    optimizer.step()

    class PagesOnTheHost(type(optimizer)):  # type: ignore[misc]
        def get_state_buffer(self, parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            buffer = super().get_state_buffer(parameter, dtype)
            buffer.is_paged = True
            return buffer

    resumed = PagesOnTheHost([parameter], lr=settings.learning_rate)
    for key, saved in optimizer.state[parameter].items():
        if isinstance(saved, torch.Tensor):
            restored = restored_state(resumed, parameter, key, saved)
            assert torch.equal(restored, saved)
            assert getattr(restored, "is_paged", False) == (key in ("state1", "state2"))


def test_learning_rate_warms_up_and_follows_the_schedule() -> None:
    assert [learning_rate_factor(step, 10, 0.2, "constant") for step in range(3)] == [0.5, 1.0, 1.0]
    assert learning_rate_factor(5, 10, 0.0, "linear") == pytest.approx(0.5)
    assert learning_rate_factor(5, 10, 0.0, "cosine") == pytest.approx(0.5)
