"""The names that `method.name` takes, and what a name brings along where a recipe is silent.

A recipe is read without importing the package's methods, and torch with them. So what a recipe has to know of them
stands here; everything else is on the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from seekr_lite.common.errors import UserError

GROUP = "seekr_lite.methods"  # of entry points of installed packages


@dataclass(frozen=True)
class PackageMethod:
    """Where the class is, and its `recipe_defaults` (see `Method`), which the class takes from here."""

    place: str
    recipe_defaults: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, PackageMethod] = {
    "sequential": PackageMethod("seekr_lite.methods.baselines:Sequential"),
    "replay": PackageMethod("seekr_lite.methods.baselines:Replay"),
    "derpp": PackageMethod("seekr_lite.methods.derpp:DarkExperienceReplay"),
    "seekr": PackageMethod(
        "seekr_lite.methods.seekr:Seekr",  # what won on validation rows (docs/results.md, "What was tried")
        {"replay_step": "own", "replay_passes": 12.0, "attention_weight": 30.0},
    ),
    "seekr-paper": PackageMethod("seekr_lite.methods.seekr:PublishedSeekr"),  # as published: the fields' own defaults
    "ewc": PackageMethod("seekr_lite.methods.ewc:ElasticWeightConsolidation"),
    "lwf": PackageMethod("seekr_lite.methods.lwf:LearningWithoutForgetting"),
    "olora": PackageMethod("seekr_lite.methods.olora:OrthogonalLora"),
    "pp": PackageMethod("seekr_lite.methods.pp:ProgressivePrompts"),
    "l2p": PackageMethod("seekr_lite.methods.l2p:LearningToPrompt"),
    "lfpt5": PackageMethod("seekr_lite.methods.lfpt5:Lfpt5"),
    "joint": PackageMethod("seekr_lite.methods.baselines:Joint"),
    "isolated": PackageMethod("seekr_lite.methods.baselines:Isolated"),
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
        return METHODS[name].recipe_defaults
    found: Mapping[str, Any] = getattr(class_of_others(name), "recipe_defaults", {})
    return found
