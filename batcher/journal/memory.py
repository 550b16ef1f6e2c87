"""The last minutes in memory: whole segments, bounded in time and in bytes."""

from __future__ import annotations

import threading
from collections import deque


class _Held:
    """One segment."""

    __slots__ = ("begins_ns", "frames", "nbytes")

    def __init__(self, begins_ns: int, opening: bytes) -> None:
        self.begins_ns = begins_ns
        self.frames = [opening]
        self.nbytes = len(opening)


class Memory:
    """A recorder's sink that keeps the segments of the last `duration_ns`, in `most_bytes`.

    The oldest ones go as a whole. A segment that alone is too large goes, too, and what follows of
    it is not kept.
    """

    def __init__(self, duration_ns: int, most_bytes: int) -> None:
        self.nbytes = 0
        """What is held now."""
        self._duration_ns = duration_ns
        self._most_bytes = most_bytes
        self._segments: deque[_Held] = deque()
        self._lock = threading.Lock()

    def begin(self, now_ns: int, opening: bytes) -> None:
        """A segment begins; those that ended before the time that is kept go."""
        with self._lock:
            self._segments.append(_Held(now_ns, opening))
            self.nbytes += len(opening)
            segments = self._segments
            while len(segments) > 1 and segments[1].begins_ns <= now_ns - self._duration_ns:
                self._forget()
            self._keep_to_the_bound()

    def add(self, frame: bytes) -> None:
        """A frame of the last segment, if that is still here."""
        with self._lock:
            if not self._segments:
                return
            held = self._segments[-1]
            held.frames.append(frame)
            held.nbytes += len(frame)
            self.nbytes += len(frame)
            self._keep_to_the_bound()

    def close(self) -> None:
        """Nothing to do."""

    def frames(self) -> list[bytes]:
        """Everything that is held, in order."""
        with self._lock:
            return [frame for held in self._segments for frame in held.frames]

    def _keep_to_the_bound(self) -> None:
        while self.nbytes > self._most_bytes:
            self._forget()

    def _forget(self) -> None:
        self.nbytes -= self._segments.popleft().nbytes
