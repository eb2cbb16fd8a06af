"""What a method costs: whole runs of one recipe, method by method, in turn.

    python benchmarks/method_cost.py RECIPE [--methods replay seekr] [--repeats 2] [--set KEY=VALUE] [--output FILE]

Each run is a process of its own, as a user starts it, in a folder that is thrown away. Methods take turns (a b, b a),
so that a machine that slows down slows both. Figures are medians, in seconds: the whole run, and the part of it that is
learning (replay, teacher passes and head scoring included), each also as a ratio to the first method; and the OP of the
last repeat, to know that it worked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import add_overrides, benchmark_parser, in_turns, publish


class Timing(NamedTuple):
    """Seconds of a run and of its learning, and its OP."""

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


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--methods", nargs="+", default=["replay", "seekr"])
    parser.add_argument("--repeats", type=int, default=2)
    add_overrides(parser)
    options = parser.parse_args()
    ways = {method: partial(time_run, options.recipe, method, options.overrides) for method in options.methods}
    timings = in_turns(ways, options.repeats)
    whole = {method: median(one.whole for one in times) for method, times in timings.items()}
    learning = {method: median(one.learning for one in times) for method, times in timings.items()}
    first = options.methods[0]
    costs = [
        {
            "method": method,
            "whole_seconds": whole[method],
            "learning_seconds": learning[method],
            "whole_ratio": whole[method] / whole[first],
            "learning_ratio": learning[method] / learning[first],
            "op": timings[method][-1].op,
        }
        for method in options.methods
    ]
    publish(options, {"repeats": options.repeats, "costs": costs})


if __name__ == "__main__":
    main()
