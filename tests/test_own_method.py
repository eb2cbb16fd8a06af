"""A method that somebody writes outside of the package: it trains, resumes, and is named in recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch

import seekr_lite as sl
from seekr_lite.attention.selection import Head
from seekr_lite.attention.tap import tap
from seekr_lite.common.progress import Listener
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods import registry
from seekr_lite.methods.baselines import Joint, Replay
from seekr_lite.methods.method import LossTerm, Method, ReplayBatch, StepTotals
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.methods.seekr import Seekr
from seekr_lite.model.base import load_base
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.recipe import method_names
from seekr_lite.recipe.recipe import AdapterSettings, BaseSettings, MethodSettings, Recipe

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
    monkeypatch.setattr(method_names, "installed_methods", lambda: {"anchor": point})
    assert "anchor" in registry.method_names()
    assert registry.method_class("anchor") is Anchor
    assert small_recipe(method={"name": "anchor"}).method.name == "anchor"


def test_an_installed_method_that_cannot_be_imported_is_named(
    monkeypatch: pytest.MonkeyPatch, small_recipe: MakeRecipe
) -> None:
    point = EntryPoint("lost", "no_such_package.lost:Lost", method_names.GROUP)
    monkeypatch.setattr(method_names, "installed_methods", lambda: {"lost": point})
    with pytest.raises(sl.UserError, match=r'"lost" is no_such_package\.lost:Lost, which cannot be imported'):
        small_recipe(method={"name": "lost"})


# ------------------------------------------------------------------ traits, whatever the name


class AllAtOnce(Joint):
    name = "all-at-once"


class Upper(Seekr):
    """SEEKR with the chosen heads of the upper half of the layers, its scores in a folder of their own."""

    name = "upper"
    state_folder = "upper"

    def watched_heads(self, task: int) -> Sequence[Head]:
        return [head for head in super().watched_heads(task) if head[0] >= self.shape[0] // 2]


@pytest.fixture
def others() -> Iterator[None]:
    for method in (AllAtOnce, Upper):
        sl.register_method(method)
    yield
    registry.REGISTERED.clear()


@pytest.mark.usefixtures("others")
def test_a_joint_method_takes_no_more_tasks(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(method={"name": "all-at-once"}), listener=QUIET)
    rows = [sl.Example("say:", "yes")] * 8
    with pytest.raises(sl.UserError, match="has learned all its tasks at once and takes no more"):
        run.learn(sl.Task("mine", train=rows, test=rows), listener=QUIET)


@pytest.mark.usefixtures("others")
def test_a_method_that_scores_heads_shows_them(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(method={"name": "upper"}), listener=QUIET)
    assert (run.path / "upper" / "01-keeper.json").is_file()
    assert len(run.heads.of("keeper").chosen) == 2
    assert sl.compare(run).runs[0].heads == 2
    assert "no head scores" not in run.save_report().read_text()


@pytest.mark.usefixtures("others")
def test_a_subclass_inherits_what_seekr_takes_where_a_recipe_is_silent() -> None:
    settings = MethodSettings(name="upper")
    assert (settings.replay_step, settings.replay_passes, settings.attention_weight) == ("own", 12.0, 30.0)
    assert MethodSettings(name="all-at-once").replay_step == "shared"


def attention_term(method_class: type[Seekr], chosen: tuple[tuple[Head, ...], ...]) -> float:
    """Of two old rows, of tasks 0 and 1, whose teachers are far from the student."""
    base = load_base(BaseSettings(model="tiny", device="cpu"))
    adapters = AdapterSequence(base, AdapterSettings(rank=4), seed=0)
    method = method_class(MethodSettings(), adapters, seed=0)
    method.chosen = list(chosen)
    adapters.start_task()
    for task in range(2):
        torch.manual_seed(task)
        for weight in adapters.student.values():
            weight.data = 0.3 * torch.randn_like(weight)
        adapters.finish_task()
        adapters.start_task()
    rows = [ReplayRow(task, 0, EncodedExample((5, 9, 17, 30, 2), 2)) for task in range(2)]
    replay = ReplayBatch(collate([row.encoded for row in rows], 0), rows)
    adapters.model.eval()
    with tap(base.model):
        terms = {one.name: one.value for one in method.replay_loss(replay, StepTotals(4, 2, frozenset({0, 1})))}
    return float(terms.get("attention_distillation", torch.zeros(())).detach())


def test_a_variant_of_seekr_is_the_mean_over_the_layers_that_it_holds() -> None:
    both = ((0, 1), (2, 1), (3, 0)), ((0, 0), (3, 2))
    upper = ((2, 1), (3, 0)), ((3, 2),)
    held = attention_term(Upper, both)
    assert held > 0
    assert held == attention_term(Seekr, upper)


def test_a_variant_that_holds_no_head_has_no_attention_term() -> None:
    assert attention_term(Upper, (((0, 1),), ((1, 0),))) == 0


class Forgetful(Method):
    name = "forgetful"
    replays = True


class Torn(Joint):
    name = "torn"
    routed_by_task = True


class Misspelt(Replay):
    name = "misspelt"
    recipe_defaults: ClassVar = {"replay_pases": 4.0, "replay_step": "alone"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Forgetful, 'the method "forgetful" has replays = True and no replay_loss'),
        (Torn, 'the method "torn" is joint, with one adapter for all tasks, and routed_by_task'),
        (Misspelt, "recipe_defaults: replay_step: .*; replay_pases: Extra inputs are not permitted"),
    ],
)
def test_traits_without_what_they_need_are_refused(method: type[Method], message: str) -> None:
    with pytest.raises(sl.UserError, match=message):
        sl.register_method(method)
    assert method.name not in registry.REGISTERED


class Silent(Replay):
    name = "silent"

    def replay_loss(self, replay: ReplayBatch, totals: StepTotals) -> list[LossTerm]:
        return []


def test_a_loss_without_terms_is_refused_in_words(small_recipe: MakeRecipe) -> None:
    sl.register_method(Silent)
    with pytest.raises(sl.UserError, match='the method "silent" gave no loss terms'):
        sl.run(small_recipe(method={"name": "silent"}), listener=QUIET)
    registry.REGISTERED.clear()


def test_an_unknown_method_is_refused(small_recipe: MakeRecipe) -> None:
    with pytest.raises(sl.UserError, match='no method is called "anchor"'):
        small_recipe(method={"name": "anchor"})
