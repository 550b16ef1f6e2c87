"""Where the time of a request went, hop by hop, against the shares that a budget gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


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


class BudgetCounts:
    """Counts of answers whose hops took longer than their shares, and of late ones by hop."""

    def __init__(self) -> None:
        self.shares: Mapping[Hop, int] = {}
        """Set by `split`."""
        self.exceeded: dict[Hop, int] = {}
        """Hops with a share -> answers in which the hop took longer."""
        self.late = dict.fromkeys(Hop, 0)
        """Hop -> late answers for which it is to blame."""
        self.ignored = 0
        """Requests whose caller said something impossible of the time that it had spent."""

    def split(self, shares: Mapping[Hop, int]) -> None:
        """Judge by these shares from now on. What was counted stays."""
        self.shares = shares
        self.exceeded = {hop: self.exceeded.get(hop, 0) for hop in shares}

    def count(
        self,
        stages_ns: NDArray[np.int64],
        upstream_ns: NDArray[np.int64],
        targets_ns: NDArray[np.int64],
    ) -> None:
        """Count answers: their six stages, what their callers claim, and their targets. As `Budget` does."""
        a, q, g, e, s, r = stages_ns.T
        spent = np.stack([upstream_ns, a, q + g, e, s + r], axis=1)
        for hop, share_ns in self.shares.items():
            self.exceeded[hop] += int((spent[:, HOPS.index(hop)] > share_ns).sum())
        if Hop.UPSTREAM not in self.shares:
            spent[:, 0] = 0
        late = spent.sum(axis=1) > targets_ns
        if late.any():
            for target_ns, spent_ns in zip(
                targets_ns[late].tolist(), spent[late].tolist(), strict=True
            ):
                blamed = Budget(target_ns, self.shares).late_hop(spent_ns)
                if blamed is not None:
                    self.late[blamed] += 1


def hops_of(stages_ns: Sequence[int], upstream_ns: int | None) -> tuple[int, ...]:
    """The times of the hops, in the order of `HOPS`, from the six stages and the caller's claim."""
    admission, queue, gather, execute, scatter, reply = stages_ns
    return (upstream_ns or 0, admission, queue + gather, execute, scatter + reply)
