"""What a HorizontalPodAutoscaler is told: bounds, tolerance, and how fast it may scale up and down."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from batcher.clock import SECOND

TOLERANCE = 0.1
"""`--horizontal-pod-autoscaler-tolerance`: a ratio of 0.9 to 1.1 is taken for 1."""

LONGEST_WINDOW_NS = 3600 * SECOND
"""The longest `stabilizationWindowSeconds` that the API takes."""

LONGEST_PERIOD_NS = 1800 * SECOND
"""The longest `periodSeconds` of a policy that the API takes."""


class PolicyKind(Enum):
    """What the value of a policy counts."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(Enum):
    """Which of several policies holds."""

    MAX = "Max"
    """The one that allows the greatest change."""
    MIN = "Min"
    """The one that allows the smallest change."""
    DISABLED = "Disabled"
    """None: the size never changes in this direction."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The greatest change within any time of `period_ns`: `value` pods, or `value` percent of what there was.

    Raises:
        ValueError: the API server would refuse it.
    """

    kind: PolicyKind
    value: int
    period_ns: int

    def __post_init__(self) -> None:
        if self.value <= 0:
            message = f"the value of a policy must be above 0, got {self.value}"
            raise ValueError(message)
        if not 0 < self.period_ns <= LONGEST_PERIOD_NS:
            message = f"the period of a policy must be above 0 and at most 1800 s, got {self.period_ns / SECOND:g} s"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """How one direction is damped: a window over recommendations, policies over changes, a tolerance of its own.

    `stabilization_ns`: up, the lowest recommendation of that window counts; down, the highest. `tolerance` replaces
    that of `HpaSettings` in this direction if it is given.

    Raises:
        ValueError: the API server would refuse it.
    """

    stabilization_ns: int
    policies: tuple[Policy, ...]
    select: SelectPolicy = SelectPolicy.MAX
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.stabilization_ns <= LONGEST_WINDOW_NS:
            message = (
                "a stabilization window must be from 0 to 3600 s, "
                f"got {self.stabilization_ns / SECOND:g} s"
            )
            raise ValueError(message)
        if not self.policies:
            message = (
                "scaling rules need at least one policy; to forbid a direction, select Disabled"
            )
            raise ValueError(message)
        if self.tolerance is not None and not self.tolerance >= 0:
            message = f"a tolerance must be at least 0, got {self.tolerance}"
            raise ValueError(message)


def default_scale_up() -> ScalingRules:
    """Returns the API's default: no window, and the greater of 100 % and 4 pods in 15 s."""
    return ScalingRules(
        stabilization_ns=0,
        policies=(
            Policy(PolicyKind.PODS, 4, 15 * SECOND),
            Policy(PolicyKind.PERCENT, 100, 15 * SECOND),
        ),
    )


def default_scale_down(stabilization_ns: int = 300 * SECOND) -> ScalingRules:
    """Returns the API's default: all replicas at once, after a window of 5 minutes."""
    return ScalingRules(
        stabilization_ns=stabilization_ns,
        policies=(Policy(PolicyKind.PERCENT, 100, 15 * SECOND),),
    )


@dataclass(frozen=True, slots=True)
class HpaSettings:
    """A HorizontalPodAutoscaler with what its controller manager is started with.

    `sync_ns` is how often the caller should call `Hpa.sync`. `initial_readiness_delay_ns` and
    `cpu_initialization_ns` say how long the processor time of a pod that starts is left out.

    Raises:
        ValueError: the bounds contradict each other, or a value is negative.
    """

    min_replicas: int = 1
    max_replicas: int = 10
    tolerance: float = TOLERANCE
    scale_up: ScalingRules = field(default_factory=default_scale_up)
    scale_down: ScalingRules = field(default_factory=default_scale_down)
    sync_ns: int = 15 * SECOND
    initial_readiness_delay_ns: int = 30 * SECOND
    cpu_initialization_ns: int = 300 * SECOND

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            message = (
                "replicas must be bounded by 0 <= minimum <= maximum and 1 <= maximum, "
                f"got {self.min_replicas} and {self.max_replicas}"
            )
            raise ValueError(message)
        if not self.tolerance >= 0:
            message = f"the tolerance must be at least 0, got {self.tolerance}"
            raise ValueError(message)
        if self.sync_ns <= 0:
            message = f"the sync period must be above 0, got {self.sync_ns / SECOND:g} s"
            raise ValueError(message)
        if min(self.initial_readiness_delay_ns, self.cpu_initialization_ns) < 0:
            message = (
                "the initial readiness delay and the CPU initialization period must be at least 0"
            )
            raise ValueError(message)

    def within_tolerance(self, ratio: float) -> bool:
        """Whether a ratio of what is used to what is wanted is near enough to 1 to change nothing."""
        up = self.tolerance if self.scale_up.tolerance is None else self.scale_up.tolerance
        down = self.tolerance if self.scale_down.tolerance is None else self.scale_down.tolerance
        return 1.0 - down <= ratio <= 1.0 + up
