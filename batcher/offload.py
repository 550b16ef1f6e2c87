"""Threads for work that would hold up the event loop, at a lower scheduling priority than it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

NICE: Final = 10
"""Niceness of these threads. Where threads compete for a core, the kernel gives one at 10 about a tenth
of the time that it gives one at 0."""


def low_priority_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool of that many threads, which run where the event loop and executors leave time.

    `name` is the prefix of the threads' names. The caller shuts the pool down.
    """
    return ThreadPoolExecutor(threads, name, initializer=_lower_priority)


def _lower_priority() -> None:
    with suppress(OSError):  # some systems do not let a thread change its own priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
