"""What a replay step costs does not grow with the number of tasks (`growth = "continue"`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seekr_lite.attention.tap import tap
from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods.method import ReplayBatch, StepTotals
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.methods.seekr import Seekr
from seekr_lite.model.base import load_base
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.model.snapshots import Snapshot
from seekr_lite.recipe.recipe import AdapterSettings, BaseSettings, MethodSettings


class CountOperations(TorchDispatchMode):
    """Counts every operation by its name and the shapes of its result."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else [result]
        self.operations[f"{func} {[tuple(one.shape) for one in results if isinstance(one, torch.Tensor)]}"] += 1
        return result


ROW = EncodedExample(tuple(range(5, 25)), 4)


def method_after(tasks: int, growth: str) -> Seekr:
    """SEEKR with so many finished tasks, whose adapters differ."""
    base = load_base(BaseSettings(model="tiny", quantization="nf4", device="cpu"))
    adapters = AdapterSequence(base, AdapterSettings(rank=4, growth=growth), seed=0)  # type: ignore[arg-type]
    method = Seekr(MethodSettings(), adapters, seed=0)
    adapters.start_task()
    for task in range(tasks):
        snapshot = adapters.finish_task()
        torch.manual_seed(task)
        noisy = {name: weight + 0.01 * torch.randn_like(weight) for name, weight in snapshot.weights.items()}
        adapters.snapshots[-1] = replace(snapshot, weights=noisy)
        method.chosen.append(((0, 1), (1, 2)))
        adapters.start_task()
    return method


def replay_step(method: Seekr, tasks: tuple[int, ...]) -> None:
    rows = [ReplayRow(task, 0, ROW) for task in tasks]
    batch = collate([row.encoded for row in rows], 0)
    with tap(method.adapters.base.model):
        terms = method.replay_loss(ReplayBatch(batch, rows), StepTotals(4 * len(rows), len(rows), frozenset(tasks)))
        torch.stack([term.weight * term.value for term in terms]).sum().backward()


def device_bytes(method: Seekr) -> int:
    """Of everything that lives where the model lives; snapshots are host copies."""
    tensors = [*method.model.parameters(), *method.model.buffers()]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def cost_of_a_step(tasks: int, growth: str = "continue") -> tuple[Counter[str], int]:
    method = method_after(tasks, growth)
    rows = (0, tasks - 1)
    replay_step(method, rows)  # the slot is made at the first step
    with CountOperations() as counted:
        replay_step(method, rows)
    return counted.operations, device_bytes(method)


def test_a_replay_step_costs_the_same_after_40_tasks_as_after_2() -> None:
    few_operations, few_bytes = cost_of_a_step(2)
    many_operations, many_bytes = cost_of_a_step(40)
    assert sum(few_operations.values()) > 100
    assert many_operations == few_operations
    assert many_bytes == few_bytes


def test_stacked_adapters_do_cost_more() -> None:
    """So the count can fail."""
    few_operations, few_bytes = cost_of_a_step(2, "stack")
    many_operations, many_bytes = cost_of_a_step(6, "stack")
    assert many_operations != few_operations
    assert many_bytes > few_bytes


@pytest.mark.parametrize("growth", ["continue", "stack"])
def test_a_replay_step_leaves_the_student_and_its_optimizer_as_they_were(growth: str) -> None:
    method = method_after(3, growth)
    parameters = method.adapters.trainable_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    values = [parameter.detach().clone() for parameter in parameters]
    before: list[Snapshot] = list(method.adapters.snapshots)
    replay_step(method, (0, 1, 2))
    assert all(a is b for a, b in zip(parameters, optimizer.param_groups[0]["params"], strict=True))
    assert all(a is b for a, b in zip(parameters, method.adapters.trainable_parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(parameters, values, strict=True))
    assert all(parameter.requires_grad for parameter in parameters)
    others = [p for p in method.model.parameters() if not any(p is parameter for parameter in parameters)]
    assert not any(parameter.requires_grad for parameter in others)
    assert all(parameter.grad is None for parameter in others)
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in parameters)
    assert method.adapters.snapshots == before
