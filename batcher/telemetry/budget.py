"""Where the time of a request went, hop by hop, against the shares that a budget gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Hop(StrEnum):
    """A part of a request's way whose time can be budgeted."""

    UPSTREAM = "upstream"
    """Before its arrival, as the caller says."""
    ADMISSION = "admission"
    """Stage `admission`."""
    QUEUE = "queue"
    """Stages `queue` and `gather`."""
    EXECUTE = "execute"
    """Stage `execute`."""
    REPLY = "reply"
    """Stages `scatter` and `reply`."""


HOPS = tuple(Hop)


@dataclass(frozen=True, slots=True)
class Budget:
    """How a latency target is split over the hops (nanoseconds).

    Hops without a share of their own have equal parts of what the others leave. Only with a share for
    `upstream` does the target include what the caller has spent before: so a claim of the caller
    counts where it was asked for.
    """

    target_ns: int
    shares: Mapping[Hop, int]

    def shares_ns(self) -> tuple[float, ...]:
        """The share of each hop, in the order of `HOPS`; what they add up to is the target."""
        counted = [hop for hop in HOPS if hop is not Hop.UPSTREAM or hop in self.shares]
        free = [hop for hop in counted if hop not in self.shares]
        left_ns = max(0, self.target_ns - sum(self.shares.values()))
        return tuple(
            float(self.shares[hop])
            if hop in self.shares
            else (left_ns / len(free) if hop in free else 0.0)
            for hop in HOPS
        )

    def late_hop(self, spent_ns: Sequence[int]) -> Hop | None:
        """The hop that is furthest over its share, if all of them took longer than the target.

        `spent_ns` are the times of the hops, in the order of `HOPS`. The first one counts where there
        is a share for it.
        """
        spent = list(spent_ns)
        if Hop.UPSTREAM not in self.shares:
            spent[0] = 0
        if sum(spent) <= self.target_ns:
            return None
        over = [took - share for took, share in zip(spent, self.shares_ns(), strict=True)]
        return HOPS[over.index(max(over))]


def hops_of(stages_ns: Sequence[int], upstream_ns: int | None) -> tuple[int, ...]:
    """The times of the hops, in the order of `HOPS`, from the six stages and the caller's claim."""
    admission, queue, gather, execute, scatter, reply = stages_ns
    return (upstream_ns or 0, admission, queue + gather, execute, scatter + reply)
