"""The report of a run: one HTML file that needs nothing else and can be read years later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from seekr_lite.common.errors import UserError
from seekr_lite.common.html_page import breakable, contents, page, section, size_of, table, text
from seekr_lite.runs.contents import replay_store
from seekr_lite.tools.report.heads_section import heads_content
from seekr_lite.tools.report.losses_section import losses_content
from seekr_lite.tools.report.predictions_section import predictions_content
from seekr_lite.tools.report.run_facts import RunFacts
from seekr_lite.tools.report.scores_section import curves_content, scores_content, verdict
from seekr_lite.tools.report.step_curves import PHASES

if TYPE_CHECKING:
    from seekr_lite.runs.folder import RunFolder

Content = Callable[[RunFacts], str]


def run_html(folder: RunFolder) -> str:
    """The whole document. Works for unfinished runs too: each section says what it lacks."""
    facts = RunFacts.of(folder)
    parts = [section(name, title, content(facts)) for name, title, content in SECTIONS]
    title = f"{text(facts.name)}: {text(facts.method)}"
    navigation = contents([(name, title) for name, title, _ in SECTIONS])
    return page(title, _header(facts) + navigation, "\n".join(parts), _footer(facts), "run.js")


def _header(facts: RunFacts) -> str:
    recipe, record = facts.recipe, facts.folder.record
    base = f"{recipe.base.model} ({recipe.base.quantization})"
    items = [
        ("method", record.method),
        ("base", base),
        ("adapter", f"rank {recipe.adapter.rank}, {recipe.adapter.growth}"),
        ("tasks", ", ".join(facts.tasks)),
        ("seed", str(record.seed)),
    ]
    if facts.curves.times:
        items.append(("logged", " to ".join(_moment(time) for time in facts.curves.times)))
    facts_list = "".join(f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in items)
    return (
        f'<h1>{text(facts.name)} <small>run report</small></h1>\n<dl class="facts">{facts_list}</dl>\n{_state(facts)}'
    )


def _state(facts: RunFacts) -> str:
    """Finished, or what is missing; files that cannot be read; the result in a sentence."""
    said = [f"<p class='verdict'>{verdict(facts)}</p>"] if verdict(facts) else []
    if not facts.finished:
        missing = "".join(f"<li>{text(line)}</li>" for line in facts.missing())
        said.append(
            f'<div class="state"><p><b>This run is not finished.</b> What is missing:</p><ul>{missing}</ul></div>'
        )
    said += [f'<div class="state"><p>{text(problem)}</p></div>' for problem in facts.trouble]
    return "\n".join(said)


def _costs(facts: RunFacts) -> str:
    stages = facts.folder.record.stages
    if not stages:
        return '<p class="empty">No task has been learned to its end, so no cost is recorded.</p>'
    rows = [
        [
            breakable(", ".join(one.tasks)),
            f"{one.steps:,}",
            f"{one.seconds:,.1f}",
            f"{one.seconds / max(1, one.steps):.2f}",
        ]
        for one in stages
    ]
    steps, seconds = sum(one.steps for one in stages), sum(one.seconds for one in stages)
    rows.append(["all", f"{steps:,}", f"{seconds:,.1f}", f"{seconds / max(1, steps):.2f}"])
    time = table(["task", "steps", "seconds", "seconds a step"], rows, "Learning, by task", "sums")
    shrunk = facts.curves.shrunk
    short = f" Memory ran out {shrunk} times; micro-batches were made smaller." if shrunk else ""
    note = (
        "Seconds are without loading the base. Peak memory is what the GPU's allocator held at most, or without a GPU "
        f"the whole process; <code>seekr-lite plan</code> says what a recipe needs.{short}"
    )
    return f'<div class="tables">{time}{_phases(facts)}{_store(facts)}</div><p class="note">{note}</p>'


def _phases(facts: RunFacts) -> str:
    rows = [
        [
            PHASES[one.phase],
            f"{one.times:,}",
            f"{one.seconds:,.1f}",
            "–" if one.peak_bytes is None else size_of(one.peak_bytes),
        ]
        for one in facts.phases
    ]
    return table(["phase", "times", "seconds", "peak memory"], rows, "Time and memory, by phase") if rows else ""


def _store(facts: RunFacts) -> str:
    try:
        stores = replay_store(facts.folder)
    except UserError as error:
        return f'<p class="empty">{text(error)}</p>'
    rows = [
        [breakable(one.task), f"{one.samples:,}", size_of(one.text_bytes), size_of(one.adapter_bytes)] for one in stores
    ]
    sums = (sum(one.text_bytes for one in stores), sum(one.adapter_bytes for one in stores))
    rows.append(["all", f"{sum(one.samples for one in stores):,}", *map(size_of, sums)])
    return table(["task", "replay samples", "their text", "adapter"], rows, "What is kept on disk, by task", "sums")


def _recipe(facts: RunFacts) -> str:
    recipe = text(facts.folder.record.recipe)
    return f'<details open><summary>Every key, as it was run</summary><pre tabindex="0">{recipe}</pre></details>'


def _versions(facts: RunFacts) -> str:
    rows = [[text(package), text(version)] for package, version in facts.folder.record.versions.items()]
    return table(["package", "version"], rows, "Versions when the run began")


def _footer(facts: RunFacts) -> str:
    return (
        "<p>Made by seekr-lite from the run's folder. This file needs no network and sends nothing. "
        "SEEKR: He et al., EMNLP 2024, arXiv 2411.06171.</p>"
    )


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


SECTIONS: tuple[tuple[str, str, Content], ...] = (
    ("scores", "Scores", scores_content),
    ("curves", "Forgetting, task by task", curves_content),
    ("losses", "Losses", losses_content),
    ("heads", "Attention heads", heads_content),
    ("costs", "Time and memory", _costs),
    ("predictions", "Predictions", predictions_content),
    ("recipe", "Recipe", _recipe),
    ("versions", "Versions", _versions),
)
