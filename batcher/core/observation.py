"""What the scheduler shows of itself, live: for scrapes, autoscalers and health."""

from __future__ import annotations

from batcher.core.record import record


@record
class ModelObservation:
    """One model's queue and executing work at the moment of `Observation.now_ns`.

    Ages are of the oldest unanswered request in that stage, None when there is none; a stalled
    queue keeps ageing between events. `backlog_ns` is what serving the rows that wait would take, in
    the batches that serve most, 0 while that is unknown; `reachable` says whether one row alone can
    be done inside the target, `late_buckets` in how many buckets it cannot. `bisected_batches` and `bisect_executions` count, since the model was
    configured, batches that failed as a whole and the executions that found the requests at fault;
    in a `storm` batches fail as a whole.
    """

    model: str
    waiting_requests: int
    waiting_rows: int
    waiting_bytes: int
    executing_requests: int
    oldest_waiting_ns: int | None
    oldest_executing_ns: int | None
    target_ns: int | None
    backlog_ns: float = 0.0
    reachable: bool = True
    late_buckets: int = 0
    bisected_batches: int = 0
    bisect_executions: int = 0
    storm: bool = False


@record
class InstanceObservation:
    """One instance: its device, whether it takes batches, and how many it is running."""

    instance: str
    incarnation: int
    model: str
    device: str
    draining: bool
    in_flight: int


@record
class Observation:
    """The scheduler at one moment; taking it changes nothing."""

    now_ns: int
    models: tuple[ModelObservation, ...]
    instances: tuple[InstanceObservation, ...]
