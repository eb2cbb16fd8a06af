"""Experiment trackers: what `log.jsonl` has, sent to TensorBoard, Weights & Biases or trackio as well.

They go through accelerate's tracking classes. A tracker is never a reason for a run to stop: where one fails, that is
said once and the run goes on without it. Steps are counted over the whole run, so that a run that was stopped goes on
in the same curves.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Self

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import read_json, write_json
from seekr_lite.common.progress import Listener, current_listener
from seekr_lite.recipe.recipe import Recipe

PROJECT = "seekr-lite"  # wandb and trackio sort runs into projects
NAMES_FILE = "trackers.json"  # the name of the run at each tracker that keeps its own
NOT_A_LOSS = {"stage", "step", "epoch", "learning_rate", "gradient_norm", "term_gradient_norms"}


class Trackers(Listener):
    """Sends losses, learning rate and gradient norms of each step, and every score, to the trackers of a recipe.

    A context: at its end the trackers are closed. A tracker begins with the first thing that it is sent, so a run that
    has nothing left to do leaves no trace there.

    Args:
        recipe: names the trackers (`run.trackers`), and is stored with the run at those that keep its settings.
        path: the run folder.
    """

    def __init__(self, recipe: Recipe, path: Path) -> None:
        self.recipe, self.path = recipe, path
        self.waiting: list[str] = list(dict.fromkeys(recipe.run.trackers))
        self.running: dict[str, Any] = {}
        self.stage_steps: list[int] = []  # of the finished stages

    def event(self, kind: str, **values: Any) -> None:
        if kind == "step":
            self._send(step_values(values), sum(self.stage_steps[: values["stage"]]) + values["step"])
        elif kind == "stage":
            self.stage_steps.append(values["steps"])
        elif kind == "evaluation":
            after = values["after"]
            stages = 0 if after is None else after + 1
            self._send(evaluation_values(values), sum(self.stage_steps[:stages]))

    def _send(self, values: dict[str, float], step: int) -> None:
        waiting, self.waiting = self.waiting, []
        for name in waiting:
            self._guarded(name, self._start, name, step)
        for name, tracker in list(self.running.items()):
            self._guarded(name, tracker.log, values, step)

    def _guarded(self, name: str, call: Callable[..., Any], *arguments: Any) -> None:
        """Whatever goes wrong in a tracker: it is said, and the tracker is left out from then on."""
        try:
            with redirect_stdout(sys.stderr):  # trackio prints where it writes; standard output is for results
                call(*arguments)
        except Exception as error:
            self.running.pop(name, None)
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            current_listener().say(
                f"tracker {name}: failed, and the run goes on without it (log.jsonl has everything): {first}"
            )

    def _start(self, name: str, step: int) -> None:
        import torch
        from accelerate import PartialState, tracking

        PartialState(cpu=not torch.cuda.is_initialized())  # accelerate's classes log through it
        if name == "tensorboard":
            # What a stopped run had written of this step and later ones is made anew, and not shown twice.
            tracker = tracking.TensorBoardTracker("tensorboard", str(self.path), purge_step=step)
        elif name == "wandb":
            # Not into the run folder: wandb makes links, and a run folder holds none.
            settings = {"console": "off"}
            own = {"id": self._name_at("wandb"), "name": self.path.name, "resume": "allow", "settings": settings}
            tracker = tracking.WandBTracker(PROJECT, **own)
        else:
            tracker = tracking.TrackioTracker(PROJECT, name=self._name_at("trackio"), resume="allow")
        tracker.start()
        if name != "tensorboard":  # which would make one more folder for it, beside the run's own recipe.toml
            tracker.store_init_configuration({key: plain(value) for key, value in self.recipe.by_key().items()})
        self.running[name] = tracker

    def _name_at(self, name: str) -> str:
        """The name under which a tracker knows this run, and finds it again when it goes on."""
        file = self.path / NAMES_FILE
        try:
            names = read_json(file) if file.is_file() else {}
            known = names.get(name)
        except (UserError, AttributeError):  # damaged: the run begins anew there
            names, known = {}, None
        if not isinstance(known, str) or not known.isprintable():
            known = uuid.uuid4().hex[:8]
            if name == "trackio":  # shows this name to people
                known = f"{self.path.name}-{known}"
            write_json(file, {**names, name: known})
        return known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for name, tracker in list(self.running.items()):
            # accelerate's own way would leave the run open for trackio, which ends it again at exit.
            self._guarded(name, sys.modules["trackio"].finish if name == "trackio" else tracker.finish)
        self.running = {}


def step_values(event: Mapping[str, Any]) -> dict[str, float]:
    """A logged step by the names that trackers sort into groups: `loss/...`, `gradient_norm/...`."""
    values = {"learning_rate": event["learning_rate"], "gradient_norm/all": event["gradient_norm"]}
    values |= {f"loss/{term}": value for term, value in event.items() if term not in NOT_A_LOSS}
    values |= {f"gradient_norm/{term}": norm for term, norm in event.get("term_gradient_norms", {}).items()}
    return values


def evaluation_values(event: Mapping[str, Any]) -> dict[str, float]:
    """A finished test: the score of its task and the NLL of the held-out rows, as far as there are any."""
    return {f"{kind}/{event['task']}": event[kind] for kind in ("score", "nll") if event[kind] is not None}


def plain(value: Any) -> bool | int | float | str | None:
    """Lists as text, since trackers keep plain values."""
    return value if isinstance(value, bool | int | float | str | None) else str(value)
