"""The methods by name. A new method of the package is one file in this folder and one line here.

Methods of others: a class under `@register_method`, in a notebook or script, or in an installed package that names it
as an entry point of the group "seekr_lite.methods". A recipe only ever names a method; it brings no code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from seekr_lite.recipe.method_names import METHODS, REGISTERED, installed_methods, method_names

if TYPE_CHECKING:
    from seekr_lite.methods.method import Method
    from seekr_lite.recipe.recipe import Recipe


MethodClass = TypeVar("MethodClass", bound="type[Method]")


def register_method(method: MethodClass) -> MethodClass:
    """A class decorator: recipes of this process can name the method. Registered anew (a cell run again), it replaces.

    Raises:
        UserError: the package has a method of that name.
    """
    from seekr_lite.common.errors import UserError

    if method.name in METHODS:
        raise UserError(f'the method "{method.name}" is one of the package; give yours another name')
    REGISTERED[method.name] = method
    return method


def method_class(name: str) -> type[Method]:
    """The class of a method; its module is imported only now, so that recipes are read without torch.

    Raises:
        UserError: no method has this name.
    """
    if name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        found: type[Method] = getattr(import_module(module), attribute)
        return found
    if name in REGISTERED:
        registered: type[Method] = REGISTERED[name]
        return registered
    if name in installed_methods():
        loaded: type[Method] = installed_methods()[name].load()
        return loaded
    from seekr_lite.common.errors import UserError

    raise UserError(f'no method is called "{name}" here; import what registers it first. Known: {method_names()}')


def with_options(recipe: Recipe) -> Recipe:
    """The recipe with all options of its method written out: its own, and defaults of the others.

    Raises:
        UserError: the method does not know an option, or there is no such method.
    """
    return recipe.with_(method={"options": method_class(recipe.method.name).read_options(recipe.method)})
