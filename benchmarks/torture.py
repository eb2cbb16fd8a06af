"""Stops a run at random moments and at every file operation, resumes it, and compares it with one that never stopped.

    python benchmarks/torture.py --kills 100 [--signals 30] [--json] [--output FILE]
    python benchmarks/torture.py --kills 4 --signals 3 --operations 12      # a short version

*Kills*: a process is sent SIGKILL at a random moment of its work, up to three times, then left to finish; methods and
growth modes take turns. Every other moment is drawn from the time the run takes; the others lie shortly after the run
has come to a phase that was drawn, since some phases are too short to be hit by chance. *Signals*: the same with
SIGTERM, SIGINT, and SIGINT twice. *Crashes*: every state that a crash can leave (`crashes.py`; `--operations N`: only N
of them, evenly spread), then a resume.

Adapters, replay memory, head scores, chosen heads, predictions and scores must equal those of the uninterrupted run,
byte for byte. A kill may cost the steps since the last checkpoint, a signal none: the exit code is 3 (130 for SIGINT),
and the message says how to go on.

A process is forked from this one after the libraries are loaded: that takes longer than the run, and loses nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.crashes import crash_everywhere
from benchmarks.harness import benchmark_parser, publish
from benchmarks.torture_case import (
    CHECKPOINT_STEPS,
    GROWTHS,
    METHODS,
    Outcome,
    Whole,
    recipe_for,
    steps_done_twice,
    summary,
)
from seekr_lite.runs.lock import LOCK_FILE

CASES = list(product(METHODS, GROWTHS))
FORK = multiprocessing.get_context("fork")
LOOK_AGAIN = 0.001  # seconds


@dataclass(frozen=True)
class Stop:
    """A way to stop a process. repeated: the steps that it may cost."""

    name: str
    signals: tuple[signal.Signals, ...]
    exit_code: int
    repeated: int
    says: str = ""


KILL = Stop("SIGKILL", (signal.SIGKILL,), -signal.SIGKILL, CHECKPOINT_STEPS)
SIGNALS = (
    Stop("SIGTERM", (signal.SIGTERM,), 3, 0, "goes on from"),
    Stop("SIGINT", (signal.SIGINT,), 130, 0, "goes on from"),
    Stop("SIGINT twice", (signal.SIGINT, signal.SIGINT), 130, CHECKPOINT_STEPS, "goes on from"),  # ends at once
)

# ---------------------------------------------------------------------- a process


class Process:
    """`seekr-lite run RECIPE -q -o OUTPUT` in a process of its own."""

    def __init__(self, recipe_file: Path, output: Path) -> None:
        self.output = output
        self.messages = output.with_suffix(".messages")
        self.process = FORK.Process(target=run_command, args=(recipe_file, output, self.messages))
        self.process.start()

    def wait_for_work(self) -> None:
        """Until the run holds its lock: before, there is nothing to lose."""
        while self.process.is_alive() and not self._holds_the_lock():
            time.sleep(LOOK_AGAIN)

    def wait_for_phase(self, phase: str, whole: Whole) -> None:
        while self.process.is_alive() and whole.phase_of(self.output) != phase:
            time.sleep(LOOK_AGAIN)

    def stop(self, way: Stop, generator: random.Random) -> bool:
        """Sends the signals; returns whether they stopped the run before its end. Raises where it ended wrongly."""
        for number in way.signals:
            if self.process.is_alive():
                os.kill(self.process.pid or 0, number)
                time.sleep(generator.uniform(0.0, 0.02) if len(way.signals) > 1 else 0.0)
        code, message = self.end()
        if code == 0:
            return False
        if code != way.exit_code or way.says not in message or "Traceback" in message:
            raise RuntimeError(f"after {way.name} the exit code is {code}, and the message: {message[-2000:]}")
        return True

    def finish(self) -> None:
        """Waits for the end. Raises where the run failed."""
        code, message = self.end()
        if code != 0:
            raise RuntimeError(f"a run ended with {code}: {message[-2000:]}")

    def end(self) -> tuple[int | None, str]:
        self.process.join(600)
        return self.process.exitcode, self.messages.read_text(encoding="utf-8")

    def _holds_the_lock(self) -> bool:
        try:
            held: dict[str, Any] = json.loads((self.output / LOCK_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(held["process"] == self.process.pid)


def run_command(recipe_file: Path, output: Path, messages: Path) -> None:
    """What the process does."""
    from seekr_lite.cli import main

    with messages.open("w", encoding="utf-8") as sys.stderr, Path(os.devnull).open("w") as sys.stdout:
        sys.argv = ["seekr-lite", "run", str(recipe_file), "-q", "-o", str(output)]
        main()


def load_libraries() -> None:
    """What a run imports, before the first fork."""
    import seekr_lite.model.base
    import seekr_lite.training.learner  # noqa: F401


# ---------------------------------------------------------------------- the torture


def stop_at_random(ways: tuple[Stop, ...], stops: int, folder: Path, seed: int) -> Iterator[Outcome]:
    """`stops` stops in all; a run gets one to three of one way, then finishes. Ways and cases take turns."""
    load_libraries()
    generator, done, number = random.Random(seed), 0, 0
    wholes: dict[tuple[str, str], Whole] = {}
    while done < stops:
        method, growth = CASES[number % len(CASES)]
        way = ways[number % len(ways)]
        recipe_file = folder / f"{method}-{growth}.toml"
        if (method, growth) not in wholes:
            recipe_file.write_text(recipe_for(method, growth).to_toml(), encoding="utf-8")
            wholes[(method, growth)] = never_stopped(recipe_file, folder / f"whole-{method}-{growth}")
        whole, output = wholes[(method, growth)], folder / f"stopped-{number}"
        phases: list[str] = []
        problem = ""
        try:
            for turn in range(min(generator.randint(1, 3), stops - done)):
                process = Process(recipe_file, output)
                process.wait_for_work()
                if (done + turn) % 2:
                    process.wait_for_phase(generator.choice(whole.phases), whole)
                    time.sleep(generator.uniform(0.0, 0.1))
                else:
                    time.sleep(generator.uniform(0.0, whole.seconds / (1 + len(phases))))
                if not process.stop(way, generator):
                    break  # it was quicker
                phases.append(whole.phase_of(output))
            Process(recipe_file, output).finish()
        except RuntimeError as error:
            problem = str(error)
        equal = Whole.of(output).artefacts == whole.artefacts
        what = f"{way.name} x {len(phases)}, {method}, {growth}"
        yield Outcome(what, tuple(phases), equal, steps_done_twice(output), way.repeated * len(phases), problem)
        shutil.rmtree(output)
        done += len(phases)
        number += 1


def never_stopped(recipe_file: Path, output: Path) -> Whole:
    process = Process(recipe_file, output)
    process.wait_for_work()
    started = time.perf_counter()
    process.finish()
    return Whole.of(output, time.perf_counter() - started)


def watched(outcomes: Iterator[Outcome]) -> list[Outcome]:
    """All of them; a failure is said at once."""
    found = []
    for outcome in outcomes:
        found.append(outcome)
        if not outcome.passes:
            print(f"FAILED: {outcome}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=30)
    parser.add_argument("--operations", type=int, help="only so many crashes; by default one at every operation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # the base is so small that threads only wait for each other
    started = time.perf_counter()
    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for part, outcomes in (
            ("kills", stop_at_random((KILL,), options.kills, folder, options.seed)),
            ("signals", stop_at_random(SIGNALS, options.signals, folder, options.seed + 1)),
            ("crashes", crash_everywhere(folder, options.operations)),
        ):
            parts[part] = summary(watched(outcomes))
            failed = len(parts[part]["failed"])
            print(f"{part}: {parts[part]['interruptions']}, runs that differ: {failed}", file=sys.stderr, flush=True)
    publish(options, {"seconds": time.perf_counter() - started, **parts})
    return 1 if any(values["failed"] for values in parts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
