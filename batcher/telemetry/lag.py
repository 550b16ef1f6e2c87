"""How late the event loop runs timers, measured with a timer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from batcher.clock import SECOND, Clock, monotonic_ns

INTERVAL_SECONDS = 0.25


async def probe_loop_lag(
    record: Callable[[float], None],
    *,
    interval: float = INTERVAL_SECONDS,
    clock: Clock = monotonic_ns,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> NoReturn:
    """Sleep for `interval` seconds again and again, and record how much longer it took (seconds).

    Never returns: run it as a task and cancel it. A loop that was blocked for longer than the
    interval shows as one large value. Under uvloop a timer can be a millisecond off by itself, and
    one that fires early counts as on time.
    """
    while True:
        due_ns = clock() + round(interval * SECOND)
        await sleep(interval)
        record(max(0, clock() - due_ns) / SECOND)
