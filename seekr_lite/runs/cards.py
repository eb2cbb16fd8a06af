"""The card in each adapter's folder: what it is, and how to load it with plain PEFT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_path
from seekr_lite.evaluation.scoreboard import show
from seekr_lite.runs.contents import known_metrics, known_result
from seekr_lite.runs.record import learned_tasks

if TYPE_CHECKING:
    from seekr_lite.data.task import Task
    from seekr_lite.recipe.recipe import BaseSettings, Recipe
    from seekr_lite.runs.folder import RunFolder
    from seekr_lite.runs.record import RunRecord


def model_card(name: str, tasks: list[Task], config: dict[str, Any], record: RunRecord) -> str:
    """A short model card in the hub's form (YAML front matter, then Markdown)."""
    base = config["base_model_name_or_path"]
    stages = [*(stage.tasks for stage in record.stages), [task.name for task in tasks]]
    learned = learned_tasks(record.method, stages)
    if "r" not in config:
        return _prompt_card(name, config, record, learned)
    versions = _versions(record)
    return f"""---
base_model: {json.dumps(base)}
library_name: peft
tags: [lora, continual-learning, seekr-lite]
---

# {name}

A LoRA adapter (rank {config["r"]}) of `{base}`, made by seekr-lite with the method `{record.method}`, seed
{record.seed}. It is the model after these tasks, in this order: {", ".join(learned)}.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({json.dumps(base)})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

The licences of the base and of the tasks' data apply to it. Made with {versions}.
SEEKR: He et al., EMNLP 2024, arXiv 2411.06171.
"""


def _prompt_card(name: str, config: dict[str, Any], record: RunRecord, learned: list[str]) -> str:
    """The card of a soft prompt."""
    base, versions = config["base_model_name_or_path"], _versions(record)
    return f"""---
base_model: {json.dumps(base)}
tags: [prompt-tuning, continual-learning, seekr-lite]
---

# {name}

A soft prompt ({config["num_virtual_tokens"]} vectors) for `{base}`, made by seekr-lite with the method
`{record.method}`, seed {record.seed}. It was learned of these tasks, in this order: {", ".join(learned)}.

The licences of the base and of the tasks' data apply to it. Made with {versions}.
"""


def _versions(record: RunRecord) -> str:
    return ", ".join(f"{package} {version}" for package, version in record.versions.items())


WHAT = {
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


def export_card(
    record: RunRecord, stage: int, after: str, settings: BaseSettings, merge: str, dtype: str, check: str
) -> str:
    """A short model card in the hub's form (YAML front matter, then Markdown). check: what reloading showed."""
    learned = ", ".join(learned_tasks(record.method, [one.tasks for one in record.stages[: stage + 1]]))
    versions = ", ".join(f"{package} {version}" for package, version in record.versions.items())
    revision = f", revision {settings.revision}" if settings.revision else ""
    library = "peft" if merge == "none" else "transformers"
    return f"""---
base_model: {json.dumps(settings.model)}
library_name: {library}
tags: [continual-learning, seekr-lite]
---

# {settings.model} after {after}

{WHAT[merge]}

- base: `{settings.model}`{revision}, quantisation in training: {settings.quantization}, computed in {dtype}
- learned, in this order: {learned}
- method `{record.method}`, seed {record.seed}, made by seekr-lite

```python
{_loading(settings, merge, dtype)}
```

Checked on export, loaded again with plain transformers{" and PEFT" if merge == "none" else ""}:
{check}.

The licences of the base and of the tasks' data apply to it. Made with {versions}.
SEEKR: He et al., EMNLP 2024, arXiv 2411.06171.
"""


def _loading(settings: BaseSettings, merge: str, dtype: str) -> str:
    if merge != "none":
        return f"""import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype=torch.{dtype})
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
    from seekr_lite.model.base import resolve_model

    quantised = _quantization(settings, dtype)
    revision = f", revision={json.dumps(settings.revision)}" if settings.revision else ""
    base = json.dumps(resolve_model(settings.model))
    return f"""import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{", BitsAndBytesConfig" if quantised else ""}

base = AutoModelForCausalLM.from_pretrained({base}{revision}, dtype=torch.{dtype}{quantised})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""


def _quantization(settings: BaseSettings, dtype: str) -> str:
    if settings.quantization == "none":
        return ""
    if settings.quantization == "int8":
        return ", quantization_config=BitsAndBytesConfig(load_in_8bit=True)"
    options = f'load_in_4bit=True, bnb_4bit_quant_type="{settings.quantization}", bnb_4bit_use_double_quant=True'
    return f", quantization_config=BitsAndBytesConfig({options}, bnb_4bit_compute_dtype=torch.{dtype})"


TOLD = ("adapter", "train", "method")  # sections of the recipe; the others name places on somebody's machine
CITATION = """@inproceedings{he-etal-2024-seekr,
  title = {{SEEKR}: Selective Attention-Guided Knowledge Retention for Continual Learning of Large Language Models},
  author = {He, Jinghan and others},
  booktitle = {Proceedings of the 2024 Conference on Empirical Methods in Natural Language Processing},
  year = {2024},
  note = {arXiv:2411.06171}
}"""


def hub_card(folder: RunFolder, stage: int, repository: str, config: dict[str, Any]) -> str:
    """A card in the hub's form: YAML front matter (every text in it is a JSON text, which is YAML), then Markdown."""
    record, recipe = folder.record, folder.recipe()
    base, rank = config["base_model_name_or_path"], config["r"]
    learned = ", ".join(learned_tasks(record.method, [one.tasks for one in record.stages[: stage + 1]]))
    versions = ", ".join(f"{package} {version}" for package, version in record.versions.items())
    revision = f", revision {recipe.base.revision}" if recipe.base.revision else ""
    pinned = f", revision={json.dumps(config['revision'])}" if config["revision"] else ""
    return f"""{front_matter(recipe, base)}
# {repository.rpartition("/")[2]}

A LoRA adapter (rank {rank}) of [{base}](https://huggingface.co/{base}), made by seekr-lite with the method
`{record.method}`, seed {record.seed}. It is the model after these tasks, in this order: {learned}.

Base in training: quantisation {recipe.base.quantization}{revision}.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({json.dumps(base)}{pinned})
model = PeftModel.from_pretrained(base, {json.dumps(repository)})
tokenizer = AutoTokenizer.from_pretrained({json.dumps(base)})
```

## Scores

{_scores(folder, stage)}

## How it was trained

```toml
{_settings(recipe)}
```

Made with {versions}.

## Licence

The licence of the base model and those of the tasks' data apply to this adapter. Whoever publishes it has to see to it
that they allow it; several data sets of continual learning are for research alone.

## Citation

```bibtex
{CITATION}
```
"""


def front_matter(recipe: Recipe, base: str) -> str:
    """What the hub reads by machine. `datasets` names data sets of the hub alone."""
    lines = [
        f"base_model: {json.dumps(base)}",
        "base_model_relation: adapter",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "license: other",
        "license_name: those-of-the-base-and-the-data",
        *([f"datasets: [{json.dumps(recipe.data.path)}]"] if _on_the_hub(recipe) else []),
        "tags: [lora, continual-learning, seekr-lite]",
    ]
    return "\n".join(["---", *lines, "---", ""])


def _on_the_hub(recipe: Recipe) -> bool:
    """Whether the tasks were read from a data set of the hub."""
    path = recipe.data.path
    if recipe.data.format != "datasets" or not path or user_path(path).exists():
        return False
    try:
        check_hub_id(path, "data.path")
    except UserError:
        return False
    return True


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


def _settings(recipe: Recipe) -> str:
    return recipe.to_toml(TOLD).strip()


def check_hub_id(name: str, option: str) -> None:
    """Raises `UserError` where no model of the hub can be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # in its documentation

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{option} {name}: this is no id of the hub, such as owner/name: {reason}") from None
