"""What a method's name brings along: values of `[method]` where a recipe does not give them.

The fields' own defaults are the paper's. Those of `seekr` won on validation rows (docs/results.md, "What was
tried"); `seekr-paper` is the same method as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

DEFAULT_METHOD = "seekr"
METHOD_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "seekr": {"replay_step": "own", "replay_passes": 12.0, "attention_weight": 30.0},
}
HEADS_FOLDER = "heads"  # in a run folder: what a method that scores heads found
SCORING_METHODS = ("seekr", "seekr-paper")  # ours that score heads, and hold old rows by their attention maps
METHODS: dict[str, str] = {
    "sequential": "seekr_lite.methods.baselines:Sequential",
    "replay": "seekr_lite.methods.baselines:Replay",
    "derpp": "seekr_lite.methods.derpp:DarkExperienceReplay",
    "seekr": "seekr_lite.methods.seekr:Seekr",
    "seekr-paper": "seekr_lite.methods.seekr:PublishedSeekr",
    "ewc": "seekr_lite.methods.ewc:ElasticWeightConsolidation",
    "lwf": "seekr_lite.methods.lwf:LearningWithoutForgetting",
    "olora": "seekr_lite.methods.olora:OrthogonalLora",
    "pp": "seekr_lite.methods.pp:ProgressivePrompts",
    "l2p": "seekr_lite.methods.l2p:LearningToPrompt",
    "lfpt5": "seekr_lite.methods.lfpt5:Lfpt5",
    "joint": "seekr_lite.methods.baselines:Joint",
    "isolated": "seekr_lite.methods.baselines:Isolated",
}
GROUP = "seekr_lite.methods"
REGISTERED: dict[str, Any] = {}  # name -> class, of methods registered in this process


def method_names() -> list[str]:
    """Every name that a recipe can use: the package's, the registered, the installed."""
    return list(dict.fromkeys([*METHODS, *REGISTERED, *installed_methods()]))


@cache
def installed_methods() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
