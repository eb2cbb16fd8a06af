"""Turns the validation errors of a recipe into lines for people: file, line, key, what is allowed, nearest spelling."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from seekr_lite.common.errors import MAX_PROBLEMS_SHOWN, MAX_TASKS, UserError, brief, check_task_name, nearest, shown
from seekr_lite.recipe.method_names import METHODS, method_names


@dataclass
class RecipeSource:
    """Where the values of a recipe came from."""

    name: str
    text: str
    overridden: dict[tuple[str, str], str] = field(default_factory=dict)

    def place(self, section: str, key: str | None) -> str:
        """`recipe.toml:12` for a key that is written in the file, `--set ...` for an overridden one."""
        if key is not None and (section, key) in self.overridden:
            return f"--set {self.overridden[(section, key)]}"
        line = self._line(section, key)
        return self.name if line is None else f"{self.name}:{line}"

    def _line(self, section: str, key: str | None) -> int | None:
        current, section_line = "", None
        for number, line in enumerate(self.text.splitlines(), start=1):
            found = re.match(r"\s*(?:\[\s*([\w.\"'-]+)\s*\]|([\w.\"'-]+)\s*=)", line)
            if found and found[1]:
                current = found[1].strip("\"'")
                if current == section:
                    section_line = number
                    if key is None:
                        return number
            elif found:
                written = found[2].replace('"', "").replace("'", "")
                dotted = written if not current else f"{current}.{written}"
                if dotted in (f"{section}.{key}", section):
                    return number
        return section_line


def describe_errors(
    error: ValidationError | None, together: Iterable[Problem], recipe: type[BaseModel], source: RecipeSource
) -> str:
    """The problems of a recipe, one a line: those of single keys, then those between keys; of very many, the first."""
    by_key: dict[tuple[Any, ...], list[Any]] = {}  # a key that allows several kinds has one problem for each
    for problem in error.errors(include_url=False) if error else []:
        by_key.setdefault(tuple(problem["loc"][:2]), []).append(problem)
    found: list[list[Any] | Problem] = [*by_key.values(), *together]
    count = f"{len(found)} problems" if len(found) > 1 else "a problem"
    lines = [_describe(one, recipe, source) for one in found[:MAX_PROBLEMS_SHOWN]]
    if len(found) > MAX_PROBLEMS_SHOWN:
        lines.append(f"and {len(found) - MAX_PROBLEMS_SHOWN} more")
    return f"{source.name} has {count}:\n" + "\n".join(f"  {line}" for line in lines)


def _describe(problems: list[Any] | Problem, recipe: type[BaseModel], source: RecipeSource) -> str:
    """A problem between keys, or all that is wrong with one key."""
    if isinstance(problems, Problem):
        return f"{source.place(problems.section, problems.key)}: {problems.section}.{problems.key}: {problems.message}"
    problem = problems[0]
    location = [brief(str(part)) for part in problem["loc"]]
    kind, given = problem["type"], problem.get("input")
    section = location[0] if location else ""
    key = location[1] if len(location) > 1 else None
    name = ".".join(part for part in (section, key) if part)
    place = source.place(section, key)
    info = None if key is None or section not in recipe.model_fields else _fields(recipe, section).get(key)
    about = f" ({info.description})" if info else ""
    if kind == "extra_forbidden":
        if key is None:
            return (
                f"{place}: unknown section [{section}]{nearest(section, recipe.model_fields)}; allowed: "
                + ", ".join(recipe.model_fields)
            )
        fields = _fields(recipe, section)
        return f"{place}: unknown key {name}{nearest(key, fields)}; allowed in [{section}]: {', '.join(fields)}"
    if kind == "missing":
        what = f"section [{section}]" if key is None else f"key {name}"
        return f"{place}: the {what} is needed{about}"
    suggestion = nearest(given, _words(info.annotation)) if info and isinstance(given, str) else ""
    allowed = " or ".join(dict.fromkeys(_allowed(problem) for problem in problems))
    return f"{place}: {name} = {shown(given)} is not allowed: it should be {allowed}{suggestion}{about}"


def _allowed(problem: Any) -> str:
    """`Input should be a valid integer` -> `an integer`, in the words of TOML."""
    words = str(problem["msg"]).replace("Input should be ", "").replace("valid ", "")
    for python, toml in {"tuple": "list", "dictionary": "table", "a integer": "an integer"}.items():
        words = words.replace(python, toml)
    return re.sub(r"a table or instance of \w+", "a table", words)


def _fields(recipe: type[BaseModel], section: str) -> dict[str, FieldInfo]:
    annotation = recipe.model_fields[section].annotation
    assert isinstance(annotation, type)
    fields: dict[str, FieldInfo] = annotation.model_fields
    return fields


def _words(annotation: Any) -> list[str]:
    """The texts that a type allows, however deep its `Literal` lies."""
    if isinstance(annotation, str):
        return [annotation]
    return [word for argument in get_args(annotation) for word in _words(argument)]


NO_TEXT = re.compile("[\0\ud800-\udfff]")
FORMATS_WITH_PATH = ("trace", "superni", "jsonl", "datasets")


@dataclass(frozen=True)
class Problem:
    """A key, and what is wrong with it."""

    section: str
    key: str
    message: str


def check_keys_together(values: Mapping[str, Any]) -> list[Problem]:
    """Every problem between keys; a value of a wrong type is passed over: pydantic says so."""
    data = _table(values, "data")
    problems = [*_check_texts(values), *_check_data(data)]
    epochs, tasks = _table(values, "train").get("epochs"), _names(data)
    if isinstance(epochs, tuple) and tasks is not None and len(epochs) != len(tasks) and data.get("format") != "python":
        message = f"{len(epochs)} numbers for {len(tasks)} tasks; give one number for all, or one per task"
        problems.append(Problem("train", "epochs", message))
    name = _table(values, "method").get("name")
    # Our own names first: whether an installed package brings a method takes longer to find out.
    if isinstance(name, str) and name not in METHODS and name not in (known := method_names()):
        message = f'no method is called "{brief(name)}"{nearest(name, known)}; allowed: {", ".join(known)}'
        problems.append(Problem("method", "name", message))
    return problems


def _check_texts(values: Mapping[str, Any]) -> list[Problem]:
    """No file can be called or hold such a text; otherwise that would be said late, in words that help nobody."""
    return [
        Problem(section, key, "a text cannot hold a NUL character, or half of a surrogate pair")
        for section in values
        for key, value in _table(values, section).items()
        for text in (value if isinstance(value, tuple) else (value,))
        if isinstance(text, str) and NO_TEXT.search(text)
    ][:MAX_PROBLEMS_SHOWN]


def _check_data(data: Mapping[str, Any]) -> list[Problem]:
    tasks, form = _names(data), data.get("format")
    if not isinstance(form, str) or tasks is None or form == "python":
        return []
    problems = []
    if not tasks:
        problems.append(Problem("data", "tasks", "name at least one task"))
    if form in FORMATS_WITH_PATH and not data.get("path"):
        problems.append(Problem("data", "path", f'is needed with format = "{form}"'))
    if len(tasks) > MAX_TASKS:
        return [*problems, Problem("data", "tasks", f"{len(tasks)} tasks; a run has at most {MAX_TASKS}")]
    repeated = sorted(name for name, count in Counter(tasks).items() if count > 1)
    if repeated:
        problems.append(Problem("data", "tasks", f"{', '.join(map(brief, repeated))} is named more than once"))
    for name in dict.fromkeys(tasks):
        try:
            check_task_name(name)
        except UserError as error:
            problems.append(Problem("data", "tasks", str(error)))
    return problems


def _table(values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    table = values.get(section)
    return table if isinstance(table, Mapping) else {}


def _names(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    tasks = data.get("tasks", ())
    return tasks if isinstance(tasks, tuple) and all(isinstance(name, str) for name in tasks) else None
