"""The load report: what this replica, its models and its devices carry, at one moment.

`report` has the values, `reporter` computes them in one place, at most every 100 ms however many ask. The
RPC, `/v1/load`, ORCA, the live view and `batcher top` all show this report; none computes a number of its
own. What is not known is None, never 0.
"""

from batcher.telemetry.load.computation import LoadSources
from batcher.telemetry.load.duty_cycles import DutyCycles
from batcher.telemetry.load.encoding import SharedEncoding, document, json_parts, message_parts
from batcher.telemetry.load.identity import Identity
from batcher.telemetry.load.orca import FORMAT_KEY, OrcaTrailers, TrailerFormat, whole, whole_parts
from batcher.telemetry.load.report import (
    DeviceLoad,
    LoadReport,
    ModelDeviceLoad,
    ModelLoad,
    RecentLoad,
    ReplicaLoad,
    RequestCount,
)
from batcher.telemetry.load.reporter import LoadReporter

__all__ = [
    "FORMAT_KEY",
    "DeviceLoad",
    "DutyCycles",
    "Identity",
    "LoadReport",
    "LoadReporter",
    "LoadSources",
    "ModelDeviceLoad",
    "ModelLoad",
    "OrcaTrailers",
    "RecentLoad",
    "ReplicaLoad",
    "RequestCount",
    "SharedEncoding",
    "TrailerFormat",
    "document",
    "json_parts",
    "message_parts",
    "whole",
    "whole_parts",
]
