"""Tasks of lm-evaluation-harness (the package `lm_eval`) on any model of a run, on a base that is loaded once.

The harness's own tasks are code of that package, and are trusted like it. A task file of somebody is data: it is read
here, with an allow-list of keys, and never by the harness, whose reader runs functions that a file names. Templates run
in a sandbox, metrics that would be code from the hub are refused, and `trust_remote_code` stays off.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from seekr_lite.common.errors import UserError, nearest, shown
from seekr_lite.common.files import user_path
from seekr_lite.common.packages import load_extra
from seekr_lite.common.progress import current_listener
from seekr_lite.data.huggingface import SAFE_BUILDERS
from seekr_lite.data.rows import read_text
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.stages import find_stages, model_name
from seekr_lite.tools.models import RunModels

SEED = 1234  # the harness's own, for examples in prompts and for sampled answers
WINDOW = 1024  # tokens of a row, where the model reads more: how many rows go at once follows from that
TEXTS = {"doc_to_text", "doc_to_target", "description", "target_delimiter", "fewshot_delimiter", "gen_prefix"}
SPLITS = {"training_split", "validation_split", "test_split", "fewshot_split"}
# Keys of a task file that are plain data. Others name code, or other files.
ALLOWED = {
    *("task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "doc_to_choice", "num_fewshot"),
    *("metric_list", "output_type", "generation_kwargs", "repeats", "filter_list", "metadata"),
    *TEXTS,
    *SPLITS,
}
# Others can name code of the hub (`custom_generate`, `trust_remote_code`).
GENERATION = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty"}


@dataclass(frozen=True)
class HarnessScore:
    """A figure of the harness, as it gives it (most are shares from 0 to 1).

    model: the task after which the model is, or "(bare base)". task: of the harness. stderr: None where it has none.
    rows: how many were tested; None for a group of tasks.
    """

    model: str
    task: str
    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool | None
    rows: int | None


def harness_scores(
    folder: RunFolder,
    tasks: Sequence[str],
    after: Sequence[str] = (),
    limit: int | None = None,
) -> list[HarnessScore]:
    """Runs tasks of the harness; nothing is written.

    Args:
        tasks: names of the harness's tasks, groups or tags, or paths of task files (`.yaml`).
        after: the tasks after which the models are, by default the last; "base" is the bare base.
        limit: at most so many rows of each task.

    Raises:
        UserError: `lm_eval` is not installed, no such task, data that cannot be loaded, or a task that would run code.
    """
    stages = find_stages(folder, after)
    if folder.load_snapshot(folder.stage_after(None)).is_prompt:
        raise UserError("--lm-eval: this run learned soft prompts, which the harness does not know how to put in front")
    harness = load_extra("lm_eval", "lm-eval")
    with _guarded() as refused:
        found: list[HarnessScore] = []
        loaded = _load(tasks, refused)
        models = RunModels(folder)
        for stage in stages:
            name = model_name(folder, stage)
            with models.acting(stage) as model, current_listener().phase(f"lm-eval ({name})", len(loaded)) as advance:
                wrapped = _wrap(model, models.tokenizer, folder.recipe().evaluate.batch_tokens)
                for task, objects in loaded.items():
                    with _told(task, refused), torch.random.fork_rng():
                        torch.manual_seed(SEED)
                        results = harness.evaluate(wrapped, objects, limit=limit, log_samples=False)
                    found += _scores(name, results)
                    advance(1)
    return found


def _wrap(model: Any, tokenizer: Any, batch_tokens: int) -> Any:
    """The model as the harness wants it. What it warns of (arguments that a loaded model ignores) is meant so."""
    from lm_eval.models.huggingface import HFLM

    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or WINDOW
    rows = max(1, batch_tokens // min(int(longest), WINDOW))
    return HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=rows, trust_remote_code=False)


def _scores(model: str, results: Mapping[str, Any]) -> Iterator[HarnessScore]:
    for task, values in results["results"].items():
        better = results["higher_is_better"].get(task) or {}
        rows = results["n-samples"].get(task)
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{filtered}")
            yield HarnessScore(
                model=model,
                task=task,
                metric=metric if filtered == "none" else f"{metric} ({filtered})",
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                higher_is_better=better.get(metric),
                rows=None if rows is None else int(rows["effective"]),
            )


# ------------------------------------------------------------------ tasks


def _load(tasks: Sequence[str], refused: list[str]) -> dict[str, Any]:
    """The tasks asked for -> the harness's objects, with their data; set up as its own `simple_evaluate` does it.

    (Which is not called itself: with each result it collects what is installed on this machine, for many seconds.)
    """
    from lm_eval.tasks import TaskManager

    files = {task: read_task_file(task) for task in tasks if task.endswith((".yaml", ".yml"))}
    manager = TaskManager(include_defaults=len(files) < len(tasks))  # to look through its own takes seconds
    for task in tasks:
        if task not in files and task not in manager.all_tasks:
            raise UserError(
                f"--lm-eval {task}: lm-evaluation-harness has no such task{nearest(task, manager.all_tasks)}; "
                "a task file of yours ends in .yaml"
            )
    found: dict[str, Any] = {}
    for task in tasks:
        with _told(task, refused):
            loaded = manager.load([files.get(task, task)])
        unsafe = [name for name, one in loaded["tasks"].items() if getattr(one, "UNSAFE_CODE", False)]
        if unsafe:
            raise UserError(f"--lm-eval {task}: {unsafe[0]} runs code that the model writes, which is never done here")
        for one in loaded["tasks"].values():
            if one.get_config("num_fewshot") is None:
                one.set_config(key="num_fewshot", value=0)
            one.set_fewshot_seed(seed=SEED)
        found[task] = loaded
    return found


def read_task_file(file: str | Path) -> dict[str, Any]:
    """A task of the harness from somebody's YAML file: plain data alone.

    Raises:
        UserError: the file cannot be read, names code (`!function`, `class`, ...) or other files (`include`, ...), or
            data of a format that is never read.
    """
    import yaml

    path = user_path(file)
    text = read_text(path, path.parent)
    if "!function" in text:
        raise UserError(f"{file}: it runs code (`!function`), and task files of others are data here; use a template")
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: this is no plain YAML: {reason}") from None
    if not isinstance(values, dict) or not isinstance(values.get("task"), str):
        raise UserError(f"{file}: this is no task of lm-evaluation-harness: `task: NAME` is missing")
    for key in values:
        if key not in ALLOWED:
            raise UserError(
                f"{file}: the key {shown(key)} is not allowed in a task file here, as it names code or another file, "
                f"or is not known{nearest(str(key), ALLOWED)}; allowed: {', '.join(sorted(ALLOWED))}"
            )
    if values.get("dataset_path") not in SAFE_BUILDERS:
        raise UserError(
            f"{file}: dataset_path: {shown(values.get('dataset_path'))}; allowed: {', '.join(SAFE_BUILDERS)}, with "
            "`dataset_kwargs: {data_files: ...}`"
        )
    generation = values.get("generation_kwargs") or {}
    if not isinstance(generation, dict) or (others := sorted(map(str, set(generation) - GENERATION))):
        wrong = shown(others) if isinstance(generation, dict) else shown(generation)
        raise UserError(f"{file}: generation_kwargs: {wrong}; allowed: {', '.join(sorted(GENERATION))}")
    return {**values, "dataset_kwargs": _beside(path, values.get("dataset_kwargs"), file)}


def _beside(path: Path, kwargs: Any, file: str | Path) -> dict[str, Any]:
    """`data_files`, looked for beside the task file; nothing else is handed to `datasets`."""
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    if set(kwargs) != {"data_files"}:
        raise UserError(f"{file}: dataset_kwargs must be `data_files` and nothing else, not {shown(sorted(kwargs))}")

    def place(value: Any) -> Any:
        if isinstance(value, dict):
            return {split: place(one) for split, one in value.items()}
        if isinstance(value, list):
            return [place(one) for one in value]
        found = path.parent / str(value)
        read_text(found, path.parent)  # a plain file, not too large, inside the folder of the task file
        return str(found.resolve())

    return {"data_files": place(kwargs["data_files"])}


# ------------------------------------------------------------------ guards


@contextmanager
def _guarded() -> Iterator[list[str]]:
    """Inside the block, templates run in a sandbox, and metrics from the hub do not load; yields those asked for."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    refused: list[str] = []

    def load(name: str, *arguments: Any, **named: Any) -> Any:
        refused.append(name)
        raise PermissionError(name)

    own = utils.env
    sandbox = ImmutableSandboxedEnvironment(
        loader=own.loader, undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline
    )
    sandbox.filters.update(own.filters)
    logger = logging.getLogger("lm_eval")
    # The harness imports the package `evaluate` only to load a metric that it does not know.
    stand_in = ModuleType("evaluate")
    stand_in.load = load  # type: ignore[attr-defined]
    before = sys.modules.get("evaluate"), logger.level
    sys.modules["evaluate"], utils.env = stand_in, sandbox
    logger.setLevel(logging.CRITICAL)
    try:
        yield refused
    finally:
        del sys.modules["evaluate"]
        if before[0] is not None:
            sys.modules["evaluate"] = before[0]
        utils.env = own
        logger.setLevel(before[1])


@contextmanager
def _told(task: str, refused: Sequence[str]) -> Iterator[None]:
    """Whatever the harness or `datasets` raise about a task, as one line: its files may hold anything.

    refused: metrics from the hub that were asked for. The harness goes on without them, into errors of its own.
    """
    try:
        yield
        if refused:
            raise PermissionError
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if refused:
            raise UserError(f"--lm-eval {task}: its metric {refused[0]} is code from the hub, never run") from None
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"--lm-eval {task}: cannot be run here: {reason}") from None
