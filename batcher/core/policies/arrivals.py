"""How requests arrive at one model, as far as waiting for them depends on it.

Two rates: of all arrivals, and of those that came while something was waiting or running. Callers
that wait for their answers send nothing while nothing is answered, so the second rate tells them
from an open stream, and no window is opened for them. Answers leave one after the other, so
who follows close on the end of a batch is not counted in it, and neither is that time. The
dispersion of counts tells bursts from a steady stream. And the gaps that were waited for are
remembered: whether waiting a little longer for the next request has been worth it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp

RATE_TARGETS = 10.0
"""The rate of all arrivals is an average over about so many targets."""

FOLDS = 50
"""The averages are brought up to date at most this often in a target's time."""

ACTIVE_TARGETS = 20.0
"""The rate while active, over so many targets of activity."""

BURST_WEIGHT = 0.02
"""The dispersion follows the counts of a window (one target long) with this weight."""

GAPS = (0.1, 0.2, 0.4, 0.8)
"""Gaps that waiting is tried with, as parts of what merging two batches saves."""

CALLED_BACK = 0.2
"""Who follows so soon on the end of a batch, or on others who did, may come because of its answers;
in what merging two batches saves."""

GAP_WEIGHT = 0.02
"""How fast the gain of a gap follows what happened."""

RANKED_ROWS = 512.0
"""Shares of ranks are those among about so many rows."""

MOST_WINDOWS = 200
"""After a silence of more windows than this, all is forgotten but the averages."""


@dataclass(slots=True)
class ArrivalStats:
    """Counts of one model's arrivals. Times in nanoseconds, rates in rows a nanosecond."""

    target_ns: int
    rate: float = 0.0
    rows_each: float = 1.0
    _folded_ns: int = 0
    _rows: int = 0
    _requests: int = 0
    _active_rows: float = 0.0
    _active_ns: float = 0.0
    _new_active_rows: int = 0
    _new_active_ns: int = 0
    _last_ns: int = 0
    _woken_ns: int = -1
    _called_back: bool = False
    """Since the last batch ended, requests have followed close on one another."""
    _window_ends_ns: int = 0
    _window_rows: int = 0
    _windows: int = 0
    _window_mean: float = 0.0
    _window_variance: float = 0.0
    ranks: dict[int, float] = field(default_factory=dict)
    """Rows that came lately, by rank; empty while nobody names a priority and no tenants are told
    apart."""
    ended_rows: int = 0
    """Rows of the batch that ended last."""
    gap_since_ns: int | None = None
    _gap_of_ns: int = -1
    _gap_behind: int = 0
    _merge_ns: float = 0.0
    _gains: list[float] = field(default_factory=lambda: [0.0] * len(GAPS))
    _gains_behind: list[float] = field(default_factory=lambda: [0.0] * len(GAPS))

    def arrived(self, rows: int, now_ns: int, active: bool) -> None:
        """Count a request. `active`: something was waiting or running when it came."""
        self._rows += rows
        self._requests += 1
        if not active:
            self._woken_ns = now_ns
        elif now_ns != self._woken_ns:
            # Who comes in the moment that ends an idle spell was not waited with.
            if not self._called_back:
                self._new_active_ns += now_ns - self._last_ns
                self._new_active_rows += rows
            elif self._pass(now_ns):
                self._new_active_rows += rows
        self._last_ns = now_ns
        if now_ns >= self._window_ends_ns:
            self._next_window(now_ns)
        self._window_rows += rows
        if self.gap_since_ns is not None:
            self._gap_ended(now_ns - self.gap_since_ns)

    def count_rank(self, rank: int, rows: int) -> None:
        """Note the rank of an arrival, where there is more than one."""
        ranks = self.ranks
        ranks[rank] = ranks.get(rank, 0.0) + rows
        if sum(ranks.values()) > RANKED_ROWS:
            for each in ranks:
                ranks[each] /= 2.0

    def share_up_to(self, rank: int) -> float:
        """The part of recent arrivals that were of this rank or a better one."""
        if not self.ranks:
            return 0.0
        counted = sum(rows for each, rows in self.ranks.items() if each <= rank)
        return counted / sum(self.ranks.values())

    def ended(self, rows: int, now_ns: int) -> None:
        """A batch of so many rows has ended."""
        self._pass(now_ns)
        self._last_ns = now_ns
        self._called_back = True
        self.ended_rows = rows

    def _pass(self, now_ns: int) -> bool:
        """Count the time since the last event, but for that in which callers come back.

        Returns whether they no longer do.
        """
        passed_ns = now_ns - self._last_ns
        if self._called_back:
            passed_ns -= int(CALLED_BACK * self._merge_ns)
            if passed_ns <= 0:
                return False
            self._called_back = False
        self._new_active_ns += passed_ns
        return True

    def fold(self, now_ns: int) -> None:
        """Bring the averages up to now, before they are read."""
        passed_ns = now_ns - self._folded_ns
        if passed_ns * FOLDS < self.target_ns:
            return
        if passed_ns > 0:
            kept = exp(-passed_ns / (RATE_TARGETS * self.target_ns))
            self.rate = self.rate * kept + self._rows / passed_ns * (1.0 - kept)
            if self._requests:
                self.rows_each += 0.1 * (self._rows / self._requests - self.rows_each)
            self._rows = self._requests = 0
            self._folded_ns = now_ns
        if self._new_active_ns:
            kept = exp(-self._new_active_ns / (ACTIVE_TARGETS * self.target_ns))
            self._active_rows = self._active_rows * kept + self._new_active_rows
            self._active_ns = self._active_ns * kept + self._new_active_ns
            self._new_active_rows = self._new_active_ns = 0
        if now_ns >= self._window_ends_ns:
            self._next_window(now_ns)

    def retarget(self, target_ns: int) -> None:
        """Go on with another target. Counts of windows, which are one target long, are converted.

        The window that is open is given up: it has neither length.
        """
        if target_ns == self.target_ns:
            return
        longer = target_ns / self.target_ns
        self.target_ns = target_ns
        self._window_mean *= longer
        # As of a process whose dispersion does not depend on the length of the window.
        self._window_variance *= longer
        self._window_ends_ns = 0

    def rank_anew(self, new_rank: Callable[[int], int], default_rank: int) -> None:
        """Move counts of ranks to what `new_rank` says each of them is now."""
        ranks: dict[int, float] = {}
        for rank, rows in self.ranks.items():
            to = new_rank(rank)
            ranks[to] = ranks.get(to, 0.0) + rows
        self.ranks = {} if set(ranks) <= {default_rank} else ranks

    @property
    def steady_rate(self) -> float:
        """The lower of the two rates: what may be counted on while waiting."""
        if self._active_ns <= 0.0:
            return 0.0
        seen = self._active_rows / max(self._active_ns, self.target_ns)
        return min(seen, self.rate)

    @property
    def burstiness(self) -> float:
        """How far counts are more dispersed than those of a steady stream; 0 for one."""
        if self._window_mean <= 0.0:
            return 0.0
        return max(0.0, self._window_variance / self._window_mean / self.rows_each - 1.0)

    def gap(self, last_ns: int, now_ns: int, merge_ns: float, behind: int) -> float | None:
        """When to stop waiting for the next request; None where such waits have not been worth it.

        `last_ns` is when the last one came, and `merge_ns` what serving two together saves.
        `behind`: how many wait, if the first had to wait for an instance; else 0.
        """
        if self._gap_of_ns != last_ns and self.gap_since_ns is None:
            self.gap_since_ns = now_ns
            self._gap_of_ns = last_ns
            self._gap_behind = behind
        self._merge_ns = merge_ns
        return self._gap_ends(self._gains, 1)

    def gap_behind(self) -> float | None:
        """The same where requests waited for an instance: each of them pays for the gap."""
        return self._gap_ends(self._gains_behind, self._gap_behind) if self._gap_behind else None

    def _gap_ends(self, gains: list[float], paid_by: int) -> float | None:
        gain = max(gains)
        if self.gap_since_ns is None or gain <= 0.0:
            return None
        return self.gap_since_ns + GAPS[gains.index(gain)] * self._merge_ns / paid_by

    def _gap_ended(self, waited_ns: int) -> None:
        """What each gap would have brought: a merge less the wait, or the wait in vain."""
        self._learn(self._gains, waited_ns)
        if self._gap_behind:
            self._learn(self._gains_behind, waited_ns * self._gap_behind)
        self.gap_since_ns = None

    def _learn(self, gains: list[float], cost_ns: int) -> None:
        """`cost_ns` is what the wait cost those who pay for it."""
        merge_ns = self._merge_ns
        won_ns = merge_ns - cost_ns
        gains[:] = [
            gain + GAP_WEIGHT * ((won_ns if cost_ns < part * merge_ns else -part * merge_ns) - gain)
            for gain, part in zip(gains, GAPS, strict=True)
        ]

    def _next_window(self, now_ns: int) -> None:
        width_ns = self.target_ns
        passed = (now_ns - self._window_ends_ns) // width_ns + 1
        if self._window_ends_ns == 0 or passed > MOST_WINDOWS:
            self._window_ends_ns = now_ns + width_ns
            self._window_rows = 0
            return
        for _ in range(passed):
            counted = self._window_rows
            self._window_rows = 0
            self._windows += 1
            if self._windows == 1:
                self._window_mean = self._window_variance = float(counted)
            weight = max(BURST_WEIGHT, 1.0 / (self._windows + 1))
            off = counted - self._window_mean
            self._window_mean += weight * off
            self._window_variance += weight * (off * off - self._window_variance)
        self._window_ends_ns += passed * width_ns
