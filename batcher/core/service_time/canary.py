"""Limits the requests that run although their prediction says they will be late.

A request that is refused for a prediction is never measured, so a wrong prediction would stay. One
request of the bucket, a canary, runs now and then all the same. Where not even one row alone can meet
the target, the bucket's requests get a small share of the time instead.
"""

from __future__ import annotations

from dataclasses import dataclass

CANARY_INTERVAL_NS = 1_000_000_000
"""Nanoseconds between two canaries of a bucket, at least."""

CANARY_SHARE = 0.02
"""Share of the time that canaries of a bucket take at most, while other requests are served."""

UNREACHABLE_SHARE = 0.125
"""Share of the time that requests of a bucket out of reach take at most, beside other requests."""

UNREACHABLE_BURST = 4
"""So many of them may run at once, on credit of that share."""


@dataclass(slots=True)
class Canaries:
    """When a bucket last ran a batch, and when the next canary may run. Times in nanoseconds."""

    last_batch_ns: int | None = None
    """When the last batch began."""
    last_canary_ns: int | None = None
    """When the last canary was admitted, or a batch of at least `refused_rows` began."""
    refused_rows: int = 1
    """Rows of the last request that was refused for a prediction."""
    unreachable_until_ns: int = 0
    """Until when the share of requests that are out of reach is used up."""

    def batch_started(self, rows: int, now_ns: int) -> None:
        """Note that a batch of the bucket begins."""
        self.last_batch_ns = now_ns
        if rows >= self.refused_rows:
            self.last_canary_ns = now_ns

    def no_batch_since(self, since_ns: int) -> bool:
        """Whether no batch has begun after `since_ns`."""
        return self.last_batch_ns is None or self.last_batch_ns <= since_ns

    @property
    def last_was_canary(self) -> bool:
        """Whether the last batch also tested the prediction, or none has begun yet."""
        return self.last_batch_ns == self.last_canary_ns

    def admit_canary(self, expected_ns: float, now_ns: int, *, no_other_traffic: bool) -> int:
        """Returns from when on a request may run as a canary. If that is now, it does.

        `expected_ns`: the predicted time of its batch. `no_other_traffic`: no other request would
        wait for it, so the interval alone limits canaries.
        """
        from_ns = now_ns
        if self.last_canary_ns is not None:
            apart_ns = 0 if no_other_traffic else int(expected_ns / CANARY_SHARE)
            from_ns = self.last_canary_ns + max(CANARY_INTERVAL_NS, apart_ns)
        if from_ns <= now_ns:
            self.last_canary_ns = now_ns
        return from_ns

    def admit_unreachable(self, expected_ns: float, now_ns: int, *, no_other_traffic: bool) -> int:
        """The same for a request whose target is out of reach.

        All of them run where there is no other traffic, otherwise as many as their share allows.
        """
        if no_other_traffic:
            return now_ns
        apart_ns = int(expected_ns / UNREACHABLE_SHARE)
        from_ns = self.unreachable_until_ns - UNREACHABLE_BURST * apart_ns
        if from_ns <= now_ns:
            self.unreachable_until_ns = max(self.unreachable_until_ns, now_ns) + apart_ns
        return from_ns

    def capture(self) -> tuple[object, ...]:
        """The state as a plain value: the arguments that make it."""
        return (
            self.last_batch_ns,
            self.last_canary_ns,
            self.refused_rows,
            self.unreachable_until_ns,
        )
