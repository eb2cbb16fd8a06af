"""The versions that a result may hang on."""

from __future__ import annotations


def versions() -> dict[str, str]:
    """By package, Python and this one among them."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("seekr-lite", "torch", "transformers", "peft", "bitsandbytes"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
