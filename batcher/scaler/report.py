"""What is read of a load report, and why a report is not believed. Pure.

A replica may be broken, of another version, another product, or hostile. `read_report` checks a message by
itself; `judging` compares it with those before it. What is read is plain numbers in bounds: nothing of a report
is sent on, but for names on a status page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from batcher.errors import on_one_line
from batcher.protocol import load

MAX_REPORT_BYTES: Final = 1024 * 1024
"""Bytes of a report: one of 800 models with a device each has as many."""

MAX_MODELS: Final = 1000
"""Models and devices in a report that are read: each costs microseconds of every poll."""

MOST_LOAD: Final = 1000.0
"""A load of more is not believed: to refuse a thousand times of what it can serve, a replica would need more
than all of its time."""

_MOST_COUNT: Final = 1 << 53
"""Counts beyond are not exact as numbers of JSON, and take centuries."""

_MOST_WAITING: Final = 1e12
"""Of a thousand replicas together, a thousandth of what 64 bits hold: KEDA counts in thousandths."""

_MOST_SECONDS: Final = 1e10
"""Three hundred years."""

_MOST_RATE: Final = 1e9

_FULL: Final = 1.01
"""A part of the time, with what rounding and two clocks add."""

_LONGEST_TEXT: Final = 253


class Cause(StrEnum):
    """Why a report is not believed."""

    UNREADABLE = "unreadable"
    """It is no load report, or lacks what every one has."""
    NUMBER = "number"
    """A number is not finite, negative, or absurd."""
    OLDER = "older"
    """Its number, its uptime or a count is below that of an earlier report of the same start."""
    STUCK = "stuck"
    """The same report again, for much longer than a replica keeps one."""
    ALTERNATES = "alternates"
    """It is of a start that another one had followed: several replicas answer at this address."""
    OTHER_MODELS = "other_models"
    """None of the models that the configuration names."""
    CONTRADICTION = "contradiction"
    """It reports no load, and refuses requests for want of capacity all the time."""


class UnbelievedError(Exception):
    """A report is not believed."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


ModelName: TypeAlias = tuple[str, str]
"""Name and version."""


@dataclass(frozen=True, slots=True)
class ModelSignals:
    """What is used of one model. None: not known."""

    ended: int
    """Requests that have ended, in whatever way."""
    refused: int
    """Those that were refused, or expired, for want of capacity."""
    pending: bool
    """Whether any waits or executes."""
    serves: bool
    """Whether it is ready: of one that is not, what is absent does not exist."""
    has_target: bool
    load: float | None
    """The highest of its parts of the loads of its devices."""
    queue_requests: float | None
    queue_rows: float | None
    backlog_s: float | None
    executing: float | None
    oldest_s: float | None
    oldest_ratio: float | None
    requests_per_s: float | None
    offered_rows_per_s: float | None
    devices: tuple[str, ...]

    @property
    def quiet(self) -> bool:
        """Whether nothing waits or executes, and nothing ended in the last seconds."""
        return (
            not self.pending
            and not (self.serves and self.requests_per_s is None)
            and not self.requests_per_s
        )


@dataclass(frozen=True, slots=True)
class DeviceSignals:
    """What is used of one device. None: not known."""

    duty_cycle: float | None
    utilization: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What is used of a load report."""

    number: int
    start_id: str
    replica: str
    uptime_s: float
    ready: bool
    """Whether it takes requests: ready and not draining."""
    draining: bool
    """Whether it is about to end."""
    reason: str
    """Why it does not; empty if it does."""
    load: float | None
    """`desired_ratio`."""
    models: dict[ModelName, ModelSignals]
    devices: dict[str, DeviceSignals]

    @property
    def pending(self) -> bool:
        """Whether a request waits or executes."""
        return any(model.pending for model in self.models.values())


def read_report(data: bytes) -> Report:
    """The report in a serialized message. Raises `UnbelievedError`."""
    try:
        message = load.LoadReport.FromString(data)
    except DecodeError as error:
        raise UnbelievedError(Cause.UNREADABLE, f"no load report: {error}") from None
    replica = message.replica
    if not message.number or not replica.start_id:
        raise UnbelievedError(
            Cause.UNREADABLE, "without a number or a start_id, which every load report has"
        )
    if max(len(message.models), len(message.devices)) > MAX_MODELS:
        raise UnbelievedError(Cause.NUMBER, f"more than {MAX_MODELS} models or devices")
    _number("timestamp_seconds", message.timestamp_seconds, _MOST_SECONDS)
    devices = {
        _text(device.device): DeviceSignals(
            duty_cycle=_optional(device, "duty_cycle_ratio", _FULL),
            utilization=_optional(device.statistics, "utilization_ratio", _FULL),
        )
        for device in message.devices
    }
    serving = replica.ready and not replica.draining
    return Report(
        number=message.number,
        start_id=_text(replica.start_id),
        replica=_text(replica.replica),
        uptime_s=_number("uptime_seconds", replica.uptime_seconds, _MOST_SECONDS),
        ready=serving,
        draining=replica.draining,
        reason="" if serving else _text(replica.reason or "draining"),
        load=_optional(replica, "desired_ratio", MOST_LOAD),
        models={(_text(each.model), _text(each.version)): _model(each) for each in message.models},
        devices=devices,
    )


_REFUSED: Final = frozenset(
    {
        ("rejected", "queue_requests"),
        ("rejected", "queue_groups"),
        ("rejected", "queue_rows"),
        ("rejected", "queue_bytes"),
        ("rejected", "predicted_late"),
        ("rejected", "no_instance"),
        ("expired", "queue_timeout"),
    }
)
"""Ends that more capacity would have prevented, whatever the request: docs/scaling.md counts them as offered."""


def _model(message: load.ModelLoad) -> ModelSignals:
    ended = refused = 0
    for each in message.requests:
        count = _count("requests", each.count)
        ended += count
        if (each.outcome, each.reason) in _REFUSED:
            refused += count
    queue = _optional(message, "queue_requests", _MOST_WAITING)
    executing = _optional(message, "executing_requests", _MOST_WAITING)
    loads = [_optional(each, "load_ratio", MOST_LOAD) for each in message.devices]
    ages = (
        _optional(message, "oldest_waiting_age_seconds", _MOST_SECONDS),
        _optional(message, "oldest_executing_age_seconds", _MOST_SECONDS),
    )
    recent = message.recent if message.HasField("recent") else None
    return ModelSignals(
        ended=ended,
        refused=refused,
        pending=bool(queue or executing or any(ages)),
        serves=message.state == "ready",
        has_target=message.HasField("target_seconds"),
        load=_highest(loads),
        queue_requests=queue,
        queue_rows=_optional(message, "queue_rows", _MOST_WAITING),
        backlog_s=_optional(message, "queue_backlog_seconds", _MOST_SECONDS),
        executing=executing,
        oldest_s=_highest(ages),
        oldest_ratio=_optional(message, "oldest_request_target_ratio", _MOST_SECONDS),
        requests_per_s=None
        if recent is None
        else _number("requests_per_second", recent.requests_per_second, _MOST_RATE),
        offered_rows_per_s=_optional(message, "offered_rows_per_second", _MOST_RATE),
        devices=tuple(_text(each.device) for each in message.devices),
    )


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _optional(
    message: load.ReplicaLoad
    | load.ModelLoad
    | load.DeviceLoad
    | load.ModelDeviceLoad
    | load.DeviceStatistics,
    name: str,
    most: float,
) -> float | None:
    return _number(name, getattr(message, name), most) if message.HasField(name) else None


def _number(name: str, value: float, most: float) -> float:
    if not isfinite(value) or not 0 <= value <= most:
        raise UnbelievedError(Cause.NUMBER, f"{name} is {value:g}; possible: 0 to {most:g}")
    return float(value)


def _count(name: str, value: int) -> int:
    if not 0 <= value <= _MOST_COUNT:
        raise UnbelievedError(Cause.NUMBER, f"{name} is {value}; possible: 0 to {_MOST_COUNT}")
    return value


def _text(text: str) -> str:
    return on_one_line(text[:_LONGEST_TEXT])
