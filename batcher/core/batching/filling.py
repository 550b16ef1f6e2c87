"""Fills a batch up with requests of other padding buckets, those that need least padding first.

A policy chooses requests of one bucket. Where it took its whole group and the batch has room, requests
of other buckets with the same batch key may be added, padded to the same shape. The batch may also be
padded to a larger bucket, to add requests of that one. Both are done only where the predictions say
that they save device time, and make no request of the batch late that would be in time otherwise, nor
one miss its limit: what is only let try beside an idle instance goes alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence

from batcher.core.events import Shapes
from batcher.core.model import Model
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.padding import volume
from batcher.core.queueing.ranks import latest_finish_ns
from batcher.core.queueing.request import LiveRequest
from batcher.core.record import record
from batcher.core.service_time.estimator import ServiceTimes

MIN_GAIN = 0.25
"""A filling must save this share of the time that its requests would take in batches of their own.
Predictions of different buckets were made at different moments, and are no more exact than that."""


@record
class Filling:
    """A batch's bucket and rows with `extra` requests of other groups, and the time it saves."""

    bucket: Shapes
    extra: tuple[LiveRequest, ...]
    rows: int
    expected_ns: float
    apart_ns: float
    """The time of the same requests in batches of their own."""

    @property
    def saves_ns(self) -> float:
        """Nanoseconds of the device that are saved."""
        return self.apart_ns - self.expected_ns


@record
class PlannedBatch:
    """The batch as its policy wants it; `now_ns` is when it begins."""

    group: BatchGroup
    take: Sequence[LiveRequest]
    rows: int
    given_up: Collection[int]
    """Ids of requests that policies have just given up."""
    longest_ns: float | None
    now_ns: int


def fill_up(model: Model, planned: PlannedBatch) -> Filling | None:
    """Returns the filling that saves most device time, if one saves enough."""
    group = planned.group
    most = _most_rows(model, planned.rows)
    left = [r for r in group if r.id not in planned.given_up] if planned.given_up else group
    if planned.rows >= most or len(planned.take) < len(left):
        return None
    if any(request.split is not None for request in planned.take):
        return None
    key, own = group.key
    others = [
        each for each in model.queue.groups.values() if each.key[0] == key and each is not group
    ]
    if not others or not model.fills_batches or not model.times.of(own):
        return None
    buckets = [own, *(other.key[1] for other in others if model.holds(other.key[1], own))]
    fillings = [_filled(model, planned, others, bucket, most) for bucket in buckets]
    best = max(fillings, key=_saves_ns)
    return best if best.saves_ns > MIN_GAIN * best.apart_ns else None


def _saves_ns(filling: Filling) -> float:
    return filling.saves_ns


def _most_rows(model: Model, rows: int) -> int:
    """Returns the rows to fill up to: where the policy names sizes, the next of them."""
    most = model.settings.max_batch_size
    return min([size for size in model.fill_sizes if size >= rows], default=most)


def _filled(
    model: Model, planned: PlannedBatch, others: Sequence[BatchGroup], bucket: Shapes, most: int
) -> Filling:
    """Returns the batch padded to `bucket`, with the requests of other groups that fit it."""
    now_ns, rows = planned.now_ns, planned.rows
    times, own = model.times.of(bucket), model.times.of(planned.group.key[1])
    unfilled_ns = own.curve[rows]
    nothing = Filling(planned.group.key[1], (), rows, unfilled_ns, unfilled_ns)
    if not times or rows > times.max_rows:
        return nothing
    # Requests that would miss their due times anyway are held to their limits alone.
    in_time_ns = now_ns + own.expected[rows]
    must_ns = min(
        [
            last_ns if (last_ns := latest_finish_ns(each)) >= in_time_ns else each.limit_ns
            for each in planned.take
        ]
    )
    most = min(most, times.max_rows)
    if planned.longest_ns is not None:
        most = min(most, bisect_right(times.curve, planned.longest_ns) - 1)
    extra: list[LiveRequest] = []
    apart_ns = unfilled_ns
    for other in _least_padding_first(model, others, bucket):
        picked, last_ns = _pick(other, planned, times, rows, most, must_ns)
        if not picked:
            continue
        added = sum([request.rows for request in picked])
        curve = model.times.of(other.key[1]).curve
        saved_ns = _saved_ns(curve, other.rows, added, planned.rows)
        more_ns = times.curve[rows + added] - times.curve[rows]
        if more_ns < (1.0 - MIN_GAIN) * saved_ns or bucket == other.key[1]:
            must_ns = last_ns
            apart_ns += saved_ns
            extra += picked
            rows += added
    expected_ns = times.curve[rows]
    if not extra or now_ns + times.p95[rows] > must_ns:
        return nothing
    return Filling(bucket, tuple(extra), rows, expected_ns, apart_ns)


def _least_padding_first(
    model: Model, others: Sequence[BatchGroup], bucket: Shapes
) -> list[BatchGroup]:
    """Returns the groups that can be padded to the bucket and have been measured, largest first."""
    held = [each for each in others if model.holds(bucket, each.key[1])]
    held.sort(key=_volume, reverse=True)
    return [each for each in held if model.times.of(each.key[1])]


def _volume(group: BatchGroup) -> int:
    return volume(group.key[1])


def _pick(
    other: BatchGroup,
    planned: PlannedBatch,
    times: ServiceTimes,
    rows: int,
    most: int,
    must_ns: int,
) -> tuple[list[LiveRequest], int]:
    """Returns the requests of a group that fit and make none late, and when the batch must finish."""
    picked: list[LiveRequest] = []
    for request in other:
        if request.id in planned.given_up or request.split is not None:
            continue
        grown = rows + request.rows
        if grown > most:
            break
        done_ns = planned.now_ns + times.p95[grown]
        if done_ns > must_ns:
            break
        last_ns = latest_finish_ns(request)
        if done_ns > last_ns:
            continue
        picked.append(request)
        rows, must_ns = grown, min(must_ns, last_ns)
    return picked, must_ns


def _saved_ns(curve: Sequence[float], rows: int, added: int, usual: int) -> float:
    """Returns the time that a group of so many rows saves if some of them are added elsewhere.

    That is their share of a batch of the group, which may grow to a `usual` one before its turn.
    """
    size = min(max(rows, usual), len(curve) - 1)
    return added * curve[size] / size
