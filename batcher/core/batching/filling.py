"""Least-padding fill: whom to add to a batch from the lanes of other buckets.

A policy chooses the batch: the most urgent requests, all of one bucket. Where it leaves room and
took all of its lane, requests of other buckets may come along, padded to the same shape: those that
pad least first. The batch may also be padded to a larger bucket to take its requests in. Both are
done only where they save device time, by what batches of each bucket take, and where they make
nobody late who would be in time without.
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
from batcher.core.times import NEVER_NS

LEAST_GAIN = 0.25
"""What a fill must save, as a part of what its requests would take by themselves: predictions of
different buckets were made at different moments, and are not better than that."""


@record
class Filling:
    """A batch's bucket and rows with `extra` requests from other lanes, and what it saves."""

    bucket: Shapes
    extra: tuple[LiveRequest, ...]
    rows: int
    expected_ns: float
    apart_ns: float
    """What the same requests would take in batches of their own."""

    @property
    def saves_ns(self) -> float:
        """Time of the device that is saved."""
        return self.apart_ns - self.expected_ns


@record
class Chosen:
    """The batch as its policy wants it, and what else is known at that moment."""

    group: BatchGroup
    take: Sequence[LiveRequest]
    rows: int
    given_up: Collection[int]
    """Ids of requests that policies have just given up."""
    longest_ns: float | None
    now_ns: int


def fill_up(model: Model, chosen: Chosen) -> Filling | None:
    """The filling that saves most device time, if any saves enough."""
    group = chosen.group
    most = _most_rows(model, chosen.rows)
    left = [r for r in group if r.id not in chosen.given_up] if chosen.given_up else group
    if chosen.rows >= most or len(chosen.take) < len(left) or chosen.take[0].canary:
        return None
    if any(request.split is not None for request in chosen.take):
        return None
    key, own = group.key
    mates = [
        each for each in model.queue.groups.values() if each.key[0] == key and each is not group
    ]
    if not mates or not model.policy.fills_batches or not model.times.of(own):
        return None
    buckets = [own, *(m.key[1] for m in mates if model.holds(m.key[1], own))]
    fillings = [_filled(model, chosen, mates, bucket, most) for bucket in buckets]
    best = max(fillings, key=_saves_ns)
    return best if best.saves_ns > LEAST_GAIN * best.apart_ns else None


def _saves_ns(filling: Filling) -> float:
    return filling.saves_ns


def _most_rows(model: Model, rows: int) -> int:
    """The largest batch that a fill may make: where its policy names sizes, the next of them."""
    most = model.settings.max_batch_size
    return min([size for size in model.policy.fill_sizes if size >= rows], default=most)


def _filled(
    model: Model, chosen: Chosen, mates: Sequence[BatchGroup], bucket: Shapes, most: int
) -> Filling:
    """The batch padded to `bucket`, with whom that takes in from the other lanes."""
    now_ns, rows = chosen.now_ns, chosen.rows
    times, own = model.times.of(bucket), model.times.of(chosen.group.key[1])
    alone_ns = own.curve[rows]
    nothing = Filling(chosen.group.key[1], (), rows, alone_ns, alone_ns)
    if not times:
        return nothing
    # Who would be late anyway is not waited for.
    in_time_ns = now_ns + own.p95[rows]
    must_ns = min(
        [at for at in map(latest_finish_ns, chosen.take) if at >= in_time_ns], default=NEVER_NS
    )
    if chosen.longest_ns is not None:
        most = min(most, bisect_right(times.curve, chosen.longest_ns) - 1)
    extra: list[LiveRequest] = []
    apart_ns = alone_ns
    for mate in _least_padding_first(model, mates, bucket):
        picked, last_ns = _pick(mate, chosen, times, rows, most, must_ns)
        if not picked:
            continue
        added = sum([request.rows for request in picked])
        curve = model.times.of(mate.key[1]).curve
        saved_ns = _saved_ns(curve, mate.rows, added, chosen.rows)
        more_ns = times.curve[rows + added] - times.curve[rows]
        if more_ns < (1.0 - LEAST_GAIN) * saved_ns or bucket == mate.key[1]:
            must_ns = last_ns
            apart_ns += saved_ns
            extra += picked
            rows += added
    expected_ns = times.curve[rows]
    if not extra or now_ns + times.p95[rows] > must_ns:
        return nothing
    if _harms(model, chosen, mates, {r.id for r in extra}, expected_ns):
        return nothing
    return Filling(bucket, tuple(extra), rows, expected_ns, apart_ns)


def _least_padding_first(
    model: Model, mates: Sequence[BatchGroup], bucket: Shapes
) -> list[BatchGroup]:
    """Lanes whose requests can be padded to the bucket, and of which it is known what they take."""
    held = [each for each in mates if model.holds(bucket, each.key[1])]
    held.sort(key=_volume, reverse=True)
    return [each for each in held if model.times.of(each.key[1])]


def _volume(group: BatchGroup) -> int:
    return volume(group.key[1])


def _pick(
    mate: BatchGroup, chosen: Chosen, times: ServiceTimes, rows: int, most: int, must_ns: int
) -> tuple[list[LiveRequest], int]:
    """Requests of a lane, in its order, that fit and make nobody late; and who must be done when."""
    picked: list[LiveRequest] = []
    for request in mate:
        if request.id in chosen.given_up or request.canary or request.split is not None:
            continue
        grown = rows + request.rows
        if grown > most:
            break
        done_ns = chosen.now_ns + times.p95[grown]
        if done_ns > must_ns:
            break
        last_ns = latest_finish_ns(request)
        if done_ns > last_ns:
            continue
        picked.append(request)
        rows, must_ns = grown, min(must_ns, last_ns)
    return picked, must_ns


def _saved_ns(curve: Sequence[float], rows: int, added: int, usual: int) -> float:
    """What a lane of so many rows needs less time for without the rows that are added elsewhere.

    It may have its turn late enough for its batch to be of a `usual` size, and then each row saves
    no more than its part of that one.
    """
    now_ns = _cleared_ns(curve, rows) - _cleared_ns(curve, rows - added)
    size = min(max(rows, usual), len(curve) - 1)
    return min(now_ns, added * curve[size] / size)


def _cleared_ns(curve: Sequence[float], rows: int) -> float:
    """What so many rows take in batches of their own."""
    largest = len(curve) - 1
    return rows // largest * curve[largest] + curve[rows % largest]


def _harms(
    model: Model, chosen: Chosen, mates: Sequence[BatchGroup], taken: set[int], expected_ns: float
) -> bool:
    """Whether the first of some other lane would be late because the batch takes longer now."""
    alone_ns = model.times.of(chosen.group.key[1]).curve[chosen.rows]
    for mate in mates:
        first = next((r for r in mate if r.id not in taken and r.id not in chosen.given_up), None)
        times = model.times.of(mate.key[1])
        if first is None or not times:
            continue
        start_ns = latest_finish_ns(first) - times.p95[first.rows]
        if chosen.now_ns + alone_ns <= start_ns < chosen.now_ns + expected_ns:
            return True
    return False
