"""The README of an exported model: what it is, what it was made from, how to load it, how it was checked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from seekr_lite.runs.record import learned_tasks

if TYPE_CHECKING:
    from seekr_lite.recipe.recipe import BaseSettings
    from seekr_lite.runs.record import RunRecord
    from seekr_lite.tools.export import Export

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


def export_card(record: RunRecord, stage: int, settings: BaseSettings, done: Export) -> str:
    """A short model card in the hub's form (YAML front matter, then Markdown)."""
    learned = ", ".join(learned_tasks(record.method, [one.tasks for one in record.stages[: stage + 1]]))
    versions = ", ".join(f"{package} {version}" for package, version in record.versions.items())
    revision = f", revision {settings.revision}" if settings.revision else ""
    library = "peft" if done.merge == "none" else "transformers"
    return f"""---
base_model: {json.dumps(settings.model)}
library_name: {library}
tags: [continual-learning, seekr-lite]
---

# {settings.model} after {done.after}

{WHAT[done.merge]}

- base: `{settings.model}`{revision}, quantisation in training: {settings.quantization}, computed in {done.dtype}
- learned, in this order: {learned}
- method `{record.method}`, seed {record.seed}, made by seekr-lite

```python
{_loading(settings, done)}
```

Checked on export, loaded again with plain transformers{" and PEFT" if done.merge == "none" else ""}:
{describe_check(done)}.

The licences of the base and of the tasks' data apply to it. Made with {versions}.
SEEKR: He et al., EMNLP 2024, arXiv 2411.06171.
"""


def describe_check(done: Export) -> str:
    """What reloading the folder showed, in words."""
    made, trained = done.as_made, done.as_trained
    text = (
        f"its logits differ by up to {trained.largest_difference:.2g} (of up to {trained.largest_logit:.3g}) from "
        f"those of the run's own model, and {trained.same_choice:.0%} of the next tokens are the same"
    )
    if done.merge != "none":
        text += f"; merging itself changed them by up to {made.largest_difference:.2g}"
    return text


def _loading(settings: BaseSettings, done: Export) -> str:
    if done.merge != "none":
        return f"""import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype=torch.{done.dtype})
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
    from seekr_lite.model.base import resolve_model

    quantised = _quantization(settings, done.dtype)
    revision = f", revision={json.dumps(settings.revision)}" if settings.revision else ""
    base = json.dumps(resolve_model(settings.model))
    return f"""import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{", BitsAndBytesConfig" if quantised else ""}

base = AutoModelForCausalLM.from_pretrained({base}{revision}, dtype=torch.{done.dtype}{quantised})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""


def _quantization(settings: BaseSettings, dtype: str) -> str:
    if settings.quantization == "none":
        return ""
    if settings.quantization == "int8":
        return ", quantization_config=BitsAndBytesConfig(load_in_8bit=True)"
    options = f'load_in_4bit=True, bnb_4bit_quant_type="{settings.quantization}", bnb_4bit_use_double_quant=True'
    return f", quantization_config=BitsAndBytesConfig({options}, bnb_4bit_compute_dtype=torch.{dtype})"
