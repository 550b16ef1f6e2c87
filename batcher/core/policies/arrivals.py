"""How requests arrive at one model: what a decision to wait for more of them depends on.

- Two rates: of all arrivals, and of those while the model was active, that is, while a request of it
  waited or ran. Callers that wait for their answers (a closed loop) send nothing while nothing is
  answered, so the second rate tells them from an open stream, and no window is opened for them. What
  arrives just after the end of a batch may be their next requests: neither it nor that time counts in
  the second rate.
- The gain of short waits for the next request, by their length: what each would have saved or cost,
  learned from the gaps that were seen while something waited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp

from batcher.core.captured import Captured
from batcher.core.policies.backlog import MOST_REQUESTS

RATE_TARGETS = 10.0
"""Time constant of both rates, in targets; for the second, of active time. 40 % more costs 1.3 points of
busy time at a load of 0.6, 30 % less saves 0.8."""

GAPS = (0.1, 0.2, 0.4, 0.8)
"""The lengths of waits that are compared, as parts of what merging two batches saves. 30 % off moves
the mean latency of eight callers in a closed loop, 14.2 ms, by 0.2 ms. What arrives within the second
of them after the end of a batch, or after another such arrival, may be the next request of a caller
that was just answered."""

GAP_WEIGHT = 0.02
"""Weight of one gap in the gain of each wait."""


@dataclass(slots=True)
class ArrivalStats(Captured):
    """Counts of one model's arrivals. Times in nanoseconds, rates in rows a nanosecond."""

    target_ns: int
    default_rank: int
    """The rank of most requests: those without a priority, of tenants within their share."""
    rate: float = 0.0
    rows_each: float = 1.0
    """Rows of a request, on average."""
    _folded_ns: int = 0
    """When the averages were brought up to date; the next two are counts since then."""
    _rows: int = 0
    _requests: int = 0
    _active_rows: float = 0.0
    """Rows that arrived in `_active_ns` of active time; both fade. The next two are new since the fold."""
    _active_ns: float = 0.0
    _new_active_rows: int = 0
    _new_active_ns: int = 0
    _last_ns: int = 0
    _active_since_ns: int = -1
    _after_replies: bool = False
    """Whether all since the end of the last batch has followed within `GAPS[1]`."""
    ranks: dict[int, float] = field(default_factory=dict)
    """Rows that arrived lately, by rank; empty while all have the default rank."""
    ended_rows: int = 0
    """Rows of the batch that ended last."""
    gap_since_ns: int | None = None
    """When the wait for the next request began; None while there is none."""
    _gap_of_ns: int = -1
    """When the last request before that wait arrived."""
    _gap_behind: int = 0
    _merge_ns: float = 0.0
    _gains: list[float] = field(default_factory=lambda: [0.0] * len(GAPS))
    _gains_behind: list[float] = field(default_factory=lambda: [0.0] * len(GAPS))

    def arrived(self, rows: int, rank: int, now_ns: int, active: bool) -> None:
        """Count a request. `active`: another of the model's waited or ran when it arrived."""
        self._rows += rows
        self._requests += 1
        if not active:
            self._active_since_ns = now_ns
        elif now_ns != self._active_since_ns:
            # What arrives at the moment that ends an idle spell arrived with it.
            if not self._after_replies:
                self._new_active_ns += now_ns - self._last_ns
                self._new_active_rows += rows
            elif self._count_active(now_ns):
                self._new_active_rows += rows
        self._last_ns = now_ns
        if self.gap_since_ns is not None:
            self._gap_ended(now_ns - self.gap_since_ns)
        if self.ranks or rank != self.default_rank:
            self._count_rank(rank, rows)

    def _count_rank(self, rank: int, rows: int) -> None:
        """Count the rows of a rank, where there are several: what arrived lately is about as much as is planned."""
        ranks = self.ranks
        ranks[rank] = ranks.get(rank, 0.0) + rows
        if sum(ranks.values()) > MOST_REQUESTS:
            for each in ranks:
                ranks[each] /= 2.0

    def share_up_to(self, rank: int) -> float:
        """The part of recent arrivals that were of this rank or a better one."""
        if not self.ranks:
            return 0.0
        counted = sum(rows for each, rows in self.ranks.items() if each <= rank)
        return counted / sum(self.ranks.values())

    def ended(self, rows: int, now_ns: int) -> None:
        """Note that a batch of so many rows has ended."""
        self._count_active(now_ns)
        self._last_ns = now_ns
        self._after_replies = True
        self.ended_rows = rows

    def _count_active(self, now_ns: int) -> bool:
        """Count the time since the last event as active, less `GAPS[1]` where replies have just left.

        Returns False where all of it is within that gap.
        """
        passed_ns = now_ns - self._last_ns
        if self._after_replies:
            passed_ns -= int(GAPS[1] * self._merge_ns)
            if passed_ns <= 0:
                return False
            self._after_replies = False
        self._new_active_ns += passed_ns
        return True

    def fold(self, now_ns: int) -> None:
        """Bring the averages up to now, before they are read."""
        passed_ns = now_ns - self._folded_ns
        if passed_ns > 0:
            kept = exp(-passed_ns / (RATE_TARGETS * self.target_ns))
            self.rate = self.rate * kept + self._rows / passed_ns * (1.0 - kept)
            if self._requests:
                self.rows_each += 0.1 * (self._rows / self._requests - self.rows_each)
            self._rows = self._requests = 0
            self._folded_ns = now_ns
        if self._new_active_ns:
            kept = exp(-self._new_active_ns / (RATE_TARGETS * self.target_ns))
            self._active_rows = self._active_rows * kept + self._new_active_rows
            self._active_ns = self._active_ns * kept + self._new_active_ns
            self._new_active_rows = self._new_active_ns = 0

    def rank_anew(self, new_rank: Callable[[int], int], default_rank: int) -> None:
        """Move counts of ranks to what `new_rank` says each of them is now."""
        ranks: dict[int, float] = {}
        for rank, rows in self.ranks.items():
            to = new_rank(rank)
            ranks[to] = ranks.get(to, 0.0) + rows
        self.default_rank = default_rank
        self.ranks = {} if set(ranks) <= {default_rank} else ranks

    @property
    def steady_rate(self) -> float:
        """Rows a nanosecond that may be expected during a wait: the lower of the two rates."""
        if self._active_ns <= 0.0:
            return 0.0
        seen = self._active_rows / max(self._active_ns, self.target_ns)
        return min(seen, self.rate)

    def gap(self, last_ns: int, now_ns: int, merge_ns: float, behind: int) -> float | None:
        """When to stop waiting for the next request; None where no such wait has a gain.

        `last_ns` is when the last one arrived, and `merge_ns` what serving it together with the next
        saves. `behind`: how many wait, if the first of them has waited for an instance; else 0.
        """
        if self._gap_of_ns != last_ns and self.gap_since_ns is None:
            self.gap_since_ns = now_ns
            self._gap_of_ns = last_ns
            self._gap_behind = behind
        self._merge_ns = merge_ns
        return self._gap_ends(self._gains, 1)

    def gap_behind(self) -> float | None:
        """The same where requests have waited for an instance: the wait costs each of them."""
        return self._gap_ends(self._gains_behind, self._gap_behind) if self._gap_behind else None

    def _gap_ends(self, gains: list[float], paid_by: int) -> float | None:
        gain = max(gains)
        if self.gap_since_ns is None or gain <= 0.0:
            return None
        return self.gap_since_ns + GAPS[gains.index(gain)] * self._merge_ns / paid_by

    def _gap_ended(self, waited_ns: int) -> None:
        """Learn what each length of wait would have gained: a merge less the wait, or less by the wait."""
        self._learn(self._gains, waited_ns)
        if self._gap_behind:
            self._learn(self._gains_behind, waited_ns * self._gap_behind)
        self.gap_since_ns = None

    def _learn(self, gains: list[float], cost_ns: int) -> None:
        """Move the gain of each length. `cost_ns`: the wait that was seen, times the requests waiting."""
        merge_ns = self._merge_ns
        won_ns = merge_ns - cost_ns
        for place, part in enumerate(GAPS):
            wait_ns, gain = part * merge_ns, gains[place]
            gains[place] += GAP_WEIGHT * ((won_ns if cost_ns < wait_ns else -wait_ns) - gain)
