"""Turns the validation errors of a recipe into lines for people: file, line, key, what is allowed, nearest spelling."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

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
            header = re.match(r"\s*\[\s*([\w.\"'-]+)\s*\]", line)
            if header:
                current = header[1].strip("\"'")
                if current == section:
                    section_line = number
                    if key is None:
                        return number
                continue
            name = re.match(r"\s*([\w.\"'-]+)\s*=", line)
            if not name:
                continue
            written = name[1].replace('"', "").replace("'", "")
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
    between = list(together)
    count = f"{len(by_key) + len(between)} problems" if len(by_key) + len(between) > 1 else "a problem"
    lines = [_describe(problems, recipe, source) for problems in list(by_key.values())[:MAX_PROBLEMS_SHOWN]]
    lines += [
        f"{source.place(one.section, one.key)}: {one.section}.{one.key}: {one.message}"
        for one in between[: MAX_PROBLEMS_SHOWN - len(lines)]
    ]
    if len(lines) < len(by_key) + len(between):
        lines.append(f"and {len(by_key) + len(between) - len(lines)} more")
    return f"{source.name} has {count}:\n" + "\n".join(f"  {line}" for line in lines)


def _describe(problems: list[Any], recipe: type[BaseModel], source: RecipeSource) -> str:
    problem = problems[0]
    location = [brief(str(part)) for part in problem["loc"]]
    kind, given = problem["type"], problem.get("input")
    section = location[0] if location else ""
    key = location[1] if len(location) > 1 else None
    name = ".".join(part for part in (section, key) if part)
    place = source.place(section, key)
    if kind == "extra_forbidden":
        if key is None:
            return (
                f"{place}: unknown section [{section}]{nearest(section, recipe.model_fields)}; allowed: "
                + ", ".join(recipe.model_fields)
            )
        fields = _section(recipe, section).model_fields
        return f"{place}: unknown key {name}{nearest(key, fields)}; allowed in [{section}]: {', '.join(fields)}"
    if kind == "missing":
        what = f"section [{section}]" if key is None else f"key {name}"
        return f"{place}: the {what} is needed{_about(recipe, section, key)}"
    suggestion = nearest(given, _choices(recipe, section, key)) if isinstance(given, str) else ""
    allowed = " or ".join(dict.fromkeys(_allowed(problem) for problem in problems))
    hints = f"{suggestion}{_about(recipe, section, key)}"
    return f"{place}: {name} = {shown(given)} is not allowed: it should be {allowed}{hints}"


def _allowed(problem: Any) -> str:
    """`Input should be a valid integer` -> `an integer`, in the words of TOML."""
    words = str(problem["msg"]).replace("Input should be ", "").replace("valid ", "")
    for python, toml in {"tuple": "list", "dictionary": "table", "a integer": "an integer"}.items():
        words = words.replace(python, toml)
    return re.sub(r"a table or instance of \w+", "a table", words)


def _section(recipe: type[BaseModel], section: str) -> type[BaseModel]:
    annotation = recipe.model_fields[section].annotation
    assert isinstance(annotation, type)
    return annotation


def _choices(recipe: type[BaseModel], section: str, key: str | None) -> list[str]:
    if section not in recipe.model_fields or key is None:
        return []
    info = _section(recipe, section).model_fields.get(key)
    return [word for word in _words(info.annotation) if isinstance(word, str)] if info else []


def _words(annotation: Any) -> list[Any]:
    words: list[Any] = []
    for argument in get_args(annotation):
        words += _words(argument) if get_args(argument) else [argument]
    return words


def _about(recipe: type[BaseModel], section: str, key: str | None) -> str:
    if key is None or section not in recipe.model_fields:
        return ""
    info = _section(recipe, section).model_fields.get(key)
    return f" ({info.description})" if info and info.description else ""


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
    return [
        *_check_texts(values),
        *_check_data(_table(values, "data")),
        *_check_epochs(values),
        *_check_method(_table(values, "method")),
    ]


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


def _check_epochs(values: Mapping[str, Any]) -> list[Problem]:
    epochs, data = _table(values, "train").get("epochs"), _table(values, "data")
    tasks = _names(data)
    if not isinstance(epochs, tuple) or tasks is None or data.get("format") == "python" or len(epochs) == len(tasks):
        return []
    message = f"{len(epochs)} numbers for {len(tasks)} tasks; give one number for all, or one per task"
    return [Problem("train", "epochs", message)]


def _check_method(method: Mapping[str, Any]) -> list[Problem]:
    name = method.get("name")
    if not isinstance(name, str) or name in METHODS or name in (known := method_names()):
        return []
    message = f'no method is called "{brief(name)}"{nearest(name, known)}; allowed: {", ".join(known)}'
    return [Problem("method", "name", message)]


def _table(values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    table = values.get(section)
    return table if isinstance(table, Mapping) else {}


def _names(data: Mapping[str, Any]) -> tuple[str, ...] | None:
    tasks = data.get("tasks", ())
    return tasks if isinstance(tasks, tuple) and all(isinstance(name, str) for name in tasks) else None
