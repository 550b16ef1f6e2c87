"""What runs although it is predicted to be late, to see whether that still holds.

Admission refuses by predictions, and what is refused is never measured. So one request of a bucket
runs now and then all the same; and where a bucket's target is out of reach, its requests have a
part of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

CANARY_NS = 1_000_000_000
"""While every prediction says late, one request this often runs all the same, to see."""

CANARY_PART = 0.02
"""Where others are served meanwhile, seeing takes no more of the time than this."""

UNREACHABLE_PART = 0.125
"""Beside others, requests of a bucket whose target is out of reach take no more than this."""

UNREACHABLE_BURST = 4
"""So many of them may come at once."""


@dataclass(slots=True)
class Canaries:
    """When a bucket was tried, by batches of any kind and by those that show what was refused."""

    tried_ns: int | None = None
    """When the last batch began."""
    probed_ns: int | None = None
    """When the last request was let in to see, or the last batch began that has as many rows as the
    one that was refused."""
    refused_rows: int = 1
    """Of the last request that was refused for a prediction."""
    late_until_ns: int = 0
    """When those that can only be late have had their part of the time."""

    def began(self, rows: int, now_ns: int) -> None:
        """A batch of the bucket begins."""
        self.tried_ns = now_ns
        if rows >= self.refused_rows:
            self.probed_ns = now_ns

    def untried(self, since_ns: int) -> bool:
        """Whether no batch has begun after `since_ns`."""
        return self.tried_ns is None or self.tried_ns <= since_ns

    @property
    def only_canaries(self) -> bool:
        """Whether the last batch that began, if any did, was one that shows what was refused."""
        return self.tried_ns == self.probed_ns

    def let_in(self, takes_ns: float, now_ns: int, *, quiet: bool) -> int:
        """When the next request may run to see; where that is now, this one does.

        `takes_ns` is what it is predicted to take; `quiet`: nobody else would wait for it.
        """
        from_ns = now_ns
        if self.probed_ns is not None:
            apart_ns = 0 if quiet else int(takes_ns / CANARY_PART)
            from_ns = self.probed_ns + max(CANARY_NS, apart_ns)
        if from_ns <= now_ns:
            self.probed_ns = now_ns
        return from_ns

    def let_in_late(self, takes_ns: float, now_ns: int, *, quiet: bool) -> int:
        """The same of a bucket whose target is out of reach.

        All of its requests run where nobody else is served; else so many that they have their part
        of the time.
        """
        if quiet:
            return now_ns
        apart_ns = int(takes_ns / UNREACHABLE_PART)
        from_ns = self.late_until_ns - UNREACHABLE_BURST * apart_ns
        if from_ns <= now_ns:
            self.late_until_ns = max(self.late_until_ns, now_ns) + apart_ns
        return from_ns

    def capture(self) -> tuple[object, ...]:
        """The whole state as a plain value: the arguments that make it."""
        return self.tried_ns, self.probed_ns, self.refused_rows, self.late_until_ns
