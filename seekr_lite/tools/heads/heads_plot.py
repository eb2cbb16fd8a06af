"""The heads of a task as a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seekr_lite.common.packages import load_extra

if TYPE_CHECKING:
    from seekr_lite.tools.heads.scores import TaskHeads

INCHES_PER_CELL = 0.26


def heads_figure(task: TaskHeads, measure: str | None = None) -> Any:
    """A heatmap of layers x heads; chosen heads have a red frame. Colours go by the square root of the value.

    Raises:
        UserError: matplotlib is not installed, or the task has no such measure.
    """
    name, values = task.measure(measure)
    pyplot = load_extra("matplotlib.pyplot", "plot")
    colors, patches, ticker = (load_extra(f"matplotlib.{part}", "plot") for part in ("colors", "patches", "ticker"))
    layers, heads = values.shape
    size = (max(4.4, 2.2 + INCHES_PER_CELL * heads), max(3.4, 1.3 + INCHES_PER_CELL * layers))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    pyplot.close(figure)  # the caller shows it; left open, a notebook would draw it twice
    scale = colors.PowerNorm(0.5, vmin=0.0, vmax=max(float(values.max()), 1e-30))
    image = axes.imshow(values.numpy(), cmap="cividis", norm=scale, aspect="equal", interpolation="nearest")
    for layer, head in task.chosen:
        frame = patches.Rectangle(
            (head - 0.43, layer - 0.43), 0.86, 0.86, fill=False, edgecolor="#e03131", linewidth=1.6
        )
        axes.add_patch(frame)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title(f"{name} after {task.task}\n{len(task.chosen)} of {layers * heads} heads chosen", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 4, 5, 10]))
    figure.colorbar(image, ax=axes, label=name, aspect=30)
    return figure
