"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NOTHING: Final = "-"

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"


_UNITS: Final = ((172_800, 86_400, "d"), (7200, 3600, "h"), (119.5, 60, "min"))
"""From so many seconds on, how many of them are one of which unit."""


def seconds(value: float | None) -> str:
    """Three digits at most, in the unit that suits it."""
    if not value:
        return NOTHING if value is None else "0"
    for least, unit, name in _UNITS:
        if value >= least:
            return f"{value / unit:.0f}{name}"
    return f"{value:.3g}s" if value >= 0.9995 else f"{value * 1000:.3g}ms"


def rate(value: float | None) -> str:
    """So many a second."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share."""
    return NOTHING if value is None else f"{100 * value:.0f}%"


def blocks(values: Sequence[float | None], width: int, highest: float) -> str:
    """A line of blocks, `width` long, the last value at its right; each block is the highest of its values."""
    if not values or width < 1:
        return " " * max(0, width)
    each = 300 / width
    text = ""
    for place in range(width):
        # Blocks are counted from the right, so that a new second moves few of them.
        end = len(values) - round((width - place - 1) * each)
        start = len(values) - round((width - place) * each)
        found = [v for v in values[max(0, start) : max(0, end)] if v is not None]
        text += block(max(found), highest) if found else " "
    return text


def block(value: float, highest: float) -> str:
    """One block; the lowest that is seen for anything above 0."""
    if highest <= 0:
        return _BLOCKS[1]
    return _BLOCKS[min(len(_BLOCKS) - 1, 1 + int(value / highest * (len(_BLOCKS) - 1.01)))]
