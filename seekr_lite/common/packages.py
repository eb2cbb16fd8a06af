"""Packages that come with an extra of the installation."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from seekr_lite.common.errors import UserError


def load_extra(module: str, extra: str) -> Any:
    """The module, or a `UserError` that says which extra of seekr-lite brings it."""
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(f'{package} is not installed; install it with: pip install "seekr-lite[{extra}]"') from None


def versions() -> dict[str, str]:
    """By package, Python and this one among them."""
    found = {"python": platform.python_version()}
    for package in ("seekr-lite", "torch", "transformers", "peft", "bitsandbytes"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
