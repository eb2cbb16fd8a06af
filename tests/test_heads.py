"""Looking into the heads of a run: what Python, the terminal and the files show, and what grafting gives back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import two_toy_tasks
from page import check_page
from typer.testing import CliRunner, Result

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.progress import Listener
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.heads.graft import GraftResult
from seekr_lite.tools.heads.heads import Heads
from seekr_lite.tools.heads.heatmap import CIVIDIS, digits, heatmap_svg, heatmap_text, ink
from seekr_lite.tools.heads.scores import TaskHeads, jaccard

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()
FIRST_ROWS = {"replay_choice": "first", "replay_fraction": 0.1}
FIRST_ROW_COUNT = 3  # a tenth of the 28 rows that the validation rows leave


@pytest.fixture(scope="module")
def seekr_run(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """Its replay samples are the first training rows, which `heads score` takes too."""
    return sl.run(two_toy_tasks(tmp_path_factory.mktemp("heads") / "run", method=FIRST_ROWS), listener=QUIET)


@pytest.fixture(scope="module")
def other_method(tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    recipe = two_toy_tasks(tmp_path_factory.mktemp("other") / "run", method={"name": "replay"})
    return sl.run(recipe, listener=QUIET)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["heads", *map(str, arguments)])


def some_heads(*names: str, heads: int = 3) -> Heads:
    """Scores that rise from head to head; the last head of layer 1 is chosen."""
    scores = torch.arange(2.0 * heads).view(2, heads)
    return Heads(tuple(TaskHeads(name, scores, scores * 2, scores * 3, ((1, heads - 1),)) for name in names))


# ------------------------------------------------------------------ from Python


def test_a_runs_heads_are_those_of_its_files(seekr_run: sl.Run) -> None:
    from safetensors.torch import load_file

    stored = load_file(seekr_run.path / "heads" / "00-shade.safetensors")
    chosen = json.loads((seekr_run.path / "heads" / "00-shade.json").read_text())["heads"]
    task = seekr_run.heads.of("shade")
    assert torch.equal(task.sensitivity, stored["sensitivity"])
    assert torch.equal(task.importance, stored["importance"])
    assert [list(head) for head in task.chosen] == chosen
    assert seekr_run.heads.of().task == "keeper"


@pytest.mark.parametrize(
    ("one", "two", "index"),
    [
        ([(0, 1), (1, 1)], [(1, 1), (0, 1)], 1),
        ([(0, 1)], [(1, 0)], 0),
        ([(0, 0), (0, 1), (0, 2)], [(0, 1), (0, 2), (0, 3)], 0.5),
    ],
)
def test_the_jaccard_index_of_known_sets(one: list[tuple[int, int]], two: list[tuple[int, int]], index: float) -> None:
    assert jaccard(tuple(one), tuple(two)) == index


def test_change_compares_consecutive_tasks() -> None:
    change = some_heads("a", "b", "c").change()
    assert [(one.before, one.after, one.jaccard) for one in change] == [("a", "b", 1.0), ("b", "c", 1.0)]


def test_top_heads_have_their_share_of_the_total() -> None:
    best, second, *_ = some_heads("a").top(measure="sensitivity")
    assert (best.layer, best.head, best.share) == (1, 2, pytest.approx(5 / 15))
    assert (second.layer, second.head, second.share) == (1, 1, pytest.approx(4 / 15))


def test_the_data_frame_holds_the_tensors(seekr_run: sl.Run) -> None:
    frame = seekr_run.heads.to_pandas()
    for task in seekr_run.heads.tasks:
        part = frame[frame.task == task.task]
        for measure, values in task.measures.items():
            assert part[measure].tolist() == values.flatten().tolist()
        marked = part[part.chosen]
        assert tuple(zip(marked.layer, marked["head"], strict=True)) == task.chosen


def test_json_comes_back_as_it_was(seekr_run: sl.Run) -> None:
    values = json.loads(json.dumps(seekr_run.heads.to_json()))
    assert Heads.from_json(values).to_json() == values
    assert torch.equal(Heads.from_json(values).of().importance, seekr_run.heads.of().importance)


def test_the_figure_marks_each_chosen_head(seekr_run: sl.Run) -> None:
    axes, colour_bar = seekr_run.heads.plot(after="shade").axes
    task = seekr_run.heads.of("shade")
    assert torch.equal(torch.tensor(axes.images[0].get_array().tolist()), task.importance)
    centres = {tuple(round(float(x)) for x in patch.get_center()[::-1]) for patch in axes.patches}
    assert centres == set(task.chosen)
    assert (axes.get_xlabel(), axes.get_ylabel(), colour_bar.get_ylabel()) == ("head", "layer", "importance")


def test_the_replay_store_counts_text_and_adapters_apart(seekr_run: sl.Run) -> None:
    shade = seekr_run.replay_store[0]
    memory = (seekr_run.path / "memory" / "00-shade.jsonl").read_bytes()
    assert (shade.samples, shade.text_bytes) == (FIRST_ROW_COUNT, len(memory))
    assert shade.largest_sample_bytes == max(len(line) + 1 for line in memory.split(b"\n"))
    adapter = seekr_run.path / "adapters" / "00-shade" / "adapter_model.safetensors"
    assert shade.adapter_bytes == adapter.stat().st_size


def test_a_method_without_replay_stores_adapters_alone(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(method={"name": "sequential"}, data={"tasks": ("shade",)}), listener=QUIET)
    (store,) = run.replay_store
    assert (store.samples, store.text_bytes, store.mean_sample_bytes) == (0, 0, 0)
    assert store.adapter_bytes > 0


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(sl.UserError, match=r'pip install "seekr-lite\[plot\]"'):
        some_heads("a").plot()


# ------------------------------------------------------------------ HTML


def test_the_page_is_well_formed_and_needs_nothing_else(seekr_run: sl.Run, tmp_path: Path) -> None:
    seekr_run.heads.save_html(tmp_path / "heads.html")
    page = (tmp_path / "heads.html").read_text()
    assert "script" not in check_page(page).tags
    for task in seekr_run.heads.tasks:
        for measure in task.measures:
            assert f'aria-label="{measure} after {task.task}"' in page


@pytest.mark.parametrize("whole", [True, False], ids=["page", "notebook"])
def test_the_name_of_a_task_cannot_become_html(whole: bool, tmp_path: Path) -> None:
    heads = some_heads('<b>"mine"</b>', "other")
    heads = heads if whole else Heads(heads.tasks[::-1])  # a notebook shows the last task
    heads.save_html(tmp_path / "heads.html")
    text = (tmp_path / "heads.html").read_text() if whole else heads._repr_html_()
    assert "<b>" not in text
    assert "&lt;b&gt;&#34;mine&#34;&lt;/b&gt;" in text


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("digit", range(10))
def test_a_digit_is_readable_on_its_colour(digit: int) -> None:
    light, deep = sorted((luminance(ink(digit)), luminance(CIVIDIS[digit])), reverse=True)
    assert (light + 0.05) / (deep + 0.05) >= 4.5


def test_terminal_page_and_picture_show_the_same_digits_and_colours(seekr_run: sl.Run) -> None:
    task = seekr_run.heads.of()
    rows = digits(task.importance)
    (block,) = heatmap_text(task, "importance")
    lines = block.plain.splitlines()[1:]
    assert [[int(cell) for cell in line[5:].replace("*", " ").split()] for line in lines] == rows
    spans = re.findall(r"<tspan[^>]*>(\d+)</tspan>", heatmap_svg(task, "importance"))
    assert "".join(spans) == "".join(str(digit) for row in rows for digit in row)
    axes, _ = seekr_run.heads.plot().axes
    assert [text.get_text() for text in axes.texts] == [str(digit) for row in rows for digit in row]
    colours = axes.images[0].to_rgba(task.importance.numpy(), bytes=True)
    for layer, row in enumerate(rows):
        for head, digit in enumerate(row):
            assert "#" + bytes(colours[layer, head][:3]).hex() == CIVIDIS[digit]


# ------------------------------------------------------------------ heads inspect


def test_inspect_shows_heads_and_what_is_kept(seekr_run: sl.Run) -> None:
    done = command("inspect", seekr_run.path, "--after", "shade")
    assert done.exit_code == 0, done.output
    for words in ("importance after shade", "top heads", "Jaccard", "shade -> keeper", "what is kept, in bytes"):
        assert words in done.stdout


def test_a_heatmap_of_32_heads_fits_80_columns_and_marks_the_chosen() -> None:
    from rich.console import Console

    from seekr_lite.tools.heads.heads_table import render_heads

    console = Console(width=80, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(render_heads(some_heads("a", heads=40).of(), None, ()))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    second_layer = [line.split(maxsplit=1)[1] for line in lines if line.startswith("    1 ")]
    cells = [part for line in second_layer for part in line.split()]
    assert len(cells) == 40  # 32 heads, and 8 in the block below
    assert cells[-1] == "9*"
    assert [cell for cell in cells if "*" in cell] == ["9*"]


def test_inspect_prints_json(seekr_run: sl.Run) -> None:
    done = command("inspect", seekr_run.path, "--json")
    values = json.loads(done.stdout)
    assert Heads.from_json(values).to_json() == seekr_run.heads.to_json()
    assert values["replay_store"][1]["task"] == "keeper"


def test_inspect_writes_a_picture(seekr_run: sl.Run, tmp_path: Path) -> None:
    done = command("inspect", seekr_run.path, "--png", tmp_path / "heads.png", "--measure", "sensitivity")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--after", "shad"), 'did you mean "shade"'),
        (("--measure", "importence"), 'did you mean "importance"'),
        (("--png", "run.json/heads.png"), "cannot be written"),
        (("--html", "run.json/heads.html"), "cannot be written"),
    ],
)
def test_mistakes_of_inspect(arguments: tuple[str, str], message: str, seekr_run: sl.Run) -> None:
    option, value = arguments
    done = command("inspect", seekr_run.path, option, seekr_run.path / value if "/" in value else value)
    assert isinstance(done.exception, sl.UserError)
    assert message in str(done.exception)
    assert done.stdout == ""


def test_a_run_of_another_method_has_no_head_scores(other_method: sl.Run) -> None:
    done = command("inspect", other_method.path)
    assert isinstance(done.exception, sl.UserError)
    assert done.exception.exit_code == 2
    assert 'its method is "replay", which scores none' in str(done.exception)


def test_head_scores_that_are_gone_are_named(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(data={"tasks": ("shade",)}), listener=QUIET)
    (run.path / "heads" / "00-shade.safetensors").unlink()
    with pytest.raises(sl.UserError, match=r"00-shade\.safetensors: this file of the run is missing"):
        _ = run.heads


def test_inspect_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(sl.UserError, match="there is no run here"):
        sl.open_run(tmp_path)
    assert isinstance(command("inspect", tmp_path).exception, sl.UserError)


# ------------------------------------------------------------------ heads score


def test_the_bare_base_has_sensitivity_alone(small_recipe: MakeRecipe) -> None:
    study = sl.score_task_heads(small_recipe(), "keeper", rows=2)
    task = study.heads.of()
    assert study.rows == 2
    assert list(task.measures) == ["sensitivity"]
    torch.testing.assert_close(task.sensitivity.sum(-1), torch.ones(4))  # normalised in each layer
    assert len(task.chosen) == 2  # an eighth of 16 heads
    assert study.heads.to_pandas().forgettability.isna().all()
    with pytest.raises(sl.UserError, match="it has learned nothing"):
        study.heads.plot("forgettability")


@pytest.mark.parametrize("task", ["shade", "keeper"])
def test_a_runs_own_samples_give_its_own_scores(task: str, seekr_run: sl.Run) -> None:
    study = sl.score_task_heads(seekr_run.recipe, task, FIRST_ROW_COUNT, seekr_run, after=task)
    scored, stored = study.heads.of(), seekr_run.heads.of(task)
    torch.testing.assert_close(scored.sensitivity, stored.sensitivity)
    torch.testing.assert_close(scored.forgettability, stored.forgettability)


def test_a_sum_of_adapters_is_scored_as_it_was_learned(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(method=FIRST_ROWS, adapter={"growth": "stack"}), listener=QUIET)
    scored = sl.score_task_heads(run.recipe, "keeper", FIRST_ROW_COUNT, run).heads.of()
    torch.testing.assert_close(scored.sensitivity, run.heads.of().sensitivity, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scored.forgettability, run.heads.of().forgettability, rtol=1e-4, atol=1e-7)


def test_score_from_the_command_line(tmp_path: Path, small_recipe: MakeRecipe) -> None:
    (tmp_path / "mine.toml").write_text(small_recipe().to_toml())
    done = command("score", tmp_path / "mine.toml", "--task", "shade", "--rows", 1, "--html", tmp_path / "score.html")
    assert done.exit_code == 0, done.output
    assert "Scored: the bare base, on the first 1 training rows of shade" in done.stdout
    assert "no forgettability" in done.stdout
    assert (tmp_path / "score.html").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "shad"}, 'did you mean "shade"'),
        ({"task": "shade", "rows": 0}, "at least one row"),
        ({"task": "shade", "after": "shade"}, "name a run"),
    ],
)
def test_mistakes_of_score(options: dict[str, object], message: str, small_recipe: MakeRecipe) -> None:
    with pytest.raises(sl.UserError, match=message):
        sl.score_task_heads(small_recipe(), **options)  # type: ignore[arg-type]


def test_score_refuses_a_run_of_another_base(seekr_run: sl.Run, small_recipe: MakeRecipe) -> None:
    with pytest.raises(sl.UserError, match=r"base\.model"):
        sl.score_task_heads(small_recipe(base={"model": "someone/else"}), "shade", run=seekr_run)


# ------------------------------------------------------------------ heads graft


def test_graft_losses_are_those_of_the_run(seekr_run: sl.Run) -> None:
    (result,) = seekr_run.graft_heads(listener=QUIET)
    scores = seekr_run.scores
    assert (result.task, result.last_task, result.rows, result.rows_from) == ("shade", "keeper", 4, "validation")
    assert result.old == pytest.approx(scores.nll_matrix[0][0], rel=1e-4)
    assert result.last == pytest.approx(scores.nll_matrix[1][0], rel=1e-4)
    assert len({result.last, result.chosen, result.random, result.all_heads}) == 4


def test_the_last_models_own_maps_in_all_heads_lose_nothing(seekr_run: sl.Run) -> None:
    from seekr_lite.data.encoding import encode_task_rows
    from seekr_lite.model.base import load_base
    from seekr_lite.model.lora import AdapterSequence
    from seekr_lite.tools.heads.graft import graft_losses

    recipe = seekr_run.recipe
    adapters = AdapterSequence(load_base(recipe.base), recipe.adapter, recipe.run.seed)
    adapters.snapshots = [seekr_run.folder.load_snapshot(index) for index in range(2)]
    rows = encode_task_rows(adapters.base.tokenizer, seekr_run.folder.load_samples(0), recipe.data)
    every = [(layer, head) for layer in range(4) for head in range(4)]
    old, last, grafted = graft_losses(adapters, rows, 1, [every], batch_tokens=10_000)
    assert grafted == pytest.approx(last, rel=1e-5)
    assert old == last


def test_without_validation_rows_replay_samples_serve_and_it_is_said(small_recipe: MakeRecipe) -> None:
    run = sl.run(small_recipe(data={"validation_rows": 0}, adapter={"growth": "stack"}), listener=QUIET)
    done = command("graft", run.path)
    assert done.exit_code == 0, done.output
    assert "replay samples" in done.stdout
    (values,) = json.loads(command("graft", run.path, "--task", "shade", "--json").stdout)
    assert values["rows_from"] == "replay"


def test_the_recovered_share() -> None:
    result = GraftResult("a", "b", 4, "validation", 2, old=1.0, last=3.0, chosen=2.0, random=3.5, all_heads=1.0)
    assert [result.recovered(loss) for loss in (result.chosen, result.random, result.all_heads)] == [0.5, -0.25, 1.0]


def test_nothing_comes_back_where_nothing_was_lost() -> None:
    from rich.console import Console

    from seekr_lite.tools.heads.graft import render_grafts

    result = GraftResult("a", "b", 4, "validation", 2, old=1.0, last=0.9, chosen=1.0, random=1.0, all_heads=1.0)
    assert result.recovered(result.chosen) is None
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render_grafts([result]))
    assert "nothing was lost" in capture.get()


def test_a_run_that_chose_no_heads_is_scored_on_the_spot(other_method: sl.Run) -> None:
    (result,) = other_method.graft_heads(listener=QUIET)
    scored = sl.score_task_heads(other_method.recipe, "shade", run=other_method, after="shade")
    assert result.chosen_heads == len(scored.heads.of("shade").chosen) > 0
    assert len({result.last, result.chosen, result.random, result.all_heads}) == 4


def test_mistakes_of_graft(seekr_run: sl.Run, small_recipe: MakeRecipe) -> None:
    with pytest.raises(sl.UserError, match='the old tasks of this run are shade; did you mean "shade"'):
        seekr_run.graft_heads("shad", listener=QUIET)
    isolated = sl.run(small_recipe(method={"name": "isolated"}), listener=QUIET)
    with pytest.raises(sl.UserError, match="no model is learned on top of an older one"):
        isolated.graft_heads(listener=QUIET)
