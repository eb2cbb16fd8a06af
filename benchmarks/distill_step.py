"""What attention distillation costs, and what it costs the official way.

    python benchmarks/distill_step.py                       # CPU: 4 layers of Llama-2-7B's width (held: 3), minutes
    python benchmarks/distill_step.py --device cuda         # all 32 layers (SEEKR holds heads in 24), NF4
    python benchmarks/distill_step.py --quick --json        # toy shapes, to see that it runs

One run measures, for the same random model and the same row of tokens:

- the plain step: cross-entropy, forward and backward;
- our replay step: `Seekr.replay_loss` with its teacher pass, forward and backward;
- the official replay step (`official_attention.py`): eager attention where heads are chosen, teacher maps and logits
  from a cache, so no teacher pass;
- the attention term of one layer alone: ours, from queries and keys of both sides; the official one, which is what
  eager attention of all heads and the comparison cost more than sdpa;
- one scoring pass: sensitivity and forgettability of every head on one sample.

On a CPU the term of one layer is measured in float32: sdpa's backward pass in bfloat16 is so slow there that eager
attention costs hardly more, and their difference says nothing about the term. The official time also depends on the
allocator, by default its maps are fresh pages each time: MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ and
MALLOC_TOP_PAD_ of some GB in the environment keep them, and leave the arithmetic.

Time is the median of interleaved repeats. Saved bytes are what autograd holds between forward and backward: each
storage once, without the model's weights and without cached teacher maps; with checkpointing they are the layers'
inputs, and what a layer makes again shows in the peak only. Weights are random; one row, whose end is the answer.

What is official: its script runs without checkpointing (its own, re-entrant one would drop the gradient of the
attention loss), so "official replay" compares with "plain, no checkpointing"; "official replay, checkpointed" is the
best that can be made of it, which the official code does not have. Its teacher maps and logits lie on the device
already and logits are made for the answer only, where the code copies maps from the host and makes all logits; scores
and masks are in place. All of it is leaner than its code.

Legend: h heads, n tokens, d size of a head.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import benchmark_parser, device_name, publish
from benchmarks.official_attention import (
    ChosenHeads,
    OfficialDistillation,
    TeacherMaps,
    eager_attention,
    official_attention,
)
from seekr_lite.attention.divergence import attention_divergence
from seekr_lite.attention.maps import MapShape
from seekr_lite.attention.recording import HeadPairs, select_heads
from seekr_lite.attention.tap import AttentionCall, tap
from seekr_lite.common.memory import forget_peak, peak_memory
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods.head_scoring import head_forgettability, head_sensitivity
from seekr_lite.methods.method import ReplayBatch, StepTotals
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.methods.seekr import Seekr
from seekr_lite.model.answer_states import AnswerStates, answer_labels, answer_span
from seekr_lite.model.base import Base, checkpoint_activations
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.model.losses import cross_entropy_sum, soft_cross_entropy_sum
from seekr_lite.model.snapshots import SnapshotSequence
from seekr_lite.recipe.recipe import AdapterSettings, MethodSettings, Recipe
from seekr_lite.tools.plan.measure import random_base

SEED = 0
PAD = 0


@dataclass(frozen=True)
class Shape:
    """The model and the row. `held_layers` layers hold `held_heads` chosen heads each."""

    layers: int
    held_layers: int
    held_heads: int
    hidden: int = 4096
    heads: int = 32
    intermediate: int = 11008
    vocabulary: int = 32000
    tokens: tuple[int, ...] = (1024, 1536)
    answer_tokens: int = 128
    dtype: str = "bfloat16"
    term_dtype: str = "bfloat16"  # of the attention term of one layer

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


LLAMA_2_7B = Shape(layers=32, held_layers=24, held_heads=5)  # SEEKR's budgets: 24 layers, 128 heads
ON_CPU = Shape(layers=4, held_layers=3, held_heads=5, term_dtype="float32")  # the same share of layers
QUICK = Shape(2, 1, 2, hidden=64, heads=4, intermediate=96, vocabulary=64, tokens=(32, 48), answer_tokens=8)

Attention = Callable[[Any], AbstractContextManager[Any]]
Roots = list[tuple[torch.Tensor, torch.Tensor | None]]  # where the backward pass starts, and with which gradient


@dataclass(frozen=True)
class Case:
    """What is measured: `forward`, then the backward pass from its roots; `around` is entered beforehand, untimed."""

    name: str
    forward: Callable[[], Roots]
    around: Callable[[], AbstractContextManager[Any]]
    cached: Callable[[], Iterable[torch.Tensor]] = tuple  # what was there before, and is not counted as saved


@dataclass
class Measured:
    """Figures of a case. start_bytes and peak_bytes: CUDA, allocated; CPU, resident; None where not to be had."""

    seconds: list[float] = field(default_factory=list)
    saved_bytes: int = 0
    start_bytes: int | None = None
    peak_bytes: int | None = None
    failure: str | None = None

    def as_json(self) -> dict[str, Any]:
        median = statistics.median(self.seconds) if self.failure is None else None
        return {"median_seconds": median, **asdict(self)}


# ------------------------------------------------------------------ the model


def build_base(shape: Shape, device: torch.device, four_bit: bool) -> Base:
    """A Llama with random weights, in the shape's dtype or with its linear layers in NF4, frozen."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=max(shape.tokens),
        pad_token_id=PAD,
    )
    recipe = Recipe.from_dict(
        {
            "base": {"model": "random", "quantization": "nf4" if four_bit else "none"},
            "data": {"format": "toy", "tasks": ["shade"]},
        }
    )
    return random_base(config, recipe, getattr(torch, shape.dtype), device)


def build_method(base: Base, shape: Shape) -> Seekr:
    """SEEKR after one task: the snapshot is the teacher, the student has moved on, the held heads are given."""
    adapters = AdapterSequence(base, AdapterSettings(), SEED)
    adapters.start_task()
    perturb(adapters)
    adapters.finish_task()
    adapters.start_task()
    perturb(adapters)
    method = Seekr(MethodSettings(name="seekr-paper"), adapters, SEED)
    method.chosen = [held_heads(shape)]
    adapters.model.train()
    return method


@torch.no_grad()
def perturb(adapters: AdapterSequence) -> None:
    for parameter in adapters.trainable_parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.01)


def held_heads(shape: Shape) -> tuple[tuple[int, int], ...]:
    """The upper layers, and in each the lower heads: which ones does not matter for time."""
    layers = range(shape.layers - shape.held_layers, shape.layers)
    return tuple((layer, head) for layer in layers for head in range(shape.held_heads))


# ------------------------------------------------------------------ whole steps


def step_cases(method: Seekr, shape: Shape, tokens: int) -> list[Case]:
    """Plain, our and the official step, with gradient checkpointing on (the product's default) and off; scoring."""
    base = method.adapters.base
    ids = torch.randint(1, shape.vocabulary, (tokens,), generator=torch.Generator().manual_seed(SEED))
    row = EncodedExample(tuple(ids.tolist()), shape.answer_tokens)
    batch = collate([row], PAD).to(base.device)
    totals = StepTotals(shape.answer_tokens, rows=1, tasks=frozenset({0}))
    replay = ReplayBatch(batch, [ReplayRow(0, 0, row)])

    def plain() -> Roots:
        return [(sum_terms(method.new_task_loss(batch, totals)), None)]

    def ours() -> Roots:
        return [(sum_terms(method.replay_loss(replay, totals)), None)]

    chosen = ChosenHeads.of([method.chosen[0]], batch.attention_mask, base.model.dtype)
    teacher = TeacherMaps(chosen)
    with method.adapters.acting_as(0), official_attention(base.model):
        teacher_logits = official_logits(method, batch, teacher)

    def official() -> Roots:
        distillation = OfficialDistillation(chosen, teacher)
        logits = official_logits(method, batch, distillation)
        labels = answer_labels(batch, answer_span(batch))
        settings = method.settings
        soft = soft_cross_entropy_sum(logits, teacher_logits, labels, settings.logits_positions)
        terms = settings.cross_entropy_weight * cross_entropy_sum(logits, labels) + settings.logits_weight * soft
        return [(terms / totals.label_tokens + settings.attention_weight * distillation.loss(), None)]

    def scoring() -> Roots:
        head_sensitivity(method.adapters, [row])
        head_forgettability(method.adapters, [row], None, 0, [None])
        return []

    def around(checkpointing: bool, attention: Attention) -> Callable[[], AbstractContextManager[None]]:
        return partial(prepared, method.adapters, checkpointing, attention)

    return [
        Case("plain", plain, around(True, tap)),
        Case("our replay", ours, around(True, tap)),
        Case("official replay, checkpointed", official, around(True, official_attention), teacher.tensors),
        Case("plain, no checkpointing", plain, around(False, tap)),
        Case("our replay, no checkpointing", ours, around(False, tap)),
        Case("official replay", official, around(False, official_attention), teacher.tensors),
        Case("scoring of one sample", scoring, around(True, nullcontext)),  # it taps by itself
    ]


@contextmanager
def prepared(adapters: SnapshotSequence, checkpointing: bool, attention: Attention) -> Iterator[None]:
    """No gradients from before; gradient checkpointing on or off; the model attends in some way."""
    model = adapters.base.model
    for parameter in adapters.trainable_parameters():
        parameter.grad = None
    if checkpointing:
        checkpoint_activations(model)
    else:
        model.gradient_checkpointing_disable()
    with attention(model):
        yield


def official_logits(method: Seekr, batch: Batch, reader: TeacherMaps | OfficialDistillation) -> AnswerStates:
    """Logits of the answer positions only, as in our step, though the official code makes them all."""
    logits: torch.Tensor = method.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=answer_span(batch) + 1,
        use_cache=False,
        map_reader=reader,
    ).logits
    return AnswerStates(logits, lambda made: made)


def sum_terms(terms: Iterable[Any]) -> torch.Tensor:
    return torch.stack([term.weight * term.value for term in terms]).sum()


# ------------------------------------------------------------------ the attention term of one layer


def term_cases(shape: Shape, tokens: int, device: torch.device) -> list[Case]:
    """Ours; eager attention with the official comparison; sdpa, which the layer would run otherwise.

    All start at the layer's queries, keys and values `[1, h, n, d]` and end at their gradients.
    """
    generator = torch.Generator(device).manual_seed(SEED)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device).to(getattr(torch, shape.term_dtype))

    size = (1, shape.heads, tokens, shape.head_size)
    query, key, value = (normal(*size).requires_grad_() for _ in range(3))
    teacher_query, teacher_key = ((part + 0.1 * normal(*size)).detach() for part in (query, key))
    output_grad = normal(1, tokens, shape.heads, shape.head_size)
    scale = shape.head_size**-0.5
    heads = tuple((0, head) for head in range(shape.held_heads))
    rows = torch.zeros(shape.held_heads, dtype=torch.long, device=device)
    pairs = HeadPairs(rows, torch.arange(shape.held_heads, device=device))

    def recorded(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = select_heads(AttentionCall(0, query, key, value, output_grad, scale, None), pairs)
        return seen.query, seen.key

    old = recorded(teacher_query, teacher_key)
    map_shape = MapShape.of_all_rows(rows, tokens, scale)  # rows: no padding either

    def ours() -> Roots:
        return [(attention_divergence(*recorded(query, key), *old, map_shape).mean(), None)]

    real = torch.ones(1, tokens, dtype=torch.long, device=device)
    chosen = ChosenHeads.of([heads], real, query.dtype)
    teacher = TeacherMaps(chosen)
    teacher.read(0, eager_attention(teacher_query, teacher_key, value.detach(), chosen.mask, scale)[1])

    def official() -> Roots:
        distillation = OfficialDistillation(chosen, teacher)
        output, maps = eager_attention(query, key, value, chosen.mask, scale)
        distillation.read(0, maps)
        return [(output, output_grad), (distillation.loss(), None)]

    def sdpa() -> Roots:
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        return [(output.transpose(1, 2).contiguous(), output_grad)]

    def around() -> AbstractContextManager[Any]:
        for part in (query, key, value):
            part.grad = None
        return nullcontext()

    return [
        Case("attention term, ours", ours, around),
        Case("one layer, eager and official term", official, around, teacher.tensors),
        Case("one layer, sdpa", sdpa, around),
    ]


# ------------------------------------------------------------------ measuring


class Meter:
    """Measures cases on a device. The weights do not count among the saved bytes."""

    def __init__(self, device: torch.device, weights: Iterable[torch.Tensor]) -> None:
        self.device = device
        self.weights = {part.untyped_storage().data_ptr() for part in weights}

    def measure(self, cases: Sequence[Case], repeats: int) -> dict[str, Measured]:
        """A pass for memory, which warms up as well; then `repeats` passes in turn for time."""
        measured = {case.name: Measured() for case in cases}
        for case in cases:
            self._guarded(measured[case.name], partial(self._memory, case, measured[case.name]))
        for _ in range(repeats):
            for case in cases:
                self._guarded(measured[case.name], partial(self._time, case, measured[case.name]))
        return measured

    def _guarded(self, measured: Measured, run: Callable[[], None]) -> None:
        if measured.failure is None:
            try:
                run()
            except torch.OutOfMemoryError:
                measured.failure = "out of memory"
        gc.collect()
        if measured.failure is not None and self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _time(self, case: Case, measured: Measured) -> None:
        with case.around():
            self._wait()
            started = time.perf_counter()
            backward(case.forward())
            self._wait()
            measured.seconds.append(time.perf_counter() - started)

    def _memory(self, case: Case, measured: Measured) -> None:
        saved: dict[int, int] = {}
        ignored = self.weights | {part.untyped_storage().data_ptr() for part in case.cached()}

        def pack(part: torch.Tensor) -> torch.Tensor:
            storage = part.untyped_storage()
            if storage.data_ptr() not in ignored:
                saved[storage.data_ptr()] = storage.nbytes()
            return part

        with case.around():
            measured.start_bytes = start_peak(self.device)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
                roots = case.forward()
            if roots:  # scoring goes backward by itself
                measured.saved_bytes = sum(saved.values())
            backward(roots)
            self._wait()
            measured.peak_bytes = None if measured.start_bytes is None else peak_memory(self.device)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def backward(roots: Roots) -> None:
    if roots:
        tensors, gradients = zip(*roots, strict=True)
        torch.autograd.backward(tensors, gradients)  # type: ignore[no-untyped-call]


def start_peak(device: torch.device) -> int | None:
    """Forgets the peak so far; what is in use now."""
    gc.collect()
    if device.type != "cuda":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory goes back, or growth into it would not show
        except (OSError, AttributeError):  # not Linux, or not glibc
            return None
    if not forget_peak(device):
        return None
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # what is resident


# ------------------------------------------------------------------ the report


def ratios(measured: dict[str, Measured]) -> dict[str, float | None]:
    """What the figures come to; None where a part ran out of memory."""
    seconds = {name: statistics.median(of.seconds) for name, of in measured.items() if of.failure is None}
    saved = {name: float(of.saved_bytes) for name, of in measured.items() if of.failure is None}

    def ratio(above: Callable[[], float], below: Callable[[], float]) -> float | None:
        try:
            return above() / below()
        except KeyError:
            return None

    def slower(one: str, other: str) -> float | None:
        return ratio(lambda: seconds[one], lambda: seconds[other])

    def of_the_term(figures: dict[str, float]) -> float | None:
        """The official term is what eager attention and the comparison cost more than sdpa."""
        eager, sdpa, ours = "one layer, eager and official term", "one layer, sdpa", "attention term, ours"
        return ratio(lambda: figures[eager] - figures[sdpa], lambda: figures[ours])

    def beyond_plain(name: str) -> Callable[[], float]:
        return lambda: saved[name] - saved["plain, no checkpointing"]

    return {
        "our replay / plain": slower("our replay", "plain"),
        "official replay, checkpointed / plain": slower("official replay, checkpointed", "plain"),
        "our replay / plain, no checkpointing": slower("our replay, no checkpointing", "plain, no checkpointing"),
        "official replay / plain, no checkpointing": slower("official replay", "plain, no checkpointing"),
        "scoring of one sample / plain": slower("scoring of one sample", "plain"),
        "bytes beyond plain, no checkpointing: official / ours": ratio(
            beyond_plain("official replay"), beyond_plain("our replay, no checkpointing")
        ),
        "attention term: official bytes / ours": of_the_term(saved),
        "attention term: official time / ours": of_the_term(seconds),
    }


def caches(shape: Shape, tokens: int) -> dict[str, int]:
    """Bytes beside the saved ones: what the official way reads from its cache, what ours keeps during the forward."""
    heads = shape.held_layers * shape.held_heads
    size = getattr(torch, shape.dtype).itemsize
    return {
        "official teacher maps, per sample": heads * tokens**2 * size,
        "our recorded queries and keys, both sides": 4 * heads * tokens * shape.head_size * size,
    }


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="toy shapes")
    parser.add_argument("--tokens", type=int, nargs="+", help="lengths of the row, in place of the shape's own")
    parser.add_argument("--repeats", type=int, help="timed repeats of each step (the term's: three times as many)")
    options = parser.parse_args()
    device, cuda = torch.device(options.device), options.device == "cuda"
    shape = QUICK if options.quick else LLAMA_2_7B if cuda else ON_CPU
    method = build_method(build_base(shape, device, four_bit=cuda), shape)
    gc.freeze()  # what is there by now stays: collecting between passes need not look at it
    repeats = options.repeats or (2 if options.quick else 5 if cuda else 3)
    lengths = []
    for tokens in options.tokens or shape.tokens:
        print(f"{tokens} tokens ...", file=sys.stderr)
        meter = Meter(device, [*method.model.parameters(), *method.model.buffers()])
        measured = meter.measure(step_cases(method, shape, tokens), repeats)
        measured |= meter.measure(term_cases(shape, tokens, device), 3 * repeats)
        lengths.append(
            {
                "tokens": tokens,
                "cases": {name: of.as_json() for name, of in measured.items()},
                "ratios": ratios(measured),
                "caches": caches(shape, tokens),
            }
        )
    gc.unfreeze()
    result = {
        "device": device_name(device),
        "shape": {**asdict(shape), "tokens": list(options.tokens or shape.tokens)},
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        "base": "nf4" if cuda else shape.dtype,
        "adapter": AdapterSettings().model_dump(),
        "repeats": repeats,
        "lengths": lengths,
    }
    publish(options, result)


if __name__ == "__main__":
    main()
