"""Your own tasks: JSON or JSON lines, a folder or a pair of files for each task."""

from __future__ import annotations

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_path
from seekr_lite.data.rows import both_splits, examples, read_rows, task_folder
from seekr_lite.data.task import Example, Task
from seekr_lite.recipe.recipe import DataSettings


def read_jsonl(name: str, settings: DataSettings) -> Task:
    """`<path>/<task>/train.jsonl` and `test.jsonl` (or .json), or `<path>/<task>.train.jsonl`."""
    root = user_path(settings.path or "")

    def split(which: str) -> list[Example]:
        folder = root / name
        candidates = [folder / f"{which}.jsonl", folder / f"{which}.json", root / f"{name}.{which}.jsonl"]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            if not folder.is_dir() and not list(root.glob(f"{name}.*.jsonl")):
                task_folder(root, name)
            raise UserError(f"{candidates[0]}: this file is missing (or {', '.join(map(str, candidates[1:]))})")
        return examples(read_rows(found, root), str(found), settings.prompt_column, settings.answer_column)

    train, test = both_splits(split)
    return Task(name, train, test, metric="exact_match", extraction="strip")
