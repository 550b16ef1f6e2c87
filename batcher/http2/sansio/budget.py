"""How many frames a connection may send that cost the server more than the client.

These are frames that carry no request: pings, window updates, priorities, empty data, settings,
resets. A client that works needs some of them and earns them with its work: a number for each stream
that it opens and for each frame of data that it receives. A connection that sends more than it has
earned, and more than a base rate for each second, ends: the methods named `spend_` raise
`ConnectionFailedError` with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

from batcher.http2.sansio.frames import ConnectionFailedError, Error

FRAMES_PER_SECOND = 100
"""Overhead frames that any connection may send in a second: PING, PRIORITY, WINDOW_UPDATE, DATA without
data, RST_STREAM for a stream that has ended, unknown types, acknowledgements. They take about 0.25 ms of
the server's time, which is also what a client can cost that reconnects again and again to send them."""
MAX_SAVED_FRAMES = 10_000
"""Earned frames that are kept from one second to the next: as many window updates may be on their way for
a window of 64 MiB."""
FRAMES_PER_STREAM = 10
"""Frames earned with each stream that is opened."""
FRAMES_PER_DATA_FRAME = 8
"""Frames earned with each DATA frame that the server sends: clients open their windows as they read."""
MIN_DATA_BYTES = 256
"""A smaller DATA frame earns nothing where a window has cut it: else a client that opens its window byte
by byte would pay for its own updates."""

SETTINGS_PER_SECOND = 20
"""SETTINGS frames in a second. Each may let every stream of the connection send again."""

MIN_RESETS = 1000
"""Streams that may be reset, refused or malformed at once, or `max_streams` where that is more: a client
may cancel all the calls that it has. A quarter of them come back each second, and half a one with each
stream that is opened."""


class Budget:
    """What is left for one connection. Its owner, which has a clock, calls `refill` each second."""

    __slots__ = ("_max_half_resets", "frames", "half_resets", "settings")

    def __init__(self, max_streams: int) -> None:
        self._max_half_resets = 2 * max(MIN_RESETS, max_streams)
        self.frames = FRAMES_PER_SECOND
        self.settings = SETTINGS_PER_SECOND
        self.half_resets = self._max_half_resets
        """Twice the resets that are left: a stream earns half of one."""

    def refill(self) -> None:
        """Add what a second brings."""
        self.frames = min(max(self.frames, FRAMES_PER_SECOND), MAX_SAVED_FRAMES)
        self.settings = SETTINGS_PER_SECOND
        self.half_resets = min(self.half_resets + self._max_half_resets // 4, self._max_half_resets)

    def earn_stream(self) -> None:
        """Add what a new stream earns, refused or not."""
        self.frames += FRAMES_PER_STREAM

    def earn_request(self) -> None:
        """Add what a stream earns that is not refused."""
        self.half_resets += 1

    def spend_frame(self) -> None:
        """Pay for a frame that carries no request."""
        self.frames -= 1
        if self.frames < 0:
            raise _too_many(
                f"frames without a request (PING, WINDOW_UPDATE, PRIORITY, empty DATA and others):"
                f" {FRAMES_PER_SECOND} a second, and more with each call and each frame of an answer"
            )

    def spend_settings(self) -> None:
        """Pay for a SETTINGS frame."""
        self.settings -= 1
        if self.settings < 0:
            raise _too_many(f"SETTINGS: {SETTINGS_PER_SECOND} a second")

    def spend_reset(self) -> None:
        """Pay for a stream that ends without an answer because of the client."""
        self.half_resets -= 2
        if self.half_resets < 0:
            raise _too_many(
                f"calls that were reset, refused or malformed: {self._max_half_resets // 2} at once,"
                " a quarter of them a second"
            )


def _too_many(what: str) -> ConnectionFailedError:
    return ConnectionFailedError(Error.ENHANCE_YOUR_CALM, f"too many {what}")
