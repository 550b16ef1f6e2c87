"""What the scheduler is told.

Events go in through `Scheduler.handle`, commands (`commands.py`) come out. Both are plain values:
they can be logged, replayed and compared. Times are monotonic nanoseconds; a payload never appears
here, only its measures.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from batcher.core.record import record
from batcher.core.settings import ModelSettings

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The axes of a request's inputs beside the rows, in the model's input order; () for a model whose
axes are all fixed. An optional input that is absent has ()."""


Profile: TypeAlias = tuple[tuple[int, int], ...]
"""Service times: (rows, nanoseconds) pairs."""


class CancelCause(StrEnum):
    """Why a request was given up by its caller."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"


class FailureCause(StrEnum):
    """What an execution failure is blamed on."""

    DEVICE = "device"
    INPUT = "input"
    UNKNOWN = "unknown"


@record
class RequestArrived:
    """A valid request for a served model. It is queued or refused, in one atomic step.

    `due_ns` is soft (the caller's own target; None means arrival plus the model's target) and
    `deadline_ns` is hard (the caller's deadline; None means none). `queue_until_ns` is how long the
    caller lets it wait: it ends then if it has not begun, and may be answered later if it has.
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
    """The last waiter of a request left. Unknown and already settled ids are ignored."""

    id: int
    cause: CancelCause


@record
class Failure:
    """One request of a batch that failed, and why."""

    id: int
    cause: FailureCause


@record
class Timings:
    """Stamps of one batch: execution on the instance, the moments of `time.monotonic_ns`."""

    started_ns: int
    execute_start_ns: int
    execute_end_ns: int


@record
class BatchProgress:
    """An instance reports on a batch: requests done, requests failed, and whether that was all.

    Of a request that is split, what is reported are its rows in this batch. `error` says that the
    execution failed as a whole, so that nobody knows which rows were at fault; then it is the last
    report, and all that is not reported yet has failed.
    """

    batch_id: int
    done: tuple[int, ...]
    failed: tuple[Failure, ...] = ()
    last: bool = True
    timings: Timings | None = None
    error: FailureCause | None = None


@record
class RepliesTook:
    """The answers of a batch of `rows` rows have left, `took_ns` after it was reported done."""

    model: str
    rows: int
    took_ns: int


@record
class InstanceUp:
    """An incarnation of an instance is loaded, warm and ready for `max_in_flight` batches.

    `queues` says that it may get one more in hand, which it begins when it is done with the one that
    it runs. `profile` holds service times measured at warm-up, `buckets` one for each bucket that was measured, where a model's axes are padded.
    """

    instance: str
    incarnation: int
    model: str
    device: str
    max_in_flight: int = 1
    profile: Profile = ()
    buckets: tuple[tuple[Shapes, Profile], ...] = ()
    prefetches: bool = False


@record
class InstanceDraining:
    """The instance takes no new batch; what it runs may finish."""

    instance: str
    incarnation: int


@record
class InstanceDown:
    """The incarnation is gone: what it ran has failed, and its later reports are ignored."""

    instance: str
    incarnation: int


@record
class ModelConfigured:
    """A model appears, or its settings change.

    Queued requests stay queued, with the times that they were admitted with; what was learned of
    arrivals and service times stays, too. All of the settings hold from here on, or none
    (`SettingsRefused`).
    """

    model: str
    settings: ModelSettings


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
    | ModelConfigured
    | ModelRemoved
    | DeviceConfigured
)
