"""The readers, by `data.format`. A new benchmark is one function here or one file beside this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import MAX_TOY_ROWS, UserError
from seekr_lite.common.files import user_path
from seekr_lite.data.rows import example, examples, hold_out, parse_json, read_rows, read_text
from seekr_lite.data.task import Example, Task, check_task_name

if TYPE_CHECKING:
    from seekr_lite.recipe.recipe import DataSettings, Recipe
    from seekr_lite.runs.folder import RunFolder


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


def _both_splits(
    read: Callable[[str], list[Example]], train: str = "train", test: str = "test"
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Training and test rows. What is wrong with either of them is told at once."""
    found, problems = [], []
    for split in (train, test):
        try:
            found.append(tuple(read(split)))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found[0], found[1]


def read_trace(name: str, settings: DataSettings) -> Task:
    """TRACE (arXiv 2310.06762): `<path>/<task>/train.json` and `test.json`, lists of prompt and answer."""
    from seekr_lite.evaluation.extraction import trace_extraction
    from seekr_lite.evaluation.metrics import trace_metric

    root = user_path(settings.path or "")
    folder = _task_folder(root, name)

    def split(which: str) -> list[Example]:
        path = folder / f"{which}.json"
        return examples(_list(path, root), str(path), "prompt", "answer")

    train, test = _both_splits(split)
    return Task(name, train, test, metric=trace_metric(name), extraction=trace_extraction(name))


def read_superni(name: str, settings: DataSettings) -> Task:
    """SuperNI (arXiv 2204.07705): Natural-Instructions files; the prompt is the definition and the input.

    A task may be named by its number alone: `task363` and `363` are `task363_sst2_polarity_classification`.
    """
    from seekr_lite.evaluation.metrics import superni_metric

    root = user_path(settings.path or "")
    matches = _superni_folders(root, name)
    if len(matches) > 1:
        raise UserError(f'data.tasks: "{name}" could be {" or ".join(matches)} (in {root}); give the full name of one')
    folder = root / matches[0] if matches else _task_folder(root, name)
    same = [other for other in dict.fromkeys(settings.tasks) if _superni_folders(root, other) == [folder.name]]
    if len(same) > 1:
        raise UserError(f"data.tasks: {' and '.join(same)} are the same task, {folder.name}; name it once")
    train, test = _both_splits(lambda split: _superni_rows(folder / f"{split}.json", root))
    return Task(name, train, test, metric=superni_metric(folder.name), extraction="strip")


def _superni_folders(root: Path, name: str) -> list[str]:
    """The folders that a name can mean: its own, or all that start with that task number."""
    if (root / name).is_dir():
        return [name]
    number = f"task{name}" if name.isdecimal() else name
    return sorted(path.name for path in root.iterdir() if path.name.startswith(f"{number}_") and path.is_dir())


def _superni_rows(path: Path, root: Path) -> list[Example]:
    content = parse_json(read_text(path, root), str(path))
    if not isinstance(content, dict) or not isinstance(content.get("Instances"), list) or "Definition" not in content:
        raise UserError(f"{path}: a Natural-Instructions file is an object with `Definition` and `Instances`")
    definition = content["Definition"]
    definition = [definition] if isinstance(definition, str) else definition
    if not isinstance(definition, list) or not all(isinstance(part, str) for part in definition):
        raise UserError(f"{path}: `Definition` must be text or a list of texts")
    definition = " ".join(definition)
    found = []
    for number, row in enumerate(content["Instances"], start=1):
        if not isinstance(row, dict) or not isinstance(row.get("input"), str) or not row.get("output"):
            raise UserError(f"{path}, row {number}: an instance needs `input` (text) and `output` (text or a list)")
        outputs = row["output"] if isinstance(row["output"], list) else [row["output"]]
        if not all(isinstance(one, str) for one in outputs):
            raise UserError(f"{path}, row {number}: `output` must be text or a list of texts")
        outputs = [one.strip() for one in outputs if one.strip()]
        if not outputs:  # task511 as published has six such rows: nothing to learn or to be judged by
            continue
        prompt = f"{definition}\n\nInput: {row['input']}\nOutput:\n"
        instance = {"prompt": prompt, "answer": outputs[0], "references": outputs if len(outputs) > 1 else []}
        found.append(example(instance, f"{path}, row {number}", "prompt", "answer"))
    if not found:
        raise UserError(f"{path}: there are no rows in it; every split needs at least one")
    return found


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


def _list(path: Path, root: Path) -> list[Any]:
    rows = parse_json(read_text(path, root), str(path))
    if not isinstance(rows, list):
        raise UserError(f"{path}: a list of rows is needed, not {type(rows).__name__}")
    return rows


def _task_folder(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        raise UserError(f"{_unknown_task(name, sorted(p.name for p in root.iterdir() if p.is_dir()))} (in {root})")
    return root / name


def _unknown_task(name: str, known: tuple[str, ...] | list[str]) -> str:
    from seekr_lite.recipe.problems import nearest

    return f'data.tasks: there is no task "{name}"{nearest(name, known)}; there are {", ".join(known) or "none"}'


def gather_tasks(recipe: Recipe, folder: RunFolder | None, given: Sequence[Task]) -> list[Task]:
    """The tasks of the recipe in order: handed over, kept in the run folder, or read by the recipe's reader.

    Raises:
        UserError: all that is wrong with the data, at once.
    """
    from seekr_lite.data.readers import load_tasks

    found = {task.name: task for task in given}
    if folder is not None:
        refuse_other_rows(folder, given)
        for name in recipe.data.tasks:
            kept = folder.load_task(name)
            if kept is not None:
                found.setdefault(name, kept)
    missing = tuple(name for name in recipe.data.tasks if name not in found)
    if missing and recipe.data.format == "python":
        raise UserError(
            f'tasks {", ".join(missing)}: with data.format = "python" tasks are handed over in Python: '
            "run(recipe, tasks=[...])"
        )
    ordered: dict[str, Task] = {}
    if missing:
        read = load_tasks(recipe.data.model_copy(update={"tasks": missing}))
        ordered = dict(zip(missing, read, strict=True))
    sequence = [found.get(name) or ordered[name] for name in recipe.data.tasks]
    if not sequence:
        raise UserError("data.tasks: name at least one task")
    check_metrics(sequence)
    return sequence


def refuse_other_rows(folder: RunFolder, given: Sequence[Task]) -> None:
    """Raises `UserError` where a task is handed over that the folder keeps with other rows."""
    for task in given:
        if folder.load_task(task.name) not in (None, task):
            raise UserError(
                f"{folder.path}: the task {task.name} was handed over with other rows before; hand over the same ones, "
                "or none, or give the new rows another name (or begin anew: fresh=True)"
            )


def check_metrics(tasks: list[Task]) -> None:
    """Raises `UserError` where a task names a metric or an extraction that does not exist."""
    from seekr_lite.evaluation.extraction import EXTRACTIONS
    from seekr_lite.evaluation.metrics import METRICS
    from seekr_lite.recipe.problems import nearest

    for task in tasks:
        for kind, name, known in (
            ("metric", task.metric, METRICS),
            ("extraction", task.extraction, EXTRACTIONS),
        ):
            if name not in known:
                raise UserError(
                    f'task {task.name}: no {kind} is called "{name}"{nearest(name, known)}; allowed: {", ".join(known)}'
                )
