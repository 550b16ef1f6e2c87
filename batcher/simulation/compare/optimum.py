"""The clairvoyant bound: how many requests a scheduler that knows the future serves on time.

One instance, one model, one target, every request one row, service times exact. Batches that are
contiguous in order of arrival are enough, because of two requests the later one is due later.
Let G[j][D] be the earliest time by which the first j requests can be done, with at most D dropped:

    G[j][D] = min(G[j-1][D-1], min over b of c = max(G[j-b][D], a_j) + l(b) if c <= due_{j-b+1})

Only few D matter for each j. Below some D nothing is feasible, and that bound never sinks as j
grows. From some D on the device is idle when request j arrives, and more drops gain nothing. Between
the two lie at most as many values of D as requests can be served within one target. So the cost is
of the order of n * B * (requests served in one target), at any load.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NEVER_NS = 1 << 61
_LONG_AGO_NS = -_NEVER_NS
_FIRST_WIDTH = 64

_Times = NDArray[np.int64]


def on_time_optimum(
    arrivals_ns: Sequence[int] | _Times, service_ns: Sequence[int], target_ns: int
) -> int:
    """The most requests that any schedule finishes within `target_ns` of their arrival.

    `arrivals_ns` is in order; `service_ns[b]` is the time that a batch of `b` rows takes, and
    `service_ns[0]` is not read. Where a larger batch is faster than a smaller one, the smaller
    one counts as that fast, because it could be padded. Raises `ValueError` when the arrivals are
    out of order or there is no batch size.
    """
    offered = len(arrivals_ns)
    dropped = drops_needed(arrivals_ns, service_ns, target_ns, offered)
    return 0 if dropped is None else offered - dropped


def drops_needed(
    arrivals_ns: Sequence[int] | _Times, service_ns: Sequence[int], target_ns: int, most: int
) -> int | None:
    """The least number of requests to drop so that all others are on time; None above `most`.

    Takes and raises what `on_time_optimum` does. Stops at the request where `most` is exceeded.
    """
    arrivals = np.asarray(arrivals_ns, dtype=np.int64)
    if np.any(np.diff(arrivals) < 0):
        raise ValueError("arrivals are out of order")
    if len(service_ns) < 2:
        raise ValueError("service times begin with those of a batch of one row, at index 1")
    service = np.asarray(service_ns[1:], dtype=np.int64)
    service = np.minimum.accumulate(service[::-1])[::-1]
    service = service[service <= target_ns]
    if not len(service):
        return len(arrivals) if len(arrivals) <= most else None
    band = _Band(len(service))
    backwards = service[::-1, None]
    never_due = np.full(len(service), _LONG_AGO_NS)
    due = np.concatenate((never_due, arrivals + target_ns))[:, None]
    for j, arrival_ns in enumerate(arrivals.tolist()):
        # The batch that ends with request j and has b rows begins at row j - b + 1 of `due`,
        # which is padded, because no batch begins before the first request.
        band.advance(arrival_ns, backwards, due[j + 1 : j + 1 + len(service)])
        if band.least > most:
            return None
    return band.least


class _Band:
    """The last rows of G, one for each batch size, and the columns that matter of each.

    Rows lie in a ring that is written twice, so that the latest ones are always one slice, oldest
    first. Columns left of `low` are infeasible in the latest row; those from `end` on are idle.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._at = 0
        self._base = 0
        self._low = 0
        self._end = 1
        self._ring = np.full((2 * rows, _FIRST_WIDTH), _NEVER_NS)
        # No requests yet: all done, and the device idle, with any number of drops.
        self._ring[[0, rows]] = _LONG_AGO_NS

    @property
    def least(self) -> int:
        """The fewest drops with which all rows so far are feasible."""
        return self._base + self._low

    def advance(self, arrival_ns: int, service: _Times, due: _Times) -> None:
        """Add the row of the request that arrived at `arrival_ns`.

        `service` and `due` are columns, for batches from the largest down to one row.
        """
        if self._end + 1 >= self._ring.shape[1]:
            self._make_room()
        low, end = self._low, self._end + 1
        latest = self._ring[self._at + 1 : self._at + 1 + self._rows, low:end]
        through = np.maximum(latest, arrival_ns)
        through += service
        through[through > due] = _NEVER_NS
        row = through.min(axis=0)
        # One drop more than the row before, for the columns that have a neighbor on the left.
        np.minimum(row[1:], latest[-1, :-1], out=row[1:])
        self._at = (self._at + 1) % self._rows
        for copy in (self._at, self._at + self._rows):
            self._ring[copy, low:end] = row
            self._ring[copy, end:] = _LONG_AGO_NS
        # The row falls from left to right: first what is infeasible, in the end what is idle.
        falling = row[::-1]
        self._end = end - int(np.searchsorted(falling, arrival_ns, side="right"))
        self._low = end - int(np.searchsorted(falling, _NEVER_NS, side="left"))
        self._end = max(self._end, self._low) + 1

    def _make_room(self) -> None:
        """Forget the columns that are infeasible for good, or widen where too few of them are."""
        width = self._ring.shape[1]
        keep = self._ring[:, self._low :]
        if self._low < width // 2:
            width *= 2
        ring = np.full((2 * self._rows, width), _LONG_AGO_NS)
        ring[:, : keep.shape[1]] = keep
        self._ring = ring
        self._base += self._low
        self._end -= self._low
        self._low = 0
