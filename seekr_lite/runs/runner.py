"""A recipe and a run folder in, a finished run out: the order of things, what is skipped, what is refused.

(Not `run.py`: the package's public function `run` would be hidden by a module of the same name.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_path, writing
from seekr_lite.common.memory import TESTING, limit_memory, phase_cost
from seekr_lite.common.packages import load_extra
from seekr_lite.common.processes import Processes, current_processes, launched_alone
from seekr_lite.common.progress import Listener, Listeners, current_listener
from seekr_lite.common.stopping import stop_signals
from seekr_lite.data.task import Task
from seekr_lite.evaluation.scoreboard import Evaluation, planned_evaluations, scoreboard, show
from seekr_lite.methods.registry import with_options
from seekr_lite.model.base import choose_device, load_base
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.cards import model_card
from seekr_lite.runs.checks import check_against_base, check_continues
from seekr_lite.runs.folder import RUN_FILE, RunFolder
from seekr_lite.runs.lock import locked
from seekr_lite.runs.log import LogFile, cut_to_whole_lines
from seekr_lite.runs.record import file_checksum
from seekr_lite.runs.tasks import gather_tasks, refuse_other_rows
from seekr_lite.runs.trackers import Trackers
from seekr_lite.training.learner import Learner


def run_recipe(
    recipe: Recipe | str | Path,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    tasks: Sequence[Task] = (),
    fresh: bool = False,
) -> RunFolder:
    """What `seekr_lite.run` does; returns the folder of the finished run."""
    if not isinstance(recipe, Recipe):
        recipe = Recipe.from_toml(recipe, overrides)
    path = user_path(output or recipe.run.output or "runs/run")
    recipe = with_options(recipe.with_(run={"output": str(path)}))  # a run goes on with these, whatever defaults become
    processes = Processes.launched(choose_device(recipe.base.device))
    if launched_alone():
        current_listener().say(
            "accelerate has started one process: with --cpu it starts no more, whatever --num_processes says. For "
            "several on a CPU: torchrun --nproc_per_node 2 -m seekr_lite run RECIPE"
        )
    trackers = Trackers(recipe, path)
    listener = Listeners(current_listener(), LogFile(path / "log.jsonl"), trackers) if processes.is_main else Listener()
    with current_processes.set_to(processes), current_listener.set_to(listener):
        return run_here(recipe, path, trackers, tasks, fresh)


def run_here(recipe: Recipe, path: Path, trackers: Trackers, tasks: Sequence[Task], fresh: bool) -> RunFolder:
    """Begins or takes up a run in `path`; all that can be refused is refused before a folder is made."""
    processes = current_processes()
    with processes.together():
        for tracker in recipe.run.trackers:
            load_extra(tracker, tracker)
        RunFolder.check_free(path)
        folder = RunFolder.open(path) if RunFolder.is_run(path) and not fresh else None
        if folder is not None:
            check_continues(folder, recipe)
        sequence = gather_tasks(recipe, folder, tasks)
        check_against_base(recipe)
        device = processes.device or choose_device(recipe.base.device)
        limit_memory(recipe.run.memory_limit_gb, device)
        base = load_base(recipe.base, device)
        # Before a folder is made: it refuses what a method cannot use.
        learner = Learner(recipe, base)
    with ExitStack() as held:
        with processes.together():
            if processes.is_main:
                if fresh and RunFolder.is_run(path):
                    current_listener().say(f"the run that was in {path} is now in {move_aside(path)}")
                held.enter_context(locked(path))
                folder = prepare_folder(path, recipe, tasks)
                held.enter_context(trackers)
                trackers.stage_steps = [stage.steps for stage in folder.record.stages]
        held.enter_context(stop_signals(alone=processes.count == 1))
        folder = seen_by_all(path, folder)
        carry_on(folder, learner, sequence)
    return folder


def prepare_folder(path: Path, recipe: Recipe, tasks: Sequence[Task]) -> RunFolder:
    """Makes a run folder, or takes one up again; only for the process that holds its lock.

    It looks again at what is there: another process may have worked there while this one loaded the base.
    """
    RunFolder.check_free(path)
    if RunFolder.is_run(path):
        folder = RunFolder.open(path)
        check_continues(folder, recipe)
        refuse_other_rows(folder, tasks)
    else:
        folder = RunFolder.create(path, recipe)
    folder.clean()
    cut_to_whole_lines(path / "log.jsonl")
    for task in tasks:
        folder.save_task(task)
    folder.write_recipe(recipe)
    return folder


def seen_by_all(path: Path, folder: RunFolder | None) -> RunFolder:
    """The run folder that the main process has prepared. Raises `UserError` where another one does not see it."""
    processes = current_processes()
    checksum = processes.on_main(lambda: file_checksum(path / RUN_FILE))
    with processes.together():
        if folder is None or not processes.is_main:
            if not RunFolder.is_run(path) or file_checksum(path / RUN_FILE) != checksum:
                raise UserError(
                    f"{path}: the main process works there, and this one does not see the same folder; put the run "
                    "(--output) on a disk that all machines share"
                )
            folder = RunFolder.open(path)
    assert folder is not None
    return folder


def by_main(folder: RunFolder, write: Callable[[], object]) -> None:
    """The main process writes to the folder; the others wait for it, and read what is recorded now."""
    processes = current_processes()
    with processes.together():
        if processes.is_main:
            write()
    if not processes.is_main:
        folder.read_again()


def move_aside(path: Path) -> Path:
    """Gives a run folder another name; returns it. Raises `UserError` where a process works in it."""
    path = path.resolve()  # `.` has no name
    with locked(path):
        number = 1
        while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
            number += 1
        with writing(aside):
            path.rename(aside)
    return aside


def carry_on(folder: RunFolder, learner: Learner, tasks: list[Task]) -> None:
    """Takes a run folder from where it is to the end of its recipe."""
    joint, recipe, listener = learner.method.joint, learner.recipe, current_listener()
    stages = [tasks] if joint else [[task] for task in tasks]
    planned = planned_evaluations(len(tasks), recipe.evaluate.rounds, joint)
    # What was recorded once is made again, too, where the rounds of the longer sequence no longer ask for it.
    damaged = current_processes().on_main(folder.forget_damaged_evaluations)
    by_main(folder, lambda: None)
    places = {task.name: index for index, task in enumerate(tasks)}
    evaluations = list(dict.fromkeys([*planned, *((after, places[task]) for after, task in damaged)]))
    checkpoints = folder.checkpoints(recipe)
    evaluate_after(folder, learner, None, tasks, evaluations)
    for index, stage in enumerate(stages):
        if index < len(folder.record.stages):
            learner.restore(stage, folder.load_stage(index, learner.method.state_folder))
        else:
            learned = learner.learn(*stage, checkpoints=checkpoints)
            name = folder.stage_name(index, stage, joint)
            config = learner.adapters.config_of(learned.snapshot)
            card = model_card(name, stage, config, folder.record)
            save = partial(folder.save_stage, name, stage, learned, config, card, learner.method.state_folder)
            by_main(folder, save)
            by_main(folder, checkpoints.forget)
            phases = {cost.phase: cost.to_json() for cost in learned.costs}
            listener.event("stage", stage=index, name=name, steps=learned.steps, seconds=learned.seconds, phases=phases)
        after = len(tasks) - 1 if joint else index
        evaluate_after(folder, learner, after, tasks, evaluations)
        listener.say(describe_stage(folder, index, after, stage))
    results = {}
    for after_task, task in planned:
        record = folder.evaluation(after_task, tasks[task].name)
        assert record is not None, "every planned evaluation has been made"
        results[(after_task, task)] = (record.score, record.nll)
    metrics = {task.name: task.metric for task in tasks}
    scores = scoreboard(metrics, results, recipe.method.name, recipe.run.seed)
    by_main(folder, lambda: folder.save_scores(scores.to_json()))
    by_main(folder, checkpoints.forget)


def evaluate_after(
    folder: RunFolder,
    learner: Learner,
    after: int | None,
    tasks: list[Task],
    evaluations: list[Evaluation],
) -> None:
    """Makes the planned evaluations of one round that have not been made."""
    for round_after, task in evaluations:
        if round_after == after and folder.evaluation(after, tasks[task].name) is None:
            name = tasks[task].name
            with phase_cost(TESTING, learner.base.device) as cost:
                result = learner.test(task, after, tasks[task], folder.prediction_draft(after, name))
            by_main(folder, partial(folder.save_evaluation, after, name, result))
            took = {cost.phase: cost.to_json()}
            current_listener().event(
                "evaluation", after=after, task=name, score=result.score, nll=result.nll, phases=took
            )


def describe_stage(folder: RunFolder, index: int, after: int, stage: list[Task]) -> str:
    """One line about a stage that has ended."""
    record = folder.record.stages[index]
    found = [folder.evaluation(after, task.name) for task in stage]
    scores = ", ".join(f"{one.task} {show(one.score)}" for one in found if one is not None)
    return f"{record.name}: {record.steps} steps in {record.seconds:.0f} s" + (f"; score {scores}" if scores else "")
