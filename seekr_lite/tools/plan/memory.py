"""Memory of every phase, by formula: what is alive at the peak of a step, from the sizes of the base and the rows.

Legend: r rows, n tokens of a row, t = r n; h hidden size, f width of the MLP, q = heads x size of a head, v vocabulary;
e bytes of a number as it is computed in. Norms, softmax and losses compute in fp32 at least: `exact` bytes a number.

The terms follow the product's own steps (`StepGradients`, the methods, `greedy_answers`) and transformers' layers; they
are compared with measured peaks in tests/test_plan_memory.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from seekr_lite.attention.maps import CHUNK_ROWS
from seekr_lite.attention.selection import resolve_budgets
from seekr_lite.common.errors import UserError
from seekr_lite.methods.registry import method_class
from seekr_lite.model.losses import CHUNK_TOKENS
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan.shapes import CODE_8BIT, NESTED_BLOCK, BaseShape

SMALLEST_8BIT = 4096  # elements; bitsandbytes keeps smaller tensors' moments in fp32
NUMBER_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
PROMPT_TOKENS = 2048  # `greedy.PROMPT_TOKENS`, which would bring transformers along; a test compares them


@dataclass(frozen=True)
class RowLength:
    """Tokens of a row as the model reads it: prompt, and answer with its end token."""

    prompt: int
    answer: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.answer


@dataclass(frozen=True)
class Sizes:
    """How large the longest steps are: tasks of the sequence, the longest row, and rows at once in each phase
    (replay 0: nothing is replayed). in_front: tokens that the method puts in front of a row."""

    tasks: int
    length: RowLength
    train: int
    replay: int
    held_out: int
    generation: int
    in_front: int = 0


@dataclass(frozen=True)
class AdapterBytes:
    """Adapters on the device. student: the one that learns, of so many weights, and its gradients as much again;
    optimizer: its moments; others: the slot through which old adapters act, and with `growth = "stack"` the frozen sum,
    while a task is learned and after it."""

    weights: int
    student: int
    optimizer: int
    others: int
    others_after: int


@dataclass(frozen=True)
class StepBytes:
    """What a step takes above what stays: held for the backward pass, and whatever else is alive at the peak."""

    saved: float
    working: float


# ---------------------------------------------------------------------- what stays


def trained_tensors(recipe: Recipe, shape: BaseShape) -> list[int]:
    """Numbers of each tensor of the student. Raises `UserError` where nothing of the base is to be adapted."""
    method = method_class(recipe.method.name)
    if not method.extra_tokens(recipe):
        return [recipe.adapter.rank * side for name in adapted_layers(recipe, shape) for side in shape.weights[name]]
    # A soft prompt is made by the method itself, in front of a base of embeddings without memory.
    model: Any = torch.nn.Module()
    table = torch.nn.Embedding(shape.vocabulary, shape.hidden, device="meta")
    model.get_input_embeddings = lambda: table
    base: Any = SimpleNamespace(model=model, device=torch.device("meta"), tokenizer=None)
    return [parameter.numel() for parameter in method.make_adapters(base, recipe).trainable_parameters()]


def adapted_layers(recipe: Recipe, shape: BaseShape) -> list[str]:
    """Names of the weights beside which LoRA's matrices stand, as PEFT chooses them."""
    targets = recipe.adapter.targets
    if targets == "all-linear":
        return sorted(shape.linear)
    if targets == "attention":
        from seekr_lite.model.lora import ATTENTION_PROJECTIONS

        targets = ATTENTION_PROJECTIONS
    ends = tuple(f".{target}.weight" for target in targets)
    found = sorted(name for name, size in shape.weights.items() if len(size) == 2 and f".{name}".endswith(ends))
    if not found:
        raise UserError(f"adapter.targets {recipe.adapter.targets!r}: this base has no layers of such names")
    return found


def adapter_bytes(recipe: Recipe, shape: BaseShape, tasks: int) -> AdapterBytes:
    """Exactly, in the last task of a sequence of so many: all snapshots are there, a stacked one is at its largest."""
    method, tensors = method_class(recipe.method.name), trained_tensors(recipe, shape)
    number = NUMBER_BYTES[recipe.adapter.dtype]
    student = number * sum(tensors)
    stacked = (method.growth or recipe.adapter.growth) == "stack" and method.starts_from_previous
    # The slot holds the largest snapshot; stacked ones have the rank of all tasks so far, beside their frozen sum.
    before, after = (tasks - 1, tasks) if stacked else (min(tasks - 1, 1), 1)
    frozen = tasks - 1 if stacked else 0
    lora = 0 if method.extra_tokens(recipe) else student  # vectors of a soft prompt act without a slot
    copies = round(method.copies_on_device(tasks) * student)
    return AdapterBytes(
        weights=sum(tensors),
        student=student,
        optimizer=optimizer_bytes(tensors, recipe.train.optimizer, number),
        others=lora * (before + frozen) + copies,
        others_after=lora * (after + frozen) + copies,
    )


def optimizer_bytes(tensors: list[int], optimizer: str, number: int) -> int:
    """Bytes of the optimizer's state: two moments a weight.

    torch's AdamW keeps them in the weight's own precision; bitsandbytes in fp32, or in bytes with a scale for each
    block of 256 and two code tables. Paged ones count in full: they leave the card only where it is full.
    """
    if optimizer == "adamw":
        return 2 * number * sum(tensors)
    if not optimizer.endswith("_8bit"):
        return 2 * 4 * sum(tensors)
    small = sum(2 * 4 * size for size in tensors if size < SMALLEST_8BIT)
    large = sum(2 * (size + 4 * -(-size // NESTED_BLOCK)) for size in tensors if size >= SMALLEST_8BIT)
    return small + large + (2 * CODE_8BIT if large else 0)


# ---------------------------------------------------------------------- what comes and goes


class StepMemory:
    """Bytes of the longest steps of each phase, for any number of rows."""

    def __init__(self, recipe: Recipe, shape: BaseShape, dtype: str, sizes: Sizes) -> None:
        self.recipe, self.shape, self.sizes = recipe, shape, sizes
        self.method = method_class(recipe.method.name)
        self.number = NUMBER_BYTES[dtype]
        self.exact = max(4, self.number)
        self.half = dtype == "float16"  # LoRA's matrices then work in fp32, on a copy of what comes into each
        self.kept = self.exact if self.half else self.number  # gradients of an adapted layer's states
        self.adapters = adapter_bytes(recipe, shape, sizes.tasks)
        self.tokens = sizes.length.tokens + sizes.in_front  # n
        self.attention = shape.heads * shape.head_size  # q
        self.held = held_heads(recipe, shape) if sizes.tasks > 1 else 0
        lora = not self.method.extra_tokens(recipe)
        self.adapted = [shape.weights[name] for name in adapted_layers(recipe, shape)] if lora else []

    def steps(self, phase: str, rows: int) -> Iterator[StepBytes]:
        """The steps of a phase, the larger of which is its peak."""
        match phase:
            case "train":
                yield self.train(rows)
            case "replay":
                yield self.replay(rows) if self.method.teaches_old_rows else self.train(rows)
            case "scoring":
                yield self.sensitivity()
                yield self.change_of_maps()
            case "validation":
                yield StepBytes(0, max(self.forward(rows, self.tokens), self.loss(rows, gradient=False)))
            case "generation":
                yield self.generation(rows)

    # ------------------------------------------------------------------ one layer

    def states(self, rows: int) -> int:
        """Hidden states of all tokens, t h e."""
        return rows * self.tokens * self.shape.hidden * self.number

    def layer(self, rows: int) -> float:
        """What autograd holds of a layer."""
        shape, t = self.shape, rows * self.tokens
        norms = 2 * t * shape.hidden * self.exact  # what goes in, in fp32
        if any(".q_norm." in name for name in shape.weights):  # queries and keys have norms of their own
            norms += t * (shape.heads + shape.key_heads) * shape.head_size * self.exact
        # Queries, keys, values (keys and values repeated to all heads) and the output; where rows are padded, the mask
        # as numbers [r, n, n], which each layer makes anew.
        attention = 4 * t * self.attention * self.number + (t * self.tokens * self.number if rows > 1 else 0)
        gated = 3 * t * shape.mlp * self.number  # gate, its activation, up; their product is what comes into `down`
        return norms + attention + gated + self.adapters_of_layer(t)

    def adapters_of_layer(self, t: int) -> float:
        """What LoRA's matrices hold: what comes into them; with dropout what is left of it, and which numbers these
        are, for each matrix."""
        if not self.adapted:
            return 0
        shape = self.shape
        into_each = t * sum(size[1] for size in self.adapted) / shape.layers
        dropped = into_each * (self.number + 1) if self.recipe.adapter.dropout else 0
        if self.half:
            return into_each * self.exact + dropped
        into_attention = any(size[1] == shape.hidden and size[0] != shape.mlp for size in self.adapted)
        into_mlp = (shape.mlp, shape.hidden) in self.adapted
        into_down = (shape.hidden, shape.mlp) in self.adapted
        return t * self.number * (shape.hidden * (into_attention + into_mlp) + shape.mlp * into_down) + dropped

    def transients(self, rows: int) -> float:
        """Alive beside what is held, inside the backward pass of a layer: the gradient of the hidden states, and three
        times that of the MLP's widest states; with an adapter once in place of what came into `down`. Int8 products
        take 16 bytes a number more (sums of int32, and halves; seen on a CPU)."""
        wide = (2 if self.adapted else 3) * self.kept + 16 * (self.recipe.base.quantization == "int8")
        return self.states(rows) + wide * rows * self.tokens * self.shape.mlp

    def forward(self, rows: int, tokens: int) -> float:
        """Alive at most in a pass without gradients: the MLP's gate with the layer's and the adapter's up, and their
        sum; the hidden states, normed ones, and both again."""
        wide = 4 if self.adapted else 3
        return rows * tokens * self.number * (wide * self.shape.mlp + 4 * self.shape.hidden)

    # ------------------------------------------------------------------ the loss

    def answers(self, rows: int) -> int:
        """Hidden states of the answers."""
        return rows * (self.sizes.length.answer + 1) * self.shape.hidden * self.number

    def loss(self, rows: int, gradient: bool = True, teacher: bool = False) -> float:
        """One chunk of logits in fp32: they and their log-softmax or, in the backward pass, this and the gradients of
        both; and a teacher's softmax."""
        chunk = min(CHUNK_TOKENS, rows * self.sizes.length.answer)
        return (2 + gradient + teacher) * self.exact * chunk * self.shape.vocabulary + self.answers(rows)

    # ------------------------------------------------------------------ steps while a task is learned

    def graph(self, rows: int) -> float:
        """What autograd holds of a pass: each layer, or what comes into it where it is computed again; the last norm;
        the answers' hidden states and the gradients that the loss took along."""
        per_layer = self.states(rows) if self.recipe.train.checkpointing else self.layer(rows)
        last_norm = rows * self.tokens * self.shape.hidden * self.exact
        return self.shape.layers * per_layer + last_norm + 2 * self.answers(rows)

    def again(self, rows: int) -> float:
        """What the backward pass of a layer takes: the layer, computed again where it was not held."""
        return (self.layer(rows) if self.recipe.train.checkpointing else 0) + self.transients(rows)

    def train(self, rows: int) -> StepBytes:
        """A micro-batch of new rows, in a step that logs gradient norms: then the gradients of one term are gathered
        beside the student's own, while the whole graph stays."""
        saved = self.graph(rows) * self.method.trainings_of_a_new_row
        if self.method.teaches_new_rows:
            saved += 3 * self.answers(rows)  # the teacher's, twice, and the gradient of a second loss
        backward = self.again(rows) + self.adapters.student
        return StepBytes(saved, max(backward, self.loss(rows, teacher=self.method.teaches_new_rows)))

    def replay(self, rows: int) -> StepBytes:
        """A micro-batch of old rows of one task: its teacher has the whole batch to itself. All its heads in as few
        layers as can hold them, which takes most."""
        shape = self.shape
        budget = self.recipe.method.query_budget
        queries = self.tokens if budget == "all" else min(budget, self.tokens)
        numbers = rows * (queries + self.tokens) * shape.head_size  # queries and keys of one head
        in_layer = min(self.held, shape.heads)
        held = self.held * numbers
        saved = self.graph(rows) + self.answers(rows) + held * self.kept
        loss = self.loss(rows, teacher=True) + 2 * held * self.number  # of teacher and student
        # Queries and keys of both in fp32 and the student's gradients, of one layer; four maps of a chunk of queries.
        maps = 4 * rows * in_layer * min(CHUNK_ROWS, queries) * self.tokens
        divergence = 2 * held * self.number + self.exact * (3 * in_layer * numbers + maps)
        backward = self.again(rows)
        if self.held:
            # Gradients wait for their layers; each layer takes its heads anew. The norm of the attention term alone
            # reaches a layer's queries and keys; what was computed again of its rest waits for the next pass.
            backward += self.layer(rows) if self.recipe.train.checkpointing else 0
            backward += held * self.number + 2 * in_layer * numbers * self.number
        else:
            backward += self.adapters.student
        return StepBytes(saved, max(backward, loss, divergence))

    # ------------------------------------------------------------------ steps after a task

    def sensitivity(self) -> StepBytes:
        """Scoring, first half: a pass of one row with gradients, which are not the student's."""
        return StepBytes(self.graph(1), max(self.again(1), self.loss(1)))

    def change_of_maps(self) -> StepBytes:
        """Scoring, second half: queries and keys of all heads in the model before; beside them, layer by layer, those
        of the model now; keys in fp32, and three maps of a chunk of queries."""
        shape = self.shape
        budget = self.recipe.method.query_budget
        queries = self.tokens if budget == "all" else min(budget, self.tokens)
        recorded = (queries + self.tokens) * self.attention * self.number
        maps = self.exact * shape.heads * self.tokens * (3 * min(CHUNK_ROWS, queries) + shape.head_size)
        layer = self.tokens * self.number * (4 * self.attention + 3 * shape.hidden)
        return StepBytes(0, shape.layers * recorded + max(recorded + maps + layer, self.forward(1, self.tokens)))

    def generation(self, rows: int) -> StepBytes:
        """Prompts are read in groups beside the keys and values of all; these then get room for the answers, a layer at
        a time; each token is written beside the keys and values of all tokens, of which a layer may be copied."""
        shape = self.shape
        prompt = self.sizes.length.prompt + self.sizes.in_front
        room = prompt + self.recipe.data.max_answer_tokens
        cached = 2 * rows * shape.key_heads * shape.head_size * self.number  # keys and values of a token, in a layer
        at_once = rows if shape.windowed else prompts_at_once(rows, prompt)
        reading = shape.layers * cached * prompt + self.forward(at_once, prompt)
        writing = (shape.layers + 1) * cached * room + self.forward(rows, 1)
        logits = rows * shape.vocabulary * (self.number + self.exact)
        return StepBytes(0, max(reading, writing) + logits)


def prompts_at_once(rows: int, tokens: int) -> int:
    """How many of these prompts are read together."""
    return max(1, min(rows, PROMPT_TOKENS // tokens))


def held_heads(recipe: Recipe, shape: BaseShape) -> int:
    """Heads that are held for each task: 0 of a method that scores none."""
    if not method_class(recipe.method.name).looks_into_attention:
        return 0
    budget = resolve_budgets(recipe.method, shape.layers, shape.heads)[1]
    return shape.layers * shape.heads if recipe.method.selection == "all" else budget
