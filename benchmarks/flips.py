"""Changes bytes of every file of a finished run: `verify` must find it, and no command may crash or say a wrong number.

    python benchmarks/flips.py [--places 64] [--json] [--output FILE]

For each file of a run of three tasks (one handed over from Python), and for a checkpoint left inside: one byte changed
at so many random places, the file cut at so many, empty, and missing. `verify` must end with 2. Everything else that
reads a run must either refuse with a message, or give what it gives of the untouched run: the scores, the head table,
all that a run goes on from; and, at one place of each kind since they load a model, `run` again, `heads graft` and a
loaded model's answers. `log.jsonl` and the lock have no checksum: they are for people, no number comes from them. Files
that do not belong there must change nothing at all.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.harness import benchmark_parser, publish
from benchmarks.torture_case import TASKS, recipe_for
from seekr_lite.common.errors import UserError
from seekr_lite.common.progress import Listener
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.lock import LOCK_FILE

LEFT_BEHIND = "checkpoint.safetensors"
NO_CHECKSUM = ("log.jsonl", LOCK_FILE)
EXTRA = (
    "notes.txt",
    "adapters/00-shade/extra.bin",
    "adapters/99-x/adapter_config.json",
    "heads/99-x.json",
    "predictions/07/x",
)
Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Finding:
    """A command that did what it must not, of a file that was damaged in some way."""

    file: str
    damage: str
    command: str
    problem: str


class Check:
    """Damages the files of a run one after the other, and asks every reader."""

    def __init__(self, run: Path, places: int, seed: int = 0, models: bool = True) -> None:
        self.run = run
        self.places = places
        self.generator = random.Random(seed)
        self.commands = QUICK | (WITH_MODELS if models else {})
        self.expected = {name: command(run) for name, command in self.commands.items()}
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()

    def all_files(self) -> None:
        for path in sorted(path for path in self.run.rglob("*") if path.is_file()):
            self.file(path)
        for name in EXTRA:
            self.extra(name)

    def file(self, path: Path) -> None:
        name, whole = path.relative_to(self.run).as_posix(), path.read_bytes()
        for number, (damage, content) in enumerate(self._damages(whole)):
            if content is None and name == LEFT_BEHIND:
                continue  # a finished run needs none
            with replaced(path, content):
                self.counts[damage.split()[0]] += 1
                self._ask("verify", name, damage, may_be_whole=name in NO_CHECKSUM)
                for command in self.commands:
                    if command != "verify" and (command in QUICK or number in (0, 1, 2)):
                        self._ask(command, name, damage)

    def extra(self, name: str) -> None:
        """A file that does not belong there; all commands go on as if it were not."""
        path = self.run / name
        folders = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x00 no part of the run")
        self.counts["extra"] += 1
        for command in self.commands:
            self._ask(command, name, "extra", may_refuse=False)
        path.unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()

    def _damages(self, whole: bytes) -> Iterator[tuple[str, bytes | None]]:
        """The first three are of three kinds."""
        for number in range(self.places if whole else 0):
            place = self.generator.randrange(len(whole))
            flipped = bytearray(whole)
            flipped[place] ^= self.generator.randrange(1, 256)
            yield f"flip at {place} of {len(whole)}, to {flipped[place]}", bytes(flipped)
            place = self.generator.randrange(len(whole))
            yield f"cut at {place} of {len(whole)}", whole[:place]
            if number == 0:
                yield "missing", None
        if whole:
            yield "empty", b""

    def _ask(self, command: str, file: str, damage: str, may_be_whole: bool = True, may_refuse: bool = True) -> None:
        try:
            said = self.commands[command](self.run)
        except UserError as error:
            problem = "" if may_refuse else f"refused: {error}"
        except Exception as error:
            problem = f"crashed: {error!r}"
        else:
            problem = "" if said == self.expected[command] else f"says something else: {str(said)[:500]}"
            if command == "verify" and not may_be_whole:
                problem = "finds nothing"
        if problem:
            self.findings.append(Finding(file, damage, command, problem))


@contextmanager
def replaced(path: Path, content: bytes | None) -> Iterator[None]:
    """Inside the block the file has another content, or is not there."""
    whole = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


# ---------------------------------------------------------------------- what reads a run


def said_by(*arguments: str) -> str:
    """What a command prints. Raises `UserError` where it ends with 2."""
    from typer.testing import CliRunner

    from seekr_lite.cli.app import app

    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, Exception):
        raise result.exception
    if result.exit_code == UserError.exit_code:
        raise UserError(result.output)
    if result.exit_code:
        raise RuntimeError(f"exit code {result.exit_code}: {result.output}")
    return result.stdout


def read_scores(path: Path) -> Any:
    import seekr_lite as sl

    run = sl.open_run(path)
    return run.tasks, run.recipe.model_dump(), run.scores.to_json(), run._repr_html_()


def read_stages(path: Path) -> Any:
    """All that a run goes on from."""
    from seekr_lite.runs.folder import RunFolder

    folder = RunFolder.open(path)
    stages = [folder.load_stage(index, "heads") for index in range(len(folder.record.stages))]
    tasks = [folder.load_task(name) for name in folder.recipe().data.tasks]
    return tasks, [
        (
            {name: tensor.numpy().tobytes() for name, tensor in stage.snapshot.weights.items()},
            (stage.snapshot.rank, stage.snapshot.alpha, stage.samples, stage.steps),
            stage.state and ({name: one.tolist() for name, one in stage.state.tensors.items()}, stage.state.values),
        )
        for stage in stages
    ]


def run_again(path: Path) -> Any:
    """In a copy: it mends what can be mended."""
    import seekr_lite as sl

    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(path, Path(name) / "run"))
        recipe = Path(name) / "recipe.toml"
        recipe.write_text(recipe_of_run().to_toml(), encoding="utf-8")
        said_by("run", str(recipe), "-q", "-o", str(copy))
        run = sl.open_run(copy)
        predictions = sorted((copy / "predictions").rglob("*.jsonl"))
        return run.scores.to_json(), [file.read_text(encoding="utf-8") for file in predictions]


def answers(path: Path) -> list[str]:
    import seekr_lite as sl

    run = sl.open_run(path)
    return [run.load_model(after).generate("a red ball:", 4) for after in run.tasks]


QUICK: dict[str, Reader] = {
    "verify": lambda path: said_by("verify", str(path)),
    "scores": read_scores,
    "stages": read_stages,
    "heads inspect": lambda path: said_by("heads", "inspect", str(path), "--json"),
}
WITH_MODELS: dict[str, Reader] = {
    "run again": run_again,
    "heads graft": lambda path: said_by("heads", "graft", str(path), "--json"),
    "load_model": answers,
}


# ---------------------------------------------------------------------- the run


def recipe_of_run() -> Recipe:
    recipe = recipe_for("seekr", "continue").with_(train={"epochs": 1}, adapter={"rank": 4})
    return recipe.with_(
        data={"tasks": (*TASKS, "mine"), "train_limit": 32, "test_limit": 4}, run={"checkpoint_steps": 1}
    )


class CutInTheSecondTask(Listener):
    def event(self, kind: str, **values: Any) -> None:
        if kind == "step" and (values["stage"], values["step"]) == (1, 2):
            raise KeyboardInterrupt


def finished_run(folder: Path) -> Path:
    """A run of two tasks and a third from Python, with a checkpoint that something left behind."""
    import seekr_lite as sl

    mine = sl.Task(
        "mine",
        train=tuple(sl.Example(f"number {index}:", "one") for index in range(8)),
        test=(sl.Example("number 9:", "one"),),
        validation=(sl.Example("number 8:", "one"),),
    )
    two = recipe_of_run().with_(data={"tasks": TASKS})
    try:
        sl.run(two, output=folder, listener=CutInTheSecondTask())
    except KeyboardInterrupt:
        left_behind = (folder / LEFT_BEHIND).read_bytes()
    sl.run(two, output=folder, listener=Listener()).learn(mine, listener=Listener())
    (folder / LEFT_BEHIND).write_bytes(left_behind)
    return folder


def main() -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--places", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        check = Check(finished_run(Path(name) / "run"), options.places, options.seed)
        check.all_files()
        files = sum(path.is_file() for path in check.run.rglob("*"))
    result = {
        "seconds": time.perf_counter() - started,
        "files": files,
        "damages": dict(check.counts),
        "commands": list(check.commands),
        "findings": [vars(finding) for finding in check.findings],
    }
    publish(options, result)
    return 1 if check.findings else 0


if __name__ == "__main__":
    sys.exit(main())
