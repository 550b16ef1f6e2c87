"""One HorizontalPodAutoscaler: what it decides at each sync."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from batcher.autoscaling.behavior import Behavior
from batcher.autoscaling.metrics import Fleet, Metric, Unavailable, replicas
from batcher.autoscaling.pods import Pod
from batcher.autoscaling.settings import HpaSettings


@dataclass(frozen=True, slots=True)
class Decision:
    """The size that an autoscaler sets, and why.

    `recommended` is what the metrics ask for, None if they were not asked or could not be had. `reason` is `at zero`,
    `above maximum`, `below minimum`, `metric unavailable: ...`, `stabilized`, `policy`, `maximum`, `minimum`,
    `above target`, `below target` or `at target`.
    """

    desired: int
    reason: str
    recommended: int | None = None


@dataclass(slots=True)
class Hpa:
    """A HorizontalPodAutoscaler. Call `sync` every `settings.sync_ns`, and set what it says before the next call."""

    settings: HpaSettings
    _behavior: Behavior = field(init=False)

    def __post_init__(self) -> None:
        self._behavior = Behavior(self.settings)

    def sync(
        self,
        now_ns: int,
        current: int,
        pods: Sequence[Pod],
        metrics: Sequence[Metric],
        status_replicas: int | None = None,
    ) -> Decision:
        """Returns the size to set. `current` is the size that was set last (`spec.replicas`).

        `status_replicas` is how many pods the workload counts (`status.replicas`); those of `pods` that are neither
        terminating nor failed if it is not given. Of several metrics the one that asks for most counts. If none can
        be had the size stays; if some cannot, it does not get smaller.
        """
        self._behavior.begin(now_ns, current)
        settings = self.settings
        if current == 0 and settings.min_replicas != 0:
            return Decision(0, "at zero")
        if current > settings.max_replicas:
            return self._set(now_ns, current, Decision(settings.max_replicas, "above maximum"))
        if current < settings.min_replicas:
            return self._set(now_ns, current, Decision(settings.min_replicas, "below minimum"))
        if status_replicas is None:
            status_replicas = sum(1 for pod in pods if pod.counts)
        fleet = Fleet(now_ns, current, status_replicas, pods, settings)
        try:
            recommended = _most(metrics, fleet)
        except Unavailable as error:
            return Decision(current, f"metric unavailable: {error}")
        return self._set(now_ns, current, self._damped(now_ns, current, recommended))

    def _damped(self, now_ns: int, current: int, recommended: int) -> Decision:
        stable = self._behavior.stabilize(now_ns, current, recommended)
        bounded = self._behavior.limit(now_ns, current, stable)
        if bounded.by:
            reason = bounded.by
        elif stable != recommended:
            reason = "stabilized"
        else:
            reason = _direction(current, bounded.size)
        return Decision(bounded.size, reason, recommended)

    def _set(self, now_ns: int, current: int, decision: Decision) -> Decision:
        if decision.desired != current:
            self._behavior.tell(now_ns, current, decision.desired)
        return decision


def _most(metrics: Sequence[Metric], fleet: Fleet) -> int:
    """Returns the most that a metric asks for.

    Raises:
        Unavailable: there is no value of any metric, or one is missing and the others ask for fewer.
    """
    wanted: list[int] = []
    failed: Unavailable | None = None
    for metric in metrics:
        try:
            wanted.append(replicas(metric, fleet))
        except Unavailable as error:
            failed = failed or error
    if not wanted or (failed is not None and max(wanted) < fleet.current):
        raise failed or Unavailable("no metric is configured")
    return max(wanted)


def _direction(current: int, desired: int) -> str:
    if desired > current:
        return "above target"
    return "below target" if desired < current else "at target"
