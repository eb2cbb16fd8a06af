"""The losses in a report: a chart for each term, over the optimizer steps of all tasks."""

from __future__ import annotations

from seekr_lite.common.html_page import text
from seekr_lite.common.svg_charts import Lines, line_chart, log_ticks, nice_ticks
from seekr_lite.tools.report.run_facts import RunFacts
from seekr_lite.tools.report.step_curves import GRADIENT_NORM, Mean, StepCurves

WIDE = 30.0  # largest by smallest mean from which a logarithmic axis shows more
SMALLEST = 1e-200  # nothing below is drawn on a logarithmic axis
DEEPEST = 1e-6  # share of the largest mean where a logarithmic axis ends


def losses_content(facts: RunFacts) -> str:
    """The charts; or one sentence where nothing is logged."""
    curves = facts.curves
    if not curves.steps:
        return '<p class="empty">No optimizer step is logged (log.jsonl).</p>'
    smoothing = (
        "every step is shown, not smoothed"
        if curves.window == 1
        else f"a point is the mean of {curves.window} consecutive steps of one task, the band their range"
    )
    note = (
        f"Values as computed, before the recipe's weights, over {curves.total:,} optimizer steps; {smoothing}. "
        "Upright lines: a new task begins (its number above). On a logarithmic axis, values at zero or far below the "
        "rest are not drawn."
    )
    if curves.bad:
        note += f" {curves.bad} steps were left out of learning, as their loss or gradient was not finite."
    if curves.unreadable:
        note += f" {curves.unreadable} damaged lines of the log are left out."
    charts = "".join(_chart(curves, name) for name in curves.names)
    return f'<p class="note">{note}</p><div class="charts">{charts}</div>'


def _chart(curves: StepCurves, name: str) -> str:
    means = curves.smoothed(name)
    known = [mean for mean in means if mean is not None]
    largest = max(mean.value for mean in known)
    positive = [mean.value for mean in known if mean.value > max(DEEPEST * largest, SMALLEST)]
    log = 2 * len(positive) > len(known) and largest > WIDE * min(positive)
    if log:
        ticks = log_ticks(min(positive), largest)
        means = [_above(mean, ticks[0], ticks[-1]) for mean in means]
    else:
        ticks = nice_ticks(min(0.0, *(mean.low for mean in known)), max(mean.high for mean in known))
    title = "gradient norm, before clipping" if name == GRADIENT_NORM else name.replace("_", " ")
    chart = Lines(
        label=f"{title}: {known[0].value:.3g} at first, {known[-1].value:.3g} at last",
        lines=[[None if mean is None else (mean.at, mean.value) for mean in means]],
        x_ticks=[(tick, f"{tick:,.0f}") for tick in nice_ticks(0, curves.total, 3) if _is_step(tick, curves)],
        y_ticks=ticks,
        x_range=(0, curves.total),
        band=[None if mean is None else (mean.at, mean.low, mean.high) for mean in means],
        borders=[(before, str(stage + 1)) for stage, before in curves.starts.items()],
        log=log,
    )
    axis = ", logarithmic" if log else ""
    caption = f"<b>{text(title)}</b>{axis}; last {known[-1].value:.3g}"
    return f"<figure><figcaption>{caption}</figcaption>{line_chart(chart)}</figure>"


def _is_step(tick: float, curves: StepCurves) -> bool:
    return tick.is_integer() and tick <= curves.total


def _above(mean: Mean | None, low: float, high: float) -> Mean | None:
    """A mean as a logarithmic axis can show it; None where it cannot."""
    if mean is None or mean.value < low:
        return None
    return Mean(mean.at, mean.value, max(mean.low, low), min(mean.high, high))
