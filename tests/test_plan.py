"""`seekr-lite plan`: what it says of a recipe, and in which words."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.progress import Listener
from seekr_lite.methods.seekr import Seekr
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.plan.costs import choose_speed, writing_speed
from seekr_lite.tools.plan.plan import GB, Plan, make_plan
from seekr_lite.tools.plan.shapes import read_shape
from seekr_lite.tools.plan.step_counts import count_evaluations, count_stages
from seekr_lite.tools.plan.workload import UNKNOWN, estimated_tokens, read_workload

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "recipes" / "quickstart.toml"


def tiny_recipe(*overrides: str) -> Recipe:
    """Few tasks and no replay."""
    fast = ('data.tasks=["shade", "keeper"]', "method.name=sequential", "base.device=cpu")
    return Recipe.from_toml(QUICKSTART, [*fast, *overrides])


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(tiny_recipe(), tokens_per_second=1000.0)


@pytest.mark.parametrize("method", ["seekr", "joint"])
def test_steps_are_those_that_a_run_takes(small_recipe: Callable[..., Recipe], method: str) -> None:
    recipe = small_recipe(method={"name": method, "replay_step": "own"}, train={"epochs": 2})
    run = sl.run(recipe, listener=Listener())
    planned = count_stages(recipe, read_workload(recipe))
    assert [stage.steps for stage in planned] == [stage.steps for stage in run.folder.record.stages]


def test_the_longest_row_is_the_datas_where_the_tokenizer_is_here() -> None:
    recipe = tiny_recipe()
    workload = read_workload(recipe)
    rows = [row for task in workload.tasks for row in task.train]
    assert workload.longest.tokens < recipe.data.max_prompt_tokens
    assert workload.longest.tokens >= max(row.tokens for row in rows)


def test_without_the_data_memory_is_planned_for_the_longest_allowed_row(tmp_path: Path) -> None:
    overrides = ("data.format=jsonl", f"data.path={tmp_path / 'nowhere'}", "data.max_prompt_tokens=33")
    made = make_plan(tiny_recipe(*overrides))
    assert (made.counted, made.stages, made.hours) == (UNKNOWN, (), None)
    assert made.sizes.length.prompt == 33


def test_wrong_data_that_is_here_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "shade").mkdir()
    with pytest.raises(sl.UserError, match=r"train\.jsonl"):
        read_workload(tiny_recipe("data.format=jsonl", f"data.path={tmp_path}"))


def test_twice_the_speed_halves_the_time(plan: Plan) -> None:
    twice = make_plan(tiny_recipe(), tokens_per_second=2000.0)
    assert plan.hours is not None
    assert twice.hours is not None
    assert plan.hours.total == pytest.approx(2 * twice.hours.total)


def test_less_than_an_hour_is_told_in_minutes(plan: Plan) -> None:
    from rich.console import Console

    from seekr_lite.tools.plan.plan_table import render_plan

    for speed, words in {1000.0: "minutes (new rows", 0.5: "hours (new rows"}.items():
        console = Console(width=200, file=StringIO(), record=True)
        console.print(render_plan(plan if speed == 1000.0 else make_plan(tiny_recipe(), tokens_per_second=speed)))
        assert words in console.export_text()


@pytest.mark.parametrize(
    ("method", "passes"), [("sequential", 3), ("lwf", 4), ("lfpt5", 6)], ids=["sequential", "lwf", "lfpt5"]
)
def test_a_new_row_costs_what_its_method_does_with_it(method: str, passes: int) -> None:
    """With checkpointing: forward, recomputed, backward; LwF's teacher; LFPT5 learns to write the row, too."""
    speed = choose_speed(tiny_recipe("train.checkpointing=true", f"method.name={method}"), 8_030_000_000, 8)
    assert speed is not None
    assert speed.tokens_per_second == pytest.approx(2413 * 3 / passes)


def test_a_variant_of_seekr_under_its_own_name_is_planned_as_one_that_scores_heads() -> None:
    @sl.register_method
    class Variant(Seekr):
        name = "seekr-variant"

    made = make_plan(tiny_recipe("method.name=seekr-variant", "method.head_budget=4"))
    assert [phase.phase for phase in made.phases] == [
        "load", "train", "replay", "scoring", "validation", "generation",
    ]  # fmt: skip
    assert made.disk.heads > 0


def test_a_small_base_has_no_time_without_a_speed() -> None:
    assert choose_speed(tiny_recipe(), 135_000_000, 8) is None


def test_the_default_speed_is_scaled_by_parameters() -> None:
    speed = choose_speed(tiny_recipe("train.checkpointing=true"), 2 * 8_030_000_000, 8)
    assert speed is not None
    assert (speed.tokens_per_second, speed.written_per_second) == pytest.approx((2413 / 2, 188 / 2))


def test_writing_is_faster_with_more_rows_at_once() -> None:
    assert writing_speed(1) == 68
    assert 68 < writing_speed(4) < 188 < writing_speed(16) < writing_speed(100) == 695


@pytest.mark.parametrize("method", ["isolated", "pp"])
def test_a_task_that_is_routed_to_its_own_adapter_is_not_tested_twice(method: str) -> None:
    recipe = tiny_recipe(f"method.name={method}")
    assert count_evaluations(recipe, read_workload(recipe)).evaluations == 2
    recipe = tiny_recipe()
    assert count_evaluations(recipe, read_workload(recipe)).evaluations == 3


def test_chinese_takes_more_tokens_a_character_than_english() -> None:
    assert estimated_tokens("a" * 380) == 100
    assert estimated_tokens("税" * 65) == 100


def test_the_micro_batch_it_names_is_the_largest_that_fits(plan: Plan) -> None:
    tokens = plan.sizes.length.tokens

    def peak(rows: int) -> int:
        made = make_plan(tiny_recipe(f"train.micro_batch_tokens={rows * tokens}"))
        return next(phase.peak for phase in made.phases if phase.phase == "train")

    between = (peak(4) + peak(5)) / 2
    card = make_plan(tiny_recipe(f"run.memory_limit_gb={between / GB!r}")).limit
    assert card is not None
    assert (card.micro_batch_tokens, card.whole_step) == (4 * tokens, False)


def test_too_large_a_recipe_is_said_and_is_no_error() -> None:
    fast = ["--set", "method.name=sequential", "--set", "base.device=cpu"]
    shown = CliRunner().invoke(app, ["plan", str(QUICKSTART), *fast, "--set", "run.memory_limit_gb=0.001"])
    assert shown.exit_code == 0
    assert "Does not fit run.memory_limit_gb = 0.001" in shown.output


def test_json_has_the_peak_of_every_phase_and_every_card() -> None:
    fast = ["--set", "method.name=sequential", "--set", "base.device=cpu"]
    shown = CliRunner().invoke(app, ["plan", str(QUICKSTART), *fast, "--json"])
    report = json.loads(shown.stdout)
    assert [phase["phase"] for phase in report["phases"]] == ["load", "train", "validation", "generation"]
    assert report["peak_bytes"] == max(phase["peak"] for phase in report["phases"])
    assert [card["memory_gb"] for card in report["cards"]] == [24, 16, 12, 8]


def test_an_unknown_base_is_the_users_mistake() -> None:
    with pytest.raises(sl.UserError, match=r"hf download nobody/nothing config\.json"):
        make_plan(tiny_recipe("base.model=nobody/nothing"))


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*7b*.toml")), ids=lambda path: path.stem)
def test_sizes_of_the_bases_of_our_recipes_are_packaged(recipe: Path) -> None:
    assert read_shape(Recipe.from_toml(recipe).base).layers in (28, 32)


def test_a_mixture_of_experts_is_said_to_be_a_guess(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "mixtral", "vocab_size": 300, "num_key_value_heads": 4, "num_local_experts": 4, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shown = CliRunner().invoke(app, ["plan", str(QUICKSTART), "--set", f"base.model={tmp_path}"])
    assert "layers are mixtures of experts" in shown.output
    assert "a guess" in shown.output


def test_of_plain_decoders_nothing_is_a_guess(plan: Plan) -> None:
    assert plan.caveat == ""


def test_a_7b_recipe_is_planned_with_nothing_but_its_file_in_five_seconds() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "seekr_lite", "plan", str(ROOT / "recipes" / "trace-llama2-7b.toml"), "--json"]
    made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert made["parameters"] == 6_738_415_616
    assert made["limit"]["as_it_is"]
    assert [card["micro_batch_tokens"] is not None for card in made["cards"]] == [True] * 4
