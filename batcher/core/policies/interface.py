"""What the core tells a policy, what it asks it, and what a policy answers.

`BatchPolicy` is the whole interface: the rest of the core knows no other property of a policy. Only
`decide` must be written; the other members have defaults that suit a policy which learns nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.request import LiveRequest
from batcher.core.record import record
from batcher.core.service_time.estimator import ServiceTimes


@record
class PolicyInput:
    """What a policy knows when it decides about a batch group.

    `free_ns` says when each slot of the model's instances can take a batch, the soonest first; a
    slot that is free has `now_ns`. `times` predicts what a batch takes, and is false while nothing
    has been measured; no batch may have more than `times.max_rows` rows. `reachable` is False where not even a batch of one row can be done inside the
    target. A batch that takes longer than `longest_ns` would make requests of another model on the
    same device late, or is too likely to fail. While `batch_capped`, failing requests keep batches
    small, and no batch is worth waiting for: it may well have to run again. Without an
    `exclusive_device` other models may take the device while this one waits. `many_groups`: more
    groups wait than the policy is asked about in one decision; each is a batch of its own, so a free
    instance should wait for none of them. `late_ns` is the time of the device that late requests may
    take before others. `late_claim` is the part of the device that they may take from what is expected to
    arrive: 1.0 where all callers wait for their answers before they send the next request (a closed loop),
    else what it takes to answer them by their limits.
    """

    now_ns: int
    free_ns: Sequence[float]
    times: ServiceTimes
    reachable: bool = True
    longest_ns: float | None = None
    batch_capped: bool = False
    exclusive_device: bool = True
    many_groups: bool = False
    late_ns: float = 0.0
    late_claim: float = 0.0


@record
class Take:
    """Give up the first `drop` requests of the group, and form a batch of the next `count`, now.

    What is given up is refused, or waits until its limit where the policy `serves_late` or the request
    has begun to run.
    """

    count: int
    drop: int = 0


@record
class Wait:
    """Give up the first `drop` requests; ask again at `until_ns`, or when something has changed."""

    until_ns: int
    drop: int = 0


@record
class Choose:
    """Give up `drop` and form a batch of `take`, both from anywhere in the group.

    With nothing to take, the policy is asked again at `until_ns`.
    """

    take: tuple[LiveRequest, ...]
    drop: tuple[LiveRequest, ...] = ()
    until_ns: int | None = None


Decision: TypeAlias = Take | Wait | Choose


class BatchPolicy(ABC):
    """One model's batching policy: its settings and what it has learned.

    The properties are read once, when the policy is made.
    """

    __slots__ = ()

    deadline_aware: bool = False
    """Whether requests wait in the order of their due times, and are refused at admission, or late,
    where they cannot be in time. Else they wait in the order of their arrival."""

    learns_arrivals: bool = False
    """Whether `on_arrival` is called."""

    fills_batches: bool = True
    """Whether a batch may be filled up with rows that the policy did not choose: of requests that are
    split over several batches, and of requests of other padding buckets."""

    fill_sizes: Sequence[int] = ()
    """Where not empty: with requests of other padding buckets, a batch is filled up to the next of these
    sizes at most."""

    serves_late: bool = False
    """Whether a request that can only be late is served by its limit; else it is refused."""

    limit_ns: int | None = None
    """How long after its arrival the answer to a request is of use; None: until its caller's deadline."""

    late_share: float = 0.0
    """The part of the device that late requests get in overload."""

    # What the core asks

    @abstractmethod
    def decide(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """What to do with a group in which something waits, while an instance is free.

        Also called shortly before one is free, with `given.now_ns` in the future.
        """

    def expected_rate(self, now_ns: int) -> float:  # noqa: ARG002 - for those that learn one
        """Rows a nanosecond that are expected to arrive.

        Batches of other models on the same device are kept short enough for these to be in time.
        With 0.0 they are not.
        """
        return 0.0

    # What the core tells

    def on_arrival(  # noqa: B027 - by default, nothing is learned
        self, rows: int, rank: int, now_ns: int, active: bool
    ) -> None:
        """A request has arrived. `active`: something of the model's waited or ran at that moment."""

    def on_batch_done(self, rows: int, now_ns: int) -> None:  # noqa: B027 - see `on_arrival`
        """A batch of so many rows has ended, well or not."""

    def take_over(  # noqa: B027 - see `on_arrival`
        self, previous: BatchPolicy, new_rank: Callable[[int], int]
    ) -> None:
        """Keep what the model's previous policy has learned, as far as it is of use here.

        `new_rank` gives what a rank of then is under the settings of now.
        """

    def capture(self) -> tuple[object, ...]:
        """All that was learned, as a plain value that `restore` takes; part of a snapshot.

        Where it raises, the event log ends.
        """
        return ()

    def restore(self, state: tuple[object, ...]) -> None:  # noqa: B027 - see `on_arrival`
        """Go on where the policy that was captured stood."""
