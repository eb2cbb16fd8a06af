"""Joint training (multi-task learning): all tasks at once, which a sequence is compared with; no continual learning."""

from __future__ import annotations

from seekr_lite.methods.method import Method


class Joint(Method):
    """L = cross-entropy of the rows of all tasks, shuffled together."""

    name = "joint"
    summary = "trains on all tasks at once, as if nothing came later"
    joint = True
