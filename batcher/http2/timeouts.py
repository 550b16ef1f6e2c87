"""How long what is open may make no progress, and how progress is measured: by sweeps, no timers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from batcher.clock import SECOND

SWEEP_NS = SECOND
"""How often every connection is looked at; a time-out comes late by as much at most."""
PROGRESS_BYTES = 2**20
"""Fewer bytes than this, or the rest where that is less, are no progress: 35 KB/s at least of a large
message, so that what it takes of `max_buffered` comes back within half an hour at the latest."""
JITTER = 0.1
"""By as much of it the ages of connections differ."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Times of a connection and of its calls; None is for ever."""

    idle_ns: int | None = 300 * SECOND
    """Without a call, until the connection is asked to leave."""
    age_ns: int | None = None
    """Until the connection is asked to leave, whatever it does, give or take a tenth."""
    age_grace_ns: int = 30 * SECOND
    """From then until its calls are cut."""
    receive_ns: int = 20 * SECOND
    """For a header block to be complete, for a message to begin and make progress, and for its window
    to be granted."""
    write_ns: int = 30 * SECOND
    """For an answer to make progress."""

    def draw_age_ns(self) -> int | None:
        """The age of one connection: those that began together do not all reach it at once."""
        if self.age_ns is None:
            return None
        return int(self.age_ns * (1 + random.uniform(-JITTER, JITTER)))  # noqa: S311  # no secret


class StallTimer:
    """For how long a transfer has made no progress."""

    __slots__ = ("_at", "ns")

    def __init__(self, at: int = 0) -> None:
        self._at = at
        self.ns = 0

    def look(self, at: int, elapsed_ns: int) -> int:
        """Its nanoseconds, `elapsed_ns` after the last look; `at` bytes were transferred so far."""
        if at - self._at >= PROGRESS_BYTES or at < self._at:
            self._at = at
            self.ns = 0
        else:
            self.ns += elapsed_ns
        return self.ns


class IncompleteTimer:
    """For how long the same thing has begun and is not complete."""

    __slots__ = ("_ns", "_what")

    def __init__(self) -> None:
        self._what: object = None
        self._ns = 0

    def look(self, what: object, elapsed_ns: int) -> int:
        """Its nanoseconds, `elapsed_ns` after the last look; None is nothing."""
        if what is None or what != self._what:
            self._what, self._ns = what, 0
        else:
            self._ns += elapsed_ns
        return self._ns
