"""Rows from files: JSON and JSON lines, with errors that name file and row. Nothing else is ever read or run."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seekr_lite.common.errors import MAX_FILE_BYTES, MAX_ROWS, MAX_TEXT_CHARACTERS, UserError, brief, nearest
from seekr_lite.common.files import strict_json
from seekr_lite.common.seeds import generator_for
from seekr_lite.data.task import Example


def refuse_link_outside(path: Path, root: Path) -> None:
    """Raises `UserError` where a link leads out of the folder of the data, or to itself."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError before Python 3.13
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not inside:
        raise UserError(f"{path}: this link leads outside of {root}, and such links are not followed")


def read_text(path: Path, root: Path) -> str:
    """The text of a data file inside `root`. Raises `UserError` where it is missing, too large, or leads outside."""
    refuse_link_outside(path, root)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device could go on for ever
            raise UserError(f"{path}: this is no plain file, and nothing else is read")
        if status.st_size > MAX_FILE_BYTES:
            raise UserError(f'{path}: larger than {MAX_FILE_BYTES:,} bytes; split it, or use data.format = "datasets"')
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: this file is missing") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is not UTF-8 text: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def parse_json(text: str, place: str) -> Any:
    """JSON, or a `UserError` with line and column."""
    try:
        return strict_json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{place}: this JSON cannot be read: {error}") from None


def read_rows(path: Path, root: Path) -> list[Any]:
    """The rows of a JSON list or of JSON lines."""
    text = read_text(path, root)
    if text.lstrip().startswith("["):
        rows = parse_json(text, str(path))
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = [parse_json(line, f"{path}:{number}") for number, line in lines if line.strip()]
    return list(rows)


def examples(rows: Sequence[Any], place: str, prompt_column: str, answer_column: str) -> list[Example]:
    """Rows of prompt and answer as examples. Raises `UserError` naming the first row that is none."""
    if len(rows) > MAX_ROWS:
        raise UserError(f"{place}: {len(rows):,} rows; at most {MAX_ROWS:,} are allowed, so split the task")
    found = [
        example(row, f"{place}, row {number}", prompt_column, answer_column) for number, row in enumerate(rows, start=1)
    ]
    if not found:
        raise UserError(f"{place}: there are no rows in it; every split needs at least one")
    return found


def example(row: Any, where: str, prompt_column: str, answer_column: str) -> Example:
    """One row as an example; its `references`, if any, are all right answers.

    Raises:
        UserError: it is none; names `where`.
    """
    if not isinstance(row, Mapping):
        raise UserError(f'{where}: a row must be an object like {{"{prompt_column}": ..., "{answer_column}": ...}}')
    prompt, answer = (_text(row, column, where) for column in (prompt_column, answer_column))
    references = row.get("references") or ()
    if not isinstance(references, list | tuple) or not all(isinstance(one, str) for one in references):
        raise UserError(f"{where}: `references` must be a list of texts")
    for one in references:
        _check_text(one, "references", where)
    return Example(prompt, answer, tuple(references))


def hold_out(rows: Sequence[Example], count: int, task: str) -> tuple[list[Example], list[Example]]:
    """(training rows, validation rows): `count` rows with different prompts, drawn by the task's name alone.

    All rows with a held-out prompt leave training, and at most a fifth of the rows leaves: a prompt that is repeated
    more often than there is room for is passed over, and the next one takes its place.
    """
    copies = Counter(row.prompt for row in rows)
    prompts, room = sorted(copies), len(rows) // 5
    generator = generator_for(0, "validation", task)
    drawn = generator.sample(prompts, min(count, room, len(prompts)))
    others = sorted(copies.keys() - set(drawn))
    generator.shuffle(others)
    held_out: list[str] = []
    for prompt in (*drawn, *others):
        if len(held_out) < count and copies[prompt] <= room:
            held_out.append(prompt)
            room -= copies[prompt]
    first = {row.prompt: row for row in reversed(rows)}
    left = set(held_out)
    return [row for row in rows if row.prompt not in left], [first[prompt] for prompt in held_out]


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    if column not in row:
        names = ", ".join(brief(name) for name in list(row)[:10])
        raise UserError(f"{where}: there is no `{column}`; the row has {names or 'nothing'}")
    value = row[column]
    if not isinstance(value, str):
        raise UserError(f"{where}: `{column}` must be text, not {type(value).__name__}")
    if not value.strip():
        raise UserError(f"{where}: `{column}` is empty")
    _check_text(value, column, where)
    return value


def _check_text(value: str, column: str, where: str) -> None:
    if value.encode("utf-8", "ignore").decode() != value:
        raise UserError(f"{where}: `{column}` holds half of a surrogate pair, which is no text")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise UserError(
            f"{where}: `{column}` has {len(value)} characters; at most {MAX_TEXT_CHARACTERS} are allowed, so cut it"
        )


def both_splits(
    read: Callable[[str], list[Example]], train: str = "train", test: str = "test"
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Training and test rows. What is wrong with either of them is said at once."""
    found, problems = [], []
    for split in (train, test):
        try:
            found.append(tuple(read(split)))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found[0], found[1]


def read_list(path: Path, root: Path) -> list[Any]:
    rows = parse_json(read_text(path, root), str(path))
    if not isinstance(rows, list):
        raise UserError(f"{path}: a list of rows is needed, not {type(rows).__name__}")
    return rows


def task_folder(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        raise UserError(f"{unknown_task(name, sorted(p.name for p in root.iterdir() if p.is_dir()))} (in {root})")
    return root / name


def unknown_task(name: str, known: tuple[str, ...] | list[str]) -> str:
    return f'data.tasks: there is no task "{name}"{nearest(name, known)}; there are {", ".join(known) or "none"}'
