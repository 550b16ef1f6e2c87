"""What runs although it is predicted to be late, to see whether that still holds.

Admission refuses by predictions, and what is refused is never measured. So one request of a bucket
runs now and then all the same; and where a bucket's target is out of reach, its requests have a
part of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

CANARY_INTERVAL_NS = 1_000_000_000
"""While every prediction says late, one request this often runs all the same, to see."""

CANARY_SHARE = 0.02
"""Where others are served meanwhile, seeing takes no more of the time than this."""

UNREACHABLE_SHARE = 0.125
"""Beside others, requests of a bucket whose target is out of reach take no more than this."""

UNREACHABLE_BURST = 4
"""So many of them may come at once."""


@dataclass(slots=True)
class Canaries:
    """When a bucket was tried, by batches of any kind and by those that show what was refused."""

    last_batch_ns: int | None = None
    """When the last batch began."""
    last_canary_ns: int | None = None
    """When the last request was let in to see, or the last batch began that has as many rows as the
    one that was refused."""
    refused_rows: int = 1
    """Of the last request that was refused for a prediction."""
    unreachable_until_ns: int = 0
    """When those that can only be late have had their part of the time."""

    def batch_started(self, rows: int, now_ns: int) -> None:
        """A batch of the bucket begins."""
        self.last_batch_ns = now_ns
        if rows >= self.refused_rows:
            self.last_canary_ns = now_ns

    def no_batch_since(self, since_ns: int) -> bool:
        """Whether no batch has begun after `since_ns`."""
        return self.last_batch_ns is None or self.last_batch_ns <= since_ns

    @property
    def last_was_canary(self) -> bool:
        """Whether the last batch that began, if any did, was one that shows what was refused."""
        return self.last_batch_ns == self.last_canary_ns

    def admit_canary(self, expected_ns: float, now_ns: int, *, no_other_traffic: bool) -> int:
        """When the next request may run to see; where that is now, this one does.

        `expected_ns`: the predicted time of its batch. `no_other_traffic`: nothing else would wait for it.
        """
        from_ns = now_ns
        if self.last_canary_ns is not None:
            apart_ns = 0 if no_other_traffic else int(expected_ns / CANARY_SHARE)
            from_ns = self.last_canary_ns + max(CANARY_INTERVAL_NS, apart_ns)
        if from_ns <= now_ns:
            self.last_canary_ns = now_ns
        return from_ns

    def admit_unreachable(self, expected_ns: float, now_ns: int, *, no_other_traffic: bool) -> int:
        """The same of a bucket whose target is out of reach.

        All of its requests run where nobody else is served; else so many that they have their part
        of the time.
        """
        if no_other_traffic:
            return now_ns
        apart_ns = int(expected_ns / UNREACHABLE_SHARE)
        from_ns = self.unreachable_until_ns - UNREACHABLE_BURST * apart_ns
        if from_ns <= now_ns:
            self.unreachable_until_ns = max(self.unreachable_until_ns, now_ns) + apart_ns
        return from_ns

    def capture(self) -> tuple[object, ...]:
        """The whole state as a plain value: the arguments that make it."""
        return self.last_batch_ns, self.last_canary_ns, self.refused_rows, self.unreachable_until_ns
