"""EWC, LwF and O-LoRA: their losses against values computed another way; that they hold, resume and load."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import two_toy_tasks
from test_resume import CutAfter, PowerCut
from test_run import artefacts

import seekr_lite as sl
from seekr_lite.common.progress import Listener
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample, encode_task_rows
from seekr_lite.methods.ewc import ElasticWeightConsolidation, with_mean_one
from seekr_lite.methods.lwf import LearningWithoutForgetting
from seekr_lite.methods.method import StepTotals
from seekr_lite.methods.olora import OrthogonalLora
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.training.learner import Learner

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()


@pytest.fixture
def small_recipe(tmp_path: Path) -> MakeRecipe:
    """Two toy tasks on a base that is not quantised, which is faster."""
    return partial(two_toy_tasks, tmp_path / "run", base={"quantization": "none"})


def after_one_task(recipe: Recipe) -> tuple[Learner, list[EncodedExample]]:
    """A learner that has learned the first task and starts the second; and rows of the second."""
    from seekr_lite.data.readers import load_tasks

    first, second = load_tasks(recipe.data)
    learner = Learner(recipe)
    learner.learn(first)
    learner.adapters.start_task()
    learner.method.prepare_task(1)
    return learner, encode_task_rows(learner.base.tokenizer, second.train[:4], recipe.data)


def batch_of(learner: Learner, rows: list[EncodedExample]) -> tuple[Batch, StepTotals]:
    batch = collate(rows, learner.base.tokenizer.pad_token_id)
    return batch, StepTotals(sum(row.answer_length for row in rows), len(rows))


def logits_of(learner: Learner, batch: Batch) -> torch.Tensor:
    """Logits that predict each answer token: `[tokens, vocabulary]`, by the plain forward of transformers."""
    output = learner.adapters.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    )
    return output.logits[:, :-1][batch.labels[:, 1:] != -100].float()  # type: ignore[no-any-return]


def shift(learner: Learner) -> None:
    """Moves the student a little, so that it differs from the adapter before."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, weight in sorted(learner.adapters.student.items()):
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))


# ---------------------------------------------------------------------- EWC


def test_the_gradient_of_ewc_is_strength_times_fisher_times_the_way_moved(small_recipe: MakeRecipe) -> None:
    options = {"strength": 30.0, "fisher_rows": 8}
    learner, rows = after_one_task(small_recipe(method={"name": "ewc", "options": options}))
    method = learner.method
    assert isinstance(method, ElasticWeightConsolidation)
    old = learner.adapters.snapshots[0].weights
    shift(learner)
    term = method.new_task_loss(*batch_of(learner, rows))[1]
    student = learner.adapters.student
    gradients = torch.autograd.grad(term.value * term.weight, list(student.values()))
    for (name, weight), gradient in zip(student.items(), gradients, strict=True):
        expected = 30.0 * method.by_task[0][name] * (weight.detach() - old[name])
        torch.testing.assert_close(gradient, expected)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0


def test_the_fisher_information_is_the_mean_square_gradient_of_each_row_scaled_to_a_mean_of_one(
    small_recipe: MakeRecipe,
) -> None:
    learner, rows = after_one_task(small_recipe(method={"name": "ewc"}))
    method = learner.method
    assert isinstance(method, ElasticWeightConsolidation)
    method.by_task.clear()
    method.review_task(0, rows)
    student = learner.adapters.student
    total = {name: torch.zeros_like(weight) for name, weight in student.items()}
    for row in rows:  # by the plain forward, without our losses
        batch, _ = batch_of(learner, [row])
        labels = batch.labels[batch.labels != -100]
        loss = torch.nn.functional.cross_entropy(logits_of(learner, batch), labels, reduction="sum")
        for name, gradient in zip(student, torch.autograd.grad(loss, list(student.values())), strict=True):
            total[name] += gradient.square()
    mean = torch.cat([tensor.flatten() for tensor in total.values()]).double().mean()
    for name, tensor in method.by_task[0].items():
        torch.testing.assert_close(tensor, (total[name] / mean).float(), rtol=1e-3, atol=1e-3)


def test_fisher_information_adds_up_over_tasks_which_count_alike_however_long_their_answers(
    small_recipe: MakeRecipe,
) -> None:
    learner, rows = after_one_task(small_recipe(method={"name": "ewc", "options": {"decay": 0.5}}))
    method = learner.method
    assert isinstance(method, ElasticWeightConsolidation)
    first = method.by_task[0]
    long = [replace(row, answer_length=len(row.input_ids) - 1) for row in rows]
    method.review_task(1, long)
    unscaled = method._mean_square_gradients(long)
    added = {name: tensor - 0.5 * first[name] for name, tensor in method.by_task[1].items()}
    for fisher in (first, added):
        assert float(torch.cat([tensor.flatten() for tensor in fisher.values()]).double().mean()) == pytest.approx(1.0)
    ratios = torch.cat([(added[name] / unscaled[name])[unscaled[name] > 1e-6] for name in added])
    assert float(ratios.max() / ratios.min()) == pytest.approx(1.0, rel=0.05)


def test_a_task_without_any_gradient_holds_nothing() -> None:
    nothing = {"weight": torch.zeros(2, 3)}
    torch.testing.assert_close(with_mean_one(nothing), nothing)


def test_ewc_holds_the_adapter_where_it_was(small_recipe: MakeRecipe) -> None:
    def moved(strength: float) -> float:
        recipe = small_recipe(method={"name": "ewc", "options": {"strength": strength, "fisher_rows": 8}})
        run = sl.run(recipe, output=Path(str(recipe.run.output)).with_name(f"run-{strength}"), listener=QUIET)
        first, second = (run.folder.load_snapshot(index).weights for index in (0, 1))
        fisher, _ = run.folder.load_state(0, "fisher")
        return float(sum((fisher[name] * (second[name] - first[name]).square()).sum() for name in first))

    assert moved(1e7) < 0.5 * moved(0.0)


# ---------------------------------------------------------------------- LwF


def test_lwf_distils_the_old_adapter_on_new_rows(small_recipe: MakeRecipe) -> None:
    options = {"strength": 0.7, "temperature": 3.0}
    learner, rows = after_one_task(small_recipe(method={"name": "lwf", "options": options}))
    assert isinstance(learner.method, LearningWithoutForgetting)
    batch, totals = batch_of(learner, rows)
    learner.adapters.model.eval()
    with torch.no_grad():
        old = logits_of(learner, batch)  # the student starts where the adapter before ended
    shift(learner)
    cross_entropy, distillation = learner.method.new_task_loss(batch, totals)
    new = logits_of(learner, batch)
    expected = -((old / 3.0).softmax(-1) * (new / 3.0).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(distillation.value, expected, rtol=1e-4, atol=1e-5)
    assert distillation.weight == pytest.approx(0.7 * 9)
    labels = batch.labels[batch.labels != -100]
    torch.testing.assert_close(
        cross_entropy.value, torch.nn.functional.cross_entropy(new, labels), rtol=1e-4, atol=1e-5
    )


# ---------------------------------------------------------------------- O-LoRA


def test_the_overlap_of_olora_is_that_of_every_pair_of_rows_and_not_zero(small_recipe: MakeRecipe) -> None:
    learner, rows = after_one_task(small_recipe(method={"name": "olora"}))
    method = learner.method
    assert isinstance(method, OrthogonalLora)
    old, student = learner.adapters.snapshots[0].weights, learner.adapters.student
    by_layer = []
    for name in old:
        if ".lora_A." in name:
            pairs = [abs(float(a @ b)) for a in old[name] for b in student[name].detach()]
            by_layer.append(sum(pairs))
    expected = sum(by_layer) / len(by_layer)
    assert expected > 0.1
    term = method.new_task_loss(*batch_of(learner, rows))[1]
    assert float(term.value.detach()) == pytest.approx(expected, rel=1e-4)
    student_a = [weight for name, weight in student.items() if ".lora_A." in name]
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(term.value, student_a))


@pytest.mark.parametrize("name", ["ewc", "olora"])
def test_the_plan_knows_what_a_method_holds_beside_its_adapters(name: str, small_recipe: MakeRecipe) -> None:
    learner, _ = after_one_task(small_recipe(method={"name": name}))
    student = sum(parameter.nbytes for parameter in learner.adapters.trainable_parameters())
    parts = [value for value in vars(learner.method).values() if isinstance(value, dict)]
    held = sum(part.nbytes for values in parts for part in values.values() if isinstance(part, torch.Tensor))
    assert learner.method.copies_on_device(2) == pytest.approx(held / student, rel=0.2)


def test_olora_stacks_whatever_the_recipe_says_and_becomes_more_orthogonal(small_recipe: MakeRecipe) -> None:
    def overlap(strength: float) -> float:
        recipe = small_recipe(method={"name": "olora", "options": {"strength": strength}}, train={"epochs": 4})
        run = sl.run(recipe, output=Path(str(recipe.run.output)).with_name(f"run-{strength}"), listener=QUIET)
        last = run.folder.load_snapshot(1)
        assert last.rank == 2 * recipe.adapter.rank
        rows = [w.chunk(2) for name, w in last.weights.items() if ".lora_A." in name]
        return float(sum((one @ two.T).abs().sum() for one, two in rows))

    assert overlap(1.0) < 0.7 * overlap(0.0)


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["ewc", "lwf", "olora"])
def test_the_micro_batches_do_not_matter(name: str, small_recipe: MakeRecipe) -> None:
    learner, rows = after_one_task(small_recipe(method={"name": name}))
    shift(learner)
    totals = batch_of(learner, rows)[1]

    def loss(groups: list[list[EncodedExample]]) -> float:
        terms = [t for group in groups for t in learner.method.new_task_loss(batch_of(learner, group)[0], totals)]
        return float(sum(term.weight * term.value.detach() for term in terms))

    assert loss([rows]) == pytest.approx(loss([rows[:1], rows[1:]]), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "term"), [("ewc", "weight_consolidation"), ("lwf", "old_adapter_distillation"), ("olora", "orthogonality")]
)
def test_a_power_cut_changes_nothing_and_the_model_loads(
    name: str, term: str, small_recipe: MakeRecipe, tmp_path: Path
) -> None:
    options = {"fisher_rows": 8} if name == "ewc" else {}
    recipe = small_recipe(method={"name": name, "options": options}, run={"checkpoint_steps": 1})
    whole = sl.run(recipe, output=tmp_path / "whole", listener=QUIET)
    with pytest.raises(PowerCut):
        sl.run(recipe, output=tmp_path / "cut", listener=CutAfter(3))  # inside the second task
    resumed = sl.run(recipe, output=tmp_path / "cut", listener=QUIET)
    assert artefacts(resumed.path) == artefacts(whole.path)
    logged = [json.loads(line) for line in (whole.path / "log.jsonl").read_text().splitlines()]
    steps = [event for event in logged if event["event"] == "step"]
    assert [term in step for step in steps] == [False, False, True, True]  # something holds the first task
    predicted = whole.folder.load_predictions(1, "shade")[0]
    assert whole.load_model().generate(predicted.prompt) == predicted.prediction


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"method": {"name": "ewc"}, "adapter": {"growth": "stack"}}, 'the method "ewc" works on "continue" only'),
        ({"method": {"name": "ewc", "options": {"strength": -1.0}}}, "allowed are 0 to 1e"),
        ({"method": {"name": "lwf", "options": {"temprature": 1.0}}}, 'did you mean "temperature"'),
    ],
)
def test_what_a_method_cannot_do_is_refused_first(
    sections: dict[str, Any], message: str, small_recipe: MakeRecipe
) -> None:
    recipe = small_recipe(**sections)
    with pytest.raises(sl.UserError, match=message):
        sl.run(recipe, listener=QUIET)
    assert not Path(str(recipe.run.output)).exists()
