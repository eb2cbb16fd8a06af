"""How fast tests are answered: our evaluation engine beside plain `model.generate` in data order at batch 16.

    python benchmarks/evaluate_throughput.py --model FOLDER --data FOLDER [--adapter FOLDER]
    python benchmarks/evaluate_throughput.py --quick --json        # toy rows on the tiny base, to see that it runs

Both ways answer the same test rows of all TRACE tasks, in one process, with the same 4-bit base, adapter and limits,
in turns. By default ours gets the memory of the plain way: its batches hold at most 16 rows of the longest kind; what
more memory gives, --our-rows tells. Without --adapter a joint one is trained first on a few rows of every task.

In bf16 rounding decides between tokens that are all but equally likely, and padding shifts where sums are rounded. Ours
pads to whole vectors of 16 tokens, which shifts less; the plain way pads to its longest row. --control runs the
plain way padded as ours is, too: that tells what comes of the padding alone, and what of the engine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import benchmark_parser, in_turns, publish
from seekr_lite.data.encoding import EncodedExample, encode_prompts
from seekr_lite.data.readers import load_tasks
from seekr_lite.data.trace import TRACE_TASKS
from seekr_lite.evaluation.generate import generate, transformers_answers
from seekr_lite.evaluation.greedy import ALIGNED
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.training.learner import Learner

PLAIN_BATCH = 16


@dataclass(frozen=True)
class Examination:
    """A model with a trained adapter, and the prompts that both ways answer."""

    model: Any
    tokenizer: Any
    prompts: list[EncodedExample]
    max_new_tokens: int
    batch_tokens: int

    def plain(self, aligned: int = 1) -> list[str]:
        """The ordinary way: 16 rows at a time, as they come."""
        texts: list[str] = []
        for start in range(0, len(self.prompts), PLAIN_BATCH):
            batch = self.prompts[start : start + PLAIN_BATCH]
            ends = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
            answers = transformers_answers(self.model, batch, self.max_new_tokens, *ends, aligned=aligned)
            texts += self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return texts

    def ours(self) -> list[str]:
        by_row: dict[int, str] = {}
        for texts in generate(self.model, self.tokenizer, self.prompts, self.max_new_tokens, self.batch_tokens, {}):
            by_row |= texts
        return [by_row[row] for row in range(len(self.prompts))]


def prepare(recipe: Recipe, adapter: Path | None) -> Examination:
    """Loads the base, loads or trains the adapter, and encodes the test rows of all tasks, in data order."""
    tasks = load_tasks(recipe.data)
    learner = Learner(recipe)
    model, tokenizer, data = learner.adapters.model, learner.base.tokenizer, recipe.data
    if adapter is None:
        learner.learn(*tasks)
    else:
        model.load_adapter(str(adapter), "given")
        model.set_adapter("given")
    plain = data.model_copy(update={"chat_template": False})
    prompts = encode_prompts(tokenizer, [row.prompt for task in tasks for row in task.test], plain)
    return Examination(model.eval(), tokenizer, prompts, data.max_answer_tokens, recipe.evaluate.batch_tokens)


@dataclass(frozen=True)
class Answered:
    """The answers of one way, and the seconds of clock and CPU (of all threads) that they took."""

    texts: list[str]
    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.1f} s"


@torch.no_grad()
def timed(answer: Callable[[], list[str]]) -> Answered:
    started, cpu_started = time.perf_counter(), time.process_time()
    texts = answer()
    return Answered(texts, time.perf_counter() - started, time.process_time() - cpu_started)


def measure(examination: Examination, repeats: int, control: bool) -> dict[str, Any]:
    """Seconds of both ways, in turns, and how many of their answers are the same text."""
    ways: dict[str, Callable[[], list[str]]] = {"plain": examination.plain, "ours": examination.ours}
    if control:
        ways["plain, padded as ours"] = partial(examination.plain, ALIGNED)
    found = in_turns({name: partial(timed, answer) for name, answer in ways.items()}, repeats)
    seconds = {name: [one.clock for one in times] for name, times in found.items()}
    cpu_seconds = {name: [one.cpu for one in times] for name, times in found.items()}
    texts = {name: times[-1].texts for name, times in found.items()}
    rows = len(examination.prompts)
    lengths = [len(ids) for ids in examination.tokenizer(texts["plain"], add_special_tokens=False)["input_ids"]]
    return {
        "rows": rows,
        "prompt_tokens": sum(len(prompt.input_ids) for prompt in examination.prompts),
        "answer_tokens": sum(lengths),
        "answers_at_the_limit": sum(length >= examination.max_new_tokens for length in lengths),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # what other work on the machine does not stretch
        "cpu_ratio": median(cpu_seconds["plain"]) / median(cpu_seconds["ours"]),
        "samples_per_second": {name: rows / median(times) for name, times in seconds.items()},
        "ratio": median(seconds["plain"]) / median(seconds["ours"]),
        "identical_share": {
            f"{first} / {second}": identical_share(texts[first], texts[second])
            for first, second in combinations(texts, 2)
        },
    }


def identical_share(first: list[str], second: list[str]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Joint training on few rows of every task; the limits and the test rows of the command line."""
    limits = {"max_prompt_tokens": options.prompt_tokens, "max_answer_tokens": options.answer_tokens}
    data: dict[str, Any] = {"format": "trace", "path": options.data, "tasks": tuple(TRACE_TASKS), **limits}
    base: dict[str, Any] = {"model": options.model, "dtype": options.dtype, "device": options.device}
    train: dict[str, Any] = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 8, "checkpointing": False}
    batch_tokens = options.our_rows * (options.prompt_tokens + options.answer_tokens)
    if options.quick:
        data = {"format": "toy", "tasks": ("shade", "title"), "max_prompt_tokens": 64, "max_answer_tokens": 8}
        base, batch_tokens = base | {"model": "tiny", "device": "cpu"}, PLAIN_BATCH * 72
    return Recipe.from_dict(
        {
            "base": base,
            "data": data | {"train_limit": options.train_rows, "test_limit": options.rows, "validation_rows": 0},
            "train": train,
            "method": {"name": "joint"},
            "evaluate": {"batch_tokens": batch_tokens},
        }
    )


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--model", default="models/smollm2-135m-instruct", metavar="FOLDER")
    parser.add_argument("--data", default="data/TRACE-Benchmark/LLM-CL-Benchmark_Reasoning", metavar="FOLDER")
    parser.add_argument("--adapter", type=Path, metavar="FOLDER", help="a trained adapter (rank and all as they are)")
    parser.add_argument("--rows", type=int, default=25, help="test rows of each task")
    parser.add_argument("--train-rows", type=int, default=16, help="rows of each task to learn from, without --adapter")
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--answer-tokens", type=int, default=512)
    parser.add_argument(
        "--our-rows", type=int, default=PLAIN_BATCH, help="of the longest kind, at once, in our batches"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="the plain way padded as ours, too")
    parser.add_argument("--quick", action="store_true", help="toy tasks on the tiny base")
    options = parser.parse_args()
    recipe = recipe_of(options)
    measured = measure(prepare(recipe, options.adapter), options.repeats, options.control)
    result = {
        "base": recipe.base.model_dump(),
        "limits": {"prompt_tokens": recipe.data.max_prompt_tokens, "answer_tokens": recipe.data.max_answer_tokens},
        "batch": {"plain_rows": PLAIN_BATCH, "our_tokens": recipe.evaluate.batch_tokens},
        **measured,
    }
    publish(options, result)


if __name__ == "__main__":
    main()
