"""What the scheduler shows of itself, live: for scrapes, autoscalers and health."""

from __future__ import annotations

from batcher.core.events import Shapes
from batcher.core.record import record


@record
class ModelObservation:
    """One model's queue and running batches at `Observation.now_ns`.

    Ages are those of the oldest unanswered request in that stage, None when there is none; they grow
    between events, too. `backlog_ns` is how long serving the waiting rows takes, in batches of the
    most efficient size; 0 while that is unknown. `reachable` says whether one row alone can meet the
    target in some bucket, `late_buckets` in how many it cannot. `bisected_batches` and
    `bisect_executions` count, since the model was configured, batches that failed as a whole and were
    bisected, and the executions that this took; `saved_requests` counts requests that were to run once more
    because their instance went down. In a `storm` batches fail as a whole. `margin` is how many times longer
    than expected the bucket used last is planned to take, `drift` how many times slower it is than it was
    measured first, `handling_ns` what it takes beyond its own time, `copy_ns` what copying a full one to its
    device takes where batches are pipelined. `shapes` are the buckets with known batch times: without
    padding, the shapes of requests lately. `held_requests` are those of the waiting ones that are steps of
    sequences and wait for the step before them. `ceiling_rows` is the most rows that a batch may have now,
    in the known bucket of the largest rows.

    `offered_rows_per_s` is what was offered lately, also what was refused or expired, and
    `capacity_rows_per_s` what the model's instances could serve of it inside the target, had it its devices
    to itself; `load` is the first over the second. `device_loads` are its parts of the loads of its devices.
    Where no instance takes batches, what they could serve when whole counts. None is not known (yet).
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
    margin: float = 1.0
    drift: float = 1.0
    handling_ns: float = 0.0
    shapes: tuple[Shapes, ...] = ()
    held_requests: int = 0
    ceiling_rows: int = 0
    saved_requests: int = 0
    copy_ns: float = 0.0
    offered_rows_per_s: float | None = None
    capacity_rows_per_s: float | None = None
    load: float | None = None
    device_loads: tuple[tuple[str, float], ...] = ()


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
class DeviceObservation:
    """One device: how many batches its instances run at once, and its load.

    Of a model's instances those count that take batches; where none does, all that it has when whole.

    `load` is what was offered lately to all models on it, over what it can serve of that inside their targets;
    None while that is not known.
    """

    device: str
    slots: int
    load: float | None


@record
class Observation:
    """The scheduler at one moment; taking it changes nothing.

    `desired_ratio` is the highest load of a device: how many times as many servers like this one would be just
    enough. None while none is known, and while work is offered whose cost is not known, unless a known load is
    above 1 already.
    """

    now_ns: int
    models: tuple[ModelObservation, ...]
    instances: tuple[InstanceObservation, ...]
    devices: tuple[DeviceObservation, ...] = ()
    desired_ratio: float | None = None
