"""Talking to the models of a run: answers as they are written, and a change of adapter between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.evaluation.generate import answer_prompt
from seekr_lite.runs.folder import RunFolder
from seekr_lite.runs.stages import BARE_BASE, Stage, find_stages, model_name
from seekr_lite.tools.models import RunModels

Write = Callable[[str], None]

COMMANDS = {
    "/after TASK": f"go on with the model after this task; {BARE_BASE}: the bare base",
    "/tasks": "the tasks of the run, and which model answers now",
    "/help": "these lines",
    "/quit": "the end; Ctrl-D and Ctrl-C are, too",
}


class Chat:
    """The models of a run, one of which answers. The base is loaded here, once.

    Every prompt stands for itself, as the rows did that the run has learned from.

    Raises:
        UserError: the run has learned no such task, the base cannot be loaded, or the adapter is damaged.
    """

    def __init__(self, folder: RunFolder, after: str | None = None, max_new_tokens: int | None = None) -> None:
        self.stage: Stage = find_stages(folder, [] if after is None else [after])[0]
        self.folder = folder
        self._data = folder.recipe().data
        self._models = RunModels(folder)
        self._max_new_tokens = max_new_tokens
        with self._models.acting(self.stage):
            pass  # what is wrong with base or adapter is said before the first prompt

    @property
    def model(self) -> str:
        """The model that answers, in words: the task after which it is, or the bare base."""
        return model_name(self.folder, self.stage)

    @property
    def tasks(self) -> list[str]:
        """The tasks that the run has learned, in their order."""
        return [task for stage in self.folder.record.stages for task in stage.tasks]

    def switch(self, after: str) -> None:
        """Goes on with another adapter, on the same base. Raises `UserError`, and stays with the old one."""
        (stage,) = find_stages(self.folder, [after])
        with self._models.acting(stage):
            self.stage = stage

    def answer(self, prompt: str, write: Write | None = None) -> str:
        """The greedy answer; `write` gets its pieces as soon as they are there."""
        with self._models.acting(self.stage) as model:
            return answer_prompt(model, self._models.tokenizer, prompt, self._data, self._max_new_tokens, write)


def converse(chat: Chat, lines: Iterable[str], answer: Callable[[str], None], say: Write) -> None:
    """Goes through lines: commands are done, other lines are answered, empty ones passed over.

    Args:
        answer: is given each prompt.
        say: is given what is not an answer.
    """
    for line in lines:
        text = line.rstrip("\r\n")
        name, _, rest = text.strip().partition(" ")
        if name == "/quit":
            return
        try:
            if name.startswith("/"):
                say(_command(chat, name, rest.strip()))
            elif name:
                answer(text)
        except UserError as error:
            say(str(error))


def _command(chat: Chat, name: str, rest: str) -> str:
    """Does a command; returns what there is to say about it."""
    known = [command.split()[0] for command in COMMANDS]
    if name == "/help":
        return "\n".join(f"{command:<12} {about}" for command, about in COMMANDS.items())
    if name == "/tasks":
        return f"learned: {', '.join(chat.tasks)}; answering: {chat.model}"
    if name == "/after" and rest:
        chat.switch(rest)
        return f"answering: {chat.model}"
    if name == "/after":
        raise UserError(f"/after: name one of {', '.join(chat.tasks)}, or {BARE_BASE}")
    raise UserError(f"{name}: there is no such command{nearest(name, known)} (/help)")
