"""The quickstart shows what it should: sequential training forgets, the recipe's own method does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import seekr_lite as sl
from seekr_lite.common.progress import Listener

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart.toml"


@pytest.mark.slow
def test_sequential_training_forgets_and_seekr_keeps_most(tmp_path: Path) -> None:
    recipe = sl.Recipe.from_toml(QUICKSTART)
    scores = {
        name: sl.run(recipe.with_(method={"name": name}), output=tmp_path / name, listener=Listener()).scores
        for name in ("sequential", "seekr")
    }
    lost = {name: -(board.bwt or 0.0) for name, board in scores.items()}
    assert lost["sequential"] >= 25
    assert lost["seekr"] < lost["sequential"] / 2
    assert (scores["seekr"].op or 0) > (scores["sequential"].op or 0)
