"""A run's model as a folder of its own: the adapter, or base and adapter merged into plain weights.

Every export is loaded again with plain transformers and PEFT, and refused where its logits are not those of the model
that it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.common.files import json_text, user_folder, user_path, write_tensors
from seekr_lite.common.memory import free_memory
from seekr_lite.common.progress import current_listener
from seekr_lite.common.train_mode import eval_mode
from seekr_lite.model.base import (
    Base,
    choose_device,
    choose_dtype,
    keep_trainable,
    load_base,
    quantization_config,
    resolve_model,
)
from seekr_lite.model.snapshots import Snapshot
from seekr_lite.recipe.recipe import BaseSettings, Recipe
from seekr_lite.runs.cards import export_card
from seekr_lite.runs.folder import RunFolder
from seekr_lite.tools.models import RunModels, with_snapshot

MERGES = {
    "none": "the adapter alone, to be loaded on the base by PEFT",
    "dequantized": "merged into the quantised base as it was in training, written out in full precision",
    "original": "merged into the original base, which was never quantised",
}
PROBE_ROWS, PROBE_TOKENS, PROBE_POSITIONS = 8, 128, 16
PROBE_TEXT = "A model that has learned one task after another is asked about the first of them again, and answers:"
# The largest difference of a logit, against the largest logit, that rounding in this dtype explains.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class Agreement:
    """How near two models' logits are: the largest difference, the largest logit, and the share of positions at which
    both choose the same token."""

    largest_difference: float
    largest_logit: float
    same_choice: float

    @classmethod
    def of(cls, ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> Agreement:
        """Of logits `[positions, vocabulary]`, text by text. What is no number counts as endlessly far away."""
        if [logits.shape for logits in ours] != [logits.shape for logits in theirs]:  # another tokenizer
            return cls(float("inf"), 0.0, 0.0)
        one, two = torch.cat(list(ours)), torch.cat(list(theirs))
        difference = float((one - two).abs().nan_to_num(torch.inf).max())
        return cls(difference, float(two.abs().max()), float((one.argmax(-1) == two.argmax(-1)).float().mean()))

    def within(self, dtype: torch.dtype) -> bool:
        """Whether rounding explains the difference."""
        return self.largest_difference <= TOLERANCE[dtype] * self.largest_logit


@dataclass(frozen=True)
class Export:
    """An exported folder. as_made: its logits against those of the model it was made from, before merging. as_trained:
    against those of the quantised base with the adapter, which is what the run trained and tested."""

    path: Path
    after: str
    merge: str
    dtype: str
    as_made: Agreement
    as_trained: Agreement

    @property
    def agrees(self) -> bool:
        """Whether it answers as the run's own model does, but for rounding."""
        return self.as_trained.within(getattr(torch, self.dtype))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "agrees": self.agrees}


def export(folder: RunFolder, to: str | Path, after: str | None = None, merge: str = "none") -> Export:
    """Writes the model after the task `after` (by default the last) to a new folder.

    Args:
        merge: `none`: the adapter alone, a plain PEFT folder. `dequantized`: merged into the base as training saw it,
            with 4-bit weights written out. `original`: merged into the original base, whose weights training never saw.

    Raises:
        UserError: `to` exists or cannot be written, no such merge or task, a damaged adapter, or a folder whose logits
            are not those of the model that it was made from (nothing is left of it).
    """
    to = user_path(to)
    if merge not in MERGES:
        raise UserError(f'merge "{merge}": allowed: {", ".join(MERGES)}{nearest(merge, MERGES)}')
    stage = folder.stage_after(after)
    snapshot, recipe = folder.load_snapshot(stage), folder.recipe()
    settings = recipe.base
    if snapshot.is_prompt and merge != "none":
        raise UserError(f'merge "{merge}": a soft prompt cannot be merged into weights; export it with merge "none"')
    if snapshot.is_prompt_pool:
        raise UserError("export: PEFT does not know a pool of prompts that are chosen row by row; load it from its run")
    dtype = choose_dtype(settings.dtype, choose_device(settings.device))
    samples = [row for index in range(len(folder.record.stages)) for row in folder.load_samples(index)[:2]]
    texts = [PROBE_TEXT, *(f"{row.prompt}{row.answer}" for row in samples[-PROBE_ROWS:])]
    # One model at a time is in memory: each of these steps loads its own.
    title = f"exporting {folder.record.stages[stage].name}"
    with user_folder(to) as target, current_listener().phase(title, 3) as advance:
        trained = made = _logits_as_trained(folder, stage, texts, target if merge == "none" else None)
        free_memory()
        advance(1)
        if merge != "none":
            made = _write_merged(recipe, snapshot, target, texts, merge)
            free_memory()
        advance(1)
        reloaded = _logits_reloaded(target, settings, merge, texts)
        done = Export(
            path=to,
            after=folder.record.stages[stage].tasks[-1],
            merge=merge,
            dtype=str(dtype).removeprefix("torch."),
            as_made=Agreement.of(reloaded, made),
            as_trained=Agreement.of(reloaded, trained),
        )
        if not done.as_made.within(dtype):
            raise UserError(
                f"{to}: not exported: loaded again, its logits differ by up to {done.as_made.largest_difference:.3g} "
                f"(of up to {done.as_made.largest_logit:.3g}) from those of the model that it was made from"
            )
        card = export_card(folder.record, stage, done.after, settings, done.merge, done.dtype, describe_check(done))
        (target / "README.md").write_text(card, encoding="utf-8")
        for file in target.iterdir():
            file.chmod(0o644)  # safetensors makes files that nobody else can read
        advance(1)
    return done


# ------------------------------------------------------------------ writing


def _write_merged(
    recipe: Recipe, snapshot: Snapshot, target: Path, texts: Sequence[str], merge: str
) -> list[torch.Tensor]:
    """Merges and writes; returns the logits of the unmerged model in the same weights."""
    settings = recipe.base
    if merge == "original":
        settings = settings.model_copy(update={"quantization": "none"})
    base = load_base(settings)
    if settings.quantization != "none":
        base.model.dequantize()
    model = with_snapshot(base, snapshot, recipe)
    logits = _logits(model, base.tokenizer, texts)
    merged = model.merge_and_unload(safe_merge=True)
    merged.config.use_cache = True  # off while training
    try:
        merged.save_pretrained(str(target))
    except SafetensorError as error:  # a full disk, in safetensors' words
        raise OSError(str(error)) from None
    write_tokenizer(base, target)
    return logits


def write_tokenizer(base: Base, target: Path) -> None:
    """Raises `OSError` where it cannot be written."""
    try:
        base.tokenizer.save_pretrained(str(target))
    except Exception as error:
        if type(error) is Exception:  # all that the library tokenizers has for a full disk
            raise OSError(str(error)) from None
        raise


# ------------------------------------------------------------------ comparing


def _logits_as_trained(folder: RunFolder, stage: int, texts: Sequence[str], target: Path | None) -> list[torch.Tensor]:
    """Logits of the run's own model; its adapter is written to `target`, where one is given."""
    models = RunModels(folder)
    with models.acting(stage) as model:
        logits = _logits(model, models.tokenizer, texts)
    if target is not None:
        # The configuration is written anew: nothing but numbers and tensors is taken from a run folder.
        (snapshot,) = models.adapters.snapshots
        config = json_text(models.adapters.config_of(snapshot))
        (target / "adapter_config.json").write_text(config, encoding="utf-8")
        write_tensors(target / "adapter_model.safetensors", snapshot.weights, {"format": "pt"})
        write_tokenizer(models.adapters.base, target)
    return logits


def _logits_reloaded(target: Path, settings: BaseSettings, merge: str, texts: Sequence[str]) -> list[torch.Tensor]:
    """Logits of the exported folder, loaded as anybody would: model and tokenizer.

    But for one thing: on some CPUs bitsandbytes takes a coarser kernel in eval mode, which the run never uses.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    loading: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}, "attn_implementation": settings.attention}
    if merge == "none":
        quantization = quantization_config(settings.quantization, dtype)
        name, revision = resolve_model(settings.model), settings.revision or "main"
        base = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, quantization_config=quantization, **loading
        )
        keep_trainable(base)
        model = PeftModel.from_pretrained(base, str(target))
    else:
        model = AutoModelForCausalLM.from_pretrained(str(target), **loading)
    return _logits(model, AutoTokenizer.from_pretrained(str(target)), texts)


@torch.no_grad()
def _logits(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[torch.Tensor]:
    """Logits `[positions, vocabulary]` of the last positions of each text, one text at a time: no padding."""
    device = next(model.parameters()).device
    found = []
    with eval_mode(model.modules()):
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"][:PROBE_TOKENS]], device=device)
            last = min(PROBE_POSITIONS, ids.shape[1])  # PEFT's prompt tuning has logits of virtual tokens, too
            output = model(input_ids=ids, use_cache=False, logits_to_keep=last)
            found.append(output.logits[0, -last:].float().cpu())
    return found


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
