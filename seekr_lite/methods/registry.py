"""The methods by name. A new method is one file in this folder and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seekr_lite.methods.method import Method

METHODS: dict[str, str] = {
    "sequential": "seekr_lite.methods.sequential:Sequential",
    "replay": "seekr_lite.methods.replay:Replay",
    "derpp": "seekr_lite.methods.derpp:DarkExperienceReplay",
    "seekr": "seekr_lite.methods.seekr:Seekr",
    "joint": "seekr_lite.methods.joint:Joint",
    "isolated": "seekr_lite.methods.isolated:Isolated",
}


def method_class(name: str) -> type[Method]:
    """The class of a method; its module is imported only now, so that recipes are read without torch."""
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found
