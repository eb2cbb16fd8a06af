"""Each benchmark that is a command alone runs, and says what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.tests.conftest import ROOT, result_of

pytestmark = pytest.mark.benchmarks
QUICKSTART = str(ROOT / "recipes" / "quickstart.toml")


@pytest.mark.slow
def test_both_ways_of_evaluating_give_the_same_answers(tmp_path: Path) -> None:
    made = result_of("evaluate_throughput", tmp_path / "made.json", "--quick")
    assert made["rows"] == 50
    assert made["answer_tokens"] > made["rows"]
    assert made["identical_share"] == {"plain / ours": 1.0}
    assert made["ratio"] > 0


@pytest.mark.slow
def test_a_long_sequence_costs_only_disk_and_stack_costs_more(tmp_path: Path) -> None:
    growth = result_of("scaling", tmp_path / "made.json", "--quick")["growth"]
    first, *others = growth["continue"]["after"]
    for other in others:
        assert other["same_operations"]
        assert other["device_bytes"] == first["device_bytes"]
        assert other["disk_bytes"] == pytest.approx(other["tasks"] * first["disk_bytes"], rel=0.01)
    first, *others = growth["stack"]["after"]
    for other in others:
        assert not other["same_operations"]
        assert other["device_bytes"] > first["device_bytes"]


def test_a_checkpoint_is_timed_by_itself_and_by_the_whole(tmp_path: Path) -> None:
    few = ["--repeats", "1", "--set", "data.train_limit=32", "--set", "train.epochs=1"]
    made = result_of("checkpoint_cost", tmp_path / "made.json", QUICKSTART, *few)
    assert made["checkpoint_bytes"] > 100_000
    assert made["share"] == pytest.approx(made["checkpoint_seconds"] / 600)


@pytest.mark.slow
def test_training_throughput_is_compared_at_equal_losses(tmp_path: Path) -> None:
    made = result_of("train_throughput", tmp_path / "quick.json", "--quick", "--repeats", "1")
    assert made["largest_difference_of_a_first_loss"]["float32"] < 1e-3
    assert len(made["ways"]) == 6
    assert all(way["rows_per_second"] > 0 for way in made["ways"])


def test_a_run_that_fits_is_measured_beside_its_plan(tmp_path: Path) -> None:
    output = tmp_path / "fit.json"
    (limit,) = result_of("fit_24gb", output, "--quick", "--limits", "1", "--set", "method.name=sequential")["limits"]
    assert limit["fits"]
    speed = limit["measured"]["speed"]
    assert limit["speed"] == speed
    assert 0 < speed["tokens_per_second"] < speed["read_per_second"]
    assert speed["written_per_second"] > 0
    assert all(abs(phase["error"]) < 0.15 for phase in limit["measured"]["phases"])


def test_a_method_costs_more_than_the_first(tmp_path: Path) -> None:
    few = ["--set", "data.train_limit=16", "--set", "data.test_limit=2", "--set", 'data.tasks=["shade", "keeper"]']
    made = result_of("method_cost", tmp_path / "made.json", QUICKSTART, "--repeats", "1", *few)
    assert [cost["method"] for cost in made["costs"]] == ["replay", "seekr"]
    assert made["costs"][0]["whole_ratio"] == 1.0


def test_cards_are_counted_on_the_rows_of_a_recipe(tmp_path: Path) -> None:
    made = result_of("cards", tmp_path / "made.json", QUICKSTART, "--tokens-per-second", "1000", "--cards", "1", "2")
    one, two = made["cards"]
    assert two["training_hours"] < one["training_hours"] < 2.2 * two["training_hours"]
    assert one["exchange_seconds_a_step"] == 0 < two["exchange_seconds_a_step"]


@pytest.mark.slow
def test_processes_differ_by_rounding_alone(tmp_path: Path) -> None:
    made = result_of("processes", tmp_path / "made.json", "--quick")
    found = [one for by_count in made["float64"].values() for one in by_count.values()]
    assert len(found) == 8
    assert all(one["same_scores"] and one["adapters"] < 1e-6 for one in found)
    for victim in made["killed"].values():
        assert victim["seconds_to_end"] < 60
        assert "another process of this run has ended" in victim["message"]
        assert all(victim[f"resumed_with_{count}"]["adapters"] < 1e-6 for count in (1, 2))


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_opens_with_the_command_that_runs_it(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    if "__main__" in text:
        assert f"\n\n    python benchmarks/{script.name}" in text.partition("from __future__")[0]
