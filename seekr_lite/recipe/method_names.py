"""The names that `method.name` takes, and what a name brings along where a recipe is silent.

A recipe is read without importing the package's methods, and torch with them. So what a recipe has to know of them
stands here; everything else is on the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from seekr_lite.common.errors import UserError

GROUP = "seekr_lite.methods"  # of entry points of installed packages

METHODS = {  # where the class is
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
# `recipe_defaults` (see `Method`) of our methods that have some, which take them from here. Those of seekr won on
# validation rows (docs/results.md, "What was tried").
DEFAULTS: dict[str, Mapping[str, Any]] = {
    "seekr": {"replay_step": "own", "replay_passes": 12.0, "attention_weight": 30.0},
}
REGISTERED: dict[str, Any] = {}  # name -> class, of methods registered in this process


def method_names() -> list[str]:
    """Every name that a recipe can use: the package's, the registered, the installed."""
    return list(dict.fromkeys([*METHODS, *REGISTERED, *installed_methods()]))


@cache
def installed_methods() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def class_of_others(name: str) -> Any:
    """The class of a method that is not the package's; None where there is none of this name.

    Raises:
        UserError: an installed package names it, and it cannot be imported.
    """
    if name in REGISTERED or name not in installed_methods():
        return REGISTERED.get(name)
    try:
        return installed_methods()[name].load()
    except (ImportError, AttributeError) as error:
        place = installed_methods()[name].value
        raise UserError(f'the method "{name}" is {place}, which cannot be imported: {error}') from None


def recipe_defaults(name: str) -> Mapping[str, Any]:
    """Values of `[method]` that this method takes where a recipe gives none; none for an unknown name."""
    if name in METHODS:
        return DEFAULTS.get(name, {})
    found: Mapping[str, Any] = getattr(class_of_others(name), "recipe_defaults", {})
    return found
