"""Metrics, statistics, event-loop lag and logs of the server.

- Recording: `model` counts what ends (requests, batches, loads), on the event loop's thread and
  without a lock; a request costs a few additions and bisections on plain integers.
- Scraping: `families` defines every metric once, and `parts` turn the counts into Prometheus samples
  at a scrape. Whatever else has metrics gives a part of its own to `Telemetry.add`. Gauges (queue ages and depths, a running execution) are asked for at that
  moment, so the age of a queue that stopped moving keeps growing.
- The event loop: `lag` measures how late timers run, `watchdog` logs what blocks the loop.

Nothing here decides anything: other packages call it, and it calls none of them back but through the
functions that `Telemetry` is given.
"""

from batcher.telemetry.collector import Telemetry
from batcher.telemetry.ended import EndedRequest, EndHooks
from batcher.telemetry.lag import probe_loop_lag
from batcher.telemetry.logs import configure_logging
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.parts import (
    GpusPart,
    HealthPoints,
    Part,
    RecordingPart,
    RepositoryPart,
    RepositoryPoints,
    TransportPart,
    TransportPoints,
    TritonPart,
)
from batcher.telemetry.reasons import AdmissionReason, ReloadResult, ReplyReason, UnreadReason
from batcher.telemetry.settings import ChangeResult, ChangeSource, SettingsTelemetry
from batcher.telemetry.stamps import Stamps
from batcher.telemetry.statistics import BatchStatistics, Duration, ModelStatisticsSnapshot
from batcher.telemetry.watchdog import LoopWatchdog

__all__ = [
    "AdmissionReason",
    "BatchStatistics",
    "ChangeResult",
    "ChangeSource",
    "Duration",
    "EndHooks",
    "EndedRequest",
    "GpusPart",
    "HealthPoints",
    "LoopWatchdog",
    "ModelStatisticsSnapshot",
    "ModelTelemetry",
    "Part",
    "RecordingPart",
    "ReloadResult",
    "ReplyReason",
    "RepositoryPart",
    "RepositoryPoints",
    "SettingsTelemetry",
    "Stamps",
    "Telemetry",
    "TransportPart",
    "TransportPoints",
    "TritonPart",
    "UnreadReason",
    "configure_logging",
    "probe_loop_lag",
]
