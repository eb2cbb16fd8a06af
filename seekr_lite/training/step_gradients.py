"""The gradients of one optimizer step, summed over micro-batches of new rows and of old ones."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from seekr_lite.common.errors import UserError
from seekr_lite.common.processes import current_processes
from seekr_lite.common.stopping import current_stop
from seekr_lite.data.batch import collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods.method import LossTerm, Method, ReplayBatch, StepTotals
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.model.snapshots import SnapshotSequence
from seekr_lite.training.micro_batches import MicroBatches
from seekr_lite.training.replay_schedule import Step


@dataclass
class TermValues:
    """Loss terms of a step: their values, and now and then the gradient norm of each weighted term.

    They stay on the device until `numbers` asks for all of them at once.
    """

    values: dict[str, torch.Tensor] = field(default_factory=dict)
    norms: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, term: LossTerm) -> None:
        value = term.value.detach()
        self.values[term.name] = self.values[term.name] + value if term.name in self.values else value

    def numbers(self, total_norm: torch.Tensor) -> StepNumbers:
        """All of them, with the norm of the whole gradient, in one wait for the device.

        (To ask for the numbers of the step before would wait just as long: what is asked of a device comes after all
        work that it has been given.)
        """
        tensors = [*self.values.values(), *self.norms.values(), total_norm]
        *numbers, total = torch.stack([tensor.double() for tensor in tensors]).tolist()
        split = len(self.values)
        values = dict(zip(self.values, numbers[:split], strict=True))
        return StepNumbers(values, dict(zip(self.norms, numbers[split:], strict=True)), total)


@dataclass(frozen=True)
class StepNumbers:
    """Of a step: the value of each loss term, the gradient norms of terms where measured, and that of the whole."""

    values: dict[str, float]
    norms: dict[str, float]
    gradient_norm: float


class StepGradients:
    """Gradients of a method's loss on the rows of a step; they land in the student's parameters.

    A new row counts 1 and an old row `replay_weight`: L = (new L_new + w old L_old) / (new + w old). A step of old rows
    alone has L = w L_old. Several processes share the rows of a step, each kind apart; afterwards each has the
    gradients of the whole step.
    """

    def __init__(
        self, method: Method, adapters: SnapshotSequence, micro_batches: MicroBatches, replay_weight: float
    ) -> None:
        self.add_up = StepSum(adapters.trainable_parameters())
        self.method = method
        self.adapters = adapters
        self.micro_batches = micro_batches
        self.replay_weight = replay_weight

    def __call__(
        self, step: Step, rows: Sequence[EncodedExample], old: Sequence[ReplayRow], with_norms: bool = False
    ) -> TermValues:
        """Sums up the gradients of a step; in smaller micro-batches where memory runs out.

        with_norms: also the gradient norm of each weighted term, of its first micro-batch: which pulls how hard.
        """
        chosen, past = [rows[index] for index in step.new], [old[index] for index in step.replay]
        lengths = [len(row.input_ids) for row in chosen] + [len(row.encoded.input_ids) for row in past]
        terms = self.micro_batches.fit(
            lambda: self._sum(chosen, past, with_norms), lengths, self.adapters.model.zero_grad
        )
        self.add_up(terms, with_norms)
        return terms

    def _sum(self, chosen: list[EncodedExample], past: list[ReplayRow], with_norms: bool) -> TermValues:
        weight_sum = len(chosen) + self.replay_weight * len(past) if chosen else len(past)
        terms, processes = TermValues(), current_processes()
        device, pad = self.adapters.base.device, self.adapters.base.tokenizer.pad_token_id
        if chosen:
            totals = StepTotals(sum(row.answer_length for row in chosen), len(chosen))
            own = processes.share_by_length(chosen, [len(row.input_ids) for row in chosen])
            for group in self.micro_batches.split([len(row.input_ids) for row in own]):
                batch = collate([own[index] for index in group], pad).to(device)
                loss = self.method.new_task_loss(batch, totals)
                self._backward(loss, len(chosen) / weight_sum, terms, with_norms)
        if past and self.replay_weight:
            tasks = frozenset(row.task for row in past)
            totals = StepTotals(sum(row.encoded.answer_length for row in past), len(past), tasks)
            mine = processes.share_by_length(past, [len(row.encoded.input_ids) for row in past], last_first=True)
            for group in self.micro_batches.split([len(row.encoded.input_ids) for row in mine]):
                members = [mine[index] for index in group]
                batch = collate([row.encoded for row in members], pad).to(device)
                loss = self.method.replay_loss(ReplayBatch(batch, members), totals)
                self._backward(loss, self.replay_weight * len(past) / weight_sum, terms, with_norms)
        return terms

    def _backward(self, loss: Sequence[LossTerm], share: float, terms: TermValues, with_norms: bool) -> None:
        if not loss:
            raise UserError(f'the method "{self.method.name}" gave no loss terms for a micro-batch; give at least one')
        wanted = [term for term in loss if with_norms and term.name not in terms.norms]
        parameters = self.adapters.trainable_parameters()
        # A term that is alone, in the first micro-batch of a step, has the very gradient that backward() leaves.
        alone = len(loss) == 1 and all(one.grad is None for one in parameters)
        for term in wanted if not alone else ():
            part = share * term.weight * term.value
            terms.norms[term.name] = _total_norm(
                torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
            )
        (torch.stack([term.weight * term.value for term in loss]).sum() * share).backward()  # type: ignore[no-untyped-call]
        for term in wanted if alone else ():
            terms.norms[term.name] = _total_norm([one.grad for one in parameters])
        for term in loss:
            terms.add(term)


def _total_norm(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    return torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])


SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StepSum:
    """Adds up gradients and loss values over all processes, which also learn that one of them was asked to stop.

    Everything travels in one vector: the gradients, which of them there are (a parameter that no row of the step has
    reached keeps none), the signals, the number of loss terms that have no place in the vector yet, and of the others
    value and presence.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.names: list[str] = []  # of the loss terms, in the order of the vector; the same in every process
        self.dtype = torch.float32  # of the vector: fp32 at least

    def __call__(self, terms: TermValues, with_norms: bool) -> None:
        """Puts sums in place of the parameters' gradients and of the terms' values.

        with_norms: also, of each term, the gradient norm that the first process with such a term has measured.
        """
        processes, stop = current_processes(), current_stop()
        if processes.count == 1:
            return
        unknown = terms.values.keys() - set(self.names)
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self.parameters]
        self.dtype = torch.promote_types(gradients[0].dtype, torch.float32)
        counts = [float(one.grad is not None) for one in self.parameters]
        counts += [float(stop.received == one) for one in SIGNALS] + [float(len(unknown))]
        flat = [*(one.flatten() for one in gradients), gradients[0].new_tensor(counts), self._values(terms)]
        vector = torch.cat([one.to(self.dtype) for one in flat])
        sizes = [one.numel() for one in flat]
        processes.sum(vector)
        *sums, counted, values = vector.split(sizes)
        *reached, terminated, interrupted, new = counted.tolist()
        for parameter, total, found in zip(self.parameters, sums, reached, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if found else None
        stop.agree(one for one, found in zip(SIGNALS, (terminated, interrupted), strict=True) if found)
        if new:
            values = self._learn_names(terms)
        present = values[1::2].tolist()
        terms.values = {name: values[2 * place] for place, name in enumerate(self.names) if present[place]}
        if with_norms:
            measured = processes.gather({name: float(norm) for name, norm in terms.norms.items()})
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
        met = current_processes().gather(list(terms.values))
        self.names = list(dict.fromkeys([*self.names, *(name for names in met for name in names)]))
        values = self._values(terms)
        current_processes().sum(values)
        return values
