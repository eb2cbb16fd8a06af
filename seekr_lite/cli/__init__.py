"""The commands, one file each. They parse and print, and call the API; nothing heavy is imported before it is needed."""

from __future__ import annotations


def main() -> None:
    """Entry point of `seekr-lite`."""
    from seekr_lite.cli.app import start

    start()
