"""What tests share: where the reference material lies, and a small run on the built-in base."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

import seekr_lite as sl
from seekr_lite.common.progress import Listener
from seekr_lite.recipe.recipe import Recipe

ROOT = Path(__file__).parents[1]
SHARED = ROOT / ".." / "shared"

# The same examples every time, and no deadline: a busy machine is no error.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; has to stand before anything imports triton

torch.set_num_threads(1)  # the built-in base is so small that threads only wait for each other


def two_toy_tasks(output: Path, **sections: dict[str, Any]) -> Recipe:
    """A recipe of two toy tasks that ends in seconds; sections can be changed."""
    recipe = Recipe.from_toml(ROOT / "recipes" / "quickstart.toml").with_(
        data={"tasks": ("shade", "keeper"), "train_limit": 32, "test_limit": 6, "validation_rows": 4},
        train={"epochs": 1},
        method={"replay_passes": 1.0},
        run={"output": str(output)},
    )
    return recipe.with_(**sections)


@pytest.fixture
def small_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """`two_toy_tasks` with its run in the test's own folder."""
    return partial(two_toy_tasks, tmp_path / "run")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """A finished run of two toy tasks without replay, for tests that only read it."""
    recipe = two_toy_tasks(tmp_path_factory.mktemp("finished") / "run", method={"name": "sequential"})
    return sl.run(recipe, listener=Listener())
