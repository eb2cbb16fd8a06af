"""Makes the pictures of the README: the HTML report in a browser, and `heads inspect` in a terminal.

    seekr-lite run recipes/quickstart.toml
    python scripts/make_pictures.py runs/quickstart

The report's picture needs a Chromium; without one only the terminal's is made. The result lies in docs/images/.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1200, 1330
COLUMNS = 80

sys.path.insert(0, str(ROOT))  # run as a script, Python sees this folder only
sys.path.insert(0, str(ROOT / "tests"))


def picture_of_heads(run: Path, target: Path) -> None:
    """What `heads inspect` prints, as SVG."""
    from rich.console import Console

    from seekr_lite.api import open_run
    from seekr_lite.tools.heads.heads_table import render_heads, render_store

    opened = open_run(run)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(render_heads(opened.heads.of(), None, opened.heads.change()))
    console.print(render_store(opened.replay_store))
    svg = console.export_svg(title=f"seekr-lite heads inspect {run}", unique_id="heads")
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)  # a picture that fetches nothing
    target.write_text("".join(f"{line.rstrip()}\n" for line in svg.splitlines()), encoding="utf-8")


def picture_of_report(run: Path, browser_path: str, target: Path) -> None:
    """The upper part of the run's report, as PNG."""
    from browser import Browser

    from seekr_lite.api import open_run

    with tempfile.TemporaryDirectory() as folder, Browser(browser_path) as browser:
        page = open_run(run).save_report(Path(folder) / "report.html")
        browser.open(page, WIDTH, HEIGHT)
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        browser.screenshot(target, whole=False)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("name the run folder: python scripts/make_pictures.py runs/quickstart")
    from browser import find_browser

    from seekr_lite.common.errors import UserError

    run = Path(sys.argv[1])
    IMAGES.mkdir(parents=True, exist_ok=True)
    try:
        picture_of_heads(run, IMAGES / "heads.svg")
        browser_path = find_browser()
        if browser_path is None:
            sys.exit("there is no Chromium here, so the picture of the report was not made")
        picture_of_report(run, browser_path, IMAGES / "report.png")
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"the pictures are in {IMAGES}")


if __name__ == "__main__":
    main()
