"""How large what comes from outside may be: far above any need, so that no file fills the memory or the day."""

from __future__ import annotations

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
