"""seekr-lite: continual learning of a quantised language model on one consumer GPU.

    import seekr_lite as sl

    run = sl.run("recipes/quickstart.toml", output="runs/first")
    print(run.scores)

The names below are the public API. They are loaded when first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seekr_lite.model.no_foreign_code import guard_against_hub_code

if TYPE_CHECKING:
    from seekr_lite.api import Run, compare, open_run, run, score_task_heads
    from seekr_lite.common.errors import UserError
    from seekr_lite.data.task import Example, Task
    from seekr_lite.evaluation.scoreboard import Scoreboard
    from seekr_lite.methods.method import Method
    from seekr_lite.methods.registry import register_method
    from seekr_lite.recipe.recipe import Recipe
    from seekr_lite.tools.compare.comparison import Comparison
    from seekr_lite.tools.heads.heads import Heads
    from seekr_lite.training.learner import Learner

_HOMES = {
    "Comparison": "seekr_lite.tools.compare.comparison",
    "Example": "seekr_lite.data.task",
    "Heads": "seekr_lite.tools.heads.heads",
    "Learner": "seekr_lite.training.learner",
    "Method": "seekr_lite.methods.method",
    "Recipe": "seekr_lite.recipe.recipe",
    "Run": "seekr_lite.api",
    "Scoreboard": "seekr_lite.evaluation.scoreboard",
    "Task": "seekr_lite.data.task",
    "UserError": "seekr_lite.common.errors",
    "compare": "seekr_lite.api",
    "open_run": "seekr_lite.api",
    "register_method": "seekr_lite.methods.registry",
    "run": "seekr_lite.api",
    "score_task_heads": "seekr_lite.api",
}

__all__ = [
    "Comparison",
    "Example",
    "Heads",
    "Learner",
    "Method",
    "Recipe",
    "Run",
    "Scoreboard",
    "Task",
    "UserError",
    "compare",
    "open_run",
    "register_method",
    "run",
    "score_task_heads",
]


guard_against_hub_code()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'seekr_lite' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
