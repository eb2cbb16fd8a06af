"""What a method's name brings along: values of `[method]` where a recipe does not give them.

The fields' own defaults are the paper's. Those of `seekr` won on validation rows (docs/results.md, "What was
tried"); `seekr-paper` is the same method as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_METHOD = "seekr"
METHOD_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "seekr": {"replay_step": "own", "replay_passes": 12.0, "attention_weight": 30.0},
}
HEADS_FOLDER = "heads"  # in a run folder: what a method that scores heads found
SCORING_METHODS = ("seekr", "seekr-paper")  # ours that score heads, and hold old rows by their attention maps
