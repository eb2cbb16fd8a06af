"""The recipes that come with the package, and a new recipe to be edited.

`seekr_lite/recipe/recipes` is a link to `recipes/`; an installed package has the files themselves there.
"""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.common.files import user_file, user_path
from seekr_lite.recipe.method_names import recipe_defaults
from seekr_lite.recipe.recipe import Recipe

FOLDER = Path(__file__).parent / "recipes"
WIDTH = 116
OPENING = """\
# My own tasks, one after the other.
#
#     seekr-lite data check {command}      # first: are the rows what they should be?
#     seekr-lite plan {command}            # does it fit on my card, and how long will it take?
#     seekr-lite run {command}
#
# It needs a folder with one folder per task, each with train.jsonl and test.jsonl, whose rows are
# {{"prompt": "...", "answer": "..."}}. Lines with a single # are every other key there is, with its default.
"""
MINE: dict[tuple[str, str], Any] = {  # what everybody has to look at
    ("base", "model"): "Qwen/Qwen2.5-7B-Instruct",
    ("data", "format"): "jsonl",
    ("data", "path"): "my-tasks",
    ("data", "tasks"): ("first", "second"),
    ("train", "epochs"): 3,
    ("method", "name"): "seekr",
}


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe of the package: its name, and the first sentence of its opening comment."""

    name: str
    about: str
    text: str


def shipped_recipes() -> list[ShippedRecipe]:
    """All recipes of the package, by name."""
    return [_read(path) for path in sorted(FOLDER.glob("*.toml"), key=lambda path: path.stem)]


def shipped_recipe(name: str) -> ShippedRecipe:
    """One recipe, with or without `.toml`. Raises `UserError` where the package has none of that name."""
    known = {one.name: one for one in shipped_recipes()}
    name = name.removesuffix(".toml")
    if name not in known:
        raise UserError(f'recipe "{name}": the package has {", ".join(known)}{nearest(name, known)}')
    return known[name]


def write_new_recipe(file: str | Path, name: str | None = None) -> None:
    """Writes a commented recipe to edit: a copy of a shipped one, or one for tasks of your own, with every key.

    Raises:
        UserError: the file exists or cannot be written, it is not called *.toml, or no recipe is called `name`.
    """
    path = user_path(file)
    if path.suffix != ".toml":
        raise UserError(f"{file}: a recipe is a TOML file; call it {path.name}.toml")
    text = own_tasks_recipe(str(file)) if name is None else _copy(shipped_recipe(name), path)
    if path.exists():
        raise UserError(f"{file}: this file exists, and nothing is overwritten; name another one")
    with user_file(path) as new:
        new.write_text(text, encoding="utf-8")


def own_tasks_recipe(file: str) -> str:
    """A recipe for tasks of one's own, made from the fields of a recipe, so that it never lags behind them."""
    parts = [OPENING.format(command=file)]
    for section, place in Recipe.model_fields.items():
        keys: dict[str, FieldInfo] = place.annotation.model_fields  # type: ignore[union-attr]
        parts.append(f"[{section}]\n" + "".join(_line(section, key, field) for key, field in keys.items()))
    return "\n".join(parts)


def _line(section: str, key: str, field: FieldInfo) -> str:
    """A key with what it does above it; commented out where the default serves. A value in JSON is one in TOML, too."""
    comment = "".join(f"## {line}\n" for line in textwrap.wrap(field.description or "", WIDTH))
    if (section, key) in MINE:
        return f"{comment}{key} = {json.dumps(MINE[(section, key)])}\n"
    default = field.get_default()
    if section == "method":
        default = recipe_defaults(MINE[("method", "name")]).get(key, default)
    return f"{comment}# {key} = {'...' if default is None else json.dumps(default)}\n"


def _read(path: Path) -> ShippedRecipe:
    text = path.read_text(encoding="utf-8")
    opening = re.match(r"(?:#.*\n)+", text)
    lines = (opening[0] if opening else "").splitlines()
    about = " ".join(line.removeprefix("#").strip() for line in lines).split(". ")[0]
    return ShippedRecipe(path.stem, about.rstrip("."), text)


def _copy(recipe: ShippedRecipe, path: Path) -> str:
    """Its commands name the new file, and its run goes into a folder of the new name."""
    text = recipe.text.replace(f"recipes/{recipe.name}.toml", str(path))
    return text.replace(f'"runs/{recipe.name}"', json.dumps(f"runs/{path.stem}"))
