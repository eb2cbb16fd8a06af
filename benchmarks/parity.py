"""Our numbers beside the official ones.

    python benchmarks/parity.py FOLDER... [--json]

A FOLDER holds `expected.json` with the states of a small Llama as safetensors (the official SEEKR code's numbers), or
is a `metrics.json` (the official scoring's numbers), or holds such folders and files. Everything is computed through
the product's own code; the table has the largest error of each quantity. Exit code 1: one is above its tolerance.
2: there is nothing to read, or it is damaged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python sees this folder only

from benchmarks.golden_case import GIVEN, Case, read_json
from seekr_lite.attention.importance import accumulated_importance
from seekr_lite.cli.app import quiet_libraries
from seekr_lite.common.errors import UserError
from seekr_lite.data.trace import trace_scoring
from seekr_lite.evaluation.extraction import EXTRACTIONS
from seekr_lite.evaluation.metrics import METRICS, mean_score

RELATIVE = 1e-4  # attention: fp32 on both sides
METRIC_POINTS = 1e-6  # scores, on the scale of 0 to 100
# Where the dot product of a gradient and a direction all but cancels, the official fp32 number itself is off by the
# rounding of its addends; no fp32 number is nearer than one unit in the last place of |gradient| |direction|.
FP32_UNIT = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Number:
    """One official number and ours. `allowed` is the largest absolute difference that passes."""

    quantity: str
    where: str
    official: float
    ours: float
    allowed: float

    @property
    def passes(self) -> bool:
        return abs(self.ours - self.official) <= self.allowed

    @property
    def relative_error(self) -> float:
        difference = abs(self.ours - self.official)
        return difference / abs(self.official) if self.official else difference


@dataclass(frozen=True)
class Line:
    """A quantity of one folder: how many numbers, the largest relative error and where it is, and whether all pass.

    within_rounding: numbers above the relative tolerance that pass since they are within fp32's rounding (FP32_UNIT).
    """

    source: str
    quantity: str
    numbers: int
    largest_relative_error: float
    where: str
    within_rounding: int
    passes: bool


# ---------------------------------------------------------------------- a folder of SEEKR's numbers

TERMS = {"replay": "replay_cross_entropy", "logits": "logits_distillation", "attention": "attention_distillation"}


def measure_case(case: Case) -> dict[str, Any]:
    """Everything that `expected.json` has, from our code, in the same layout."""
    terms = case.terms()  # before any other step: each writes states into the model, and would cut these gradients off
    total = torch.stack([term.weight * term.value for term in terms.values()]).sum()
    method, expected = case.method, case.expected
    measured: dict[str, Any] = {
        "replay_loss": terms["replay_cross_entropy"].value.item(),
        "logits_distill_loss": terms["logits_distillation"].value.item(),
        "attn_distill_loss": terms["attention_distillation"].value.item(),
        "total_loss": total.item(),
        "grad_projections": {
            name: {
                parameter: projection(gradient)
                for parameter, gradient in case.gradients(terms[term].value).items()
                if parameter in expected["grad_projections"][name]
            }
            for name, term in TERMS.items()
        },
    }
    for key, loss in (("grad_norms_total", total), ("grad_norms_attn_only", terms["attention_distillation"].value)):
        if key in expected:
            gradients = case.gradients(loss)
            measured[key] = {parameter: float(gradients[parameter].norm()) for parameter in expected[key]}
    measured["attn_distill_loss_per_layer"] = {
        layer: case.attention_of_layer(int(layer)) for layer in expected["attn_distill_loss_per_layer"]
    }
    tasks = [
        {
            "sensitivity": method.scores[index].sensitivity.tolist(),
            "forgettability": method.scores[index].forgettability.tolist(),
            "selected_heads": heads_by_layer(method.chosen[index]),
            **importances(case, index),
        }
        for index in range(len(case.tasks))
    ]
    if "tasks" in expected:
        return measured | {"tasks": tasks}
    return measured | tasks[0] | {"teacher_sample_losses": case.teacher_losses}


def importances(case: Case, index: int) -> dict[str, Any]:
    """After task `index`; both ways to accumulate where there are several tasks."""
    scores = case.method.scores
    if "tasks" not in case.expected:
        return {"importance": scores[index].importance.tolist()}
    sensitivities = [one.sensitivity for one in scores[: index + 1]]
    forgettabilities = [one.forgettability for one in scores[: index + 1]]
    product = accumulated_importance(sensitivities, forgettabilities, "product_of_sums")
    return {
        "importance_sum_of_products": scores[index].importance.tolist(),
        "importance_product_of_sums": product.tolist(),
    }


def heads_by_layer(heads: tuple[tuple[int, int], ...]) -> dict[str, list[int]]:
    by_layer: dict[str, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(str(layer), []).append(head)
    return by_layer


def direction_of(gradient: torch.Tensor) -> torch.Tensor:
    """cos(0.7 i + 0.3) along the flat index: what the official gradients were projected on."""
    return torch.cos(0.7 * torch.arange(gradient.numel(), dtype=torch.float64) + 0.3)


@dataclass(frozen=True)
class Projection:
    """A dot product, and the product of the lengths, by which it may have cancelled."""

    value: float
    lengths: float


def projection(gradient: torch.Tensor) -> Projection:
    flat, direction = gradient.double().flatten(), direction_of(gradient)
    return Projection(float(flat @ direction), float(flat.norm() * direction.norm()))


def compare_case(expected: dict[str, Any], measured: dict[str, Any]) -> list[Number]:
    """Every number of `expected.json` beside ours. Raises `UserError` where one has no counterpart."""
    numbers: list[Number] = []

    def walk(quantity: str, where: str, official: Any, ours: Any) -> None:
        if isinstance(official, dict) and isinstance(ours, dict) and official.keys() == ours.keys():
            for key in official:
                walk(quantity, f"{where} {key}", official[key], ours[key])
        elif isinstance(official, list) and isinstance(ours, list) and len(official) == len(ours):
            for index, (one, other) in enumerate(zip(official, ours, strict=True)):
                walk(quantity, f"{where}[{index}]", one, other)
        elif isinstance(ours, Projection):
            allowed = max(RELATIVE * abs(official), FP32_UNIT * ours.lengths)
            numbers.append(Number(quantity, where, official, ours.value, allowed))
        elif isinstance(official, int | float) and isinstance(ours, int | float):
            allowed = 0.0 if quantity == "selected_heads" else RELATIVE * abs(official)
            numbers.append(Number(quantity, where, official, ours, allowed))
        else:  # another layout, or other heads: nothing to subtract
            numbers.append(Number(quantity, where, 0.0, float("inf"), 0.0))

    for key, value in expected.items():
        if key == "tasks":
            for index, (one, other) in enumerate(zip(value, measured["tasks"], strict=True)):
                for quantity in one.keys() - GIVEN:
                    walk(quantity, f"task {index}", _sorted_heads(quantity, one[quantity]), other.get(quantity))
        elif key not in GIVEN:
            walk(key, "", _sorted_heads(key, value), measured.get(key))
    return numbers


def _sorted_heads(quantity: str, value: Any) -> Any:
    """The official lists of heads are in order of importance; a choice is a set."""
    return {layer: sorted(heads) for layer, heads in value.items()} if quantity == "selected_heads" else value


# ---------------------------------------------------------------------- metrics.json

# The official name of a number -> our metric and the factor to our 0..100.
OFFICIAL_METRICS = {
    "accuracy": ("accuracy", 100),
    "rouge-L": ("rouge_l", 100),
    "bleu-1": ("bleu_1", 100),
    "bleu-4": ("bleu_4", 100),
    "similarity": ("fuzz", 1),
    "sari": ("sari", 1),
}


def compare_metrics(path: Path) -> list[Number]:
    """Every official score beside ours, and every extracted answer (1: equal)."""
    content = read_json(path)
    numbers = []
    for case, given in content["scores"].items():
        for name, official in given["expected"].items():
            predictions, references = given["predictions"], given["references"]
            if case == "ScienceQA" and name != "accuracy":  # officially of what follows the letter and a line end
                predictions, references = ([text[2:] for text in texts] for texts in (predictions, references))
            sources = given["sources"] or [""] * len(predictions)
            metric, factor = OFFICIAL_METRICS[name]
            if name == "accuracy" and case in ("C-STANCE", "ScienceQA"):
                metric, _ = trace_scoring(case)
            elif case == "superni-acc":
                metric = "first_word_accuracy"
            rows = zip(sources, predictions, references, strict=True)
            ours = mean_score([METRICS[metric](source, text, [right]) for source, text, right in rows])
            numbers.append(Number(name, case, official * factor, ours, METRIC_POINTS))
    for index, case in enumerate(content["extraction"]):
        _, extraction = trace_scoring(case["task"])
        equal = EXTRACTIONS[extraction](case["raw"]) == case["extracted"]
        numbers.append(Number("extraction", f"{case['task']}[{index}]", 1.0, float(equal), 0.0))
    return numbers


# ---------------------------------------------------------------------- the command


def sources_in(paths: list[Path]) -> Iterator[tuple[str, Callable[[], list[Number]]]]:
    """Each folder or file with official numbers, and what compares it. Raises `UserError` where there is none."""
    for path in paths:
        inside = [path] if path.is_file() or (path / "expected.json").is_file() else sorted(path.glob("*"))
        found = False
        for one in inside:
            if (one / "expected.json").is_file():
                found = True
                yield one.name, lambda folder=one: _compare_folder(folder)  # type: ignore[misc]
            elif one.name == "metrics.json":
                found = True
                yield one.name, lambda file=one: compare_metrics(file)  # type: ignore[misc]
        if not found:
            raise UserError(f"{path}: no expected.json and no metrics.json here")


def _compare_folder(folder: Path) -> list[Number]:
    case = Case(folder)
    return compare_case(case.expected, measure_case(case))


def summarise(source: str, numbers: list[Number]) -> list[Line]:
    lines = []
    for quantity in dict.fromkeys(number.quantity for number in numbers):
        of_quantity = [number for number in numbers if number.quantity == quantity]
        worst = max(of_quantity, key=lambda number: number.relative_error)
        passes = all(number.passes for number in of_quantity)
        rounding = sum(number.passes and number.relative_error > RELATIVE for number in of_quantity)
        lines.append(
            Line(source, quantity, len(of_quantity), worst.relative_error, worst.where.strip(), rounding, passes)
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print the lines as JSON")
    options = parser.parse_args(arguments)
    quiet_libraries()
    try:
        lines = [line for source, compare in sources_in(options.folders) for line in summarise(source, compare())]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        print_lines(lines)
    return 0 if all(line.passes for line in lines) else 1


def print_lines(lines: list[Line]) -> None:
    for line in lines:
        verdict = "ok " if line.passes else "OFF"
        print(
            f"{verdict}  {line.source:18}{line.quantity:30}{line.numbers:>7} numbers, largest relative error "
            f"{line.largest_relative_error:.1e} {line.where}"
        )
    for line in lines:
        if line.within_rounding:
            print(
                f"{line.source}, {line.quantity}: {line.within_rounding} above {RELATIVE:.0e}, where the product "
                "cancels, and within one fp32 unit of its lengths: the official number itself is no nearer."
            )


if __name__ == "__main__":
    sys.exit(main())
