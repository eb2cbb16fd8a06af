"""`docs/results.md`, its charts and the README's part, from the studies and their raw results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import fmean, median, mode

from benchmarks.study_charts import curves_chart
from benchmarks.study_claims import LEVEL, MEASURES, NEEDED_PAIRS, OPEN, Gain, Judged, figures, gain_of, judge, overall
from benchmarks.study_grid import Claim, Comparison, Study, all_studies, study_variants
from benchmarks.study_results import TRIED, Result, read_results
from seekr_lite.common.files import read_json, write_text
from seekr_lite.tools.compare.figures import Spread

LEFT_OUT = {"tiny"}  # shows that studies work, and is no evidence
INTRODUCTION = f"""# Results

This page is made from the raw results in `benchmarks/results/` by

    python benchmarks/study.py --page

and no figure on it is written by hand. The commands below need `python scripts/get_smollm2.py` once, and
`--set data.path=FOLDER` unless the data lies where the study's file says.

A study is a file in `benchmarks/studies/`: what is compared with what was written there before the runs were made;
where that is not so, it says so. Each run leaves one raw result, which has its settings, seed, versions and device.

- **OP**: mean score of all tasks after the last, 0 to 100. **BWT**: how scores changed since their task was learned.
- **NLL**: mean negative log-likelihood per answer token (nats) on {{rows}} held-out rows a task, after the last task;
  lower is better, and it is far less noisy than a score of small models. **NLL since learned**: how much it rose.
- **rise of general NLL**: NLL per token of 12 news texts (inputs of SuperNI's task1290, XSum, which no study learns)
  after the last task, minus that of the bare base; lower is better.
- **learning, s**: median of the seconds of learning on the device that most runs of a study had, with other runs beside
  it: a rough figure.
- **steps**: optimizer steps of a run, those of old rows alone with them.
- **gap**: the share of the way from `sequential` (0%) to `joint` (100%) that a method recovers, on the same seeds.
- Figures are mean ± standard deviation over the runs (seeds x orders). Data and splits are the same in all of them: the
  spread is that of training. A claim needs {NEEDED_PAIRS} pairs of runs with the same seed, order and kind of device.
  *Gain* is how much better the first is, with a paired bootstrap interval of {LEVEL:.0%}, expanded for few pairs.
  *Better* holds where the interval lies above zero, and does not hold where it lies below; *level* means: not worse by
  more than {{margins}}.
"""
TRIED_TEXT = """Settings of SEEKR, and changes that the product does not have; NLL of validation rows after the last of
three tasks, mean of the tasks; a second figure is that of a second seed. The settings of `seekr` were
chosen on the first sequence, whose tasks no study here learns but the one that chooses options, and tried on the
second, whose three are among the eight of TRACE. Rows that are made up (framed, written) were better still on the first
sequence, and on a level with 64 more real rows; the product does not have them: one seed, and nothing known of long
answers.
"""
GAPS = ("nll", "op")
COLUMNS = ("op", "bwt", "nll", "nll_forgetting", "general")
README_START, README_END = "<!-- made by `python benchmarks/study.py --page` -->\n", "<!-- made up to here -->\n"
README_STUDY = "superni-4"
README_METHODS = ("sequential", "ewc", "replay", "derpp", "seekr", "seekr-nf4", "replay-tenth", "isolated", "joint")
README_COLUMNS = ("op", "bwt", "nll")


def write_page(project: Path, results: Path) -> None:
    """Writes `docs/results.md`, `docs/images/*.svg` and the table of `README.md` of a project's folder.

    Raises `UserError` where a raw result is damaged.
    """
    page, images = build_page(results)
    docs, readme = project / "docs", project / "README.md"
    write_text(docs / "results.md", page)
    for name, svg in images.items():
        (docs / "images").mkdir(exist_ok=True)
        write_text(docs / "images" / name, svg)
    write_text(readme, readme_with_results(readme.read_text(encoding="utf-8"), results))


def readme_with_results(readme: str, results: Path) -> str:
    """The README with its table anew: the main methods in one study. Everything else is on the page of results."""
    before, rest = readme.split(README_START)
    _, after = rest.split(README_END)
    study = next(one for one in all_studies() if one.name == README_STUDY)
    title = (
        f"{study.title} in bf16 (`-nf4`: in 4 bits; `-tenth`: 20 old rows); mean ± standard deviation over seeds:\n\n"
    )
    runs = _of_common_orders(study, read_results(results / study.name), README_METHODS)
    table = _table(study, runs, title, README_METHODS, README_COLUMNS, brief=True)
    return "".join([before, README_START, "\n", table, "\n", README_END, after])


def _with_results(results: Path, studies: Sequence[Study] | None = None) -> list[tuple[Study, list[Result]]]:
    """The studies (by default those that are evidence) of which there are raw results, with these."""
    judging_first = sorted(all_studies(), key=lambda study: not study.claims)
    chosen = studies if studies is not None else [one for one in judging_first if one.name not in LEFT_OUT]
    found = [(study, read_results(results / study.name)) for study in chosen]
    return [(study, runs) for study, runs in found if runs]


def build_page(results: Path, studies: Sequence[Study] | None = None) -> tuple[str, dict[str, str]]:
    """The page, and its charts by file name."""
    found = _with_results(results, studies)
    rows = sorted({run.settings["data.validation_rows"] for _, runs in found for run in runs})
    margins = ", ".join(f"{kind.margin:g} ({kind.label})" for kind in MEASURES.values())
    parts = [INTRODUCTION.format(rows=" or ".join(map(str, rows)) or "the", margins=margins)]
    images: dict[str, str] = {}
    judged = {
        (study.name, letter): judge(claim, runs) for study, runs in found for letter, claim in study.claims.items()
    }
    parts.append(_in_short([study for study, _ in found], judged) if found else "There are no raw results yet.\n")
    for study, runs in found:
        charts = _charts(study, runs)
        images |= {f"results-{study.name}-{kind}.svg": svg for kind, (_, svg) in charts.items()}
        parts += [_head(study, runs), *_tables(study, runs)]
        parts += [f"![{title}](images/results-{study.name}-{kind}.svg)\n" for kind, (title, _) in charts.items()]
        parts += [_claim(study, letter, claim, judged[study.name, letter]) for letter, claim in study.claims.items()]
    parts.append(_tried(results / TRIED))
    return "\n".join(part for part in parts if part), images


def _in_short(studies: Sequence[Study], judged: Mapping[tuple[str, str], Sequence[Judged]]) -> str:
    """The verdict of every claim, study by study."""
    lines = ["## In short\n", "| study | claim | verdict |", "|---|---|---|"]
    for study in studies:
        for letter, claim in study.claims.items():
            verdicts = _verdicts(claim, judged[study.name, letter])
            lines.append(f"| {study.title} | {letter}: {claim.text} | {verdicts} |")
    return "\n".join([*lines, ""])


def _tried(folder: Path) -> str:
    """What was tried to make SEEKR better (`benchmarks/tried.py`): a line for each trial, best first by its
    first seed."""
    found = [read_json(path) for path in sorted(folder.glob("*.json"))]
    if not found:
        return ""
    sequences = sorted({one["sequence"] for one in found})
    means: dict[tuple[str, str], list[float]] = {}  # of each seed
    for one in sorted(found, key=lambda one: int(one["seed"])):
        means.setdefault((one["name"], one["sequence"]), []).append(fmean(one["nll"]))
    what = {one["name"]: one["what"] for one in found}
    best_first = sorted(what, key=lambda name: [means.get((name, one), [inf])[0] for one in sequences])
    heads = [f"{one}: {', '.join(next(t['tasks'] for t in found if t['sequence'] == one))}" for one in sequences]
    devices = _devices([(one["name"], one["device"]) for one in found])
    lines = ["## What was tried\n", f"{TRIED_TEXT}Device: {devices}.\n"]
    lines += [f"| | what | {' | '.join(heads)} |", f"|---|---|{'---|' * len(sequences)}"]
    digits = MEASURES["nll"].digits
    for name in best_first:
        cells = [", ".join(f"{value:.{digits}f}" for value in means.get((name, one), [])) or "–" for one in sequences]
        lines.append(f"| `{name}` | {what[name]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "\n    python benchmarks/tried.py seekr --seed 100\n"])


# ---------------------------------------------------------------------- a study


def _head(study: Study, runs: Sequence[Result]) -> str:
    settings = runs[0].settings
    orders = study.orders or {"": tuple(settings["data.tasks"])}
    lines = [f"## {study.title}\n"]
    lines += [f"Tasks{' in order ' + name if name else ''}: {', '.join(tasks)}." for name, tasks in orders.items()]
    packages = sorted({f"{name} {run.versions[name]}" for run in runs for name in ("torch", "transformers", "peft")})
    rows, tests = (settings[f"data.{split}_limit"] or "all" for split in ("train", "test"))
    devices = _devices([(run.variant, run.device) for run in runs])
    kind = mode(_kind_of_base(run) for run in runs)
    lines.append(
        f"Base {runs[0].base}, {kind} where nothing else is said; {rows} training and {tests} test rows a task, "
        f"{_epochs(settings)} epochs, LoRA rank {settings['adapter.rank']}, learning rate "
        f"{settings['train.learning_rate']:g}. Device: {devices}; {', '.join(packages)}. The study: "
        f"`benchmarks/studies/{study.name}.toml`."
    )
    lines.append(f"\n    python benchmarks/study.py {study.name}\n")
    lines += [study.notes + "\n"] if study.notes else []
    return "\n".join([*lines, *_endings(study, runs)])


def _kind_of_base(run: Result) -> str:
    quantization = run.settings["base.quantization"]
    return str(run.settings["base.dtype"] if quantization == "none" else quantization)


def _devices(ran: Sequence[tuple[str, str]]) -> str:
    """Of (name, device) of each run: the device of most, and which ran on another."""
    usual, counts = mode(device for _, device in ran), Counter(ran)
    of_name = Counter(name for name, _ in ran)
    elsewhere: dict[str, list[str]] = {}
    for (name, device), count in sorted(counts.items()):
        if device != usual:
            share = "" if count == of_name[name] else f" ({count} of {of_name[name]})"
            elsewhere.setdefault(device, []).append(f"`{name}`{share}")
    return "; ".join([usual, *(f"{', '.join(names)} on {device}" for device, names in sorted(elsewhere.items()))])


def _endings(study: Study, runs: Sequence[Result]) -> list[str]:
    """What the endings of variants mean, of those that have been run."""
    variants = {run.variant for run in runs}
    found = {
        ending: text for ending, text in study.endings.items() if any(name.endswith(f"-{ending}") for name in variants)
    }
    return [*(f"- `-{ending}`: {text}" for ending, text in found.items()), ""] if found else []


def _epochs(settings: dict[str, object]) -> str:
    epochs = settings["train.epochs"]
    return ", ".join(map(str, epochs)) if isinstance(epochs, list) else str(epochs)


def _tables(study: Study, runs: Sequence[Result]) -> list[str]:
    """A table over all runs; where there are several orders, one for each of them, and one of what has them all."""
    if len(study.order_names) == 1:
        return [_table(study, runs, "")]
    by_order = {name: [run for run in runs if run.order == name] for name in study.order_names}
    tables = [_table(study, found, f"Order {name}:\n\n") for name, found in by_order.items() if found]
    in_all = _in_all_orders(study, runs, study_variants(study))
    return [*tables, _table(study, runs, "All orders together:\n\n", in_all)] if in_all else tables


def _orders_of(variant: str, runs: Sequence[Result]) -> set[str]:
    return {run.order for run in runs if run.variant == variant}


def _in_all_orders(study: Study, runs: Sequence[Result], variants: Iterable[str]) -> list[str]:
    return [name for name in variants if _orders_of(name, runs) == set(study.order_names)]


def _of_common_orders(study: Study, runs: Sequence[Result], variants: Sequence[str]) -> list[Result]:
    """The runs in orders that all of these variants have, as far as there are any runs of them."""
    found = [orders for name in variants if (orders := _orders_of(name, runs))]
    common = set(study.order_names).intersection(*found)
    return [run for run in runs if run.order in common]


def _table(
    study: Study,
    runs: Sequence[Result],
    title: str,
    variants: Sequence[str] | None = None,
    columns: Sequence[str] = COLUMNS,
    brief: bool = False,
) -> str:
    """variants: those that are shown, by default all of the study. brief: without steps, and the time they took."""
    shown = [name for name in columns if any(run.figure(name) is not None for run in runs)]
    gaps = [f"gap ({MEASURES[name].label})" for name in GAPS]
    head = ["method", "runs", "old rows", *(MEASURES[name].label for name in shown), *gaps]
    head += [] if brief else ["steps", "learning, s"]
    usual_device = mode(run.device for run in runs)
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for variant in variants or study_variants(study):
        own = [run for run in runs if run.variant == variant]
        if own:
            cells = [_spread([run.figure(name) for run in own], MEASURES[name].digits) for name in shown]
            cells += [_gap(own, runs, name) for name in GAPS]
            seconds = [run.learning_seconds for run in own if run.device == usual_device]
            cells += [] if brief else [f"{median(run.steps for run in own):.0f}"]
            cells += [] if brief else [f"{median(seconds):.0f}" if seconds else "–"]
            rows = f"{own[0].kept_rows / len(own[0].scores.tasks):g}" if own[0].kept_rows else "–"
            lines.append(f"| `{variant}` | {len(own)} | {rows} | {' | '.join(cells)} |")
    return title + "\n".join(lines) + "\n"


def _spread(values: Sequence[float | None], digits: int) -> str:
    spread = Spread.of(values)
    if spread is None:
        return "–"
    deviation = "" if spread.std is None else f" ± {spread.std:.{digits}f}"
    return f"{spread.mean:.{digits}f}{deviation}".replace("-", "−")


def _gap(own: Sequence[Result], runs: Sequence[Result], measure: str) -> str:
    """The mean share of the gap between sequential and joint, over the pairs that all three have."""
    by_variant = {
        name: figures({(run.order, run.seed): run for run in runs if run.variant == name}, measure)
        for name in ("sequential", "joint")
    }
    mine, low, high = figures({(run.order, run.seed): run for run in own}, measure), *by_variant.values()
    both = low.keys() & high.keys() & mine.keys()
    low, high, mine = ({pair: of[pair] for pair in both} for of in (low, high, mine))
    room = gain_of(high, low, measure).mean
    if room is None or room <= 0:
        return "–"
    share = (gain_of(mine, low, measure).mean or 0.0) / room
    return f"{100 * share:.0f}%".replace("-", "−")


# ---------------------------------------------------------------------- curves


def _charts(study: Study, runs: Sequence[Result]) -> dict[str, tuple[str, str]]:
    """kind -> (title, SVG): how well each task is learned, how much of it is lost, and what is left at the end."""
    order = study.order_names[0]
    by_variant = {
        name: own for name in study.curves if (own := [r for r in runs if r.variant == name and r.order == order])
    }
    if not by_variant:
        return {}
    tasks = next(iter(by_variant.values()))[0].scores.tasks
    titles = {
        "learning": "NLL of each task right after it was learned",
        "forgetting": "How much the NLL of each task has risen at the end",
        "end": "NLL of each task at the end",
    }
    charts = {}
    for kind, title in titles.items():
        curves = {name: _curve(own, kind, len(tasks)) for name, own in by_variant.items()}
        curves = {name: curve for name, curve in curves.items() if any(value is not None for value in curve)}
        if curves:
            whole = f"{title} (mean over seeds; tasks in order)"
            charts[kind] = (f"{study.title}: {whole}", curves_chart(whole, tasks, curves))
    return charts


def _curve(runs: Sequence[Result], kind: str, tasks: int) -> list[float | None]:
    places = range(tasks - 1) if kind == "forgetting" else range(tasks)
    return [_mean([_point(run, kind, task) for run in runs]) for task in places]


def _point(run: Result, kind: str, task: int) -> float | None:
    matrix = run.scores.nll_matrix
    last, own = (matrix[-1][task], matrix[task][task]) if matrix else (None, None)
    if kind == "end":
        return last
    if run.scores.method == "joint":
        return None  # it has no "right after"
    return own if kind == "learning" else None if last is None or own is None else last - own


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


# ---------------------------------------------------------------------- claims


def _claim(study: Study, letter: str, claim: Claim, judged: Sequence[Judged]) -> str:
    paragraphs = [f"### Claim {letter}: {claim.text}", f"{_verdicts(claim, judged)}."]
    if measured := [_judged(one) for one in judged if one.gain.pairs]:
        head = ["| | measure | pairs | gain | interval | |", "|---|---|---|---|---|---|"]
        paragraphs.append("\n".join([*head, *measured]))
    if missing := dict.fromkeys(_names(one.comparison) for one in judged if not one.gain.pairs):
        paragraphs.append(f"Not measured yet: {', '.join(missing)}.")
    variants = dict.fromkeys(name for one in claim.comparisons for name in (one.first, one.than))
    paragraphs.append(f"    python benchmarks/study.py {study.name} --only {','.join(variants)}")
    return "\n\n".join(paragraphs) + "\n"


def _verdicts(claim: Claim, judged: Sequence[Judged]) -> str:
    measures: dict[str, list[str]] = {}
    for name in claim.measures:
        verdict = _overall([one for one in judged if one.measure == name])
        measures.setdefault(verdict, []).append(MEASURES[name].label)
    verdicts = "; ".join(f"by {', '.join(labels)}: {verdict}" for verdict, labels in measures.items())
    return verdicts[0].upper() + verdicts[1:]


def _overall(judged: Sequence[Judged]) -> str:
    pairs = [one.gain.pairs for one in judged]
    if (verdict := overall(judged)) == OPEN and min(pairs) < NEEDED_PAIRS:
        return f"**{OPEN}** ({min(pairs)} of {NEEDED_PAIRS} pairs)" if any(pairs) else "not measured yet"
    return f"**{verdict}**"


def _names(comparison: Comparison) -> str:
    relation = "better than" if comparison.better else "level with"
    return f"`{comparison.first}` {relation} `{comparison.than}`"


def _judged(one: Judged) -> str:
    mean, interval = _gain(one.gain, MEASURES[one.measure].digits)
    label, pairs = MEASURES[one.measure].label, one.gain.pairs
    return f"| {_names(one.comparison)} | {label} | {pairs} | {mean} | {interval} | {one.verdict} |"


def _gain(gain: Gain, digits: int) -> tuple[str, str]:
    if gain.mean is None:
        return "–", "–"
    mean, interval = f"{gain.mean:+.{digits}f}", f"{gain.low:+.{digits}f} to {gain.high:+.{digits}f}"
    return mean.replace("-", "−"), interval.replace("-", "−")
