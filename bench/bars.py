"""What a benchmark is held to: a word beside each bar, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict(held: bool) -> str:
    """The word that stands beside a bar."""
    return "ok" if held else "MISSED"


def show(checks: Mapping[str, bool]) -> None:
    """A line for each bar."""
    for bar, held in checks.items():
        print(f"{verdict(held):7} {bar}")


def missed(found: Any) -> bool:
    """Whether a bar was missed, in however nested a result: an `ok`, or one of `checks`."""
    if isinstance(found, dict):
        checks = found.get("checks", {}).values()
        return found.get("ok") is False or not all(checks) or any(map(missed, found.values()))
    return False
