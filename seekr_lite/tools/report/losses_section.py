"""The losses in a report: a chart for each term, over the optimizer steps of all tasks."""

from __future__ import annotations

from markupsafe import Markup

from seekr_lite.common.svg_charts import line_chart, log_ticks, nice_ticks
from seekr_lite.tools.report.step_curves import GRADIENT_NORM, Mean, StepCurves

WIDE = 30.0  # largest by smallest mean from which a logarithmic axis shows more
SMALLEST = 1e-200  # nothing below is drawn on a logarithmic axis
DEEPEST = 1e-6  # share of the largest mean where a logarithmic axis ends


def loss_chart(curves: StepCurves, name: str) -> tuple[str, str, Markup]:
    """Of a loss term or the norm of the gradient: its title, more of its caption, and the chart."""
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
    steps = [tick for tick in nice_ticks(0, curves.total, 3) if tick.is_integer() and tick <= curves.total]
    chart = line_chart(
        label=f"{title}: {known[0].value:.3g} at first, {known[-1].value:.3g} at last",
        line=[None if mean is None else (mean.at, mean.value) for mean in means],
        x_ticks=[(tick, f"{tick:,.0f}") for tick in steps],
        y_ticks=ticks,
        x_range=(0, curves.total),
        band=[None if mean is None else (mean.at, mean.low, mean.high) for mean in means],
        borders=[(before, str(stage + 1)) for stage, before in curves.starts.items()],
        log=log,
    )
    return title, f"{', logarithmic' if log else ''}; last {known[-1].value:.3g}", chart


def _above(mean: Mean | None, low: float, high: float) -> Mean | None:
    """A mean as a logarithmic axis can show it; None where it cannot."""
    if mean is None or mean.value < low:
        return None
    return Mean(mean.at, mean.value, max(mean.low, low), min(mean.high, high))
