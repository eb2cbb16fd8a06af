"""One exchange per optimizer step: what each process found on its rows becomes what the whole step says.

A method's losses are divided by the totals of the whole step (`StepTotals`), so gradients and loss values of all
processes simply add up. No process waits for another before all its micro-batches are done.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from seekr_lite.common.processes import Processes

if TYPE_CHECKING:
    from seekr_lite.training.step_gradients import TermValues

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StepSum:
    """Adds up gradients and loss values over all processes, and tells all of them who was asked to stop.

    Everything travels in one vector: the gradients, which of them there are (a parameter that no row of the step has
    reached keeps none), the signals, the number of loss terms that have no place in the vector yet, and of the others
    value and presence.
    """

    def __init__(self, processes: Processes, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.processes = processes
        self.parameters = parameters
        self.names: list[str] = []  # of the loss terms, in the order of the vector; the same in every process
        self.dtype = torch.float32  # of the vector: fp32 at least

    def __call__(self, terms: TermValues, with_norms: bool) -> None:
        """Puts sums in place of the parameters' gradients and of the terms' values.

        with_norms: also, of each term, the gradient norm that the first process with such a term has measured.
        """
        if self.processes.count == 1:
            return
        stop = self.processes.stop
        heard = stop.heard if stop is not None else None
        unknown = terms.values.keys() - set(self.names)
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self.parameters]
        self.dtype = torch.promote_types(gradients[0].dtype, torch.float32)
        counts = [float(one.grad is not None) for one in self.parameters]
        counts += [float(heard == one) for one in SIGNALS] + [float(len(unknown))]
        flat = [*(one.flatten() for one in gradients), gradients[0].new_tensor(counts), self._values(terms)]
        vector = torch.cat([one.to(self.dtype) for one in flat])
        sizes = [one.numel() for one in flat]
        self.processes.sum(vector)
        *sums, counted, values = vector.split(sizes)
        *reached, terminated, interrupted, new = counted.tolist()
        for parameter, total, found in zip(self.parameters, sums, reached, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if found else None
        if stop is not None:
            stop.agree(one for one, found in zip(SIGNALS, (terminated, interrupted), strict=True) if found)
        if new:
            values = self._learn_names(terms)
        present = values[1::2].tolist()
        terms.values = {name: values[2 * place] for place, name in enumerate(self.names) if present[place]}
        if with_norms:
            measured = self.processes.gather({name: float(norm) for name, norm in terms.norms.items()})
            named = {name: norm for norms in reversed(measured) for name, norm in norms.items()}
            terms.norms = {name: values.new_tensor(named[name]) for name in self.names if name in named}

    def _values(self, terms: TermValues) -> torch.Tensor:
        """Value and presence of each known term, one after the other."""
        device = self.parameters[0].device
        found = [(terms.values.get(name, 0.0), float(name in terms.values)) for name in self.names]
        parts = [torch.as_tensor(part, dtype=self.dtype, device=device) for pair in found for part in pair]
        return torch.stack(parts) if parts else torch.zeros(0, dtype=self.dtype, device=device)

    def _learn_names(self, terms: TermValues) -> torch.Tensor:
        """Agrees on the names of all terms met so far; returns the sums of values and presence."""
        met = self.processes.gather(list(terms.values))
        self.names = list(dict.fromkeys([*self.names, *(name for names in met for name in names)]))
        values = self._values(terms)
        self.processes.sum(values)
        return values
