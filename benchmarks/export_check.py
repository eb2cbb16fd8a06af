"""Whether exported models answer as the run's own model: greedy answers, prompt by prompt.

    python benchmarks/export_check.py runs/quickstart
    python benchmarks/export_check.py RUN --prompts 50 --json --output FILE

The last model of a run (its base as training saw it, with the adapter) answers prompts of the run's test rows, one at
a time. So do its merged exports, loaded by plain transformers: `dequantized`, where the base was quantised, and
`original`. Where two answers are not the same, the place of the first other token is told, and how much the run's model
preferred its own token there: a small gap is a near-tie, which rounding may decide; a large one is another model.
A merge into the original base is compared with the original base and the adapter, unmerged, too: this tells what the
merge changed from what the other base changed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import benchmark_parser, publish
from seekr_lite.api import open_run
from seekr_lite.common.errors import UserError
from seekr_lite.common.memory import free_memory
from seekr_lite.data.encoding import EncodedExample, encode_prompts
from seekr_lite.evaluation.generate import transformers_answers
from seekr_lite.model.base import choose_device, choose_dtype, load_base, load_tokenizer
from seekr_lite.recipe.recipe import BaseSettings
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.tasks import gather_tasks
from seekr_lite.tools.models import with_snapshot

Answers = list[list[int]]  # the tokens of each answer, its end token among them


@dataclass(frozen=True)
class FirstDifference:
    """Where two answers part: the number of the prompt and of the token in the answer, both from 0; both answers; and
    by how much the first model's logit of its own token is above that of the other's token."""

    prompt: int
    token: int
    ours: str
    theirs: str
    gap: float


@dataclass(frozen=True)
class Compared:
    """Two models over the same prompts. differences: one for each prompt whose answers are not the same."""

    what: str
    prompts: int
    identical: int
    differences: tuple[FirstDifference, ...]


@dataclass
class Speaker:
    """A model, and what it answers."""

    model: Any
    tokenizer: Any
    prompts: Sequence[EncodedExample]
    limit: int

    def __post_init__(self) -> None:
        self.model.eval()
        ends = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        self.answers: Answers = []
        for number, prompt in enumerate(self.prompts):  # one at a time: no padding shifts where a kernel rounds
            (answer,) = transformers_answers(self.model, [prompt], self.limit, *ends)
            end = self.tokenizer.eos_token_id
            self.answers.append(answer[: answer.index(end) + 1] if end in answer else answer)
            print(f"\r{number + 1} of {len(self.prompts)} prompts", end="", file=sys.stderr)
        print(file=sys.stderr)

    def compare(self, what: str, theirs: Answers) -> Compared:
        """This model's answers beside another's."""
        pairs = enumerate(zip(self.answers, theirs, strict=True))
        found = tuple(self._difference(prompt, *pair) for prompt, pair in pairs if pair[0] != pair[1])
        return Compared(what, len(theirs), len(theirs) - len(found), found)

    @torch.no_grad()
    def _difference(self, prompt: int, ours: list[int], theirs: list[int]) -> FirstDifference:
        token = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        mine, other = self.tokenizer.batch_decode([ours, theirs], skip_special_tokens=True)
        if token is None:  # one goes on where the other was cut, which no greedy model does
            raise ValueError(f"prompt {prompt}: one answer is the beginning of the other")
        ids = torch.tensor([[*self.prompts[prompt].input_ids, *ours[:token]]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        return FirstDifference(prompt, token, mine, other, float(logits[ours[token]] - logits[theirs[token]]))


def check_exports(folder: RunFolder, count: int) -> list[Compared]:
    """Answers of the run's last model beside those of its merged exports. One model at a time is in memory, and the
    run's own, which is asked for gaps, stays."""
    recipe = folder.recipe()
    settings, stage = recipe.base, folder.stage_after(None)
    snapshot = folder.load_snapshot(stage)
    prompts, limit = _prompts(folder, count), recipe.data.max_answer_tokens
    tokenizer = load_tokenizer(settings)
    own = Speaker(with_snapshot(load_base(settings), snapshot, recipe), tokenizer, prompts, limit)
    found = []
    for merge in ("dequantized", "original") if settings.quantization != "none" else ("original",):
        with tempfile.TemporaryDirectory() as place:
            open_run(folder.path).export(Path(place) / "model", merge=merge)
            model = _plain_model(Path(place) / "model", settings)
            merged = Speaker(model, tokenizer, prompts, limit).answers
        found.append(own.compare(f"run's model / --merge {merge}", merged))
        if merge == "original" and settings.quantization != "none":
            del model
            free_memory()
            unquantised = load_base(settings.model_copy(update={"quantization": "none"}))
            same_base = Speaker(with_snapshot(unquantised, snapshot, recipe), tokenizer, prompts, limit)
            found.append(same_base.compare("original base + adapter / --merge original", merged))
    return found


def _prompts(folder: RunFolder, count: int) -> list[EncodedExample]:
    """Prompts of the test rows, as many of each task as it takes.

    Raises:
        UserError: the run's tasks have fewer test rows.
    """
    recipe = folder.recipe()
    tasks = gather_tasks(recipe, folder, ())
    each = -(-count // len(tasks))
    texts = [row.prompt for task in tasks for row in task.test[:each]][:count]
    if len(texts) < count:
        raise UserError(f"--prompts {count}: the run's tasks have {len(texts)} test rows when {each} of each are taken")
    return encode_prompts(load_tokenizer(recipe.base), texts, recipe.data)


def _plain_model(folder: Path, settings: BaseSettings) -> Any:
    """An exported folder, loaded as anybody would."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, device_map={"": device})


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--prompts", type=int, default=50, help="how many test prompts, spread over the tasks")
    options = parser.parse_args()
    try:
        folder = RunFolder.open(options.run)
        compared = check_exports(folder, options.prompts)
    except UserError as error:
        sys.exit(f"error: {error}")
    recipe = folder.recipe()
    result = {
        "base": recipe.base.model_dump(),
        "method": recipe.method.name,
        "tasks": list(recipe.data.tasks),
        "answer_tokens": recipe.data.max_answer_tokens,
        "compared": [asdict(one) for one in compared],
    }
    publish(options, result)


if __name__ == "__main__":
    main()
