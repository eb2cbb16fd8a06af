"""The documents: what they tell people to type works as written, and what they list is all there is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seekr_lite.evaluation.extraction import EXTRACTIONS
from seekr_lite.evaluation.metrics import METRICS
from seekr_lite.methods import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture
def beside_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder in which `recipes/` lies, as in a checkout."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    registry.REGISTERED.clear()


def python_of(document: Path) -> str:
    """All Python of a document, from top to bottom, as somebody would type it."""
    return "\n".join(re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.S))


def test_the_method_of_the_extending_page_trains(beside_the_recipes: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(python_of(DOCS / "extending.md"), "docs/extending.md", "exec"), names)
    assert names["run"].scores.method == "anchor"
    assert names["run"].tasks == ["shade", "keeper", "mine"]
    assert '"anchor"' in (beside_the_recipes / "runs" / "anchor" / "log.jsonl").read_text()  # the term was logged


def test_every_method_is_described() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.M)) == set(registry.METHODS)


def test_every_metric_and_extraction_is_described() -> None:
    tables = (DOCS / "metrics.md").read_text(encoding="utf-8")
    cells = " ".join(re.findall(r"^\| (`.*?) \|", tables, re.M))
    assert set(re.findall(r"`(\w+)`", cells)) == {*METRICS, *EXTRACTIONS}


@pytest.mark.parametrize("document", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_troubleshooting_quotes_real_messages() -> None:
    quoted = re.findall(r"^\*\*`(.+?)`\*\*", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "seekr_lite").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    assert len(quoted) == 12
    assert [message for message in quoted if message not in said] == []


def test_the_architecture_page_names_every_file_of_the_package_and_no_other() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    tree = page.split("seekr_lite/\n", 1)[1].split("benchmarks/", 1)[0]
    files = {path.name for path in (ROOT / "seekr_lite").rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert set(re.findall(r"\b\w+\.py\b", tree)) - {"__init__.py", "make_tiny_base.py"} == files
