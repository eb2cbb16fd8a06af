"""The card beside every adapter or model that leaves a run: what it is, how to load it, what applies to it.

A card is front matter that the hub reads by machine, and Markdown. Three are made: of each adapter in the run folder
(`model_card`), of an exported folder (`export_card`), of a repository of the hub (`hub_card`).
"""

from __future__ import annotations

import json
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # in its documentation

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_path
from seekr_lite.data.task import Task
from seekr_lite.evaluation.scoreboard import show
from seekr_lite.model.base import resolve_model
from seekr_lite.recipe.recipe import BaseSettings, Recipe
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.record import RunRecord, learned_tasks
from seekr_lite.runs.stages import known_metrics, known_result

TAGS = ["lora", "continual-learning", "seekr-lite"]
FOLDER = "path/to/this/folder"
LICENCES = "The licences of the base and of the tasks' data apply to it."
REFERENCE = "SEEKR: He et al., EMNLP 2024, arXiv 2411.06171."
CITATION = """```bibtex
@inproceedings{he-etal-2024-seekr,
  title = {{SEEKR}: Selective Attention-Guided Knowledge Retention for Continual Learning of Large Language Models},
  author = {He, Jinghan and others},
  booktitle = {Proceedings of the 2024 Conference on Empirical Methods in Natural Language Processing},
  year = {2024},
  note = {arXiv:2411.06171}
}
```"""
MERGED = {
    "none": "The adapter alone; it belongs on its base, quantised as below, as it was in training. (On a CPU with "
    "AVX512-BF16, bitsandbytes computes 4-bit layers in bfloat16 when it is loaded plainly: logits then move by about "
    "a hundredth.)",
    "dequantized": "The adapter, merged into the quantised base as training saw it: the 4-bit (or 8-bit) weights were "
    "written out in full precision and the adapter added. It is larger than the quantised base and answers as the run "
    "did.",
    "original": "The adapter, merged into the original weights of the base, which were never quantised. Training saw "
    "the quantised ones, so this model is another one than the run trained and tested: often as good, but its scores "
    "are not the run's.",
}
SHOWN_SECTIONS = ("adapter", "train", "method")  # of the recipe; the others name places on somebody's machine


def _card(title: str, *paragraphs: str, **front_matter: Any) -> str:
    return "\n\n".join([f"---\n{ModelCardData(**front_matter).to_yaml()}\n---", f"# {title}", *paragraphs]) + "\n"


# ------------------------------------------------------------------ the three cards


def model_card(name: str, tasks: list[Task], config: dict[str, Any], record: RunRecord) -> str:
    """Of an adapter in the run folder. config: PEFT's."""
    base = config["base_model_name_or_path"]
    learned = learned_tasks(record.method, [*(stage.tasks for stage in record.stages), [task.name for task in tasks]])
    ending = f"{LICENCES} {_made_with(record)}\n{REFERENCE}"
    if "r" not in config:
        what = f"A soft prompt ({config['num_virtual_tokens']} vectors) for `{base}`, {_made_by(record, learned)}"
        return _card(name, what, ending, base_model=base, tags=["prompt-tuning", *TAGS[1:]])
    what = f"A LoRA adapter (rank {config['r']}) of `{base}`, {_made_by(record, learned)}"
    return _card(name, what, _loading(base, FOLDER), ending, base_model=base, library_name="peft", tags=TAGS)


def export_card(
    record: RunRecord, stage: int, after: str, settings: BaseSettings, merge: str, dtype: str, check: str
) -> str:
    """Of an exported folder. check: what reloading it showed."""
    learned = ", ".join(learned_tasks(record.method, [one.tasks for one in record.stages[: stage + 1]]))
    revision = f", revision {settings.revision}" if settings.revision else ""
    facts = (
        f"- base: `{settings.model}`{revision}\n"
        f"- quantisation in training: {settings.quantization}, computed in {dtype}\n"
        f"- learned, in this order: {learned}\n"
        f"- method `{record.method}`, seed {record.seed}, made by seekr-lite"
    )
    if merge == "none":
        options = f"{_pinned(settings.revision)}, dtype=torch.{dtype}{_quantization(settings, dtype)}"
        loading = _loading(resolve_model(settings.model), FOLDER, options, tokenizer=FOLDER)
    else:
        loading = _loading(FOLDER, None, f", dtype=torch.{dtype}")
    return _card(
        f"{settings.model} after {after}",
        MERGED[merge],
        facts,
        loading,
        f"Checked on export, loaded again with plain transformers{' and PEFT' if merge == 'none' else ''}:\n{check}.",
        f"{LICENCES} {_made_with(record)}\n{REFERENCE}",
        base_model=settings.model,
        library_name="peft" if merge == "none" else "transformers",
        tags=TAGS[1:],
    )


def hub_card(folder: RunFolder, stage: int, repository: str, config: dict[str, Any]) -> str:
    """Of an adapter in a repository of the hub. config: PEFT's, with the base's hub id."""
    record, recipe = folder.record, folder.recipe()
    base = config["base_model_name_or_path"]
    learned = learned_tasks(record.method, [one.tasks for one in record.stages[: stage + 1]])
    revision = f", revision {recipe.base.revision}" if recipe.base.revision else ""
    link = f"[{base}](https://huggingface.co/{base})"
    return _card(
        repository.rpartition("/")[2],
        f"A LoRA adapter (rank {config['r']}) of {link}, {_made_by(record, learned)}",
        f"Base in training: quantisation {recipe.base.quantization}{revision}.",
        _loading(base, repository, _pinned(config["revision"])),
        "## Scores",
        _scores(folder, stage),
        "## How it was trained",
        f"```toml\n{recipe.to_toml(SHOWN_SECTIONS).strip()}\n```",
        _made_with(record),
        "## Licence",
        "The licence of the base model and those of the tasks' data apply to this adapter. Whoever publishes it has to "
        "see to it\nthat they allow it; several data sets of continual learning are for research alone.",
        "## Citation",
        CITATION,
        base_model=base,
        base_model_relation="adapter",
        library_name="peft",
        pipeline_tag="text-generation",
        license="other",
        license_name="those-of-the-base-and-the-data",
        datasets=hub_datasets(recipe),
        tags=TAGS,
    )


# ------------------------------------------------------------------ their parts


def _made_by(record: RunRecord, learned: list[str]) -> str:
    return (
        f"made by seekr-lite with the method `{record.method}`, seed {record.seed}. It has learned these tasks, "
        f"in this order: {', '.join(learned)}."
    )


def _made_with(record: RunRecord) -> str:
    return f"Made with {', '.join(f'{package} {version}' for package, version in record.versions.items())}."


def _loading(base: str, adapter: str | None, options: str = "", tokenizer: str | None = None) -> str:
    """Python that loads a base, and an adapter onto it. options: more arguments for the base, `, name=value`."""
    lines = ["import torch"] if "torch." in options else []
    lines += ["from peft import PeftModel"] if adapter else []
    more = ", BitsAndBytesConfig" if "BitsAndBytesConfig" in options else ""
    lines += [f"from transformers import AutoModelForCausalLM, AutoTokenizer{more}", ""]
    loaded = f"AutoModelForCausalLM.from_pretrained({json.dumps(base)}{options})"
    lines.append(f"base = {loaded}" if adapter else f"model = {loaded}")
    lines += [f"model = PeftModel.from_pretrained(base, {json.dumps(adapter)})"] if adapter else []
    lines.append(f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(tokenizer or base)})")
    return "\n".join(["```python", *lines, "```"])


def _pinned(revision: str | None) -> str:
    return f", revision={json.dumps(revision)}" if revision else ""


def _quantization(settings: BaseSettings, dtype: str) -> str:
    if settings.quantization == "none":
        return ""
    if settings.quantization == "int8":
        return ", quantization_config=BitsAndBytesConfig(load_in_8bit=True)"
    options = f'load_in_4bit=True, bnb_4bit_quant_type="{settings.quantization}", bnb_4bit_use_double_quant=True'
    return f", quantization_config=BitsAndBytesConfig({options}, bnb_4bit_compute_dtype=torch.{dtype})"


def hub_datasets(recipe: Recipe) -> list[str] | None:
    """The data set that the tasks were read from, where it is one of the hub."""
    path = recipe.data.path
    if recipe.data.format != "datasets" or not path or user_path(path).exists():
        return None
    try:
        check_hub_id(path, "data.path")
    except UserError:
        return None
    return [path]


def _scores(folder: RunFolder, stage: int) -> str:
    """What the run itself has tested with this adapter."""
    metrics, rows = known_metrics(folder), []
    for task in folder.recipe().data.tasks:
        if (found := known_result(folder, stage, task)) is not None:
            rows.append(f"| {task} | {metrics.get(task, '–')} | {show(found.score)} | {show(found.nll, 3)} |")
    if not rows:
        return "The run has not tested this adapter."
    head = "| task | metric | score (0 to 100) | NLL of held-out answers, per token |\n|---|---|---|---|"
    return "\n".join([head, *rows])


def check_hub_id(name: str, option: str) -> None:
    """Raises `UserError` where no model of the hub can be called so."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{option} {name}: this is no id of the hub, such as owner/name: {reason}") from None
