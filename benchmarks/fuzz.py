"""Makes bad recipes, data files and run folders out of good ones, and asks that each be refused in clear words.

    python benchmarks/fuzz.py --recipes 10000 --data 10000 --commands 200 [--seed N] [--json] [--output FILE]

In process: a recipe is read, a task is read by its reader, and a run folder by everything that opens one, until so many
have been refused; what a mutation has left valid is counted apart. Through the command line: `seekr-lite run` with bad
recipes and `seekr-lite data check` with bad data, each a process of its own. Nothing is ever trained.

A refusal is a `UserError` with a message of moderate length (exit 2 of a command), within a time limit, without a
traceback, and without a file left behind. Anything else fails, and is told with the seed that makes it again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.flips import finished_run
from benchmarks.fuzz_cases import DATA_LAYOUTS, DataLayout, bad_data, bad_recipe, bad_run
from benchmarks.harness import ROOT, benchmark_parser, publish
from seekr_lite.api import Run
from seekr_lite.common.errors import UserError
from seekr_lite.data.readers import load_tasks
from seekr_lite.evaluation.evaluate import check_metrics
from seekr_lite.recipe.recipe import DataSettings, Recipe
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.inventory import replay_store, verify_files
from seekr_lite.tools.heads.heads import Heads

SECONDS = 20  # a case that takes longer hangs
COMMAND_SECONDS = 120
LONGEST_MESSAGE = 20_000
MOST_CASES = 4  # for each refusal asked for; beyond, the mutations are too harmless
AT_ONCE = 2


@dataclass
class Outcome:
    """What became of the cases of one kind."""

    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)


def judge(outcome: Outcome, name: str, use: Callable[[], None]) -> bool:
    """Uses what is bad, and counts what comes of it. Whether it was refused."""
    try:
        with time_limit(SECONDS):
            use()
        outcome.accepted += 1
    except UserError as error:
        outcome.refused += 1
        if not str(error).strip() or len(str(error)) > LONGEST_MESSAGE:
            outcome.failed.append(f"{name}: a message of {len(str(error))} characters")
        return True
    except Exception as error:
        outcome.failed.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    return False


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises `TimeoutError` inside the block when it takes longer. Main thread only."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(wanted: int, seed: int, spoil: Callable[[random.Random], object], use: Callable[[], None]) -> Outcome:
    """Spoils something and uses it, until so many cases were refused."""
    outcome = Outcome()
    started = time.perf_counter()
    for number in range(MOST_CASES * wanted):
        if outcome.refused >= wanted:
            break
        spoil(random.Random(f"{seed} {number}"))
        judge(outcome, f"seed {seed}, case {number}", use)
    outcome.seconds = round(time.perf_counter() - started, 1)
    return outcome


# ---------------------------------------------------------------------- in process


def fuzz_recipes(wanted: int, seed: int, folder: Path) -> Outcome:
    path = folder / "recipe.toml"
    return fuzz(wanted, seed, lambda rng: path.write_bytes(bad_recipe(rng)), lambda: use_recipe(path))


def use_recipe(path: Path) -> None:
    """Reads a recipe; what is accepted must survive being written, too."""
    recipe = Recipe.from_toml(path)
    if Recipe.from_text(recipe.to_toml(), path) != recipe:
        raise AssertionError("the recipe is another one after it was written and read")


def fuzz_data(layout: DataLayout, wanted: int, seed: int, folder: Path) -> Outcome:
    root = folder / layout.name
    return fuzz(wanted, seed, lambda rng: bad_data(rng, layout, root), lambda: use_data(layout, root))


def use_data(layout: DataLayout, root: Path) -> None:
    settings = DataSettings.model_validate({"format": layout.format, "path": str(root), "tasks": (layout.task,)})
    check_metrics(load_tasks(settings))


def fuzz_runs(wanted: int, seed: int, folder: Path) -> Outcome:
    good, bad = finished_run(folder / "good"), folder / "bad"
    use_run(good)

    def spoil(rng: random.Random) -> None:
        shutil.rmtree(bad, ignore_errors=True)
        bad_run(rng, shutil.copytree(good, bad))

    return fuzz(wanted, seed, spoil, lambda: use_run(bad))


def use_run(path: Path) -> None:
    """All that is ever read of a run without its base."""
    folder = RunFolder.open(path)
    recipe = folder.recipe()
    verify_files(folder)
    for stage in range(len(folder.record.stages)):
        folder.load_snapshot(stage)
        folder.load_samples(stage)
    folder.load_task("mine")
    folder.prediction_draft(0, "shade").known(["a", "b"])
    replay_store(folder)
    str(Heads.of_run(folder)._repr_html_())
    str(Run(path).scores)
    recipe.to_toml()


# ---------------------------------------------------------------------- through the command line


def command(arguments: list[str], cwd: Path) -> list[str]:
    """Runs a command that must be refused; what is wrong with how it ended."""
    before = sorted(path.name for path in cwd.rglob("*"))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "seekr_lite", *arguments],
            cwd=cwd,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"no end after {COMMAND_SECONDS} s"]
    said = done.stderr.decode("utf-8", "replace")
    wrong = [] if done.returncode == 2 else [f"exit {done.returncode}: {said[-300:]}"]
    wrong += ["a traceback"] if "Traceback" in said else []
    wrong += (
        [] if said.startswith("error: ") and len(said) <= LONGEST_MESSAGE else [f"no clear message: {said[:300]!r}"]
    )
    wrong += ["a control character reached the terminal"] if any(c < " " and c != "\n" for c in said) else []
    left = sorted(path.name for path in cwd.rglob("*"))
    return wrong + ([] if left == before else [f"files are left: {set(left) - set(before)}"])


def fuzz_commands(wanted: int, seed: int, folder: Path) -> dict[str, Outcome]:
    """`run` with bad recipes, `data check` with bad data; of those that are refused in process."""

    def spoil_recipe(rng: random.Random, number: int, place: Path) -> Callable[[], None]:
        (place / "recipe.toml").write_bytes(bad_recipe(rng))
        return lambda: use_recipe(place / "recipe.toml")

    def spoil_data(rng: random.Random, number: int, place: Path) -> Callable[[], None]:
        layout = DATA_LAYOUTS[number % len(DATA_LAYOUTS)]
        text = f'[base]\nmodel = "tiny"\n[data]\nformat = "{layout.format}"\npath = "data"'
        (place / "recipe.toml").write_text(f'{text}\ntasks = ["{layout.task}"]\n')
        bad_data(rng, layout, place / "data")
        return lambda: use_data(layout, place / "data")

    kinds = {
        "run": (spoil_recipe, ["run", "recipe.toml", "-o", "out"]),
        "data check": (spoil_data, ["data", "check", "recipe.toml"]),
    }
    found = {}
    for kind, (spoil, arguments) in kinds.items():
        places: list[Path] = []
        for number in count():
            if len(places) == wanted:
                break
            place = folder / kind / str(number)
            place.mkdir(parents=True)
            use = spoil(random.Random(f"{seed} {kind} {number}"), number, place)
            if judge(Outcome(), "", use):
                places.append(place)
        found[f"command: {kind}"] = all_refused(arguments, places, seed)
    return found


def all_refused(arguments: list[str], places: list[Path], seed: int) -> Outcome:
    outcome = Outcome()
    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for place, wrong in zip(places, pool.map(partial(command, arguments), places), strict=True):
            outcome.refused += not wrong
            outcome.failed += [f"seed {seed}, case {place.name}: {one}" for one in wrong]
    outcome.seconds = round(time.perf_counter() - started, 1)
    return outcome


# ---------------------------------------------------------------------- the command


def fuzz_all(recipes: int, data: int, commands: int, seed: int, folder: Path) -> dict[str, Outcome]:
    """Outcomes by kind. `data` is shared out among the formats and the run folder."""
    kinds = len(DATA_LAYOUTS) + 1
    shares = [data // kinds + (index < data % kinds) for index in range(kinds)]
    found = {"recipes": fuzz_recipes(recipes, seed, folder)}
    for layout, share in zip(DATA_LAYOUTS, shares, strict=False):
        found[f"data: {layout.name}"] = fuzz_data(layout, share, seed, folder)
    found["data: run folder"] = fuzz_runs(shares[-1], seed, folder)
    return found | fuzz_commands(commands, seed, folder / "commands")


def main() -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--recipes", type=int, default=10_000, help="refused recipes, in process")
    parser.add_argument("--data", type=int, default=10_000, help="refused data files and run folders, in process")
    parser.add_argument("--commands", type=int, default=200, help="of each, through the command line")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz_all(options.recipes, options.data, options.commands, options.seed, Path(folder))
    refused: Counter[str] = Counter()
    for kind, outcome in found.items():
        refused[kind.partition(":")[0]] += outcome.refused
    failed = [one for outcome in found.values() for one in outcome.failed]
    kinds = {kind: asdict(outcome) for kind, outcome in found.items()}
    publish(options, {"refused": dict(refused), "kinds": kinds, "failed": failed})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
