"""The model card of an adapter on the hub: what it learned, how well, how it was made, how to load it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_path
from seekr_lite.evaluation.scoreboard import show
from seekr_lite.runs.record import learned_tasks
from seekr_lite.tools.evaluate import known_metrics, known_result

if TYPE_CHECKING:
    from seekr_lite.recipe.recipe import Recipe
    from seekr_lite.runs.folder import RunFolder

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
    from seekr_lite.tools.push import check_hub_id

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
    sections = recipe.to_toml().strip().split("\n\n")
    return "\n\n".join(one for one in sections if one.partition("]")[0].removeprefix("[") in TOLD)
