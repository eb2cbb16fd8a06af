"""Every method with every seed, from one recipe: which runs that takes, which of them are there, and doing the rest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seekr_lite.common.errors import Interrupted, UserError
from seekr_lite.common.files import user_path
from seekr_lite.common.memory import free_memory
from seekr_lite.common.progress import Advance, Listener, Listeners, current_listener
from seekr_lite.evaluation.scoreboard import Scoreboard, planned_evaluations
from seekr_lite.methods.registry import method_class
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.checks import check_continues
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.runner import run_recipe
from seekr_lite.tools.compare.comparison import Comparison


@dataclass(frozen=True)
class PlannedRun:
    """A run that the comparison needs, and where it lies."""

    recipe: Recipe
    path: Path

    @property
    def state(self) -> str:
        """missing, unfinished or finished. Raises `UserError` where the folder holds something else."""
        RunFolder.check_free(self.path)
        if not RunFolder.is_run(self.path):
            return "missing"
        folder = RunFolder.open(self.path)
        check_continues(folder, self.recipe)
        return "finished" if _holds_all(folder, self.recipe) else "unfinished"


def compare(
    *what: Recipe | str | Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Comparison:
    """Compares runs; or makes the runs of several methods and seeds from one recipe, and compares these.

    Args:
        what: the folders of runs; or one recipe, or the path of a recipe file.
        methods: with a recipe: the methods to compare, by default the recipe's own.
        seeds: with a recipe: the seeds of each method, by default the recipe's own.
        output: with a recipe: the folder of the runs, each in `method-seed`; by default `runs/compare-NAME`. What is
            finished there is taken as it is, what is unfinished goes on.
        overrides: `section.key=value`, for a recipe file.

    Raises:
        UserError: nothing to compare, a wrong recipe, or a folder of the comparison that holds another run.
        Interrupted: a run was stopped; the same call goes on from there.
    """
    recipes = [one for one in what if isinstance(one, Recipe) or _is_recipe_file(one)]
    if not recipes:
        if methods or seeds or output is not None or overrides:
            raise UserError("compare: methods, seeds, output and changed keys go with one recipe, not with runs")
        return Comparison.of([RunFolder.open(one) for one in what if not isinstance(one, Recipe)])
    if len(what) > 1:
        raise UserError("compare: name one recipe, or any number of runs")
    (given,) = recipes
    recipe = given if isinstance(given, Recipe) else Recipe.from_toml(given, overrides)
    planned = plan_runs(recipe, methods, seeds, output or default_output(given))
    make_runs(planned)
    return Comparison.of([RunFolder.open(one.path) for one in planned])


def plan_runs(recipe: Recipe, methods: Sequence[str], seeds: Sequence[int], output: str | Path) -> list[PlannedRun]:
    """The runs of a comparison, seed by seed inside each method.

    Raises:
        UserError: an unknown method, an impossible seed, or one that is named twice.
    """
    methods, seeds = methods or (recipe.method.name,), seeds or (recipe.run.seed,)
    for kind, names in (("method", methods), ("seed", seeds)):
        repeated = sorted({str(name) for name in names if list(names).count(name) > 1})
        if repeated:
            raise UserError(f"compare: {kind} {', '.join(repeated)} is named more than once")
    planned = []
    for method in methods:
        for seed in seeds:
            path = user_path(output) / f"{method}-{seed}"
            changed = recipe.with_(method={"name": method}, run={"seed": seed, "output": str(path)})
            planned.append(PlannedRun(changed, path))
    return planned


def make_runs(planned: Sequence[PlannedRun]) -> None:
    """Does what is missing. Every folder is looked at first, so that nothing starts where one holds another run."""
    to_do, listener = [one for one in planned if one.state != "finished"], current_listener()
    if len(to_do) < len(planned):
        listener.say(f"{len(planned) - len(to_do)} of {len(planned)} runs are finished and taken as they are")
    for number, one in enumerate(to_do, start=1):
        title = f"run {number} of {len(to_do)}: {one.recipe.method.name}, seed {one.recipe.run.seed}"
        listener.say(f"{title} (in {one.path})")
        try:
            with current_listener.set_to(_Titled(title, listener)):
                run_recipe(one.recipe, output=one.path)
        except Interrupted as stop:
            raise Interrupted(f"{stop} ({title})", stop.exit_code) from None
        free_memory()  # two bases are never held at once


def commands(recipe: Path, planned: Sequence[PlannedRun], overrides: Sequence[str] = ()) -> list[str]:
    """The `seekr-lite run` commands that make these runs, one each, for other machines or a queue."""
    own, lines = Recipe.from_toml(recipe, overrides).method, []
    for one in planned:
        words = ["seekr-lite", "run", str(recipe)]
        method, seed = one.recipe.method.name, one.recipe.run.seed
        foreign = ["method.options={}"] if own.options and method != own.name else []
        for change in (*overrides, *foreign, f"method.name={method}", f"run.seed={seed}"):
            words += ["--set", change]
        lines.append(shlex.join([*words, "--output", str(one.path)]))
    return lines


def default_output(recipe: Recipe | str | Path) -> Path:
    """Where the runs of a comparison go if nobody says where."""
    return Path("runs") / ("compare" if isinstance(recipe, Recipe) else f"compare-{Path(recipe).stem}")


def _holds_all(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether a run of this recipe has been learned, tested and scored to its end."""
    tasks = recipe.data.tasks
    if not folder.has_scores or Scoreboard.from_json(folder.load_scores()).tasks != tasks:
        return False
    wanted = planned_evaluations(len(tasks), recipe.evaluate.rounds, method_class(recipe.method.name).joint)
    return all(folder.evaluation(after, tasks[task]) is not None for after, task in wanted)


def _is_recipe_file(what: str | Path) -> bool:
    return Path(what).suffix == ".toml" and not user_path(what).is_dir()


class _Titled(Listeners):
    """Says in every phase which of the runs it is part of."""

    def __init__(self, title: str, listener: Listener) -> None:
        super().__init__(listener)
        self.title = title

    @contextmanager
    def phase(self, description: str, total: int) -> Iterator[Advance]:
        with super().phase(f"{self.title}: {description}", total) as advance:
            yield advance
