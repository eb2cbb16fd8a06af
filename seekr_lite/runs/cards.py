"""The card in each adapter's folder: what it is, and how to load it with plain PEFT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from seekr_lite.runs.record import learned_tasks

if TYPE_CHECKING:
    from seekr_lite.data.task import Task
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
