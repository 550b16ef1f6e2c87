"""Time limits of connections and calls, and timers that measure progress.

There is no timer for each connection or message: a sweep, once a second, advances these by the time that
has passed. So they need no clock, and a timeout comes late by one sweep at most.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from batcher.clock import SECOND

SWEEP_NS = SECOND
"""The period of sweeps."""
PROGRESS_BYTES = 2**20
"""Bytes that a transfer must advance within its limit to have made progress, or the rest where that is
less. With 30 s that is 35 KB/s at least for a large message, so that the part of `max_buffered` that it
takes comes back within half an hour at the latest."""
AGE_JITTER = 0.1
"""The ages at which connections are closed differ by up to this part: those that began together do not all
reconnect at once."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of a connection and of its calls; None: without limit."""

    idle_ns: int | None = 300 * SECOND
    """A connection without a call for this long gets GOAWAY."""
    age_ns: int | None = None
    """A connection that was open for this long, give or take `AGE_JITTER`, gets GOAWAY."""
    age_grace_ns: int = 30 * SECOND
    """Calls that are open this long after it end."""
    receive_ns: int = 20 * SECOND
    """For a header block to be complete; for a message to begin, to make progress, and to find room."""
    write_ns: int = 30 * SECOND
    """For an answer to make progress."""

    def draw_age_ns(self) -> int | None:
        """The age limit of one connection."""
        if self.age_ns is None:
            return None
        return int(self.age_ns * (1 + random.uniform(-AGE_JITTER, AGE_JITTER)))  # noqa: S311  # no secret


class StallTimer:
    """Measures for how long a transfer has made no progress."""

    __slots__ = ("_position", "ns")

    def __init__(self, position: int = 0) -> None:
        self._position = position
        self.ns = 0

    def update(self, position: int, elapsed_ns: int) -> int:
        """Nanoseconds without progress: `elapsed_ns` have passed, and `position` bytes are transferred.

        A lower position than before is a new transfer.
        """
        if position - self._position >= PROGRESS_BYTES or position < self._position:
            self._position = position
            self.ns = 0
        else:
            self.ns += elapsed_ns
        return self.ns


class IncompleteTimer:
    """Measures for how long the same thing has been incomplete."""

    __slots__ = ("_ns", "_what")

    def __init__(self) -> None:
        self._what: object = None
        self._ns = 0

    def update(self, what: object, elapsed_ns: int) -> int:
        """Nanoseconds that `what` has been incomplete; None: nothing is."""
        if what is None or what != self._what:
            self._what, self._ns = what, 0
        else:
            self._ns += elapsed_ns
        return self._ns
