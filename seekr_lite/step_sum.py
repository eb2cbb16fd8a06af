"""One exchange per optimizer step: what each process found on its rows becomes what the whole step says.

A method's losses are divided by the totals of the whole step (`StepTotals`), so gradients and loss values of all
processes simply add up. No process waits for another before all its micro-batches are done.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from seekr_lite.processes import Processes

if TYPE_CHECKING:
    from seekr_lite.step_gradients import TermValues

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StepSum:
    """Adds up gradients and loss values over all processes, and tells all of them who was asked to stop.

    Everything travels in one vector: the gradients, which of them there are (a parameter that no row of the step has
    reached keeps none), values and presence of each loss term, the number of terms that have no place in the vector
    yet, and the signals.
    """

    def __init__(self, processes: Processes, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.processes = processes
        self.parameters = parameters
        self.names: list[str] = []  # of the loss terms, in the order of the vector; the same in every process

    def __call__(self, terms: TermValues, with_norms: bool) -> None:
        """Puts sums in place of the parameters' gradients and of the terms' values.

        with_norms: also, of each term, the gradient norm that the first process with such a term has measured.
        """
        if self.processes.count == 1:
            return
        heard = self.processes.stop.heard if self.processes.stop is not None else None
        unknown = terms.values.keys() - set(self.names)
        told = [*self._values(terms), len(unknown), *(float(heard == one) for one in SIGNALS)]
        reached = [float(one.grad is not None) for one in self.parameters]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self.parameters]
        dtype = torch.promote_types(gradients[0].dtype, torch.float32)
        device = gradients[0].device
        numbers = torch.stack([torch.as_tensor(one, dtype=dtype, device=device) for one in [*reached, *told]])
        vector = torch.cat([*(one.flatten().to(dtype) for one in gradients), numbers])
        sizes = [one.numel() for one in gradients]
        self.processes.sum(vector)
        *sums, numbers = vector.split([*sizes, len(numbers)])
        reached, told = numbers[: len(sizes)].tolist(), numbers[len(sizes) :].tolist()
        for parameter, total, found in zip(self.parameters, sums, reached, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if found else None
        *values, new, terminated, interrupted = told
        if self.processes.stop is not None:
            counts = zip(SIGNALS, (terminated, interrupted), strict=True)
            self.processes.stop.agree(one for one, count in counts if count)
        if new:
            values = self._learn_names(terms, dtype, device)
        pairs = zip(self.names, values[::2], values[1::2], strict=True)
        terms.values = {name: torch.tensor(value, dtype=dtype) for name, value, found in pairs if found}
        if with_norms:
            measured = self.processes.gather({name: float(norm) for name, norm in terms.norms.items()})
            named = {name: norm for norms in reversed(measured) for name, norm in norms.items()}
            terms.norms = {name: torch.tensor(named[name]) for name in self.names if name in named}

    def _values(self, terms: TermValues) -> list[torch.Tensor | float]:
        """Value and presence of each known term."""
        return [part for name in self.names for part in (terms.values.get(name, 0.0), float(name in terms.values))]

    def _learn_names(self, terms: TermValues, dtype: torch.dtype, device: torch.device) -> list[float]:
        """Agrees on the names of all terms met so far; returns the sums of values and presence."""
        met = self.processes.gather(list(terms.values))
        self.names = list(dict.fromkeys([*self.names, *(name for names in met for name in names)]))
        vector = torch.stack([torch.as_tensor(one, dtype=dtype, device=device) for one in self._values(terms)])
        self.processes.sum(vector)
        sums: list[float] = vector.tolist()
        return sums
