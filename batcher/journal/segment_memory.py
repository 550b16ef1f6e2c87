"""Keeps the segments of the last minutes in memory, bounded in time and in bytes."""

from __future__ import annotations

import threading
from collections import deque


class _Segment:
    """One segment."""

    __slots__ = ("begins_ns", "frames", "nbytes")

    def __init__(self, begins_ns: int, opening: bytes) -> None:
        self.begins_ns = begins_ns
        self.frames = [opening]
        self.nbytes = len(opening)


class SegmentMemory:
    """A sink of the recorder that keeps the segments of the last `duration_ns`, up to `most_bytes`.

    Whole segments are dropped, oldest first. A segment that exceeds `most_bytes` alone is dropped
    as well, and the rest of it is not kept.
    """

    def __init__(self, duration_ns: int, most_bytes: int) -> None:
        self.nbytes = 0
        """Bytes in memory now."""
        self._duration_ns = duration_ns
        self._most_bytes = most_bytes
        self._segments: deque[_Segment] = deque()
        self._lock = threading.Lock()

    def begin(self, now_ns: int, opening: bytes) -> None:
        """Begin a segment; drop those that are older than `duration_ns`."""
        with self._lock:
            self._segments.append(_Segment(now_ns, opening))
            self.nbytes += len(opening)
            segments = self._segments
            while len(segments) > 1 and segments[1].begins_ns <= now_ns - self._duration_ns:
                self._drop_oldest()
            self._drop_to_limit()

    def add(self, frame: bytes) -> None:
        """Add a frame to the last segment, unless that was dropped."""
        with self._lock:
            if not self._segments:
                return
            segment = self._segments[-1]
            segment.frames.append(frame)
            segment.nbytes += len(frame)
            self.nbytes += len(frame)
            self._drop_to_limit()

    def close(self) -> None:
        """Do nothing: there is nothing to write."""

    def frames(self) -> list[bytes]:
        """All frames in memory, in order."""
        with self._lock:
            return [frame for segment in self._segments for frame in segment.frames]

    def _drop_to_limit(self) -> None:
        while self.nbytes > self._most_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self.nbytes -= self._segments.popleft().nbytes
