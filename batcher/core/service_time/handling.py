"""What lies around a batch's own time: giving it to its instance, hearing of its end, its answers.

That is the machine's time, not the device's: the event loop, a change of threads, other processes. It
is usually short and now and then long, so what is predicted is what is usual: a median, which holds as long as less than
half of the batches meet a stall. So a stall changes nothing of what is known about the device.
"""

from __future__ import annotations

from math import inf

from batcher.core.captured import Captured
from batcher.core.service_time.recent import Recent


class Handling(Captured):
    """Handling times of one model's batches, in nanoseconds.

    `gap_ns` is the time of a batch beyond its own, on an instance that was idle; `saved_ns` is how much
    less a prefetched batch takes, `early_saves_ns` included. Where all batches are prefetched, a longer gap shows only in
    what is left of it, so it is at least that. `reply_ns` is what handing over the answers takes, per
    row: an instance does not wait for it, but callers do.

    `round_trip_ns` is the way to a backend that executes one batch at a time, and back: what batches
    sent in their turn take more than those sent early. `early_saves_ns` is what the latter take less
    than the curve says. The two differ where the curve is wrong. Both are 0 unless batches of both
    kinds ended lately: without one in its turn, a backend that got faster would look far away.
    """

    __slots__ = (
        *("_early", "_idle", "_in_turn", "_prefetched", "_replies"),
        *("early_saves_ns", "gap_ns", "reply_ns", "round_trip_ns", "saved_ns"),
    )
    STATE = ("_early", "_idle", "_in_turn", "_prefetched", "_replies")

    def __init__(self) -> None:
        self._idle, self._prefetched, self._replies = Recent(), Recent(), Recent()
        self._early, self._in_turn = Recent(none=inf), Recent(none=-inf)
        self.gap_ns = self.saved_ns = self.reply_ns = 0.0
        self.round_trip_ns = self.early_saves_ns = 0.0

    def observe(self, beyond_ns: float, now_ns: int, *, prefetched: bool) -> float:
        """Learn from a batch; returns what its handling would have been on an idle instance.

        `beyond_ns` is the time beyond its own, counted from when the instance could begin: when it was
        given the batch or, for a `prefetched` one, when the batch before it was reported.
        """
        # Where two batches are reported at once, the second seems to have taken no time.
        beyond_ns = max(0.0, beyond_ns)
        (self._prefetched if prefetched else self._idle).add(beyond_ns, now_ns)
        self._derive()
        return beyond_ns + self.saved_ns - self.early_saves_ns if prefetched else beyond_ns

    def observe_sending(self, beyond_ns: float, now_ns: int, *, early: bool) -> None:
        """Learn from a batch that took `beyond_ns` more than the curve of its shapes says, or less.

        It was sent `early` if its backend got it while it executed the one before, and then counts
        from when that one was reported.
        """
        (self._early if early else self._in_turn).add(beyond_ns, now_ns)
        if self._early:
            self._derive()

    def observe_replies(self, rows: int, took_ns: int, now_ns: int) -> None:
        """Learn from how long it took to hand over the answers of a batch."""
        self._replies.add(took_ns / rows, now_ns)
        self.reply_ns = self._replies.value

    def forget(self, now_ns: int) -> None:
        """Drop samples that are too old."""
        for samples in (self._idle, self._prefetched, self._replies, self._early, self._in_turn):
            samples.forget(now_ns)
        self._derive()

    def _derive(self) -> None:
        self.gap_ns = max(self._idle.value, self._prefetched.value)
        self.saved_ns = self.gap_ns - self._prefetched.value if self._prefetched else 0.0
        self.round_trip_ns = max(0.0, self._in_turn.value - self._early.value)
        self.early_saves_ns = max(0.0, -self._early.value) if self.round_trip_ns else 0.0
        self.saved_ns += self.early_saves_ns
        self.reply_ns = self._replies.value
