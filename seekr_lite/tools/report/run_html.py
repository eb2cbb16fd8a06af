"""The report of a run: one HTML file that needs nothing else and can be read years later.

A section is a template, `NAME_section.html.j2`; where more than the facts is shown, `NAME_section.py` finds it out.
"""

from __future__ import annotations

from datetime import UTC, datetime

from seekr_lite.common.html_page import render
from seekr_lite.runs.folder import RunFolder
from seekr_lite.tools.report.costs_section import cost_tables
from seekr_lite.tools.report.curves_section import score_curve
from seekr_lite.tools.report.heads_section import heads_or_why_not
from seekr_lite.tools.report.losses_section import loss_chart
from seekr_lite.tools.report.predictions_section import predictions
from seekr_lite.tools.report.run_facts import RunFacts
from seekr_lite.tools.report.scores_section import figures, nll_rows, verdict

SECTIONS = (
    ("scores", "Scores"),
    ("curves", "Forgetting, task by task"),
    ("losses", "Losses"),
    ("heads", "Attention heads"),
    ("costs", "Time and memory"),
    ("predictions", "Predictions"),
    ("recipe", "Recipe"),
    ("versions", "Versions"),
)


def run_html(folder: RunFolder) -> str:
    """The whole document. Works for unfinished runs too: each section says what it lacks."""
    facts = RunFacts.of(folder)
    return render(
        "tools/report/run.html.j2",
        folder="tools/report",
        sections=SECTIONS,
        facts=facts,
        names=facts.round_names,
        header=_header(facts),
        verdict=verdict(facts),
        figures=figures(facts),
        nll_rows=nll_rows(facts),
        curves=[score_curve(facts, task, name) for task, name in enumerate(facts.tasks)],
        losses=[loss_chart(facts.curves, name) for name in facts.curves.names],
        costs=cost_tables(facts),
        predictions=predictions(facts),
        **heads_or_why_not(facts),
    )


def _header(facts: RunFacts) -> list[tuple[str, str]]:
    recipe = facts.recipe
    items = [
        ("method", facts.method),
        ("base", f"{recipe.base.model} ({recipe.base.quantization})"),
        ("adapter", f"rank {recipe.adapter.rank}, {recipe.adapter.growth}"),
        ("tasks", ", ".join(facts.tasks)),
        ("seed", str(facts.folder.record.seed)),
    ]
    if facts.curves.times:
        moments = (datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC") for time in facts.curves.times)
        items.append(("logged", " to ".join(moments)))
    return items
