"""The raw result of one run of a study: a small JSON file that says all that the results page needs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from pathlib import Path
from typing import Any

import seekr_lite as sl
from benchmarks.harness import device_name
from benchmarks.study_grid import GeneralText, Point, Study
from seekr_lite.common.errors import UserError
from seekr_lite.common.files import read_json, write_text
from seekr_lite.common.packages import versions
from seekr_lite.common.progress import Listener
from seekr_lite.evaluation.scoreboard import Scoreboard
from seekr_lite.methods.registry import method_class
from seekr_lite.recipe.recipe import MethodSettings, Recipe

RESULTS = Path(__file__).parent / "results"
TRIED = "tried"  # the folder of trials (`tried.py`) beside those of studies
DIGITS = 5
# Where things lie and how they are handled on a machine; a result does not hang on them.
NO_SETTING = {"data.path", "base.device", "base.model", "evaluate.batch_tokens", "train.micro_batch_tokens"}
REPLAY_KEYS = {f"method.{key}" for key in MethodSettings.model_fields} - {"method.name", "method.options"}


@dataclass(frozen=True)
class Result:
    """What a run of a study found.

    base: the name of the base's folder. settings: `section.key` -> value of the run's recipe. general: NLL per token
    of the general text, of the bare base and of the last model. learning_seconds: of training and scoring alone;
    seconds: of the whole run, loading and testing too, with other runs beside it on the same machine.
    """

    study: str
    variant: str
    order: str
    seed: int
    base: str
    settings: dict[str, Any]
    scores: Scoreboard
    general: tuple[float, float] | None
    steps: int
    kept_rows: int
    learning_seconds: float
    seconds: float
    device: str
    versions: dict[str, str]

    def figure(self, name: str) -> float | None:
        """A figure of the scoreboard by name, or `general`: how much the NLL of the general text rose."""
        if name == "general":
            return None if self.general is None else self.general[1] - self.general[0]
        return self.scores.summary()[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded."""
        return {**_rounded(asdict(self)), "scores": _rounded(self.scores.to_json())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Result:
        """Raises `TypeError` and `UserError` where the values are no result."""
        general = values["general"]
        return cls(**{**values, "scores": Scoreboard.from_json(values["scores"]), "general": general and (*general,)})


def result_path(results: Path, point: Point) -> Path:
    return results / point.study / f"{point.name}.json"


def read_results(folder: Path) -> list[Result]:
    """All raw results of a study, by file name. Raises `UserError` where one is damaged."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Result.from_json(read_json(path)))
        except (TypeError, KeyError) as error:
            raise UserError(f"{path}: this is no result of a study: {error}") from None
    return found


def is_finished(results: Path, point: Point) -> bool:
    """Whether the raw result of a point is there. Raises `UserError` where it is one of other settings."""
    path = result_path(results, point)
    if not path.is_file():
        return False
    found, wanted = Result.from_json(read_json(path)).settings, settings_of(point.recipe)
    # Keys that came into recipes after the run are not held against it: their defaults keep what was before.
    differing = sorted(key for key in found.keys() & wanted.keys() if found[key] != wanted[key])
    if differing:
        raise UserError(
            f"{path}: this is the result of other settings ({', '.join(differing)}); move it away to make the run anew"
        )
    return True


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """`section.key` -> value, as JSON has it, of what a result hangs on; of a method that keeps no rows, nothing of
    how they would be replayed. `method.options.key` is what the method takes, its own defaults too."""
    method = method_class(recipe.method.name)
    left_out = NO_SETTING | {"method.options"} | (set() if method.replays or method.keeps_samples else REPLAY_KEYS)
    settings = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in recipe.by_key().items()
        if not key.startswith("run.") and key not in left_out
    }
    return settings | {f"method.options.{key}": value for key, value in method.read_options(recipe.method).items()}


def make_result(study: Study, point: Point, runs: Path) -> Result:
    """Runs a point of the grid to its end (or on from where it was stopped) and sums it up.

    Raises:
        UserError, Stopped, Interrupted: as `seekr_lite.run`.
    """
    started = time.monotonic()
    run = sl.run(point.recipe, output=runs / study.name / point.name, listener=Listener())
    general = None
    if study.general is not None:
        text = runs / study.name / f"general-{study.general.task}.txt"
        write_text(text, general_text(study.general, point.recipe))
        before, after = run.general_likelihood(text, after=["base", run.tasks[-1]])
        general = (before.nll, after.nll)
    stages = run.folder.record.stages
    return Result(
        study=study.name,
        variant=point.variant,
        order=point.order,
        seed=point.seed,
        base=Path(point.recipe.base.model).name,
        settings=settings_of(point.recipe),
        scores=run.scores,
        general=general,
        steps=sum(stage.steps for stage in stages),
        kept_rows=sum(len(run.folder.load_samples(index)) for index in range(len(stages))),
        learning_seconds=fsum(stage.seconds for stage in stages),
        seconds=time.monotonic() - started,
        device=device_name(),
        versions=versions(),
    )


def write_result(results: Path, point: Point, result: Result) -> None:
    """Raises `Stopped` where it cannot be written."""
    write_text(result_path(results, point), json.dumps(result.to_json(), allow_nan=False) + "\n")


def general_text(wanted: GeneralText, recipe: Recipe) -> str:
    """The inputs of the first test rows of a task, without what all its prompts begin and end with."""
    from seekr_lite.data.readers import load_tasks

    data = recipe.data.model_copy(update={"tasks": (wanted.task,), "test_limit": wanted.rows, "validation_rows": 0})
    prompts = [row.prompt for row in load_tasks(data)[0].test]
    start = shared_start(prompts)
    end = shared_start([prompt[:start:-1] for prompt in prompts])
    return "\n\n".join(prompt[start : len(prompt) - end].strip() for prompt in prompts)


def shared_start(texts: Sequence[str]) -> int:
    """How many characters all of several texts begin with."""
    if len(texts) < 2:
        return 0
    first, last = min(texts), max(texts)
    return next((index for index, char in enumerate(first) if char != last[index]), len(first))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
