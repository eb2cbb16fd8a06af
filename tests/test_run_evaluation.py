"""Testing models of a finished run: what is read, what is tested anew, and what a general text says of them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.common.progress import Listener
from seekr_lite.evaluation.metrics import METRICS
from seekr_lite.recipe.recipe import Recipe
from seekr_lite.tools.general_text import split_text

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()
TEXT = "red cake fox saw the old wolf in a desert\n" * 120


@pytest.fixture(scope="module")
def run(finished_run: sl.Run, tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """A copy, since general texts are kept. Of its four scores it has tested three: not the second after the first."""
    path = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(finished_run.path, path)
    return sl.open_run(path)


@pytest.fixture
def own_run(finished_run: sl.Run, tmp_path: Path) -> sl.Run:
    """A copy that has measured no text yet."""
    shutil.copytree(finished_run.path, tmp_path / "own")
    return sl.open_run(tmp_path / "own")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def jsonl(folder: Path) -> Path:
    (folder / "mine").mkdir(parents=True)
    for split, rows in (("train", 2), ("test", 3)):
        lines = [json.dumps({"prompt": f"keeper: wolf {i} ->", "answer": "wolf"}) for i in range(rows)]
        (folder / "mine" / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def files(run: sl.Run) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ the run's own tasks


def test_what_the_run_has_tested_is_read_and_no_base_is_loaded(run: sl.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seekr_lite.tools.models.load_base", lambda settings: pytest.fail("the base was loaded"))
    scores = run.scores
    found = run.evaluate()
    assert [(one.model, one.task, one.score, one.nll) for one in found] == [
        ("keeper", task, scores.matrix[1][i], scores.nll_matrix[1][i]) for i, task in enumerate(("shade", "keeper"))
    ]
    assert all(one.from_run and one.metric == "exact_match" for one in found)


def test_what_it_has_not_tested_is_tested_as_the_run_would_have(run: sl.Run, small_recipe: MakeRecipe) -> None:
    everything = sl.run(small_recipe(method={"name": "sequential"}, evaluate={"rounds": "full"}), listener=QUIET).scores
    assert everything.base is not None
    assert everything.nll_base is not None
    before = files(run)
    found = run.evaluate(after=("base", "shade"))
    assert [one.from_run for one in found] == [False, False, True, False]
    assert [one.score for one in found] == [*everything.base, *everything.matrix[0]]
    assert [one.nll for one in found] == pytest.approx([*everything.nll_base, *everything.nll_matrix[0]], rel=1e-6)
    assert files(run) == before


def test_a_routed_task_is_not_mistaken_for_what_another_adapter_scored(small_recipe: MakeRecipe) -> None:
    data = {"train_limit": 16, "test_limit": 2, "validation_rows": 3}
    isolated = sl.run(small_recipe(method={"name": "isolated"}, data=data), listener=QUIET)
    found = isolated.evaluate(after="keeper")
    assert [one.from_run for one in found] == [False, True]
    assert found[0].nll != isolated.scores.nll_matrix[1][0]


# ------------------------------------------------------------------ another data set


def test_another_data_set_is_tested(run: sl.Run, tmp_path: Path) -> None:
    done = command(run.path, "--data", f"jsonl:{jsonl(tmp_path / 'data')}", "--task", "mine", "--json", "-q")
    (values,) = json.loads(done.stdout)
    assert (values["model"], values["task"], values["metric"]) == ("keeper", "mine", "exact_match")
    assert values["from_run"] is False


def test_keys_of_another_data_set_can_be_set(run: sl.Run) -> None:
    (one,) = run.evaluate("shade", ["tail"], "toy", ["data.test_limit=2", "data.metric=rouge_l"])
    assert one.metric == "rouge_l"


def test_every_row_is_scored_once(run: sl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric may take seconds for a row, and what a user measures may draw."""
    scored: list[str] = []

    def score_row(source: str, prediction: str, references: Sequence[str]) -> float:
        scored.append(source)
        return float(len(scored))

    monkeypatch.setitem(METRICS, "exact_match", score_row)
    (one,) = run.evaluate("shade", ["mine"], f"jsonl:{jsonl(tmp_path)}")
    assert scored == [f"keeper: wolf {i} ->" for i in range(3)]
    assert one.score == pytest.approx(2)


# ------------------------------------------------------------------ a general text


def test_the_likelihood_of_a_text_is_that_of_the_model(run: sl.Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a red cake saw the wolf")
    found = run.general_likelihood(tmp_path / "text.txt")
    assert [one.model for one in found] == ["(bare base)", "shade", "keeper"]
    loaded = run.load_model()
    ids = torch.tensor([loaded.tokenizer("a red cake saw the wolf")["input_ids"]])
    with torch.no_grad():
        loss = loaded.model(ids, labels=ids).loss
    assert found[-1].nll == pytest.approx(float(loss), rel=1e-5)
    assert found[-1].perplexity == pytest.approx(math.exp(float(loss)), rel=1e-5)
    assert found[-1].tokens == ids.shape[1] - 1


@pytest.mark.parametrize("window", [8, 1024])
def test_every_token_of_a_text_is_predicted_once(window: int, small_recipe: MakeRecipe) -> None:
    from seekr_lite.model.base import load_tokenizer

    tokenizer = load_tokenizer(small_recipe().base)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    windows = split_text(tokenizer, TEXT, window)
    starts_itself = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    predicted = [token for row in windows for token in row.input_ids[1:]]
    assert predicted == (ids if starts_itself else ids[1:])
    assert max(len(row.input_ids) for row in windows) <= window
    assert all(row.answer_length == len(row.input_ids) - 1 for row in windows)


def test_the_command_shows_the_change_of_a_text(run: sl.Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    done = command(run.path, "--general", tmp_path / "text.txt")
    assert done.exit_code == 0, done.output
    for words in ("(bare base)", "keeper", "perplexity", "tokens"):
        assert words in done.stdout
    values = json.loads(command(run.path, "--general", tmp_path / "text.txt", "--after", "shade", "--json").stdout)
    assert [one["model"] for one in values] == ["shade"]


def test_a_text_that_was_measured_is_a_column_wherever_scores_are(own_run: sl.Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    before, plain = files(own_run), own_run.scores
    found = own_run.general_likelihood(tmp_path / "text.txt")
    scores = own_run.scores
    (column,) = scores.texts
    assert [column.perplexity(after) for after in (None, 0, 1)] == [one.perplexity for one in found]
    shown = f"{found[2].perplexity:.2f}"
    assert (scores.matrix, scores.op) == (plain.matrix, plain.op)
    assert shown in str(scores)
    assert f"<td>{shown}</td>" in scores._repr_html_()
    assert scores.to_json()["texts"][0]["perplexity"] == [one.perplexity for one in found[1:]]
    report = own_run.save_report(tmp_path / "report.html").read_text()
    assert f"<td>{shown}</td>" in report
    assert "text.txt<br><small>perplexity</small>" in report
    after = files(own_run)
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in set(after) - set(before)} == {"general"}


def test_a_text_is_not_measured_twice(own_run: sl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    first = own_run.general_likelihood(tmp_path / "text.txt", after=["shade"])
    (tmp_path / "again.txt").write_text(TEXT)  # the same text, whatever its file is called
    second = own_run.general_likelihood(tmp_path / "again.txt")
    assert [one.from_run for one in (*first, *second)] == [False, False, True, False]
    assert second[1].nll == first[0].nll
    monkeypatch.setattr("seekr_lite.tools.models.load_base", lambda settings: pytest.fail("the base was loaded"))
    third = own_run.general_likelihood(tmp_path / "text.txt")
    assert [(one.model, one.nll) for one in third] == [(one.model, one.nll) for one in second]


def test_a_damaged_measurement_is_told_and_made_again(own_run: sl.Run, tmp_path: Path) -> None:
    from seekr_lite.runs.inventory import verify_files

    (tmp_path / "text.txt").write_text(TEXT)
    first = own_run.general_likelihood(tmp_path / "text.txt")
    (kept,) = (own_run.path / "general").iterdir()
    assert [one.state for one in verify_files(own_run.folder) if one.path.startswith("general/")] == ["whole"]
    kept.write_text(kept.read_text().replace('"tokens": ', '"tokens": 9'))
    assert [one.state for one in verify_files(own_run.folder) if one.path.startswith("general/")] == ["changed"]
    assert own_run.scores.texts == ()
    assert "its content does not match its checksum" in own_run.save_report(tmp_path / "report.html").read_text()
    assert own_run.general_likelihood(tmp_path / "text.txt") == first
    assert len(own_run.scores.texts) == 1


def test_every_column_of_the_table_has_a_heading(run: sl.Run) -> None:
    head = next(line for line in command(run.path).stdout.splitlines() if "metric" in line)
    assert all(cell.strip() for cell in head.strip("┃").split("┃"))


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--after", "shad"), 'did you mean "shade"'),
        (("--task", "keper"), 'did you mean "keeper"'),
        (("--data", "josnl:x", "--task", "a"), 'did you mean "jsonl"'),
        (("--data", "jsonl:x"), "name the tasks"),
        (("--data", "jsonl:none", "--task", "a"), "there is no such folder"),
        (("--data", "toy", "--task", "shade", "--set", "train.epochs=2"), "nothing is trained here"),
        (("--data", "toy", "--task", "shade", "--set", "data.test_limt=2"), "test_limit"),
        (("--set", "data.test_limit=2"), "goes with another data set"),
        (("--general", "none.txt"), "this file is missing"),
        (("--general", "none.txt", "--task", "shade"), "leave out --task"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, run: sl.Run) -> None:
    done = command(run.path, *arguments)
    assert isinstance(done.exception, sl.UserError), done.output
    assert message in str(done.exception)
    assert done.stdout == ""


def test_an_empty_text_is_a_mistake(run: sl.Run, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(sl.UserError, match="too little text"):
        run.general_likelihood(tmp_path / "empty.txt")
