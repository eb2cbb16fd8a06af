"""Errors that are for people: the user's mistake, said once and clearly, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """The input is wrong: what, where, what is allowed, how to mend it. Commands print it and end with 2."""

    exit_code = 2
    said_by_main = False  # every process of the run raises it, and another one says it (`processes.py`)


class Stopped(UserError):
    """The run cannot go on as things are; what is done is kept, and it goes on once the cause is gone. Ends with 3."""

    exit_code = 3


class Interrupted(Exception):
    """The run stopped in a way that the same command resumes. Commands end with `exit_code`: 3, or 130 for Ctrl-C."""

    def __init__(self, message: str, exit_code: int = 3) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def shown(value: Any) -> str:
    """A wrong value for a message: as Python writes it, cut to a length that can be read."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a very large {type(value).__name__}"
    return _cut(text)


def brief(name: str) -> str:
    """A name from outside for a message: line breaks and the like escaped, cut to a length that can be read."""
    return _cut(repr(name)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) < MAX_VALUE_SHOWN else text[: MAX_VALUE_SHOWN - 3] + "..."


MAX_RECIPE_BYTES = 256_000
MAX_RECIPE_DEPTH = 8  # tables and lists inside each other; a recipe needs 3
MAX_RECIPE_DOTS = 32  # in a line, outside of texts: Python's TOML reader takes very long over `a.a.a.a`
MAX_TASKS = 1_000
MAX_FILE_BYTES = 1_000_000_000  # a data file, and a JSON file of a run
MAX_ROWS = 10_000_000  # of a split
MAX_TEXT_CHARACTERS = 1_000_000  # a prompt, an answer, a reference
MAX_TOY_ROWS = 100_000  # of a toy task, training and test rows together
MAX_PROBLEMS_SHOWN = 20
MAX_VALUE_SHOWN = 80  # characters of a wrong value in a message


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean "rank"?`, or nothing where no choice is near."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def check_task_name(name: str) -> None:
    """Raises `UserError` unless `name` is safe as the name of a file inside the run folder."""
    allowed = name and all(c.isalnum() or c in "._-" for c in name) and not name.startswith(".")
    # File systems count bytes: 255 in a name, some of which the names of the run's files take.
    if not allowed or len(name) > 100 or len(name.encode("utf-8", "replace")) > 200:
        raise UserError(
            f"task name {shown(name)} cannot be used: a task name has 1 to 100 letters, digits, '.', '_' or '-' "
            "(at most 200 bytes), and does not start with '.'"
        )
