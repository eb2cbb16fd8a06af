"""How the rows of an optimizer step are cut so that they fit into memory, with little padding: rows of like length go
together.

The result of a step does not depend on the cut (`StepTotals`), so a cut that turns out too large is made smaller and
the step is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from seekr_lite.common.errors import UserError
from seekr_lite.common.memory import is_out_of_memory
from seekr_lite.common.progress import current_listener
from seekr_lite.data.batch import split_by_cost

Result = TypeVar("Result")
RandomStates = tuple[torch.Tensor, torch.Tensor | None]  # of the host and of the device
# What a pass costs whatever it holds, in tokens. A pass dequantises each weight: some 4.5 bytes of traffic, beside 2
# operations a token. A consumer GPU (1 TB/s, 70 to 160 TFLOPS) passes 160 to 370 tokens in that time; a CPU with two
# threads and SmolLM2 was seen to pass about 80 (`benchmarks/train_throughput.py`'s base; 64 to 256 tokens a pass).
PASS_TOKENS = {"cuda": 256, "cpu": 80}


class MicroBatches:
    """The tokens (padded) that pass the model at once; fewer after each time that memory ran out.

    in_front: tokens that the method puts in front of each row.
    """

    def __init__(self, tokens: int, device: str = "cpu", in_front: int = 0) -> None:
        self.tokens = tokens
        self.in_front = in_front
        self.pass_tokens = PASS_TOKENS.get(device, PASS_TOKENS["cpu"])

    def split(self, lengths: Sequence[int]) -> list[list[int]]:
        """Groups of row indices; a row that is longer than the limit goes alone."""
        return split_by_cost([length + self.in_front for length in lengths], self.tokens, self.pass_tokens)

    def fit(self, step: Callable[[], Result], lengths: Sequence[int], undo: Callable[[], None]) -> Result:
        """Does a step over rows of these lengths; where memory runs out, undoes it and does it in smaller parts.

        Random numbers are drawn again as they were, as far as the smaller parts draw the same.

        Raises:
            UserError: not even one row fits.
        """
        while True:
            before = random_states()
            try:
                return step()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the `except` block, whose traceback holds on to the tensors of the step.
            undo()
            self._shrink(len(lengths), max(lengths) + self.in_front)
            restore_random_states(before)

    def _shrink(self, rows: int, largest: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.tokens <= largest:  # no micro-batch had more tokens than the longest row alone
            raise UserError(
                f"out of memory with a single row of {largest} tokens: lower data.max_prompt_tokens or adapter.rank, "
                'switch train.checkpointing on, take train.optimizer = "adamw_8bit", or a smaller base'
            )
        before, self.tokens = self.tokens, max(largest, min(self.tokens, rows * largest) // 2)
        listener = current_listener()
        listener.event("out_of_memory", micro_batch_tokens=self.tokens, before=before)
        listener.say(
            f"out of memory: from now on {self.tokens} tokens pass at once, not {before} (train.micro_batch_tokens). "
            "Slower, with the same result"
        )


def random_states() -> RandomStates:
    """Where torch's random numbers stand."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def restore_random_states(states: RandomStates) -> None:
    """Lets the random numbers come again that came since."""
    cpu, cuda = states
    torch.set_rng_state(cpu)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
