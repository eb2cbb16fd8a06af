"""The sizes of the base: packaged for the models that our recipes name, else from a `config.json` that is here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError
from seekr_lite.model.base import load_config, resolve_model

if TYPE_CHECKING:
    import torch

    from seekr_lite.recipe.recipe import BaseSettings

PACKAGED = Path(__file__).parent / "models"


def model_config(settings: BaseSettings) -> Any:
    """The configuration of the base; nothing is downloaded.

    Raises:
        UserError: it is neither a folder, nor packaged, nor in the cache.
    """
    from transformers import AutoConfig

    source = resolve_model(settings.model)
    packaged = PACKAGED / f"{settings.model.replace('/', '--')}.json"
    if Path(source).is_dir():
        return load_config(settings)
    if packaged.is_file():
        return AutoConfig.from_pretrained(packaged)
    try:
        return AutoConfig.from_pretrained(
            source, revision=settings.revision or "main", trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError):
        known = ", ".join(sorted(path.stem.replace("--", "/") for path in PACKAGED.glob("*.json")))
        raise UserError(
            f"base.model {settings.model}: its sizes are not known here, and plan downloads nothing. Give a folder "
            f"that holds its config.json, or fetch that file once: `hf download {settings.model} config.json`. "
            f"Packaged are {known}"
        ) from None


def planned_dtype(settings: BaseSettings) -> torch.dtype:
    """What the run computes in; "auto" is taken for a GPU with bfloat16, unless the recipe says "cpu"."""
    import torch

    if settings.dtype == "auto":
        return torch.float32 if settings.device == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype
