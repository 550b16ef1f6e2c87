"""The one clock: monotonic nanoseconds.

Rooms that need time take a `Clock` (or a `now_ns` argument), so that tests and the simulator can
turn the hands themselves. `time.monotonic_ns` is the production clock: the event loop's own time
moves in steps of a millisecond under uvloop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns the current monotonic time in nanoseconds; never goes back."""

monotonic_ns: Clock = time.monotonic_ns

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
