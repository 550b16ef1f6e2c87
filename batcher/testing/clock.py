"""A clock that the test advances."""

from __future__ import annotations


class ManualClock:
    """A `batcher.clock.Clock` that stands still until it is advanced."""

    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self._now_ns = now_ns

    def __call__(self) -> int:
        """The time it was set to, in nanoseconds."""
        return self._now_ns

    def __repr__(self) -> str:
        return f"ManualClock({self._now_ns})"

    def advance(self, by_ns: int) -> int:
        """Move on by `by_ns` nanoseconds and return the new time. Never back: ValueError."""
        if by_ns < 0:
            raise ValueError(f"a clock never goes back; advance by 0 or more, not {by_ns}")
        self._now_ns += by_ns
        return self._now_ns
