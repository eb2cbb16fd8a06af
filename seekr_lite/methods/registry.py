"""The methods by name. A new method of the package is one file in this folder and one line in `method_names.py`.

Methods of others: a class under `@register_method`, in a notebook or script, or in an installed package that names it
as an entry point of the group "seekr_lite.methods". A recipe only ever names a method; it brings no code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from seekr_lite.common.errors import UserError
from seekr_lite.recipe.method_names import METHODS, REGISTERED, class_of_others, method_names

if TYPE_CHECKING:
    from seekr_lite.methods.method import Method
    from seekr_lite.recipe.recipe import Recipe


MethodClass = TypeVar("MethodClass", bound="type[Method]")


def register_method(method: MethodClass) -> MethodClass:
    """A class decorator: recipes of this process can name the method. Registered anew (a cell run again), it replaces.

    Raises:
        UserError: the package has a method of that name, or the class lacks what its traits promise.
    """
    if method.name in METHODS:
        raise UserError(f'the method "{method.name}" is one of the package; give yours another name')
    check_traits(method)
    REGISTERED[method.name] = method
    return method


def method_class(name: str) -> type[Method]:
    """The class of a method; its module is imported only now, so that recipes are read without torch.

    Raises:
        UserError: no method has this name, or an installed one lacks what its traits promise.
    """
    if name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        found: type[Method] = getattr(import_module(module), attribute)
        return found
    other: type[Method] | None = class_of_others(name)
    if other is None:
        raise UserError(f'no method is called "{name}" here; import what registers it first. Known: {method_names()}')
    check_traits(other)
    return other


def check_traits(method: type[Method]) -> None:
    """Raises `UserError` where a class lacks what its traits promise: before anything is learned, not after a task."""
    from seekr_lite.methods.method import Method
    from seekr_lite.recipe.recipe import MethodSettings

    if method.replays and method.replay_loss is Method.replay_loss:
        raise UserError(
            f'the method "{method.name}" has replays = True and no replay_loss: give it one, or keep rows for '
            "finish_task alone (keeps_samples = True)"
        )
    if method.joint and method.routed_by_task:
        raise UserError(f'the method "{method.name}" is joint, with one adapter for all tasks, and routed_by_task')
    MethodSettings.check_defaults(method.name, method.recipe_defaults)


def with_options(recipe: Recipe) -> Recipe:
    """The recipe with all options of its method written out: its own, and defaults of the others.

    Raises:
        UserError: the method does not know an option, or there is no such method.
    """
    return recipe.with_(method={"options": method_class(recipe.method.name).read_options(recipe.method)})
