"""How many frames a connection takes that bring no request further.

Each costs the server more time than the client. A client that works earns what comes with its work:
window updates for the data that it gets, pings that measure a path in use, resets of some of its
streams. Whatever is sent beyond that has a bound for each second, and `ConnectionFailedError` with
ENHANCE_YOUR_CALM beyond it.
"""

from __future__ import annotations

from batcher.http2.sansio.frames import ConnectionFailedError, Error

FRAMES_A_SECOND = 100
"""PING, PRIORITY, WINDOW_UPDATE, DATA without data, resets of streams that have ended, unknown ones
and acknowledgements: what a client may need that does nothing else. About 0.25 ms of the server's
time, and so what a client takes that connects again and again to send them."""
SAVED_FRAMES = 10_000
"""Of those that were earned, the most that are kept from one second to the next: as many window
updates may be on their way for a window of 64 MiB."""
FRAMES_A_STREAM = 10
"""As many more with each stream that is opened."""
FRAMES_FOR_DATA = 8
"""As many more with each frame of data that the server sends: clients widen windows as they read."""
LEAST_DATA = 256
"""Bytes of such a frame, where a window has cut it: a window that grows byte by byte earns nothing."""

SETTINGS_A_SECOND = 20
"""Each may let all streams go on at once."""

LEAST_RESETS = 1000
"""Streams that may be reset or refused at once, or `max_streams` where that is more: a client may
cancel all that it has. A quarter of them come back each second, and half of each stream opened."""


class Budget:
    """What is left for one connection. Its owner, which knows the time, calls `refill` each second."""

    __slots__ = ("_most_resets", "frames", "resets", "settings")

    def __init__(self, max_streams: int) -> None:
        self._most_resets = 2 * max(LEAST_RESETS, max_streams)
        self.frames = FRAMES_A_SECOND
        self.settings = SETTINGS_A_SECOND
        self.resets = self._most_resets
        """In halves."""

    def refill(self) -> None:
        """A second has passed."""
        self.frames = min(max(self.frames, FRAMES_A_SECOND), SAVED_FRAMES)
        self.settings = SETTINGS_A_SECOND
        self.resets = min(self.resets + self._most_resets // 4, self._most_resets)

    def opened(self) -> None:
        """A stream was opened."""
        self.frames += FRAMES_A_STREAM

    def accepted(self) -> None:
        """It will be worked on."""
        self.resets += 1

    def spend_frame(self) -> None:
        """A frame that brings no request further."""
        self.frames -= 1
        if self.frames < 0:
            raise _calm("frames that bring no request further")

    def spend_settings(self) -> None:
        """A frame of settings."""
        self.settings -= 1
        if self.settings < 0:
            raise _calm(f"more than {SETTINGS_A_SECOND} SETTINGS a second")

    def spend_reset(self) -> None:
        """A stream that ends without an answer because of the client."""
        self.resets -= 2
        if self.resets < 0:
            raise _calm("streams that are reset, refused or malformed")


def _calm(what: str) -> ConnectionFailedError:
    return ConnectionFailedError(Error.ENHANCE_YOUR_CALM, f"too many: {what}")
