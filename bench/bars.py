"""The bars of a benchmark: how each is marked, and the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Held = bool | str
"""Whether a bar was held, or why that could not be judged."""


def mark(held: Held) -> str:
    """`ok` or `MISSED`, or why a bar could not be judged."""
    if isinstance(held, str):
        return held
    return "ok" if held else "MISSED"


def show(checks: Mapping[str, Held]) -> None:
    """Print a line for each bar."""
    for bar, held in checks.items():
        print(f"{mark(held):7} {bar}")


def every(found: Any) -> Iterator[Held]:
    """The bars in however nested a result: each `ok`, and those of `checks`."""
    if isinstance(found, dict):
        yield from found.get("checks", {}).values()
        if "ok" in found:
            yield found["ok"]
        for each in found.values():
            yield from every(each)


def exit_code(found: Any) -> int:
    """1 where a bar was missed, or could not be judged, which is said."""
    bars = list(every(found))
    unknown = sum(isinstance(held, str) for held in bars)
    if unknown:
        print(f"{unknown} not judged: a bar that could not be judged is not a bar that holds")
    return 1 if unknown or not all(bars) else 0
