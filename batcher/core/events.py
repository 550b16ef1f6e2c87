"""Events: what the scheduler is told.

Events go in through `Scheduler.handle`, commands (`commands.py`) come out. Both are plain values:
they can be logged, replayed and compared. Times are monotonic nanoseconds; a payload never appears
here, only its measures.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

from batcher.core.record import record
from batcher.core.settings import ModelSettings

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The axes of a request's inputs beside the rows, in the model's input order; () for a model whose
axes are all fixed. An optional input that is absent has ()."""


Profile: TypeAlias = tuple[tuple[int, int], ...]
"""Service times: (rows, nanoseconds) pairs."""


class CancelCause(StrEnum):
    """Why a caller does not wait for a request any more: it went away, or its deadline passed."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"


class FailureCause(StrEnum):
    """What an execution failed because of.

    After `INPUT`, `UNKNOWN` and `MEMORY` parts of the batch are executed again, after the others nothing.
    """

    DEVICE = "device"
    INPUT = "input"
    UNKNOWN = "unknown"
    OVERLOADED = "overloaded"
    """The backend behind the instance had no room, and did not execute the batch."""
    UNAVAILABLE = "unavailable"
    """The backend behind the instance is not there, is draining, or the connection was lost."""
    ABANDONED = "abandoned"
    """No request waited for the batch any more, so it was cancelled."""
    MEMORY = "memory"
    """The device had no memory for a batch of this size. Its rows are executed again in smaller batches."""
    SEQUENCE = "sequence"
    """The request was not executed: its sequence has lost its state before."""


SEARCHED: Final = frozenset({FailureCause.INPUT, FailureCause.UNKNOWN})
"""Causes for which the failing request is looked for: parts of the batch are executed again."""

UNTOLD: Final = frozenset(
    {
        FailureCause.OVERLOADED,
        FailureCause.UNAVAILABLE,
        FailureCause.ABANDONED,
        FailureCause.MEMORY,
    }
)
"""Causes of which nothing is learned: they say nothing of the model and of its requests."""


@record
class RequestArrived:
    """A request that is valid for its model. It is queued or refused in the same step.

    `rows` and `nbytes` are the size of its inputs, `shapes` their axes beside the rows. Requests of
    one model can share a batch if their `batch_key` and padded shapes are equal. `due_ns` is when it
    should be done; None means `arrival_ns` plus the model's target. `deadline_ns` is when its caller
    stops waiting; None means never. `queue_until_ns` is how long the caller lets it wait in the
    queue: it ends then if it has not begun, and may be answered later if it has. `priority` 1 is the
    most urgent; 0 names none.
    """

    id: int
    model: str
    rows: int
    nbytes: int
    shapes: Shapes
    batch_key: str
    arrival_ns: int
    due_ns: int | None = None
    deadline_ns: int | None = None
    priority: int = 0
    tenant: str = ""
    sequence: int | str | None = None
    queue_until_ns: int | None = None


@record
class RequestCancelled:
    """The caller of a request does not wait any more. Ids that have ended or are unknown are ignored."""

    id: int
    cause: CancelCause


@record
class Failure:
    """One request of a batch that failed, and why."""

    id: int
    cause: FailureCause


@record
class Timings:
    """Stamps of one batch on its instance, the moments of `time.monotonic_ns`.

    Its own time is from `started_ns`, before its inputs are gathered, to `ended_ns`, when its results
    are checked and copied (0 in older logs: then it is `execute_end_ns`). Where batches are pipelined,
    `submitted_ns` is when its inputs were on the device (else 0), `execute_start_ns` when the device could
    begin with it, and its own time is the device's: from there to `execute_end_ns`.
    """

    started_ns: int
    execute_start_ns: int
    execute_end_ns: int
    ended_ns: int = 0
    submitted_ns: int = 0

    @property
    def own_ns(self) -> int:
        """How long the instance was busy with it; 0 where that is not known."""
        if self.submitted_ns:
            return max(0, self.execute_end_ns - self.execute_start_ns)
        end_ns = self.ended_ns or self.execute_end_ns
        return max(0, end_ns - self.started_ns) if end_ns > 0 and self.started_ns >= 0 else 0


@record
class BatchProgress:
    """An instance reports on a batch: requests done, requests failed, and whether that was all.

    Of a request that is split, its rows in this batch are reported. `error` says that the execution
    failed as a whole, so that it is not known which rows made it fail; then it is the last report,
    and all requests that are not reported yet have failed. `retry_after_ns` is when a backend that is
    overloaded or unavailable wants callers to come back, None if it does not say.
    """

    batch_id: int
    done: tuple[int, ...]
    failed: tuple[Failure, ...] = ()
    last: bool = True
    timings: Timings | None = None
    error: FailureCause | None = None
    retry_after_ns: int | None = None


@record
class RepliesTook:
    """The replies of a batch of `rows` rows were handed to the transport within `took_ns` of its report."""

    model: str
    rows: int
    took_ns: int


@record
class InstanceUp:
    """An incarnation of an instance is loaded, warm and ready for `max_in_flight` batches at once.

    With `prefetches` it can be given one more batch, which it begins when the one that it runs ends; with
    `overlaps` it may begin before.
    `profile` holds service times that were measured at warm-up; `buckets` holds one profile for each
    bucket of shapes that was measured, where a model's axes are padded. Where batches are pipelined, these
    are the device's times, and `copies` holds those of gathering and copying, of each bucket (of `()` where
    there are none).
    """

    instance: str
    incarnation: int
    model: str
    device: str
    max_in_flight: int = 1
    profile: Profile = ()
    buckets: tuple[tuple[Shapes, Profile], ...] = ()
    prefetches: bool = False
    copies: tuple[tuple[Shapes, Profile], ...] = ()
    overlaps: bool = False


@record
class InstanceDraining:
    """The instance takes no new batch; what it runs may finish."""

    instance: str
    incarnation: int


@record
class InstanceDown:
    """The incarnation is gone: its batches have failed, and its later reports are ignored."""

    instance: str
    incarnation: int


@record
class InstancesFailed:
    """No instance of a model is up, and none will be by itself: what waits for the model is refused.

    Ignored where one is up.
    """

    model: str


@record
class ModelConfigured:
    """A model appears, or its settings change.

    Queued requests stay queued, with the times that they were admitted with; what was learned of
    arrivals and service times stays, too. All of the settings hold from here on, or none
    (`SettingsRefused`). A new one that `replaces` another takes over what was offered to that, when it is removed.
    """

    model: str
    settings: ModelSettings
    replaces: str = ""


@record
class ModelRemoved:
    """A model is no longer served: its queue is refused; running batches may finish."""

    model: str


@record
class DeviceConfigured:
    """At most `max_in_flight` batches run on a device at once; None means no bound."""

    device: str
    max_in_flight: int | None


Event: TypeAlias = (
    RequestArrived
    | RequestCancelled
    | BatchProgress
    | RepliesTook
    | InstanceUp
    | InstanceDraining
    | InstanceDown
    | InstancesFailed
    | ModelConfigured
    | ModelRemoved
    | DeviceConfigured
)
