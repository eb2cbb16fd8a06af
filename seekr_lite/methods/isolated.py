"""Isolated adapters: a fresh adapter per task, chosen by the task's name at test time. It cannot forget, and it
cannot answer where the task is not known."""

from __future__ import annotations

from seekr_lite.methods.method import Method


class Isolated(Method):
    """L = cross-entropy of new rows; task t is always answered by adapter t."""

    name = "isolated"
    summary = "a fresh adapter per task, routed by the task's name"
    starts_from_previous = False
    routed_by_task = True
