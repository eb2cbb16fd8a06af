"""No code from the hub: libraries are loaded so that they do not see the package `kernels`.

Where it is installed, bitsandbytes downloads compiled code from the hub and runs it as soon as it is imported (seen
with 0.50.2, on CPUs with AVX512-BF16), and transformers does so for some models and kinds of attention (seen with
5.x). They decide when the modules below are imported, and many of our files and other libraries import them first. So
one guard stands where every import passes: `kernels` cannot be imported while these modules are, and both libraries
go on without it, for good. Nothing else of the process changes. What was imported before seekr-lite is not ours to
judge.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, NoReturn
from unittest.mock import patch

from seekr_lite.common.errors import UserError

GUARDED = ("bitsandbytes", "transformers.integrations.hub_kernels")


class HubCodeGuard(MetaPathFinder):
    """Finds the guarded modules as Python does, and loads them without `kernels`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in GUARDED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(_load, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def guard_against_hub_code() -> None:
    """Sets the guard up, once in a process."""
    if not any(isinstance(finder, HubCodeGuard) for finder in sys.meta_path):
        sys.meta_path.insert(0, HubCodeGuard())


def _load(load: Callable[[ModuleType], None], module: ModuleType) -> None:
    before = {name: sys.modules[name] for name in ("kernels",) if name in sys.modules}
    logger = logging.getLogger("bitsandbytes")  # it logs the advice to install `kernels`
    level = logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # Python's way to say: there is no such module
    logger.setLevel(logging.ERROR)
    try:
        load(module)
    finally:
        del sys.modules["kernels"]
        sys.modules.update(before)
        logger.setLevel(level)


@contextmanager
def no_pickle() -> Iterator[None]:
    """Inside the block `torch.load` refuses. Libraries fall back to it in corners that an argument does not reach: a
    model's index of safetensors may name a pickle as one of its parts."""

    def refuse(file: Any, *arguments: Any, **options: Any) -> NoReturn:
        raise UserError(f"{file}: a pickle, and other weights than safetensors are never loaded; convert it first")

    with patch("torch.load", refuse):
        yield
