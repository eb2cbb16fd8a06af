"""Studies: the grid, what is taken up, how a claim is judged, and the page of results."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from xml.etree import ElementTree

import pytest

from benchmarks.study import main
from benchmarks.study_claims import Gain, bootstrap_interval, gain_of, judge, verdict
from benchmarks.study_grid import Claim, Comparison, Study, all_studies, find_study, study_points
from benchmarks.study_page import build_page, readme_with_results
from benchmarks.study_results import RESULTS, Result, make_result, read_results, result_path, settings_of, write_result
from seekr_lite.common.errors import UserError
from seekr_lite.common.files import write_text
from seekr_lite.evaluation.scoreboard import Scoreboard
from seekr_lite.methods.lwf import LearningWithoutForgetting

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.benchmarks


@pytest.fixture(scope="module")
def tiny_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw results of two variants of the study of toy tasks, one seed."""
    folder, study = tmp_path_factory.mktemp("study"), find_study("tiny")
    for point in study_points(study, only=["sequential", "replay"], seeds=[0]):
        write_result(folder / "results", point, make_result(study, point, folder / "runs"))
    return folder / "results"


def with_nll(result: Result, variant: str, seed: int, nll: float) -> Result:
    """The result of another seed, which ends with this NLL on every task."""
    matrix = tuple(tuple(nll for _ in row) for row in result.scores.nll_matrix)
    board = replace(result.scores, nll_matrix=matrix)
    return replace(result, variant=variant, seed=seed, scores=board)


# ---------------------------------------------------------------------- the grid


@pytest.mark.parametrize("study", list(all_studies()), ids=lambda study: study.name)
def test_every_study_is_a_grid_of_right_recipes(study: Study) -> None:
    points = study_points(study)
    assert len({point.name for point in points}) == len(points)
    assert all(point.recipe.run.seed == point.seed for point in points)
    assert all(any(point.variant.endswith(f"-{ending}") for point in points) for ending in study.endings)


def test_a_grid_that_is_cut_short_is_paired() -> None:
    points = study_points(find_study("superni-4"))
    first = [point for point in points if point.seed == points[0].seed]
    assert points[: len(first)] == first  # all variants of a seed, before the next seed
    assert [point.variant for point in points[len(first) : 2 * len(first)]] == [point.variant for point in first]


def test_replay_fractions_are_variants_of_methods_that_keep_rows() -> None:
    points = {point.variant: point.recipe for point in study_points(find_study("tiny"), seeds=[0])}
    assert points["replay"].method.replay_fraction == 0.05
    assert points["replay-0.2"].method.replay_fraction == 0.2
    assert "sequential-0.2" not in points


def test_epochs_follow_their_tasks_into_another_order() -> None:
    study = find_study("tiny")
    recipe = {**study.recipe, "train": {**study.recipe["train"], "epochs": [1, 2]}}
    turned = study.model_copy(update={"recipe": recipe, "orders": {"back": ("keeper", "shade")}})
    (point,) = study_points(turned, only=["sequential"], seeds=[0])
    assert (point.recipe.data.tasks, point.recipe.train.epochs) == (("keeper", "shade"), (2, 1))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tinny"], 'did you mean "tiny"'),
        (["tiny", "--only", "seekkr"], 'did you mean "seekr"'),
        (["tiny", "--seeds", "9"], "no seed is called 9"),
        (["tiny", "--set", "train.epochs=0"], "train.epochs"),
    ],
)
def test_what_cannot_be_run_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


# ---------------------------------------------------------------------- runs


def test_what_is_there_is_not_run_again(tiny_results: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["tiny", "--only", "sequential", "--seeds", "0", "--results", str(tiny_results)]
    assert main([*arguments, "--runs", str(tmp_path / "runs")]) == 0
    assert "1 of 1 runs are there; 0 to do" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_result_of_other_settings_is_no_result(tiny_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tiny", "--only", "sequential", "--seeds", "0", "--results", str(tiny_results)]
    assert main([*arguments, "--set", "train.epochs=2"]) == 2
    assert "train.epochs" in capsys.readouterr().err


def test_the_settings_of_a_result_are_what_the_method_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    [plain, strong] = study_points(find_study("options"), only=["lwf-1", "lwf-3"], seeds=[100])
    assert settings_of(plain.recipe)["method.options.strength"] == 1.0
    assert settings_of(strong.recipe)["method.options.strength"] == 3.0
    monkeypatch.setitem(LearningWithoutForgetting.default_options, "temperature", 5.0)
    assert settings_of(plain.recipe)["method.options.temperature"] == 5.0


def test_a_result_comes_back_as_it_was_written(tiny_results: Path) -> None:
    for result in read_results(tiny_results / "tiny"):
        assert Result.from_json(result.to_json()) == result
        assert result.scores.method == result.variant


@pytest.mark.slow
def test_a_study_that_ran_out_of_time_goes_on(tmp_path: Path) -> None:
    arguments = ["tiny", "--only", "sequential,replay", "--seeds", "1", "--jobs", "2"]
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main([*arguments, *places, "--time-limit", "0.5"]) == 3
    assert main([*arguments, *places]) == 0
    points = study_points(find_study("tiny"), only=["sequential", "replay"], seeds=[1])
    assert all(result_path(tmp_path / "results", point).is_file() for point in points)


# ---------------------------------------------------------------------- claims


def test_a_gain_is_paired_and_above_zero_where_the_first_is_better() -> None:
    first, second = {("1", 0): 0.5, ("1", 1): 0.9, ("1", 7): 0.0}, {("1", 0): 0.6, ("1", 1): 1.2}
    gain = gain_of(first, second, "nll")  # less is better
    assert gain.pairs == 2
    assert gain.mean == pytest.approx(0.2)
    assert [gain.low, gain.high] == pytest.approx([0.1, 0.3])  # all there is to resample from two


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    values = [float(number) for number in range(100)]
    low, high = bootstrap_interval(values)
    half = 1.96 * 28.866 / 10  # the normal interval of the mean: deviation / sqrt(100)
    assert low == pytest.approx(49.5 - half, abs=0.4)
    assert high == pytest.approx(49.5 + half, abs=0.4)


def test_the_bootstrap_interval_of_few_values_is_about_as_wide_as_students() -> None:
    generator = random.Random(0)
    ratios = []
    for _ in range(20):
        values = [generator.gauss(0.0, 1.0) for _ in range(5)]
        low, high = bootstrap_interval(values)
        ratios.append((high - low) / (2 * 2.776 * stdev(values) / sqrt(5)))  # 2.776: t of 4 degrees of freedom
    assert fmean(ratios) == pytest.approx(0.9, abs=0.05)  # the plain percentiles would give 0.65


def test_runs_of_two_kinds_of_device_are_no_pair(tiny_results: Path) -> None:
    (plain,) = [one for one in read_results(tiny_results / "tiny") if one.variant == "sequential"]
    claim = Claim(text="", measures=("nll",), comparisons=(Comparison(better="seekr", than="replay"),))
    runs = [with_nll(plain, variant, seed, 1.0) for variant in ("seekr", "replay") for seed in range(5)]
    (judged,) = judge(claim, [*runs[:-1], replace(runs[-1], device="another")])
    assert judged.gain.pairs == 4


@pytest.mark.parametrize(
    ("relation", "low", "high", "pairs", "wanted"),
    [
        ("better", 0.01, 0.03, 5, "holds"),
        ("better", -0.01, 0.03, 5, "undecided"),
        ("better", -0.03, -0.01, 5, "does not hold"),
        ("better", 0.01, 0.03, 4, "undecided"),
        ("level", -0.015, 0.01, 5, "holds"),  # the margin of the NLL is 0.02
        ("level", -0.03, -0.021, 5, "does not hold"),
    ],
)
def test_verdicts(relation: str, low: float, high: float, pairs: int, wanted: str) -> None:
    comparison = Comparison.model_validate({relation: "seekr", "than": "replay"})
    assert verdict(comparison, "nll", Gain(pairs, (low + high) / 2, low, high)) == wanted


def test_a_claim_is_judged_from_raw_results(tiny_results: Path) -> None:
    (result,) = [one for one in read_results(tiny_results / "tiny") if one.variant == "sequential"]
    claim = Claim(text="", measures=("nll",), comparisons=(Comparison(better="seekr", than="replay"),))
    runs = [with_nll(result, "seekr", seed, 1.0 + seed / 10) for seed in range(5)]
    runs += [with_nll(result, "replay", seed, 1.1 + seed / 10) for seed in range(5)]
    (judged,) = judge(claim, runs)
    assert judged.verdict == "holds"
    assert judged.gain.mean == pytest.approx(0.1)


# ---------------------------------------------------------------------- the page


def test_the_page_has_the_figures_of_the_raw_results(tiny_results: Path) -> None:
    page, images = build_page(tiny_results, [find_study("tiny")])
    for result in read_results(tiny_results / "tiny"):
        board: Scoreboard = result.scores
        assert f"| `{result.variant}` | 1 |" in page
        assert f"{board.nll:.3f}" in page
    assert "By NLL, OP: not measured yet" in page  # of the two that the claim compares, only one has run
    for name, svg in images.items():
        assert f"images/{name}" in page
        assert ElementTree.fromstring(svg).get("role") == "img"


def test_the_head_of_a_study_tells_the_base_and_the_device_of_most_runs(tiny_results: Path, tmp_path: Path) -> None:
    (plain,) = [run for run in read_results(tiny_results / "tiny") if run.variant == "sequential"]
    odd = replace(plain, variant="replay", device="another", settings={**plain.settings, "base.quantization": "nf4"})
    some = replace(plain, seed=3, device="another")
    for run in (odd, some, *(replace(plain, seed=seed) for seed in range(3))):
        write_text(tmp_path / "tiny" / f"{run.variant}-{run.seed}.json", json.dumps(run.to_json()))
    page, _ = build_page(tmp_path, [find_study("tiny")])
    assert f"{plain.settings['base.dtype']} where nothing else is said" in page
    assert f"Device: {plain.device}; `replay`, `sequential` (1 of 4) on another;" in page


def test_a_trial_has_a_figure_for_each_seed(tmp_path: Path) -> None:
    trial = {"name": "seekr", "what": "the default", "sequence": "superni", "tasks": ["task591"], "device": "cpu"}
    for seed, nll in ((101, [0.5, 1.5]), (99, [2.0, 2.0])):
        write_text(tmp_path / "tried" / f"{seed}.json", json.dumps({**trial, "seed": seed, "nll": nll}))
    page, _ = build_page(tmp_path)
    assert "| `seekr` | the default | 2.000, 1.000 |" in page


@pytest.mark.parametrize(
    ("pairs", "verdicts"),
    [(1, "By NLL, OP: **undecided** (1 of 5 pairs)"), (5, "By NLL: **holds**; by OP: **undecided**")],
)
def test_one_pair_decides_nothing_and_five_do(tiny_results: Path, tmp_path: Path, pairs: int, verdicts: str) -> None:
    (plain,) = [run for run in read_results(tiny_results / "tiny") if run.variant == "sequential"]
    for seed in range(pairs):  # the NLL is better, the scores are the same
        for run in (with_nll(plain, "sequential", seed, 0.9), with_nll(plain, "seekr", seed, 0.1)):
            write_text(tmp_path / "tiny" / f"{run.variant}-{seed}.json", json.dumps(run.to_json()))
    page, _ = build_page(tmp_path, [find_study("tiny")])
    assert f"| {verdicts} |" in page


def test_a_table_of_several_orders_has_only_what_ran_in_all_of_them(tiny_results: Path, tmp_path: Path) -> None:
    study = find_study("tiny")
    tasks = tuple(study.recipe["data"]["tasks"])
    study = study.model_copy(update={"orders": {"1": tasks, "2": tasks[::-1]}})
    sequential, replay = sorted(read_results(tiny_results / "tiny"), key=lambda run: run.variant != "sequential")
    for run in (sequential, replace(sequential, order="2"), replay):
        write_text(tmp_path / "tiny" / f"{run.variant}-{run.order}.json", json.dumps(run.to_json()))
    page, _ = build_page(tmp_path, [study])
    first, together = page.split("Order 1:")[1], page.split("All orders together:")[1].split("!")[0]
    assert "| `replay` | 1 |" in first.split("Order 2:")[0]
    assert "| `sequential` | 2 |" in together
    assert "`replay`" not in together


def test_the_results_page_is_that_of_the_committed_raw_results() -> None:
    page, images = build_page(RESULTS)
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page, "python benchmarks/study.py --page"
    charts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "images").glob("results-*.svg")}
    assert charts == images


def test_the_table_of_the_readme_is_that_of_the_committed_raw_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "| `seekr` | 5 |" in readme
    assert readme_with_results(readme, RESULTS) == readme, "python benchmarks/study.py --page"


def test_a_damaged_raw_result_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"study": "tiny"}')
    with pytest.raises(UserError, match=r"bad\.json"):
        read_results(tmp_path)
