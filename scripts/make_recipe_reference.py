"""Writes docs/recipe.md: every key of a recipe, described beside the fields in `seekr_lite/recipe/recipe.py`.

python scripts/make_recipe_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seekr_lite.recipe.recipe import Recipe

TARGET = Path(__file__).parents[1] / "docs" / "recipe.md"
ENDLESS = 10**9  # bounds that only keep nonsense out are not worth a word
HEAD = """# Recipe reference

A recipe is a TOML file. Every key may be changed on the command line: `--set section.key=value`. Keys without a default
must be given. Written by `scripts/make_recipe_reference.py` from `seekr_lite/recipe/recipe.py`.
"""


def reference() -> str:
    schema = Recipe.model_json_schema()
    parts = [HEAD]
    for section, place in schema["properties"].items():
        definition = schema["$defs"][(place.get("$ref") or place["allOf"][0]["$ref"]).rpartition("/")[2]]
        about = definition["description"].split(": ", 1)[1]
        parts.append(f"## `[{section}]`\n\n{about[0].upper()}{about[1:]}\n")
        parts.append("| key | allowed | default | what it does |\n|---|---|---|---|")
        needed = definition.get("required", [])
        for key, field in definition["properties"].items():
            default = "" if key in needed else show(field.get("default"))
            cells = (f"`{key}`", allowed(field), default, field["description"])
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def show(value: Any) -> str:
    return "none" if value is None else f"`{json.dumps(value)}`"


def allowed(field: dict[str, Any]) -> str:
    """What a key takes, in words, from its JSON schema."""
    if "anyOf" in field:
        kinds = [allowed(one) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if field["type"] == "array":
        items = field.get("prefixItems") or [field["items"]]
        return f"list of {allowed(items[0])}"
    if field["type"] == "object":
        return "table"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[name]:g}" for name, sign in bounds.items() if name in field and field[name] < ENDLESS]
    return " ".join([names[field["type"]], ", ".join(limits)]).strip()


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
