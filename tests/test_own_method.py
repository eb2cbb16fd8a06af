"""A method that somebody writes outside of the package: it trains, resumes, and is named in recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch

import seekr_lite as sl
from seekr_lite.common.progress import Listener
from seekr_lite.data.batch import Batch
from seekr_lite.methods import registry
from seekr_lite.methods.method import LossTerm, Method, StepTotals
from seekr_lite.recipe import method_names
from seekr_lite.recipe.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()


class Anchor(Method):
    """L2 distance to the adapter before: L = cross-entropy + strength * |w - w_before|^2."""

    name = "anchor"
    summary = "holds the weights near those of the task before"
    default_options: ClassVar = {"strength": 1.0}

    def prepare_task(self, index: int) -> None:
        self.start = {name: weight.detach().clone() for name, weight in self.adapters.student.items()}
        self.old_tasks = index

    def new_task_loss(self, batch: Batch, totals: StepTotals) -> list[LossTerm]:
        terms = super().new_task_loss(batch, totals)
        if self.old_tasks:
            moved = [(weight - self.start[name]).square().sum() for name, weight in self.adapters.student.items()]
            share = len(batch.labels) / totals.rows  # of the step, which may have several micro-batches
            terms.append(LossTerm("anchor", torch.stack(moved).sum() * share, float(self.options["strength"])))
        return terms


@pytest.fixture
def anchor() -> Iterator[None]:
    sl.register_method(Anchor)
    yield
    registry.REGISTERED.clear()


def moved(run: sl.Run) -> float:
    first, second = (run.folder.load_snapshot(index).weights for index in (0, 1))
    return float(sum((second[name] - first[name]).square().sum() for name in first))


@pytest.mark.usefixtures("anchor")
def test_a_registered_method_trains_by_its_options_and_goes_on(small_recipe: MakeRecipe) -> None:
    loose = sl.run(small_recipe(method={"name": "anchor", "options": {"strength": 0.0}}), listener=QUIET)
    recipe = small_recipe(method={"name": "anchor", "options": {"strength": 100.0}})
    tight = sl.run(recipe, output=loose.path.with_name("tight"), listener=QUIET)
    assert moved(tight) < 0.5 * moved(loose)
    again = sl.run(tight.recipe, output=tight.path, listener=QUIET)  # its recipe as TOML names method and options
    assert again.recipe.method.options == {"strength": 100.0}
    assert again.scores.method == "anchor"
    registry.REGISTERED.clear()
    with pytest.raises(sl.UserError, match="a run of the method 'anchor', which is not known here"):
        sl.open_run(again.path)


@pytest.mark.usefixtures("anchor")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strenght": 1.0}, 'the method "anchor" has no option strenght; did you mean "strength"'),
        ({"strength": "much"}, "method.options.strength = 'much': give it a value like its default, 1.0"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], message: str, small_recipe: MakeRecipe) -> None:
    recipe = small_recipe(method={"name": "anchor", "options": options})
    with pytest.raises(sl.UserError, match=message):
        sl.run(recipe, listener=QUIET)


def test_methods_of_the_package_take_no_options(small_recipe: MakeRecipe) -> None:
    with pytest.raises(sl.UserError, match='"replay" has no option strength; allowed: none'):
        sl.run(small_recipe(method={"name": "replay", "options": {"strength": 1.0}}), listener=QUIET)


def test_a_name_of_the_package_cannot_be_taken() -> None:
    class Impostor(Method):
        name = "seekr"

    with pytest.raises(sl.UserError, match="give yours another name"):
        sl.register_method(Impostor)


def test_an_installed_package_adds_a_method(monkeypatch: pytest.MonkeyPatch, small_recipe: MakeRecipe) -> None:
    point = EntryPoint("anchor", f"{__name__}:Anchor", method_names.GROUP)
    for module in (registry, method_names):
        monkeypatch.setattr(module, "installed_methods", lambda: {"anchor": point})
    assert "anchor" in registry.method_names()
    assert registry.method_class("anchor") is Anchor
    assert small_recipe(method={"name": "anchor"}).method.name == "anchor"


def test_an_unknown_method_is_refused(small_recipe: MakeRecipe) -> None:
    with pytest.raises(sl.UserError, match='no method is called "anchor"'):
        small_recipe(method={"name": "anchor"})
