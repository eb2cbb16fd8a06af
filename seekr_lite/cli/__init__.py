"""The commands, one file each. They parse and print, and call the API; heavy imports wait until they are needed."""

from __future__ import annotations


def main() -> None:
    """Entry point of `seekr-lite`."""
    from seekr_lite.cli.app import start

    start()
