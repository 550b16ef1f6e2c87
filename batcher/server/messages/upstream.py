"""What the caller says was spent on a request before it arrived: metadata, checked for sanity."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from batcher.clock import MILLISECOND, SECOND
from batcher.service import IMPOSSIBLE

SPENT_KEY: Final = "x-batcher-spent-ms"
"""Milliseconds that were spent before; decimal."""
START_KEY: Final = "x-batcher-start-ms"
"""When the work began that the request is part of: milliseconds since the Unix epoch; decimal."""

MOST_UPSTREAM_NS: Final = 3600 * SECOND
"""What is said to have taken longer is no latency: a wrong unit or a wrong clock."""
MAX_CLOCK_SKEW_NS: Final = SECOND
"""How far in the future a start may be, which counts as now. Clocks that are kept by NTP differ by
milliseconds; 30 % more or less changes nothing."""

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)


def upstream_ns(own: Mapping[str, str], epoch_clock: Callable[[], int]) -> int | None:
    """Nanoseconds spent before, None where nothing is said; `IMPOSSIBLE` for what cannot be.

    `own` is the metadata for this server. What is said to be spent goes before a start.
    """
    text = own.get(SPENT_KEY)
    if text is not None:
        spent_ns = _nanoseconds(text)
    elif (text := own.get(START_KEY)) is not None:
        start_ns = _nanoseconds(text)
        spent_ns = None if start_ns is None else epoch_clock() - start_ns
        if spent_ns is not None and -MAX_CLOCK_SKEW_NS <= spent_ns < 0:
            spent_ns = 0
    else:
        return None
    if spent_ns is None or not 0 <= spent_ns <= MOST_UPSTREAM_NS:
        return IMPOSSIBLE
    return spent_ns


def _nanoseconds(text: str) -> int | None:
    if _NUMBER.fullmatch(text) is None:
        return None
    return int(Decimal(text) * MILLISECOND)
