"""The HTML report and the comparison: what is in them, what cannot get in, how they behave in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser
from conftest import ROOT, two_toy_tasks
from jinja2 import UndefinedError
from page import Page, check_page
from typer.testing import CliRunner

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.html_page import breakable, cut, environment, render, text
from seekr_lite.common.progress import Listener
from seekr_lite.common.svg_charts import log_ticks, nice_ticks
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.runs.record import EvaluationRecord
from seekr_lite.tools.compare.compare_html import compare_html
from seekr_lite.tools.report.predictions_section import mark
from seekr_lite.tools.report.run_facts import RunFacts
from seekr_lite.tools.report.run_html import SECTIONS, run_html
from seekr_lite.tools.report.step_curves import POINTS, PhaseTotal, read_curves, read_phases

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()
HOSTILE = "</script></li><script>alert(1)</script><img src=x onerror='alert(2)'>\x00\x1b[31m \ud800 \u202eabc &amp; \"'"


@pytest.fixture(scope="module")
def seekr_run(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """Tested in every round, the bare base included."""
    path = tmp_path_factory.mktemp("report") / "run"
    return sl.run(two_toy_tasks(path, evaluate={"rounds": "full"}), listener=QUIET)


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """The power went in its second task."""

    class PowerCut(Exception):
        pass

    class Cut(Listener):
        def event(self, kind: str, **values: object) -> None:
            if kind == "step" and (values["stage"], values["step"]) == (1, 2):
                raise PowerCut

    path = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(PowerCut):
        sl.run(two_toy_tasks(path, method={"name": "sequential"}), listener=Cut())
    return sl.open_run(path)


@pytest.fixture
def own_copy(seekr_run: sl.Run, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    shutil.copytree(seekr_run.path, tmp_path / "copy")
    return tmp_path / "copy"


# ------------------------------------------------------------------ what is in it


def test_every_section_of_a_seekr_run(seekr_run: sl.Run) -> None:
    page = check_page(run_html(seekr_run.folder))
    words = {
        "scores": ["Overall performance", "bare base", "after keeper", f"{seekr_run.scores.op:.1f}", "just learned"],
        "curves": ["shade", "keeper", "learned"],
        "losses": [
            "cross entropy",
            "replay cross entropy",
            "logits distillation",
            "attention distillation",
            "smoothed",
        ],
        "heads": ["importance", "sensitivity", "forgettability", "2 chosen heads", "Jaccard", "After shade"],
        "costs": ["seconds a step", "replay samples", "adapter", "peak memory", "tests"],
        "predictions": ["36 predictions are in this page.", "shade, row 1", "Reference", "bare base"],
        "recipe": ['name = "seekr"', "attention_weight"],
        "versions": ["torch", "seekr-lite", "python"],
    }
    assert set(words) == {name for name, *_ in SECTIONS}
    for name, expected in words.items():
        for word in expected:
            assert word in page.sections[name], (name, word)
    assert "not finished" not in page.sections[""]


def test_the_numbers_of_the_matrix_are_those_of_the_scores(seekr_run: sl.Run) -> None:
    shown = Page(run_html(seekr_run.folder)).sections["scores"]
    for row in [seekr_run.scores.base or (), *seekr_run.scores.matrix]:
        for value in row:
            assert f"{value:.1f}" in shown


def test_costs_are_those_of_the_record(seekr_run: sl.Run) -> None:
    shown = Page(run_html(seekr_run.folder)).sections["costs"]
    for stage in seekr_run.folder.record.stages:
        assert f"{stage.seconds:,.1f}" in shown
    assert f"{sum(one.text_bytes for one in seekr_run.replay_store):,} B" in shown


def test_phases_have_their_seconds_and_peak_memory(seekr_run: sl.Run) -> None:
    record = seekr_run.folder.record
    training, review, testing = RunFacts.of(seekr_run.folder).phases
    assert (training.phase, review.phase, testing.phase) == ("training", "review", "testing")
    assert (training.times, review.times, testing.times) == (2, 2, len(record.evaluations))
    learned = sum(stage.seconds for stage in record.stages)
    assert training.seconds + review.seconds == pytest.approx(learned, abs=0.01)
    assert testing.seconds > 0
    for phase in (training, review, testing):  # on Linux: this process, with torch in it
        assert phase.peak_bytes is None or 2**26 < phase.peak_bytes < 2**40


def test_phases_of_a_log_that_says_anything(tmp_path: Path) -> None:
    lines = [
        '{"event": "stage", "stage": 0, "phases": {"training": {"seconds": 1, "peak_bytes": 5}}}',
        '{"event": "stage", "stage": 0, "phases": {"training": {"seconds": 2, "peak_bytes": null}}}',
        '{"event": "stage", "stage": 1, "phases": {"training": {"seconds": 4, "peak_bytes": 7}, "<b>": {}}}',
        '{"event": "stage", "stage": 2, "phases": {"training": {"seconds": -1, "peak_bytes": 7}}}',
        '{"event": "stage", "stage": 3, "seconds": 3}',
        '{"event": "evaluation", "task": "a", "phases": {"testing": {"seconds": 1e999, "peak_bytes": 1}}}',
        "[]",
        '{"ev',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert read_phases(tmp_path / "log.jsonl") == [PhaseTotal("training", 2, 6.0, 7)]


def test_an_unfinished_run_says_what_is_missing(stopped_run: sl.Run) -> None:
    page = check_page(run_html(stopped_run.folder))
    assert "not finished" in page.sections[""]
    assert "not learned yet: keeper" in page.sections[""]
    assert "keeper: in work, 1 steps are logged" in page.sections[""]
    assert "not tested yet: shade (after keeper), keeper (after keeper)" in page.sections[""]
    assert "the run is not finished" in page.sections["scores"]
    assert "not tested yet" in page.sections["curves"]
    assert "this method scores none" in page.sections["heads"]
    assert "shade, row 1" in page.sections["predictions"]


def test_a_run_that_has_only_begun(tmp_path: Path, small_recipe: MakeRecipe) -> None:
    from seekr_lite.runs.folder import RunFolder

    folder = RunFolder.create(tmp_path / "run", small_recipe())
    page = check_page(run_html(sl.open_run(folder.path).folder))
    empty = {
        "scores": "no tests yet",
        "curves": "not tested yet",
        "losses": "No optimizer step is logged",
        "heads": "No head is scored yet",
        "costs": "no cost is recorded",
        "predictions": "There are no predictions yet",
    }
    for name, words in empty.items():
        assert words in page.sections[name]


@pytest.mark.parametrize("method", ["joint", "isolated"])
def test_other_methods_and_one_task(method: str, small_recipe: MakeRecipe) -> None:
    tasks = ("shade", "keeper") if method == "joint" else ("shade",)
    run = sl.run(small_recipe(method={"name": method}, data={"tasks": tasks}), listener=QUIET)
    page = check_page(run_html(run.folder))
    reason = "has one round" if method == "joint" else "it takes two tasks"
    assert reason in page.sections["scores"]
    assert "one round, no curve" in page.sections["curves"]
    assert "not finished" not in page.sections[""]


def test_appended_tasks_leave_a_run_unfinished_with_all_it_has(own_copy: Path) -> None:
    run = sl.open_run(own_copy)
    run.folder.write_recipe(run.recipe.with_(data={"tasks": ("shade", "keeper", "tail")}))
    page = check_page(run_html(run.folder))
    assert "not learned yet: tail" in page.sections[""]
    assert "exact_match" in page.sections["scores"].replace("\n", "")
    assert f"{run.scores.matrix[1][0]:.1f}" in page.sections["scores"]


def test_a_record_of_rounds_that_cannot_be_does_no_harm(own_copy: Path) -> None:
    folder = sl.open_run(own_copy).folder
    folder.record.evaluations.append(EvaluationRecord(99, "shade", 50.0, None))
    folder.save()
    assert (
        "36 predictions are in this page." in check_page(run_html(sl.open_run(own_copy).folder)).sections["predictions"]
    )


def test_damaged_files_are_named_and_the_rest_is_shown(own_copy: Path) -> None:
    (own_copy / "scores.json").write_text("{}")
    (own_copy / "predictions" / "00" / "shade.jsonl").unlink()
    (own_copy / "heads" / "00-shade.json").write_text("{}")
    (own_copy / "adapters" / "00-shade" / "adapter_model.safetensors").unlink()
    (own_copy / "log.jsonl").write_text(
        '{"event": "step"}\n[]\n{"event": "step", "time": 1, "stage": 0, "step": 1, "x": 2}\n{"ev'
    )
    page = check_page(run_html(sl.open_run(own_copy).folder))
    assert "scores.json: this file of the run is damaged" in page.sections[""]
    assert "shade.jsonl: this file of the run is missing" in page.sections["predictions"]
    assert "The head scores cannot be read" in page.sections["heads"]
    assert "adapter_model.safetensors: this file of the run is missing" in page.sections["costs"]
    assert "3 damaged lines of the log" in page.sections["losses"]
    assert "after keeper" in page.sections["scores"]


# ------------------------------------------------------------------ what cannot get in


def hostile_copy(path: Path) -> sl.Run:
    """Predictions, prompts, references and the names of loss terms that would like to be something else."""
    folder = sl.open_run(path).folder
    predictions = folder.predictions_path(1, "shade")
    values = [{"prompt": HOSTILE, "prediction": HOSTILE, "reference": HOSTILE, "score": None}] * 2
    predictions.write_text("\n".join(map(json.dumps, values)) + "\n")
    folder._note(predictions)
    folder.record.versions["<b>"] = "<i>'\""
    folder.save()
    event = {"event": "step", "time": 1.0, "stage": 0, "step": 1, "<script>x": 1.0, "gradient_norm": float("nan")}
    (path / "log.jsonl").write_text(json.dumps(event) + "\n")
    return sl.open_run(path)


def test_hostile_texts_stay_texts(own_copy: Path) -> None:
    content = run_html(hostile_copy(own_copy).folder)
    page = check_page(content)
    assert "<b>" not in re.sub(r"<b>[^<]*</b>", "", content)
    assert content.count("</script>") == 1
    assert "&lt;/script&gt;&lt;/li&gt;&lt;script&gt;alert(1)" in content
    assert "\x00" not in content
    assert "␀␛[31m � �abc" in page.sections["predictions"]
    content.encode("utf-8")


def test_long_texts_are_cut_and_say_so() -> None:
    shown = cut("a" * 500 + "b" * 500, 300)
    assert "[… 700 characters left out …]" in shown
    assert shown.count("a") < 130
    assert text("<&>\"'") == "&lt;&amp;&gt;&#34;&#39;"


def test_a_page_holds_a_bounded_number_of_predictions(seekr_run: sl.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seekr_lite.tools.report.predictions_section.EMBEDDED", 12)
    page = check_page(run_html(seekr_run.folder))
    assert (
        "12 predictions are in this page of 36 in the run folder: the first 2 test rows" in page.sections["predictions"]
    )
    assert "shade, row 3" not in page.sections["predictions"]


def test_names_break_and_stay_what_they_are() -> None:
    name = "after a__b_<c>abcdefghijklmnopqrstuvwxyz MeetingBank"
    shown = str(breakable(name))
    assert shown.replace("<wbr>", "") == text(name)
    assert shown.endswith("<wbr>MeetingBank")
    assert max(map(len, shown.replace("&lt;", "<").replace("&gt;", ">").split("<wbr>"))) <= 15


def test_a_value_that_is_missing_stops_a_page() -> None:
    with pytest.raises(UndefinedError, match="board"):
        render("evaluation/scoreboard.html.j2", caption="x")


def test_no_template_turns_escaping_off() -> None:
    assert environment().autoescape is True
    templates = environment().list_templates(extensions=["j2"])
    assert len(templates) > 10
    for name in templates:
        source = (ROOT / "seekr_lite" / name).read_text()
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", source), name


@pytest.mark.parametrize(
    ("score", "kind"), [(100.0, "right"), (99.9999995, "right"), (0.0, "wrong"), (66.7, "partly"), (None, "unscored")]
)
def test_marks(score: float | None, kind: str) -> None:
    assert mark(score) == kind


# ------------------------------------------------------------------ curves and axes


def write_log(path: Path, lines: list[tuple[int, int, float]]) -> Path:
    events = [{"event": "step", "time": 1.0, "stage": s, "step": n, "loss": value} for s, n, value in lines]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def test_a_step_that_was_taken_again_counts_once(tmp_path: Path) -> None:
    curves = read_curves(write_log(tmp_path / "log.jsonl", [(0, 1, 5.0), (0, 2, 4.0), (0, 2, 3.0), (1, 1, 9.0)]))
    assert curves.lengths == {0: 2, 1: 1}
    assert [point and (point.at, point.value) for point in curves.smoothed("loss")] == [
        None,
        (1, 5.0),
        (2, 3.0),
        None,
        (3, 9.0),
    ]


def test_a_log_that_nobody_wrote_harms_nothing(own_copy: Path) -> None:
    step = '{{"event": "step", "time": {}, "stage": {}, "step": {}, "loss": {}}}\n'
    lines = [
        step.format(1, 0, 10**12, 1),
        step.format(1, 0, 10**9, 1),
        step.format("Infinity", 1, 2, 1e308),
        step.format(1e300, "Infinity", 2, "1" + "0" * 400),
        step.format(1, 10**7, 1, 1e-320),
        step.format(1, 0, 2, 1e-320),
        "[" * 100_000 + "\n",
    ]
    (own_copy / "log.jsonl").write_text("".join(lines))
    assert "5 damaged lines" in check_page(run_html(sl.open_run(own_copy).folder)).sections["losses"]


def test_steps_that_were_left_out_are_counted(own_copy: Path) -> None:
    with (own_copy / "log.jsonl").open("a") as log:
        for step in (3, 3, 4):  # one was met again when the run went on
            event = {"event": "bad_step", "time": 1.0, "stage": 1, "step": step, "cross_entropy": "nan"}
            log.write(json.dumps(event) + "\n")
    page = check_page(run_html(sl.open_run(own_copy).folder))
    assert "2 steps were left out of learning" in page.sections["losses"]


def test_means_are_of_the_stated_number_of_steps_and_of_one_task(tmp_path: Path) -> None:
    lines = [(stage, step, float(10 * stage + step)) for stage in (0, 1) for step in range(1, 2 * POINTS + 2)]
    curves = read_curves(write_log(tmp_path / "log.jsonl", lines))
    first, *_, last = [point for point in curves.smoothed("loss") if point]
    assert curves.window == 5
    assert (first.at, first.value, first.low, first.high) == (3, 3.0, 1.0, 5.0)
    assert (last.value, last.high) == (10 + 2 * POINTS + 1, 10 + 2 * POINTS + 1)  # one step is left for the last mean


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 25, 50, 75, 100]),
        (-3.2, 1, [-4, -2, 0, 2]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
        (0, 7, [0, 2, 4, 6, 8]),
    ],
)
def test_ticks_hold_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks


def test_ticks_of_a_logarithmic_axis() -> None:
    assert log_ticks(0.02, 30) == pytest.approx([0.01, 0.1, 1, 10, 100])
    wide = log_ticks(1e-8, 50)
    assert len(wide) <= 7
    assert wide[0] <= 1e-8
    assert wide[-1] >= 50


# ------------------------------------------------------------------ the command, and the comparison


def test_the_command_writes_into_the_run_folder_or_where_it_is_told(seekr_run: sl.Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(seekr_run.path)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{seekr_run.path / 'report.html'}\n"
    done = CliRunner().invoke(app, ["report", str(seekr_run.path), "--output", str(tmp_path / "new" / "mine.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "mine.html").read_bytes() == (seekr_run.path / "report.html").read_bytes()
    (seekr_run.path / "report.html").unlink()


@pytest.mark.parametrize(("output", "message"), [("run.json/x.html", "cannot be written"), (None, "no run here")])
def test_mistakes_of_the_command(output: str | None, message: str, seekr_run: sl.Run, tmp_path: Path) -> None:
    run = seekr_run.path if output else tmp_path
    done = CliRunner().invoke(app, ["report", str(run), "--output", str(run / (output or "x.html"))])
    assert isinstance(done.exception, sl.UserError)
    assert message in str(done.exception)
    assert done.stdout == ""


def test_a_comparison_shows_runs_bars_differences_and_boards(
    seekr_run: sl.Run, stopped_run: sl.Run, own_copy: Path
) -> None:
    other_seed = sl.open_run(own_copy)
    other_seed.folder.write_recipe(other_seed.recipe.with_(run={"seed": 7}))
    content = compare_html([seekr_run.folder, other_seed.folder, stopped_run.folder])
    page = check_page(content)
    assert "3 runs compared" in content
    assert "seekr: " in page.sections["methods"]
    assert "2 runs, " in page.sections["methods"]
    assert "not finished: not learned yet: keeper" in page.sections[""]
    assert "method.name" in page.sections["differences"]
    assert "run.output" not in page.sections["differences"]
    assert page.sections["boards"].count("after shade") == 3


def test_a_comparison_groups_by_what_differs_beside_the_seed(seekr_run: sl.Run, own_copy: Path) -> None:
    other = sl.open_run(own_copy)
    changes = {"learning_rate": 0.5, "micro_batch_tokens": 77}  # the second changes no result
    other.folder.write_recipe(other.recipe.with_(run={"seed": 7}, train=changes))
    page = check_page(compare_html([seekr_run.folder, other.folder]))
    assert "seekr (train.learning_rate = 0.5): " in page.sections["methods"]
    with pytest.raises(sl.UserError, match="no run to compare"):
        compare_html([])


def test_runs_of_one_name_and_of_other_tasks(seekr_run: sl.Run, small_recipe: MakeRecipe) -> None:
    other = sl.run(small_recipe(method={"name": "sequential"}, data={"tasks": ("tail",)}), listener=QUIET)
    page = check_page(compare_html([seekr_run.folder, other.folder]))
    assert "do not learn the same tasks" in page.sections[""]
    assert str(seekr_run.path) in page.sections["runs"]


def test_json_has_what_the_page_shows(seekr_run: sl.Run) -> None:
    done = CliRunner().invoke(app, ["report", str(seekr_run.path), "--json"])
    values = json.loads(done.stdout)
    assert values["scores"] == json.loads((seekr_run.path / "scores.json").read_text())
    assert values["heads"] == seekr_run.heads.to_json()
    assert [(one["tasks"], one["replay_samples"]) for one in values["costs"]] == [(["shade"], 1), (["keeper"], 1)]
    stages = seekr_run.folder.record.stages
    assert [one["seconds"] for one in values["costs"]] == [one.seconds for one in stages]
    assert [one["phase"] for one in values["phases"]] == ["training", "review", "testing"]
    assert values["losses"]["steps"] == sum(one.steps for one in stages)
    assert values["losses"]["starts"][1] == {"task": "keeper", "after_step": stages[0].steps}
    assert {"cross_entropy", "attention_distillation", "gradient_norm"} <= set(values["losses"]["curves"])
    assert (values["finished"], values["missing"], values["problems"]) == (True, [], [])


def test_json_of_an_unfinished_or_damaged_run_says_what_is_missing(stopped_run: sl.Run, own_copy: Path) -> None:
    values = json.loads(CliRunner().invoke(app, ["report", str(stopped_run.path), "--json"]).stdout)
    assert values["finished"] is False
    assert "not learned yet: keeper" in values["missing"]
    assert values["heads"] is None
    (own_copy / "heads" / "01-keeper.safetensors").write_bytes(b"damaged")
    values = json.loads(CliRunner().invoke(app, ["report", str(own_copy), "--json"]).stdout)
    assert values["heads"] is None
    assert "01-keeper.safetensors" in values["problems"][0]


def test_json_and_a_file_do_not_go_together(seekr_run: sl.Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(seekr_run.path), "--json", "-o", str(tmp_path / "x.html")])
    assert isinstance(done.exception, sl.UserError)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium is installed")
    with Browser(path) as opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1440])
def test_it_opens_without_errors_requests_or_sideways_scrolling(
    width: int, browser: Browser, seekr_run: sl.Run, stopped_run: sl.Run, own_copy: Path, tmp_path: Path
) -> None:
    pages = {
        "seekr": run_html(seekr_run.folder),
        "stopped": run_html(stopped_run.folder),
        "hostile": run_html(hostile_copy(own_copy).folder),
        "compared": compare_html([seekr_run.folder, stopped_run.folder]),
    }
    for name, content in pages.items():
        file = tmp_path / f"{name}.html"
        file.write_text(content, encoding="utf-8")
        browser.open(file, width)
        assert browser.messages == []
        assert browser.requests == [file.as_uri()]
        assert browser.value("document.documentElement.scrollWidth") <= width


def find_axe() -> Path | None:
    """axe-core, from `npm install axe-core` in the checkout, or where AXE_CORE says."""
    places = [Path(os.environ.get("AXE_CORE", "")), Path(__file__).parents[1] / "node_modules/axe-core/axe.min.js"]
    return next((path for path in places if path.is_file()), None)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing_serious(
    width: int, dark: bool, browser: Browser, seekr_run: sl.Run, stopped_run: sl.Run, tmp_path: Path
) -> None:
    if (axe := find_axe()) is None:
        pytest.skip("axe-core is not there (npm install axe-core)")
    pages = {
        "seekr": run_html(seekr_run.folder),
        "stopped": run_html(stopped_run.folder),
        "compared": compare_html([seekr_run.folder, stopped_run.folder]),
    }
    for name, content in pages.items():
        (tmp_path / f"{name}.html").write_text(content, encoding="utf-8")
        browser.open(tmp_path / f"{name}.html", width, dark=dark)
        browser.value(axe.read_text(encoding="utf-8") + "; 0")
        found, passed = browser.value("axe.run().then(found => [found.violations, found.passes.length])")
        assert passed > 10
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert (name, serious) == (name, [])


def many_tasks(path: Path, recipe: Recipe) -> sl.Run:
    """The record of a run of twelve tasks with long names, tested in every round, of which nothing else is left."""
    from seekr_lite.runs.folder import RunFolder
    from seekr_lite.runs.record import StageRecord

    names = tuple(f"{letter}_task_whose_name_is_long_without_a_break" for letter in "abcdefghijkl")
    folder = RunFolder.create(path, recipe.with_(data={"tasks": names}))
    for index, name in enumerate(names):
        folder.record.stages.append(StageRecord(f"{index:02d}-{name}", [name], 10, 1.5))
        folder.record.evaluations += [EvaluationRecord(index, task, 7.0 * index, 0.5) for task in names]
    folder.save()
    return sl.open_run(path)


def test_twelve_long_names_fit_a_phone(browser: Browser, small_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = many_tasks(tmp_path / "run", small_recipe())
    for name, content in (("report", run_html(run.folder)), ("compared", compare_html([run.folder, run.folder]))):
        check_page(content)
        (tmp_path / f"{name}.html").write_text(content)
        browser.open(tmp_path / f"{name}.html", 390)
        assert browser.value("document.documentElement.scrollWidth") == 390


def test_the_policy_stops_what_might_get_in_nevertheless(browser: Browser, seekr_run: sl.Run, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        run_html(seekr_run.folder).replace(
            "</main>",
            "<script>window.got = 1</script><p onclick='1' style='color:red'><img src='http://127.0.0.1:9/'></main>",
        )
    )
    browser.open(tmp_path / "page.html", 1440)
    assert browser.value("window.got") is None
    assert len([message for message in browser.messages if "Content Security Policy" in message]) >= 3


def test_the_slider_and_the_filter(browser: Browser, seekr_run: sl.Run, tmp_path: Path) -> None:
    browser.open(seekr_run.save_report(tmp_path / "report.html"), 390)
    visible = "[...document.querySelectorAll('{}')].filter(one => one.offsetParent).length"
    assert browser.value(visible.format(".heads")) == 1
    assert browser.value("document.getElementById('task-name').textContent") == "after keeper"
    browser.value(
        "{const one = document.getElementById('task-slider'); one.value = 0; one.dispatchEvent(new Event('input'))}"
    )
    assert browser.value("document.getElementById('task-slider').getAttribute('aria-valuetext')") == "after shade"
    assert browser.value("document.querySelector('.heads:not([hidden]) h3').textContent") == "After shade"

    def choose(**values: str) -> None:
        for name, value in values.items():
            browser.value(f"document.querySelector('#filter [name={name}]').value = {json.dumps(value)}")
        browser.value("document.getElementById('filter').dispatchEvent(new Event('input'))")

    rows, lines = visible.format("#rows > li"), visible.format("#rows tbody tr")
    assert (browser.value(rows), browser.value(lines)) == (12, 36)
    choose(task="1", round="0")
    assert (browser.value(rows), browser.value(lines)) == (6, 6)
    predictions = seekr_run.folder.load_predictions(0, "keeper")
    choose(mark="wrong")
    assert browser.value(rows) == sum(mark(one.score) == "wrong" for one in predictions)
    choose(task="", round="", mark="", text=predictions[0].prompt.upper())
    assert browser.value(rows) == 1
    assert browser.value("document.getElementById('count').textContent") == "1 of 1 rows that fit"
    choose(text="nothing like this")
    assert browser.value(rows) == 0


def test_without_javascript_everything_is_shown(browser: Browser, seekr_run: sl.Run, tmp_path: Path) -> None:
    file = seekr_run.save_report(tmp_path / "report.html")
    browser.open(file, 1440, script=False)
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    for selector, expected in ((".heads:not([hidden])", 2), ("#rows > li:not([hidden])", 12)):
        found = browser.call("DOM.querySelectorAll", nodeId=document, selector=selector)["nodeIds"]
        assert len(found) == expected
    assert "js" not in browser.call("DOM.getOuterHTML", nodeId=document)["outerHTML"].split("<head")[0]


def test_it_prints(browser: Browser, seekr_run: sl.Run, tmp_path: Path) -> None:
    browser.open(seekr_run.save_report(tmp_path / "report.html"), 1440)
    browser.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def luminance(colour: tuple[float, float, float]) -> float:
    parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("dark", [False, True])
def test_digits_are_readable_on_every_shade(dark: bool, browser: Browser, seekr_run: sl.Run, tmp_path: Path) -> None:
    browser.open(seekr_run.save_report(tmp_path / "report.html"), 1440, dark=dark)
    style = "getComputedStyle(document.documentElement).getPropertyValue"
    colours = {name: browser.value(f"{style}('--{name}')").strip() for name in ("fg", "quiet", "bg", "soft", "cell")}
    fg, quiet, bg, soft = (
        tuple(int(full[i : i + 2], 16) for i in (0, 2, 4))
        for full in (
            value[1:] if len(value) == 7 else "".join(2 * c for c in value[1:])
            for value in (colours[name] for name in ("fg", "quiet", "bg", "soft"))
        )
    )
    cell = tuple(map(int, colours["cell"].split()))
    shades = [tuple(b + (c - b) * step / 10 for b, c in zip(bg, cell, strict=True)) for step in range(11)]
    for one, two in [*((fg, shade) for shade in shades), (quiet, bg), (quiet, soft), (fg, soft)]:
        light, deep = sorted((luminance(one), luminance(two)), reverse=True)  # type: ignore[arg-type]
        assert (light + 0.05) / (deep + 0.05) >= 4.5
