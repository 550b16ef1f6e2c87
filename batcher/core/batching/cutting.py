"""Cuts a batch back to a size that can run, where its rest is better served after it.

A policy chooses by the predictions, in which filling is free: 5 rows take what 8 take. It does not know
that 9 rows, which run as 16, may take longer than 8 and then 1. So that holds here, for every policy.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.queueing.request import LiveRequest
from batcher.core.service_time.estimator import ServiceTimes


def cut(
    take: Sequence[LiveRequest], rows: int, times: ServiceTimes, most_rows: int | None
) -> tuple[Sequence[LiveRequest], int]:
    """Returns the first of the requests of a batch that run now, and their rows.

    They are all of them, unless a size and the rest after it take no longer (`BatchSizes.apart`), or
    they have more than `most_rows`, which the predictions cannot tell from the size that these run with.
    """
    sizes = times.batch_sizes
    if sizes is None or rows < 2:
        return take, rows
    if most_rows is not None and rows > most_rows:
        take, rows = _first(take, most_rows)
    size = sizes.below(rows)
    if size and times.curve:
        fewer, fewer_rows = _first(take, size)
        if fewer_rows <= size and sizes.apart(fewer_rows, rows, times.curve):
            return fewer, fewer_rows
    return take, rows


def filling(rows: int, room: int, times: ServiceTimes) -> int:
    """Returns how many of `room` rows fill a batch of so many rows up: those of a size, if the rest can wait."""
    sizes = times.batch_sizes
    size = 0 if sizes is None else sizes.below(rows + room)
    if sizes is None or size < rows or not times.curve:
        return room
    return size - rows if sizes.apart(size, rows + room, times.curve) else room


def _first(take: Sequence[LiveRequest], most: int) -> tuple[Sequence[LiveRequest], int]:
    """Returns the first requests of at most so many rows, but one at least."""
    rows = take[0].rows
    for place, request in enumerate(take[1:], 1):
        if rows + request.rows > most:
            return take[:place], rows
        rows += request.rows
    return take, rows
