"""Does a recipe fit a 24 GB card, and what happens at 12 GB? `plan --measure`, with the process held to so much.

    python benchmarks/fit_24gb.py                              # recipes/trace-llama2-7b.toml, on a CUDA GPU; minutes
    python benchmarks/fit_24gb.py --recipe recipes/trace-qwen2.5-7b.toml --set data.path=FOLDER --limits 24 16
    python benchmarks/fit_24gb.py --quick                      # toy shapes on any CPU, to see that it runs

Weights are random, of the model's true shape and quantised, so nothing is downloaded. For each limit a process of its
own runs the longest step of every phase. The result has the plan, the measured peaks and speed, and `fits` for each
limit. Exit code 0: the first limit fits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import QUICKSTART, ROOT, add_overrides, benchmark_parser, publish

GIB = 1 << 30


def measure(recipe: Path, limit_gb: float, overrides: list[str]) -> dict[str, Any]:
    """`seekr-lite plan --measure --json` under a limit, and whether every phase kept to it."""
    settings = [part for override in (*overrides, f"run.memory_limit_gb={limit_gb}") for part in ("--set", override)]
    command = [sys.executable, "-m", "seekr_lite", "plan", str(recipe), "--measure", "--json", *settings]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    plan: dict[str, Any] = json.loads(done.stdout)
    phases = plan["measured"]["phases"]
    fits = all(phase["failure"] is None and phase["peak"] <= limit_gb * GIB for phase in phases)
    return {"limit_gb": limit_gb, "fits": fits, **plan}


def main() -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "trace-llama2-7b.toml")
    add_overrides(parser)
    parser.add_argument("--limits", type=float, nargs="+", default=[24.0, 12.0], help="GB of 2^30 bytes")
    parser.add_argument("--quick", action="store_true", help="the built-in base on a CPU")
    options = parser.parse_args()
    import torch

    if not options.quick and not torch.cuda.is_available():
        sys.exit("fit_24gb.py needs a CUDA GPU, and torch sees none here. --quick shows on a CPU that it runs")
    recipe, device = (QUICKSTART, "cpu") if options.quick else (options.recipe, "cuda")
    limits = [measure(recipe, limit, [*options.overrides, f"base.device={device}"]) for limit in options.limits]
    publish(options, {"limits": limits})
    return 0 if limits[0]["fits"] else 1


if __name__ == "__main__":
    sys.exit(main())
