"""A folder of official numbers, ready for our code: `expected.json` and the states of one small Llama.

The method itself runs, on a stand-in for the adapters: the models of the sequence are states of that Llama.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from seekr_lite.attention.tap import tap
from seekr_lite.common.errors import UserError
from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.evaluation.generate import mean_answer_nll
from seekr_lite.methods.method import LossTerm, ReplayBatch, StepTotals
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.methods.seekr import Seekr
from seekr_lite.recipe.recipe import MethodSettings

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

# What of `expected.json` is read, not computed.
GIVEN = {"sequences", "answer_lengths", "query_budget", "queries", "layer_budget", "head_budget", "kind"}


State = dict[str, torch.Tensor]


class StateSequence:
    """Does for the method what `AdapterSequence` does, with whole states in place of adapters."""

    teacher_rank = 1

    def __init__(self, model: LlamaForCausalLM, before: State, teachers: list[State]) -> None:
        self.model = model
        tokenizer = SimpleNamespace(pad_token_id=model.config.pad_token_id)
        self.base = SimpleNamespace(model=model, device=torch.device("cpu"), tokenizer=tokenizer)
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

    drawn: list[list[list[int] | None]]  # by task and sample

    def _queries(self, task: int, sample: int, tokens: int) -> list[int] | None:
        return self.drawn[task][sample]


class Case:
    """One folder: what is expected, and the method after its tasks ended, ready to train the student."""

    def __init__(self, folder: Path) -> None:
        self.expected = read_json(folder / "expected.json")
        self.tasks: list[dict[str, Any]] = self.expected.get("tasks", [self.expected])
        check_whole_numbers(self.expected, folder / "expected.json")
        config = read_json(folder / "config.json")
        model = LlamaForCausalLM(
            LlamaConfig(**{key: config[key] for key in SHAPE_KEYS}, attn_implementation="sdpa", dtype="float32")
        ).eval()
        count = len(self.tasks)
        teachers = ["teacher"] if "tasks" not in self.expected else [f"teacher_{index}" for index in range(count)]
        self.sequence = StateSequence(
            model,
            load_file(folder / "before.safetensors"),
            [load_file(folder / f"{name}.safetensors") for name in teachers],
        )
        settings = MethodSettings(
            name="seekr-paper",
            layer_budget=self.expected["layer_budget"],
            head_budget=self.expected["head_budget"],
            query_budget=self.expected["query_budget"] or "all",
            logits_positions="labels",
        )
        self.method = SeekrWithQueries(settings, self.sequence, seed=0)  # type: ignore[arg-type]
        self.samples = [
            [
                EncodedExample(tuple(ids), length)
                for ids, length in zip(task["sequences"], task["answer_lengths"], strict=True)
            ]
            for task in self.tasks
        ]
        self.method.drawn = [task.get("queries", [None] * len(task["sequences"])) for task in self.tasks]
        self.teacher_losses: list[float | None] = []
        for index, rows in enumerate(self.samples):
            self.sequence.become(self.sequence.teachers[index])
            self.method.finish_task(index, rows)
            self.teacher_losses += [mean_answer_nll(model, [row], config["pad_token_id"], 1) for row in rows]
        self.sequence.become(load_file(folder / "student.safetensors"))
        self.rows = [ReplayRow(task, i, row) for task, rows in enumerate(self.samples) for i, row in enumerate(rows)]

    def terms(self, rows: slice = slice(None)) -> dict[str, LossTerm]:
        """The terms of one step that replays all samples of all tasks; or the share of some rows in them."""
        totals = StepTotals(
            label_tokens=sum(row.encoded.answer_length for row in self.rows),
            rows=len(self.rows),
            tasks=frozenset(row.task for row in self.rows),
        )
        chosen = self.rows[rows]
        batch = collate([row.encoded for row in chosen], self.sequence.base.tokenizer.pad_token_id)
        with tap(self.sequence.model):
            return {term.name: term for term in self.method.replay_loss(ReplayBatch(batch, chosen), totals)}

    def gradients(self, loss: torch.Tensor) -> State:
        names, parameters = zip(*self.sequence.model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        return {name: grad for name, grad in zip(names, gradients, strict=True) if grad is not None}

    def attention_of_layer(self, layer: int) -> float:
        """The attention term of one layer alone."""
        chosen = self.method.chosen
        self.method.chosen = [tuple(head for head in heads if head[0] == layer) for heads in chosen]
        try:
            return self.terms()["attention_distillation"].value.item()
        finally:
            self.method.chosen = chosen


def check_whole_numbers(expected: dict[str, Any], path: Path) -> None:
    """Raises `UserError` where a token, a position or a budget is no whole number."""

    def check(value: Any, where: str) -> None:
        if isinstance(value, list):
            for one in value:
                check(one, where)
        elif type(value) is not int:
            raise UserError(f"{path}: {where}: {value!r} is no whole number")

    for part in (expected, *expected.get("tasks", [])):
        for key in GIVEN - {"kind"}:
            if key in part:
                check(part[key], key)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
