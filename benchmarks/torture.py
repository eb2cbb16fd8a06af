"""Kills a run at random moments and at every file operation, resumes it, and compares it with one that never stopped.

    python benchmarks/torture.py --kills 100 [--json] [--output FILE]
    python benchmarks/torture.py --kills 4 --operations 12      # a short version

Two parts. *Kills*: a process is sent SIGKILL after a random time, over and over for a random number of times, then left
to finish; methods and growth modes take turns. *Operations*: a crash before and after every write, sync, rename and
removal of a run, enumerated (`--operations N`: only N of them, evenly spread), then a resume. Adapters, replay memory,
head scores, chosen heads, predictions and scores must equal those of the uninterrupted run, byte for byte, and no more
steps be done twice than lie between two checkpoints.

The run is the quickstart with two tasks and fewer rows; checkpoints every two steps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.method_cost import device_name
from seekr_lite.cli.app import quiet_libraries
from seekr_lite.files import write_json
from seekr_lite.progress import Listener
from seekr_lite.recipe import Recipe
from seekr_lite.run_folder import versions

ROOT = Path(__file__).parents[1]
METHODS, GROWTHS = ("sequential", "replay", "derpp", "seekr"), ("continue", "stack")
CHECKPOINT_STEPS = 2
COMPARED = ("adapters", "memory", "heads", "predictions", "scores.json")


@dataclass(frozen=True)
class Outcome:
    """What one torture came to. interruptions: how often the run was stopped. repeated: the most steps done twice."""

    what: str
    interruptions: int
    equal: bool
    repeated: int

    @property
    def passes(self) -> bool:
        return self.equal and self.repeated <= CHECKPOINT_STEPS * self.interruptions


def recipe_for(method: str, growth: str) -> Recipe:
    return Recipe.from_toml(ROOT / "recipes" / "quickstart.toml").with_(
        adapter={"growth": growth, "dropout": 0.1},
        data={"tasks": ("shade", "keeper"), "train_limit": 64, "test_limit": 12, "validation_rows": 8},
        train={"epochs": 2},
        method={"name": method, "replay_passes": 2.0},
        evaluate={"batch_tokens": 64},
        run={"checkpoint_steps": CHECKPOINT_STEPS},
    )


def artefacts(folder: Path) -> dict[str, bytes]:
    """Everything that must be equal: path -> content."""
    files = [file for part in COMPARED for file in [folder / part, *(folder / part).rglob("*")] if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def steps_done_twice(folder: Path) -> int:
    """Steps that `log.jsonl` has more than once: how many times too often, together."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    counts = Counter((event["stage"], event["step"]) for event in events if event["event"] == "step")
    return sum(count - 1 for count in counts.values())


# ---------------------------------------------------------------------- kills


def start(recipe_file: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "seekr_lite", "run", str(recipe_file), "-q", "-o", str(output)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)


def finish(process: subprocess.Popen[bytes]) -> float:
    """Waits for the end; returns the seconds. Raises where the run failed."""
    started = time.perf_counter()
    _, message = process.communicate(timeout=600)
    if process.returncode != 0:
        raise RuntimeError(f"a resumed run ended with {process.returncode}: {message.decode()[-2000:]}")
    return time.perf_counter() - started


def kill_at_random(kills: int, folder: Path, seed: int) -> Iterator[Outcome]:
    """`kills` kills in all; a run gets one to three, then finishes."""
    generator, done, number = random.Random(seed), 0, 0
    whole: dict[tuple[str, str], tuple[dict[str, bytes], float]] = {}
    while done < kills:
        method, growth = list(product(METHODS, GROWTHS))[number % (len(METHODS) * len(GROWTHS))]
        recipe_file = folder / f"{method}-{growth}.toml"
        if (method, growth) not in whole:
            recipe_file.write_text(recipe_for(method, growth).to_toml(), encoding="utf-8")
            seconds = finish(start(recipe_file, folder / f"whole-{method}-{growth}"))
            whole[(method, growth)] = (artefacts(folder / f"whole-{method}-{growth}"), seconds)
        expected, seconds = whole[(method, growth)]
        output = folder / f"killed-{number}"
        interruptions = 0
        for _ in range(min(generator.randint(1, 3), kills - done)):
            process = start(recipe_file, output)
            try:
                process.wait(timeout=generator.uniform(0.1, seconds))
                break  # it was quicker
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                interruptions += 1
        if interruptions or not output.exists():
            finish(start(recipe_file, output))
        equal = artefacts(output) == expected
        yield Outcome(f"{interruptions} kills, {method}, {growth}", interruptions, equal, steps_done_twice(output))
        shutil.rmtree(output)
        done += interruptions
        number += 1


# ---------------------------------------------------------------------- every file operation


class PowerCut(BaseException):
    """Nothing handles it, as nothing handles a power cut."""


class Operations:
    """Counts file operations below a folder, and cuts the power before or after one of them."""

    def __init__(self, folder: Path, cut: int | None = None, after: bool = False) -> None:
        self.folder = str(folder)
        self.cut = cut
        self.after = after
        self.count = 0
        self.dead = False

    def around(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self.dead:  # what `finally` blocks try after the cut: a dead machine does nothing
                raise PowerCut
            if not self._ours(arguments):
                return operation(*arguments, **options)
            self.count += 1
            if self.count == self.cut and not self.after:
                self.dead = True
                raise PowerCut
            result = operation(*arguments, **options)
            if self.count == self.cut:
                self.dead = True
                raise PowerCut
            return result

        return counted

    def _ours(self, arguments: tuple[Any, ...]) -> bool:
        first = arguments[0] if arguments else ""
        if isinstance(first, int):  # a file descriptor
            try:
                first = os.readlink(f"/proc/self/fd/{first}")
            except OSError:
                return False
        return str(first).startswith(self.folder)


@contextmanager
def counted(operations: Operations) -> Iterator[None]:
    """The operations that files of a run are made with go through `operations` inside the block."""
    places: list[tuple[Any, str]] = [
        (os, "fsync"),
        (Path, "replace"),
        (Path, "rename"),
        (Path, "unlink"),
        (Path, "write_text"),
        (Path, "mkdir"),
        (shutil, "rmtree"),
    ]
    patches = [patch.object(place, name, operations.around(getattr(place, name))) for place, name in places]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def crash_at_every_operation(folder: Path, limit: int | None) -> Iterator[Outcome]:
    import seekr_lite as sl

    recipe, quiet = recipe_for("seekr", "continue").with_(train={"epochs": 1}), Listener()
    whole = folder / "whole"
    counting = Operations(whole)
    with counted(counting):
        sl.run(recipe, output=whole, listener=quiet)
    expected = artefacts(whole)
    points = [(cut, after) for cut in range(1, counting.count + 1) for after in (False, True)]
    if limit is not None:
        points = points[:: max(1, len(points) // limit)][:limit]
    for cut, after in points:
        output = folder / "crashed"
        try:
            with counted(Operations(output, cut, after)):
                sl.run(recipe, output=output, listener=quiet)
        except PowerCut:
            pass
        sl.run(recipe, output=output, listener=quiet)
        what = f"crash {'after' if after else 'before'} operation {cut} of {counting.count}"
        yield Outcome(what, 1, artefacts(output) == expected, steps_done_twice(output))
        shutil.rmtree(output)


# ---------------------------------------------------------------------- the command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--operations", type=int, help="only so many of the file operations; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    options = parser.parse_args()
    quiet_libraries()
    outcomes: list[Outcome] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in (
            *kill_at_random(options.kills, Path(folder), options.seed),
            *crash_at_every_operation(Path(folder), options.operations),
        ):
            outcomes.append(outcome)
            if not outcome.passes:
                print(f"FAILED: {outcome}", file=sys.stderr)
    failed = [outcome for outcome in outcomes if not outcome.passes]
    result = {
        "command": " ".join(["python", "benchmarks/torture.py", *sys.argv[1:]]),
        "device": device_name(),
        "versions": versions(),
        "seconds": time.perf_counter() - started,
        "kills": sum(outcome.interruptions for outcome in outcomes if outcome.what.endswith(GROWTHS)),
        "crashes": sum(outcome.interruptions for outcome in outcomes if outcome.what.startswith("crash")),
        "failed": [asdict(outcome) for outcome in failed],
    }
    if options.output:
        write_json(options.output, result)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{result['kills']} kills and {result['crashes']} crashes: {len(failed)} runs differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
