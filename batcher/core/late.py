"""Late requests: whether there is overload, and which part of the device late requests get.

A late request is one that can no longer be answered by its due time, but within its limit. Those in time
come first; late ones get the time in which the device would idle, the room that batches have, and:

- where callers wait for their answers (a closed loop), the part of the device that they are of all that
  waits, so that they wait about as long as first come, first served would make them;
- the more of the requests became late lately, the more of that part: where most are late in any case,
  little is won by serving others before them;
- what it takes to answer all of them by their limits;
- in overload, instead of these, `late_share`.

Overload is when more is offered than can be served for longer than a burst. It is measured in rows: those
that arrived, whatever became of them, less those that the batches which began could easily have served. That is what would wait now
if nothing had been refused. A window counts at most twice what can be served in it: one burst is no rate.
"""

from __future__ import annotations

from batcher.core.captured import Captured

BURST_NS = 1_000_000_000
"""What is offered counts as a burst while it could be served within the limit or, where none is set, within
ten targets; and where that is shorter, within one second."""

WINDOWS = 10
"""Windows in that time. Fewer see a burst as overload; in more, arrivals of every day are cut as bursts."""

LATE_WEIGHT = 0.2
"""Weight of one window in the part of the rows that became late: it is that of the last half second."""

COUPLING_WEIGHT = 0.2
"""Weight of one batch in how closely arrivals follow answers. From 0.1 to 0.3 nothing changes but the first
half second of a closed loop."""


class LateTime(Captured):
    """One model's account of late requests. Times in nanoseconds."""

    __slots__ = (
        "_answered",
        "_at_ns",
        "_entitled_ns",
        "_mean",
        "_served",
        "_variance",
        "backlog",
        "became_late",
        "burst_ns",
        "claim",
        "late_part",
        "offered",
        "share",
        "since_answers",
        "turn_ns",
        "waiting",
        "window_ends_ns",
    )
    STATE = tuple(name for name in __slots__ if name not in ("burst_ns", "share"))
    """What is not a setting."""

    def __init__(self) -> None:
        self.turn_ns = 0
        """The turn of the late request that is served next."""
        self.waiting = False
        """Whether late requests may be waiting."""
        self.share = 0.0
        self.burst_ns = BURST_NS
        self.backlog = 0.0
        """Rows that would wait if nothing had been refused, with bursts cut."""
        self.claim = 0.0
        """The part of the device that those in time leave to late requests."""
        self.became_late = 0
        """Rows that became late in this window."""
        self.late_part = 0.0
        """The part of the rows that became late lately."""
        self.offered = 0
        """Rows that arrived in this window, also those that were refused."""
        self._served = 0.0
        """Rows that could easily be served by the batches that began in it."""
        self.window_ends_ns = 0
        self._entitled_ns = 0.0
        self._at_ns = 0
        self._answered = 0
        """Rows of the batch that ended last."""
        self.since_answers = 0
        """Rows that arrived after it."""
        self._mean = 0.0
        self._variance = 0.0

    def configure(self, share: float, target_ns: int | None, limit_ns: int | None) -> None:
        """Take new settings; what was counted stays."""
        self.share = share
        self.burst_ns = max(BURST_NS, limit_ns or 10 * (target_ns or 0))

    def begun(self, rows: float) -> None:
        """Count the rows that can easily be served in the time of a batch that begins."""
        self._served += rows

    def ended(self, rows: int) -> None:
        """Note the rows of a batch that has ended: callers get their answers now."""
        if self._answered:
            off = self.since_answers - self._answered
            if not self._mean:
                # Taken for a closed loop until arrivals show otherwise.
                self._mean = float(self._answered)
            self._mean += COUPLING_WEIGHT * (self._answered - self._mean)
            self._variance += COUPLING_WEIGHT * (off * off - self._variance)
        self._answered, self.since_answers = rows, 0

    def left(self, rows: int) -> None:
        """Count rows whose caller has gone before they were served."""
        self._served += rows

    def again(self, rows: int) -> None:
        """Count rows of a batch that has ended, but failed: they wait again."""
        self._served -= rows

    def idle(self) -> None:
        """A request found an instance idle and nothing waiting: there is no overload."""
        self.backlog = 0.0
        self.offered, self._served = 0, 0.0

    def next_window(self, now_ns: int, best_rate: float) -> None:
        """Take in the counts of a window. `best_rate`: rows a nanosecond that can be served."""
        width_ns = self.burst_ns // WINDOWS
        arrived: float = self.offered
        if best_rate:
            arrived = min(arrived, 2.0 * best_rate * width_ns)
        self.backlog = max(0.0, self.backlog + arrived - self._served)
        if best_rate:
            self.backlog = min(self.backlog, best_rate * self.burst_ns)
        if self.offered:
            part = min(1.0, self.became_late / self.offered)
            self.late_part += LATE_WEIGHT * (part - self.late_part)
        self.became_late = 0
        self.offered, self._served = 0, 0.0
        self.window_ends_ns = now_ns + width_ns

    def coupling(self) -> float:
        """How closely arrivals follow answers: 1.0 in a closed loop, 0.0 in a Poisson stream."""
        if not self._mean:
            return 0.0
        return max(0.0, 1.0 - 2.0 * self._variance / self._mean)

    def overload(self, best_rate: float) -> float:
        """0.0 without overload, up to 1.0 where more is offered than can be served within the limit."""
        if not best_rate:
            return 0.0
        return min(1.0, 2.0 * self.backlog / (best_rate * self.burst_ns))

    def waits_behind(self, best_rate: float) -> tuple[float, float]:
        """How long a late request waits for each nanosecond of work that waits, and for each of late work.

        Without overload, all that waits goes before it at most; in overload, what is late has its share.
        """
        over = self.overload(best_rate)
        part = max(1.0 - over * (1.0 - self.share), 1e-9)
        return (1.0 - over) / part, over / part

    def entitled_ns(
        self,
        now_ns: int,
        since_ns: int,
        part: float,
        needed: float,
        most_ns: float,
        best_rate: float,
    ) -> float:
        """How much time of the device late requests may take before others now.

        Late requests have waited `since_ns` at most, are `part` of all rows that wait, and need at least
        `needed` of the device to be answered by their limits. No more than `most_ns` is saved up.
        """
        over = self.overload(best_rate)
        # The more requests are late in any case, the less is won by serving others before them.
        fair = max(self.coupling(), (1.0 - over) * self.late_part**2)
        needed = (1.0 - over) * min(1.0, needed)
        share = max((1.0 - over) * fair * part, needed) + over * self.share
        self.claim = max(fair, needed)
        passed_ns = now_ns - max(self._at_ns, since_ns)
        if passed_ns > 0:
            self._entitled_ns = min(most_ns, self._entitled_ns + share * passed_ns)
        # The next batch may have been planned already, for a moment that is still to come.
        self._at_ns = max(self._at_ns, now_ns)
        return self._entitled_ns

    def due(self, takes_ns: float) -> bool:
        """Whether late requests may take so much time before others, as of the last `entitled_ns`."""
        return self.waiting and takes_ns <= self._entitled_ns

    def charge(self, took_ns: float) -> None:
        """Late requests take so much time of the device."""
        self._entitled_ns = max(0.0, self._entitled_ns - took_ns)
