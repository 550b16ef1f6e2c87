"""Threads for what would hold up the event loop, which give way to it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

NICE: Final = 10
"""How much less of a processor that is short such a thread gets: a tenth of what others get."""


def pool(threads: int, name: str) -> ThreadPoolExecutor:
    """So many threads of that name, which run where the event loop and executors leave time."""
    return ThreadPoolExecutor(threads, name, initializer=_give_way)


def _give_way() -> None:
    with suppress(OSError):  # some systems let no thread change
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
