"""No code from the hub: the package `kernels`, which fetches and runs it, is never asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from transformers.utils import import_utils

PLANTED = """\
from pathlib import Path
from types import ModuleType


def __getattr__(name):
    (Path(__file__).parent / "asked").write_text(name)
    raise AttributeError(name)


def get_kernel(*args, **kwargs):
    (Path(__file__).parent / "asked").write_text(repr(args))
    return ModuleType("kernel_of_the_hub")


with (Path(__file__).parent / "imported").open("a") as file:
    file.write("imported\\n")
"""
LOAD = """\
import logging, sys
import seekr_lite
from seekr_lite.model.base import load_base
from seekr_lite.recipe.recipe import BaseSettings
from transformers.utils import is_kernels_available
load_base(BaseSettings(model="tiny", quantization="nf4", device="cpu"))
import seekr_lite.training.learner
assert not is_kernels_available()
assert logging.getLogger("bitsandbytes").level == logging.NOTSET
assert "kernels" not in sys.modules
import kernels  # the user's own use of it is the user's affair
"""


def test_a_planted_kernels_package_is_never_asked(tmp_path: Path) -> None:
    planted = tmp_path / "kernels"
    planted.mkdir()
    (planted / "__init__.py").write_text(PLANTED)
    version = getattr(import_utils, "KERNELS_MIN_VERSION", "0.18.2")  # transformers takes some versions only
    (tmp_path / f"kernels-{version}.dist-info").mkdir()
    (tmp_path / f"kernels-{version}.dist-info" / "METADATA").write_text(f"Name: kernels\nVersion: {version}\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (planted / "imported").read_text() == "imported\n", "by the last line, and not before"
    assert not (planted / "asked").exists()
    assert "kernels" not in done.stderr
