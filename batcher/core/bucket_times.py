"""Service times of one model's batches, by padding bucket, and what follows from them.

What follows: the rate that an instance can serve, what a batch costs the device, and how long what
waits will take. Without padding, the bucket of a request is its shapes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from batcher.core.batch_sizes import BatchSizes
from batcher.core.devices.instances import RunningBatch
from batcher.core.events import Shapes
from batcher.core.queueing.padding import estimate, volume
from batcher.core.queueing.queue import ModelQueue
from batcher.core.service_time.drift import JUMP_SAMPLES
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.service_time.handling import Handling
from batcher.core.settings import ModelSettings

MOST_SHAPES = 64
"""Buckets whose service times are remembered; the one used least recently is forgotten."""


class BucketTimes(dict[Shapes, ServiceTimes]):
    """A model's `ServiceTimes` by bucket, the one used last at the end."""

    __slots__ = (
        "_batch_sizes",
        "_best_rate",
        "_given_sizes",
        "_max_rows",
        "_most_rows",
        "_padded",
        "_rated",
        "_target_ns",
    )

    def __init__(self, settings: ModelSettings, most_rows: Callable[[Shapes], int]) -> None:
        super().__init__()
        self._most_rows = most_rows
        self._best_rate = 0.0
        self._rated: list[Sequence[float]] | None = None
        self._batch_sizes: BatchSizes | None = None
        self._given_sizes: tuple[int, ...] = ()
        self._max_rows = 0
        self.configure(settings)

    def configure(self, settings: ModelSettings) -> None:
        """Take a model's settings: its batches, its target, and whether it is padded."""
        sizes = settings.max_batch_size, settings.batch_sizes
        if sizes != (self._max_rows, self._given_sizes):
            self._batch_sizes = BatchSizes(sizes[1], sizes[0]) if sizes[1] else None
        self._max_rows, self._given_sizes = sizes
        self._target_ns = settings.target_ns
        self._padded = bool(settings.padding)
        for times in self.values():
            times.aim(self._target_ns)
        self.fit()

    def fit(self) -> None:
        """Predict up to the largest batch of each bucket, which may be another one now."""
        self._rated = None
        for bucket, times in self.items():
            most = self._most_rows(bucket)
            sizes = self._sizes_up_to(most)
            if times.max_rows != most or times.batch_sizes is not sizes:
                times.resize(most, sizes)

    def _sizes_up_to(self, most: int) -> BatchSizes | None:
        """The sizes of batches of at most so many rows."""
        if most >= self._max_rows or not self._given_sizes:
            return self._batch_sizes
        return BatchSizes(self._given_sizes, most)

    def _new(self, bucket: Shapes) -> ServiceTimes:
        most = self._most_rows(bucket)
        return ServiceTimes(most, self._target_ns, self._sizes_up_to(most))

    def restore(self, state: Iterable[tuple[Shapes, tuple[object, ...]]]) -> None:
        """Replace all by what `ServiceTimes.capture` returned for each bucket."""
        self.clear()
        for bucket, times in state:
            self[bucket] = self._new(bucket)
            self[bucket].restore(times)

    def of(self, bucket: Shapes) -> ServiceTimes:
        """What batches of a bucket take. One never measured is estimated from the others."""
        times = self.get(bucket)
        if times is None:
            times = self._new(bucket)
            if self._padded:
                times.seed_copies(self._estimated(bucket, copies=True))
                times.seed(self._estimated(bucket), measured=False)
            while len(self) >= MOST_SHAPES:
                del self[next(iter(self))]
            self[bucket] = times
        elif len(self) > 1:
            del self[bucket]
            self[bucket] = times
        return times

    @property
    def pipelined(self) -> bool:
        """Whether batches are copied in while others compute, as far as known."""
        last = next(reversed(self.values()), None)
        return last is not None and bool(last.copies)

    def seed(
        self,
        bucket: Shapes,
        profile: Iterable[tuple[int, int]],
        copies: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Take in (rows, nanoseconds) that a warm-up measured of a bucket: of its batches, of copying them."""
        times = self.get(bucket)
        if times is None and len(self) < MOST_SHAPES:
            times = self[bucket] = self._new(bucket)
        if times is not None:
            times.seed_copies(copies)
            times.seed(profile)
            times.steady = JUMP_SAMPLES

    def observe(
        self,
        batch: RunningBatch,
        own_ns: int,
        beyond_ns: float,
        handling: Handling,
        now_ns: int,
        copy_ns: int = 0,
    ) -> None:
        """Learn from a batch that has ended now: its own time, the time around it, that of copying it.

        A device that has become slower or faster has for other buckets, too. Those that run show it
        themselves. A bucket that was not as predicted before says nothing of others.
        """
        times = self.of(batch.shapes)
        before, steady = times.drift, times.steady >= JUMP_SAMPLES
        times.take_handling(handling)
        times.observe(batch.rows, own_ns, now_ns, batch.dispatched_ns, beyond_ns, copy_ns)
        if len(self) > 1 and times.drift != before and steady:
            for other in self.values():
                if other is not times and other.is_stale(now_ns):
                    other.follow(times.drift / before)

    def refresh(self, handling: Handling, now_ns: int) -> None:
        """Forget what is too old, in every bucket."""
        for times in self.values():
            times.take_handling(handling)
            times.refresh(now_ns)

    @property
    def reachable(self) -> bool:
        """Whether a batch of one row can be done inside the target, in some bucket or as far as known."""
        alone_ns = [times.alone[1] for times in self.values() if times.alone]
        return not alone_ns or self._target_ns is None or min(alone_ns) <= self._target_ns

    def best_rate(self) -> float:
        """Rows a nanosecond that one instance can serve inside the target; 0.0 while unknown.

        Where no batch is inside the target, the rate of all sizes: then every request is late.
        """
        # Pipelined batches may be free sooner and end when they did, and the other way round.
        rated = [each for times in self.values() for each in (times.curve, times.alone)]
        if rated == self._rated:
            return self._best_rate
        best = 0.0
        for times in self.values():
            for rows, took_ns in enumerate(self.inside_target(times)):
                if took_ns:
                    best = max(best, rows / took_ns)
        self._rated, self._best_rate = rated, best
        return best

    def cost_ns(self, bucket: Shapes, rows: int) -> float:
        """What rows of a bucket take in batches of the most efficient size inside the target.

        0.0 while unknown. It does not grow where other models leave no time for such batches.
        """
        times = self.get(bucket)
        if not times:
            return 0.0
        if len(self) == 1:
            return rows / self.best_rate()
        inside = self.inside_target(times)
        return rows * min([inside[size] / size for size in range(1, len(inside))])

    def inside_target(self, times: ServiceTimes) -> Sequence[float]:
        """The part of a curve with the batches inside the target; all of it where not even one row is."""
        target_ns, curve, alone = self._target_ns, times.curve, times.alone
        if target_ns is None or not curve or alone[1] > target_ns:
            return curve
        return curve[: bisect_right(alone, target_ns)]

    def backlog_ns(self, queue: ModelQueue, rows: int) -> float:
        """What one instance needs for `rows` rows, in batches of the most efficient size.

        0.0 while unknown. `rows` may be more than the queue has: rows that have no place in it are
        taken to be of the same buckets as those that have.
        """
        if len(self) <= 1 or not self._padded or not queue.rows:
            return self._backlog_of_one_bucket_ns(len(queue.groups), rows)
        several = len(queue.groups) > 1
        queued_ns = 0.0
        each_ns: dict[Shapes, float] = {}
        for group in queue.groups.values():
            bucket = group.key[1]
            times = self.get(bucket)
            if times:
                curve = times.curve
                if bucket not in each_ns:
                    each_ns[bucket] = min([curve[b] / b for b in range(1, len(curve))])
                # Groups share no batch, so even a small one takes a batch of its own.
                alone_ns = curve[min(group.rows, len(curve) - 1)] if several else 0.0
                queued_ns += max(alone_ns, group.rows * each_ns[bucket])
        return queued_ns * rows / queue.rows

    def _backlog_of_one_bucket_ns(self, groups: int, rows: int) -> float:
        """The same where all rows are alike.

        For each group after the first, what one row alone takes beyond its part of a large batch is
        added once.
        """
        rate = self.best_rate()
        if not rate:
            return 0.0
        backlog_ns = rows / rate
        if groups > 1:
            last = next(reversed(self.values()))
            alone_ns = last.curve[1] if last else 0.0
            backlog_ns += (groups - 1) * max(0.0, alone_ns - 1.0 / rate)
        return backlog_ns

    def _estimated(self, bucket: Shapes, *, copies: bool = False) -> list[tuple[int, int]]:
        """(rows, nanoseconds) of a bucket, or of its copies, by its volume among those that were measured."""
        known = [
            (volume(each), times.copies if copies else times.curve)
            for each, times in self.items()
            if (times.copies if copies else times.curve)
        ]
        if not known:
            return []
        # Under a memory ceiling, other buckets may be known for smaller batches only.
        most = min(self._most_rows(bucket), *[len(curve) - 1 for _, curve in known])
        sizes = self._sizes_up_to(most)
        at = volume(bucket)
        return [
            (rows, int(estimate(at, [(each, curve[rows]) for each, curve in known])))
            for rows in (sizes.sizes if sizes else sorted({1, (most + 1) // 2, most}))
        ]
