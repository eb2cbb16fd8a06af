"""JSON as its standard has it. Python's reader takes a key twice (the last one counts), and NaN and Infinity."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from seekr_lite.common.errors import shown


def strict_json(text: str) -> Any:
    """Raises `ValueError` where the text is no JSON, holds a key twice, or a number that JSON does not have, and
    `RecursionError` where it is nested too deep."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} stands twice in an object; keep one of them")
    return values


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; write a number, or null")
