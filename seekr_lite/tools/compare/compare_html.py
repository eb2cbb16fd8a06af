"""Several runs in one HTML file: a table, bars with their spread by method, what differs, scoreboards side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.html_page import breakable, contents, page, section, size_of, table, text
from seekr_lite.common.svg_charts import Bar, bar_chart, nice_ticks
from seekr_lite.evaluation.scoreboard import show
from seekr_lite.runs.contents import replay_store
from seekr_lite.tools.compare.figures import is_setting
from seekr_lite.tools.report.run_facts import RunFacts
from seekr_lite.tools.report.scores_section import FIGURES, matrix_table

if TYPE_CHECKING:
    from seekr_lite.runs.folder import RunFolder

SHOWN = ("op", "bwt", "forgetting", "nll")
OUTPUT = "run.output"


def compare_html(runs: Sequence[RunFolder]) -> str:
    """The whole document. Unfinished runs are shown with what they have.

    Raises:
        UserError: there is no run to compare, or one has a record that cannot be read.
    """
    if not runs:
        raise UserError("there is no run to compare")
    named = dict(zip(_names(runs), map(RunFacts.of, runs), strict=True))
    differing = _differing(list(named.values()))
    sections = (
        ("runs", "Runs", _runs(named)),
        ("methods", "Methods", _methods(named, differing)),
        ("differences", "What differs", _differences(named, differing)),
        ("boards", "Scoreboards", _boards(named)),
    )
    title = "One run" if len(runs) == 1 else f"{len(runs)} runs compared"
    header = f"<h1>{title}</h1>{_warning(named)}{contents([(name, heading) for name, heading, _ in sections])}"
    footer = "<p>Made by seekr-lite from the runs' folders. This file needs no network and sends nothing.</p>"
    return page(title, header, "\n".join(section(*one) for one in sections), footer)


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Folder names; whole paths, and numbers, where these would be the same."""
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{index}: {name}" for index, name in enumerate(names, start=1)]
    return names


def _warning(named: Mapping[str, RunFacts]) -> str:
    said = []
    if len({facts.tasks for facts in named.values()}) > 1:
        said.append("These runs do not learn the same tasks in the same order: their figures do not compare.")
    said += [
        f"{name} is not finished: {'; '.join(facts.missing())}." for name, facts in named.items() if facts.missing()
    ]
    said += [problem for facts in named.values() for problem in facts.trouble]
    return "".join(f'<div class="state"><p>{text(line)}</p></div>' for line in said)


def _runs(named: Mapping[str, RunFacts]) -> str:
    head = ["run", "method", "seed", *(FIGURES[name][0] for name in SHOWN)]
    head += ["steps", "learning, s", "replay text", "adapters"]
    rows = [
        [
            breakable(name),
            text(facts.method),
            str(facts.board.seed),
            *(_figure(facts, figure) for figure in SHOWN),
            *_costs(facts),
        ]
        for name, facts in named.items()
    ]
    meanings = " ".join(f"{FIGURES[name][0]}: {FIGURES[name][1]}" for name in SHOWN)
    return table(head, rows, "Figures and costs of each run", "runs") + f'<p class="note">{meanings}</p>'


def _figure(facts: RunFacts, name: str) -> str:
    return show(facts.board.summary()[name], 3 if name == "nll" else 1).replace("-", "−")


def _costs(facts: RunFacts) -> list[str]:
    stages = facts.folder.record.stages
    costs = [f"{sum(one.steps for one in stages):,}", f"{sum(one.seconds for one in stages):,.0f}"]
    try:
        stores = replay_store(facts.folder)
    except UserError:
        return [*costs, "–", "–"]
    return [*costs, size_of(sum(one.text_bytes for one in stores)), size_of(sum(one.adapter_bytes for one in stores))]


def _methods(named: Mapping[str, RunFacts], differing: Mapping[str, list[Any]]) -> str:
    """A bar chart of each figure; runs that differ in nothing but the seed are one bar."""
    groups = _groups(list(named.values()), differing)
    charts = []
    for figure in SHOWN:
        bars = []
        for name, members in groups.items():
            values = [value for facts in members if (value := facts.board.summary()[figure]) is not None]
            if values:
                bars.append(Bar(name, values))
        if not bars:
            charts.append(
                f"<figure><figcaption><b>{FIGURES[figure][0]}</b>: not known of any run</figcaption></figure>"
            )
            continue
        known = [value for bar in bars for value in bar.values]
        spoken = "; ".join(f"{bar.name} {bar.mean:.{_digits(figure)}f}" for bar in bars)
        chart = bar_chart(
            f"{FIGURES[figure][0]}: {spoken}", bars, nice_ticks(min(0, *known), max(0, *known)), _digits(figure)
        )
        charts.append(f"<figure><figcaption><b>{FIGURES[figure][0]}</b></figcaption>{chart}</figure>")
    note = (
        "A bar is the mean over runs that differ in nothing but the seed, a dot is one run, and the line reaches from "
        "the smallest to the largest. That is a spread, not a confidence interval."
    )
    return f'<p class="note">{note}</p><div class="charts">{"".join(charts)}</div>'


def _digits(figure: str) -> int:
    return 3 if figure == "nll" else 1


def _groups(runs: list[RunFacts], differing: Mapping[str, list[Any]]) -> dict[str, list[RunFacts]]:
    """Runs by method, and by the keys in which runs of that method differ; the seed is none of them."""
    groups: dict[str, list[RunFacts]] = {}
    by_method = {
        method: [index for index, facts in enumerate(runs) if facts.method == method]
        for method in dict.fromkeys(facts.method for facts in runs)
    }
    for method, members in by_method.items():
        keys = [
            key
            for key, values in differing.items()
            if is_setting(key) and len({repr(values[index]) for index in members}) > 1
        ]
        for index in members:
            parts = [method, *(f"{key} = {_short(differing[key][index])}" for key in keys)]
            groups.setdefault(", ".join(parts), []).append(runs[index])
    return groups


def _differing(runs: list[RunFacts]) -> dict[str, list[Any]]:
    """Keys of the recipes whose values differ, with the value of each run; not where the run lies."""
    flat = [facts.recipe.by_key() for facts in runs]
    columns = {key: [one.get(key) for one in flat] for key in flat[0] if key != OUTPUT}
    return {key: values for key, values in columns.items() if len(Counter(map(repr, values))) > 1}


def _differences(named: Mapping[str, RunFacts], differing: Mapping[str, list[Any]]) -> str:
    if not differing:
        return '<p class="empty">The recipes of these runs do not differ.</p>'
    rows = [
        [f"<code>{text(key)}</code>", *(text(_short(value)) for value in values)] for key, values in differing.items()
    ]
    return table(["key", *map(breakable, named)], rows, "Keys of the recipes that differ")


def _boards(named: Mapping[str, RunFacts]) -> str:
    boards = "".join(matrix_table(facts, facts.board, text(name)) for name, facts in named.items())
    note = (
        "Scores from 0 to 100; higher is better. A row: after which task; a column: the task that was tested; an "
        "outlined cell: right after it was learned."
    )
    return f'<p class="note">{note}</p><div class="boards">{boards}</div>'


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
