"""Training rows a second: ours beside the ordinary way, transformers' Trainer with PEFT and bitsandbytes.

    python benchmarks/train_throughput.py --model models/smollm2-135m-instruct --data FOLDER/OF/TRACE
    python benchmarks/train_throughput.py --shape meta-llama/Llama-2-7b-chat-hf ...   # on a GPU
    python benchmarks/train_throughput.py --quick --json      # the built-in base and toy tasks, to see that it runs

--shape takes a base of these sizes with random weights in NF4, and --model for its tokenizer only.

The tasks are trained one after another, as a run trains them, on the same share of the rows of each: their real
proportions and lengths. All ways have the same NF4 base, dtype, adapter, AdamW, learning rate, clipping, checkpointing,
rows per optimizer step, and room for the same padded tokens in a micro-batch (theirs: so many rows of the longest).

- ordinary: rows in order, padded to the longest of a micro-batch;
- ordinary, grouped by length: its `train_sampling_strategy = "group_by_length"`;
- ordinary, padding-free: its `DataCollatorWithFlattening`, one long row with position ids;
- ours; and ours with one lever taken away each: the output layer on answers only; micro-batches of the least padding;
  the adapter's products in the base's dtype (PEFT's are in the adapter's, so the ordinary way's are, too).

Repeats take turns; figures are medians. On a CPU the speedup is also given by CPU time, which other work on the machine
does not stretch. Levers and the padding-free way are run once; that way is slow without a kernel that knows where rows
end (flash attention has one, CPUs do not). The loss of the first rows of each task, by an adapter of random weights,
must agree between ordinary and ours to 1e-3 in float32; how far they are apart as trained is said, too: in bfloat16,
padding moves where sums are rounded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import QUICKSTART, ROOT, benchmark_parser, publish
from seekr_lite.common.memory import free_memory
from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import EncodedExample, encode_task_rows
from seekr_lite.data.task import Task
from seekr_lite.data.trace import TRACE_TASKS
from seekr_lite.methods.method import StepTotals
from seekr_lite.model import answer_states
from seekr_lite.model.answer_states import AnswerStates
from seekr_lite.model.base import Base, choose_device, choose_dtype, load_base, load_tokenizer
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.tasks import gather_tasks
from seekr_lite.tools.plan.measure import random_base
from seekr_lite.tools.plan.shapes import model_config
from seekr_lite.training.learner import Learner
from seekr_lite.training.micro_batches import MicroBatches

LIMITS: dict[str, Any] = {  # the paper's
    "max_prompt_tokens": 1024,
    "max_answer_tokens": 512,
    "train_limit": None,
    "validation_rows": 0,
}
PADDING_FREE = "ordinary, padding-free"
MICRO_ROWS = 4  # of the ordinary way; ours has room for as many tokens as so many of the longest rows


# ---------------------------------------------------------------------- ours


@dataclass(frozen=True)
class Training:
    """What all ways train: a recipe on tasks; shape: of a base with random weights, None for the recipe's own."""

    recipe: Recipe
    tasks: Sequence[Task]
    shape: str | None

    def base(self) -> Base:
        """Loaded anew, without adapters."""
        settings = self.recipe.base
        if self.shape is None:
            return load_base(settings)
        tokenizer, device = load_tokenizer(settings), choose_device(settings.device)
        config = model_config(settings.model_copy(update={"model": self.shape}))
        config.vocab_size = len(tokenizer)
        base = random_base(config, self.recipe, choose_dtype(settings.dtype, device), device)
        return Base(base.model, tokenizer, self.shape)


class Times(NamedTuple):
    """Seconds on the clock, once a GPU has done what it was given, and seconds of CPU time of all threads."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> Times:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: Times) -> Times:
        return Times(self.clock - start.clock, self.cpu - start.cpu)


def train_ours(training: Training) -> Times:
    """The time of one pass over all tasks."""
    learner = Learner(training.recipe, training.base())
    started = Times.now()
    for task in training.tasks:
        learner.learn(task)
    return Times.now().since(started)


@contextmanager
def all_logits() -> Iterator[None]:
    """The output layer runs on every position, and makes whole logits."""

    def states(model: Any, batch: Any, recorder: Any = None, positions: Any = None, inputs_embeds: Any = None) -> Any:
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).logits
        kept = answer_states.answer_span(batch) + 1
        return AnswerStates(logits[:, logits.shape[1] - kept :], lambda made: made)

    with patch("seekr_lite.model.losses.answer_states", states):
        yield


@contextmanager
def rows_as_they_come() -> Iterator[None]:
    """Micro-batches of MICRO_ROWS rows in the order of the step."""

    def split(self: MicroBatches, lengths: Sequence[int]) -> list[list[int]]:
        order = list(range(len(lengths)))
        return [order[first : first + MICRO_ROWS] for first in range(0, len(order), MICRO_ROWS)]

    with patch.object(MicroBatches, "split", split):
        yield


@contextmanager
def adapters_as_peft_makes_them() -> Iterator[None]:
    """What comes in is cast to the dtype of LoRA's matrices."""
    with patch("seekr_lite.model.lora.apply_in_dtype_of_input", lambda layers, adapter: None):
        yield


LEVERS: dict[str, Callable[[], AbstractContextManager[None]]] = {  # ours without one lever each
    "ours, output layer on all positions": all_logits,
    "ours, micro-batches as rows come": rows_as_they_come,
    "ours, adapter applied in its own dtype": adapters_as_peft_makes_them,
}


# ---------------------------------------------------------------------- the ordinary way


def train_ordinary(training: Training, sampling: str, padding_free: bool) -> Times:
    """The time of one pass over all tasks by transformers' Trainer, on the same base and adapter."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

    base, recipe = training.base(), training.recipe
    with adapters_as_peft_makes_them():
        adapters = AdapterSequence(base, recipe.adapter, recipe.run.seed)  # PEFT's model, with our start of the adapter
    adapters.start_task()
    tokenizer: Any = base.tokenizer
    collator = DataCollatorWithFlattening() if padding_free else DataCollatorForSeq2Seq(tokenizer)
    started = Times.now()
    for stage, task in enumerate(training.tasks):
        rows = encode_task_rows(tokenizer, task.train, recipe.data)
        trainer = make_trainer(base, adapters.model, recipe, in_our_order(rows, recipe, stage), collator, sampling)
        trainer.train()
    return Times.now().since(started)


def make_trainer(base: Base, model: Any, recipe: Recipe, rows: Any, collator: Any, sampling: str) -> Any:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    settings = recipe.train
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=MICRO_ROWS,
        gradient_accumulation_steps=settings.batch_size // MICRO_ROWS,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip_norm,
        optim="adamw_torch",
        activation_checkpointing=settings.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        train_sampling_strategy=sampling,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=base.device.type == "cpu",
        remove_unused_columns=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    return trainer


def in_our_order(rows: Sequence[EncodedExample], recipe: Recipe, stage: int) -> list[dict[str, Any]]:
    """Rows as the Trainer takes them, in the order in which ours meets them, so that steps hold the same rows."""
    from seekr_lite.common.seeds import generator_for
    from seekr_lite.training.replay_schedule import plan_epoch

    order = generator_for(recipe.run.seed, "order", stage)
    steps = plan_epoch(len(rows), recipe.train.batch_size, 0, 1.0, False, order)
    chosen = [rows[index] for step in steps for index in step.new]
    return [
        {
            "input_ids": list(row.input_ids),
            "labels": [-100] * (len(row.input_ids) - row.answer_length)
            + list(row.input_ids[len(row.input_ids) - row.answer_length :]),
        }
        for row in chosen
    ]


# ---------------------------------------------------------------------- measuring


@torch.no_grad()
def first_losses(training: Training) -> dict[str, tuple[float, float]]:
    """By task the loss of its first rows, ordinary and ours, by the same adapter."""
    from transformers import DataCollatorForSeq2Seq

    recipe = training.recipe
    learner = Learner(recipe, training.base())
    learner.adapters.start_task()
    torch.manual_seed(0)
    for parameter in learner.adapters.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.02)  # LoRA's own start does nothing
    tokenizer: Any = learner.base.tokenizer
    collator, found = DataCollatorForSeq2Seq(tokenizer), {}
    for task in training.tasks:
        rows = encode_task_rows(tokenizer, task.train[: recipe.train.batch_size], recipe.data)
        theirs = in_our_order(rows, recipe, 0)
        trainer = make_trainer(learner.base, learner.adapters.model, recipe, theirs, collator, "sequential")
        tokens = sum(row.answer_length for row in rows)
        ordinary = sum(
            float(loss_of(trainer, collator(theirs[first : first + MICRO_ROWS]), tokens))
            for first in range(0, len(theirs), MICRO_ROWS)
        )
        totals, ours = StepTotals(tokens, len(rows)), 0.0
        for group in learner.micro_batches.split([len(row.input_ids) for row in rows]):
            batch = collate([rows[index] for index in group], tokenizer.pad_token_id).to(learner.base.device)
            ours += sum(float(term.value) for term in learner.method.new_task_loss(batch, totals))
        found[task.name] = (ordinary, ours)
    return found


def loss_of(trainer: Any, batch: Any, tokens: int) -> torch.Tensor:
    """The Trainer's own loss of a micro-batch of a step with so many answer tokens."""
    loss: torch.Tensor = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch), False, tokens)
    return loss


def ways(training: Training, levers: bool, padding_free: bool) -> dict[str, Callable[[], Times]]:
    def without(lever: Callable[[], AbstractContextManager[None]]) -> Times:
        with lever():
            return train_ours(training)

    found: dict[str, Callable[[], Times]] = {
        "ours": lambda: train_ours(training),
        "ordinary": lambda: train_ordinary(training, "sequential", padding_free=False),
        "ordinary, grouped by length": lambda: train_ordinary(training, "group_by_length", padding_free=False),
    }
    if padding_free:
        found[PADDING_FREE] = lambda: train_ordinary(training, "sequential", padding_free=True)
    if levers:
        found |= {name: partial(without, lever) for name, lever in LEVERS.items()}
    return found


def measure(training: Training, repeats: int, levers: bool, padding_free: bool) -> dict[str, Any]:
    recipe, tasks = training.recipe, training.tasks
    exact = recipe.with_(base={"dtype": "float32"})
    losses = {"float32": first_losses(replace(training, recipe=exact)), "as trained": first_losses(training)}
    times: dict[str, list[Times]] = {}
    for repeat in range(repeats):
        for name, train in ways(training, levers, padding_free).items():
            if repeat and name in (PADDING_FREE, *LEVERS):
                continue
            times.setdefault(name, []).append(train())
            free_memory()
            last = times[name][-1]
            print(f"{name}: {last.clock:.1f} s, {last.cpu:.1f} s of CPU time", file=sys.stderr)
    return {
        "rows": {task.name: len(task.train) for task in tasks},
        "batch_size": recipe.train.batch_size,
        "micro_rows_of_the_ordinary_way": MICRO_ROWS,
        "micro_batch_tokens_of_ours": recipe.train.micro_batch_tokens,
        "checkpointing": recipe.train.checkpointing,
        "dtype": recipe.base.dtype,
        "shape": training.shape or Path(recipe.base.model).name,
        "adapter": recipe.adapter.model_dump(),
        "ways": compared(times, sum(len(task.train) for task in tasks)),
        "first_losses_ordinary_and_ours": losses,
        "largest_difference_of_a_first_loss": {
            dtype: max(abs(one - other) / abs(one) for one, other in of.values()) for dtype, of in losses.items()
        },
    }


def compared(times: dict[str, list[Times]], rows: int) -> list[dict[str, Any]]:
    """speedup: over the ordinary way. gain: of the lever that is taken away. Both over the same repeats: a way that was
    run in the first repeats only is compared with those alone."""
    clock = {name: [one.clock for one in them] for name, them in times.items()}
    cpu = {name: [one.cpu for one in them] for name, them in times.items()}
    return [
        {
            "name": name,
            "seconds": seconds,
            "cpu_seconds": cpu[name],
            "rows_per_second": rows / median(seconds),
            "speedup": median(clock["ordinary"][: len(seconds)]) / median(seconds),
            "cpu_speedup": median(cpu["ordinary"][: len(seconds)]) / median(cpu[name]),
            "gain": median(seconds) / median(clock["ours"][: len(seconds)]) if name in LEVERS else None,
        }
        for name, seconds in clock.items()
    ]


def recipe_for(options: argparse.Namespace) -> Recipe:
    """The toy tasks on the built-in base, or TRACE with the paper's limits, trained as all ways train."""
    if options.quick:
        recipe, longest = Recipe.from_toml(QUICKSTART), 32
    else:
        recipe = Recipe.from_toml(ROOT / "recipes" / "smollm2-trace.toml").with_(
            base={"model": options.model}, data={"path": options.data, "tasks": tuple(TRACE_TASKS), **LIMITS}
        )
        longest = LIMITS["max_prompt_tokens"] + LIMITS["max_answer_tokens"]
    train: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 8 if options.quick else options.batch_size,
        "micro_batch_tokens": MICRO_ROWS * longest,
        "checkpointing": options.checkpointing and not options.quick,
        "schedule": "constant",
        "warmup": 0.0,
    }
    if options.shape:  # nothing is to be learned on random weights, but they could run away
        train["learning_rate"] = 1e-5
    return recipe.with_(train=train, method={"name": "sequential"})


def share_of(task: Task, share: float, batch_size: int) -> Task:
    """The first rows of a task: a share of them, rounded to whole optimizer steps."""
    steps = max(1, round(len(task.train) * share / batch_size))
    return replace(task, train=task.train[: steps * batch_size])


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--model", default=str(ROOT / "models" / "smollm2-135m-instruct"))
    parser.add_argument("--shape", metavar="NAME", help="random weights of these sizes: a base that plan knows")
    parser.add_argument("--data", default=str(ROOT / "data" / "TRACE-Benchmark" / "LLM-CL-Benchmark_Reasoning"))
    parser.add_argument("--share", type=float, default=0.02, help="share of each task's rows")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-levers", action="store_true", help="skip ours without each lever")
    parser.add_argument("--no-padding-free", action="store_true", help="skip the padding-free way, slow on a CPU")
    parser.add_argument("--quick", action="store_true", help="the built-in base and toy tasks")
    options = parser.parse_args()
    recipe = recipe_for(options)
    share = 0.08 if options.quick else options.share
    tasks = [share_of(task, share, recipe.train.batch_size) for task in gather_tasks(recipe, None, ())]
    training = Training(recipe, tasks, options.shape)
    publish(options, measure(training, options.repeats, not options.no_levers, not options.no_padding_free))


if __name__ == "__main__":
    main()
