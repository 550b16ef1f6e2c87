"""One model as the scheduler knows it: settings, queue, policy, and what its batches take."""

from __future__ import annotations

from batcher.core.estimator import ServiceTimes
from batcher.core.events import Shapes
from batcher.core.policies import AdaptivePolicy, BatchPolicy, NoBatchingPolicy, PolicyFactory
from batcher.core.queue import ModelQueue, rank_of
from batcher.core.settings import Adaptive, ModelSettings, WhenLate
from batcher.core.shares import Shares

MOST_SHAPES = 64
"""Shape signatures whose service times are remembered; the one used least recently goes."""

UNREACHABLE_NS = 10_000_000_000
"""A target that was out of reach for so long is given up until it is in reach again."""


class Model:
    """Settings may change at any time; the queue stays and the policy is made anew."""

    __slots__ = (
        "_make_policy",
        "adaptive",
        "hopeless_since_ns",
        "last_dispatch_ns",
        "name",
        "policy",
        "policy_failed",
        "queue",
        "reachable",
        "running",
        "settings",
        "shares",
        "stalled",
        "times",
        "used_ns",
    )

    def __init__(self, name: str, settings: ModelSettings, make_policy: PolicyFactory) -> None:
        self.name = name
        self.settings = settings
        self.queue = ModelQueue()
        self.policy: BatchPolicy = NoBatchingPolicy()
        self.policy_failed = False
        self.adaptive: AdaptivePolicy | None = None
        self.shares = Shares((), None)
        self.times: dict[Shapes, ServiceTimes] = {}
        self.running = 0
        self.used_ns = 0.0
        """Time on its devices lately: what its batches were expected to take, halved now and then."""
        self.stalled = False
        """Nothing can be decided until an instance is free, or something else than an arrival
        happens."""
        self.reachable = True
        self.hopeless_since_ns: int | None = None
        self.last_dispatch_ns: int | None = None
        self._make_policy = make_policy

    @property
    def serves_late(self) -> bool:
        """Whether a request that can only be late is served all the same."""
        policy = self.settings.policy
        return isinstance(policy, Adaptive) and policy.when_late is WhenLate.SERVE

    best_rank = rank_of(1, over_share=False)

    def configure(self, settings: ModelSettings) -> None:
        """Take new settings and their policy; raises whatever the policy's factory raises."""
        before = self.settings
        self.settings = settings
        self.stalled = False
        if before.max_batch_size != settings.max_batch_size:
            for times in self.times.values():
                times.resize(settings.max_batch_size)
        self.shares = Shares(settings.queue.tenants, settings.target_ns)
        self.fall_back()
        self.policy = self._make_policy(settings)
        self.adaptive = self.policy if isinstance(self.policy, AdaptivePolicy) else None
        self.policy_failed = False
        self.judge_target(0)

    def fall_back(self) -> None:
        """Run without batching from now on, because the policy broke its contract."""
        self.policy = NoBatchingPolicy()
        self.adaptive = None
        self.policy_failed = True

    def times_of(self, shapes: Shapes) -> ServiceTimes:
        """What batches of this shape signature take."""
        times = self.times.get(shapes)
        if times is None:
            times = ServiceTimes(self.settings.max_batch_size)
            while len(self.times) >= MOST_SHAPES:
                del self.times[next(iter(self.times))]
            self.times[shapes] = times
        elif len(self.times) > 1:
            del self.times[shapes]
            self.times[shapes] = times
        return times

    def judge_target(self, now_ns: int, *, measured: bool = False) -> None:
        """Whether one row alone can be done inside the target.

        At the warm-up (`measured`) the answer is believed at once. Later, a device that has become
        slow may recover, so the target is given up only after `UNREACHABLE_NS`.
        """
        target_ns = self.settings.target_ns
        fastest_ns = min((t.curve[1] for t in self.times.values() if t), default=0.0)
        if target_ns is None or fastest_ns <= target_ns:
            self.reachable = True
            self.hopeless_since_ns = None
        elif measured:
            self.reachable = False
        elif self.hopeless_since_ns is None:
            self.hopeless_since_ns = now_ns
        elif now_ns - self.hopeless_since_ns >= UNREACHABLE_NS:
            self.reachable = False

    def best_rate(self) -> float:
        """Rows a nanosecond that one instance can serve inside the target; 0 while unknown."""
        target_ns = self.settings.target_ns
        best = 0.0
        for times in self.times.values():
            for rows, took_ns in enumerate(times.curve):
                if took_ns and (target_ns is None or rows == 1 or took_ns <= target_ns):
                    best = max(best, rows / took_ns)
        return best
