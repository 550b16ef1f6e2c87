"""KEDA's part: between zero and one, what stands in for a metric that fails, and the bounds it gives to the HPA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from batcher.autoscaling.settings import HpaSettings
from batcher.clock import SECOND


class FallbackBehavior(Enum):
    """Which size stands in for a metric that keeps failing."""

    STATIC = "static"
    """`replicas`."""
    CURRENT = "currentReplicas"
    """What there is."""
    CURRENT_IF_HIGHER = "currentReplicasIfHigher"
    """What there is, at least `replicas`."""
    CURRENT_IF_LOWER = "currentReplicasIfLower"
    """What there is, at most `replicas`."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """After more than `failure_threshold` failures in a row a metric is taken for what calls for the size in `size`."""

    failure_threshold: int
    replicas: int
    behavior: FallbackBehavior = FallbackBehavior.STATIC

    def size(self, current: int) -> int:
        """Returns the size that the metric is made to call for."""
        match self.behavior:
            case FallbackBehavior.STATIC:
                return self.replicas
            case FallbackBehavior.CURRENT:
                return current
            case FallbackBehavior.CURRENT_IF_HIGHER:
                return max(current, self.replicas)
            case FallbackBehavior.CURRENT_IF_LOWER:
                return min(current, self.replicas)


@dataclass(frozen=True, slots=True)
class KedaSettings:
    """A ScaledObject. `activation` is the value above which a trigger is active, for triggers that have a value alone.

    Raises:
        ValueError: KEDA's webhook would refuse it.
    """

    min_replicas: int = 0
    max_replicas: int = 100
    idle_replicas: int | None = None
    polling_ns: int = 30 * SECOND
    cooldown_ns: int = 300 * SECOND
    initial_cooldown_ns: int = 0
    activation: float = 0.0
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            message = (
                "replicas must be bounded by 0 <= minimum <= maximum and 1 <= maximum, "
                f"got {self.min_replicas} and {self.max_replicas}"
            )
            raise ValueError(message)
        if self.idle_replicas is not None and not 0 <= self.idle_replicas < self.min_replicas:
            message = f"idle replicas must be below the minimum of {self.min_replicas}, got {self.idle_replicas}"
            raise ValueError(message)
        if self.polling_ns <= 0 or min(self.cooldown_ns, self.initial_cooldown_ns) < 0:
            message = "the polling interval must be above 0, and both cooldown periods at least 0"
            raise ValueError(message)

    def hpa(self, settings: HpaSettings) -> HpaSettings:
        """Returns `settings` with the bounds that KEDA gives to the HPA which it makes: at least one replica."""
        return replace(
            settings, min_replicas=max(self.min_replicas, 1), max_replicas=self.max_replicas
        )


@dataclass(slots=True)
class Keda:
    """A ScaledObject since `created_ns`. Call `poll` every `settings.polling_ns`, and set what it says.

    It sets 0 (or the idle size) and what follows that; every other size is the HPA's.
    """

    settings: KedaSettings
    created_ns: int = 0
    _last_active_ns: int | None = None
    _failures: int = 0

    def active(self, value: float) -> bool:
        """Whether a trigger of a value alone (Prometheus) is active. An external scaler says so itself."""
        return value > self.settings.activation

    def poll(self, now_ns: int, current: int, triggers: Sequence[bool | None]) -> int:
        """Returns the size to set: `current` where KEDA changes nothing.

        `triggers` says of each trigger whether it is active, None if it failed. One that is active is enough for
        active; an error alone never scales down, unless a fallback of 0 replicas says so.
        """
        failed = None in triggers
        if True in triggers:
            return self._active(now_ns, current, failed=failed)
        fallback = self.settings.fallback
        if failed and (fallback is None or fallback.replicas != 0):
            return current
        idle = self.settings.idle_replicas
        down_to_idle = idle is not None and current > idle
        down_to_zero = current > 0 and self.settings.min_replicas == 0
        if down_to_idle or down_to_zero:
            return (idle or 0) if self._cooled_down(now_ns) else current
        if idle is None and current < self.settings.min_replicas:
            return self.settings.min_replicas
        return current

    def push(self, now_ns: int, current: int) -> int:
        """Returns the size to set when a push scaler says active between polls. That it says inactive means nothing."""
        return self._active(now_ns, current, failed=False)

    def metric(self, value: float | None, target: float, current: int) -> float | None:
        """Returns the total that the HPA gets for `value`, with its share per replica `target` (`averageValue`).

        None (failed) is handed on until the fallback sets in.
        """
        if value is not None:
            self._failures = 0
            return value
        fallback = self.settings.fallback
        if fallback is None:
            return None
        self._failures += 1
        if self._failures <= fallback.failure_threshold:
            return None
        return target * fallback.size(current)

    def _active(self, now_ns: int, current: int, *, failed: bool) -> int:
        below = self.settings.idle_replicas is not None and current < self.settings.min_replicas
        if below or current == 0:
            self._last_active_ns = now_ns
            return max(self.settings.min_replicas, 1)
        if not failed:
            self._last_active_ns = now_ns
        return current

    def _cooled_down(self, now_ns: int) -> bool:
        if self._last_active_ns is None:
            return self.created_ns + self.settings.initial_cooldown_ns < now_ns
        return self._last_active_ns + self.settings.cooldown_ns < now_ns
