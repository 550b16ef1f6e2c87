"""A load report as a JSON document and as a message: the same fields, and only what is known.

With dozens of models, encoding takes a millisecond or two: it is done once for all who ask for the same
report, a few models in each iteration of the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import fields, replace
from math import isfinite
from operator import attrgetter
from typing import Any, Final, TypeAlias

from batcher.errors import encodable
from batcher.protocol import load
from batcher.telemetry.devices import DeviceStatistics
from batcher.telemetry.load.computation import SLICE_MODELS
from batcher.telemetry.load.report import (
    DeviceLoad,
    LoadReport,
    ModelDeviceLoad,
    ModelLoad,
    RecentLoad,
    ReplicaLoad,
    RequestCount,
)

_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_Fields: TypeAlias = tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]
_PLAIN: Final = (int, bool, dict)


def document(part: Any) -> dict[str, Any]:
    """A report, or a part of one, as JSON has it: what is not known is absent, and so is what is no number.

    The names are those of the messages in `batcher.protocol.load`, which take these documents as arguments.
    """
    names, values_of = FIELDS[type(part)]
    found: dict[str, Any] = {}
    for name, value in zip(names, values_of(part), strict=True):
        kind = type(value)
        if value is None or (kind is float and not isfinite(value)):
            continue
        if kind is str:
            found[name] = value if value.isascii() else encodable(value)
        elif kind is float or kind in _PLAIN:
            found[name] = value
        elif kind is tuple:
            found[name] = [document(each) for each in value]
        elif kind in FIELDS:
            found[name] = document(value)
        else:
            found[name] = str(value) if isinstance(value, str) else dict(value)
    return found


def json_parts(report: LoadReport) -> Iterator[bytes]:
    """The report as JSON in one line, in parts of `SLICE_MODELS` models; joined they are the whole."""
    text = _JSON.encode(document(replace(report, models=())))
    before, after = text.split('"models":[]')
    yield f'{before}"models":['.encode()
    for models in _slices(report):
        comma = "" if models[0] is report.models[0] else ","
        text = ",".join([_JSON.encode(document(model)) for model in models])
        yield f"{comma}{text}".encode()
    yield f"]{after}\n".encode()


def message_parts(report: LoadReport) -> Iterator[bytes]:
    """The report as a serialized `batcher.load.v1.LoadReport`, in the same parts."""
    yield load.LoadReport(**document(replace(report, models=()))).SerializeToString()
    for models in _slices(report):
        # Serialized messages that are joined are one message, whose repeated fields have all elements.
        part = load.LoadReport(models=[load.ModelLoad(**document(model)) for model in models])
        yield part.SerializeToString()


class SharedEncoding:
    """The current report in one encoding, made once for all who ask for it meanwhile."""

    def __init__(
        self,
        report: Callable[[], Awaitable[LoadReport]],
        parts: Callable[[LoadReport], Iterator[bytes]],
    ) -> None:
        self._report = report
        self._parts = parts
        self._of: LoadReport | None = None
        self._encoding: asyncio.Task[bytes] | None = None

    async def current(self) -> bytes:
        """The report of this moment (see `LoadReporter.current`), encoded. Raises what encoding raises."""
        report = await self._report()
        if self._encoding is None or self._of is not report:
            self._of = report
            self._encoding = asyncio.create_task(self._encoded(report), name="load-report")
        # A caller that gives up must not cancel it for the others.
        return await asyncio.shield(self._encoding)

    async def _encoded(self, report: LoadReport) -> bytes:
        parts = []
        for part in self._parts(report):
            parts.append(part)
            await asyncio.sleep(0)
        return b"".join(parts)


def _slices(report: LoadReport) -> Iterator[tuple[ModelLoad, ...]]:
    models = report.models
    for start in range(0, len(models), SLICE_MODELS):
        yield models[start : start + SLICE_MODELS]


def _fields_of(kind: type[Any]) -> _Fields:
    names = [
        field.name
        for field in fields(kind)
        if kind is not DeviceStatistics or field.name != "device"
    ]
    return tuple([_RENAMED.get(name, name) for name in names]), attrgetter(*names)


_RENAMED: Final = {
    "age_s": "age_seconds",
    "utilization": "utilization_ratio",
    "sm_utilization": "sm_utilization_ratio",
    "sm_occupancy": "sm_occupancy_ratio",
    "tensor_activity": "tensor_activity_ratio",
    "memory_bandwidth": "memory_bandwidth_ratio",
    "memory_used": "memory_used_bytes",
    "memory_total": "memory_total_bytes",
    "power_w": "power_watts",
    "energy_j": "energy_joules",
    "temperature_c": "temperature_celsius",
    "sm_clock_hz": "sm_clock_hertz",
    "memory_clock_hz": "memory_clock_hertz",
}
"""Fields that a report calls by the names of their metrics."""

FIELDS: Final[dict[type[Any], _Fields]] = {
    kind: _fields_of(kind)
    for kind in (
        LoadReport,
        ReplicaLoad,
        ModelLoad,
        RequestCount,
        RecentLoad,
        ModelDeviceLoad,
        DeviceLoad,
        DeviceStatistics,
    )
}
"""Each part of a report: the names of its fields, and what gives their values."""
