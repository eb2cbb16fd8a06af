"""Sequential fine-tuning: one task after the other, nothing done against forgetting."""

from __future__ import annotations

from seekr_lite.methods.method import Method


class Sequential(Method):
    """L = cross-entropy of new rows."""

    name = "sequential"
    summary = "trains on each task in turn; nothing is kept"
