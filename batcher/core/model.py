"""One model as the scheduler knows it: settings, queue, policy, and what its batches take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batcher.core.devices.fleet import RunningBatch
from batcher.core.devices.prefetch import Prefetch
from batcher.core.events import Shapes, Timings
from batcher.core.faults.bisection import Bisections
from batcher.core.policies import BatchPolicy, PolicyFactory, greedy_policy
from batcher.core.queueing.padding import Buckets, estimate, volume
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.ranks import BEST_EFFORT, PROMOTED, default_rank, rank_of
from batcher.core.queueing.tenants import TenantShares
from batcher.core.service_time.drift import JUMP_SAMPLES
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import ModelSettings
from batcher.core.times import NEVER_NS

MOST_SHAPES = 64
"""Shape signatures whose service times are remembered; the one used least recently goes."""

USED_NS = 1_000_000_000.0
"""How much time on a device is remembered, where models compete for it."""

STALE_NS = 1_000_000_000
"""What was not tried for so long changes as the device does, where others are served."""


class Model:
    """Settings may change at any time; the queue and what was learned stay."""

    __slots__ = (
        "_make_policy",
        "_policy_errors",
        "_rate",
        "_rated",
        "bisections",
        "blocked",
        "buckets",
        "default_rank",
        "dispatch_count",
        "max_request_bytes",
        "max_request_rows",
        "name",
        "part",
        "policy",
        "policy_failed",
        "prefetch",
        "prefetch_at_ns",
        "promote_after_ns",
        "queue",
        "reachable",
        "running",
        "settings",
        "shares",
        "target_ns",
        "timeout_ns",
        "times",
        "used_ns",
    )

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        make_policy: PolicyFactory,
        policy_errors: list[tuple[Model, str]],
    ) -> None:
        self.name = name
        self.settings = settings
        self.queue = ModelQueue()
        self.policy: BatchPolicy = greedy_policy(settings.max_batch_size)
        self.policy_failed = False
        self.target_ns: int | None = None
        self.timeout_ns: int | None = None
        self.max_request_rows = settings.max_request_rows
        self.max_request_bytes = NEVER_NS
        self.promote_after_ns = settings.queue.promote_after_ns
        self.default_rank = self.best_rank
        self.shares = TenantShares((), None)
        self.buckets: Buckets | None = None
        """None where nothing is padded."""
        self.times: dict[Shapes, ServiceTimes] = {}
        self.bisections = Bisections()
        self.running = 0
        self.dispatch_count = 0
        """Batches dispatched, modulo `DUE_FIRST_ONE_IN` (`batching/selection.py`)."""
        self.used_ns = 0.0
        """Work done on its devices lately, halved now and then: what the rows of its batches take in
        the batches that serve most."""
        self.part = 1.0
        """Its part of the device that it shares, as far as it goes by what was used lately."""
        self.blocked = False
        """Nothing can be decided until an instance is free, or something else than an arrival
        happens."""
        self.prefetch = Prefetch()
        self.prefetch_at_ns = NEVER_NS
        """While it is blocked: when an instance may get its next batch in hand, if one is full."""
        self.reachable = True
        """Whether one row alone can be done inside the target, in some bucket."""
        self._make_policy = make_policy
        self._policy_errors = policy_errors
        self._rate = 0.0
        self._rated: list[Sequence[float]] | None = None

    @property
    def waits(self) -> bool:
        """Whether anything waits for an instance."""
        return bool(self.queue.requests or self.bisections.suspect_groups)

    def asleep(self, now_ns: int) -> bool:
        """Whether there is nothing to decide now."""
        return not self.waits or (self.blocked and self.prefetch_at_ns > now_ns)

    @property
    def fills_a_batch(self) -> bool:
        """Whether what waits is enough for the largest batch, so that who comes later changes nothing.

        While failed batches run again, or long requests piece by piece, the end of a batch decides
        what comes next. While requests at fault keep batches small, none is as large as may be.
        """
        queue, bisections, most = self.queue, self.bisections, self.settings.max_batch_size
        if queue.rows < most or queue.splits or bisections.open:
            return False
        return not bisections.batch_cap.bounds(most)

    best_rank = rank_of(1, over_share=False)

    def configure(self, settings: ModelSettings, now_ns: int) -> None:
        """Take new settings and their policy, which goes on with what the last one learned.

        Raises whatever the policy's factory raises; then nothing has changed.
        """
        made: object = self._make_policy(settings)
        if not isinstance(made, BatchPolicy):
            raise TypeError(f"the policy factory returned {made!r}, which is no BatchPolicy")
        previous, target_ns = self.policy, self.target_ns
        self._read(settings)
        self.policy, self.policy_failed = made, False
        try:
            made.take_over(previous, self.rank_now)
        except Exception as exc:  # noqa: BLE001 - a policy's own code; the model goes on without it
            self.policy_raised(exc)
        if self.target_ns != target_ns:
            for times in self.times.values():
                times.aim(self.target_ns)
            self.judge_target(now_ns, measured=True)

    def start_without_policy(self, settings: ModelSettings) -> None:
        """Take the first settings although their policy cannot be made."""
        self._read(settings)
        self.fall_back()

    def _read(self, settings: ModelSettings) -> None:
        """Derive from new settings all that is not the policy's."""
        limits, before = settings.queue, self.settings
        self.settings = settings
        self.blocked = False
        if before.max_batch_size != settings.max_batch_size:
            for times in self.times.values():
                times.resize(settings.max_batch_size)
        self.shares = self.shares.among(limits.tenants, settings.target_ns)
        self.target_ns = settings.target_ns
        self._rated = None
        self.buckets = Buckets(settings.padding) if settings.padding else None
        self.timeout_ns = limits.timeout_ns
        self.max_request_rows = settings.max_request_rows
        self.max_request_bytes = NEVER_NS if limits.max_bytes is None else limits.max_bytes
        self.promote_after_ns = limits.promote_after_ns
        self.default_rank = default_rank(limits)

    def rank_now(self, rank: int) -> int:
        """What a rank from before the last change is under the settings of now.

        A level that is gone is the last one that is left, and without tenants nobody is over a
        share.
        """
        if not PROMOTED < rank < BEST_EFFORT:
            return rank
        level, over_share = divmod(rank, 2)
        level = min(level, self.settings.queue.priority_levels)
        return rank_of(level, over_share=bool(over_share) and self.shares.several)

    def fall_back(self) -> None:
        """Take the largest batch of what waits, at once, until the model is configured anew."""
        self.policy = greedy_policy(self.settings.max_batch_size)
        self.policy_failed = True

    def policy_raised(self, error: Exception) -> None:
        """Fall back to greedy formation, and have the scheduler report why."""
        self.fall_back()
        self._policy_errors.append((self, f"{type(error).__name__}: {error}"))

    def bucket_of(self, shapes: Shapes) -> Shapes:
        """The shape that a request of these shapes is padded to."""
        return shapes if self.buckets is None else self.buckets.of(shapes)

    def holds(self, bucket: Shapes, other: Shapes) -> bool:
        """Whether what belongs to the bucket `other` can be padded to `bucket` as well."""
        return self.buckets is not None and self.buckets.holds(bucket, other)

    def level(self, priority: int) -> int:
        """The level of a request that names this priority; 0 and less name none."""
        limits = self.settings.queue
        return min(priority if priority > 0 else limits.default_priority, limits.priority_levels)

    def times_of(self, shapes: Shapes) -> ServiceTimes:
        """What batches of this bucket take; one never measured is estimated from the others."""
        times = self.times.get(shapes)
        if times is None:
            times = ServiceTimes(self.settings.max_batch_size, self.target_ns)
            if self.buckets is not None:
                times.seed(self._estimated(shapes))
            while len(self.times) >= MOST_SHAPES:
                del self.times[next(iter(self.times))]
            self.times[shapes] = times
        elif len(self.times) > 1:
            del self.times[shapes]
            self.times[shapes] = times
        return times

    def observe(self, batch: RunningBatch, timings: Timings | None, now_ns: int) -> None:
        """Learn from a batch that has ended; `timings` where its instance takes the next in hand.

        A device that has changed has changed for other shapes, too; those that run show it
        themselves. A shape that was not as predicted before says nothing of others.
        """
        times = self.times_of(batch.shapes)
        before, steady = times.drift, times.steady >= JUMP_SAMPLES
        took_ns = now_ns - batch.dispatched_ns
        if timings is not None:
            took_ns = self.prefetch.observe(took_ns, timings, prefetched=batch.prefetched)
        times.observe(batch.rows, took_ns, now_ns, batch.dispatched_ns, trust=batch.canary)
        if len(self.times) > 1 and times.drift != before and steady:
            for other in self.times.values():
                if other is not times and other.canaries.no_batch_since(now_ns - STALE_NS):
                    other.follow(times.drift / before)

    def seed(self, bucket: Shapes, profile: Iterable[tuple[int, int]]) -> None:
        """Take in what a warm-up measured of a bucket."""
        times = self.times.get(bucket)
        if times is None and len(self.times) < MOST_SHAPES:
            most = self.settings.max_batch_size
            times = self.times[bucket] = ServiceTimes(most, self.target_ns)
        if times is not None:
            times.seed(profile)
            times.steady = JUMP_SAMPLES

    def _estimated(self, shapes: Shapes) -> list[tuple[int, int]]:
        """(rows, nanoseconds) of a bucket, by its volume among those that were measured."""
        known = [(volume(each), times.curve) for each, times in self.times.items() if times]
        if not known:
            return []
        most = self.settings.max_batch_size
        at = volume(shapes)
        return [
            (rows, int(estimate(at, [(each, curve[rows]) for each, curve in known])))
            for rows in sorted({1, (most + 1) // 2, most})
        ]

    def work_ns(self, rows: int) -> float:
        """What serving so many rows would take, in the batches that serve most.

        Groups share no batch: what one row alone takes beyond its part of such a batch comes once
        for each further group. Where there are buckets, the rows are taken to be like those that
        have a place in the queue.
        """
        queue, times = self.queue, self.times
        groups = len(queue.groups)
        if len(times) <= 1 or self.buckets is None or not queue.rows:
            rate = self.best_rate()
            if not rate:
                return 0.0
            work_ns = rows / rate
            if groups > 1:
                last = next(reversed(times.values()))
                alone_ns = last.curve[1] if last else 0.0
                work_ns += (groups - 1) * max(0.0, alone_ns - 1.0 / rate)
            return work_ns
        work_ns = 0.0
        each_ns: dict[Shapes, float] = {}
        for group in queue.groups.values():
            bucket = group.key[1]
            known = times.get(bucket)
            if known:
                curve = known.curve
                if bucket not in each_ns:
                    each_ns[bucket] = min([curve[b] / b for b in range(1, len(curve))])
                alone_ns = curve[min(group.rows, len(curve) - 1)] if groups > 1 else 0.0
                work_ns += max(alone_ns, group.rows * each_ns[bucket])
        return work_ns * rows / queue.rows

    def cost_ns(self, bucket: Shapes, rows: int) -> float:
        """What so many rows take in the batches that serve most inside the target; 0 if unknown.

        It does not grow where others leave a model no time for batches of that size.
        """
        times = self.times.get(bucket)
        if not times:
            return 0.0
        target_ns = self.target_ns
        each_ns = times.curve[1]
        for size, took_ns in enumerate(times.curve):
            if size and (target_ns is None or took_ns <= target_ns):
                each_ns = min(each_ns, took_ns / size)
        return rows * each_ns

    def judge_target(self, now_ns: int, *, measured: bool = False) -> None:
        """Whether one row alone can be done inside the target, for each bucket."""
        known = [times for times in self.times.values() if times]
        for times in known:
            times.judge_target(now_ns, measured=measured)
        self.reachable = not known or any(times.reachable for times in known)

    def best_rate(self) -> float:
        """Rows a nanosecond that one instance can serve inside the target; 0 while unknown."""
        curves = [times.curve for times in self.times.values()]
        if curves == self._rated:
            return self._rate
        target_ns = self.target_ns
        best = 0.0
        for curve in curves:
            for rows, took_ns in enumerate(curve):
                if took_ns and (target_ns is None or rows == 1 or took_ns <= target_ns):
                    best = max(best, rows / took_ns)
        self._rated, self._rate = curves, best
        return best
