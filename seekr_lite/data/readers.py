"""The readers, by `data.format`. A new benchmark is one function here or one file beside this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import MAX_TOY_ROWS, UserError, check_task_name
from seekr_lite.common.files import user_path
from seekr_lite.data.rows import (
    _both_splits,
    _task_folder,
    _unknown_task,
    examples,
    hold_out,
    read_rows,
)
from seekr_lite.data.superni import read_superni
from seekr_lite.data.task import Example, Task
from seekr_lite.data.trace import read_trace

if TYPE_CHECKING:
    from seekr_lite.recipe.recipe import DataSettings


TOY_TRAIN_ROWS, TOY_TEST_ROWS = 200, 50
SPLIT_FILES = {
    "jsonl": "train.jsonl and test.jsonl",
    "trace": "train.json and test.json",
    "superni": "train.json and test.json",
}


def load_tasks(settings: DataSettings) -> list[Task]:
    """Reads the tasks of a recipe in order, with validation rows held out and limits applied.

    Raises:
        UserError: all that is wrong with any of them, at once.
    """
    reader = READERS[settings.format]
    tasks, problems = [], []
    if settings.path and settings.format != "datasets" and not _is_folder(user_path(settings.path)):
        raise UserError(
            f"data.path {settings.path}: there is no such folder, seen from where the command was called; it has to "
            f"hold a folder for each task, named as in data.tasks, with {SPLIT_FILES.get(settings.format, 'its rows')}"
        )
    for name in dict.fromkeys(settings.tasks):
        if settings.tasks.count(name) > 1:
            problems.append(f"data.tasks: {name} is named more than once; name each task once")
        try:
            check_task_name(name)
            tasks.append(_finish(reader(name, settings), settings))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return tasks


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no folder has such a name, or nobody may look
        return False


def _finish(task: Task, settings: DataSettings) -> Task:
    train, validation = hold_out(task.train, settings.validation_rows, task.name)
    return Task(
        name=task.name,
        train=tuple(train[: settings.train_limit]),
        test=task.test[: settings.test_limit],
        validation=tuple(validation),
        metric=settings.metric or task.metric,
        extraction=settings.extraction or task.extraction,
        max_new_tokens=task.max_new_tokens,
    )


def read_jsonl(name: str, settings: DataSettings) -> Task:
    """Your own tasks: `<path>/<task>/train.jsonl` and `test.jsonl` (or .json), or `<path>/<task>.train.jsonl`."""
    root = user_path(settings.path or "")

    def split(which: str) -> list[Example]:
        folder = root / name
        candidates = [folder / f"{which}.jsonl", folder / f"{which}.json", root / f"{name}.{which}.jsonl"]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            if not folder.is_dir() and not list(root.glob(f"{name}.*.jsonl")):
                _task_folder(root, name)
            raise UserError(f"{candidates[0]}: this file is missing (or {', '.join(map(str, candidates[1:]))})")
        return examples(read_rows(found, root), str(found), settings.prompt_column, settings.answer_column)

    train, test = _both_splits(split)
    return Task(name, train, test, metric="exact_match", extraction="strip")


SAFE_BUILDERS = ("json", "csv", "parquet", "arrow", "text")  # readers of `datasets` that know no pickle and no archive


def read_datasets(name: str, settings: DataSettings) -> Task:
    """The library `datasets`: `path` is a hub id with the task as its configuration, or a local folder with a folder
    of data files per task. No code of a dataset is ever run."""
    import datasets

    path = settings.path or ""
    root = user_path(path)
    local = root / name
    _refuse_links_outside(local, root)

    def split(which: str) -> list[Example]:
        try:
            builder = (
                datasets.load_dataset_builder(str(local))
                if local.is_dir()
                else datasets.load_dataset_builder(path, name)
            )
            _refuse_unsafe_files(builder, root, f"data.path {path}, task {name}")
            builder.download_and_prepare()
            found = builder.as_dataset(split=which)
        except UserError:
            raise
        except Exception as error:  # the library raises whatever its many backends raise
            raise UserError(
                f"data.path {path}, task {name}, split {which}: `datasets` cannot load it: "
                f"{(str(error) or repr(error)).splitlines()[0].rstrip('.')}. "
                "Give a local folder with one folder of data files per task, or a hub id that can be reached"
            ) from None
        return examples(list(found), f"{path} {name} {which}", settings.prompt_column, settings.answer_column)

    train, test = _both_splits(split, settings.train_split, settings.test_split)
    return Task(name, train, test, metric="exact_match", extraction="strip")


def _refuse_unsafe_files(builder: Any, root: Path, where: str) -> None:
    """Looks at what the library is about to read: a README of the data may name any file, and any reader."""
    if builder.name not in SAFE_BUILDERS:
        raise UserError(
            f"{where}: its files would be read as {builder.name}; only {', '.join(SAFE_BUILDERS)} files are read"
        )
    local = root.is_dir()
    for file in (str(file) for files in (builder.config.data_files or {}).values() for file in files):
        inside = "://" not in file and Path(file).resolve().is_relative_to(root.resolve())
        if not (inside if local else file.startswith("hf://")):
            raise UserError(f"{where}: {file} lies outside of the data, and such files are not read")


def _refuse_links_outside(folder: Path, root: Path) -> None:
    """The library opens files itself, so links are looked at first. A folder that is not there has none."""
    for path in (folder, *folder.rglob("*")):
        try:
            outside = not path.resolve().is_relative_to(root.resolve())
        except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError before Python 3.13
            raise UserError(f"{path}: cannot be read: {error}") from None
        if outside:
            raise UserError(f"{path}: this link leads outside of {root}, and such links are not followed")


def read_toy(name: str, settings: DataSettings) -> Task:
    """The toy tasks of the built-in tiny base (`toy.py`), the same rows for every seed."""
    from seekr_lite.data.toy import TOY_TASKS, toy_task

    if name not in TOY_TASKS:
        raise UserError(_unknown_task(name, TOY_TASKS))
    # A fifth at most is held out, so that many rows remain whatever `validation_rows` says.
    train_rows = settings.train_limit or TOY_TRAIN_ROWS
    spare = min(settings.validation_rows, train_rows // 4)
    test_rows = settings.test_limit or TOY_TEST_ROWS
    if train_rows + test_rows > MAX_TOY_ROWS:
        raise UserError(
            f"data.train_limit and data.test_limit: toy tasks have at most {MAX_TOY_ROWS:,} rows; lower one of them"
        )
    return toy_task(name, train_rows + spare, test_rows, 0)


READERS: dict[str, Callable[[str, DataSettings], Task]] = {
    "trace": read_trace,
    "superni": read_superni,
    "jsonl": read_jsonl,
    "datasets": read_datasets,
    "toy": read_toy,
}
