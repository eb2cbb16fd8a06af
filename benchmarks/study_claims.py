"""Whether a claim of a study holds: paired differences over seeds and orders, a bootstrap interval of their mean."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import fsum, sqrt
from statistics import NormalDist

from benchmarks.study_grid import Claim, Comparison
from benchmarks.study_results import Result

RESAMPLES = 10_000
LEVEL = 0.95
NEEDED_PAIRS = 5
# Quantiles of Student's t for a two-sided interval of 95% with 1, 2, ... degrees of freedom.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131)
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class MeasureKind:
    """A measure in print: what it is called, whether more is better, and what difference counts as level."""

    label: str
    higher_is_better: bool
    digits: int
    margin: float


MEASURES = {
    "op": MeasureKind("OP", True, 1, 2.0),
    "bwt": MeasureKind("BWT", True, 1, 2.0),
    "nll": MeasureKind("NLL", False, 3, 0.02),
    "nll_forgetting": MeasureKind("NLL since learned", False, 3, 0.02),
    "general": MeasureKind("rise of general NLL", False, 3, 0.02),
}

Pair = tuple[str, int]  # (order, seed)


@dataclass(frozen=True)
class Gain:
    """How much better the first of two variants is in a measure, whichever sign better has: the mean over pairs, and
    a bootstrap interval of that mean. None where there is no pair."""

    pairs: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Judged:
    """A comparison of a claim in one measure."""

    comparison: Comparison
    measure: str
    gain: Gain
    verdict: str


def judge(claim: Claim, results: Iterable[Result]) -> list[Judged]:
    """Every comparison of a claim in every measure of it."""
    by_variant: dict[str, dict[Pair, Result]] = {}
    for result in results:
        by_variant.setdefault(result.variant, {})[(result.order, result.seed)] = result
    found = []
    for measure in claim.measures:
        for comparison in claim.comparisons:
            first, second = of_one_device(by_variant.get(comparison.first, {}), by_variant.get(comparison.than, {}))
            gain = gain_of(figures(first, measure), figures(second, measure), measure)
            found.append(Judged(comparison, measure, gain, verdict(comparison, measure, gain)))
    return found


def of_one_device(first: Mapping[Pair, Result], second: Mapping[Pair, Result]) -> tuple[dict[Pair, Result], ...]:
    """The pairs that both have, from one kind of device: another one rounds otherwise, and so takes another way."""
    pairs = [pair for pair in first.keys() & second.keys() if first[pair].device == second[pair].device]
    return {pair: first[pair] for pair in pairs}, {pair: second[pair] for pair in pairs}


def figures(results: Mapping[Pair, Result], measure: str) -> dict[Pair, float]:
    """The known values of a measure, by pair."""
    return {pair: value for pair, result in results.items() if (value := result.figure(measure)) is not None}


def gain_of(first: Mapping[Pair, float], second: Mapping[Pair, float], measure: str) -> Gain:
    """The gain of the first over the second, over the orders and seeds that both have."""
    sign = 1.0 if MEASURES[measure].higher_is_better else -1.0
    differences = [sign * (first[pair] - second[pair]) for pair in sorted(first.keys() & second.keys())]
    if not differences:
        return Gain(0, None, None, None)
    low, high = bootstrap_interval(differences)
    return Gain(len(differences), fsum(differences) / len(differences), low, high)


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The expanded percentile bootstrap interval of the mean: the same for the same values, every time.

    The percentiles are those that make it as wide as Student's interval where values are normal (Hesterberg 2015,
    "What Teachers Should Know About the Bootstrap", arXiv 1411.5279): plain ones are too narrow for few values. Of
    five, it has nine tenths of Student's width, and the plain one not quite two thirds.
    """
    return _resampled_interval(tuple(values))


@cache  # the same comparison stands in several claims
def _resampled_interval(values: tuple[float, ...]) -> tuple[float, float]:
    generator, count = random.Random(0), len(values)
    means = sorted(fsum(generator.choices(values, k=count)) / count for _ in range(RESAMPLES))
    tail = round(RESAMPLES * tail_of(count))
    return means[tail], means[-1 - tail]


def tail_of(count: int) -> float:
    """The share of resampled means that lies outside of the interval, at each side."""
    if count < 2:
        return 0.0
    normal = NormalDist()
    quantile = T_QUANTILES[count - 2] if count - 2 < len(T_QUANTILES) else normal.inv_cdf((1 + LEVEL) / 2)
    return normal.cdf(-sqrt(count / (count - 1)) * quantile)


def verdict(comparison: Comparison, measure: str, gain: Gain) -> str:
    """holds or does not hold, where the whole interval says so and there are enough pairs; else undecided."""
    bound = 0.0 if comparison.better else -MEASURES[measure].margin
    if gain.low is None or gain.high is None or gain.pairs < NEEDED_PAIRS:
        return OPEN
    return HOLDS if gain.low > bound else FAILS if gain.high < bound else OPEN


def overall(judged: Iterable[Judged]) -> str:
    """Of several comparisons: holds if all do; does not hold if one does not."""
    verdicts = {one.verdict for one in judged}
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts or not verdicts else HOLDS
