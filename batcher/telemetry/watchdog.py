"""What holds up the event loop: a thread that asks it to turn, and looks when it does not.

Twenty times a second the thread gives the loop something to do. Where that has not been done after
`STALL_NS`, it takes down where the loop's thread is at that moment, and when the loop turns again
says so in the log and counts. A loop that is merely not run by the kernel, which has more threads
than processors, holds nobody up by itself: that time is taken off.
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
"""A turn of the event loop that takes longer is a stall: everybody waited for it."""

FRAMES: Final = 12
"""Calls that the log names, the innermost first."""

QUIET_NS: Final = 10 * SECOND
"""Between two lines of the log; all stalls are counted."""


class LoopWatchdog:
    """Watches the event loop that is running when it is made, on a thread of its own.

    `stalled` is told of each stall, in seconds, on the event loop. `start` once, then `close`.
    """

    def __init__(self, stalled: Callable[[float], None], *, clock: Clock = monotonic_ns) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._schedstat = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        self._file = -1
        self._stalled = stalled
        self._clock = clock
        self._turned = threading.Event()
        self._closing = threading.Event()
        self._said_ns: int | None = None
        self._unsaid = 0
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Have the thread end soon; nothing is told any more."""
        self._closing.set()

    def _run(self) -> None:
        with suppress(OSError):  # then no time is taken off
            self._file = os.open(self._schedstat, os.O_RDONLY)
        try:
            # A loop that is closed cannot be asked any more.
            with suppress(RuntimeError):
                while not self._closing.wait(STALL_NS / SECOND):
                    self._ask()
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _ask(self) -> None:
        """Ask the loop to turn, and wait until it has."""
        self._turned.clear()
        began_ns, waited_ns = self._clock(), self._unscheduled_ns()
        self._loop.call_soon_threadsafe(self._turned.set)
        where = ""
        if not self._turned.wait(STALL_NS / SECOND):
            where = place_of(self._loop_thread)
            while not self._turned.wait(STALL_NS / SECOND) and not self._closing.is_set():
                pass
        held_ns = self._clock() - began_ns - (self._unscheduled_ns() - waited_ns)
        if held_ns >= STALL_NS and not self._closing.is_set():
            self._loop.call_soon_threadsafe(self._stalled, held_ns / SECOND)
            self._say(held_ns, where)

    def _say(self, held_ns: int, where: str) -> None:
        now_ns = self._clock()
        if self._said_ns is not None and now_ns < self._said_ns + QUIET_NS:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last time)" if self._unsaid else ""
        log.warning(
            "the event loop was held up for %d ms%s: %s",
            held_ns // MILLISECOND,
            more,
            where or "nobody knows by what, the interpreter was, too",
        )
        self._said_ns, self._unsaid = now_ns, 0

    def _unscheduled_ns(self) -> int:
        """How long the loop's thread has waited for a processor so far; 0 where nobody says."""
        try:
            return int(os.pread(self._file, 64, 0).split()[1])
        except (OSError, IndexError, ValueError):
            return 0


def place_of(thread: int) -> str:
    """Where a thread is now: files, lines and functions, the innermost first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - there is no other way
    if frame is None:
        return ""
    calls = traceback.StackSummary.extract(
        traceback.walk_stack(frame), limit=FRAMES, lookup_lines=False
    )
    del frame
    return " < ".join(f"{c.name} ({Path(c.filename).name}:{c.lineno})" for c in calls)
