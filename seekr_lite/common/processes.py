"""The processes of one run, which `accelerate launch` or `torchrun` has started: which part each does, how they agree.

One process, the usual case, is `ALONE`: everything here then does nothing, and torch.distributed is never called. What
processes tell each other is numbers in tensors and JSON; no pickle, and no wrapper around the model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from seekr_lite.common.context import Ambient
from seekr_lite.common.errors import Stopped, UserError
from seekr_lite.common.stopping import current_stop

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. Number 0 is the main one: it alone writes and speaks."""

    index: int = 0  # of this process
    count: int = 1  # of all processes, on all machines
    device: torch.device | None = None  # where its tensors live; None: wherever the recipe says
    group: Any = None  # the torch.distributed group that carries what lies on the host; None: the default one

    @classmethod
    def launched(cls, device: torch.device) -> Processes:
        """The processes that a launcher has started, on `device` or on a GPU each; `ALONE` where none has.

        Raises:
            UserError: more processes than GPUs on this machine.
            Stopped: the others cannot be reached.
        """
        if launched_count() == 1:
            return ALONE
        import torch
        from accelerate import PartialState

        local = int(os.environ.get("LOCAL_RANK", 0))
        if device.type == "cuda":
            if local >= torch.cuda.device_count():
                raise UserError(
                    f"{os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes were started here, and torch sees "
                    f"{torch.cuda.device_count()} GPUs; start one process a GPU (--num_processes)"
                )
            device = torch.device("cuda", local)
        with _reaching_others():
            state = PartialState(cpu=device.type == "cpu")
            if state.num_processes != launched_count():
                raise UserError(
                    f"{launched_count()} processes were started, and accelerate knows of {state.num_processes}: it was "
                    "set up before in another way. Call seekr_lite first, or set base.device as there"
                )
            on_host = torch.distributed.get_backend() == "gloo"
            group = None if on_host else torch.distributed.new_group(backend="gloo")
        return cls(state.process_index, state.num_processes, device, group)

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process' part of what all of them do: every item is in exactly one part."""
        return items if self.count == 1 else items[self.index :: self.count]

    def share_by_length(
        self, items: Sequence[Item], lengths: Sequence[int], last_first: bool = False
    ) -> Sequence[Item]:
        """`share`, so that the parts are about equally long; where they cannot be, the first processes have more.

        last_first: the last processes have more.
        """
        if self.count == 1:
            return items
        longest_first = sorted(range(len(items)), key=lambda index: (-lengths[index], index))
        place = self.count - 1 - self.index if last_first else self.index
        return [items[index] for index in longest_first[place :: self.count]]

    # ------------------------------------------------------------------ exchanges: every process calls them in turn

    def sum(self, tensor: torch.Tensor) -> None:
        """Puts the sum over all processes in place of a tensor that lies on their devices."""
        if self.count > 1:
            import torch

            with _reaching_others():
                torch.distributed.all_reduce(tensor)

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in the order of processes: values that JSON can hold, as JSON gives them back.

        The signal that came to each travels along, so that all of them agree on a stop.
        """
        if self.count == 1:
            return [value]
        import torch

        stop = current_stop()
        text = torch.frombuffer(bytearray(json.dumps([value, stop.received]).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        with _reaching_others():
            torch.distributed.all_gather(sizes, torch.tensor([len(text)]), group=self.group)
            longest = int(max(sizes))
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
            torch.distributed.all_gather(texts, torch.nn.functional.pad(text, (0, longest - len(text))), self.group)
        read = [json.loads(bytes(one[: int(size)].tolist())) for one, size in zip(texts, sizes, strict=True)]
        stop.agree(signal for _, signal in read)
        return [one for one, _ in read]

    def copy_from_main(self, tensors: Sequence[torch.Tensor]) -> None:
        """Makes tensors what they are in the main process: unlike processors may have rounded differently."""
        if self.count > 1:
            import torch

            with _reaching_others():
                for tensor in tensors:
                    torch.distributed.broadcast(tensor.data, 0)

    # ------------------------------------------------------------------ work that one does, and that may fail

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what every process does by itself: all wait at its end, and what is wrong in one ends all of them.

        Raises:
            UserError: the first one that some process raised; only the main process says it.
        """
        if self.count == 1:
            yield
            return
        failed: UserError | None = None
        try:
            yield
        except UserError as error:
            failed = error
        for index, found in enumerate(self.gather(failed and [str(failed), failed.exit_code])):
            if found is not None:
                text, exit_code = found
                kind = Stopped if exit_code == Stopped.exit_code else UserError
                raise self.alike(kind(text if index == 0 else f"process {index}: {text}")) from None

    def on_main(self, work: Callable[[], Result]) -> Result:
        """What the main process makes of some work, as JSON gives it back; all wait for it. Raises what it raises."""
        if self.count == 1:
            return work()
        made: Any = None
        with self.together():
            if self.is_main:
                made = work()
        result: Result = self.gather(made)[0]
        return result

    def main_first(self, work: Callable[[], Result]) -> Result:
        """Work of every process that finds what the main one has left. Raises what any of them raises."""
        made: list[Result] = []
        for turn in (self.is_main, not self.is_main) if self.count > 1 else (True,):
            with self.together():
                if turn:
                    made.append(work())
        return made[0]

    def alike(self, error: Result) -> Result:
        """An error that every process raises: only the main one says it."""
        if isinstance(error, UserError):
            error.said_by_main = not self.is_main
        return error


ALONE = Processes()
current_processes = Ambient("processes", ALONE)


def launched_count() -> int:
    """How many processes a launcher has started, on all machines."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def launched_alone() -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes: it starts one, and says nothing."""
    several = "MASTER_ADDR" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ
    return several and "WORLD_SIZE" not in os.environ


def is_main_process() -> bool:
    """Whether this is the main process, or the only one. Needs no torch, and no exchange."""
    return launched_count() == 1 or os.environ.get("RANK", "0") == "0"


def says(error: UserError) -> bool:
    """Whether this process tells the user of an error, so that as many do as must, and one at least does.

    Before processes have met, all read the same input and find the same mistakes: one a machine tells of them.
    """
    if launched_count() == 1:
        return True
    from torch import distributed

    return not error.said_by_main if distributed.is_initialized() else os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def _reaching_others() -> Iterator[None]:
    """Raises `Stopped` where an exchange fails: another process has ended, or a machine cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        # gloo puts the line of its source before the reason, and advice after it.
        reason = re.sub(r"^\[\S+:\d+\] |\. This is typically.*|\n.*", "", str(error), flags=re.DOTALL)
        raise Stopped(
            f"another process of this run has ended or cannot be reached ({reason}), so this one ends, too. If the "
            "other one could say why, its message is near this one. Everything recorded so far is kept, and the same "
            "command goes on from there, with any number of processes"
        ) from None
