"""What all benchmarks share: their common options, what they ran on, and how a result is printed and written."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from seekr_lite.cli.app import quiet_libraries
from seekr_lite.common.files import write_json
from seekr_lite.common.packages import versions
from seekr_lite.recipe.recipe import Recipe

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "recipes" / "quickstart.toml"


def benchmark_parser(description: str | None) -> argparse.ArgumentParser:
    """With the options that every benchmark has. Libraries are quiet from here on."""
    quiet_libraries()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON here, too")
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")


def recipe_of(options: argparse.Namespace) -> Recipe:
    return Recipe.from_toml(options.recipe, options.overrides)


def publish(options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Prints the result, with the command, the device and the versions that made it, and writes it to `--output`."""
    made = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "device": device_name(),
        "versions": versions(),
        **result,
    }
    if options.output:
        write_json(options.output, made)
    print(json.dumps(made, indent=2, ensure_ascii=False) if options.json else "\n".join(lines_of(made)))


def device_name(device: torch.device | None = None) -> str:
    """What was measured on; by default the GPU where there is one."""
    import torch

    if torch.cuda.is_available() if device is None else device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def in_turns(ways: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """What each way returns, by repeat. The order alternates (a b, b a): a machine that slows down slows all alike."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in ways if repeat % 2 == 0 else reversed(list(ways)):
            found[name].append(ways[name]())
            print(f"{name}: {found[name][-1]}", file=sys.stderr)
    return found


def lines_of(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A result for people: a line for each plain value, an indented part for each that has parts, a table for rows."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from lines_of(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
            yield f"{indent}{key}:"
            for one in value:
                yield from table_row(one, indent + "  ")
        else:
            yield f"{indent}{key}: {in_words(value)}"


def table_row(row: Mapping[str, Any], indent: str) -> Iterator[str]:
    """The plain values of a row in one line; below it its parts."""
    plain = {key: value for key, value in row.items() if not isinstance(value, Mapping)}
    yield indent + "   ".join(f"{key} {in_words(value)}" for key, value in plain.items())
    yield from lines_of({key: value for key, value in row.items() if key not in plain}, indent + "  ")


def in_words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(in_words, value)) or "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
