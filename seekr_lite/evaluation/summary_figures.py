"""The figures that sum up a scoreboard: what each is called, how it is written, what it says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure that sums up a scoreboard: what it is called, its digits after the point, what it says."""

    title: str
    digits: int
    meaning: str


FIGURES = {
    "op": Figure("OP", 1, "Overall performance: the mean of the last row. Higher is better."),
    "bwt": Figure(
        "BWT",
        1,
        "Backward transfer: how much a score has changed since its task was learned; the mean over all tasks but the "
        "last. Below zero: forgetting.",
    ),
    "bwt_official": Figure("BWT, official", 1, "The same sum divided by all tasks, as the official script prints it."),
    "forgetting": Figure(
        "Forgetting",
        1,
        "The best score before the end less the last one; the mean over all tasks but the last. Above zero: "
        "forgetting.",
    ),
    "fwt": Figure(
        "FWT", 1, "Forward transfer: the score just before a task is learned, less the bare base's; the mean."
    ),
    "nll": Figure(
        "NLL", 3, "Negative log-likelihood per answer token on held-out rows, after the last task. Lower is better."
    ),
    "nll_forgetting": Figure(
        "NLL change", 3, "How much the NLL has changed since each task was learned. Above zero: forgetting."
    ),
}
