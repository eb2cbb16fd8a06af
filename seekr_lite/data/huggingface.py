"""The library `datasets`: data of the hub, or local files in its formats. No code of a data set is ever run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_path
from seekr_lite.data.rows import both_splits, examples, refuse_link_outside
from seekr_lite.data.task import Example, Task
from seekr_lite.recipe.recipe import DataSettings

SAFE_BUILDERS = ("json", "csv", "parquet", "arrow", "text")  # readers of `datasets` that know no pickle and no archive


def read_datasets(name: str, settings: DataSettings) -> Task:
    """`path` is a hub id with the task as its configuration, or a local folder with a folder of data files per task."""
    import datasets

    path = settings.path or ""
    root = user_path(path)
    local = root / name
    for file in (local, *local.rglob("*")):  # the library opens files itself, so links are looked at first
        refuse_link_outside(file, root)

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

    train, test = both_splits(split, settings.train_split, settings.test_split)
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
