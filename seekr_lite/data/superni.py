"""SuperNI (Natural Instructions): its rows and metrics."""

from __future__ import annotations

import re
from pathlib import Path

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_path
from seekr_lite.data.rows import both_splits, example, parse_json, read_text, task_folder
from seekr_lite.data.task import Example, Task
from seekr_lite.recipe.recipe import DataSettings


def read_superni(name: str, settings: DataSettings) -> Task:
    """SuperNI (arXiv 2204.07705): Natural-Instructions files; the prompt is the definition and the input.

    A task may be named by its number alone: `task363` and `363` are `task363_sst2_polarity_classification`.
    """
    root = user_path(settings.path or "")
    matches = _superni_folders(root, name)
    if len(matches) > 1:
        raise UserError(f'data.tasks: "{name}" could be {" or ".join(matches)} (in {root}); give the full name of one')
    folder = root / matches[0] if matches else task_folder(root, name)
    same = [other for other in dict.fromkeys(settings.tasks) if _superni_folders(root, other) == [folder.name]]
    if len(same) > 1:
        raise UserError(f"data.tasks: {' and '.join(same)} are the same task, {folder.name}; name it once")
    train, test = both_splits(lambda split: _superni_rows(folder / f"{split}.json", root))
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


SUPERNI_ACCURACY_TASKS = ("363", "875", "195")


def superni_metric(task_name: str) -> str:
    """The SEEKR paper's metric of a SuperNI task: accuracy for task363, 875, 195, ROUGE-L for the others."""
    number = re.match(r"task0*(\d+)", task_name)
    return "superni_accuracy" if number and number[1] in SUPERNI_ACCURACY_TASKS else "superni_rouge_l"
