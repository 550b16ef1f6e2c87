"""The batching policies that a configuration can name.

An entry of `POLICIES` says which keys of `batching` that policy reads and how they become what the
scheduler takes; `policy_section` turns that into the file's form again. A key that some policy reads
is an error under a policy that does not. docs/extending.md lists what else a new policy needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from batcher.config.units import Limit, LimitName, format_duration, format_limit
from batcher.core.settings import Adaptive, FixedWindow, NoBatching, PolicySettings

LIMIT_IN_TARGETS: Final = 10
SHORTEST_DEFAULT_LIMIT_NS: Final = 1_000_000_000
"""The default limit: ten targets, and at least a second. A caller that names no deadline is taken to
wait for about as long as a person does; a caller that does not should name one."""


class PolicyKeys(Protocol):
    """The keys of `batching` that a policy is made from; `BatchingConfig` explains each."""

    @property
    def target_p99(self) -> int | None:
        """Nanoseconds from a request's arrival to when it is due; None: no target."""

    @property
    def utilization_target(self) -> float:
        """The share of the time that the device is to be busy at most."""

    @property
    def limit(self) -> Limit:
        """Nanoseconds from a request's arrival until its answer is of no use, or a name for that."""

    @property
    def late_share(self) -> float:
        """The share of the device that late requests may take from those in time."""

    @property
    def max_queue_delay(self) -> int:
        """Nanoseconds that a request waits for others at most."""

    @property
    def preferred_batch_sizes(self) -> tuple[int, ...]:
        """Rows of batches that do not wait for more."""


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One policy: the keys it alone may use, its scheduler settings, and its window as text."""

    keys: tuple[str, ...]
    settings: Callable[[PolicyKeys], PolicySettings]
    window: Callable[[PolicyKeys], str]


def default_limit_ns(target_ns: int | None) -> int | None:
    """How long after its arrival an answer is of use, where nothing is configured; None: no limit."""
    if target_ns is None:
        return None
    return max(LIMIT_IN_TARGETS * target_ns, SHORTEST_DEFAULT_LIMIT_NS)


def limit_ns_of(limit: Limit, target_ns: int | None) -> int | None:
    """What a value of `limit` means beside a target; None: only the caller's deadline counts."""
    match limit:
        case None:
            return default_limit_ns(target_ns)
        case LimitName.DEADLINE:
            return None
        case LimitName.TARGET:
            return target_ns
        case _:
            return limit


def _limit_of(limit_ns: int | None, target_ns: int | None) -> Limit:
    """The value of `limit` that makes `limit_ns`, so that it follows the target where it may."""
    if limit_ns == default_limit_ns(target_ns):
        return None
    if limit_ns is None:
        return LimitName.DEADLINE
    return LimitName.TARGET if limit_ns == target_ns else limit_ns


def _adaptive(batching: PolicyKeys) -> PolicySettings:
    return Adaptive(
        utilization_target=batching.utilization_target,
        limit_ns=limit_ns_of(batching.limit, batching.target_p99),
        late_share=batching.late_share,
    )


def _adaptive_window(batching: PolicyKeys) -> str:
    if batching.target_p99 is None:
        return "none: no target to wait for"
    return f"from the target, to {batching.utilization_target:.0%} busy"


def _fixed(batching: PolicyKeys) -> PolicySettings:
    return FixedWindow(
        max_delay_ns=batching.max_queue_delay, preferred_sizes=batching.preferred_batch_sizes
    )


def _fixed_window(batching: PolicyKeys) -> str:
    preferred = ", ".join(str(size) for size in batching.preferred_batch_sizes)
    delay = format_duration(batching.max_queue_delay)
    return f"{delay}, prefers {preferred}" if preferred else delay


def _none(_batching: PolicyKeys) -> PolicySettings:
    return NoBatching()


def _none_window(_batching: PolicyKeys) -> str:
    return "none"


POLICIES: Final[dict[str, PolicyEntry]] = {
    "adaptive": PolicyEntry(
        ("utilization_target", "limit", "late_share"), _adaptive, _adaptive_window
    ),
    "fixed": PolicyEntry(("max_queue_delay", "preferred_batch_sizes"), _fixed, _fixed_window),
    "none": PolicyEntry((), _none, _none_window),
}


def policy_section(policy: PolicySettings, target_ns: int | None) -> dict[str, Any]:
    """The keys of `batching` that make this policy with this target, as the file has them."""
    match policy:
        case Adaptive():
            return {
                "policy": "adaptive",
                "utilization_target": policy.utilization_target,
                "limit": format_limit(_limit_of(policy.limit_ns, target_ns)),
                "late_share": policy.late_share,
            }
        case FixedWindow():
            return {
                "policy": "fixed",
                "max_queue_delay": format_duration(policy.max_delay_ns),
                "preferred_batch_sizes": list(policy.preferred_sizes),
            }
        case NoBatching():
            return {"policy": "none"}


def keys_of_policies() -> frozenset[str]:
    """Every key of `batching` that only some policies read."""
    return frozenset(key for entry in POLICIES.values() for key in entry.keys)


def policies_reading(key: str) -> list[str]:
    """The names of the policies that read `key`."""
    return [name for name, entry in POLICIES.items() if key in entry.keys]
