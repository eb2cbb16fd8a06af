"""Sending an adapter to the hub: a dry run asks nobody, what goes loads with plain PEFT, mistakes are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from typer.testing import CliRunner, Result

import seekr_lite as sl
from seekr_lite.cli.app import app
from seekr_lite.runs.cards import hub_datasets

BASE = ("--base-model", "someone/tiny")


def answer(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


class Hub:
    """The hub as `HfApi` shows it. there: the repository that exists. fails: what each call ends in."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.there: Any = None
        self.fails: Exception | None = None
        self.private: bool | None = None
        self.received: dict[str, bytes] = {}

    def called(self, name: str) -> None:
        self.calls.append(name)
        if self.fails is not None:
            raise self.fails

    def repo_info(self, api: HfApi, repo_id: str) -> Any:
        self.called("repo_info")
        if self.there is None:
            raise RepositoryNotFoundError("no such repository", response=answer(404))
        return self.there

    def create_repo(self, api: HfApi, repo_id: str, private: bool) -> None:
        self.called("create_repo")
        self.private = private

    def create_commit(self, api: HfApi, repo_id: str, operations: Any, commit_message: str) -> Any:
        self.called("create_commit")
        for one in operations:
            with one.as_file() as file:
                self.received[one.path_in_repo] = file.read()
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """In place of everything that `HfApi` sends; somebody is logged in."""
    hub = Hub()
    for name in ("repo_info", "create_repo", "create_commit"):
        monkeypatch.setattr(HfApi, name, lambda api, *args, _name=name, **kw: getattr(hub, _name)(api, *args, **kw))
    for name in ("upload_file", "upload_folder", "whoami"):
        monkeypatch.setattr(HfApi, name, lambda *args, _name=name, **kw: pytest.fail(f"{_name} was called"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_of_a_test")
    return hub


def push(run: sl.Run, *arguments: str, to: str = "me/adapter") -> Result:
    return CliRunner().invoke(app, ["push", str(run.path), "--to", to, *arguments])


def test_a_dry_run_shows_everything_and_asks_nobody(finished_run: sl.Run, hub: Hub) -> None:
    done = push(finished_run, *BASE, "--private")
    assert done.exit_code == 0, done.output
    values = json.loads(push(finished_run, *BASE, "--private", "--json").stdout)
    assert hub.calls == []
    for words in ("me/adapter (private", "someone/tiny", "adapter after keeper", "library_name: peft"):
        assert words in done.stdout
    assert set(values["files"]) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert all(f"{size:,} bytes  {name}" in done.stdout for name, size in values["files"].items())
    assert "Nothing was sent" in done.stderr
    assert values["sent"] is False


def test_what_is_sent_is_what_was_shown(finished_run: sl.Run, hub: Hub) -> None:
    shown = json.loads(push(finished_run, *BASE, "--after", "shade", "--json").stdout)
    done = push(finished_run, *BASE, "--after", "shade", "--yes")
    assert done.stdout == "https://huggingface.co/me/adapter/commit/1\n"
    assert hub.calls == ["repo_info", "create_repo", "create_commit"]
    assert hub.private is False
    assert {name: len(content) for name, content in hub.received.items()} == shown["files"]
    assert hub.received["README.md"].decode() == shown["card"]
    assert str(finished_run.path) not in shown["card"]


def test_what_is_sent_loads_with_plain_peft_and_answers_as_the_run(
    finished_run: sl.Run, hub: Hub, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from seekr_lite.model.base import resolve_model

    push(finished_run, *BASE, "--yes")
    for name, content in hub.received.items():
        (tmp_path / name).write_bytes(content)
    config = json.loads(hub.received["adapter_config.json"])
    assert config["base_model_name_or_path"] == "someone/tiny"
    ids = torch.tensor([[1, 5, 9, 20, 33]])
    logits = []
    for folder in (tmp_path, finished_run.folder.adapter_folder(1)):
        base = AutoModelForCausalLM.from_pretrained(resolve_model("tiny"))
        with torch.no_grad():
            logits.append(PeftModel.from_pretrained(base, folder)(ids).logits)
    assert torch.equal(*logits)


def test_the_card_is_valid_for_the_hub_and_tells_scores_and_recipe(finished_run: sl.Run) -> None:
    card = ModelCard(finished_run.push("me/adapter", base_model="someone/tiny").card)
    data = card.data.to_dict()
    assert (data["base_model"], data["library_name"], data["license"]) == ("someone/tiny", "peft", "other")
    assert set(data["tags"]) == {"lora", "continual-learning", "seekr-lite"}
    assert "datasets" not in data  # toy tasks are no data set of the hub
    scores = finished_run.scores
    assert f"| shade | exact_match | {scores.matrix[1][0]:.1f} | {scores.nll_matrix[1][0]:.3f} |" in card.text
    assert "learning_rate =" in card.text
    assert "output =" not in card.text  # a place on somebody's machine
    assert "2411.06171" in card.text


def test_the_card_names_a_data_set_of_the_hub(finished_run: sl.Run) -> None:
    recipe = finished_run.recipe.with_(data={"format": "datasets", "path": "someone/their-data"})
    assert hub_datasets(recipe) == ["someone/their-data"]


@pytest.mark.parametrize(("base", "revision"), [(None, "v1"), ("someone/copy", None)], ids=["its own", "another"])
def test_the_pinned_revision_goes_with_the_recipes_own_base(
    finished_run: sl.Run, tmp_path: Path, base: str | None, revision: str | None
) -> None:
    shutil.copytree(finished_run.path, tmp_path / "run")
    run = sl.open_run(tmp_path / "run")
    run.folder.write_recipe(run.recipe.with_(base={"model": "someone/base", "revision": "v1"}))
    push = run.push("me/adapter", base_model=base)
    assert json.loads(push.contents["adapter_config.json"])["revision"] == revision  # type: ignore[arg-type] - bytes
    assert ('revision="v1"' in push.card) == (revision is not None)


# ------------------------------------------------------------------ repositories that exist


def there(private: bool, *files: str) -> Any:
    return SimpleNamespace(private=private, siblings=[SimpleNamespace(rfilename=name) for name in files])


def test_an_adapter_that_is_there_gets_a_new_commit(finished_run: sl.Run, hub: Hub) -> None:
    hub.there = there(True, ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors")
    assert push(finished_run, *BASE, "--yes").exit_code == 0
    assert hub.calls == ["repo_info", "create_commit"]


@pytest.mark.parametrize(
    ("repository", "message"),
    [(there(False, "README.md"), "is public"), (there(True, "model.safetensors"), "other files")],
)
def test_a_repository_that_is_something_else_is_refused(
    repository: Any, message: str, finished_run: sl.Run, hub: Hub
) -> None:
    hub.there = repository
    done = push(finished_run, *BASE, "--private", "--yes")
    assert isinstance(done.exception, sl.UserError)
    assert message in str(done.exception)
    assert hub.received == {}


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("to", "arguments", "message"),
    [
        ("adapter", BASE, "write owner/name"),
        ("me/my adapter", BASE, "no id of the hub"),
        ("a/b/c", BASE, "no id of the hub"),
        ("me/adapter", (), "built into seekr-lite"),
        ("me/adapter", ("--base-model", "tiny"), "a folder of this machine"),
        ("me/adapter", ("--base-model", "some one"), "--base-model some one"),
        ("me/adapter", (*BASE, "--after", "shad"), 'did you mean "shade"'),
    ],
)
def test_mistakes(to: str, arguments: tuple[str, ...], message: str, finished_run: sl.Run, hub: Hub) -> None:
    done = push(finished_run, *arguments, "--yes", to=to)
    assert isinstance(done.exception, sl.UserError), done.output
    assert (done.exception.exit_code, hub.calls) == (2, [])
    assert message in str(done.exception)


def test_without_a_token_nothing_is_asked(finished_run: sl.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    done = push(finished_run, *BASE, "--yes")
    assert "hf auth login" in str(done.exception)
    assert hub.calls == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (HfHubHTTPError("403 Forbidden", response=answer(403)), 2, "does not let you write"),
        (HfHubHTTPError("413 too large", response=answer(413)), 2, "413 too large"),
        (HfHubHTTPError("502 Bad Gateway", response=answer(502)), 3, "try again"),
        (OfflineModeIsEnabled("offline mode is enabled"), 3, "cannot be reached"),
    ],
)
def test_what_the_hub_says_ends_in_words(
    error: Exception, code: int, message: str, finished_run: sl.Run, hub: Hub
) -> None:
    hub.fails = error
    done = push(finished_run, *BASE, "--yes")
    assert isinstance(done.exception, sl.UserError), done.output
    assert done.exception.exit_code == code
    assert message in str(done.exception)
    assert hub.received == {}


def test_without_a_network_it_can_be_tried_again(finished_run: sl.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's real client, and a port that nobody listens at."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_of_a_test")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    done = push(finished_run, *BASE, "--yes")
    assert isinstance(done.exception, sl.UserError), done.output
    assert done.exception.exit_code == 3
    assert "cannot be reached" in str(done.exception)
