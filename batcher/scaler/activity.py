"""Whether a fleet is active: whether KEDA must not scale it to zero. Pure.

| what is known | active |
|---|---|
| it was woken less than `wake_for` ago | yes |
| nothing yet: the list of replicas was not read since the start | not known |
| replicas are listed, and of one it is not known how busy it is | yes |
| the list cannot be read any more, and had replicas | yes |
| the list cannot be read any more, and was empty | not known: who is at zero must not be started by a DNS that fails |
| every replica is known, or none is listed, and something was asked of one less than `idle_after` ago | yes |
| the same, longer ago | no |
"""

from __future__ import annotations

from dataclasses import dataclass

from batcher.clock import SECOND


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a fleet. Times are of the monotonic clock, in nanoseconds."""

    listed: bool | None
    """Whether the list can be read; None: it was not yet, or never could be."""
    listing_error: str
    replicas: int
    """Listed when it last could be read."""
    unsure: str
    """The address of a replica of which it is not known how busy it is; empty if there is none."""
    asked_ns: int | None
    """When something was asked of a replica last, as far as is known; None: there was none."""
    woken_until_ns: int


@dataclass(frozen=True, slots=True)
class Activity:
    """Whether a fleet is active, and why."""

    active: bool | None
    """None: not known, so neither start it nor stop it."""
    reason: str


def activity(facts: Facts, idle_after_ns: int, now_ns: int) -> Activity:
    """Whether the fleet is active now."""
    if now_ns < facts.woken_until_ns:
        left_s = (facts.woken_until_ns - now_ns) / SECOND
        return Activity(True, f"it was woken, for another {left_s:.0f} s")
    if facts.listed is None:
        why = f": {facts.listing_error}" if facts.listing_error else ""
        return Activity(None, f"its replicas could not be listed yet{why}")
    if not facts.listed:
        active = True if facts.replicas else None
        return Activity(active, f"its replicas cannot be listed: {facts.listing_error}")
    if facts.unsure:
        return Activity(True, f"it is not known how busy {facts.unsure} is")
    if facts.asked_ns is not None and now_ns - facts.asked_ns < idle_after_ns:
        ago_s = (now_ns - facts.asked_ns) / SECOND
        return Activity(True, f"something was asked of it {ago_s:.0f} s ago")
    return Activity(False, "nothing was asked of it for idle_after")
