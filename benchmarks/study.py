"""Studies: whole grids of runs (variants of the method x seeds x orders of the tasks), and the page of their results.

    python benchmarks/study.py superni-4 --jobs 2            # what is missing of a study's grid, two runs at a time
    python benchmarks/study.py superni-4 --only seekr,derpp --seeds 0,1
    python benchmarks/study.py --page                        # docs/results.md, README's table, from all results

A study is a file in `benchmarks/studies/` (`study_grid.py`). Each run is a process of its own; its raw result is a file
in `benchmarks/results/STUDY/`. Whatever is there is taken as it is; a run that was stopped goes on where it was, as
long as its folder in --runs is kept. Models and data lie where the study says, or where `--set` says:

    python benchmarks/study.py superni-4 --set base.model=/models/smollm2 --set data.path=/data/SuperNI --time-limit 500
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.study_grid import Point, find_study, study_points
from benchmarks.study_results import RESULTS, is_finished, make_result, result_path, write_result
from seekr_lite.cli.app import quiet_libraries
from seekr_lite.common.errors import Interrupted, UserError

ROOT = Path(__file__).parents[1]
STOPPED = 3  # the exit code of a run that can be taken up
PATIENCE = 60  # seconds that a stopped run has to finish its step and write
LOG_LINES = 5


@dataclass
class Job:
    """A run in a process of its own."""

    point: Point
    process: subprocess.Popen[bytes]
    log: Path
    started: float


class Queue:
    """Runs points, several at once, until all are done or the time is over."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.deadline = time.monotonic() + options.time_limit if options.time_limit else None
        self.running: list[Job] = []
        self.failed = 0
        self.done = 0
        self.stopping = False

    def work(self, points: Sequence[Point]) -> None:
        waiting = list(points)
        try:
            while self.running or (waiting and not self.stopping):
                while waiting and not self.stopping and len(self.running) < self.options.jobs:
                    self._start(waiting.pop(0))
                time.sleep(0.1)
                for job in [job for job in self.running if job.process.poll() is not None]:
                    self._end(job, len(points))
                if self.deadline is not None and time.monotonic() > self.deadline and not self.stopping:
                    self._stop("the time is over")
        finally:
            self._stop("stopped")
            for job in list(self.running):
                self._wait(job)
                self._end(job, len(points))

    def _start(self, point: Point) -> None:
        folder = self.options.runs / point.study
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{point.name}.log"
        threads = max(1, (os.cpu_count() or 1) // self.options.jobs)
        command = [sys.executable, __file__, self.options.files[point.study], "--one"]
        command += ["--only", point.variant, "--seeds", str(point.seed), "--orders", point.order]
        command += ["--runs", str(self.options.runs), "--results", str(self.options.results)]
        for override in self.options.overrides:
            command += ["--set", override]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops its runs one by one
            )
        self.running.append(Job(point, process, log, time.monotonic()))

    def _end(self, job: Job, count: int) -> None:
        self.running.remove(job)
        self.done += 1
        code, seconds = job.process.returncode, time.monotonic() - job.started
        title = f"[{self.done}/{count}] {job.point.study} {job.point.name}, {seconds:.0f} s"
        if code == 0:
            job.log.unlink(missing_ok=True)
            if not self.options.keep:
                shutil.rmtree(self.options.runs / job.point.study / job.point.name, ignore_errors=True)
            say(f"{title}: done")
        elif code == STOPPED or self.stopping:
            say(f"{title}: stopped; it goes on with the same command")
        else:
            self.failed += 1
            lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            say(f"{title}: failed ({code}), see {job.log}\n" + "\n".join(f"    {line}" for line in lines))

    def _stop(self, why: str) -> None:
        if self.running and not self.stopping:
            say(f"{why}: {len(self.running)} runs finish their step")
        self.stopping = True
        for job in self.running:
            if job.process.poll() is None:
                job.process.send_signal(signal.SIGTERM)

    @staticmethod
    def _wait(job: Job) -> None:
        try:
            job.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()


def run_one(points: Sequence[Point], options: argparse.Namespace) -> None:
    """The process of a single run."""
    (point,) = points
    write_result(options.results, point, make_result(find_study(options.studies[0]), point, options.runs))


def run_studies(options: argparse.Namespace) -> int:
    """Runs what is missing; returns the exit code: 0 all is there, 1 some runs failed, 3 some are missing."""
    points: list[Point] = []
    for name in options.studies:
        study = find_study(name)
        options.files[study.name] = name
        points += study_points(study, options.only, options.seeds, options.orders, options.overrides)
    if options.one:
        run_one(points, options)
        return 0
    missing = [point for point in points if not is_finished(options.results, point)]
    if options.list:
        for point in points:
            print(f"{'missing' if point in missing else 'done':8} {point.study} {point.name}")
        return 0
    say(f"{len(points) - len(missing)} of {len(points)} runs are there; {len(missing)} to do")
    queue = Queue(options)
    queue.work(missing)
    left = [point for point in missing if not result_path(options.results, point).is_file()]
    say(f"{len(points) - len(left)} of {len(points)} runs are there; raw results are in {options.results}")
    return 1 if queue.failed else STOPPED if left else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in _names(text)]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help="names in benchmarks/studies/, or paths of such files")
    parser.add_argument("--only", type=_names, default=[], metavar="VARIANT,...", help="these variants")
    parser.add_argument("--seeds", type=_numbers, default=[], metavar="SEED,...", help="these seeds")
    parser.add_argument("--orders", type=_names, default=[], metavar="ORDER,...", help="these orders of the tasks")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; they share the cores and the GPU")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="then nothing starts, and runs are stopped")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="where run folders are made")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where raw results go")
    parser.add_argument("--keep", action="store_true", help="keep the folders of finished runs")
    parser.add_argument("--list", action="store_true", help="say which runs are there, and stop")
    parser.add_argument("--page", action="store_true", help="write docs/results.md and README's table anew")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.files = {}
    if not options.studies and not options.page:
        parser.error("name a study, or --page")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code, as `seekr-lite` has them."""
    options = parse(arguments)
    quiet_libraries()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    try:
        code = run_studies(options) if options.studies else 0
        if options.page:
            from benchmarks.study_page import write_page

            write_page(ROOT, options.results)
        return code
    except (UserError, Interrupted) as error:
        say(f"error: {error}" if isinstance(error, UserError) else str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say(f"interrupted; {shlex.join(sys.argv)} goes on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main())
