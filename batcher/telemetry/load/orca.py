"""A load report in the form of ORCA, which load balancers read (docs/load-report.md has the table).

`application_utilization` is `desired_ratio`. `cpu_utilization` stays 0: a balancer that finds no application
utilization takes that instead, and the processor says nothing of a model on a device. So a replica whose load
is not known yet has no weight of its own, instead of a wrong one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from math import isfinite
from typing import Final, TypeAlias

from batcher.errors import encodable
from batcher.protocol import orca
from batcher.telemetry.load.report import DeviceLoad, LoadReport, ModelLoad

Trailers: TypeAlias = tuple[tuple[str, str | bytes], ...]

FORMAT_KEY: Final = "endpoint-load-metrics-format"
"""Metadata by which a caller asks for a report, and says in which form: one of `TrailerFormat`."""
TEXT_KEY: Final = "endpoint-load-metrics"
BINARY_KEY: Final = "endpoint-load-metrics-bin"

_OF_MODELS: Final = (
    "oldest_waiting_age_seconds",
    "oldest_executing_age_seconds",
    "oldest_request_target_ratio",
    "queue_requests",
    "queue_rows",
    "queue_backlog_seconds",
    "executing_requests",
)
"""Fields of the load report that are metrics, under the same names."""
_OF_DEVICES: Final = ("load_ratio", "headroom_ratio", "batch_fill_ratio", "duty_cycle_ratio")


class TrailerFormat(StrEnum):
    """How a report is written in trailing metadata."""

    BIN = "bin"
    """A serialized message under `BINARY_KEY`: what gRPC's balancers and Envoy read."""
    TEXT = "text"
    """Pairs of name and value under `TEXT_KEY`."""
    JSON = "json"
    """An object under `TEXT_KEY`."""


def whole(report: LoadReport) -> orca.OrcaLoadReport:
    """The server with all its models and devices, whose metrics have labels as Prometheus writes them."""
    message = _server(report)
    named = message.named_metrics
    for model in report.models:
        labels = f'{{model="{_escaped(model.model)}",version="{_escaped(model.version)}"}}'
        for name, value in _values(model, _OF_MODELS):
            named[f"{name}{labels}"] = value
    for device in report.devices:
        labels = f'{{device="{_escaped(device.device)}"}}'
        for name, value in _values(device, _OF_DEVICES):
            named[f"{name}{labels}"] = value
    return message


def whole_parts(report: LoadReport) -> Iterator[bytes]:
    """`whole` serialized, in one part."""
    yield whole(report).SerializeToString()


def of_model(report: LoadReport, model: str, version: str) -> orca.OrcaLoadReport:
    """The server and one of its models, whose metrics have no labels; an unknown one has none.

    An empty version is the one that is there, or the last of several.
    """
    message = _server(report)
    for each in report.models:
        if each.model == model and version in ("", each.version):
            message.named_metrics.update(_values(each, _OF_MODELS))
    return message


class OrcaTrailers:
    """The current report as trailing metadata; each form of it is made once for all callers meanwhile."""

    def __init__(self, report: Callable[[], LoadReport]) -> None:
        self._report = report
        self._of: LoadReport | None = None
        self._known: set[tuple[str, str]] = set()
        self._made: dict[tuple[str, str, str], Trailers] = {}

    def current(self, form: TrailerFormat, model: str, version: str) -> Trailers:
        """The server and the model that the call asked for; see `of_model`.

        Its size does not depend on how many models there are: clients take only some kilobytes of metadata.
        """
        report = self._report()
        if report is not self._of:
            self._of, self._made = report, {}
            self._known = {(m.model, version) for m in report.models for version in ("", m.version)}
        # Callers must not be able to fill the memory with names.
        key = (form, model, version) if (model, version) in self._known else (form, "", "")
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = _trailers(form, of_model(report, *key[1:]))
        return found


def _trailers(form: TrailerFormat, message: orca.OrcaLoadReport) -> Trailers:
    if form is TrailerFormat.BIN:
        return ((BINARY_KEY, message.SerializeToString()),)
    plain = {
        field: getattr(message, field)
        for field in ("application_utilization", "mem_utilization", "rps_fractional", "eps")
        if getattr(message, field)
    }
    named = dict(sorted(message.named_metrics.items()))
    if form is TrailerFormat.JSON:
        return ((TEXT_KEY, f"JSON {json.dumps(plain | {'named_metrics': named})}"),)
    pairs = plain | {f"named_metrics.{name}": value for name, value in named.items()}
    return (
        (TEXT_KEY, f"TEXT {', '.join([f'{name}={value:.10g}' for name, value in pairs.items()])}"),
    )


def _server(report: LoadReport) -> orca.OrcaLoadReport:
    replica = report.replica
    message = orca.OrcaLoadReport()
    if replica.desired_ratio is not None and isfinite(replica.desired_ratio):
        message.application_utilization = replica.desired_ratio
    if replica.buffered_limit_bytes:
        message.mem_utilization = min(1.0, replica.buffered_bytes / replica.buffered_limit_bytes)
    recent = [model.recent for model in report.models if model.recent is not None]
    own = sum([each.caller_errors_per_second for each in recent])
    # Of requests that are wrong a server can answer any number, and no other server would answer them better.
    message.rps_fractional = max(0.0, sum([each.requests_per_second for each in recent]) - own)
    message.named_metrics["ready"] = float(replica.ready)
    failed = sum([each.refusals_per_second + each.errors_per_second for each in recent])
    message.eps = max(0.0, failed - own)
    return message


def _values(part: ModelLoad | DeviceLoad, fields: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    prefix = "" if isinstance(part, ModelLoad) else "device_"
    for field in fields:
        value = getattr(part, field)
        if value is not None and isfinite(value):
            yield prefix + field, value


def _escaped(text: str) -> str:
    return encodable(text).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
