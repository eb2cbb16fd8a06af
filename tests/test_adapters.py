"""The sequence of adapters: gradients reach the student alone, whatever acted in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from seekr_lite.common.errors import UserError
from seekr_lite.model.base import load_base, resolve_model
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.recipe.recipe import AdapterSettings, BaseSettings, Recipe
from seekr_lite.training.learner import Learner


def sequence(quantization: str = "none", growth: str = "continue") -> AdapterSequence:
    base = load_base(BaseSettings(model="tiny", quantization=quantization, device="cpu"))  # type: ignore[arg-type]
    return AdapterSequence(base, AdapterSettings(rank=4, alpha=8.0, growth=growth), seed=0)  # type: ignore[arg-type]


def disturb(adapters: AdapterSequence) -> None:
    """Stands for training: moves every weight of the student."""
    generator = torch.Generator().manual_seed(len(adapters.snapshots))
    with torch.no_grad():
        for parameter in adapters.trainable_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def logits(adapters: AdapterSequence) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = adapters.model(input_ids=torch.arange(10, 20)[None]).logits
    return found


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_embeddings_take_no_adapter() -> None:
    base = load_base(BaseSettings(model="tiny", quantization="none", device="cpu"))
    with pytest.raises(UserError, match="embeddings take no adapter"):
        AdapterSequence(base, AdapterSettings(targets=("embed_tokens", "q_proj")), seed=0)


@pytest.mark.parametrize("method", ["sequential", "pp"])
def test_an_adapter_names_its_base_and_the_pinned_revision(method: str, small_recipe: Callable[..., Recipe]) -> None:
    learner = Learner(small_recipe(method={"name": method}, base={"revision": "v1"}))
    learner.adapters.start_task(from_previous=True)
    learner.adapters.finish_task()
    config = learner.adapters.config_of(learner.adapters.snapshots[0])
    assert config["base_model_name_or_path"] == resolve_model("tiny")
    assert config["revision"] == "v1"


def test_acting_as_leaves_the_student_as_it_was() -> None:
    adapters = sequence()
    adapters.start_task()
    disturb(adapters)
    adapters.finish_task()
    adapters.start_task()
    parameters = adapters.trainable_parameters()
    adapters.model(input_ids=torch.arange(10, 20)[None]).logits.sum().backward()
    before = [(p, p.requires_grad, p.detach().clone(), p.grad.clone()) for p in parameters if p.grad is not None]
    for index in (0, None):
        with adapters.acting_as(index):
            logits(adapters)
    assert [p is q for p, q in zip(adapters.trainable_parameters(), parameters, strict=True)] == [True] * len(
        parameters
    )
    for parameter, requires_grad, value, grad in before:
        assert parameter.requires_grad == requires_grad
        assert torch.equal(parameter, value)
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, grad)


def test_only_the_student_has_gradients() -> None:
    adapters = sequence(growth="stack")
    for _ in range(2):
        adapters.start_task()
        disturb(adapters)
        adapters.finish_task()
    with adapters.acting_as(0):
        pass
    adapters.start_task()
    trainable = {id(p) for p in adapters.model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapters.trainable_parameters()}


@pytest.mark.parametrize("growth", ["continue", "stack"])
def test_a_snapshot_acts_as_the_student_did(growth: str) -> None:
    adapters = sequence(growth=growth)
    seen = []
    for _ in range(3):
        adapters.start_task()
        disturb(adapters)
        seen.append(logits(adapters))
        adapters.finish_task()
    for index, expected in enumerate(seen):
        with adapters.acting_as(index):
            torch.testing.assert_close(logits(adapters), expected)
        with adapters.acting_as(index, slot_rank=adapters.teacher_rank):
            torch.testing.assert_close(logits(adapters), expected)


def test_no_adapter_is_the_bare_base() -> None:
    base = load_base(BaseSettings(model="tiny", quantization="none", device="cpu"))
    with torch.no_grad():
        expected = base.model(input_ids=torch.arange(10, 20)[None]).logits.clone()
    adapters = AdapterSequence(base, AdapterSettings(rank=4, alpha=8.0), seed=0)
    disturb(adapters)
    with adapters.acting_as(None):
        assert torch.equal(logits(adapters), expected)


def test_gradients_on_four_bits_are_right_after_a_test() -> None:
    """bitsandbytes can repack 4-bit layers in eval mode on a CPU and lose their gradient."""
    grads = []
    for tested_before in (False, True):
        adapters = sequence("nf4")
        adapters.start_task()
        disturb(adapters)
        if tested_before:
            adapters.model.eval()
            logits(adapters)
        adapters.model.train()
        adapters.model(input_ids=torch.arange(10, 20)[None]).logits.square().mean().backward()
        grads.append([p.grad for p in adapters.trainable_parameters()])
    for fresh, tested in zip(*grads, strict=True):
        torch.testing.assert_close(fresh, tested)


@pytest.mark.parametrize("growth", ["continue", "stack"])
def test_adapters_in_bfloat16_stay_so_wherever_they_act(growth: str) -> None:
    base = load_base(BaseSettings(model="tiny", quantization="nf4", device="cpu", dtype="bfloat16"))
    settings = AdapterSettings(rank=4, growth=growth, dtype="bfloat16")  # type: ignore[arg-type]
    adapters = AdapterSequence(base, settings, seed=0)
    for _ in range(2):
        adapters.start_task()
        disturb(adapters)
        adapters.finish_task()
    adapters.start_task()
    with adapters.acting_as(0, slot_rank=adapters.teacher_rank):
        logits(adapters)
    lora = [parameter for name, parameter in adapters.model.named_parameters() if ".lora_" in name]
    assert {parameter.dtype for parameter in lora} == {torch.bfloat16}
    assert {tensor.dtype for tensor in adapters.snapshots[-1].weights.values()} == {torch.bfloat16}
