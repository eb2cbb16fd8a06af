"""Nothing is unpickled: a pickle is a program, and `weights_only` has let some through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

from seekr_lite.common.errors import UserError


@contextmanager
def no_pickle() -> Iterator[None]:
    """Inside the block `torch.load` refuses. Libraries fall back to it in corners that an argument does not reach: a
    model's index of safetensors may name a pickle as one of its parts."""

    def refuse(file: Any, *arguments: Any, **options: Any) -> NoReturn:
        raise UserError(f"{file}: a pickle, and other weights than safetensors are never loaded; convert it first")

    with patch("torch.load", refuse):
        yield
