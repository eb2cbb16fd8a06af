"""An adapter of a run to the hub: what would go, and, only where that is asked for, sending it.

Three files go: the weights, PEFT's configuration, which names the base by its hub id, and a model card. Nothing else
of a run does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from peft import LoraConfig

from seekr_lite.common.errors import Stopped, UserError
from seekr_lite.common.files import json_text, read_json
from seekr_lite.model.base import TINY, resolve_model
from seekr_lite.model.snapshots import Snapshot
from seekr_lite.runs.cards import check_hub_id, hub_card
from seekr_lite.runs.folder import RunFolder

WEIGHTS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
ALSO_THERE = ".gitattributes"  # the hub's own, in every repository


@dataclass(frozen=True)
class Push:
    """What goes, or has gone, to the hub. contents: the name in the repository -> bytes, or the file that has them.

    url: of the commit; None where nothing was sent.
    """

    to: str
    private: bool
    after: str
    base_model: str
    contents: dict[str, bytes | Path]
    url: str | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The files in bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.contents.items()
        }

    @property
    def card(self) -> str:
        content = self.contents[CARD]
        assert isinstance(content, bytes), "the card is made here"
        return content.decode()

    def to_json(self) -> dict[str, Any]:
        return {
            "to": self.to,
            "private": self.private,
            "after": self.after,
            "base_model": self.base_model,
            "files": self.sizes,
            "card": self.card,
            "sent": self.url is not None,
            "url": self.url,
        }


def push(
    folder: RunFolder,
    to: str,
    after: str | None = None,
    private: bool = False,
    base_model: str | None = None,
    send: bool = False,
) -> Push:
    """Puts together what goes to the hub repository `to` (`owner/name`); sends it only with `send`.

    Args:
        after: the adapter after this task, by default after the last.
        private: a new repository is made private.
        base_model: the base's hub id; needed where the run's base is a folder of this machine, or the built-in one.

    Raises:
        UserError: a wrong id, a base that nobody else could load, a damaged adapter, no right to write there, or a
            repository that holds something else.
        Stopped: the hub cannot be reached; nothing of the adapter is there, and the same call may be made again.
    """
    check_hub_id(to, "--to")
    if to.count("/") != 1:
        raise UserError(f"--to {to}: write owner/name, for example --to {to.strip('/') or 'me'}/my-adapter")
    base = _base_model(folder, base_model)
    stage = folder.stage_after(after)
    snapshot = folder.load_snapshot(stage)  # refuses what is damaged
    if snapshot.is_prompt:
        raise UserError(
            "push: this run learned soft prompts, and LoRA adapters alone are sent; `seekr-lite export` writes one of "
            "pp or lfpt5 to a folder, which `hf upload` sends"
        )
    config = _peft_config(folder, stage, snapshot, base)
    contents: dict[str, bytes | Path] = {
        CARD: hub_card(folder, stage, to, config).encode(),
        CONFIG: json_text(config).encode(),
        WEIGHTS: folder.adapter_folder(stage) / WEIGHTS,
    }
    planned = Push(to, private, folder.record.stages[stage].tasks[-1], base, contents)
    return _send(planned) if send else planned


def _base_model(folder: RunFolder, given: str | None) -> str:
    name = folder.recipe().base.model
    if given is not None:
        check_hub_id(given, "--base-model")
        if resolve_model(given) != given:
            raise UserError(f"--base-model {given}: this is a folder of this machine; a hub id is needed")
        return given
    if name == TINY or resolve_model(name) != name:
        what = "the base built into seekr-lite" if name == TINY else "a folder of this machine"
        raise UserError(
            f'base.model "{name}" is {what}: the adapter would name a base that nobody else can load. '
            "Give the hub id of the same model: --base-model owner/name"
        )
    return name


def _peft_config(folder: RunFolder, stage: int, snapshot: Snapshot, base: str) -> dict[str, Any]:
    """Written anew: numbers and the names of layers alone come from the run folder, nothing that makes PEFT act."""
    settings = folder.recipe().base
    layers = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in snapshot.weights}
    short = read_json(folder.adapter_folder(stage) / CONFIG).get("target_modules")
    if not isinstance(short, list) or not all(any(f".{one}".endswith(f".{end}") for end in short) for one in layers):
        short = sorted(layers)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=snapshot.rank,
        lora_alpha=snapshot.alpha,
        target_modules=short,
        base_model_name_or_path=base,
        revision=settings.revision if settings.model == base else None,
        inference_mode=True,
    )
    values = sorted(config.to_dict().items())
    return {key: sorted(value) if isinstance(value, set) else value for key, value in values}


# ------------------------------------------------------------------ sending


def _send(planned: Push) -> Push:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError(
            "there is no token of the hub here: log in with `hf auth login` (a token that may write), and run the same "
            "command"
        )
    api = HfApi()
    with _hub_errors(planned.to):
        try:
            _check_place(planned, api.repo_info(planned.to))
        except RepositoryNotFoundError:
            api.create_repo(planned.to, private=planned.private)
        files = [CommitOperationAdd(name, content) for name, content in planned.contents.items()]
        commit = api.create_commit(planned.to, files, commit_message=f"The adapter after {planned.after}")
    return replace(planned, url=str(commit.commit_url))


def _check_place(planned: Push, there: Any) -> None:
    """Raises `UserError` where a repository that exists is public against the word, or holds something else."""
    if planned.private and not there.private:
        raise UserError(
            f"--to {planned.to}: this repository exists and is public, and --private would not change it; make it "
            "private on its page, or name another one"
        )
    others = {one.rfilename for one in there.siblings or ()} - {*planned.contents, ALSO_THERE}
    if others:
        raise UserError(
            f"--to {planned.to}: this repository holds other files ({', '.join(sorted(others)[:3])}), so it is more "
            "than an adapter; name another one"
        )


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """What the hub refuses, and a hub that cannot be reached, in words."""
    try:
        yield
    except UserError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            raise UserError(
                f"--to {repository}: the hub does not let you write there. Check the owner's name, and that your token "
                "may write (`hf auth whoami`, `hf auth login`)"
            ) from None
        reason = str(error).strip().partition("\n")[0]
        if 400 <= status < 500 and status != 429:
            raise UserError(f"--to {repository}: the hub refuses this: {reason}") from None
        raise Stopped(
            f"{repository}: the hub answers with an error: {reason}. Nothing was changed; try again"
        ) from None
    except Exception as error:  # the client's own errors of connections, of several libraries
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Stopped(
            f"{repository}: the hub cannot be reached: {reason}. The files go together or not at all: connect, and run "
            "the same command"
        ) from None
