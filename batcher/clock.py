"""The clock: monotonic nanoseconds.

Code that needs the time takes a `Clock` or a `now_ns` argument, so that tests and the simulator
control it. In production it is `time.monotonic_ns`, because the event loop's own time advances in
steps of a millisecond under uvloop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns the monotonic time in nanoseconds, which never goes back."""

monotonic_ns: Clock = time.monotonic_ns

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
