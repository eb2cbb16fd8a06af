"""What a method costs: whole runs of one recipe, method by method, in turn.

    python benchmarks/method_cost.py RECIPE [--methods replay seekr] [--repeats 2] [--set KEY=VALUE] [--output FILE]

Each run is a process of its own, as a user starts it, in a folder that is thrown away. Methods take turns (a b, b a),
so that a machine that slows down slows both. Printed are medians: the whole run, and the part of it that is learning
(replay, teacher passes and head scoring included), each as a ratio to the first method.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from seekr_lite.common.files import write_json
from seekr_lite.common.packages import versions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Cost:
    """Seconds, medians over the repeats; ratios to the first method; `op` of the last repeat, to know it worked."""

    method: str
    whole_seconds: float
    learning_seconds: float
    whole_ratio: float
    learning_ratio: float
    op: float


@dataclass(frozen=True)
class Timing:
    whole: float
    learning: float
    op: float


def time_run(recipe: Path, method: str, overrides: list[str]) -> Timing:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [sys.executable, "-m", "seekr_lite", "run", str(recipe), "-q", "-o", str(output)]
        for override in [*overrides, f"method.name={method}"]:
            command += ["--set", override]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - started
        stages = json.loads((output / "run.json").read_text(encoding="utf-8"))["stages"]
        scores = json.loads((output / "scores.json").read_text(encoding="utf-8"))
    return Timing(whole, sum(stage["seconds"] for stage in stages), scores["op"])


def measure(recipe: Path, methods: list[str], repeats: int, overrides: list[str]) -> list[Cost]:
    timings: dict[str, list[Timing]] = {method: [] for method in methods}
    for repeat in range(repeats):
        for method in methods if repeat % 2 == 0 else reversed(methods):
            timing = time_run(recipe, method, overrides)
            timings[method].append(timing)
            print(f"{method}: {timing.whole:.1f} s, learning {timing.learning:.1f} s", file=sys.stderr)
    whole = {method: median(one.whole for one in times) for method, times in timings.items()}
    learning = {method: median(one.learning for one in times) for method, times in timings.items()}
    first = methods[0]
    return [
        Cost(
            method,
            whole[method],
            learning[method],
            whole[method] / whole[first],
            learning[method] / learning[first],
            timings[method][-1].op,
        )
        for method in methods
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--methods", nargs="+", default=["replay", "seekr"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    options = parser.parse_args()
    costs = measure(options.recipe, options.methods, options.repeats, options.overrides)
    result = {
        "command": " ".join(["python", "benchmarks/method_cost.py", *sys.argv[1:]]),
        "device": device_name(),
        "versions": versions(),
        "repeats": options.repeats,
        "costs": [asdict(cost) for cost in costs],
    }
    if options.output:
        write_json(options.output, result)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for cost in costs:
        print(
            f"{cost.method:12} whole run {cost.whole_seconds:7.1f} s ({cost.whole_ratio:.2f} x)   "
            f"learning {cost.learning_seconds:7.1f} s ({cost.learning_ratio:.2f} x)   OP {cost.op:.1f}"
        )


def device_name(device: torch.device | None = None) -> str:
    """What was measured on; by default the GPU where there is one."""
    import torch

    if torch.cuda.is_available() if device is None else device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
