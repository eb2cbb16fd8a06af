"""What was tried to make SEEKR better: other settings, and changes that the product does not have.

    python benchmarks/tried.py --sequence superni --set data.path=FOLDER/OF/SuperNI seekr seekr-averaged
    python benchmarks/tried.py --sequence trace --seed 100 --set data.path=FOLDER/OF/LLM-CL-Benchmark_Reasoning seekr
    python benchmarks/tried.py --list

Judged by the NLL of validation rows after the last of three tasks: of SuperNI's three, no study of the results page
learns any but the one that chooses options; TRACE's three are among the eight of `trace-8`. Each trial leaves a raw
result in `benchmarks/results/tried/`, from which the page takes its table. What wins is in the product; the rest is
here, so that it can be tried again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import device_name
from benchmarks.study_grid import ORDER, find_study, study_recipe
from benchmarks.study_results import RESULTS, TRIED, shared_start
from seekr_lite.attention.recording import HeadRecorder, RecordedHeads, RowsRecorder
from seekr_lite.attention.selection import Head
from seekr_lite.cli.app import quiet_libraries
from seekr_lite.common.files import write_text
from seekr_lite.common.packages import versions
from seekr_lite.common.seeds import seed_for
from seekr_lite.data.batch import IGNORED, Batch
from seekr_lite.data.encoding import EncodedExample, encode_prompts, encode_task_rows
from seekr_lite.data.task import Example, Task
from seekr_lite.evaluation.generate import generate, mean_answer_nll
from seekr_lite.methods.ewc import ElasticWeightConsolidation
from seekr_lite.methods.lfpt5 import SAMPLING
from seekr_lite.methods.method import LossTerm, ReplayBatch, StepTotals
from seekr_lite.methods.registry import register_method
from seekr_lite.methods.seekr import Seekr
from seekr_lite.model.answer_states import AnswerStates, answer_labels, answer_span, answer_states
from seekr_lite.model.losses import soft_cross_entropy_sum
from seekr_lite.model.snapshots import SnapshotSequence
from seekr_lite.recipe.recipe import MethodSettings
from seekr_lite.runs.tasks import gather_tasks
from seekr_lite.training.learner import Learner

SEQUENCES: dict[str, tuple[str, dict[str, Any]]] = {  # the study whose recipe it is, and what differs
    "superni": ("options", {}),
    "trace": ("trace-3", {"tasks": ["ScienceQA", "C-STANCE", "Py150"]}),
}
LONGEST_WRITTEN, ROWS_AT_ONCE = 256, 32
LWF_TEMPERATURE = 2.0


@dataclass(frozen=True)
class Trial:
    """What is tried: keys of `[method]`, options of `TriedSeekr`, and what happens around the tasks.

    averaged: weight of the new adapter; the rest is the one before. written, framed, real: rows of each old task,
    beside those that are kept, that the bare base writes, that are new rows in the old task's frame, or real ones.
    """

    what: str
    method: Mapping[str, Any]
    options: Mapping[str, float] = field(default_factory=dict)
    averaged: float = 1.0
    written: int = 0
    framed: int = 0
    real: int = 0


def _seekr(passes: float = 4.0, **settings: Any) -> dict[str, Any]:
    return {"name": "seekr-tried", "attention_weight": 30.0, "replay_passes": passes, **settings}


OFTEN = 12.0
NO_ATTENTION = {"attention_weight": 0.0}
TRIALS = {
    "sequential": Trial("nothing is kept", {"name": "sequential"}),
    "joint": Trial("all tasks at once", {"name": "joint"}),
    "replay": Trial("replay, 4 passes", {"name": "replay", "replay_passes": 4.0}),
    "derpp": Trial("DER++, 4 passes", {"name": "derpp", "replay_passes": 4.0}),
    "derpp-often": Trial("DER++, 12 passes", _seekr(OFTEN, **NO_ATTENTION)),
    "seekr-paper": Trial(
        "as published: one pass, beside new rows, weight 1000",
        {"name": "seekr", "attention_weight": 1000.0, "replay_passes": 1.0, "replay_step": "shared"},
    ),
    "seekr-passes4": Trial("4 passes", _seekr()),
    "seekr": Trial("12 passes: the default", _seekr(OFTEN)),
    "seekr-often-shared": Trial("12 passes, beside new rows", _seekr(OFTEN, replay_step="shared")),
    "seekr-often-weight300": Trial("12 passes, attention weight 300", _seekr(OFTEN, attention_weight=300.0)),
    "seekr-often-weight1000": Trial("12 passes, attention weight 1000", _seekr(OFTEN, attention_weight=1000.0)),
    "seekr-weight300": Trial("4 passes, attention weight 300", _seekr(attention_weight=300.0)),
    "seekr-weight5": Trial("4 passes, attention weight 5", _seekr(attention_weight=5.0)),
    "seekr-no-labels": Trial(
        "4 passes, no cross-entropy of old rows, logits twice", _seekr(cross_entropy_weight=0.0, logits_weight=1.0)
    ),
    "seekr-logits": Trial("4 passes, logits with 8 times the weight", _seekr(logits_weight=4.0)),
    "seekr-prompts": Trial("4 passes, logits of the prompts too", _seekr(), {"prompts": 1.0}),
    "seekr-lwf": Trial("4 passes, LwF on the new rows", _seekr(), {"new_rows": 1.0}),
    "ewc": Trial("EWC with its default strength, nothing is kept", {"name": "ewc"}),
    "seekr-ewc": Trial("12 passes, EWC on the new rows", _seekr(OFTEN), {"consolidation": 1.0}),
    "seekr-ewc-weak": Trial("12 passes, EWC of a tenth the strength", _seekr(OFTEN), {"consolidation": 0.1}),
    "derpp-ewc": Trial("DER++, 12 passes, EWC on the new rows", _seekr(OFTEN, **NO_ATTENTION), {"consolidation": 1.0}),
    "seekr-stratified": Trial("12 passes, old rows spread over the answers", _seekr(OFTEN, replay_choice="stratified")),
    "seekr-averaged": Trial("4 passes, mean of each adapter and the one before", _seekr(), averaged=0.5),
    "seekr-framed": Trial("1.5 passes, and 32 new rows in the frame of the old task", _seekr(1.5), framed=32),
    "seekr-written": Trial("1.5 passes, and 32 rows that the base writes", _seekr(1.5), written=32),
    "seekr-written-96": Trial("one pass, and 96 rows that the base writes", _seekr(1.0), written=96),
    "derpp-written": Trial(
        "DER++, 1.5 passes, and 32 rows that the base writes", _seekr(1.5, **NO_ATTENTION), written=32
    ),
    "seekr-real": Trial("one pass, and 64 more real rows: not allowed, a bound", _seekr(1.0), real=64),
}


# ---------------------------------------------------------------------- losses


class TriedSeekr(Seekr):
    """SEEKR with logits of old prompts (`prompts`), LwF on new rows (`new_rows`), and EWC's penalty beside new rows
    (`consolidation`), each with its weight."""

    name = "seekr-tried"
    default_options: ClassVar = {"prompts": 0.0, "new_rows": 0.0, "consolidation": 0.0}
    reviews_rows = True

    def __init__(self, settings: MethodSettings, adapters: SnapshotSequence, seed: int) -> None:
        super().__init__(settings, adapters, seed)
        ewc = settings.model_copy(update={"options": {"strength": self.options["consolidation"]}})
        self.consolidation = ElasticWeightConsolidation(ewc, adapters, seed) if self.options["consolidation"] else None

    def prepare_task(self, index: int) -> None:
        self.before = index - 1
        if self.consolidation:
            self.consolidation.prepare_task(index)

    def review_task(self, index: int, rows: Sequence[EncodedExample]) -> None:
        super().review_task(index, rows)
        if self.consolidation:
            self.consolidation.review_task(index, rows)

    def new_task_loss(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        terms, weight = super().new_task_loss(batch, totals), float(self.options["new_rows"])
        terms += self.consolidation.penalty_terms(batch, totals) if self.consolidation else []
        if self.before < 0 or not weight:
            return terms
        with self.adapters.acting_as(self.before):
            teacher = answer_states(self.model, batch)
        student, labels = answer_states(self.model, batch), answer_labels(batch, answer_span(batch))
        soft = soft_cross_entropy_sum(student, teacher, labels, "predictions", LWF_TEMPERATURE) / totals.label_tokens
        return [*terms, LossTerm("new_rows", soft, weight * LWF_TEMPERATURE**2)]

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        weight = float(self.options["prompts"])
        if not weight:
            return super().replay_loss(replay, totals)
        pairs, length, device = self.head_pairs(replay), replay.batch.labels.shape[1], replay.batch.labels.device
        teacher_heads: dict[int, RecordedHeads] = {}

        def watched(part: Batch, rows: torch.Tensor) -> AnswerStates:
            return answer_states(self.model, part, RowsRecorder(teacher_heads, pairs, rows, device), length)

        teacher = self.teacher_states(replay, watched)
        recorder = HeadRecorder({layer: chosen.to(device) for layer, chosen in pairs.items()})
        student = answer_states(self.model, replay.batch, recorder, length)
        positions, prompt = answer_span(replay.batch) + 1, prompt_labels(replay.batch)
        terms = self.answer_terms(replay.batch, totals, _last(student, positions), _last(teacher, positions))
        of_prompts = soft_cross_entropy_sum(student, teacher, prompt, "predictions")
        terms.append(LossTerm("prompts", of_prompts / (prompt != IGNORED).sum(), weight))
        if pairs:
            terms.append(self.attention_term(replay, totals, pairs, recorder.layers, teacher_heads))
        return terms

    def watched_heads(self, task: int) -> Sequence[Head]:
        return super().watched_heads(task) if self.settings.attention_weight else ()


def prompt_labels(batch: Batch) -> torch.Tensor:
    """The token after each position of a prompt that has one there: `[rows, tokens - 1]`, -100 elsewhere."""
    of_prompt = batch.attention_mask[:, :-1].bool() & (batch.labels[:, 1:] == IGNORED)
    following = batch.input_ids[:, 1:]
    return torch.where(of_prompt, following, torch.full_like(following, IGNORED))


def _last(states: AnswerStates, positions: int) -> AnswerStates:
    return replace(states, hidden=states.hidden[:, states.hidden.shape[1] - positions :])


# ---------------------------------------------------------------------- rows beside those that are kept


def frame(rows: Sequence[Example]) -> tuple[str, str]:
    """What all prompts of a task begin with, and end with."""
    prompts = [row.prompt for row in rows]
    head = shared_start(prompts)
    tail = shared_start([prompt[head:][::-1] for prompt in prompts])
    return prompts[0][:head], prompts[0][len(prompts[0]) - tail :]


def in_frame(new: Task, old: Task, count: int) -> list[str]:
    """Prompts of the old task with the inputs of the new one."""
    (own_head, own_tail), (head, tail) = frame(new.train), frame(old.train)
    inputs = [row.prompt[len(own_head) : len(row.prompt) - len(own_tail)] for row in new.train[:count]]
    return [head + one + tail for one in inputs]


@torch.no_grad()
def written(learner: Learner, old: Task, kept: Sequence[Example], count: int, seed: int) -> list[str]:
    """Prompts of the old task whose inputs the bare base writes, the kept rows before its eyes."""
    tokenizer: Any = learner.base.tokenizer
    head, tail = frame(old.train)
    start = "".join(f"{row.prompt}{row.answer}\n\n" for row in kept) + head
    longest = max(len(tokenizer(row.prompt[len(head) :])["input_ids"]) for row in kept) + 16
    mark = tail.strip() or "\n\n"
    found: list[str] = []
    with learner.adapters.acting_as(None):
        torch.manual_seed(seed)
        causal = learner.adapters.model.get_base_model()
        ids = tokenizer(start, return_tensors="pt")["input_ids"].to(learner.base.device)
        while len(found) < count:
            output = causal.generate(
                input_ids=ids.expand(min(ROWS_AT_ONCE, count - len(found)), -1),
                attention_mask=torch.ones_like(ids).expand(min(ROWS_AT_ONCE, count - len(found)), -1),
                max_new_tokens=min(longest, LONGEST_WRITTEN),
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **SAMPLING,
            )
            found += tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    inputs = [text.partition(mark)[0].rstrip() for text in found]
    return [head + one + tail for one in inputs if one.strip()]


def answered(learner: Learner, index: int, prompts: Sequence[str]) -> list[Example]:
    """The prompts, with what the adapter of task `index` answers to them."""
    tokenizer, data = learner.base.tokenizer, learner.recipe.data
    encoded = encode_prompts(tokenizer, prompts, data.model_copy(update={"chat_template": False}))
    answers: dict[int, str] = {}
    with learner.adapters.acting_as(index):
        tokens, room = data.max_answer_tokens, learner.recipe.evaluate.batch_tokens
        for some in generate(learner.adapters.model, tokenizer, encoded, tokens, room, known={}):
            answers |= some
    return [Example(prompt, answers[row]) for row, prompt in enumerate(prompts) if answers[row].strip()]


def more_rows(learner: Learner, trial: Trial, tasks: Sequence[Task], new: int, old: int) -> list[Example]:
    """Rows of task `old` that are replayed beside the kept ones while task `new` is learned."""
    rows: list[Example] = []
    if trial.framed:
        rows += answered(learner, old, in_frame(tasks[new], tasks[old], trial.framed))
    if trial.written:
        seed = seed_for(learner.recipe.run.seed, "written", new, old)
        rows += answered(learner, old, written(learner, tasks[old], learner.memory[old], trial.written, seed))
    return rows + list(tasks[old].train[-trial.real :] if trial.real else ())


# ---------------------------------------------------------------------- a trial


@dataclass(frozen=True)
class Tried:
    """How a trial came out: the NLL of each task's validation rows at the end, and right after it was learned."""

    name: str
    what: str
    sequence: str
    seed: int
    tasks: tuple[str, ...]
    nll: tuple[float, ...]
    nll_learned: tuple[float, ...]
    seconds: float
    device: str
    versions: dict[str, str]


def try_out(name: str, sequence: str, seed: int, overrides: Sequence[str]) -> Tried:
    register_method(TriedSeekr)
    trial, (study, data) = TRIALS[name], SEQUENCES[sequence]
    method = {"replay_step": "own", **trial.method, "options": dict(trial.options)}
    recipe = study_recipe(find_study(study), {"data": data, "method": method}, ORDER, seed, overrides)
    tasks, learner, started = gather_tasks(recipe, None, ()), Learner(recipe), time.monotonic()
    held_out = [encode_task_rows(learner.base.tokenizer, task.validation, recipe.data) for task in tasks]
    learned = _learn_all(learner, trial, tasks, held_out)
    last = len(learner.adapters.snapshots) - 1
    return Tried(
        name,
        trial.what,
        sequence,
        seed,
        tuple(task.name for task in tasks),
        tuple(_nll(learner, last, rows) for rows in held_out),
        tuple(learned),
        time.monotonic() - started,
        device_name(),
        versions(),
    )


def _learn_all(
    learner: Learner, trial: Trial, tasks: Sequence[Task], held_out: Sequence[Sequence[EncodedExample]]
) -> list[float]:
    """Learns the tasks; returns the NLL of each right after it was learned, of a joint stage none."""
    if learner.method.joint:
        learner.learn(*tasks)
        return []
    learned = []
    for index, task in enumerate(tasks):
        kept = list(learner.memory)
        learner.memory[:] = [(*kept[old], *more_rows(learner, trial, tasks, index, old)) for old in range(index)]
        learner.learn(task)
        learner.memory[:-1] = kept
        if index and trial.averaged != 1.0:
            before, after = learner.adapters.snapshots[-2:]
            mean = {key: torch.lerp(before.weights[key], new, trial.averaged) for key, new in after.weights.items()}
            learner.adapters.snapshots[-1] = replace(after, weights=mean)
        learned.append(_nll(learner, index, held_out[index]))
    return learned


def _nll(learner: Learner, index: int, rows: Sequence[EncodedExample]) -> float:
    with learner.adapters.acting_as(index):
        pad, room = int(learner.base.tokenizer.pad_token_id), learner.recipe.evaluate.batch_tokens  # type: ignore[arg-type]
        value = mean_answer_nll(learner.adapters.model, rows, pad, room)
    assert value is not None
    return value


def write_tried(folder: Path, tried: Tried) -> None:
    values = asdict(tried) | {key: [round(one, 5) for one in getattr(tried, key)] for key in ("nll", "nll_learned")}
    path = folder / f"{tried.sequence}-{tried.name}-seed{tried.seed}.json"
    write_text(path, json.dumps(values | {"seconds": round(tried.seconds, 1)}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", choices=[*TRIALS, []], help="names of trials; --list shows them")
    parser.add_argument("--sequence", choices=SEQUENCES, default="superni")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--results", type=Path, default=RESULTS / TRIED, help="where raw results go")
    parser.add_argument("--list", action="store_true", help="say what can be tried, and stop")
    options = parser.parse_args()
    quiet_libraries()
    if options.list:
        print("\n".join(f"{name:24} {trial.what}" for name, trial in TRIALS.items()))
    for name in options.trials:
        tried = try_out(name, options.sequence, options.seed, options.overrides)
        write_tried(options.results, tried)
        nll = ", ".join(f"{task} {value:.3f}" for task, value in zip(tried.tasks, tried.nll, strict=True))
        print(f"{name}: NLL {sum(tried.nll) / len(tried.nll):.4f} ({nll}), {tried.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
