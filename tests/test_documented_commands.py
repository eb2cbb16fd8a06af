"""The commands of README and docs: each is run, or, where it cannot be, parsed.

Every page is a journey: its blocks are run from top to bottom in a folder like a checkout, so a run that is named was
made by an earlier command of the page. The slow test does this literally, in a shell. The quick one does it in this
process, with few rows, and without what is `LONG`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_lines import PAGES, ROOT, Block, blocks, parse, programs, shell_lines
from typer.testing import CliRunner

from seekr_lite.cli.app import app
from seekr_lite.methods import registry
from seekr_lite.recipe.recipe import Recipe

INSTALLS = {"git", "cd", "python3", ".", "pip", "pytest"}  # of set-up lines; test_first_screen.py runs the README's
HUB = "downloads a model from the hub"
DATA = "needs data that is not part of this project"
GPU = "needs a GPU"
NOT_RUN = {  # command -> why it is parsed only
    "seekr-lite evaluate runs/mine --lm-eval arc_easy --limit 100": HUB,
    "seekr-lite run recipes/quickstart.toml --set base.device=cuda --output runs/gpu": GPU,
    "accelerate launch --multi_gpu --num_processes 2 -m seekr_lite run mine.toml": GPU,
    "python benchmarks/cards.py recipes/trace-llama2-7b.toml --set data.path=TRACE/LLM-CL-Benchmark_Reasoning": DATA,
    'exec sh -c "exec $(sed -n "${SLURM_ARRAY_TASK_ID}p" commands)"': "needs Slurm",
    "hf download Qwen/Qwen2.5-7B-Instruct --local-dir models/qwen2.5-7b": HUB,
    "HF_HUB_OFFLINE=1 seekr-lite run mine.toml --set base.model=models/qwen2.5-7b": HUB,
    "seekr-lite data check recipes/trace-llama2-7b.toml": DATA,
    "seekr-lite plan recipes/trace-llama2-7b.toml --measure --set base.device=cuda": GPU,
    "python benchmarks/fit_24gb.py": GPU,
    "seekr-lite run recipes/trace-llama2-7b.toml": DATA,
    "seekr-lite report runs/trace-llama2-7b": DATA,
    "python scripts/get_smollm2.py": HUB,
    "seekr-lite run recipes/smollm2-trace.toml": DATA,
}
LONG = {  # command -> why the quick journey leaves it out
    "seekr-lite compare recipes/quickstart.toml --methods sequential,replay,derpp,seekr --seeds 0,1,2": "twelve runs",
}
PLAIN = {"text", "json"}  # languages of blocks that nobody runs
QUICK_PAGES = {"README.md"}
JOURNEYS = [page for page in PAGES if any(block.language in ("bash", "python") for block in blocks(page))]


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def all_lines() -> list[str]:
    return [line for block in all_blocks("bash") for line in shell_lines(block.text)]


LINES = list(dict.fromkeys(all_lines()))


# ------------------------------------------------------------------ parsed


def test_every_block_says_what_it_is() -> None:
    known = {"bash", "python", "toml", *PLAIN}
    assert [block for page in PAGES for block in blocks(page) if block.language not in known] == []


def test_what_is_not_run_stands_in_a_document() -> None:
    assert [line for line in (*NOT_RUN, *LONG) if line not in LINES] == []


@pytest.mark.core
@pytest.mark.parametrize("line", LINES)
def test_a_command_parses(line: str) -> None:
    for words in programs(line):
        name, *arguments = words
        if name == "seekr-lite" and "--version" not in arguments:
            _, context = parse(arguments)
            check_recipe(context.params)
        elif name == "python" and arguments[0].endswith(".py") and (ROOT / arguments[0]).exists():
            harness = ROOT / "benchmarks" / "harness.py"  # has the options that all benchmarks share
            script = (ROOT / arguments[0]).read_text(encoding="utf-8") + harness.read_text(encoding="utf-8")
            assert [one for one in arguments if one.startswith("--") and f'"{one}"' not in script] == []


def check_recipe(values: dict[str, Any]) -> None:
    """A recipe of the repository is right, with the keys that the command changes."""
    named = [values.get("recipe"), *(values.get("what") or ())]
    for recipe in named:
        if recipe is not None and (ROOT / recipe).is_file():
            Recipe.from_toml(ROOT / recipe, values.get("overrides") or ())
        else:
            assert recipe is None or not str(recipe).startswith("recipes/"), recipe


@pytest.mark.parametrize("block", all_blocks("toml"), ids=lambda block: block.page.name)
def test_toml_is_a_recipe_or_a_part_of_one(block: Block) -> None:
    values = tomllib.loads(block.text)
    if "project" not in values:
        Recipe.from_toml(ROOT / "recipes" / "quickstart.toml").with_(**values)


def test_reading_a_block() -> None:
    text = "V=1 a --b c  # why\n\ncat > f <<'END'\n# kept\nEND\nd \\\n  e | f && g\n"
    assert shell_lines(text) == ["V=1 a --b c", "cat > f <<'END'\n# kept\nEND\n", "d    e | f && g"]
    assert list(programs("V=1 a --b=c")) == [["a", "--b=c"]]
    assert list(programs("d e | f && g 'h | i'")) == [["d", "e"], ["f"], ["g", "h | i"]]


# ------------------------------------------------------------------ run


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder like a checkout, and a `seekr-lite` and a `python` that are this environment's."""
    for name in ("recipes", "benchmarks", "scripts", "SECURITY.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    tools = tmp_path / ".tools"
    tools.mkdir()
    for name, arguments in {
        "seekr-lite": "-m seekr_lite",
        "python": "",
        "torchrun": "-m torch.distributed.run",
    }.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    registry.REGISTERED.clear()


def in_a_shell(line: str) -> None:
    done = subprocess.run(["bash", "-e", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def in_this_process(line: str) -> None:
    """A lone `seekr-lite`, or one that hears an `echo`; all else goes to a shell."""
    called = list(programs(line))
    heard = " ".join(called[0][1:]) if called[0][0] == "echo" else None
    ours = called[0 if heard is None else 1 :]
    if len(ours) != 1 or ours[0][0] != "seekr-lite":
        in_a_shell(line)
        return
    done = CliRunner().invoke(app, ours[0][1:], input=heard)
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"


def travel(page: Path, run_line: Any, left_out: set[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, page.name, "exec"), names)
        elif block.language == "bash":
            for line in shell_lines(block.text):
                if line not in left_out and (rest := without_set_up(line)):
                    run_line(rest)


def without_set_up(line: str) -> str:
    """The commands of a line but for those that install; nothing where it only installs."""
    parts = line.split(" && ")
    return " && ".join(part for part in parts if next(programs(part))[0] not in INSTALLS)


def test_the_memory_plan_of_a_page_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a width that whoever starts the tests has set folds the lines
    (quoted,) = [block.text for block in all_blocks("text") if " GB: fits" in block.text]
    printed = CliRunner().invoke(app, ["plan", str(ROOT / "recipes" / "trace-llama2-7b.toml")]).stdout.splitlines()
    assert [line for line in quoted.splitlines() if line not in printed] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", JOURNEYS, ids=lambda page: page.name)
def test_a_reader_can_follow_the_page(page: Path, checkout: Path) -> None:
    travel(page, in_a_shell, set(NOT_RUN))
    for scores in checkout.glob("runs/**/scores.json"):
        assert re.search(r'"op": (\d+)', scores.read_text())[1] != "0", scores  # type: ignore[index]


@pytest.mark.parametrize("page", [page for page in JOURNEYS if page.name in QUICK_PAGES], ids=lambda page: page.name)
def test_the_page_works_with_few_rows(page: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: Any = {"data": {"train_limit": 16, "test_limit": 4, "validation_rows": 4}, "train": {"epochs": 1}}
    whole = Recipe.from_toml
    monkeypatch.setattr(Recipe, "from_toml", lambda path, overrides=(): whole(path, overrides).with_(**few))
    travel(page, in_this_process, {*NOT_RUN, *LONG})
