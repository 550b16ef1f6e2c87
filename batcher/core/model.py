"""One model as the scheduler knows it: its settings and what follows from them, queue, policy and times."""

from __future__ import annotations

from operator import index

from batcher.core.batch_sizes import filled_rows, largest_up_to
from batcher.core.bucket_times import BucketTimes
from batcher.core.devices.instances import RunningBatch
from batcher.core.devices.sharing import DeviceUse
from batcher.core.events import Shapes, Timings
from batcher.core.faults.bisection import Bisections
from batcher.core.faults.memory_ceiling import MemoryCeiling
from batcher.core.late import LateTime
from batcher.core.policies import BatchPolicy, PolicyFactory, greedy_policy
from batcher.core.queueing.padding import Buckets, volume
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.ranks import LATE, default_rank, rank_of
from batcher.core.queueing.tenants import TenantShares
from batcher.core.scale.capacity import flow, times_served
from batcher.core.scale.offered import Offered
from batcher.core.service_time.handling import Handling
from batcher.core.settings import ModelSettings
from batcher.core.times import NEVER_NS
from batcher.errors import describe


class Model:
    """Settings may change at any time; the queue and what was learned stay."""

    __slots__ = (
        "_make_policy",
        "_policy_errors",
        "bisections",
        "blocked",
        "buckets",
        "deadline_aware",
        "default_rank",
        "device_use",
        "dispatch_count",
        "fill_sizes",
        "fills_batches",
        "handling",
        "late",
        "learns_arrivals",
        "limit_ns",
        "max_request_bytes",
        "max_request_rows",
        "memory",
        "name",
        "offered",
        "policy",
        "policy_failed",
        "prefetch_at_ns",
        "promote_after_ns",
        "queue",
        "reachable",
        "replaces",
        "running",
        "serves_late",
        "settings",
        "shares",
        "target_ns",
        "timeout_ns",
        "times",
        "whole",
    )

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        make_policy: PolicyFactory,
        policy_errors: list[tuple[Model, str]],
        now_ns: int = 0,
    ) -> None:
        self.name = name
        self.settings = settings
        self.queue = ModelQueue()
        self.limit_ns: int | None = None
        """How long after its arrival the answer to a request is of use; None: until its deadline."""
        self.late = LateTime()
        self.policy: BatchPolicy
        self.fall_back()
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
        self.memory = MemoryCeiling()
        self.times = BucketTimes(settings, self.most_rows)
        self.bisections = Bisections()
        self.running = 0
        self.dispatch_count = 0
        """Batches dispatched, modulo `DUE_FIRST_ONE_IN` (`batching/selection.py`)."""
        self.device_use = DeviceUse()
        self.blocked = False
        """No instance is free: there is nothing to decide until something else than an arrival happens."""
        self.handling = Handling()
        self.offered = Offered(now_ns)
        self.replaces = ""
        """The model whose place it takes: what was offered to that one is offered to this one."""
        self.whole: dict[str, tuple[str, int]] = {}
        """Its instances, also those that are down and to come back: the device and slots of each."""
        self.prefetch_at_ns = NEVER_NS
        """While blocked: when the next batch may be prefetched, if enough waits by then; else `NEVER_NS`."""
        self.reachable = True
        """Whether a batch of one row can be done inside the target, in some bucket or as far as known."""
        self._make_policy = make_policy
        self._policy_errors = policy_errors

    @property
    def waits(self) -> bool:
        """Whether anything waits for an instance."""
        return bool(self.queue.requests or self.bisections.open)

    def asleep(self, now_ns: int) -> bool:
        """Whether there is nothing to decide now."""
        return not self.waits or (self.blocked and self.prefetch_at_ns > now_ns)

    @property
    def may_prefetch(self) -> bool:
        """Whether enough waits for a batch ahead of its turn.

        It fills the largest batch, so that later arrivals would not change it; or it is anything at all,
        where waiting for them would cost a round trip to the backend, or a copy to the device. False while
        failed batches run again, or long requests in pieces: then the end of a batch decides what comes
        next. False, too, while failing requests keep batches small.
        """
        queue, bisections, most = self.queue, self.bisections, self.settings.max_batch_size
        # Under a ceiling, `prefetching` sees what fills a batch of the group's bucket.
        any_rows = self.handling.round_trip_ns or self.times.pipelined
        least = 1 if any_rows or self.memory.elements is not None else most
        if queue.rows < least or queue.splits or bisections.open:
            return False
        return not bisections.batch_cap.bounds(most)

    best_rank = rank_of(1, over_share=False)

    def configure(self, settings: ModelSettings) -> None:
        """Take new settings and make their policy, which keeps what the previous one has learned.

        Raises what the policy's factory raises; then nothing has changed.
        """
        made: object = self._make_policy(settings)
        if not isinstance(made, BatchPolicy):
            raise TypeError(f"the policy factory returned {made!r}, which is no BatchPolicy")
        previous, target_ns = self.policy, self.target_ns
        self._read(settings)
        self.policy_failed = False
        try:
            self._use(made)
            made.take_over(previous, self.rank_now)
        except Exception as exc:  # noqa: BLE001 - a policy's own code; the model goes on without it
            self.policy_raised(exc)
        if self.target_ns != target_ns:
            self.judge_target()

    def start_without_policy(self, settings: ModelSettings) -> None:
        """Take the first settings although their policy cannot be made."""
        self._read(settings)
        self.fall_back()

    def _read(self, settings: ModelSettings) -> None:
        """Take over from new settings all that is not the policy's."""
        limits = settings.queue
        self.settings = settings
        self.blocked = False
        self.times.configure(settings)
        self.shares = self.shares.among(limits.tenants, settings.target_ns)
        self.target_ns = settings.target_ns
        self.buckets = Buckets(settings.padding) if settings.padding else None
        self.timeout_ns = limits.timeout_ns
        self.max_request_rows = settings.max_request_rows
        self.max_request_bytes = NEVER_NS if limits.max_bytes is None else limits.max_bytes
        self.promote_after_ns = limits.promote_after_ns
        self.default_rank = default_rank(limits)

    def rank_now(self, rank: int) -> int:
        """What a rank from before the last change is under the settings of now.

        A level that is gone becomes the last one, and without tenants no request is over a share.
        """
        if rank == LATE:
            return rank
        level, over_share = divmod(rank, 2)
        level = min(level, self.settings.queue.priority_levels)
        return rank_of(level, over_share=bool(over_share) and self.shares.several)

    def fall_back(self) -> None:
        """Take the largest batch of what waits, at once, until the model is configured anew."""
        self._use(greedy_policy(self.settings.max_batch_size))
        self.policy_failed = True

    def _use(self, policy: BatchPolicy) -> None:
        """Form batches by this policy from now on. Raises what reading its properties raises."""
        deadline_aware, learns_arrivals = bool(policy.deadline_aware), bool(policy.learns_arrivals)
        fills_batches, serves_late = bool(policy.fills_batches), bool(policy.serves_late)
        self.fill_sizes = tuple([index(size) for size in policy.fill_sizes])
        self.deadline_aware, self.learns_arrivals = deadline_aware, learns_arrivals
        self.fills_batches, self.serves_late = fills_batches, serves_late
        self.limit_ns = policy.limit_ns
        self.late.configure(policy.late_share, self.settings.target_ns, policy.limit_ns)
        self.policy = policy

    def policy_raised(self, error: Exception) -> None:
        """Fall back to greedy formation, and have the scheduler report why."""
        self.fall_back()
        self._policy_errors.append((self, describe(error)))

    def bucket_of(self, shapes: Shapes) -> Shapes:
        """The shape that a request of these shapes is padded to."""
        return shapes if self.buckets is None else self.buckets.of(shapes)

    def holds(self, bucket: Shapes, other: Shapes) -> bool:
        """Whether what belongs to the bucket `other` can be padded to `bucket` as well."""
        return self.buckets is not None and self.buckets.holds(bucket, other)

    def most_rows(self, bucket: Shapes) -> int:
        """The most rows that a batch of a bucket may have now: `max_batch_size`, or what memory there is for."""
        most = self.settings.max_batch_size
        if self.memory.elements is None:
            return most
        rows = self.memory.most_rows(row_elements(bucket), most)
        return min(most, largest_up_to(rows, self.settings.batch_sizes))

    def smaller_rows(self, rows: int) -> int:
        """The most rows of a batch that is at most half of one of so many rows; 0 where none can be."""
        sizes = self.settings.batch_sizes
        half = filled_rows(rows, sizes) // 2
        return 0 if sizes and half < sizes[0] else largest_up_to(half, sizes)

    @property
    def largest_rows(self) -> int:
        """The most rows that a batch of any known bucket may have now."""
        known = () if self.memory.elements is None else self.times.values()
        return max([times.max_rows for times in known], default=self.settings.max_batch_size)

    @property
    def smallest_rows(self) -> int:
        """The most rows of a batch of that known bucket which allows the fewest now."""
        known = () if self.memory.elements is None else self.times.values()
        return min([times.max_rows for times in known], default=self.settings.max_batch_size)

    def level(self, priority: int) -> int:
        """The level of a request with this priority; 0 and less stand for the default."""
        limits = self.settings.queue
        return min(priority if priority > 0 else limits.default_priority, limits.priority_levels)

    def observe(
        self, batch: RunningBatch, timings: Timings | None, now_ns: int, *, alone: bool
    ) -> None:
        """Learn from a batch that has ended: its own time, and what lay around it.

        Of one that was prefetched, the time since the batch before it ended: where a backend executes one
        batch at a time, that is its own, whatever it waited there. Where its instance is `alone`, so that
        nothing else is known to keep the backend busy, that tells the round trip as well.
        """
        took_ns = now_ns - batch.dispatched_ns
        if took_ns <= 0:
            return  # it ended before the batch that it was to follow
        own_ns, beyond_ns = took_ns, 0.0
        if timings is not None and timings.submitted_ns:
            self._observe_pipelined(batch, timings, now_ns)
            return
        if timings is not None and (own := timings.own_ns):
            # An instance whose clock is wrong was busy for no longer than its batch was away.
            own_ns = min(own, took_ns)
            beyond_ns = self.handling.observe(took_ns - own_ns, now_ns, prefetched=batch.prefetched)
            early = alone and batch.prefetched and timings.started_ns < batch.after_ns
            if early or not batch.prefetched:
                self._observe_sending(batch, took_ns if early else own_ns, now_ns, early=early)
            if early:
                # What it would have taken in its turn: what is known of that remains.
                own_ns = took_ns + int(self.handling.early_saves_ns)
                beyond_ns = self.handling.gap_ns
        self.times.observe(batch, own_ns, beyond_ns, self.handling, now_ns)

    def _observe_pipelined(self, batch: RunningBatch, timings: Timings, now_ns: int) -> None:
        """Learn from a batch that was copied in beside the one before: its copy, and the device's time.

        What lies around them is the way to its instance and back, whether that was idle or not.
        """
        own_ns = min(timings.own_ns, now_ns - batch.dispatched_ns)
        there_ns = max(0, timings.started_ns - batch.given_ns)
        back_ns = max(0, now_ns - timings.execute_end_ns)
        beyond_ns = self.handling.observe(there_ns + back_ns, now_ns, prefetched=False)
        # An instance whose clock is wrong had copied it before it was reported.
        copied_ns = min(timings.submitted_ns, now_ns)
        copy_ns = max(0, copied_ns - max(timings.started_ns, batch.given_ns))
        self.times.observe(batch, own_ns, beyond_ns, self.handling, now_ns, copy_ns)

    def _observe_sending(
        self, batch: RunningBatch, took_ns: int, now_ns: int, *, early: bool
    ) -> None:
        times = self.times.of(batch.shapes)
        if times and batch.rows <= times.max_rows:
            beyond_ns = took_ns + times.handling_ns - times.curve[batch.rows]
            self.handling.observe_sending(beyond_ns, now_ns, early=early)

    def refresh(self, now_ns: int, slots: int) -> None:
        """Forget what is too old to say anything of now. Called about once a second.

        `slots`: how many batches its instances run at once.
        """
        served = self._served(slots)
        rows = round(served * self.target_ns) if self.target_ns is not None else 0
        self.offered.evenness.fold(max(2, rows) if served and self.target_ns else 0, now_ns)
        if served:
            self.offered.fit_slots(served, now_ns)
        self.handling.forget(now_ns)
        self.times.refresh(self.handling, now_ns)

    def _served(self, slots: int) -> float:
        """Rows a nanosecond that its instances can serve inside the target; 0 while unknown."""
        times = next(reversed(self.times.values()), None)
        if not times:
            return 0.0
        return times_served([flow(1.0, times, self.settings, self.offered.mean_rows)], slots)

    def capacity(self, slots: int) -> float:
        """Rows a nanosecond that `slots` can serve inside the target, of its part of a shared device."""
        return self.times.best_rate() * slots * self.device_use.share

    def judge_target(self) -> None:
        """Bring `reachable` up to date, for other times or another target."""
        self.reachable = self.times.reachable


def row_elements(bucket: Shapes) -> int:
    """The elements of one row over all inputs whose shapes vary; 1 where none does."""
    return max(1, volume(bucket))
