"""What `fuzz.py` feeds: good recipes, data and run folders, and seeded mutations of them."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekr_lite.recipe.recipe import Recipe

ROOT = Path(__file__).parents[1]

# Values in place of good ones; some of them are right in some places.
ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2, 0.5, 1e308, -0.0, 10**18, 10**40, "", " ", "..", "../../etc/passwd", "/etc/passwd",
    "~nobody/x", "\0", "a\0b", "\x1b]0;title\x07", "[bold red]", "<script>alert(1)</script>", "\u202egnp", "é" * 90,
    "的" * 90, "x" * 3_000, "all", "nan", "inf", [], {}, [[]], [1, "a", None], {"a": {"b": [1]}}, ["shade"] * 3,
    float("nan"), float("inf"),
)  # fmt: skip
ODD_BYTES = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x1b[2J", b"\r", b'"', b"'", b'"""', b"[" * 3_000,
    b"{" * 3_000, b'{"a":' * 3_000, b"a." * 4_000, b"9" * 5_000, b"0x" + b"f" * 5_000, b"1e999", b"NaN", b"-Infinity",
    b"\\ud800", b"\\u0000", b"#", b"=", b",", b"]", b"}", b"null", b"1979-05-27T07:32:00+99:99", b"\xe2\x80\xae",
)  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7")


# ---------------------------------------------------------------------- mutations


def bad_bytes(rng: random.Random, good: bytes) -> bytes:
    """One to three changes of the bytes, wherever they fall."""
    for _ in range(rng.randint(1, 3)):
        good = rng.choice(BYTE_CHANGES)(rng, good)
    return good


def _flip(rng: random.Random, good: bytes) -> bytes:
    changed = bytearray(good or b" ")
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, good: bytes) -> bytes:
    return good[: rng.randrange(len(good) + 1)]


def _drop(rng: random.Random, good: bytes) -> bytes:
    start = rng.randrange(len(good) + 1)
    return good[:start] + good[start + rng.randint(1, 30) :]


def _insert(rng: random.Random, good: bytes) -> bytes:
    start = rng.randrange(len(good) + 1)
    return good[:start] + rng.choice(ODD_BYTES) + good[start:]


def _repeat(rng: random.Random, good: bytes) -> bytes:
    start = rng.randrange(len(good) + 1)
    return good[:start] + good[start : start + rng.randint(1, 80)] + good[start:]


def _repeat_line(rng: random.Random, good: bytes) -> bytes:
    lines = good.split(b"\n")
    return b"\n".join([*lines, rng.choice(lines)])


def _encode(rng: random.Random, good: bytes) -> bytes:
    return good.decode("utf-8", "replace").encode(rng.choice(ENCODINGS), "replace")


def _other_value(rng: random.Random, good: bytes) -> bytes:
    """What stands between `=` or `:` and the next comma, bracket or line end."""
    values = list(VALUE.finditer(good))
    if not values:
        return _insert(rng, good)
    start, end = rng.choice(values).span(1)
    return good[:start] + rng.choice(ODD_BYTES) + good[end:]


VALUE = re.compile(rb"[=:]\s*([^,\]}\n]+)")
BYTE_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _cut, _drop, _insert, _other_value, _other_value, _repeat, _repeat_line, _encode,
)  # fmt: skip


def bad_values(rng: random.Random, good: Any) -> Any:
    """One to three changes of plain values: another type, a key renamed, gone or added, a row repeated, nesting."""
    values = deepcopy(good)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(values))
        if not places:
            return rng.choice(ODD_VALUES)
        container, key = rng.choice(places)
        what = rng.randrange(6)
        if what <= 2:
            container[key] = deepcopy(rng.choice(ODD_VALUES))
        elif what == 3:
            container[key] = _nested(container[key], rng.choice((1, 2, 20, 120)))
        elif isinstance(container, dict):
            value = container.pop(key)
            if what == 4:
                container[_other_name(rng, str(key))] = value
        elif what == 4:
            container.append(container[key])
        else:
            del container[key]
    return values


def _places(values: Any) -> list[tuple[Any, Any]]:
    """Every place that holds a value: its container and key."""
    keys = list(values) if isinstance(values, dict) else list(range(len(values))) if isinstance(values, list) else []
    return [(values, key) for key in keys] + [place for key in keys for place in _places(values[key])]


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _other_name(rng: random.Random, name: str) -> str:
    changes = (name.upper(), name + "s", name[:-1], name[::-1], f"{name}\x1b[2J", "\u202e" + name, "", "x" * 500)
    return rng.choice(changes)


def json_bytes(values: Any) -> bytes:
    """JSON, with NaN and halves of surrogate pairs where they are."""
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------------- recipes


def bad_recipe(rng: random.Random) -> bytes:
    """A shipped recipe's values, every key written out or as shipped, changed."""
    path = rng.choice(sorted((ROOT / "recipes").glob("*.toml")))
    if rng.random() < 0.5:
        return bad_bytes(rng, path.read_bytes())
    values = {key: section for key, section in Recipe.from_toml(path).model_dump(mode="json").items()}
    values = {key: {name: one for name, one in section.items() if one is not None} for key, section in values.items()}
    return _toml(bad_values(rng, values)).encode("utf-8", "surrogatepass")


def _toml(values: Any) -> str:
    """TOML of anything: what it cannot say is written as JSON, which it is not."""
    if not isinstance(values, dict):
        return f"value = {_toml_value(values)}"
    lines = [f"{_toml_key(key)} = {_toml_value(one)}" for key, one in values.items() if not isinstance(one, dict)]
    for key, section in values.items():
        if isinstance(section, dict):
            lines += [f"[{_toml_key(key)}]", *(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in section.items())]
    return "\n".join(lines) + "\n"


def _toml_key(key: Any) -> str:
    return str(key) if str(key).isidentifier() and str(key).isascii() else json.dumps(str(key))


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


# ---------------------------------------------------------------------- data


@dataclass(frozen=True)
class DataLayout:
    """A way in which data lies in a folder. `file` has a place for the split."""

    name: str
    format: str
    task: str
    file: str
    lines: bool = False


DATA_LAYOUTS = (
    DataLayout("trace", "trace", "FOMC", "FOMC/{}.json"),
    DataLayout("superni", "superni", "task363_sst2", "task363_sst2/{}.json"),
    DataLayout("jsonl", "jsonl", "mine", "mine/{}.jsonl", lines=True),
    DataLayout("jsonl, flat", "jsonl", "mine", "mine.{}.jsonl", lines=True),
    DataLayout("json", "jsonl", "mine", "mine/{}.json"),
)


def good_rows(layout: DataLayout) -> Any:
    if layout.format == "superni":
        rows = [{"id": f"{i}", "input": f"text {i}", "output": ["POS", "positive"][: 1 + i % 2]} for i in range(6)]
        return {"Definition": ["Judge the text."], "Contributors": ["x"], "Instances": rows}
    rows = [{"prompt": f"question {i}, 问题\n", "answer": f"answer {i}"} for i in range(6)]
    return [*rows, {"prompt": "2 + 2", "answer": "4", "references": ["4", "four"], "weight": 1.5}]


def bad_data(rng: random.Random, layout: DataLayout, root: Path) -> None:
    """Writes a task of which one file, or both, is not what it should be."""
    shutil.rmtree(root, ignore_errors=True)
    spoilt = rng.choice((("train",), ("test",), ("train", "test")))
    for split in ("train", "test"):
        path = root / layout.file.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = good_rows(layout)
        by_bytes = rng.random() < 0.5
        if split in spoilt and not by_bytes:
            values = bad_values(rng, values)
        rows = layout.lines and isinstance(values, list)
        content = b"\n".join(map(json_bytes, values)) + b"\n" if rows else json_bytes(values)
        path.write_bytes(bad_bytes(rng, content) if split in spoilt and by_bytes else content)


# ---------------------------------------------------------------------- run folders


def good_run(path: Path) -> None:
    """A run of one task as `seekr` leaves it, made of small numbers instead of training."""
    import torch

    from seekr_lite.data.task import Example, Task
    from seekr_lite.evaluation.evaluate import Prediction, TaskResult
    from seekr_lite.evaluation.scoreboard import scoreboard
    from seekr_lite.methods.method import TaskState
    from seekr_lite.model.snapshots import Snapshot
    from seekr_lite.runs.folder import RunFolder
    from seekr_lite.training.learner import Learned

    rows = (Example("a", "b"), Example("c", "d", ("d", "e")))
    tasks = [Task(name, rows, rows, rows[:1]) for name in ("shade", "mine")]
    recipe = Recipe.from_toml(ROOT / "recipes" / "quickstart.toml").with_(
        data={"tasks": ("shade", "mine")}, train={"epochs": 1}, run={"output": str(path)}
    )
    folder = RunFolder.create(path, recipe)
    folder.save_task(tasks[1])
    layer = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = {layer.format("A"): torch.ones(2, 4), layer.format("B"): torch.zeros(4, 2)}
    scores = {name: torch.ones(2, 3) for name in ("sensitivity", "forgettability", "importance")}
    learned = Learned(Snapshot(weights, 2, 4.0), rows, TaskState(scores, {"heads": [[0, 1], [1, 2]]}), 3, 1.5)
    config = {"r": 2, "lora_alpha": 4.0, "base_model_name_or_path": "tiny", "target_modules": ["q_proj"]}
    folder.save_stage("00-shade", tasks[:1], learned, config, "", "heads")
    predictions = tuple(Prediction(row.prompt, "x", (row.answer,), 0.0) for row in rows)
    folder.save_evaluation(0, "shade", TaskResult(50.0, 1.25, predictions))
    folder.save_scores(scoreboard({"shade": tasks[0].metric}, {(0, 0): (50.0, 1.25)}, "seekr", 1234).to_json())
    draft = path / "predictions" / "00" / "shade.draft.jsonl"
    draft.write_text(json.dumps({"row": 0, "prompt": "a", "prediction": "x"}) + "\n", encoding="utf-8")


def bad_run(rng: random.Random, path: Path) -> None:
    """Spoils a file of a run. Half of the time by whoever knows how checksums are made, and makes them right again."""
    from seekr_lite.runs.record import text_checksum

    record_path = path / "run.json"
    if rng.random() < 0.3:
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "README.md")
        file = rng.choice(files)
        file.write_bytes(bad_bytes(rng, file.read_bytes()))
        return
    record = json.loads(record_path.read_text(encoding="utf-8"))
    names = ["run.json", *(name for name in record["files"] if name.endswith((".json", ".jsonl", ".safetensors")))]
    name = rng.choice(names)
    if name == "run.json":
        record = bad_values(rng, record)
    else:
        spoilt = path / name
        if name.endswith(".json") and rng.random() < 0.7:
            spoilt.write_bytes(json_bytes(bad_values(rng, json.loads(spoilt.read_bytes()))))
        elif name.endswith(".jsonl") and rng.random() < 0.7:
            rows = bad_values(rng, [json.loads(line) for line in spoilt.read_bytes().splitlines()])
            spoilt.write_bytes(b"\n".join(map(json_bytes, rows if isinstance(rows, list) else [rows])))
        else:
            spoilt.write_bytes(bad_bytes(rng, spoilt.read_bytes()))
        record["files"][name] = hashlib.sha256(spoilt.read_bytes()).hexdigest()
    if isinstance(record, dict):
        record.pop("checksum", None)
        record["checksum"] = text_checksum(_record_text(record))
    record_path.write_bytes(_record_text(record).encode("utf-8", "surrogatepass"))


def _record_text(record: Any) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"
