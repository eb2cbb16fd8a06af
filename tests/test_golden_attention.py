"""SEEKR against numbers of the official code: what a task says of its heads, the heads, the losses, their gradients.

The method itself runs, on a stand-in for the adapters: the models of the sequence are states of one tiny Llama.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from seekr_lite.attention.importance import accumulated_importance
from seekr_lite.attention.tap import tap
from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods.memory import ReplayRow
from seekr_lite.methods.method import LossTerm, ReplayBatch, StepTotals
from seekr_lite.methods.seekr import Seekr
from seekr_lite.recipe import MethodSettings

GOLDEN = Path(__file__).parents[1] / ".." / "shared" / "golden"
FOLDERS = ["mha_full", "gqa_full", "mha_query_budget", "mha_padded", "gqa_two_tasks"]
TOLERANCE = 1e-4
SHAPE_KEYS = (
    "vocab_size",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "pad_token_id",
)

State = dict[str, torch.Tensor]


class StateSequence:
    """Does for the method what `AdapterSequence` does, with whole states in place of adapters."""

    teacher_rank = 1

    def __init__(self, model: LlamaForCausalLM, before: State, teachers: list[State]) -> None:
        self.model = model
        self.base = SimpleNamespace(
            model=model, device=torch.device("cpu"), tokenizer=SimpleNamespace(pad_token_id=model.config.pad_token_id)
        )
        self.before = before
        self.teachers = teachers
        self.student = before

    def become(self, student: State) -> None:
        self.student = student
        self.model.load_state_dict(student)

    @contextmanager
    def acting_as(self, index: int | None, slot_rank: int | None = None) -> Iterator[None]:
        self.model.load_state_dict(self.before if index is None else self.teachers[index])
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.load_state_dict(self.student)


class SeekrWithQueries(Seekr):
    """Compares the query rows that the official run compared."""

    drawn: list[list[list[int]]]  # by task and sample

    def _queries(self, task: int, sample: int, tokens: int) -> list[int] | None:
        return self.drawn[task][sample]


@dataclass
class Case:
    """One folder: what is expected, and the method after its tasks ended, ready to train the student."""

    expected: dict[str, Any]
    tasks: list[dict[str, Any]]
    method: SeekrWithQueries
    rows: list[ReplayRow]

    def terms(self, rows: slice = slice(None)) -> dict[str, LossTerm]:
        """The terms of one step that replays all samples of all tasks; or the share of some rows in them."""
        totals = StepTotals(
            label_tokens=sum(row.encoded.answer_length for row in self.rows),
            rows=len(self.rows),
            tasks=frozenset(row.task for row in self.rows),
        )
        chosen = self.rows[rows]
        batch = collate([row.encoded for row in chosen], self.method.model.config.pad_token_id)
        with tap(self.method.model):
            return {term.name: term for term in self.method.replay_loss(ReplayBatch(batch, chosen), totals)}

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        names, parameters = zip(*self.method.model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        return {name: grad for name, grad in zip(names, gradients, strict=True) if grad is not None}


@pytest.fixture(scope="module", params=FOLDERS)
def case(request: pytest.FixtureRequest) -> Case:
    folder = GOLDEN / request.param
    if not (folder / "expected.json").exists():
        pytest.skip(f"../shared/golden/{request.param} is not here")
    expected = json.loads((folder / "expected.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    model = LlamaForCausalLM(
        LlamaConfig(**{key: config[key] for key in SHAPE_KEYS}, attn_implementation="sdpa", dtype="float32")
    )
    tasks = expected.get("tasks", [expected])
    teachers = ["teacher"] if len(tasks) == 1 else [f"teacher_{index}" for index in range(len(tasks))]
    sequence = StateSequence(
        model,
        load_file(folder / "before.safetensors"),
        [load_file(folder / f"{name}.safetensors") for name in teachers],
    )
    settings = MethodSettings(
        layer_budget=expected["layer_budget"],
        head_budget=expected["head_budget"],
        query_budget=expected["query_budget"] or "all",
        logits_positions="labels",
    )
    method = SeekrWithQueries(settings, sequence, seed=0)  # type: ignore[arg-type]
    samples = [
        [
            EncodedExample(tuple(ids), length)
            for ids, length in zip(task["sequences"], task["answer_lengths"], strict=True)
        ]
        for task in tasks
    ]
    method.drawn = [
        task.get("queries") or [list(range(len(sample.input_ids))) for sample in rows]
        for task, rows in zip(tasks, samples, strict=True)
    ]
    for index, rows in enumerate(samples):
        sequence.become(sequence.teachers[index])
        method.finish_task(index, rows)
    sequence.become(load_file(folder / "student.safetensors"))
    rows = [ReplayRow(task, i, row) for task, rows in enumerate(samples) for i, row in enumerate(rows)]
    return Case(expected, tasks, method, rows)


def assert_close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=TOLERANCE,
        atol=0,
    )


def assert_projections(case: Case, term: str, name: str) -> None:
    gradients = case.gradients(case.terms()[term].value)
    for parameter, expected in case.expected["grad_projections"][name].items():
        gradient = gradients[parameter].double().flatten()
        direction = torch.cos(0.7 * torch.arange(len(gradient), dtype=torch.float64) + 0.3)
        error = abs(float(gradient @ direction) - expected)
        # Where the product all but cancels, fp32 leaves an error that goes with the lengths, not with the result.
        cancelled = 1e-6 * float(gradient.norm() * direction.norm())
        assert error <= max(TOLERANCE * abs(expected), cancelled), f"{parameter}: off by {error}, expected {expected}"


def test_sensitivity(case: Case) -> None:
    for scores, task in zip(case.method.scores, case.tasks, strict=True):
        assert_close(scores.sensitivity, task["sensitivity"])


def test_forgettability(case: Case) -> None:
    for scores, task in zip(case.method.scores, case.tasks, strict=True):
        assert_close(scores.forgettability, task["forgettability"])


def test_importance(case: Case) -> None:
    for scores, task in zip(case.method.scores, case.tasks, strict=True):
        assert_close(scores.importance, task.get("importance", task.get("importance_sum_of_products")))


def test_importance_as_product_of_sums(case: Case) -> None:
    if len(case.tasks) == 1:
        pytest.skip("one task: both ways to accumulate are the same")
    sensitivities = [scores.sensitivity for scores in case.method.scores]
    forgettabilities = [scores.forgettability for scores in case.method.scores]
    for count, task in enumerate(case.tasks, start=1):
        assert_close(
            accumulated_importance(sensitivities[:count], forgettabilities[:count], "product_of_sums"),
            task["importance_product_of_sums"],
        )


def test_selected_heads(case: Case) -> None:
    for chosen, task in zip(case.method.chosen, case.tasks, strict=True):
        expected = [(int(layer), head) for layer, heads in task["selected_heads"].items() for head in heads]
        assert list(chosen) == sorted(expected)


def test_replay_loss(case: Case) -> None:
    assert_close(case.terms()["replay_cross_entropy"].value, case.expected["replay_loss"])


def test_logits_distillation(case: Case) -> None:
    assert_close(case.terms()["logits_distillation"].value, case.expected["logits_distill_loss"])


def test_attention_distillation(case: Case) -> None:
    assert_close(case.terms()["attention_distillation"].value, case.expected["attn_distill_loss"])


def test_attention_distillation_of_each_layer(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = case.method.chosen
    for layer, expected in case.expected["attn_distill_loss_per_layer"].items():
        of_layer = [tuple(head for head in heads if head[0] == int(layer)) for heads in chosen]
        monkeypatch.setattr(case.method, "chosen", of_layer)
        assert_close(case.terms()["attention_distillation"].value, expected)


def test_one_row_at_a_time_adds_up(case: Case) -> None:
    parts = [case.terms(slice(index, index + 1)) for index in range(len(case.rows))]
    assert_close(sum(part["replay_cross_entropy"].value for part in parts), case.expected["replay_loss"])
    assert_close(sum(part["logits_distillation"].value for part in parts), case.expected["logits_distill_loss"])
    assert_close(sum(part["attention_distillation"].value for part in parts), case.expected["attn_distill_loss"])


def test_total_loss(case: Case) -> None:
    assert_close(sum(term.weight * term.value for term in case.terms().values()), case.expected["total_loss"])


def test_gradient_norms_of_the_total(case: Case) -> None:
    if "grad_norms_total" not in case.expected:
        pytest.skip("this folder has projections only")
    gradients = case.gradients(sum(term.weight * term.value for term in case.terms().values()))
    for parameter, expected in case.expected["grad_norms_total"].items():
        assert_close(gradients[parameter].norm(), expected)


def test_gradient_norms_of_attention_alone(case: Case) -> None:
    if "grad_norms_attn_only" not in case.expected:
        pytest.skip("this folder has projections only")
    gradients = case.gradients(case.terms()["attention_distillation"].value)
    for parameter, expected in case.expected["grad_norms_attn_only"].items():
        assert_close(gradients[parameter].norm(), expected)


def test_gradient_of_replay(case: Case) -> None:
    assert_projections(case, "replay_cross_entropy", "replay")


def test_gradient_of_logits_distillation(case: Case) -> None:
    assert_projections(case, "logits_distillation", "logits")


def test_gradient_of_attention_distillation(case: Case) -> None:
    assert_projections(case, "attention_distillation", "attention")
