"""A watchdog thread that logs which function blocks the event loop.

Twenty times a second the thread schedules a callback on the loop. If the callback has not run after
`STALL_NS`, the thread takes the stack of the loop's thread, and when the loop runs again it logs the
stack and counts a stall. Time in which the kernel ran other threads instead (Linux: `schedstat`) is
subtracted: the loop did not block then, it waited for a processor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from batcher.clock import MILLISECOND, SECOND, Clock, monotonic_ns

log = logging.getLogger(__name__)

STALL_NS: Final = 50 * MILLISECOND
"""An iteration of the event loop that takes longer is a stall: it delays every request."""

FRAMES: Final = 12
"""Stack frames in a log line, the innermost first."""

LOG_INTERVAL_NS: Final = 10 * SECOND
"""Shortest time between two log lines. All stalls are counted, logged or not."""


class LoopWatchdog:
    """Watches the event loop that is running when this is created, from a thread of its own.

    `stalled` is called on the event loop with the length of each stall in seconds. Call `start` once,
    and `close` at the end.
    """

    def __init__(self, stalled: Callable[[float], None], *, clock: Clock = monotonic_ns) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._schedstat = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        self._file = -1
        self._stalled = stalled
        self._clock = clock
        self._ran = threading.Event()
        self._closing = threading.Event()
        self._logged_ns: int | None = None
        self._unlogged = 0
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Have the thread end soon; no stall is reported any more."""
        self._closing.set()

    def _run(self) -> None:
        with suppress(OSError):  # then nothing is subtracted
            self._file = os.open(self._schedstat, os.O_RDONLY)
        try:
            # A closed loop takes no more callbacks.
            with suppress(RuntimeError):
                while not self._closing.wait(STALL_NS / SECOND):
                    self._check()
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _check(self) -> None:
        """Schedule a callback on the loop, and wait until it has run."""
        self._ran.clear()
        began_ns, waited_ns = self._clock(), self._unscheduled_ns()
        self._loop.call_soon_threadsafe(self._ran.set)
        where = ""
        if not self._ran.wait(STALL_NS / SECOND):
            where = stack_of(self._loop_thread)
            while not self._ran.wait(STALL_NS / SECOND) and not self._closing.is_set():
                pass
        blocked_ns = self._clock() - began_ns - (self._unscheduled_ns() - waited_ns)
        if blocked_ns >= STALL_NS and not self._closing.is_set():
            self._loop.call_soon_threadsafe(self._stalled, blocked_ns / SECOND)
            self._log(blocked_ns, where)

    def _log(self, blocked_ns: int, where: str) -> None:
        now_ns = self._clock()
        if self._logged_ns is not None and now_ns < self._logged_ns + LOG_INTERVAL_NS:
            self._unlogged += 1
            return
        more = f" ({self._unlogged} more stalls since the last line)" if self._unlogged else ""
        log.warning(
            "the event loop was blocked for %d ms%s, which delays every request, in: %s",
            blocked_ns // MILLISECOND,
            more,
            where or "an unknown function (the interpreter was stopped as well)",
        )
        self._logged_ns, self._unlogged = now_ns, 0

    def _unscheduled_ns(self) -> int:
        """How long the loop's thread has waited for a processor so far; 0 where the kernel does not say."""
        try:
            return int(os.pread(self._file, 64, 0).split()[1])
        except (OSError, IndexError, ValueError):
            return 0


def stack_of(thread: int) -> str:
    """The stack of a thread as text: functions, files and lines, the innermost first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - there is no other way
    if frame is None:
        return ""
    calls = traceback.StackSummary.extract(
        traceback.walk_stack(frame), limit=FRAMES, lookup_lines=False
    )
    del frame
    return " < ".join(f"{c.name} ({Path(c.filename).name}:{c.lineno})" for c in calls)
